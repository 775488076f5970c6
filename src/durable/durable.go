// Package durable changes files and directories so that the change outlives a
// power cut, or is not there at all.
//
// What it promises: when a function here returns nil, what it did is on the
// disk (as far as fsync(2) of files and of the directories that name them can
// make it so); when it returns an error, or the machine stops half-way, a
// reader finds either the state before or the state after, never a mixture. A
// failed fsync is reported and never tried again on the same file: the kernel
// may already have dropped the pages, and a second fsync would say all is well.
//
// It is for Linux and for local file systems that honour fsync.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is what Lock returns (wrapped) when another process, or another
// caller in this one, holds the lock.
var ErrLocked = errors.New("locked by another process")

// WriteFile makes path hold exactly data with mode perm (umask not applied), or
// leaves it as it was. The data goes to a temporary file in the same directory,
// which is fsynced, renamed over path and made durable by an fsync of the
// directory. When only that last fsync fails, path already shows the new data;
// the error says that it may not outlast a power cut.
//
// A process killed half-way leaves a file named .<base>.tmp-<number> behind; it
// is never read.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return write(path, data, perm, os.Rename)
}

// WriteNew is WriteFile for what must never be overwritten, such as a key: where
// path exists already it is left alone and the error is fs.ErrExist. Of several
// callers at once, in whatever process, one succeeds.
func WriteNew(path string, data []byte, perm fs.FileMode) error {
	return write(path, data, perm, renameNoReplace)
}

func write(path string, data []byte, perm fs.FileMode, rename func(from, to string) error) (err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// Rename is rename(2) followed by an fsync of the directory that received the
// name and of the one that lost it. When the error comes from one of the
// fsyncs, the rename has happened but may not outlast a power cut.
//
// Rename does not fsync what is moved: a new file's bytes are the caller's to
// flush first.
func Rename(oldpath, newpath string) error {
	if err := os.Rename(oldpath, newpath); err != nil {
		return err
	}
	newdir, olddir := filepath.Dir(newpath), filepath.Dir(oldpath)
	// The new name first: were the power to go between the two, seeing the
	// entry twice is better than not seeing it at all.
	if err := SyncDir(newdir); err != nil {
		return err
	}
	if olddir != newdir {
		return SyncDir(olddir)
	}
	return nil
}

// SyncDir fsyncs a directory, and so makes the names in it durable.
func SyncDir(dir string) error {
	return syncPath(dir, unix.O_DIRECTORY)
}

// SyncFile fsyncs a file's bytes and metadata, not its name (see SyncDir).
func SyncFile(path string) error {
	return syncPath(path, 0)
}

func syncPath(path string, flag int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|flag|unix.O_NOFOLLOW, 0)
	if err != nil && flag == unix.O_DIRECTORY && (errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR)) {
		// A data directory may be a symbolic link to the disk it lives on.
		f, err = os.OpenFile(path, os.O_RDONLY|flag, 0)
	}
	if err != nil {
		return fmt.Errorf("fsync: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("fsync: %w", err)
	}
	return nil
}

// MkdirAll is os.MkdirAll that also makes durable every directory it creates,
// by an fsync of the parent of each. A directory that was there already costs
// one stat.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil {
		if st, serr := os.Stat(path); !errors.Is(err, fs.ErrExist) || serr != nil || !st.IsDir() {
			return err
		}
		// Somebody else made it just now: their fsync may still be to come,
		// and the caller builds on it being durable.
	}
	return SyncDir(parent)
}

// Remove takes path away as one step and then frees what it held. It is renamed
// into the directory trash (made if absent; it must be on the same file system)
// under a unique name, both directories are fsynced, and only then is the tree
// unlinked: a reader never sees half a tree under path, and a power cut half-way
// leaves the rest in trash, for EmptyTrash to finish.
//
// A path that does not exist is not an error. An error of the unlinking is
// returned although path itself is gone already; errors.Is(err, ErrLeftover)
// tells the two apart.
func Remove(path, trash string) error {
	name, err := MoveToTrash(path, trash)
	if err != nil || name == "" {
		return err
	}
	if err := removeAll(name); err != nil {
		return fmt.Errorf("remove %s: %w: %w", path, ErrLeftover, err)
	}
	return nil
}

// ErrLeftover marks an error of Remove that left path gone but some of what it
// held still in the trash directory.
var ErrLeftover = errors.New("moved out of sight, but not all of it could be unlinked")

// MoveToTrash is the first half of Remove: it renames path into trash, durably,
// and returns the new name, "" if path did not exist.
func MoveToTrash(path, trash string) (string, error) {
	if err := MkdirAll(trash, 0o700); err != nil {
		return "", fmt.Errorf("remove %s: %w", path, err)
	}
	base := filepath.Base(path)
	for try := 0; ; try++ {
		name := filepath.Join(trash, base+"."+strconv.FormatInt(time.Now().UnixNano(), 36)+"."+strconv.Itoa(os.Getpid())+strconv.Itoa(try))
		err := renameNoReplace(path, name)
		switch {
		case errors.Is(err, fs.ErrExist) && try < 100:
			continue
		case errors.Is(err, fs.ErrNotExist):
			return "", nil
		case err != nil:
			return "", fmt.Errorf("remove %s: %w", path, err)
		}
		if err := SyncDir(trash); err != nil {
			return "", fmt.Errorf("remove %s: %w", path, err)
		}
		if err := SyncDir(filepath.Dir(path)); err != nil {
			return "", fmt.Errorf("remove %s: %w", path, err)
		}
		return name, nil
	}
}

// renameNoReplace is rename(2) that fails with EEXIST instead of replacing.
func renameNoReplace(oldpath, newpath string) error {
	err := unix.Renameat2(unix.AT_FDCWD, oldpath, unix.AT_FDCWD, newpath, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		// A file system without RENAME_NOREPLACE.
		err = renameByLink(oldpath, newpath)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldpath, New: newpath, Err: err}
	}
	return nil
}

// renameByLink does for files what link(2) and unlink(2) can; both names exist
// for a moment. A directory has no second name: it is made sure that nothing
// stands at newpath, and rename(2) itself replaces no more than an empty
// directory made since.
func renameByLink(oldpath, newpath string) error {
	st, err := os.Lstat(oldpath)
	if err != nil {
		return unwrapErrno(err)
	}
	if st.IsDir() {
		if _, err := os.Lstat(newpath); err == nil {
			return unix.EEXIST
		}
		return unix.Rename(oldpath, newpath)
	}
	if err := unix.Linkat(unix.AT_FDCWD, oldpath, unix.AT_FDCWD, newpath, 0); err != nil {
		return err
	}
	return unix.Unlink(oldpath)
}

func unwrapErrno(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// EmptyTrash unlinks all that earlier calls of Remove left in trash. A trash
// directory that does not exist is empty. It goes on after an error and returns
// all of them joined.
func EmptyTrash(trash string) error {
	ents, err := os.ReadDir(trash)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range ents {
		errs = append(errs, removeAll(filepath.Join(trash, e.Name())))
	}
	return errors.Join(errs...)
}

// removeAll is os.RemoveAll that also gets through directories without the write
// or search permission for their owner, which a recorded experiment may contain.
func removeAll(path string) error {
	if err := os.RemoveAll(path); err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && err == nil {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// Lock takes the exclusive flock(2) of path, a regular file made if absent, without
// waiting. A lock held elsewhere gives an error that is ErrLocked and names the
// holder's pid where the holder wrote one. The kernel drops the lock with the
// process, so a lock is never stale; the file stays.
func Lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		defer f.Close()
		if err != unix.EWOULDBLOCK {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		who := ""
		b, _ := io.ReadAll(io.LimitReader(f, 32))
		if pid, perr := strconv.Atoi(strings.TrimSpace(string(b))); perr == nil {
			who = fmt.Sprintf(" (pid %d)", pid)
		}
		return nil, fmt.Errorf("lock %s: %w%s", path, ErrLocked, who)
	}
	// For people and for the message above; the lock does not depend on it.
	if err := f.Truncate(0); err == nil {
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f.Close, nil
}

// OpenBeneath opens the regular file rel below the directory root for reading.
// Neither rel nor anything it passes through may leave root or be a symbolic
// link (see OpenAt), and opening never blocks on a FIFO or a device: anything
// that is not a regular file is refused with ErrNotRegular.
func OpenBeneath(root *os.File, rel string) (*os.File, error) {
	name := filepath.Join(root.Name(), rel)
	fd, err := OpenAt(int(root.Fd()), rel, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		if err == unix.ELOOP {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%w: a symbolic link is in the way", ErrNotRegular)}
		}
		if err == unix.ENXIO { // a socket, or a device without a driver
			return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotRegular}
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotRegular}
	}
	// O_NONBLOCK has done its work; without it os.NewFile does not try the poller.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "fcntl", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ErrNotRegular is what OpenBeneath returns (wrapped) for a symbolic link, a
// directory, a FIFO, a socket or a device.
var ErrNotRegular = errors.New("not a regular file")
