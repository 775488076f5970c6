package episode

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// In a queue with the set-group-ID bit every episode can be read and removed by
// the group, whatever umask and modes the one who seals has.
func TestSharedQueue(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	for _, umask := range []int{0o022, 0o077, 0o002} {
		for _, move := range []bool{false, true} {
			t.Run(fmt.Sprintf("umask %03o, move %v", umask, move), func(t *testing.T) {
				unix.Umask(0o022)
				data, src := t.TempDir(), filepath.Join(t.TempDir(), "run")
				gid := os.Getgid()
				if os.Getuid() == 0 {
					gid = 4242
				}
				for _, d := range []string{"open", "sealed"} {
					p := filepath.Join(data, d)
					for _, err := range []error{os.Mkdir(p, 0o755), os.Chown(p, -1, gid), os.Chmod(p, fs.ModeSetgid|0o770)} {
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				write(t, filepath.Join(src, "sub/deep/result.csv"), "1\n")
				write(t, filepath.Join(src, "run.sh"), "#!/bin/sh\n")
				for _, err := range []error{os.Chmod(filepath.Join(src, "run.sh"), 0o700), os.Chmod(filepath.Join(src, "sub/deep/result.csv"), 0o600),
					os.Chmod(filepath.Join(src, "sub"), 0o700), os.Symlink("run.sh", filepath.Join(src, "link"))} {
					if err != nil {
						t.Fatal(err)
					}
				}
				unix.Umask(umask)
				s, err := SealDir(context.Background(), src, data, SealOptions{Host: "lab-01", Move: move})
				if err != nil {
					t.Fatal(err)
				}
				err = filepath.WalkDir(s.Dir, func(p string, d fs.DirEntry, err error) error {
					if err != nil {
						return err
					}
					st, err := d.Info()
					if err != nil {
						return err
					}
					need := fs.FileMode(0o040)
					if d.IsDir() {
						need = 0o070
					}
					if st.Mode()&need != need || int(st.Sys().(*syscall.Stat_t).Gid) != gid {
						t.Errorf("%s: %s, group %d", p, st.Mode(), st.Sys().(*syscall.Stat_t).Gid)
					}
					if exec := st.Mode()&0o100 != 0; !d.IsDir() && exec != (d.Name() == "run.sh") {
						t.Errorf("%s: %s", p, st.Mode())
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// Sealing as root must not let the owner of the tree have a file elsewhere changed.
func TestAlterChangesNothingThatWasPutInPlace(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "shadow")
	write(t, elsewhere, "secret")
	if err := os.Chmod(elsewhere, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, put := range map[string]func(path string) error{
		"a link":             func(p string) error { return os.Symlink(elsewhere, p) },
		"another file":       func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"a link to the way":  func(p string) error { return os.Symlink(filepath.Dir(elsewhere), p) },
		"nothing but itself": nil,
	} {
		t.Run(name, func(t *testing.T) {
			path := "sub/file"
			file := filepath.Join(dir, path)
			write(t, file, "x")
			defer os.RemoveAll(filepath.Join(dir, "sub"))
			keep, err := os.Open(file) // its inode number is not used again
			if err != nil {
				t.Fatal(err)
			}
			defer keep.Close()
			var st unix.Stat_t
			if err := unix.Lstat(file, &st); err != nil {
				t.Fatal(err)
			}
			if put != nil {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				if err := put(file); err != nil {
					t.Fatal(err)
				}
			}
			if err := alter(int(root.Fd()), path, &st, os.Getgid(), 0o777); (err == nil) != (put == nil) {
				t.Errorf("alter: %v", err)
			}
			if fi, err := os.Stat(elsewhere); err != nil || fi.Mode() != 0o600 {
				t.Errorf("elsewhere: %v, %v", fi, err)
			}
			if fi, err := os.Stat(file); put == nil && (err != nil || fi.Mode() != 0o777) {
				t.Errorf("the file itself: %v, %v", fi, err)
			}
		})
	}
}
