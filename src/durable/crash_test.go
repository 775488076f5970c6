package durable

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cis490/src/powercut"
)

func mount(t *testing.T) (*powercut.FS, string) {
	t.Helper()
	mnt := t.TempDir()
	f, err := powercut.Mount(t.TempDir(), mnt)
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

// crash cuts the power after each thing that was done, several times over, and has
// check look at what is left. promised says whether Mark(promise) was reached.
func crash(t *testing.T, f *powercut.FS, check func(dir string, promised func(string) bool) error) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "after")
	for n := range f.Ops() + 1 {
		for seed := range uint64(8) {
			must(t, os.Mkdir(dst, 0o755))
			promises, err := f.Crash(n, rand.New(rand.NewPCG(uint64(n), seed)), dst)
			must(t, err)
			if err := check(dst, func(p string) bool { return slices.Contains(promises, p) }); err != nil {
				t.Errorf("power cut after %d of %d, seed %d: %v", n, f.Ops(), seed, err)
			}
			must(t, os.RemoveAll(dst))
		}
	}
}

func content(path string) string {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "absent"
	}
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestWriteFileOutlivesAPowerCut(t *testing.T) {
	f, dir := mount(t)
	long := strings.Repeat("long content ", 20_000)
	must(t, WriteFile(filepath.Join(dir, "f"), []byte("one"), 0o600))
	f.Mark("one")
	must(t, WriteFile(filepath.Join(dir, "f"), []byte(long), 0o600))
	f.Mark("two")
	must(t, WriteNew(filepath.Join(dir, "key"), []byte("secret"), 0o600))
	f.Mark("key")
	if err := WriteNew(filepath.Join(dir, "key"), []byte("other"), 0o600); err == nil {
		t.Error("overwritten")
	}
	crash(t, f, func(dir string, promised func(string) bool) error {
		got := content(filepath.Join(dir, "f"))
		switch {
		case promised("two") && got != long, promised("one") && got != "one" && got != long, got != "absent" && got != "one" && got != long:
			return fmt.Errorf("f holds %.30q (%d bytes)", got, len(got))
		}
		key := content(filepath.Join(dir, "key"))
		if key != "secret" && (promised("key") || key != "absent") {
			return fmt.Errorf("key holds %q", key)
		}
		return nil
	})
}

func TestMkdirAllAndRenameOutliveAPowerCut(t *testing.T) {
	f, dir := mount(t)
	at := func(n string) string { return filepath.Join(dir, n) }
	must(t, MkdirAll(at("sealed"), 0o755))
	must(t, MkdirAll(at("open/1/data"), 0o755))
	f.Mark("made")
	must(t, WriteFile(at("open/1/data/f"), []byte("data"), 0o600))
	f.Mark("written")
	must(t, Rename(at("open/1"), at("sealed/1")))
	f.Mark("sealed")
	crash(t, f, func(dir string, promised func(string) bool) error {
		open, sealed := content(filepath.Join(dir, "open/1/data/f")), content(filepath.Join(dir, "sealed/1/data/f"))
		_, err := os.Stat(filepath.Join(dir, "open/1/data"))
		switch {
		case promised("made") && !promised("written") && err != nil:
			return err
		case promised("written") && !(open == "data" && sealed == "absent" || open == "absent" && sealed == "data"):
			return fmt.Errorf("open holds %q, sealed %q", open, sealed)
		case promised("sealed") && sealed != "data":
			return fmt.Errorf("sealed holds %q", sealed)
		}
		return nil
	})
}

// Under its own name a tree is whole or gone, and the trash can be emptied
// whatever is left in it.
func TestRemoveOutlivesAPowerCut(t *testing.T) {
	f, dir := mount(t)
	at := func(n string) string { return filepath.Join(dir, n) }
	must(t, MkdirAll(at("sealed/1/data"), 0o755))
	for _, n := range []string{"a", "data/b", "data/c"} {
		must(t, WriteFile(at("sealed/1/"+n), []byte("data"), 0o600))
	}
	f.Mark("there")
	must(t, Remove(at("sealed/1"), at(".removing")))
	f.Mark("removed")
	crash(t, f, func(dir string, promised func(string) bool) error {
		got := content(filepath.Join(dir, "sealed/1/a")) + " " + content(filepath.Join(dir, "sealed/1/data/b")) + " " + content(filepath.Join(dir, "sealed/1/data/c"))
		if promised("there") && got != "data data data" && got != "absent absent absent" {
			return errors.New("half a tree is left: " + got)
		}
		if _, err := os.Stat(filepath.Join(dir, "sealed/1")); promised("removed") && err == nil {
			return errors.New("it came back")
		}
		if promised("there") && !promised("removed") && got == "absent absent absent" {
			if ents, err := os.ReadDir(filepath.Join(dir, "sealed")); err != nil || len(ents) != 0 {
				return fmt.Errorf("left under its name: %v, %v", ents, err)
			}
		}
		if err := EmptyTrash(filepath.Join(dir, ".removing")); err != nil {
			return err
		}
		if ents, err := os.ReadDir(filepath.Join(dir, ".removing")); err == nil && len(ents) != 0 {
			return fmt.Errorf("the trash still holds %v", ents)
		}
		return nil
	})
}

// Whichever fsync fails, the caller hears of it, no file is fsynced again, and
// the state is the one before or the one after.
func TestFailedFsync(t *testing.T) {
	actions := map[string]struct {
		do          func(dir string) error
		before, end string // content of f and of g
		synced      string // in this order
	}{
		"WriteFile": {func(dir string) error { return WriteFile(filepath.Join(dir, "f"), []byte("new"), 0o600) }, "old absent", "new absent", ".f.tmp ."},
		"WriteNew":  {func(dir string) error { return WriteNew(filepath.Join(dir, "g"), []byte("new"), 0o600) }, "old absent", "old new", ".g.tmp ."},
		"Rename":    {func(dir string) error { return Rename(filepath.Join(dir, "f"), filepath.Join(dir, "sub/f")) }, "old absent", "absent absent", "sub ."},
		"MkdirAll":  {func(dir string) error { return MkdirAll(filepath.Join(dir, "x/y"), 0o700) }, "old absent", "old absent", ". x"},
		"Remove":    {func(dir string) error { return Remove(filepath.Join(dir, "f"), filepath.Join(dir, "trash")) }, "old absent", "absent absent", ". trash ."},
		"SyncFile":  {func(dir string) error { return SyncFile(filepath.Join(dir, "f")) }, "old absent", "old absent", "f"},
	}
	for name, a := range actions {
		t.Run(name, func(t *testing.T) {
			for fail := 0; ; fail++ {
				f, dir := mount(t)
				must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
				must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("old"), 0o600))
				var asked []string
				f.FailSync(func(path string) syscall.Errno {
					asked = append(asked, path)
					if len(asked) == fail+1 {
						return syscall.EIO
					}
					return 0
				})
				err := a.do(dir)
				f.FailSync(nil)
				now := content(filepath.Join(dir, "f")) + " " + content(filepath.Join(dir, "g"))
				if len(asked) <= fail {
					// No fsync was left to fail.
					if err != nil || now != a.end {
						t.Errorf("without a failure: %v, %s", err, now)
					}
					for i, p := range asked {
						asked[i], _, _ = strings.Cut(p, "-")
					}
					if got := strings.Join(asked, " "); got != a.synced {
						t.Errorf("fsynced %s, want %s", got, a.synced)
					}
					return
				}
				if !errors.Is(err, syscall.EIO) {
					t.Errorf("fsync %d failed and the caller hears %v", fail, err)
				}
				if now != a.before && now != a.end {
					t.Errorf("fsync %d failed: neither before nor after: %s", fail, now)
				}
				if n := len(asked); slices.Contains(asked[fail+1:], asked[fail]) {
					t.Errorf("fsync of %s was tried again after it failed (%d in all)", asked[fail], n)
				}
				if left := names(t, dir); strings.Contains(left, ".tmp-") {
					t.Errorf("fsync %d failed: left over %s", fail, left)
				}
			}
		})
	}
}

// On a full disk nothing changes, nothing is left over, and removing still works.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv("DURABLE_FULL_DISK"); dir != "" {
		fullDisk(t, dir)
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	c.Env = append(os.Environ(), "DURABLE_FULL_DISK="+t.TempDir())
	// A mount of its own, so that nobody else sees it and it goes with the process.
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if uid := os.Geteuid(); uid != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	out, err := c.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("needs a mount namespace: ", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func fullDisk(t *testing.T, dir string) {
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,nr_inodes=40"))
	at := func(n string) string { return filepath.Join(dir, n) }
	must(t, WriteFile(at("f"), []byte("old"), 0o600))
	must(t, MkdirAll(at("sealed/1"), 0o700))
	must(t, WriteFile(at("sealed/1/f"), []byte("data"), 0o600))
	must(t, MkdirAll(at("trash"), 0o700))
	before := names(t, dir)
	big := make([]byte, 300<<10)
	if err := WriteFile(at("f"), big, 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("full: %v", err)
	}
	if err := WriteNew(at("g"), big, 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("full: %v", err)
	}
	if got := content(at("f")); got != "old" || names(t, dir) != before {
		t.Errorf("f holds %.20q, there is %s", got, names(t, dir))
	}
	// Not one inode more.
	for i := 0; ; i++ {
		if err := os.WriteFile(at(fmt.Sprint("fill", i)), nil, 0o600); err != nil {
			break
		}
	}
	before = names(t, dir)
	for what, err := range map[string]error{
		"WriteFile": WriteFile(at("f"), []byte("new"), 0o600), "WriteNew": WriteNew(at("g"), nil, 0o600), "MkdirAll": MkdirAll(at("x/y"), 0o700),
		"Remove without a trash": Remove(at("sealed/1"), at("trash2")),
	} {
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s without inodes: %v", what, err)
		}
	}
	if content(at("f")) != "old" || content(at("sealed/1/f")) != "data" || names(t, dir) != before {
		t.Errorf("there is %s", names(t, dir))
	}
	must(t, Remove(at("sealed/1"), at("trash")))
	if names(t, at("sealed"))+names(t, at("trash")) != "" {
		t.Error("not removed")
	}
	must(t, WriteFile(at("f"), []byte("new"), 0o600))
	if content(at("f")) != "new" {
		t.Error("not written")
	}
	// Read-only.
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	for what, err := range map[string]error{
		"WriteFile": WriteFile(at("f"), nil, 0o600), "MkdirAll": MkdirAll(at("x"), 0o700), "Rename": Rename(at("f"), at("h")), "Remove": Remove(at("f"), at("trash")),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s on a read-only file system: %v", what, err)
		}
	}
	if content(at("f")) != "new" {
		t.Error("changed")
	}
}

// Killed at any moment, a writer leaves one whole content.
func TestKilledWriter(t *testing.T) {
	if file := os.Getenv("DURABLE_WRITER"); file != "" {
		for i := 0; ; i++ {
			must(t, WriteFile(file, []byte(strings.Repeat(fmt.Sprintf("%09d\n", i), 3000)), 0o600))
		}
	}
	file := filepath.Join(t.TempDir(), "f")
	for range 10 {
		c := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
		c.Env = append(os.Environ(), "DURABLE_WRITER="+file)
		must(t, c.Start())
		for i := 0; i < 2000; i++ {
			if _, err := os.Stat(file); err == nil {
				break
			}
			sleepMillisecond()
		}
		for range rand.IntN(20) {
			sleepMillisecond()
		}
		must(t, c.Process.Kill())
		c.Wait()
		b, err := os.ReadFile(file)
		must(t, err)
		if len(b) != 30_000 || strings.Repeat(string(b[:10]), 3000) != string(b) {
			t.Fatalf("%d bytes, beginning with %q", len(b), b[:min(10, len(b))])
		}
	}
}

func sleepMillisecond() { unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil) }
