package store

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"cis490/src/code"
)

// logFiles are the segments that a store has.
func logFiles(t testing.TB, dir string) (names []string) {
	t.Helper()
	for _, n := range files(t, filepath.Join(dir, incomingName, commitName)) {
		if strings.HasPrefix(n, walPrefix) {
			names = append(names, n)
		}
	}
	return names
}

// crashed is a copy of a store's directory as a crash would leave it.
func crashed(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "crashed")
	if out, err := exec.Command("cp", "-a", dir, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// TestLostFilesComeOutOfTheLog: after a crash the files that were acknowledged and
// not flushed yet may be gone, empty, or hold anything.
func TestLostFilesComeOutOfTheLog(t *testing.T) {
	for name, lose := range map[string]func(string) error{
		"gone":    os.Remove,
		"empty":   func(p string) error { return os.Truncate(p, 0) },
		"zeros":   func(p string) error { return os.WriteFile(p, make([]byte, 100), 0o640) },
		"nothing": func(string) error { return nil },
	} {
		for _, which := range []string{"archive", "sidecar", "both"} {
			t.Run(name+"/"+which, func(t *testing.T) {
				dir := scratch(t)
				s := openStore(t, dir, systemCalls())
				var items []Item
				for i := range 5 {
					items = append(items, item(fmt.Sprintf("h%d", i%2), start.AddDate(0, 0, i%3), 100+i))
				}
				receipts := map[string]any{}
				for _, it := range items {
					receipts[it.Facts.ID.String()] = mustCommit(t, s, it, code.Stored)
				}
				copied := crashed(t, dir)
				for _, it := range items {
					at := filepath.Join(copied, episodesName, day(it.Facts.Host, it.Facts.Started))
					if which != "sidecar" {
						if err := lose(filepath.Join(at, archiveName(it.Facts.ID))); err != nil {
							t.Fatal(err)
						}
					}
					if which != "archive" {
						if err := lose(filepath.Join(at, sidecarName(it.Facts.ID))); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := os.Remove(filepath.Join(copied, catalogueName)); err != nil {
					t.Fatal(err)
				}
				again := openStore(t, copied, systemCalls())
				for _, it := range items {
					if r := mustCommit(t, again, it, code.AlreadyStored); r != receipts[it.Facts.ID.String()] {
						t.Errorf("receipt %+v, want %+v", r, receipts[it.Facts.ID.String()])
					}
					b, err := os.ReadFile(again.ArchivePath(it.Facts))
					if err != nil || !bytes.Equal(b, it.Archive) {
						t.Errorf("the archive has %d bytes, %v; want %d", len(b), err, len(it.Archive))
					}
				}
				if n := checkWhole(t, again); n != len(items) {
					t.Errorf("%d stored, want %d", n, len(items))
				}
			})
		}
	}
}

// TestOwedIsMadeAnew: when the flush of files fails that the log vouches for, whatever
// became of them, they are made anew, at once or as soon as the disk lets them.
func TestOwedIsMadeAnew(t *testing.T) {
	for _, kind := range []string{"", "write", "fsync", "rename"} {
		for times := range 4 {
			for _, whole := range []bool{false, true} {
				if times == 0 != (kind == "") {
					continue
				}
				t.Run(fmt.Sprintf("%s %d syncfs=%v", kind, times, whole), func(t *testing.T) {
					f := new(faults)
					sys := f.system()
					if whole && sys.syncfs == nil {
						t.Skip("this kernel's syncfs doesn't report errors")
					}
					if !whole {
						sys.syncfs = nil
					}
					sys.always = whole
					it := item("h1", start, 5000)
					var s *Store
					var mu sync.Mutex
					stage := 0
					first := func(call func(int) error) func(int) error {
						return func(fd int) error {
							mu.Lock()
							defer mu.Unlock()
							switch {
							case stage == 0 && s != nil && os.Truncate(s.ArchivePath(it.Facts), 0) == nil:
								stage = 1
								return unix.EIO // the kernel has lost what it could not write, and says so
							case stage == 1 && kind != "":
								f.set(kind, 0, times, unix.EIO, false)
								fallthrough
							case stage == 1:
								stage = 2
							}
							return call(fd)
						}
					}
					sys.fsync, sys.syncfs = first(sys.fsync), first(sys.syncfs)
					if !whole {
						sys.syncfs = nil
					}
					dir := scratch(t)
					opened := openStore(t, dir, sys)
					mu.Lock()
					s = opened
					mu.Unlock()
					mustCommit(t, s, item("h1", start, 10), code.Stored)
					mustCommit(t, s, it, code.Stored)
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					f.set("", 0, 0, nil, false)
					if stage < 2 {
						t.Errorf("it ended at stage %d", stage)
					}
					again := openStore(t, dir, systemCalls())
					b, err := os.ReadFile(again.ArchivePath(it.Facts))
					if err != nil || !bytes.Equal(b, it.Archive) {
						t.Errorf("the archive has %d bytes, %v; want %d", len(b), err, len(it.Archive))
					}
					if n := checkWhole(t, again); n != 2 {
						t.Errorf("%d stored, want 2", n)
					}
				})
			}
		}
	}
}

// TestLogIsUsedAgain: it does not grow with what went through it, and at the end it goes.
func TestLogIsUsedAgain(t *testing.T) {
	dir := scratch(t)
	s := openStore(t, dir, systemCalls())
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := range 20 {
				mustCommit(t, s, item(fmt.Sprintf("h%d", c), start.AddDate(0, 0, i%3), 700_000), code.Stored)
			}
		})
	}
	wg.Wait()
	if n := len(logFiles(t, dir)); n == 0 || n > maxFreeLogs+8 {
		t.Errorf("%d segments for 56 MB", n)
	}
	copied := crashed(t, dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left := files(t, filepath.Join(dir, incomingName, commitName)); len(left) != 0 {
		t.Errorf("after the end there are %q", left)
	}
	if n := checkWhole(t, openStore(t, copied, systemCalls())); n != 80 {
		t.Errorf("%d stored, want 80", n)
	}
}

// TestReplacedIsNotBroughtBack: what the log has of a copy that was damaged and has been
// replaced since is of no account.
func TestReplacedIsNotBroughtBack(t *testing.T) {
	dir := scratch(t)
	s := openStore(t, dir, systemCalls())
	it := item("h1", start, 3000)
	mustCommit(t, s, it, code.Stored)
	if err := os.Remove(s.ArchivePath(it.Facts)); err != nil {
		t.Fatal(err)
	}
	if err := s.catchUp(context.Background()); err != nil {
		t.Fatal(err)
	}
	it.Archive = it.Archive[:2000]
	want := mustCommit(t, s, it, code.Stored)
	again := openStore(t, crashed(t, dir), systemCalls())
	if got := mustCommit(t, again, it, code.AlreadyStored); got != want {
		t.Errorf("receipt %+v, want %+v", got, want)
	}
	if b, err := os.ReadFile(again.ArchivePath(it.Facts)); err != nil || !bytes.Equal(b, it.Archive) {
		t.Errorf("the archive has %d bytes: %v", len(b), err)
	}
}

// TestNoRoomForTheLog: then small episodes are stored as large ones are.
func TestNoRoomForTheLog(t *testing.T) {
	sys := systemCalls()
	write := sys.write
	sys.write = func(fd int, p []byte, at int64) (int, error) {
		if len(p) == walSegment {
			return 0, unix.ENOSPC
		}
		return write(fd, p, at)
	}
	dir := scratch(t)
	s := openStore(t, dir, sys)
	for i := range 3 {
		mustCommit(t, s, item("h1", start.AddDate(0, 0, i), 100), code.Stored)
	}
	if n := logFiles(t, dir); len(n) != 0 {
		t.Errorf("%q were left", n)
	}
	// Nor do the directories stay open that were opened for what would have been in it.
	deadline := time.Now().Add(10 * time.Second)
	for open := 1; open > 0; time.Sleep(10 * time.Millisecond) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		open = 0
		for _, fd := range fds {
			if at, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && at == filepath.Join(dir, episodesName, "h1") {
				open++
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("a directory of hosts is open %d times", open)
		}
	}
	if n := checkWhole(t, s); n != 3 {
		t.Errorf("%d stored, want 3", n)
	}
}

// TestSegment: what was written is read, up to the first record that is not whole, and never what
// a former use left behind.
func TestSegment(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var b []byte
		var ends []int
		from := rapid.Uint64Range(1, 1<<40).Draw(rt, "from")
		write := func(from uint64, n int) {
			for i := range n {
				e := entry{Item: fuzzItem()}
				parts, err := encodeRecord(e.intent(), rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(rt, "sidecar"), rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(rt, "archive"), []byte("table"))
				if err != nil {
					rt.Fatal(err)
				}
				number(parts[0], from+uint64(i), from)
				b = append(b, bytes.Join(parts, nil)...)
				ends = append(ends, len(b))
			}
		}
		n := rapid.IntRange(0, 6).Draw(rt, "records")
		write(from, n)
		mine := len(b)
		write(rapid.Uint64Range(0, from-1).Draw(rt, "former")/2, rapid.IntRange(0, 1).Draw(rt, "stale"))
		got := decodeSegment(b)
		if n > 0 && len(got) != n {
			rt.Fatalf("%d records, want %d", len(got), n)
		}
		if n == 0 {
			return
		}
		bit := rapid.IntRange(0, 8*mine-1).Draw(rt, "bit")
		whole := 0
		for whole < n && ends[whole] <= bit/8 {
			whole++
		}
		b[bit/8] ^= 1 << (bit % 8)
		if got := decodeSegment(b); len(got) != whole {
			rt.Fatalf("%d records, want the %d before the flipped bit", len(got), whole)
		}
	})
}
