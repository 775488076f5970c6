package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// entry is what must survive the journey of one file or empty directory.
type entry struct {
	dir   bool // an empty directory
	size  int64
	mtime time.Time
	exec  bool
}

// tree lists the regular files and the empty directories below root.
func tree(root string) (map[string]entry, error) {
	out := map[string]entry{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			children, err := os.ReadDir(p)
			if err != nil {
				return err
			}
			if len(children) == 0 {
				out[rel] = entry{dir: true}
			}
		case d.Type().IsRegular():
			i, err := d.Info()
			if err != nil {
				return err
			}
			out[rel] = entry{size: i.Size(), mtime: i.ModTime(), exec: i.Mode()&0o100 != 0}
		}
		return nil
	})
	return out, err
}

// compare says how the tree got differs from the tree want: "" when it does
// not. Paths, sizes, modification times, x bits, empty directories and every
// byte are compared.
func compare(want, got string) (string, error) {
	w, err := tree(want)
	if err != nil {
		return "", err
	}
	g, err := tree(got)
	if err != nil {
		return "", err
	}
	for p, e := range w {
		o, ok := g[p]
		switch {
		case !ok:
			return p + " is missing", nil
		case o.dir != e.dir || o.size != e.size || o.exec != e.exec || !o.mtime.Equal(e.mtime):
			return fmt.Sprintf("%s is %+v, was %+v", p, o, e), nil
		}
		delete(g, p)
		if e.dir {
			continue
		}
		same, err := sameBytes(filepath.Join(want, p), filepath.Join(got, p))
		if err != nil {
			return "", err
		}
		if !same {
			return p + " has other bytes", nil
		}
	}
	for p := range g {
		return p + " was not there", nil
	}
	return "", nil
}

func sameBytes(a, b string) (bool, error) {
	fa, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	ba, bb := make([]byte, 1<<18), make([]byte, 1<<18)
	for {
		na, ea := io.ReadFull(fa, ba)
		nb, eb := io.ReadFull(fb, bb)
		if !bytes.Equal(ba[:na], bb[:nb]) {
			return false, nil
		}
		end := func(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }
		switch {
		case end(ea) && end(eb):
			return true, nil
		case ea != nil && !end(ea):
			return false, ea
		case eb != nil && !end(eb):
			return false, eb
		}
	}
}
