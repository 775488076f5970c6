package store

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// dayDir is an open directory of episodes.
type dayDir struct {
	path string
	fd   int
	refs int // entries that use it, and one for being kept
}

// days keeps the directories open that are known to be on the disk, with all
// their parents: asking anew for each episode would be five flushes.
type days struct{ open map[string]*dayDir }

const maxDays = 256 // open at once, those in use not counted

// get finds the directory among those that are kept, and among the fresh ones
// of the caller's group. Each one got is released.
func (c *days) get(path string, fresh []*dayDir) *dayDir {
	d := c.open[path]
	for _, f := range fresh {
		if d == nil && f.path == path {
			d = f
		}
	}
	if d != nil {
		d.refs++
	}
	return d
}

// keep says that these are on the disk.
func (c *days) keep(fresh []*dayDir) {
	if len(c.open)+len(fresh) > maxDays {
		c.forget()
	}
	if c.open == nil {
		c.open = map[string]*dayDir{}
	}
	for _, d := range fresh {
		if c.open[d.path] == nil {
			c.open[d.path] = d
			d.refs++
		}
	}
}

// release gives back what the entries used.
func (c *days) release(entries []*entry) {
	for _, e := range entries {
		if e.dir != nil {
			c.unref(e.dir)
			e.dir = nil
		}
	}
}

// forget keeps none of them any more.
func (c *days) forget() {
	for p, d := range c.open {
		delete(c.open, p)
		c.unref(d)
	}
}

func (c *days) unref(d *dayDir) {
	if d.refs--; d.refs == 0 {
		_ = unix.Close(d.fd)
	}
}

// mkdir makes the directory of a day and opens it, for one entry. The parents
// are to be flushed before it is relied on, also when it was there: who made
// it may have died before its own flush.
func (f *flusher) mkdir(path string) (d *dayDir, parents []int, err error) {
	at, err := unix.Dup(f.s.ep)
	for elem := range strings.SplitSeq(path, "/") {
		if err != nil {
			break
		}
		parents = append(parents, at)
		if err = eintr(func() error { return f.s.os.mkdir(at, elem) }); err == nil || errors.Is(err, unix.EEXIST) {
			at, err = openDir(at, elem)
		}
	}
	if err != nil {
		return nil, parents, err
	}
	return &dayDir{path: path, fd: at, refs: 1}, parents, nil
}
