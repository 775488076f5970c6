package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
)

// index remembers the code and time of each entry of the quarantine, so that
// counting them costs a stat per day. It is a memory of what is on disk, which
// other processes change too; nothing is decided on it alone.
type index struct {
	mu   sync.Mutex
	days map[string]*dayIndex
	read int // reasons read, for tests
}

type dayIndex struct {
	stamp   dirStamp
	entries map[string]entryInfo
}

type entryInfo struct {
	ino  uint64
	code code.Code // "": unreadable
	at   time.Time
}

// forget makes the next refresh read an entry's reason anew.
func (x *index) forget(day, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if d := x.days[day]; d != nil {
		d.stamp = dirStamp{}
		delete(d.entries, name)
	}
}

// each calls f for every entry, in no order.
func (x *index) each(q *Queue, f func(day, name string, i entryInfo)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	days, err := q.quarantineDays()
	if err != nil {
		return err
	}
	fresh := make(map[string]*dayIndex, len(days))
	for _, day := range days {
		d := x.days[day]
		if d == nil {
			d = &dayIndex{entries: map[string]entryInfo{}}
		}
		if err := x.refresh(q, day, d); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("count quarantine: %w", err)
		}
		fresh[day] = d
	}
	x.days = fresh
	for day, d := range fresh {
		for name, i := range d.entries {
			f(day, name, i)
		}
	}
	return nil
}

func (x *index) refresh(q *Queue, day string, d *dayIndex) error {
	began := q.now()
	fd, err := unix.Open(q.path(quarantineDir, day), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", q.path(quarantineDir, day), err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if d.stamp.unchanged(&st) {
		return nil
	}
	d.stamp = dirStamp{}
	unreadable := false
	entries := make(map[string]entryInfo, len(d.entries))
	err = readDir(context.Background(), fd, func(name []byte, typ byte, ino uint64) {
		if typ != unix.DT_DIR {
			return
		}
		if known, ok := d.entries[string(name)]; ok && known.ino == ino && known.code != "" {
			entries[string(name)] = known
			return
		}
		x.read++
		i := entryInfo{ino: ino}
		if r, err := readReason(q.path(quarantineDir, day, string(name))); err == nil {
			// The table's own string: one copy for all entries.
			i.code, i.at = r.Code.Info().Code, r.QuarantinedAt
		} else if errors.Is(err, fs.ErrNotExist) && unix.Faccessat(fd, string(name), unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT {
			return
		}
		unreadable = unreadable || i.code == ""
		entries[string(name)] = i
	})
	if err != nil {
		return err
	}
	d.entries = entries
	if !unreadable { // mending a reason.json leaves the day's mtime alone
		d.stamp = stampOf(&st, began)
	}
	return nil
}

// Counts is what is in quarantine, in figures.
type Counts struct {
	Total      int
	ByCode     map[code.Code]int // without the unreadable
	Unreadable int               // entries whose reason.json can't be read
	Oldest     time.Time         // the least quarantined_at; zero when empty
}

// Counts costs a stat per day that has entries, and reads only reasons that it
// has not seen yet.
func (q *Queue) Counts() (Counts, error) {
	c := Counts{ByCode: map[code.Code]int{}}
	err := q.index.each(q, func(_, _ string, i entryInfo) {
		c.Total++
		if i.code == "" {
			c.Unreadable++
			return
		}
		c.ByCode[i.code]++
		if c.Oldest.IsZero() || i.at.Before(c.Oldest) {
			c.Oldest = i.at
		}
	})
	return c, err
}
