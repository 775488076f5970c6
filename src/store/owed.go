package store

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// owed is what the log vouches for: files that have their names, but are not known
// to be on the disk.
type owed struct {
	records []place
	bytes   int64              // of their archives
	fds     []int              // of their files, and of the directories above their days
	dirs    map[string]*dayDir // of their days
	stale   []*dayDir          // likewise, but perhaps somebody has removed them
	err     error              // a flush failed: the files are to be made anew
	due     <-chan time.Time
}

const (
	owedFor     = 50 * time.Millisecond // since the first of them
	owedRecords = 256
	owedBytes   = 8 << 20
)

func (o *owed) large() bool { return len(o.records) >= owedRecords || o.bytes >= owedBytes }

// log stores the small entries by way of the log and answers their callers. It
// returns those that have to be stored without.
func (f *flusher) log(entries []*entry) (rest []*entry) {
	s := f.s
	var small []*entry
	for _, e := range entries {
		if e.record != nil {
			small = append(small, e)
		} else {
			rest = append(rest, e)
		}
	}
	if len(small) == 0 {
		return rest
	}
	if f.owed.err != nil {
		f.pay()
	}
	current, ready := s.failures.Load(), small[:0]
	var records [][][]byte
	for _, e := range small {
		var err error
		switch {
		case f.owed.err != nil:
			err = f.owed.err
		case e.failures != current:
			err = errTainted
		default:
			if err = f.open(e); err != nil {
				err = fmt.Errorf("make directory %s: %w", day(e.Facts.Host, e.Facts.Started), err)
			}
		}
		if err != nil {
			s.discard(e)
			e.finish(err)
			continue
		}
		ready, records = append(ready, e), append(records, e.record)
	}
	f.w.Progress()
	places, err := s.wal.append(records)
	f.w.Progress()
	if errors.Is(err, errNoLog) {
		f.days.release(ready)
		f.hand(batch{logged: s.wal.next}) // what of them got into the log is not needed there
		return append(rest, ready...)
	}
	if err != nil {
		s.log.Error("a group of episodes was not stored", "episodes", len(ready), "error", err)
		for _, e := range ready {
			s.discard(e)
			e.finish(err)
		}
		f.days.release(ready)
		f.hand(batch{logged: s.wal.next})
		return rest
	}
	f.hand(f.give(ready, places))
	return rest
}

// open gives an entry the directory of its day, which need not be on the disk.
func (f *flusher) open(e *entry) error {
	o, p := &f.owed, day(e.Facts.Host, e.Facts.Started)
	if o.due == nil { // also if nothing comes of it: the directories are open
		o.due = time.After(owedFor)
	}
	d := o.dirs[p]
	if d == nil {
		if d = f.days.get(p, nil); d == nil {
			var above []int
			var err error
			d, above, err = f.mkdir(p)
			o.fds = append(o.fds, above...)
			if err != nil {
				return err
			}
		}
		if o.dirs == nil {
			o.dirs = map[string]*dayDir{}
		}
		o.dirs[p] = d
	}
	d.refs++
	e.dir = d
	return nil
}

// give gives the files of logged entries their names.
func (f *flusher) give(entries []*entry, places []place) batch {
	s, o := f.s, &f.owed
	b := batch{entries: make([]*entry, 0, len(entries)), logged: s.wal.next}
	for i, e := range entries {
		if err := f.place(e); err != nil {
			s.log.Error("an episode was not stored", "episode", e.Facts.ID, "host", e.Facts.Host, "error", err)
			f.unplace(e)
			e.finish(err)
			if d := o.dirs[e.dir.path]; d != nil {
				delete(o.dirs, e.dir.path)
				o.stale = append(o.stale, d)
			}
			f.days.forget()
			continue
		}
		o.records = append(o.records, places[i])
		o.bytes += e.row.Receipt.ArchiveSize
		o.fds = append(o.fds, e.archive, e.sidecar)
		e.archive, e.sidecar = -1, -1
		b.entries = append(b.entries, e)
	}
	f.days.release(entries)
	return b
}

// pay flushes what is owed, so that the log is not needed for it any more.
func (f *flusher) pay() {
	s, o := f.s, &f.owed
	if o.err == nil {
		fds := o.fds
		for _, d := range o.dirs {
			fds = append(fds, d.fd)
		}
		for _, d := range o.stale {
			fds = append(fds, d.fd)
		}
		o.err = f.flush(fds)
		if o.err != nil {
			s.failures.Add(1)
			s.log.Error("the files of episodes could not be flushed; they are made anew from the log", "episodes", len(o.records), "error", o.err)
			f.days.forget()
		}
		for _, fd := range o.fds {
			_ = unix.Close(fd)
		}
		o.fds = nil
	}
	if o.err != nil {
		if err := f.restore(); err != nil {
			s.log.Error("they could not be made anew; nothing is stored before they are", "episodes", len(o.records), "error", err)
			o.err = fmt.Errorf("earlier episodes, which are in the log: %w", err)
			o.due = time.After(time.Second)
			return
		}
	}
	for _, d := range o.dirs {
		if o.err == nil {
			f.days.keep([]*dayDir{d})
		}
		f.days.unref(d)
	}
	for _, d := range o.stale {
		f.days.unref(d)
	}
	*o = owed{fds: o.fds[:0], records: o.records[:0]}
	s.wal.flushed = s.wal.next
	s.wal.recycle()
}

// restore makes the files of what is owed anew.
func (f *flusher) restore() error {
	for _, at := range f.owed.records {
		r, err := f.s.wal.read(at)
		if err != nil {
			return err
		}
		if _, err := f.s.restore(r); err != nil {
			return err
		}
		f.w.Progress()
	}
	return nil
}
