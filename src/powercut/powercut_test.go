package powercut

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func mount(t *testing.T) (*FS, string) {
	t.Helper()
	mnt := t.TempDir()
	f, err := Mount(t.TempDir(), mnt)
	if err != nil {
		t.Skip("needs FUSE: ", err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return f, mnt
}

// after collects what the disk may hold at any point, as text.
func after(t *testing.T, f *FS, path string) map[string]bool {
	t.Helper()
	seen := map[string]bool{}
	for n := range f.Ops() + 1 {
		for seed := range uint64(20) {
			dst := t.TempDir()
			promises, err := f.Crash(n, rand.New(rand.NewPCG(uint64(n), seed)), dst)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(dst, path))
			got := string(b)
			if errors.Is(err, os.ErrNotExist) {
				got = "absent"
			} else if err != nil {
				t.Fatal(err)
			}
			seen[strings.ReplaceAll(got, "\x00", "0")+" "+strings.Join(promises, " ")] = true
		}
	}
	return seen
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

// The mistakes that programs make are seen: this is what the tool is for.
func TestForgetsWhatWasNotSynced(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    func(t *testing.T, f *FS, dir string)
		can   []string
		never []string
	}{
		{"nothing synced", func(t *testing.T, f *FS, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("data"), 0o644))
			f.Mark("done")
		}, []string{"absent done", " done", "0000 done", "data done", "absent "}, []string{"data0 done"}},
		{"only the file", func(t *testing.T, f *FS, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("data"), 0o644))
			flush(t, filepath.Join(dir, "a"))
			f.Mark("done")
		}, []string{"absent done", "data done"}, []string{" done", "0000 done", "da done"}},
		{"only the directory", func(t *testing.T, f *FS, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("data"), 0o644))
			flush(t, dir)
			f.Mark("done")
		}, []string{" done", "0000 done", "data done"}, []string{"absent done"}},
		{"both", func(t *testing.T, f *FS, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("data"), 0o644))
			flush(t, filepath.Join(dir, "a"))
			flush(t, dir)
			f.Mark("done")
		}, []string{"data done", "absent "}, []string{"absent done", " done", "0000 done"}},
		{"rename without fsync of the file", func(t *testing.T, f *FS, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("old"), 0o644))
			flush(t, filepath.Join(dir, "a"))
			flush(t, dir)
			must(t, os.WriteFile(filepath.Join(dir, "b"), []byte("new"), 0o644))
			must(t, os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "a")))
			flush(t, dir)
			f.Mark("done")
		}, []string{" done", "000 done", "new done", "old "}, []string{"absent done", "old done"}},
		{"rename between directories", func(t *testing.T, f *FS, dir string) {
			must(t, os.Mkdir(filepath.Join(dir, "x"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "x/b"), []byte("new"), 0o644))
			flush(t, filepath.Join(dir, "x/b"))
			flush(t, filepath.Join(dir, "x"))
			flush(t, dir)
			must(t, os.Rename(filepath.Join(dir, "x/b"), filepath.Join(dir, "a")))
			f.Mark("renamed")
			flush(t, dir)
			f.Mark("done")
		}, []string{"absent renamed", "new renamed", "new renamed done"}, []string{"absent renamed done", " renamed"}},
		{"unlink", func(t *testing.T, f *FS, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("old"), 0o644))
			flush(t, filepath.Join(dir, "a"))
			flush(t, dir)
			must(t, os.Remove(filepath.Join(dir, "a")))
			f.Mark("removed")
			flush(t, dir)
			f.Mark("done")
		}, []string{"old removed", "absent removed", "absent removed done"}, []string{"old removed done"}},
		{"truncated and written again", func(t *testing.T, f *FS, dir string) {
			a := filepath.Join(dir, "a")
			must(t, os.WriteFile(a, []byte("old"), 0o644))
			flush(t, a)
			flush(t, dir)
			f.Mark("first")
			must(t, os.WriteFile(a, []byte("new"), 0o644))
			must(t, os.Truncate(a, 2))
			must(t, os.Chmod(a, 0o600))
			flush(t, a)
			f.Mark("done")
		}, []string{"old first", " first", "new first", "ne first done"}, []string{"old first done", "absent first", "new first done"}},
		{"links", func(t *testing.T, f *FS, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "b"), []byte("data"), 0o644))
			flush(t, filepath.Join(dir, "b"))
			must(t, os.Link(filepath.Join(dir, "b"), filepath.Join(dir, "c")))
			must(t, os.Remove(filepath.Join(dir, "b")))
			must(t, os.Symlink("c", filepath.Join(dir, "a")))
			flush(t, dir)
			f.Mark("done")
			must(t, os.Remove(filepath.Join(dir, "c")))
		}, []string{"data done", "absent done", "absent "}, []string{" done"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, dir := mount(t)
			c.do(t, f, dir)
			seen := after(t, f, "a")
			for _, s := range c.can {
				if !seen[s] {
					t.Errorf("never shows %q, only %v", s, sorted(seen))
				}
			}
			for _, s := range c.never {
				if seen[s] {
					t.Errorf("shows %q", s)
				}
			}
		})
	}
}

func TestFailSync(t *testing.T) {
	f, dir := mount(t)
	must(t, os.Mkdir(filepath.Join(dir, "x"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "x/a"), []byte("data"), 0o644))
	var asked []string
	f.FailSync(func(path string) syscall.Errno {
		asked = append(asked, path)
		return syscall.EIO
	})
	for _, p := range []string{"x/a", "x", "."} {
		h, err := os.Open(filepath.Join(dir, p))
		must(t, err)
		if err := h.Sync(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", p, err)
		}
		h.Close()
	}
	f.FailSync(nil)
	if got := strings.Join(asked, " "); got != "x/a x ." {
		t.Error(got)
	}
	flush(t, dir)
}

// Programs that use more of the file system than it has fall back or are told.
func TestRestOfTheInterface(t *testing.T) {
	f, dir := mount(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, os.WriteFile(a, []byte("data"), 0o644))
	must(t, os.WriteFile(b, nil, 0o644))
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Error(err)
	}
	must(t, os.Remove(b))
	must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE))
	if err := unix.Renameat2(unix.AT_FDCWD, b, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err == nil {
		t.Error("exchange is offered")
	}
	src, err := os.Open(b)
	must(t, err)
	defer src.Close()
	dst, err := os.Create(a)
	must(t, err)
	defer dst.Close()
	if _, err := dst.ReadFrom(src); err != nil { // tries copy_file_range first
		t.Error(err)
	}
	if got, err := os.ReadFile(a); err != nil || string(got) != "data" {
		t.Error(string(got), err)
	}
	if err := unix.Fallocate(int(dst.Fd()), 0, 0, 4096); err != unix.EOPNOTSUPP {
		t.Error(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err == nil {
		t.Error("a FIFO is made and not recorded")
	}
	ents, err := os.ReadDir(dir)
	if err != nil || len(ents) != 2 {
		t.Error(ents, err)
	}
	must(t, os.RemoveAll(a))
	if f.Ops() == 0 {
		t.Error("nothing recorded")
	}
}
