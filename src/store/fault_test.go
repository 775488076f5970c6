package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/wire"
)

// faults makes system calls fail, and watches that no file is flushed again
// after a flush of it has failed.
type faults struct {
	mu     sync.Mutex
	kind   string
	after  int // calls of that kind that succeed before; negative: none fails
	times  int // how many fail then
	err    error
	really bool // the call is made all the same, then reported as failed

	spoilt map[inode]bool // regular files whose flush failed
	again  []inode        // of those, the ones flushed again
}

// inode tells files apart also when their numbers are used again.
type inode struct {
	n    uint64
	born unix.StatxTimestamp
}

func (f *faults) set(kind string, after, times int, err error, really bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.after, f.times, f.err, f.really = kind, after, times, err, really
}

func (f *faults) at(kind string, call func() error) error {
	f.mu.Lock()
	fails := kind == f.kind && f.times > 0 && f.after <= 0
	if kind == f.kind {
		if fails {
			f.times--
		}
		f.after--
	}
	err, really := f.err, f.really
	f.mu.Unlock()
	if !fails {
		return call()
	}
	if really {
		_ = call()
	}
	return err
}

func (f *faults) system() system {
	old := systemCalls()
	sys := old
	f.spoilt = map[inode]bool{}
	sys.write = func(fd int, p []byte, o int64) (n int, err error) {
		err = f.at("write", func() error { n, err = old.write(fd, p, o); return err })
		return n, err
	}
	flush := func(fd int, call func(int) error) error {
		var st unix.Statx_t
		regular := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME|unix.STATX_TYPE, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
		this := inode{st.Ino, st.Btime}
		err := f.at("fsync", func() error { return call(fd) })
		f.mu.Lock()
		defer f.mu.Unlock()
		if regular && f.spoilt[this] {
			f.again = append(f.again, this)
		}
		if regular && err != nil {
			f.spoilt[this] = true
		}
		return err
	}
	sys.fsync = func(fd int) error { return flush(fd, old.fsync) }
	sys.fdatasync = func(fd int) error { return flush(fd, old.fdatasync) }
	if old.syncfs != nil {
		sys.syncfs = func(fd int) error { return f.at("syncfs", func() error { return old.syncfs(fd) }) }
	}
	sys.rename = func(od int, on string, nd int, nn string) error {
		return f.at("rename", func() error { return old.rename(od, on, nd, nn) })
	}
	sys.unlink = func(d int, n string) error { return f.at("unlink", func() error { return old.unlink(d, n) }) }
	sys.mkdir = func(d int, n string) error { return f.at("mkdir", func() error { return old.mkdir(d, n) }) }
	return sys
}

// TestOneFault lets each system call fail once, in turn, while one episode
// after another is committed: the caller hears of it, nothing half-done stays,
// and the next attempt succeeds.
func TestOneFault(t *testing.T) {
	for _, kind := range []string{"write", "fsync", "syncfs", "rename", "mkdir"} {
		for _, c := range []struct {
			err  error
			want code.Code
		}{{unix.EIO, code.ReceiverError}, {unix.ENOSPC, code.ReceiverFull}, {unix.EDQUOT, code.ReceiverFull}} {
			for _, upload := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/upload=%v", kind, c.err, upload), func(t *testing.T) {
					f := new(faults)
					sys := f.system()
					if kind == "fsync" {
						sys.syncfs = nil // all of them by fsync
					}
					sys.always = kind == "syncfs"
					if sys.always && sys.syncfs == nil {
						t.Skip("this kernel's syncfs doesn't report errors")
					}
					s := openStore(t, scratch(t), sys)
					mustCommit(t, s, item("h1", start, 100), code.Stored)
					failed, stored := 0, 1
					for n := 0; n < 20; n++ {
						it := item("h1", start.AddDate(0, 0, n), 100)
						path := filepath.Join(s.IncomingDir(), "up")
						retry := it
						if upload {
							if err := os.WriteFile(path, it.Archive, 0o600); err != nil {
								t.Fatal(err)
							}
							it.Archive, it.ArchiveFile, it.Frames = nil, "up", oneFrame(100)
						}
						f.set(kind, n, 1, c.err, n%2 == 1)
						_, _, err := s.Commit(context.Background(), it)
						f.set("", 0, 0, nil, false)
						stored++
						if err == nil {
							continue
						}
						failed++
						wantCode(t, err, c.want)
						if _, err := os.Lstat(s.ArchivePath(it.Facts)); !errors.Is(err, fs.ErrNotExist) {
							t.Errorf("fault %d left an archive: %v", n, err)
						}
						if upload {
							// The caller's file is as it came, or gone if its flush failed.
							if fi, err := os.Stat(path); err == nil && fi.Size() != 100 {
								t.Errorf("fault %d left an upload of %d bytes", n, fi.Size())
							} else if err != nil && kind != "fsync" {
								t.Errorf("fault %d took the upload away: %v", n, err)
							}
						}
						mustCommit(t, s, retry, code.Stored)
					}
					// A small one is flushed in the log, and its files later.
					if failed == 0 && (upload || kind != "syncfs") {
						t.Error("no commit failed")
					}
					if len(f.again) > 0 {
						t.Errorf("%d files were flushed again after a failed flush", len(f.again))
					}
					if n := checkWhole(t, s); n != stored {
						t.Errorf("%d stored, want %d", n, stored)
					}
				})
			}
		}
	}
}

// TestUploadFlushFails: when the flush of an upload fails, through whichever
// descriptor, nothing is acknowledged, and the file is gone: nobody knows what is in it.
func TestUploadFlushFails(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own descriptor=%v", own), func(t *testing.T) {
			sys := systemCalls()
			fsync, upload, fails := sys.fsync, "", 0
			sys.fsync = func(fd int) error {
				if at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && at == upload {
					if fails--; fails == 0 {
						return unix.EIO
					}
				}
				return fsync(fd)
			}
			s := openStore(t, scratch(t), sys)
			upload = filepath.Join(s.IncomingDir(), "up")
			it := item("h1", start, 100)
			try := it
			if err := os.WriteFile(upload, it.Archive, 0o600); err != nil {
				t.Fatal(err)
			}
			try.Archive, try.ArchiveFile, try.Frames = nil, "up", oneFrame(100)
			fails = 1
			if own {
				f, err := os.OpenFile(upload, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				try.ArchiveFD, fails = f, 2 // the second of its flushes
			}
			_, _, err := s.Commit(context.Background(), try)
			wantCode(t, err, code.ReceiverError)
			if _, err := os.Lstat(upload); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the upload is there still: %v", err)
			}
			if n := checkWhole(t, s); n != 0 {
				t.Errorf("%d stored", n)
			}
			mustCommit(t, s, it, code.Stored)
		})
	}
}

// TestUndoFails: the flush of the names fails and so does taking them away.
// Nothing may come of it but an error, then a clean second attempt.
func TestUndoFails(t *testing.T) {
	var broken atomic.Bool
	day := ""
	sys := systemCalls()
	sys.syncfs = nil
	fsync, unlink := sys.fsync, sys.unlink
	sys.fsync = func(fd int) error {
		if at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || at == day && broken.Load() {
			return unix.EIO
		}
		return fsync(fd)
	}
	sys.unlink = func(d int, n string) error {
		if strings.HasSuffix(n, ".json") && broken.Load() {
			return unix.EIO
		}
		return unlink(d, n)
	}
	s := openStore(t, scratch(t), sys)
	mustCommit(t, s, item("h1", start, 100), code.Stored)
	it := item("h1", start, 100)
	day = filepath.Dir(s.ArchivePath(it.Facts))
	broken.Store(true)
	upload := it
	if err := os.WriteFile(filepath.Join(s.IncomingDir(), "up"), it.Archive, 0o600); err != nil {
		t.Fatal(err)
	}
	upload.Archive, upload.ArchiveFile, upload.Frames = nil, "up", oneFrame(100)
	_, _, err := s.Commit(context.Background(), upload)
	wantCode(t, err, code.ReceiverError)
	_, found, err := s.Find(context.Background(), "h1", it.Facts.ID, start)
	wantCode(t, err, code.ReceiverError)
	if found {
		t.Error("an episode is found that is not known to be on the disk")
	}
	broken.Store(false)
	if _, found, err = s.Find(context.Background(), "h1", it.Facts.ID, start); found || err != nil {
		t.Errorf("Find after it could be undone: %v %v", found, err)
	}
	mustCommit(t, s, it, code.Stored)
	if n := checkWhole(t, s); n != 2 {
		t.Errorf("%d stored, want 2", n)
	}
}

// TestFailedFlushTaints: an episode that was being written while the flush of
// others failed is refused: the error may have been about its files.
func TestFailedFlushTaints(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	it := item("h1", start, 100)
	e := &entry{Item: it, done: make(chan struct{}), failures: s.failures.Load(), archive: -1, sidecar: -1}
	e.row = catalog.Row{Facts: it.Facts}
	if err := s.prepare(e, noWorker{}); err != nil {
		t.Fatal(err)
	}
	s.failures.Add(1)
	s.group.join(e)
	<-e.done
	if e.err == nil {
		t.Error("it was stored")
	}
	if n := checkWhole(t, s); n != 0 {
		t.Errorf("%d stored", n)
	}
}

// TestStoreModel runs random commits with random faults and restarts against
// what a store must be: a map that only grows.
func TestStoreModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(memory(), "store-model-")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		f := new(faults)
		sys := f.system()
		if rapid.Bool().Draw(rt, "fsync only") {
			sys.syncfs = nil
		}
		reopen := func() *Store {
			s, err := open(dir, Options{Log: slog.New(slog.DiscardHandler)}, sys)
			if err != nil {
				rt.Fatal(err)
			}
			return s
		}
		s := reopen()
		defer func() { _ = s.Close() }()
		acked := map[episode.ID]wire.Receipt{}
		var items []Item
		for range 12 {
			items = append(items, item(fmt.Sprintf("h%d", rapid.IntRange(0, 1).Draw(rt, "host")), start.AddDate(0, 0, rapid.IntRange(0, 2).Draw(rt, "day")), rapid.IntRange(1, 9000).Draw(rt, "size")))
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"commit", "commit", "commit", "reopen", "reindex"}).Draw(rt, "step") {
			case "reopen":
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				s = reopen()
			case "reindex":
				if rep, err := s.Reindex(context.Background(), nil); err != nil || rep.Added+rep.Changed+rep.Missing+rep.Damaged > 0 {
					rt.Fatalf("Reindex: %+v, %v", rep, err)
				}
			case "commit":
				kind := rapid.SampledFrom([]string{"", "write", "fsync", "syncfs", "rename", "unlink", "mkdir"}).Draw(rt, "fault")
				f.set(kind, rapid.IntRange(0, 8).Draw(rt, "after"), rapid.IntRange(1, 3).Draw(rt, "times"), rapid.SampledFrom([]error{unix.EIO, unix.ENOSPC}).Draw(rt, "err"), rapid.Bool().Draw(rt, "really"))
				var wg sync.WaitGroup
				var mu sync.Mutex
				for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(items)-1), 1, 5).Draw(rt, "items") {
					wg.Go(func() {
						r, c, err := s.Commit(context.Background(), items[i])
						mu.Lock()
						defer mu.Unlock()
						id := items[i].Facts.ID
						old, known := acked[id]
						switch {
						case err != nil:
							if got, _ := code.Of(err); got != code.ReceiverFull && got != code.ReceiverError {
								rt.Errorf("Commit: %v", err)
							}
						case known && r != old:
							rt.Errorf("two receipts for one episode: %+v, %+v", old, r)
						case c != code.Stored && c != code.AlreadyStored:
							rt.Errorf("Commit: %v", c)
						default:
							acked[id] = r
						}
					})
				}
				wg.Wait()
				f.set("", 0, 0, nil, false)
			}
			for _, it := range items {
				want, known := acked[it.Facts.ID]
				got, found, err := s.Find(context.Background(), it.Facts.Host, it.Facts.ID, it.Facts.Started)
				if err != nil || known && (!found || got != want) || !known && found {
					rt.Fatalf("Find = %+v, %v, %v; acknowledged: %v %+v", got, found, err, known, want)
				}
			}
		}
		if len(f.again) > 0 {
			rt.Errorf("%d files were flushed again after a failed flush", len(f.again))
		}
		if n := checkWhole(quiet{t, rt}, s); n != len(acked) {
			rt.Errorf("%d stored, %d acknowledged", n, len(acked))
		}
	})
}

// memory is a file system without a disk, if there is one: tests that don't
// cut the power need none, and go through a thousand flushes.
func memory() string {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(memory(), "store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// quiet lets the checks of a *testing.T be made of a rapid test.
type quiet struct {
	testing.TB
	rt *rapid.T
}

func (q quiet) Errorf(format string, a ...any) { q.rt.Errorf(format, a...) }
func (q quiet) Error(a ...any)                 { q.rt.Error(a...) }
func (q quiet) Fatal(a ...any)                 { q.rt.Fatal(a...) }
func (q quiet) Fatalf(format string, a ...any) { q.rt.Fatalf(format, a...) }

// TestDiskFull fills a real file system.
func TestDiskFull(t *testing.T) {
	mnt := t.TempDir()
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=3m"); err != nil {
		t.Skip("can't mount a small file system: ", err)
	}
	defer func() {
		if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	s := openStore(t, filepath.Join(mnt, "store"), systemCalls())
	defer s.Close()
	var acked []Item
	full := 0
	for i := 0; i < 200 && full < 5; i++ {
		it := item("h1", start, 60_000)
		_, _, err := s.Commit(context.Background(), it)
		if err == nil {
			acked = append(acked, it)
			continue
		}
		wantCode(t, err, code.ReceiverFull)
		full++
	}
	if full == 0 || len(acked) < 10 {
		t.Fatalf("%d stored, %d times full", len(acked), full)
	}
	// Something else takes what is left, so that the catalogue can't grow either.
	ballast := filepath.Join(mnt, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 4<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	_, _, err := s.Commit(context.Background(), item("h1", start, 10))
	wantCode(t, err, code.ReceiverFull)
	if err := unix.Mount("", mnt, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	it := item("h1", start, 60_000)
	mustCommit(t, s, it, code.Stored)
	acked = append(acked, it)
	for _, it := range acked {
		if _, found, err := s.Find(context.Background(), "h1", it.Facts.ID, start); !found || err != nil {
			t.Errorf("acknowledged episode %s: %v %v", it.Facts.ID, found, err)
		}
	}
	if n := checkWhole(t, s); n != len(acked) {
		t.Errorf("%d stored, %d acknowledged", n, len(acked))
	}
}

// TestDiskFullAtStart: the disk is full when a store is opened whose last
// commit didn't get into the catalogue.
func TestDiskFullAtStart(t *testing.T) {
	mnt := t.TempDir()
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=3m"); err != nil {
		t.Skip("can't mount a small file system: ", err)
	}
	defer func() {
		if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	ctx := context.Background()
	dir := filepath.Join(mnt, "store")
	s := openStore(t, dir, systemCalls())
	it := item("h1", start, 1000)
	r := mustCommit(t, s, it, code.Stored)
	if err := s.catchUp(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.cat.Load().Remove(ctx, it.Facts.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	in, err := intent{Items: []intentItem{{Host: "h1", Episode: it.Facts.ID, Day: day("h1", start)}}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, incomingName, commitName, intentPrefix+"3")
	if err := os.WriteFile(left, in, 0o600); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(mnt, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 4<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	s = openStore(t, dir, systemCalls())
	defer s.Close()
	if got, found, err := s.Find(ctx, "h1", it.Facts.ID, start); got != r || !found || err != nil {
		t.Errorf("Find on a full disk: %+v %v %v", got, found, err)
	}
	_, _, err = s.Commit(ctx, item("h1", start, 10))
	wantCode(t, err, code.ReceiverFull)
	if _, err := os.Stat(left); err != nil {
		t.Errorf("the intent is gone before what it says is in the catalogue: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		mustCommit(t, s, item("h1", start, 10), code.Stored)
	}
	if n := checkWhole(t, s); n != 6 {
		t.Errorf("%d stored, want 6", n)
	}
}

// TestCatalogueLost: missing, damaged in several ways, or cut short in being
// rebuilt, it comes back from the sidecars, and never as an empty one.
func TestCatalogueLost(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, path string){
		"missing": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"truncated": func(t *testing.T, path string) {
			fi, err := os.Stat(path)
			if err == nil {
				err = os.Truncate(path, fi.Size()/2/4096*4096)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"emptied": func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
		"zeroes":  func(t *testing.T, path string) { overwrite(t, path, 0, make([]byte, 4096)) },
		"garbage": func(t *testing.T, path string) { overwrite(t, path, 4096, []byte(strings.Repeat("garbage!", 4096))) },
		"text":    func(t *testing.T, path string) { overwrite(t, path, 0, []byte("not a database, that's for sure")) },
		"half rebuilt": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			c, err := catalog.Open(path) // as a process leaves it that dies when it has just begun
			if err == nil {
				err = c.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := scratch(t)
			s := openStore(t, dir, systemCalls())
			receipts := map[episode.ID]wire.Receipt{}
			var items []Item
			for i := range 150 {
				it := item(fmt.Sprintf("h%d", i%3), start.AddDate(0, 0, i%4), 50)
				items = append(items, it)
			}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for part := range slices.Chunk(items, 10) {
				wg.Go(func() {
					for _, it := range part {
						r := mustCommit(t, s, it, code.Stored)
						mu.Lock()
						receipts[it.Facts.ID] = r
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			lose(t, filepath.Join(dir, catalogueName))
			var log strings.Builder
			s, err := open(dir, Options{ReceiverVersion: "later", Log: slog.New(slog.NewTextHandler(&log, nil))}, systemCalls())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			<-s.rebuild.done()
			if n := checkWhole(t, s); n != len(items) {
				t.Errorf("%d in the catalogue, want %d", n, len(items))
			}
			for _, it := range items {
				if r, found, err := s.Find(context.Background(), it.Facts.Host, it.Facts.ID, it.Facts.Started); err != nil || !found || r != receipts[it.Facts.ID] {
					t.Errorf("Find = %+v %v %v, want %+v", r, found, err, receipts[it.Facts.ID])
				}
			}
			if !strings.Contains(log.String(), "rebuilt") {
				t.Errorf("the log doesn't say so: %s", log.String())
			}
		})
	}
}

func overwrite(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestCatalogueDamagedInUse: it breaks while the store is open.
func TestCatalogueDamagedInUse(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, systemCalls())
	var items []Item
	for i := range 60 {
		it := item("h1", start.AddDate(0, 0, i%4), 50)
		mustCommit(t, s, it, code.Stored)
		items = append(items, it)
	}
	if err := s.catchUp(context.Background()); err != nil {
		t.Fatal(err)
	}
	// Fold the log in, so that readers go to the file; then spoil all but its first page.
	c := s.cat.Load()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, catalogueName)
	c, err := catalog.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	s.cat.Store(c)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, 4096, []byte(strings.Repeat("garbage!", int(fi.Size()-4096)/8)))
	deadline := time.Now().Add(10 * time.Second)
	for _, it := range items {
		for {
			_, c, err := s.Commit(context.Background(), it)
			if err == nil && c == code.AlreadyStored {
				break
			}
			if err == nil {
				t.Fatalf("Commit of a stored episode: %v", c)
			}
			if got, _ := code.Of(err); got != code.ReceiverBusy && got != code.ReceiverError {
				t.Fatalf("Commit while the catalogue is damaged: %v", err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("still not rebuilt: %v", err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if n := checkWhole(t, s); n != len(items) {
		t.Errorf("%d in the catalogue, want %d", n, len(items))
	}
}

// TestReindexFinds what the catalogue and the store say differently.
func TestReindexFinds(t *testing.T) {
	ctx := context.Background()
	s := openStore(t, t.TempDir(), systemCalls())
	var items []Item
	for i := range 6 {
		it := item("h1", start.AddDate(0, 0, i%2), 50)
		mustCommit(t, s, it, code.Stored)
		items = append(items, it)
	}
	if err := s.catchUp(ctx); err != nil {
		t.Fatal(err)
	}
	c := s.cat.Load()
	sidecar := func(i int) string { return strings.TrimSuffix(s.ArchivePath(items[i].Facts), ".tar.zst") + ".json" }
	if err := c.Remove(ctx, items[0].Facts.ID); err != nil { // lost by the catalogue
		t.Fatal(err)
	}
	row, _, err := c.Lookup(ctx, items[1].Facts.ID)
	if err != nil {
		t.Fatal(err)
	}
	row.Facts.Size++ // false in the catalogue
	if _, changed, err := c.Replace(ctx, []catalog.Row{row}); err != nil || changed != 1 {
		t.Fatal(changed, err)
	}
	for _, p := range []string{sidecar(2), s.ArchivePath(items[2].Facts)} { // lost by the store
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(s.ArchivePath(items[3].Facts), 10); err != nil { // damaged
		t.Fatal(err)
	}
	var seen int64
	rep, err := s.Reindex(ctx, func(n int64) { seen = n })
	if err != nil {
		t.Fatal(err)
	}
	if rep.Episodes != 4 || rep.Added != 1 || rep.Changed != 1 || rep.Missing != 1 || rep.Damaged != 1 || len(rep.Faults) != 2 || seen != 4 {
		t.Errorf("report %+v, progress to %d", rep, seen)
	}
	for i, want := range []bool{true, true, false, true, true, true} { // what is damaged stays listed: it was acknowledged
		if _, found, err := s.Lookup(ctx, items[i].Facts.ID); found != want || err != nil {
			t.Errorf("episode %d: found %v, %v", i, found, err)
		}
	}
}

// TestFoundByPlace: an episode that only the catalogue has lost is found where
// it is; one that is damaged there too doesn't stand in the way of a new copy.
func TestFoundByPlace(t *testing.T) {
	ctx := context.Background()
	s := openStore(t, t.TempDir(), systemCalls())
	it := item("h1", start, 50)
	r := mustCommit(t, s, it, code.Stored)
	lose := func() {
		t.Helper()
		if err := s.catchUp(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.cat.Load().Remove(ctx, it.Facts.ID); err != nil {
			t.Fatal(err)
		}
	}
	lose()
	if got, found, err := s.Find(ctx, "h1", it.Facts.ID, start); got != r || !found || err != nil {
		t.Errorf("Find = %+v %v %v", got, found, err)
	}
	lose()
	if got := mustCommit(t, s, it, code.AlreadyStored); got != r {
		t.Errorf("receipt %+v, want %+v", got, r)
	}
	checkWhole(t, s)
	lose()
	if err := os.Truncate(s.ArchivePath(it.Facts), 7); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, it, code.Stored)
	aside := 0
	for _, f := range files(t, s.path(episodesName)) {
		if strings.Contains(f, ".damaged-") {
			aside++
			if err := os.Remove(s.path(episodesName, f)); err != nil {
				t.Error(err)
			}
		}
	}
	if aside != 2 {
		t.Errorf("%d files set aside, want archive and sidecar", aside)
	}
	if n := checkWhole(t, s); n != 1 {
		t.Errorf("%d stored, want 1", n)
	}
}

// TestReindexWhileCommitting: neither hides nor invents anything from the other.
func TestReindexWhileCommitting(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := 0; i < 5 || ctx.Err() == nil; i++ {
				mustCommit(t, s, item(fmt.Sprintf("h%d", c), start.AddDate(0, 0, i%3), 50), code.Stored)
			}
		})
	}
	for range 10 {
		rep, err := s.Reindex(context.Background(), nil)
		if err != nil || rep.Changed+rep.Missing+rep.Damaged > 0 {
			t.Errorf("Reindex: %+v, %v", rep, err)
		}
	}
	cancel()
	wg.Wait()
	checkWhole(t, s)
}

// TestWatched: a disk that hangs is a worker that doesn't report.
func TestWatched(t *testing.T) {
	hang := make(chan struct{})
	sys := systemCalls()
	var once sync.Once
	hung := make(chan struct{})
	hold := func() { once.Do(func() { close(hung) }); <-hang }
	fsync, syncfs := sys.fsync, sys.syncfs
	arm := false
	var mu sync.Mutex
	check := func() {
		mu.Lock()
		on := arm
		mu.Unlock()
		if on {
			hold()
		}
	}
	sys.fsync = func(fd int) error { check(); return fsync(fd) }
	if syncfs != nil {
		sys.syncfs = func(fd int) error { check(); return syncfs(fd) }
	}
	w := &watch{busy: map[string]int{}}
	s, err := open(t.TempDir(), Options{Log: slog.New(slog.DiscardHandler), Worker: w.worker}, sys)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	arm = true
	mu.Unlock()
	done := make(chan error)
	go func() {
		_, _, err := s.Commit(context.Background(), item("h1", start, 10))
		done <- err
	}()
	<-hung
	if b := w.names(); len(b) != 1 || b[0] != "store flush" {
		t.Errorf("while the disk hangs these are due to report: %q", b)
	}
	mu.Lock()
	arm = false
	mu.Unlock()
	close(hang)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if b := w.names(); len(b) != 0 {
		t.Errorf("after all these are still due to report: %q", b)
	}
}

type watch struct {
	mu   sync.Mutex
	busy map[string]int
}

func (w *watch) worker(name string) Worker { return &watched{w, name} }

func (w *watch) names() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := range w.busy {
		out = append(out, n)
	}
	return out
}

type watched struct {
	w    *watch
	name string
}

func (x *watched) Within(time.Duration) { x.w.mu.Lock(); x.w.busy[x.name]++; x.w.mu.Unlock() }
func (x *watched) Progress()            {}
func (x *watched) Idle()                { x.w.mu.Lock(); delete(x.w.busy, x.name); x.w.mu.Unlock() }
func (x *watched) Done()                { x.Idle() }
