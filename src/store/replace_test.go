package store

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cis490/src/code"
)

// Whichever system call fails while a damaged copy is replaced, once or from then
// on until the process is gone, the episode stays known, is marked as damaged
// as long as it is not whole, and the next attempt mends it.
func TestReplaceWithFaults(t *testing.T) {
	ctx := context.Background()
	it, _ := sealed(t)
	for _, kind := range []string{"write", "fsync", "rename", "unlink", "mkdir"} {
		for _, d := range []damage{damages[0], damages[6], damages[8]} {
			for _, upload := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/upload=%v", kind, d.name, upload), func(t *testing.T) {
					failed := 0
					for n := range 8 {
						for _, times := range []int{1, 1000} {
							if replaceWithFault(ctx, t, it, d, upload, kind, n, times) {
								failed++
							}
						}
					}
					if failed == 0 && kind != "unlink" && (kind != "mkdir" || d.name == "no directory") {
						t.Error("no replacement failed")
					}
				})
			}
		}
	}
}

func replaceWithFault(ctx context.Context, t *testing.T, it Item, d damage, upload bool, kind string, n, times int) (failed bool) {
	dir, err := os.MkdirTemp(memory(), "store-replace-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	f := new(faults)
	sys := f.system()
	sys.syncfs = nil
	reopen := func() *Store {
		s, err := open(dir, Options{Log: slog.New(slog.DiscardHandler)}, sys)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := reopen()
	defer func() { _ = s.Close() }()
	mustCommit(t, s, it, code.Stored)
	if err := s.catchUp(ctx); err != nil {
		t.Fatal(err)
	}
	d.do(t, s.ArchivePath(it.Facts), s.sidecarPath(it.Facts))
	if n%2 == 0 { // else it is found by Commit, or not at all
		if rep, _ := mustScrub(t, s, ScrubOptions{}); rep.Damaged != 1 {
			t.Fatalf("%+v", rep)
		}
	} else if d.name == damages[0].name {
		return false
	}
	try, path := it, filepath.Join(s.IncomingDir(), "up")
	if upload {
		if err := os.WriteFile(path, it.Archive, 0o600); err != nil {
			t.Fatal(err)
		}
		try.Archive, try.ArchiveFile = nil, "up"
	}
	f.set(kind, n, times, unix.EIO, n%3 == 1)
	_, _, err = s.Commit(ctx, try)
	known := func(when string) {
		t.Helper()
		row, found, lerr := s.Lookup(ctx, it.Facts.ID)
		if lerr != nil || !found || row.Facts != it.Facts {
			t.Fatalf("%s fault %d: after the %s: %v %v %+v", kind, n, when, found, lerr, row)
		}
		if _, _, verr := s.Verify(ctx, it.Facts.ID, nil); row.Damaged == "" && verr != nil && err == nil {
			t.Fatalf("%s fault %d: after the %s it passes for sound: %v", kind, n, when, verr)
		}
	}
	if times == 1 {
		f.set("", 0, 0, nil, false)
		known("fault")
	}
	_ = s.Close()
	f.set("", 0, 0, nil, false)
	s = reopen()
	known("restart")
	if fi, serr := os.Stat(path); err != nil && serr == nil && fi.Size() != int64(len(it.Archive)) {
		t.Errorf("%s fault %d left an upload of %d bytes", kind, n, fi.Size())
	}
	if _, c, err := s.Commit(ctx, it); err != nil || c != code.Stored && c != code.AlreadyStored {
		t.Fatalf("%s fault %d: the next attempt: %v %v", kind, n, c, err)
	}
	if rep, found := mustScrub(t, s, ScrubOptions{}); rep.Sound != 1 || rep.Damaged+rep.Unlisted+rep.Unread != 0 {
		t.Errorf("%s fault %d: %+v %+v", kind, n, rep, found)
	}
	if w, err := s.Damaged(ctx, "h1"); err != nil || w.Count != 0 {
		t.Errorf("%s fault %d: the host is told %+v, %v", kind, n, w, err)
	}
	return err != nil
}
