package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(t testing.TB, dir string) string {
	t.Helper()
	ents, err := os.ReadDir(dir)
	must(t, err)
	var s []string
	for _, e := range ents {
		s = append(s, e.Name())
	}
	return strings.Join(s, " ")
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "state.json")
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for _, c := range []struct {
		data string
		perm fs.FileMode
	}{{"one", 0o644}, {"", 0o600}, {strings.Repeat("x", 1<<20), 0o640}} {
		must(t, WriteFile(file, []byte(c.data), c.perm))
		b, err := os.ReadFile(file)
		must(t, err)
		st, err := os.Stat(file)
		must(t, err)
		if string(b) != c.data || st.Mode() != c.perm {
			t.Errorf("holds %d bytes with %s", len(b), st.Mode())
		}
	}
	if err := WriteNew(file, []byte("two"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	must(t, WriteNew(filepath.Join(dir, "new"), []byte("two"), 0o600))
	for _, err := range []error{WriteFile(filepath.Join(dir, "absent", "x"), nil, 0o600), WriteNew(filepath.Join(dir, "absent", "x"), nil, 0o600)} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), filepath.Join(dir, "absent", "x")) {
			t.Error(err)
		}
	}
	// It stays what it is when it can't be replaced.
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	if err := WriteFile(filepath.Join(dir, "d"), []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if got := names(t, dir); got != "d new state.json" {
		t.Error("left over:", got)
	}
}

func TestWriteFileInTheWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, WriteFile("x", []byte("1"), 0o600))
	must(t, Rename("x", "y"))
	must(t, MkdirAll("a/b", 0o700))
	must(t, Remove("y", "trash"))
	if got := names(t, "."); got != "a trash" {
		t.Error(got)
	}
}

// Readers see one whole content after another, whoever writes.
func TestReadersNeverSeeHalf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	must(t, WriteFile(file, bytes.Repeat([]byte{'a'}, 5000), 0o600))
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for range 30 {
				if err := WriteFile(file, bytes.Repeat([]byte{byte('a' + i)}, 5000+i), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for {
		b, err := os.ReadFile(file)
		must(t, err)
		if len(b) != 5000+int(b[0]-'a') || strings.Trim(string(b), string(b[0])) != "" {
			t.Fatalf("%d bytes that begin with %q", len(b), b[0])
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestOneOfManyMakesANewFile(t *testing.T) {
	for name, rename := range map[string]func(string, string) error{"renameat2": renameNoReplace, "link": renameByLink} {
		file := filepath.Join(t.TempDir(), "key")
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := ""
		for i := range 8 {
			wg.Go(func() {
				mine := fmt.Sprint(i)
				err := write(file, []byte(mine), 0o600, rename)
				if errors.Is(err, fs.ErrExist) {
					return
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if won != "" {
					t.Errorf("%s: both %s and %s made it", name, won, mine)
				}
				won = mine
			})
		}
		wg.Wait()
		if b, err := os.ReadFile(file); err != nil || string(b) != won {
			t.Errorf("%s: %q, %v, want %q", name, b, err, won)
		}
	}
}

func TestRenameByLink(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	must(t, os.Mkdir(at("d"), 0o700))
	must(t, os.WriteFile(at("f"), nil, 0o600))
	must(t, renameByLink(at("d"), at("e")))
	must(t, renameByLink(at("f"), at("g")))
	if err := renameByLink(at("e"), at("g")); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if err := renameByLink(at("g"), at("e")); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if err := renameByLink(at("absent"), at("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if got := names(t, dir); got != "e g" {
		t.Error(got)
	}
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	must(t, MkdirAll(at("open/1/data"), 0o755))
	must(t, MkdirAll(at("sealed"), 0o755))
	must(t, Rename(at("open/1"), at("sealed/1")))
	if names(t, at("sealed/1")) != "data" || names(t, at("open")) != "" {
		t.Error("not moved")
	}
	for _, p := range [][2]string{{"open/absent", "sealed/2"}, {"sealed/1", "absent/1"}, {"sealed/1", "sealed/1/data/x"}} {
		if err := Rename(at(p[0]), at(p[1])); err == nil {
			t.Errorf("renamed %s to %s", p[0], p[1])
		}
	}
	if names(t, at("sealed")) != "1" {
		t.Error("a rename that failed moved it")
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	must(t, MkdirAll(dir, 0o700))
	must(t, MkdirAll(filepath.Join(dir, "a/b/../c/"), 0o750))
	st, err := os.Stat(filepath.Join(dir, "a/c"))
	if err != nil || st.Mode() != fs.ModeDir|0o750 {
		t.Error(st, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	for _, p := range []string{"f", "f/x"} {
		if err := MkdirAll(filepath.Join(dir, p), 0o700); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v", p, err)
		}
	}
	must(t, os.Symlink("a", filepath.Join(dir, "link")))
	must(t, MkdirAll(filepath.Join(dir, "link/d"), 0o700)) // a data directory may be a link
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	if err := MkdirAll(filepath.Join(dir, "dangling"), 0o700); err == nil {
		t.Error("a dangling link is a directory")
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := MkdirAll(filepath.Join(dir, "x/y/z"), 0o700); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestSyncOfWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	if err := SyncDir(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := SyncFile(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	file := filepath.Join(dir, "f")
	must(t, os.WriteFile(file, nil, 0o600))
	if err := SyncDir(file); err == nil {
		t.Error("a file was synced as a directory")
	}
	must(t, SyncFile(file))
	must(t, os.Symlink(dir, filepath.Join(dir, "link")))
	must(t, SyncDir(filepath.Join(dir, "link")))
	if err := SyncFile(filepath.Join(dir, "link")); err == nil {
		t.Error("a link was followed")
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	trash := at(".removing")
	tree := func(n string) string {
		must(t, MkdirAll(at(n+"/data/deep"), 0o755))
		must(t, os.WriteFile(at(n+"/data/deep/f"), []byte("x"), 0o400))
		must(t, os.Symlink("/etc/passwd", at(n+"/data/link")))
		return at(n)
	}
	must(t, Remove(tree("1"), trash))
	must(t, Remove(at("1"), trash)) // gone already
	must(t, Remove(at("absent/1"), trash))
	must(t, os.WriteFile(at("file"), nil, 0o600))
	must(t, Remove(at("file"), trash))
	// Directories that their owner may not write or search.
	tree("2")
	must(t, os.Chmod(at("2/data/deep"), 0o500))
	must(t, os.Chmod(at("2/data"), 0o000))
	must(t, Remove(at("2"), trash))
	if got := names(t, dir) + "|" + names(t, trash); got != ".removing|" {
		t.Error(got)
	}
	// The same name again and again, before the trash is emptied.
	for range 3 {
		if name, err := MoveToTrash(tree("3"), trash); err != nil || filepath.Dir(name) != trash {
			t.Error(name, err)
		}
	}
	if name, err := MoveToTrash(at("3"), trash); err != nil || name != "" {
		t.Error(name, err)
	}
	if got := len(strings.Fields(names(t, trash))); got != 3 {
		t.Error(got)
	}
	must(t, EmptyTrash(trash))
	if got := names(t, trash); got != "" {
		t.Error(got)
	}
	must(t, EmptyTrash(at("absent")))
	// A trash that can't be made leaves everything where it is.
	tree("4")
	must(t, os.WriteFile(at("plain"), nil, 0o600))
	if err := Remove(at("4"), at("plain")); err == nil || errors.Is(err, ErrLeftover) {
		t.Error(err)
	}
	if _, err := os.Stat(at("4/data/deep/f")); err != nil {
		t.Error(err)
	}
}

func TestRemoveOnAnotherFileSystem(t *testing.T) {
	const shm = "/dev/shm"
	dir := t.TempDir()
	var a, b unix.Stat_t
	if unix.Stat(shm, &a) != nil || unix.Stat(dir, &b) != nil || a.Dev == b.Dev {
		t.Skip("needs two file systems")
	}
	other, err := os.MkdirTemp(shm, "cis490")
	must(t, err)
	defer os.RemoveAll(other)
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
	if err := Remove(filepath.Join(dir, "f"), filepath.Join(other, "trash")); !errors.Is(err, unix.EXDEV) {
		t.Error(err)
	}
	if names(t, dir) != "f" {
		t.Error("gone")
	}
}

func TestLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(file)
	must(t, err)
	if _, err := Lock(file); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Error(err)
	}
	must(t, unlock())
	unlock, err = Lock(file)
	must(t, err)
	must(t, unlock())
	if _, err := Lock(filepath.Join(t.TempDir(), "absent", "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	must(t, os.Remove(file))
	must(t, os.Symlink("/etc/hostname", file))
	if _, err := Lock(file); err == nil {
		t.Error("a link was followed")
	}
}

// The kernel drops the lock with the process, however that ends.
func TestLockOfAKilledProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	if os.Getenv("DURABLE_LOCK") != "" {
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestHelperHoldsLock$")
	c.Env = append(os.Environ(), "DURABLE_LOCK="+file)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	b := make([]byte, 6)
	if _, err := out.Read(b); err != nil || string(b) != "locked" {
		t.Fatalf("%q %v", b, err)
	}
	if _, err := Lock(file); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", c.Process.Pid)) {
		t.Error(err)
	}
	must(t, c.Process.Kill())
	c.Wait()
	unlock, err := Lock(file)
	must(t, err)
	must(t, unlock())
}

func TestHelperHoldsLock(t *testing.T) {
	file := os.Getenv("DURABLE_LOCK")
	if file == "" {
		return // runs as the child of the test above
	}
	_, err := Lock(file)
	must(t, err)
	fmt.Print("locked")
	time.Sleep(time.Minute)
}

func TestOpenBeneath(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, "root", n) }
	must(t, MkdirAll(at("data/sub"), 0o755))
	must(t, os.WriteFile(at("data/sub/f"), []byte("inside"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("outside"), 0o600))
	must(t, os.Symlink("sub/f", at("data/link")))
	must(t, os.Symlink("sub", at("data/dirlink")))
	must(t, os.Symlink("../secret", at("escape")))
	must(t, os.Symlink("/etc/passwd", at("abs")))
	must(t, syscall.Mkfifo(at("fifo"), 0o600))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	t.Chdir(at("."))
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "sock"}))
	root, err := os.Open(at("."))
	must(t, err)
	defer root.Close()

	f, err := OpenBeneath(root, "data/sub/f")
	must(t, err)
	b := make([]byte, 10)
	if n, _ := f.Read(b); string(b[:n]) != "inside" || f.Name() != at("data/sub/f") {
		t.Errorf("%q %s", b[:n], f.Name())
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Error(flags, err)
	}
	must(t, f.Close())
	must(t, func() error { f, err := OpenBeneath(root, "data/./sub//f"); f.Close(); return err }())

	for rel, want := range map[string]error{
		"data/link": ErrNotRegular, "data/dirlink/f": ErrNotRegular, "escape": ErrNotRegular, "abs": ErrNotRegular,
		"fifo": ErrNotRegular, "sock": ErrNotRegular, "data": ErrNotRegular, ".": ErrNotRegular,
		"../secret": unix.EXDEV, "/etc/passwd": unix.EXDEV, "data/../../secret": unix.EXDEV, "data/sub/../sub/f": unix.EXDEV,
		"absent": fs.ErrNotExist, "": fs.ErrNotExist, "data/sub/f/x": unix.ENOTDIR, "a\x00b": unix.EINVAL,
	} {
		f, err := OpenBeneath(root, rel)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", rel, err, want)
		}
	}
	// /proc/self/fd/N is a magic link.
	proc, err := os.Open("/proc/self")
	must(t, err)
	defer proc.Close()
	if f, err := OpenBeneath(proc, fmt.Sprintf("fd/%d", root.Fd())); err == nil {
		f.Close()
		t.Error("a magic link was followed")
	}
}

// Whatever the name, a file that opens lies in the tree.
func TestOpenBeneathStaysBeneath(t *testing.T) {
	dir := t.TempDir()
	inside := map[uint64]bool{}
	for i, n := range []string{"a", "d/a", "d/d/a"} {
		p := filepath.Join(dir, "root", n)
		must(t, MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte{byte(i)}, 0o600))
		var st unix.Stat_t
		must(t, unix.Stat(p, &st))
		inside[st.Ino] = true
		must(t, os.Symlink("../..", filepath.Join(filepath.Dir(p), "up")))
	}
	must(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o600))
	root, err := os.Open(filepath.Join(dir, "root"))
	must(t, err)
	defer root.Close()
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SampledFrom([]string{"a", "d", "..", ".", "", "up", "root"})).Draw(t, "parts")
		f, err := OpenBeneath(root, strings.Join(parts, "/"))
		if err != nil {
			return
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || !inside[st.Ino] {
			t.Fatalf("%q leads out (%v)", parts, err)
		}
	})
}
