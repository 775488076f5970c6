package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cis490/src/bag"
	"cis490/src/durable"
)

// Extracted is what [Archive.Extract] wrote.
type Extracted struct {
	Files, Bytes int64
	Dir          bool // it was a directory
}

// Extract writes the payload file of that path, or the directory with all that is below it, to dest, which must not exist
// (errors.Is(err, fs.ErrExist)). It is written beside dest and renamed once every digest was compared and all of it is on the disk: dest is whole, or
// not there. Modification times, x bits and empty directories are restored. An error is fs.ErrNotExist (wrapped, a *fs.PathError
// of the path) when the episode has no such path, else as that of [OpenArchive].
func (a *Archive) Extract(ctx context.Context, path, dest string) (out Extracted, err error) {
	path = strings.TrimSuffix(path, "/")
	if err := durable.MkdirAll(filepath.Dir(dest), 0o777); err != nil {
		return out, fmt.Errorf("extract: %w", err)
	}
	// At once, since what follows may take long; the rename looks again.
	if _, err := os.Lstat(dest); err == nil {
		return out, &fs.PathError{Op: "extract to", Path: dest, Err: fs.ErrExist}
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dest), ".extract-*")
	if err != nil {
		return out, fmt.Errorf("extract: %w", err)
	}
	defer os.RemoveAll(tmp)
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return out, fmt.Errorf("extract: %w", err)
	}
	defer root.Close()
	const name = "tree"
	// place is where a path of the payload goes.
	place := func(p string) (string, bool) {
		rest, ok := strings.CutPrefix(p, path)
		return name + rest, ok && (rest == "" || rest[0] == '/')
	}
	w := &extractor{root: root}
	defer w.close()
	err = a.Walk(func(p string) bool { _, is := place(p); return is }, func(f *File) error {
		to, _ := place(f.Path)
		out.Dir = out.Dir || to != name
		if err := w.begin(to, f.Size); err != nil {
			return err
		}
		n, err := io.Copy(w.f, &ctxReader{ctx, f})
		if err = errors.Join(err, w.end()); err != nil {
			return err
		}
		out.Files++
		out.Bytes += n
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("extract %s: %w", bag.Quote(path), err)
	}
	for _, dirs := range []bool{false, true} {
		for m, err := range a.Meta() {
			var is bool
			if err == nil && m.Skipped == "" {
				if m.Path, is = place(m.Path); is {
					out.Dir = out.Dir || m.Dir
					err = restoreOne(root, m, dirs)
				}
			}
			if err != nil {
				return out, fmt.Errorf("extract %s: %w", bag.Quote(path), err)
			}
		}
	}
	if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return out, &fs.PathError{Op: "extract", Path: path, Err: fs.ErrNotExist}
	}
	if err := publish(filepath.Join(tmp, name), dest); err != nil {
		return out, fmt.Errorf("extract %s: %w", bag.Quote(path), err)
	}
	return out, nil
}
