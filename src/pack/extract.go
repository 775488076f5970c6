package pack

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/durable"
)

// Extract verifies an archive, a zstd stream or a bare tar stream, while it unpacks it beside dest/<id>, and renames it to that
// once all of it is verified and on the disk: dest/<id> is a whole bag, or not there. Modification times, x bits and empty directories are
// restored from files.jsonl. dest is made if need be; dest/<id> must not exist (errors.Is(err, fs.ErrExist)). The id comes from
// the archive, whose errors are those of [Verify].
func Extract(ctx context.Context, r io.Reader, dest string) (dir string, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var tarStream io.Reader = &ctxReader{ctx, br}
	if head, err := br.Peek(4); err == nil {
		if m := binary.LittleEndian.Uint32(head); m == zstdMagic || m&skippableMask == skippableMagic {
			d := NewDecoder(tarStream)
			defer d.Close()
			tarStream = d
		}
	}
	if err := durable.MkdirAll(dest, 0o777); err != nil {
		return "", fmt.Errorf("unpack: %w", err)
	}
	tmp, err := os.MkdirTemp(dest, ".unpack-*")
	if err != nil {
		return "", fmt.Errorf("unpack: %w", err)
	}
	defer os.RemoveAll(tmp)
	// MkdirTemp's directory is for its owner alone; the one that is kept has the mode of any directory.
	tree := filepath.Join(tmp, "bag")
	if err := os.Mkdir(tree, 0o777); err != nil {
		return "", fmt.Errorf("unpack: %w", err)
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return "", fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	w := &extractor{root: root}
	defer w.close()

	v := newVerifier(tarStream, Limits{})
	defer v.free()
	v.sink = w
	res, err := v.episode()
	if err != nil {
		return "", err
	}
	id := res.Facts.ID.String()
	dir = filepath.Join(dest, id)
	if err := restore(root); err != nil {
		return "", fmt.Errorf("unpack episode %s: %w", id, err)
	}
	if err := publish(tree, dir); err != nil {
		return "", fmt.Errorf("unpack episode %s: %w", id, err)
	}
	return dir, nil
}

// publish makes a tree durable and gives it its name.
func publish(tree, dir string) error {
	f, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer f.Close()
	// One flush of the file system instead of one of every file and directory. It reports errors of writing back since Linux 5.8 (syncfs(2)).
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	err = unix.Renameat2(unix.AT_FDCWD, tree, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS { // a file system that can't; rename(2) itself replaces no directory that is not empty
		if _, serr := os.Lstat(dir); serr == nil {
			err = unix.EEXIST
		} else {
			err = unix.Rename(tree, dir)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: tree, New: dir, Err: err}
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// extractor writes the files of a stream below a new directory that nobody else has.
type extractor struct {
	root *os.Root
	dir  string // the last that was made
	f    *os.File
}

func (e *extractor) begin(name string, _ int64) (err error) {
	if d := path.Dir(name); d != "." && d != e.dir {
		if err := e.root.MkdirAll(d, 0o777); err != nil {
			return err
		}
		e.dir = d
	}
	e.f, err = e.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	return err
}

func (e *extractor) write(b []byte) error {
	_, err := e.f.Write(b)
	return err
}

func (e *extractor) end() error {
	f := e.f
	e.f = nil
	return f.Close()
}

func (e *extractor) close() {
	if e.f != nil {
		e.f.Close()
	}
}

// restore gives the files and directories below root what files.jsonl says of them. Directories last: making what is in them changes their
// times.
func restore(root *os.Root) error {
	for _, dirs := range []bool{false, true} {
		f, err := root.Open(bag.Files)
		if err != nil {
			return err
		}
		for m, err := range bag.ScanFiles(bufio.NewReader(f)) {
			if err == nil && m.Skipped == "" {
				err = restoreOne(root, m, dirs)
			}
			if err != nil {
				f.Close()
				var line *bag.LineError
				if errors.As(err, &line) {
					return code.Wrap(code.Malformed, err, bag.Files)
				}
				return err
			}
		}
		f.Close()
	}
	return nil
}

func restoreOne(root *os.Root, m bag.FileMeta, dirs bool) error {
	if m.Dir && !dirs {
		return root.MkdirAll(m.Path, 0o777)
	}
	if m.Dir != dirs {
		return nil
	}
	f, err := root.Open(m.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return code.New(code.Malformed, "%s has %s, which is not in the payload", bag.Files, bag.Quote(m.Path))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if m.Exec {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		// x for whoever may read it, as the umask has it.
		if err := f.Chmod(st.Mode().Perm() | st.Mode().Perm()&0o444>>2); err != nil {
			return err
		}
	}
	if m.ModTime.IsZero() {
		return nil
	}
	// Not os.Chtimes, which knows only the years 1678 to 2262.
	t := unix.Timespec{Sec: m.ModTime.Unix(), Nsec: int64(m.ModTime.Nanosecond())}
	if err := unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{t, t}, unix.AT_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "utimensat", Path: m.Path, Err: err}
	}
	return nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
