package durable

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// Without openat2 the same opens and the same does not.
func TestStepwise(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.WriteFile(filepath.Join(dir, "f"), nil, 0o644), os.WriteFile(filepath.Join(dir, "a/b/f"), nil, 0o644),
		os.Symlink("a", filepath.Join(dir, "l")), os.Symlink("f", filepath.Join(dir, "a/l")), os.Symlink("/etc", filepath.Join(dir, "a/b/l")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	inode := func(fd int, err error) (uint64, error) {
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino, nil
	}
	rapid.Check(t, func(t *rapid.T) {
		rel := rapid.StringMatching(`(/?(a|b|f|l|\.|nothing)){1,4}/?`).Filter(func(s string) bool {
			return !slices.Contains(strings.Split(s, "/"), "..")
		}).Draw(t, "path")
		flags := rapid.SampledFrom([]int{unix.O_RDONLY, unix.O_RDONLY | unix.O_DIRECTORY, unix.O_PATH | unix.O_DIRECTORY}).Draw(t, "flags") |
			unix.O_NOFOLLOW | unix.O_CLOEXEC
		want, wantErr := inode(OpenAt(int(root.Fd()), rel, flags))
		got, gotErr := inode(stepwise(int(root.Fd()), rel, flags))
		// Where a path is wrong in two ways, either may be told.
		if got != want || (gotErr == nil) != (wantErr == nil) {
			t.Errorf("%q: %d %v, want %d %v", rel, got, gotErr, want, wantErr)
		}
	})
	for rel, want := range map[string]error{"../f": unix.EXDEV, "a/../f": unix.EXDEV, "nothing/..": unix.EXDEV, "a/..": unix.EXDEV} {
		if _, err := OpenAt(int(root.Fd()), rel, unix.O_RDONLY); err != want {
			t.Errorf("%s: %v, want %v", rel, err, want)
		}
	}
	for rel, want := range map[string]error{"l/b": unix.ELOOP, "a/l": unix.ELOOP, "/f": unix.EXDEV, "f/f": unix.ENOTDIR, "a/g": unix.ENOENT} {
		for name, f := range map[string]func(int, string, int) (int, error){"OpenAt": OpenAt, "stepwise": stepwise} {
			if _, err := f(int(root.Fd()), rel, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC); err != want {
				t.Errorf("%s of %s: %v, want %v", name, rel, err, want)
			}
		}
	}
}
