package durable

import (
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// noOpenat2 remembers that openat2(2) is not to be had: Linux before 5.6, or a
// filter of system calls that can't look into its argument, such as systemd's
// RestrictSUIDSGID=.
var noOpenat2 atomic.Bool

// OpenAt opens rel below the directory dir with flags. rel may not be absolute or
// have an element ".." (EXDEV), and nothing on the way may be a symbolic link
// (ELOOP). The descriptor is closed on exec.
func OpenAt(dir int, rel string, flags int) (int, error) {
	// openat2 would allow a way up that stays below dir. Without it that can't be had
	// safely, and a path that we made has none.
	for elem := range strings.SplitSeq(rel, "/") {
		if elem == ".." {
			return -1, unix.EXDEV
		}
	}
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	if !noOpenat2.Load() {
		how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
		fd, err := again(func() (int, error) { return unix.Openat2(dir, rel, &how) })
		if err != unix.ENOSYS {
			return fd, err
		}
		noOpenat2.Store(true)
	}
	return stepwise(dir, rel, flags)
}

// stepwise is OpenAt without openat2, of a path without "..": each step opens one
// element, which O_NOFOLLOW keeps from being a link.
func stepwise(dir int, rel string, flags int) (int, error) {
	if strings.HasPrefix(rel, "/") {
		return -1, unix.EXDEV
	}
	if rel == "" {
		return -1, unix.ENOENT
	}
	at := dir
	defer func() {
		if at != dir {
			unix.Close(at)
		}
	}()
	for {
		elem, rest, more := strings.Cut(rel, "/")
		if elem == "" {
			elem = "."
		}
		how := flags
		if more {
			how = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err := again(func() (int, error) { return unix.Openat(at, elem, how, 0) })
		if err == unix.ENOTDIR {
			var st unix.Stat_t
			if unix.Fstatat(at, elem, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
				err = unix.ELOOP
			}
		}
		if err != nil || !more {
			return fd, err
		}
		if at != dir {
			unix.Close(at)
		}
		at, rel = fd, rest
	}
}

// again repeats a call that a signal interrupted (EINTR), or that a rename raced
// with (EAGAIN, openat2(2)).
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR && err != unix.EAGAIN {
			return n, err
		}
	}
}
