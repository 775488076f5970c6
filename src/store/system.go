package store

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// system is the system calls by which a commit changes the disk.
type system struct {
	write     func(fd int, p []byte, offset int64) (int, error)
	fsync     func(fd int) error
	fdatasync func(fd int) error
	syncfs    func(fd int) error // nil where syncfs(2) doesn't report errors
	rename    func(olddir int, oldname string, newdir int, newname string) error
	unlink    func(dir int, name string) error
	mkdir     func(dir int, name string) error

	always bool // syncfs, also where fsync is cheaper
}

func systemCalls() system {
	s := system{
		write:     unix.Pwrite,
		fsync:     unix.Fsync,
		fdatasync: unix.Fdatasync,
		rename: func(olddir int, oldname string, newdir int, newname string) error {
			return unix.Renameat(olddir, oldname, newdir, newname)
		},
		unlink: func(dir int, name string) error { return unix.Unlinkat(dir, name, 0) },
		mkdir:  func(dir int, name string) error { return unix.Mkdirat(dir, name, dirMode) },
	}
	if kernelAtLeast(5, 8) {
		s.syncfs = unix.Syncfs
	}
	return s
}

// kernelAtLeast: before Linux 5.8 syncfs(2) returned success whatever happened to the data.
func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	f := strings.FieldsFunc(unix.ByteSliceToString(u.Release[:]), func(r rune) bool { return r < '0' || r > '9' })
	if len(f) < 2 {
		return false
	}
	a, err1 := strconv.Atoi(f[0])
	b, err2 := strconv.Atoi(f[1])
	return err1 == nil && err2 == nil && (a > major || a == major && b >= minor)
}

// eintr repeats a call that a signal interrupted before it did anything.
func eintr(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func openDir(at int, name string) (fd int, err error) {
	err = eintr(func() error {
		fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// create makes a new file at in dir.
func create(dir int, name string) (fd int, err error) {
	err = eintr(func() error {
		fd, err = unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, fileMode)
		return err
	})
	if err != nil {
		return -1, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	return fd, nil
}

func (s *Store) writeAll(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := s.os.write(fd, p, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n <= 0 {
			return unix.EIO
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// exists looks for a name without following a link.
func exists(dir int, name string) (size int64, found bool, err error) {
	var st unix.Stat_t
	err = eintr(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG:
		return st.Size, true, nil
	case err == nil:
		return 0, false, &fs.PathError{Op: "stat", Path: name, Err: errors.New("not a regular file")}
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return 0, false, nil
	}
	return 0, false, &fs.PathError{Op: "stat", Path: name, Err: err}
}

// syncer flushes groups of files, by one fsync for each or by one syncfs for
// all, whichever has been cheaper lately: a syncfs costs one journal commit
// whatever the number of files, but it also waits for everybody else's writes
// on that file system, and there may be gigabytes of them.
type syncer struct {
	perFile time.Duration // of fsync, smoothed; when several run at once, their share
	whole   time.Duration // of syncfs, smoothed
}

const (
	fewFiles  = 3 // up to so many are always fsynced one by one
	fsyncJobs = 8 // at once
)

// flush flushes files. After an error none of them may be trusted, nor flushed
// again.
func (f *flusher) flush(fds []int) error {
	if len(fds) == 0 {
		return nil
	}
	s, w, y := f.s, f.w, &f.sync
	begin := time.Now()
	smooth := func(old *time.Duration, now time.Duration) {
		if *old == 0 {
			*old = now
		}
		*old += (now - *old) / 8
	}
	if s.os.syncfs != nil && (s.os.always || len(fds) > fewFiles && y.whole <= y.perFile*time.Duration(len(fds))) {
		err := eintr(func() error { return s.os.syncfs(s.root) })
		smooth(&y.whole, time.Since(begin))
		return err
	}
	y.whole -= y.whole / 16 // so that it is tried again some day
	var err error
	if len(fds) <= 2 {
		for _, fd := range fds {
			if e := eintr(func() error { return s.os.fsync(fd) }); e != nil && err == nil {
				err = e
			}
			w.Progress()
		}
	} else {
		var mu sync.Mutex
		var wg sync.WaitGroup
		next := 0
		for range min(fsyncJobs, len(fds)) {
			wg.Go(func() {
				for {
					mu.Lock()
					i := next
					next++
					mu.Unlock()
					if i >= len(fds) {
						return
					}
					e := eintr(func() error { return s.os.fsync(fds[i]) })
					mu.Lock()
					if e != nil && err == nil {
						err = e
					}
					w.Progress()
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	smooth(&y.perFile, time.Since(begin)/time.Duration(len(fds)))
	return err
}
