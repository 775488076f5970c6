package episode

import (
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// openDirAt opens the directory name, of any length, below the directory fd, one element after the other and through no link.
func openDirAt(fd int, name string) (int, error) {
	return stepInto(fd, name, false)
}

// stepInto opens name as openDirAt does and, when make is set, makes those directories that are not there, durably.
func stepInto(fd int, name string, make bool) (int, error) {
	at, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for elem := range strings.SplitSeq(name, "/") {
		if elem == "" || elem == "." {
			continue
		}
		if make {
			// Also one that is there: who made it may have died before its own flush.
			err := unix.Mkdirat(at, elem, 0o777)
			if err == nil || err == unix.EEXIST {
				err = unix.Fsync(at)
			}
			if err != nil {
				unix.Close(at)
				return -1, err
			}
		}
		next, err := unix.Openat(at, elem, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// renameAt renames from, below the directory a, to the same path below the directory b, making the directories it needs there. Both
// directories that change are made durable, and those that it makes before anything is moved into them.
func renameAt(a *os.File, from string, b *os.File, to string) error {
	fail := func(op string, err error) error {
		return &os.LinkError{Op: op, Old: a.Name() + "/" + from, New: b.Name() + "/" + to, Err: err}
	}
	src, err := stepInto(int(a.Fd()), path.Dir(from), false)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(src)
	dst, err := stepInto(int(b.Fd()), path.Dir(to), true)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(dst)
	if err := renameNoReplace(src, path.Base(from), dst, path.Base(to)); err != nil {
		return fail("rename", err)
	}
	for _, fd := range []int{dst, src} {
		if err := unix.Fsync(fd); err != nil {
			return fail("fsync", err)
		}
	}
	return nil
}

// renameNoReplace is renameat2(2) with RENAME_NOREPLACE, or the best there is on a file system that can't do that.
func renameNoReplace(olddir int, old string, newdir int, new string) error {
	err := unix.Renameat2(olddir, old, newdir, new, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	var st unix.Stat_t
	if unix.Fstatat(newdir, new, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return unix.EEXIST
	}
	return unix.Renameat(olddir, old, newdir, new)
}

// createAt makes a new file below root for writing.
func createAt(root *os.File, name string, exec bool) (*os.File, error) {
	perm := uint32(0o666) // the umask decides
	if exec {
		perm = 0o777
	}
	for {
		fd, err := unix.Openat(int(root.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "create", Path: root.Name() + "/" + name, Err: err}
		}
		return os.NewFile(uintptr(fd), root.Name()+"/"+name), nil
	}
}

func mkdirAt(root *os.File, name string) error {
	if err := unix.Mkdirat(int(root.Fd()), name, 0o777); err != nil {
		return &fs.PathError{Op: "mkdir", Path: root.Name() + "/" + name, Err: err}
	}
	return nil
}
