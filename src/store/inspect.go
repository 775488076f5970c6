package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/pack"
)

// scrubRead is the most that a scrub reads at a time, in bytes.
const scrubRead = 256 << 10

// inspection compares one stored episode, all of it, with what is known of it.
type inspection struct {
	s    *Store
	row  catalog.Row
	tell func(n int) error // that bytes of the archive were read; it may wait, and end it

	file *os.File    // the archive
	was  unix.Stat_t // of that file
	gone bool        // there was none

	damaged bool
	path    string // what is damaged, below the store's directory
	what    string // in which way; if not damaged: what the catalogue says wrongly
	err     error  // why nothing can be said
}

func (in *inspection) run() {
	d := day(in.row.Facts.Host, in.row.Facts.Started)
	in.path = episodesName + "/" + d + "/" + archiveName(in.row.Facts.ID)
	sidecarPath := episodesName + "/" + d + "/" + sidecarName(in.row.Facts.ID)
	dir, err := openDir(in.s.ep, d)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		in.gone, in.damaged, in.what = true, true, "archive and sidecar are missing, with the directory that they were in"
		return
	}
	if err != nil {
		in.err = &fs.PathError{Op: "open", Path: d, Err: err}
		return
	}
	defer unix.Close(dir)
	sc, row, serr := sidecarAlone(dir, in.row.Facts.Host, in.row.Facts.ID)
	fd := -1
	err = eintr(func() (err error) {
		fd, err = unix.Openat(dir, archiveName(in.row.Facts.ID), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		return err
	})
	switch {
	case errors.Is(err, unix.ENOENT) && errors.Is(serr, fs.ErrNotExist):
		in.gone, in.damaged, in.what = true, true, "archive and sidecar are missing"
		return
	case errors.Is(err, unix.ENOENT):
		in.gone, in.damaged, in.what = true, true, "the archive is missing"
		return
	case errors.Is(err, unix.ELOOP):
		in.damaged, in.what = true, "the archive is a symbolic link"
		return
	case rotten(err):
		in.damaged, in.what = true, "the archive can't be read: "+err.Error()
		return
	case err != nil:
		in.err = &fs.PathError{Op: "open", Path: in.path, Err: err}
		return
	}
	in.file = os.NewFile(uintptr(fd), in.path)
	defer in.file.Close()
	if err := unix.Fstat(fd, &in.was); err != nil {
		in.err = &fs.PathError{Op: "stat", Path: in.path, Err: err}
		return
	}
	switch {
	case errors.Is(serr, fs.ErrNotExist):
		in.damaged, in.path, in.what = true, sidecarPath, "the sidecar is missing"
	case errors.Is(serr, errDamaged), rotten(serr):
		// What it says of the archive counts for nothing, so the archive is compared with the catalogue.
		in.damaged, in.path, in.what = true, sidecarPath, strings.TrimPrefix(serr.Error(), errDamaged.Error()+": ")
	case serr != nil:
		in.err = serr
		return
	}
	want := in.row
	if !in.damaged {
		want = row
	}
	switch what, err := in.archive(want, sc, in.damaged); {
	case err != nil:
		in.err = err
		return
	case what != "":
		if in.damaged { // both are
			what = in.what + "; and the archive: " + what
		} else {
			what = "the archive: " + what
		}
		in.damaged, in.what = true, what
		return
	case in.damaged:
		in.what += "; the archive is sound"
		return
	}
	row.Damaged, row.CheckedAt = in.row.Damaged, in.row.CheckedAt
	if row != in.row {
		in.path, in.what = sidecarPath, "archive and sidecar are sound, but the catalogue says something else of the episode"
	}
}

// rotten says whether an error of reading is the disk's word that what was
// written is gone.
func rotten(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EBADMSG) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EREMOTEIO)
}

// archive says what is wrong with the archive, "" if nothing. Without a sidecar
// there is less to compare it with.
func (in *inspection) archive(want catalog.Row, sc Sidecar, alone bool) (what string, err error) {
	fi, err := in.file.Stat()
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() {
		return "it is not a regular file", nil
	}
	if size := want.Receipt.ArchiveSize; fi.Size() != size {
		return fmt.Sprintf("it has %d bytes, its receipt says %d", fi.Size(), size), nil
	}
	// It is the disk that is to be read, not the kernel's memory; and that has better things to keep.
	forget := func() { _ = unix.Fadvise(int(in.file.Fd()), 0, 0, unix.FADV_DONTNEED) }
	forget()
	defer forget()
	r := &scanned{in: in}
	d := pack.NewDecoder(r)
	defer d.Close()
	v, err := pack.Verify(d, want.Facts, pack.Limits{}) // it was within the limits when it came
	switch {
	case r.stop != nil:
		return "", r.stop
	case rotten(r.err):
		return fmt.Sprintf("byte %d can't be read: %v", r.at, r.err), nil
	case r.err != nil:
		return "", r.err
	case err != nil:
		var c *code.Error
		if errors.As(err, &c) {
			return c.Detail + suffix(c.Err), nil
		}
		return "", err
	case r.scan != nil:
		return r.scan.Error(), nil
	case alone:
		return "", nil
	case !bytes.Equal(bytes.TrimSpace(v.Run), bytes.TrimSpace(sc.Run)):
		return "its run.json is not that of the sidecar", nil
	}
	return in.seekTable(r.frames, sc, fi.Size())
}

func suffix(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

// seekTable compares the table behind the frames with the frames.
func (in *inspection) seekTable(frames []pack.FrameInfo, sc Sidecar, size int64) (string, error) {
	if !sc.Archive.SeekTable {
		return "", nil
	}
	told, err := pack.ReadSeekTable(in.file, size)
	if errors.Is(err, pack.ErrNoSeekTable) {
		return err.Error() + ", although there was one", nil
	}
	if err != nil {
		return "", err
	}
	n := len(frames) - 1 // the last is the table itself
	if n != len(told) {
		return fmt.Sprintf("there are %d zstd frames, its seek table has %d", n, len(told)), nil
	}
	for i := range told {
		if frames[i].Content < 0 {
			frames[i].Content = told[i].Content // the frame's header doesn't say
		}
	}
	table, err := seekTable(frames[:n])
	if err != nil {
		return "", err
	}
	b := make([]byte, len(table))
	if _, err := in.file.ReadAt(b, size-int64(len(b))); err != nil {
		return "", err
	}
	if !bytes.Equal(b, table) {
		return "its seek table is not that of its frames", nil
	}
	return "", nil
}

// moved says whether another file is in the archive's place now, or none that
// was, or one where there was none.
func (in *inspection) moved() bool {
	var is unix.Stat_t
	err := unix.Fstatat(in.s.ep, day(in.row.Facts.Host, in.row.Facts.Started)+"/"+archiveName(in.row.Facts.ID), &is, unix.AT_SYMLINK_NOFOLLOW)
	if in.file == nil {
		return in.gone && err == nil
	}
	return err != nil || is.Ino != in.was.Ino || is.Dev != in.was.Dev || is.Size != in.was.Size
}

// scanned reads the archive and notes where its frames are.
type scanned struct {
	in      *inspection
	at      int64
	scanner pack.FrameScanner
	frames  []pack.FrameInfo
	scan    error // of the scanner
	err     error // of the disk
	stop    error // of who waits
}

func (r *scanned) Read(p []byte) (int, error) {
	p = p[:min(len(p), scrubRead)]
	n, err := r.in.file.ReadAt(p, r.at)
	r.at += int64(n)
	if r.stop = r.in.tell(n); r.stop != nil {
		return 0, r.stop
	}
	if err != nil && err != io.EOF {
		r.err = err
	}
	for b := p[:n]; len(b) > 0 && r.scan == nil; {
		k, done, err := r.scanner.Scan(b)
		b = b[k:]
		if r.scan = err; done && len(r.frames) <= pack.MaxFrames {
			r.frames = append(r.frames, r.scanner.Frame())
		}
	}
	return n, err
}
