package episode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/durable"
	"cis490/src/tree"
)

// Recovered is what became of a sealing whose process died.
type Recovered struct {
	ID     ID
	Source string
	Sealed bool   // finished: the source had been moved in already. Otherwise it was undone, and the source is where it was
	Dir    string // of a sealed one
}

// Recover finishes or undoes the sealings of directories that died half-way, and leaves those alone that are still going on. A copy is
// undone: the source is where it was. A move is finished once the source is in the episode, and undone before. Episodes under open/
// that are not being sealed from a directory are not touched.
func Recover(ctx context.Context, dataDir string) ([]Recovered, error) {
	ents, err := os.ReadDir(filepath.Join(dataDir, openDir))
	if err != nil {
		return nil, err
	}
	var out []Recovered
	var errs []error
	for _, e := range ents {
		name, ok := strings.CutSuffix(e.Name(), markerSuffix)
		id, err := ParseID(name)
		if err != nil || !ok {
			continue
		}
		r, ok, err := recoverOne(ctx, dataDir, id)
		if err != nil {
			errs = append(errs, fmt.Errorf("recover open episode %s: %w", id, err))
		} else if ok {
			out = append(out, r)
		}
	}
	return out, errors.Join(errs...)
}

func recoverOne(ctx context.Context, dataDir string, id ID) (r Recovered, ok bool, err error) {
	dir := filepath.Join(dataDir, openDir, id.String())
	f, err := os.OpenFile(dir+markerSuffix, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	} else if err != nil {
		return r, false, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return r, false, nil // its process lives
	} else if err != nil {
		return r, false, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return r, false, err
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		// Nothing begun yet, or all done and sealed. An empty one may be just being made.
		if st, err := f.Stat(); err != nil || len(b) == 0 && time.Since(st.ModTime()) < time.Hour {
			return r, false, err
		}
		return r, false, ignoreGone(os.Remove(f.Name()))
	} else if err != nil {
		return r, false, err
	}
	var m marker
	if err := json.Unmarshal(b, &m); err != nil || m.Source == "" {
		return r, false, fmt.Errorf("%s is damaged: %w", f.Name(), err)
	}
	r = Recovered{ID: id, Source: m.Source}
	if _, err := os.Lstat(filepath.Join(dir, OutputPath)); !m.Move || errors.Is(err, fs.ErrNotExist) {
		if err := durable.Remove(dir, filepath.Join(dataDir, ".removing")); err != nil {
			return r, false, err
		}
		return r, true, ignoreGone(os.Remove(f.Name()))
	} else if err != nil {
		return r, false, err
	}
	r.Sealed = true
	if r.Dir, err = finishMove(ctx, dataDir, id, dir, m.Source); err != nil {
		return r, false, err
	}
	return r, true, ignoreGone(os.Remove(f.Name()))
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// finishMove goes on from where the source was already moved in. All tag files had been written and flushed before.
func finishMove(ctx context.Context, dataDir string, id ID, dir, src string) (string, error) {
	root, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer root.Close()
	s := &sealing{id: id, dataDir: dataDir, dir: root.Name(), root: root, holds: true}
	f, err := durable.OpenBeneath(root, bag.Files)
	if err != nil {
		return "", err
	}
	for m, err := range bag.ScanFiles(f) {
		if err != nil {
			f.Close()
			return "", fmt.Errorf("%s: %w", bag.Files, err)
		}
		s.items = append(s.items, item{meta: m})
	}
	f.Close()
	if err := (&intake{sealing: s}).giveBack(src); err != nil {
		return "", err
	}
	if err := s.hand(); err != nil {
		return "", err
	}
	// The files were flushed where they were; whether they are still the same only their checksums tell now.
	b, err := bag.Open(s.dir)
	if err != nil {
		return "", err
	}
	defer b.Close()
	faults, err := b.Verify(ctx, nil)
	if err != nil {
		return "", err
	}
	if len(faults) > 0 {
		return "", fmt.Errorf("%s was changed before it could be sealed: %v (%d faults); its files are in %s", src, faults[0], len(faults), filepath.Join(s.dir, OutputPath))
	}
	sealed, err := s.rename()
	if err != nil {
		return "", err
	}
	return sealed, syncQueue(dataDir)
}

// syncTree flushes every directory below root, and root.
func syncTree(root *os.File) error {
	var dirs []string
	err := tree.Walk(root, func(e *tree.Entry) error {
		if e.IsDir() {
			dirs = append(dirs, e.Path)
		}
		return nil
	})
	for _, d := range slices.Backward(append([]string{"."}, dirs...)) {
		if err == nil {
			err = syncDirAt(root, d)
		}
	}
	return err
}
