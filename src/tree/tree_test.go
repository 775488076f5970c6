package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWalkSeesWhatIsThereAndFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret"))
	write(t, filepath.Join(dir, "b"))
	write(t, filepath.Join(dir, "a/x"))
	write(t, filepath.Join(dir, "a.x"))
	write(t, filepath.Join(dir, "bad\xff/y"))
	write(t, filepath.Join(dir, "n\nl"))
	if err := os.Chmod(filepath.Join(dir, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(strings.Repeat("t", 1000), filepath.Join(dir, "long")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	when := time.Unix(-5, 123456789)
	if err := os.Chtimes(filepath.Join(dir, "b"), when, when); err != nil {
		t.Fatal(err)
	}

	root := open(t, dir)
	for range 2 { // the root's descriptor can be used again
		var got []string
		err := Walk(root, func(e *Entry) error {
			s := e.Kind() + " " + e.Path
			if e.Kind() == "symlink" {
				target, err := e.Target()
				if err != nil {
					return err
				}
				s += fmt.Sprintf(" -> %d", len(target))
			}
			if e.IsRegular() && e.Exec() {
				s += " x"
			}
			if e.Path == "b" && !e.ModTime().Equal(when) {
				t.Errorf("b is of %v", e.ModTime())
			}
			if e.Name() != filepath.Base(e.Path) {
				t.Errorf("%q is called %q", e.Path, e.Name())
			}
			got = append(got, s)
			return nil
		})
		want := []string{
			"directory a", "file a/x", "file a.x", "file b x", "directory bad\xff", "file bad\xff/y", fmt.Sprintf("symlink link -> %d", len(outside)),
			"symlink long -> 1000", "file n\nl", "fifo pipe", "socket sock",
		}
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Error(err, d)
		}
	}
}

func TestWalkSkipsAndStops(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"a/1", "a/2", "b/1", "c"} {
		write(t, filepath.Join(dir, p))
	}
	var got []string
	err := Walk(open(t, dir), func(e *Entry) error {
		got = append(got, e.Path)
		if e.Path == "a" {
			return SkipDir
		}
		return nil
	})
	if d := cmp.Diff([]string{"a", "b", "b/1", "c"}, got); err != nil || d != "" {
		t.Error(err, d)
	}
	stop := errors.New("stop")
	n := 0
	if err := Walk(open(t, dir), func(e *Entry) error { n++; return stop }); err != stop || n != 1 {
		t.Error(err, n)
	}
	if err := Walk(open(t, dir), func(e *Entry) error {
		if e.IsRegular() {
			return SkipDir
		}
		return nil
	}); !errors.Is(err, SkipDir) {
		t.Errorf("SkipDir for a file: %v", err)
	}
}

// What changes under the walk's feet leads nowhere else.
func TestWalkWhileTheTreeChanges(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "secret"))
	for _, p := range []string{"a/1", "b/1", "c/1", "d"} {
		write(t, filepath.Join(dir, p))
	}
	var got []string
	err := Walk(open(t, dir), func(e *Entry) error {
		got = append(got, e.Path)
		switch e.Path {
		case "a": // gone once it was seen
			return os.RemoveAll(filepath.Join(dir, "a"))
		case "b": // and c before it is
			return os.RemoveAll(filepath.Join(dir, "c"))
		}
		return nil
	})
	if d := cmp.Diff([]string{"a", "b", "b/1", "d"}, got); err != nil || d != "" {
		t.Error(err, d)
	}
	err = Walk(open(t, dir), func(e *Entry) error {
		if strings.Contains(e.Path, "secret") {
			t.Error("the walk went outside")
		}
		if e.Path != "b" {
			return nil
		}
		if err := os.RemoveAll(filepath.Join(dir, "b")); err != nil {
			return err
		}
		return os.Symlink(outside, filepath.Join(dir, "b"))
	})
	if pe := (*fs.PathError)(nil); !errors.As(err, &pe) {
		t.Errorf("a directory became a link: %v", err)
	}
}

func TestWalkIsAsDeepAsTheTree(t *testing.T) {
	dir := t.TempDir()
	const depth = 300 // of 60 bytes each: far longer than PATH_MAX
	name := strings.Repeat("d", 60)
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	n := 0
	if err := Walk(open(t, dir), func(e *Entry) error { n++; return nil }); err != nil || n != depth {
		t.Error(n, err)
	}
}

func TestWalkOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	write(t, file)
	if err := Walk(open(t, file), func(e *Entry) error { return nil }); err == nil {
		t.Error("no error")
	}
}
