package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cis490/src/episode"
)

// walk looks for files that belong to no episode, and for episodes that the
// catalogue doesn't list. What it lists was looked at before.
func (b *scrubber) walk() error {
	if b.o.Host != "" {
		return b.level(b.o.Host, 1)
	}
	return b.level("", 0)
}

// level looks at a directory below episodes: 0 is that of the hosts, then a
// host's, a year's, a month's and a day's.
func (b *scrubber) level(path string, depth int) error {
	d, err := os.OpenFile(b.s.path(episodesName, path), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing of that host
	}
	if err != nil {
		return b.unread(path, err)
	}
	defer d.Close()
	for {
		// In portions: there may be very many.
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			if err := b.ctx.Err(); err != nil {
				return err
			}
			if err := b.entry(int(d.Fd()), path, e, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return b.unread(path, err)
		}
	}
}

func (b *scrubber) unread(path string, err error) error {
	b.found(Finding{Kind: FoundUnread, Path: filepath.Join(episodesName, path), What: err.Error()})
	return nil
}

func (b *scrubber) entry(dir int, path string, e fs.DirEntry, depth int) error {
	b.p.Files++
	b.progress()
	name := e.Name()
	full := filepath.Join(path, name)
	if depth < 4 {
		if e.IsDir() && levelName(name, depth) {
			return b.level(full, depth+1)
		}
		b.found(Finding{Kind: FoundStray, Path: episodesName + "/" + full, What: "no episode is stored under such a name"})
		return nil
	}
	host, _, _ := strings.Cut(path, "/")
	f := Finding{Kind: FoundStray, Host: host, Path: episodesName + "/" + full}
	for _, suffix := range []string{markSuffix, ".json", ".tar.zst"} {
		bare, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		id, err := episode.ParseID(bare)
		if err != nil || !e.Type().IsRegular() {
			break
		}
		f.Episode = id
		return b.file(dir, path, suffix, f)
	}
	f.What = "it is no episode's archive, sidecar or mark"
	if before, _, ok := strings.Cut(name, ".damaged-"); ok {
		f.What = "a damaged file that was set aside when the host sent it again as " + before
	}
	b.found(f)
	return nil
}

// levelName says whether directories of a depth may have that name.
func levelName(name string, depth int) bool {
	if depth == 0 {
		return episode.ValidHost(name)
	}
	if len(name) != map[int]int{1: 4, 2: 2, 3: 2}[depth] {
		return false
	}
	return strings.Trim(name, "0123456789") == ""
}

// file looks at a file of an episode: whether the catalogue lists it, here.
func (b *scrubber) file(dir int, path, suffix string, f Finding) error {
	s, id := b.s, f.Episode
	known := func() (bool, error) {
		row, found, err := s.Lookup(b.ctx, id)
		if err == nil && found && day(row.Facts.Host, row.Facts.Started) != path {
			f.What = "this episode is stored in " + episodesName + "/" + day(row.Facts.Host, row.Facts.Started)
			return false, nil
		}
		return found, err
	}
	if found, err := known(); found || err != nil {
		return err
	}
	// It may be on its way into the store.
	release, err := s.holds.hold(b.ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if found, err := known(); found || err != nil {
		return err
	}
	if f.What != "" {
		b.found(f)
		return nil
	}
	if _, there, err := exists(dir, id.String()+suffix); err != nil || !there {
		return err // undone meanwhile
	}
	_, sidecar, err := exists(dir, sidecarName(id))
	if err != nil {
		return err
	}
	_, marked, err := exists(dir, markName(id))
	if err != nil {
		return err
	}
	switch {
	case suffix == ".tar.zst" && (sidecar || marked), suffix == ".json" && marked:
		return nil // named by its sidecar, or its mark
	case suffix == ".tar.zst":
		f.What = "an archive without a sidecar: it was never acknowledged, or its sidecar is gone"
	default:
		f.Kind, f.What = FoundUnlisted, "the episode is stored, but the catalogue doesn't list it"
	}
	b.found(f)
	return nil
}
