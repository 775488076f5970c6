package episode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/durable"
	"cis490/src/tree"
)

const (
	copyBuffer = 512 << 10
	// copyTries is how often a file that is written to while it is copied is copied anew.
	copyTries = 3
)

// ErrChanged says that the source was written to while it was sealed.
var ErrChanged = errors.New("changed while it was being sealed")

// intake takes a source tree into the payload: it copies each file, or hashes it where it is.
type intake struct {
	*sealing
	src      *os.File
	copy     bool
	lenient  bool // a changed file is taken as it was read
	dataDev  uint64
	dataIno  uint64 // of the data directory, which must not be below the source
	progress func(int64)
	noClone  atomic.Bool
	jobs     chan job
}

type job struct {
	rel  string
	exec bool
}

// take walks the source and fills the payload's output directory.
func (in *intake) take(ctx context.Context, workers int) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(in.src.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: in.src.Name(), Err: err}
	}
	if in.isDataDir(&st) {
		return fmt.Errorf("%s is the data directory itself", in.src.Name())
	}
	in.add(item{meta: bag.FileMeta{Path: OutputPath, Dir: true, ModTime: time.Unix(st.Mtim.Unix())}, stamp: stampOf(&st)})
	if err := in.takeDir(OutputPath, "."); err != nil {
		return err
	}
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), 16)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in.jobs = make(chan job, 64)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			buf := make([]byte, copyBuffer)
			for j := range in.jobs {
				if ctx.Err() != nil {
					continue
				}
				if err := in.file(ctx, j, buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	err := tree.Walk(in.src, func(e *tree.Entry) error { return in.visit(ctx, e) })
	close(in.jobs)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (in *intake) isDataDir(st *unix.Stat_t) bool {
	return st.Dev == in.dataDev && st.Ino == in.dataIno
}

// visit takes one thing of the source: directories at once, files by the workers.
func (in *intake) visit(ctx context.Context, e *tree.Entry) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	meta, err := describe(e)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since: as if the walk had come later
		}
		return err
	}
	if e.IsDir() && in.isDataDir(&e.Stat) {
		return fmt.Errorf("%s holds the data directory that the episode is to go into", in.src.Name())
	}
	if e.IsRegular() && meta.Skipped == "" {
		select {
		case in.jobs <- job{e.Path, e.Exec()}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	in.add(item{meta: meta, stamp: stampOf(&e.Stat)})
	switch {
	case meta.Skipped != "" && e.IsDir():
		return tree.SkipDir
	case e.IsDir():
		return in.takeDir(meta.Path, e.Path)
	}
	return nil
}

// takeDir makes a directory in the copy, or flushes the one that is to be moved.
func (in *intake) takeDir(name, rel string) error {
	if in.copy {
		return in.mkdir(name)
	}
	return in.flush.dir(in.src, rel)
}

// describe is what files.jsonl says of e, and so whether it travels.
func describe(e *tree.Entry) (bag.FileMeta, error) {
	m := bag.FileMeta{Path: OutputPath + "/" + e.Path, ModTime: e.ModTime(), Dir: e.IsDir()}
	switch {
	case !utf8.ValidString(e.Path):
		m.Skipped = bag.SkippedName
	case len(m.Path) > bag.MaxPath:
		m.Skipped = bag.SkippedLong
	case e.IsRegular():
		m.Exec = e.Exec()
	case !e.IsDir():
		m.Skipped = e.Kind()
	}
	if e.Kind() == bag.SkippedSymlink {
		var err error
		if m.Target, err = e.Target(); err != nil {
			return m, err
		}
	}
	return m, nil
}

// file copies or hashes one file.
func (in *intake) file(ctx context.Context, j job, buf []byte) error {
	src, err := durable.OpenBeneath(in.src, j.rel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // gone since, see visit
	case errors.Is(err, durable.ErrNotRegular):
		return fmt.Errorf("%s/%s: %w: it was a file, and is none now", in.src.Name(), j.rel, ErrChanged)
	case err != nil:
		return err
	}
	defer src.Close()
	for try := 1; ; try++ {
		it, changed, err := in.once(ctx, src, j, buf)
		if err != nil {
			return err
		}
		if changed && !in.lenient && try < copyTries {
			if in.copy {
				if err := unix.Unlinkat(int(in.root.Fd()), it.meta.Path, 0); err != nil {
					return &fs.PathError{Op: "unlink", Path: it.meta.Path, Err: err}
				}
			}
			if _, err := src.Seek(0, io.SeekStart); err != nil {
				return err
			}
			continue
		}
		if changed && !in.lenient {
			return fmt.Errorf("%s: %w", src.Name(), ErrChanged)
		}
		it.meta.Changed = changed
		in.add(it)
		return nil
	}
}

// once takes the file as it is now, and tells whether it was changed meanwhile.
func (in *intake) once(ctx context.Context, src *os.File, j job, buf []byte) (it item, changed bool, err error) {
	var before, after unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &before); err != nil {
		return it, false, &fs.PathError{Op: "stat", Path: src.Name(), Err: err}
	}
	it.meta = bag.FileMeta{Path: OutputPath + "/" + j.rel, Exec: before.Mode&unix.S_IXUSR != 0, ModTime: time.Unix(before.Mtim.Unix())}
	it.stamp = stampOf(&before)
	// No further than it reached in the beginning: a log may grow faster than it is read.
	limited := io.LimitReader(src, before.Size)
	if in.copy {
		err = in.copyFile(ctx, src, limited, &before, &it, buf)
	} else {
		it.sum, it.size, err = in.hash(ctx, limited, nil, buf)
		if err == nil {
			err = in.flush.file(src, it.size)
		}
	}
	if err != nil {
		return it, false, err
	}
	if err := unix.Fstat(int(src.Fd()), &after); err != nil {
		return it, false, &fs.PathError{Op: "stat", Path: src.Name(), Err: err}
	}
	if stampOf(&after) != it.stamp || it.size != before.Size {
		return it, true, nil
	}
	// Files of /proc and the like say that they are empty and are not.
	n, err := src.ReadAt(buf[:1], before.Size)
	if err == io.EOF {
		err = nil
	}
	return it, n > 0, err
}

// copyFile copies src into the payload. What is hashed is what is written, so the episode agrees with itself whatever happens to
// the source.
func (in *intake) copyFile(ctx context.Context, src *os.File, limited io.Reader, st *unix.Stat_t, it *item, buf []byte) (err error) {
	dst, err := in.create(it.meta.Path, it.meta.Exec)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
	}()
	if st.Size > 0 && in.clone(dst, src) {
		// Written for reading too late: the clone is read by its own descriptor, not src, whose bytes may be others by now.
		r, err := durable.OpenBeneath(in.root, it.meta.Path)
		if err != nil {
			return err
		}
		it.sum, it.size, err = in.hash(ctx, r, nil, buf)
		r.Close()
		if err != nil {
			return err
		}
	} else {
		w := &writer{f: dst, sparse: st.Blocks*512 < st.Size}
		if it.sum, it.size, err = in.hash(ctx, limited, w, buf); err != nil {
			return err
		}
		if err := w.end(it.size); err != nil {
			return err
		}
	}
	if err := setModTime(in.root, it.meta.Path, it.meta.ModTime); err != nil {
		return err
	}
	return in.flush.file(dst, it.size)
}

// clone shares the source's blocks where the file system can (ioctl_ficlone(2)), all of them at one moment.
func (in *intake) clone(dst, src *os.File) bool {
	if in.noClone.Load() {
		return false
	}
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	switch err {
	case nil:
		return true
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EXDEV, unix.EPERM:
		in.noClone.Store(true) // nor will the next one
	}
	return false
}

// hash reads r to its end, writing to w on the way when there is one.
func (in *intake) hash(ctx context.Context, r io.Reader, w io.Writer, buf []byte) (sum [sha256.Size]byte, size int64, err error) {
	h := sha256.New()
	for {
		if ctx.Err() != nil {
			return sum, size, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if w != nil && n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return sum, size, err
			}
		}
		size += int64(n)
		if n > 0 && in.progress != nil {
			in.progress(int64(n))
		}
		if err == io.EOF {
			return [sha256.Size]byte(h.Sum(nil)), size, nil
		}
		if err != nil {
			return sum, size, err
		}
	}
}

// writer writes a file from its beginning, leaves holes where a sparse source has zeros, and has the kernel write back as it goes.
type writer struct {
	f      *os.File
	sparse bool
	at     int64
	out    durable.Writeback
}

var zeros [4 << 10]byte

func (w *writer) Write(p []byte) (int, error) {
	if !w.sparse {
		return w.write(p)
	}
	done := 0
	for done < len(p) {
		n, hole := run(p[done:])
		if hole {
			w.at += int64(n)
		} else if _, err := w.write(p[done : done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// run is how far p begins with blocks that are all zeros, or all not.
func run(p []byte) (n int, hole bool) {
	zero := func(b []byte) bool { return len(b) == len(zeros) && bytes.Equal(b, zeros[:]) }
	block := func(at int) []byte { return p[at:min(at+len(zeros), len(p))] }
	hole = zero(block(0))
	for n < len(p) && zero(block(n)) == hole {
		n += len(block(n))
	}
	return n, hole
}

func (w *writer) write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.at)
	w.at += int64(n)
	if err == nil {
		w.out.Wrote(w.f, w.at)
	}
	return n, err
}

// end gives the file its size when it ends in a hole.
func (w *writer) end(size int64) error {
	if !w.sparse {
		return nil
	}
	return w.f.Truncate(size)
}

// changes compares the tree below root with what was taken from it, and gives the paths that differ, at most max of them.
func (in *intake) changes(root *os.File, max int) ([]string, error) {
	taken := make(map[string]*item, len(in.items))
	for i := range in.items {
		if rel, ok := strings.CutPrefix(in.items[i].meta.Path, OutputPath+"/"); ok {
			taken[rel] = &in.items[i]
		}
	}
	var differ []string
	full := errors.New("enough")
	note := func(p string) error {
		if differ = append(differ, p); len(differ) >= max {
			return full
		}
		return nil
	}
	err := tree.Walk(root, func(e *tree.Entry) error {
		it := taken[e.Path]
		delete(taken, e.Path)
		skip := error(nil)
		if e.IsDir() && it != nil && it.meta.Skipped != "" {
			skip = tree.SkipDir
		}
		switch {
		case it == nil:
			if err := note(e.Path); err != nil {
				return err
			}
			if e.IsDir() {
				return tree.SkipDir
			}
			return nil
		case it.meta.Changed: // that is known
		case it.meta.Dir != e.IsDir(), e.IsRegular() && it.meta.Skipped == "" && stampOf(&e.Stat) != it.stamp:
			if err := note(e.Path); err != nil {
				return err
			}
		}
		return skip
	})
	if err != nil && err != full {
		return nil, err
	}
	for rel := range taken {
		if err == nil && note(rel) != nil {
			break
		}
	}
	slices.Sort(differ)
	return differ, nil
}

// changedError names what changed.
func changedError(src string, paths []string, max int) error {
	quoted := make([]string, 0, len(paths))
	for _, p := range paths {
		quoted = append(quoted, bag.Quote(p))
	}
	more := ""
	if len(paths) >= max {
		more = " and perhaps more"
	}
	return fmt.Errorf("%s %w: %s%s", src, ErrChanged, strings.Join(quoted, ", "), more)
}

// keepDirTimes is for the copies of directories, whose times the files put into them have changed.
func (in *intake) keepDirTimes() error {
	for i := range in.items {
		if m := &in.items[i].meta; m.Dir && m.Skipped == "" {
			if err := setModTime(in.root, m.Path, m.ModTime); err != nil {
				return err
			}
		}
	}
	return nil
}
