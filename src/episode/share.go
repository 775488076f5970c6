package episode

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"cis490/src/durable"
	"cis490/src/tree"
)

// Who seals an episode and who ships it may be two users. They share the queue
// when its directories have the set-group-ID bit (inode(7)): what is made in them
// then belongs to their group. To take an episode out of the queue and remove it,
// the shipper needs more than to read it: each of its directories has to be
// writable for the group, whatever the umask of the one who seals.

// sharing is what the umask withholds from the group of a shared queue.
type sharing struct {
	gid   int    // of the queue; -1 when it is not shared
	dirs  uint32 // mode that new directories get beside what the umask leaves; 0 when that is enough
	files uint32 // the same for new files, which the shipper only reads
}

// share looks at the episode's own directory, which was just made in open/.
func (s *sealing) share() error {
	s.sharing = sharing{gid: -1}
	var st unix.Stat_t
	if err := unix.Fstat(int(s.root.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: s.dir, Err: err}
	}
	if st.Mode&unix.S_ISGID == 0 {
		return nil
	}
	s.gid = int(st.Gid)
	if mode := st.Mode & 0o7777; mode&0o070 != 0o070 {
		s.dirs = mode | 0o070
		if err := unix.Fchmod(int(s.root.Fd()), s.dirs); err != nil {
			return &os.PathError{Op: "chmod", Path: s.dir, Err: err}
		}
	}
	if st.Mode&0o040 == 0 {
		s.files = st.Mode&0o666 | 0o040
	}
	return nil
}

func (s *sealing) create(name string, exec bool) (*os.File, error) {
	f, err := createAt(s.root, name, exec)
	if err != nil || s.files == 0 {
		return f, err
	}
	mode := s.files
	if exec {
		mode |= mode & 0o444 >> 2
	}
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	return f, nil
}

// hand gives a tree that was moved in to the group of a shared queue, and flushes
// that.
func (s *sealing) hand() error {
	var own unix.Stat_t
	if err := unix.Fstat(int(s.root.Fd()), &own); err != nil {
		return &os.PathError{Op: "stat", Path: s.dir, Err: err}
	}
	if own.Mode&unix.S_ISGID == 0 {
		return nil
	}
	changed := false
	one := func(path string, st *unix.Stat_t) error {
		need := uint32(0o040)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			need = 0o070
		}
		if st.Gid == own.Gid && st.Mode&need == need {
			return nil
		}
		changed = true
		if err := alter(int(s.root.Fd()), path, st, int(own.Gid), st.Mode&0o7777|need); err != nil {
			return fmt.Errorf("give it to the group of the queue: %w", &fs.PathError{Op: "chmod", Path: s.dir + "/" + path, Err: err})
		}
		return nil
	}
	fd, err := openDirAt(int(s.root.Fd()), OutputPath)
	if err != nil {
		return &fs.PathError{Op: "open", Path: s.dir + "/" + OutputPath, Err: err}
	}
	out := os.NewFile(uintptr(fd), s.dir+"/"+OutputPath)
	defer out.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: out.Name(), Err: err}
	}
	if err := one(OutputPath, &st); err != nil {
		return err
	}
	stays := map[string]bool{} // what does not travel is given back as it is
	for _, it := range s.items {
		if it.meta.Skipped != "" {
			stays[it.meta.Path] = true
		}
	}
	err = tree.Walk(out, func(e *tree.Entry) error {
		path := OutputPath + "/" + e.Path
		switch {
		case !stays[path]:
			return one(path, &e.Stat)
		case e.IsDir():
			return tree.SkipDir
		}
		return nil
	})
	if err != nil || !changed {
		return err
	}
	if err := unix.Syncfs(int(s.root.Fd())); err != nil {
		return &fs.PathError{Op: "syncfs", Path: s.dir, Err: err}
	}
	return nil
}

// alter gives what was seen at path, as st, a group and a mode. Whoever owns the
// tree may have put something else there meanwhile, such as a link to a file that
// only root may change: then the error is ESTALE, or OpenAt's.
func alter(dir int, path string, st *unix.Stat_t, gid int, mode uint32) error {
	fd, err := durable.OpenAt(dir, path, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return err
	}
	if is.Ino != st.Ino || is.Dev != st.Dev || is.Mode != st.Mode {
		return unix.ESTALE
	}
	if int(st.Gid) != gid {
		if err := unix.Fchownat(fd, "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	// fchmod(2) takes no such descriptor. chown may have cleared bits of the mode, so it comes last.
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}
