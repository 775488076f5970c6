// Package tree walks a directory tree as it is and nothing else.
//
// It promises that no symbolic link is followed, not even one that is put in the place of a directory while the walk goes
// on, that nothing is opened but directories, and that names are given as the bytes they are. One directory's names and
// one file descriptor per level are held at a time.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/durable"
)

// SkipDir, returned for a directory, passes over what is in it.
var SkipDir = fs.SkipDir

// Entry is one thing below the root.
type Entry struct {
	Path string // below the root, slash separated; any bytes but zero
	Stat unix.Stat_t
	dir  int // descriptor of the directory it is in
}

// Walk calls fn for everything below root, a directory before what is in it and the names of one directory in the order of their
// bytes. The root itself is not visited. Entries are valid during the call. It stops at the first error; what vanishes during the walk is
// none: it is as if the walk had come a moment later.
func Walk(root *os.File, fn func(*Entry) error) error {
	// The root's own descriptor keeps its offset, for the caller may walk it again.
	fd, err := openDir(int(root.Fd()), ".")
	if err != nil {
		return &fs.PathError{Op: "open", Path: root.Name(), Err: err}
	}
	return walk(fd, root.Name(), "", fn)
}

// walk takes fd over.
func walk(fd int, rootName, prefix string, fn func(*Entry) error) error {
	dir := os.NewFile(uintptr(fd), rootName+"/"+prefix)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		e := Entry{Path: prefix + name, dir: fd}
		if err := lstat(fd, name, &e.Stat); err == unix.ENOENT {
			continue
		} else if err != nil {
			return &fs.PathError{Op: "lstat", Path: rootName + "/" + e.Path, Err: err}
		}
		err := fn(&e)
		if e.IsDir() && err == nil {
			sub, oerr := openDir(fd, name)
			if oerr == unix.ENOENT {
				continue
			} else if oerr != nil {
				return &fs.PathError{Op: "open", Path: rootName + "/" + e.Path, Err: oerr}
			}
			err = walk(sub, rootName, e.Path+"/", fn)
		} else if e.IsDir() && errors.Is(err, SkipDir) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func openDir(dir int, name string) (int, error) {
	return durable.OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

func lstat(dir int, name string, st *unix.Stat_t) error {
	for {
		err := unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW)
		if err != unix.EINTR {
			return err
		}
	}
}

// Name is the last element of the path.
func (e *Entry) Name() string { return e.Path[strings.LastIndexByte(e.Path, '/')+1:] }

// IsDir tells a directory.
func (e *Entry) IsDir() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular tells a regular file.
func (e *Entry) IsRegular() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFREG }

// Kind is the word for what e is.
func (e *Entry) Kind() string {
	switch e.Stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFCHR:
		return "character-device"
	case unix.S_IFBLK:
		return "block-device"
	}
	return "unknown-type"
}

// ModTime is the time of the last change of e's content.
func (e *Entry) ModTime() time.Time { return time.Unix(e.Stat.Mtim.Unix()) }

// Exec is the owner's x bit.
func (e *Entry) Exec() bool { return e.Stat.Mode&unix.S_IXUSR != 0 }

// Target reads where a symbolic link points to.
func (e *Entry) Target() (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := unix.Readlinkat(e.dir, e.Name(), b)
		if err != nil {
			return "", fmt.Errorf("readlink %q: %w", e.Path, err)
		}
		if n < size {
			return string(b[:n]), nil
		}
	}
}
