package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/durable"
)

// index keeps the figures of each day of the quarantine, in memory and in a
// file, so that what they cost does not depend on how much was ever set aside.
// Whoever changes the quarantine holds its lock and notes the change beside it,
// with a stamp of the day's directory; a stamp that is not the directory's any
// more (a crash between the two, a person who tidied up) makes the day be
// counted anew. Nothing is decided on the figures alone.
type index struct {
	mu    sync.Mutex
	days  map[string]*dayCount
	file  fileStamp       // of countsFile when it was last read or written
	late  map[string]bool // days that are too big to be counted in passing
	dirty bool            // a note is not in the file yet
	lazy  int             // > 0: notes are saved later
	read  int             // reasons read, for tests

	counting sync.Mutex // held by the one Recount
}

// countsFile is not made durable: without it the days are counted anew.
const countsFile = quarantineDir + "/.counts.json"

const (
	// few is how many entries of a day are read at most in passing.
	few = 1000
	// maxBroken and maxAgain bound what is remembered by name for each day.
	maxBroken = 16
	maxAgain  = 256
)

// dayCount is about one day.
type dayCount struct {
	Dir        dayStamp          `json:"dir"`
	ByCode     map[code.Code]int `json:"by_code,omitempty"`
	Unreadable int               `json:"unreadable,omitempty"`
	// Oldest is the least quarantined_at, or in a day of more than a few entries
	// some time before it.
	Oldest time.Time `json:"oldest,omitzero"`
	// Broken names unreadable entries, so that it is noticed when one is mended,
	// which leaves the directory alone.
	Broken []string `json:"broken,omitempty"`
	Search *search  `json:"search,omitempty"`
}

// search is how far Search came with a day.
type search struct {
	Code  code.Code `json:"code"`
	Key   string    `json:"key"`
	At    time.Time `json:"at"`
	Until time.Time `json:"until,omitzero"` // nothing but Names needs a look before; zero: ever
	Names []string  `json:"names,omitempty"`
	Done  bool      `json:"done"`
}

// dayStamp is a directory's stamp as it outlives a reboot, which may change
// device numbers.
type dayStamp struct {
	Ino   uint64 `json:"ino"`
	Nlink uint64 `json:"nlink"`
	Mtime int64  `json:"mtime"` // ns
	Ctime int64  `json:"ctime"`
}

func dayStampOf(st *unix.Stat_t) dayStamp {
	return dayStamp{st.Ino, uint64(st.Nlink), st.Mtim.Nano(), st.Ctim.Nano()}
}

type fileStamp struct {
	ino  uint64
	size int64
	mtim unix.Timespec
}

func (d *dayCount) total() int {
	n := d.Unreadable
	for _, k := range d.ByCode {
		n += k
	}
	return n
}

// add notes an entry that came. A code of "" is that of an unreadable one.
func (d *dayCount) add(name string, c code.Code, at time.Time) {
	if c == "" {
		d.Unreadable++
		if len(d.Broken) < maxBroken {
			d.Broken = append(d.Broken, name)
		}
		return
	}
	if d.ByCode == nil {
		d.ByCode = map[code.Code]int{}
	}
	d.ByCode[c]++
	if d.Oldest.IsZero() || at.Before(d.Oldest) {
		d.Oldest = at
	}
	if s := d.Search; s != nil && s.Code == c {
		if s.Names = append(s.Names, name); len(s.Names) > maxAgain {
			d.Search = nil
		}
	}
}

// remove notes an entry that went, and says whether the figures still hold.
func (d *dayCount) remove(name string, c code.Code, at time.Time) bool {
	if c == "" || d.ByCode[c] == 0 {
		return false
	}
	if d.ByCode[c]--; d.ByCode[c] == 0 {
		delete(d.ByCode, c)
	}
	if d.Search != nil {
		d.Search.Names = slices.DeleteFunc(d.Search.Names, func(n string) bool { return n == name })
	}
	return at.After(d.Oldest) || d.total() > few
}

// change makes one change to a day's directory and notes it: sign is +1 for an
// entry that comes, -1 for one that goes. The quarantine is locked. do returns
// the entry's name in the day.
func (x *index) change(q *Queue, day string, r Reason, sign int, do func() (name string, err error)) error {
	dir := q.path(quarantineDir, day)
	var before, after unix.Stat_t
	none := unix.Stat(dir, &before) == unix.ENOENT
	name, err := do()
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.load(q)
	d := x.days[day]
	if none {
		d = &dayCount{}
	}
	c := r.Code.Info().Code
	switch {
	case d == nil || !none && d.Dir != dayStampOf(&before) || unix.Stat(dir, &after) != nil:
		d = nil
	case sign > 0:
		d.add(name, c, r.QuarantinedAt)
	case !d.remove(name, c, r.QuarantinedAt):
		d = nil
	}
	if d == nil {
		delete(x.days, day)
	} else {
		d.Dir = dayStampOf(&after)
		x.days[day] = d
	}
	x.dirty = true
	if x.lazy == 0 {
		x.save(q)
	}
	return nil
}

// dropped notes that a day's directory is gone. The quarantine is locked.
func (x *index) dropped(q *Queue, day string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.load(q)
	delete(x.days, day)
	x.dirty = true
	if x.lazy == 0 {
		x.save(q)
	}
}

// later makes the file lag behind until the function that it returns is called:
// many changes, one file. A crash in between makes the days be counted anew.
func (x *index) later(q *Queue) (done func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lazy++
	return func() {
		release, err := q.lockQuarantine(context.Background())
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.lazy--; err != nil {
			return // the next change saves it
		}
		defer release()
		x.save(q)
	}
}

// load takes in what another process wrote.
func (x *index) load(q *Queue) {
	if x.days == nil {
		x.days, x.late = map[string]*dayCount{}, map[string]bool{}
	}
	var st unix.Stat_t
	if x.dirty || unix.Stat(q.path(countsFile), &st) != nil {
		return
	}
	now := fileStamp{st.Ino, st.Size, st.Mtim}
	if now == x.file {
		return
	}
	b, err := readSmall(q.path(countsFile), 64<<20)
	if err != nil {
		return
	}
	var f struct{ Days map[string]*dayCount }
	if json.Unmarshal(b, &f) != nil {
		return
	}
	maps.DeleteFunc(f.Days, func(_ string, d *dayCount) bool { return d == nil })
	x.file = now
	for day, d := range f.Days {
		if !x.current(q, day) {
			x.days[day] = d
		}
	}
}

// save replaces the file. The quarantine is locked. A failure costs counting.
func (x *index) save(q *Queue) {
	if !x.dirty {
		return
	}
	b, err := json.Marshal(struct {
		Days map[string]*dayCount `json:"days"`
	}{x.days})
	tmp := q.path(countsFile) + ".new"
	if err == nil {
		err = os.WriteFile(tmp, append(b, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(tmp, q.path(countsFile))
	}
	var st unix.Stat_t
	if err != nil || unix.Stat(q.path(countsFile), &st) != nil {
		os.Remove(tmp)
		return
	}
	x.file, x.dirty = fileStamp{st.Ino, st.Size, st.Mtim}, false
}

// Counts is what is in quarantine, in figures.
type Counts struct {
	Total      int
	ByCode     map[code.Code]int // without the unreadable
	Unreadable int               // entries whose reason.json can't be read
	Oldest     time.Time         // the least quarantined_at; zero when empty
}

// Counts costs a stat per day that has entries. Only days that something else
// than this program changed are read through.
func (q *Queue) Counts() (Counts, error) {
	c, whole, err := q.QuickCounts()
	if err != nil || whole {
		return c, err
	}
	if err := q.Recount(context.Background(), nil); err != nil {
		return c, err
	}
	c, _, err = q.QuickCounts()
	return c, err
}

// QuickCounts is Counts that reads no day through that has more than a few
// entries: if there is one, the figures are the last ones known and whole is
// false; Recount mends that.
func (q *Queue) QuickCounts() (c Counts, whole bool, err error) {
	days, err := q.quarantineDays()
	if err != nil {
		return c, false, err
	}
	c.ByCode, whole = map[code.Code]int{}, true
	x := &q.index
	counted, left := false, few
	x.mu.Lock()
	defer x.mu.Unlock()
	x.load(q)
	maps.DeleteFunc(x.days, func(day string, _ *dayCount) bool { return !slices.Contains(days, day) })
	maps.DeleteFunc(x.late, func(day string, _ bool) bool { return !slices.Contains(days, day) })
	for _, day := range days {
		if !x.current(q, day) {
			d, settled, err := (*dayCount)(nil), false, errMany
			if !x.late[day] && left > 0 {
				d, settled, err = x.count(context.Background(), q, day, left, nil)
			}
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue
			case errors.Is(err, errMany):
				x.late[day], whole = true, false
			case err != nil:
				return c, false, fmt.Errorf("count quarantine: %w", err)
			case settled:
				left -= d.total()
				x.days[day] = d
				counted = true
			default:
				left -= d.total()
				// Of use now, not to be trusted the next time.
				d.Dir = dayStamp{}
				x.days[day] = d
			}
		}
		d := x.days[day]
		if d == nil {
			continue
		}
		c.Total += d.total()
		c.Unreadable += d.Unreadable
		for k, n := range d.ByCode {
			c.ByCode[k] += n
		}
		if !d.Oldest.IsZero() && (c.Oldest.IsZero() || d.Oldest.Before(c.Oldest)) {
			c.Oldest = d.Oldest
		}
	}
	if counted {
		x.keep(q)
	}
	return c, whole, nil
}

// keep saves what was counted, unless the quarantine is being changed right
// now, or this process may not.
func (x *index) keep(q *Queue) {
	unlock, err := durable.Lock(q.path(quarantineLock))
	if err != nil {
		return
	}
	x.dirty = true
	if x.lazy == 0 {
		x.save(q)
	}
	unlock()
}

// oldest is the time before which a day has nothing, if that is known.
func (x *index) oldest(q *Queue, day string) (at time.Time, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.load(q)
	if !x.current(q, day) || x.days[day].Unreadable > 0 || x.days[day].total() == 0 {
		return at, false
	}
	return x.days[day].Oldest, true
}

// current says whether the figures of a day are those of its directory.
func (x *index) current(q *Queue, day string) bool {
	d := x.days[day]
	var st unix.Stat_t
	if d == nil || unix.Stat(q.path(quarantineDir, day), &st) != nil || d.Dir != dayStampOf(&st) {
		return false
	}
	for _, n := range slices.Clone(d.Broken) {
		if r, err := readReason(q.path(quarantineDir, day, n)); err == nil {
			if d.Unreadable > len(d.Broken) {
				return false // there are others, whose names were not kept
			}
			d.Broken = slices.DeleteFunc(d.Broken, func(b string) bool { return b == n })
			d.Unreadable--
			d.add(n, r.Code.Info().Code, r.QuarantinedAt)
		}
	}
	return true
}

// Recount reads through the days that QuickCounts left, and tells progress of
// each entry. It takes some ten seconds for a million entries, and no memory.
func (q *Queue) Recount(ctx context.Context, progress func()) error {
	x := &q.index
	x.counting.Lock()
	defer x.counting.Unlock()
	x.mu.Lock()
	late := slices.Sorted(maps.Keys(x.late))
	x.mu.Unlock()
	for _, day := range late {
		d, settled, err := x.count(ctx, q, day, 0, progress)
		x.mu.Lock()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			delete(x.late, day)
		case err != nil:
		case settled:
			delete(x.late, day)
			x.days[day] = d
			x.keep(q)
		case x.days[day] == nil || !x.current(q, day):
			d.Dir = dayStamp{}
			x.days[day] = d
		}
		x.mu.Unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("count quarantine: %w", err)
		}
	}
	return nil
}

var errMany = errors.New("more entries than are read in passing")

// count reads a day through: at most most entries, if that is not 0. settled
// says that nothing changed meanwhile, so that the figures are the directory's.
func (x *index) count(ctx context.Context, q *Queue, day string, most int, progress func()) (d *dayCount, settled bool, err error) {
	began := q.now()
	fd, st, err := q.openDay(day)
	if err != nil {
		return nil, false, err
	}
	defer unix.Close(fd)
	d = &dayCount{Dir: dayStampOf(&st)}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	n := 0
	var buf []byte
	err = readDir(ctx, fd, func(name []byte, typ byte, _ uint64) {
		if typ != unix.DT_DIR || ctx.Err() != nil {
			return
		}
		if n++; most > 0 && n > most {
			stop(errMany)
			return
		}
		var r brief
		var err error
		if r, buf, err = readBrief(fd, name, buf); errors.Is(err, fs.ErrNotExist) &&
			unix.Faccessat(fd, string(name), unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT {
			return
		}
		d.add(string(name), r.Code.Info().Code, r.QuarantinedAt)
		if progress != nil {
			progress()
		}
	})
	if most > 0 {
		x.read += min(n, most) // in passing only, under the lock
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return nil, false, err
	}
	var end unix.Stat_t
	settled = unix.Fstat(fd, &end) == nil && dayStampOf(&end) == d.Dir && stampOf(&st, began).settled
	return d, settled, nil
}

// openDay opens the directory of a day of the quarantine.
func (q *Queue) openDay(day string) (fd int, st unix.Stat_t, err error) {
	path := q.path(quarantineDir, day)
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fd, st, nil
}

// brief is what figures and the clean-up need of a reason.json.
type brief struct {
	Code          code.Code `json:"code"`
	QuarantinedAt time.Time `json:"quarantined_at"`
}

// readBrief reads it of an entry in the directory day, by few calls and into
// buf, which it may have to replace.
func readBrief(day int, name []byte, buf []byte) (brief, []byte, error) {
	path := string(name) + "/" + reasonFile
	fail := func(err error) (brief, []byte, error) {
		return brief{}, buf, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	fd, err := unix.Openat(day, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	if cap(buf) == 0 {
		buf = make([]byte, 4096)
	}
	n := 0
	for {
		if n == len(buf) {
			if n >= maxReason {
				return fail(fmt.Errorf("more than %d bytes", maxReason))
			}
			buf = append(buf, make([]byte, len(buf))...)
		}
		k, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail(err) // of a FIFO too: EAGAIN
		}
		if k == 0 {
			break
		}
		n += k
	}
	var r brief
	if err := json.Unmarshal(bytes.TrimSpace(buf[:n]), &r); err != nil {
		return fail(err)
	}
	if r.Code == "" || r.QuarantinedAt.IsZero() {
		return fail(errors.New("it has no code, or no quarantined_at"))
	}
	return r, buf, nil
}

// Search shows to each the entries with a code that under this key it has not
// been shown before, of all days. each returns from when on it wants to see the
// entry again under the same key, or the zero time if never. It may put the
// entry back, or discard it. What was shown is remembered across restarts.
//
// While nothing changes and nothing becomes due, a Search costs a stat per day.
func (q *Queue) Search(ctx context.Context, c code.Code, key string, now time.Time, progress func(), each func(Quarantined) time.Time) error {
	days, err := q.quarantineDays()
	if err != nil {
		return err
	}
	for _, day := range days {
		if err := q.searchDay(ctx, day, c, key, now, progress, each); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("search quarantine: %w", err)
		}
	}
	return nil
}

func (q *Queue) searchDay(ctx context.Context, day string, c code.Code, key string, now time.Time, progress func(), each func(Quarantined) time.Time) error {
	x := &q.index
	x.mu.Lock()
	x.load(q)
	known := x.current(q, day)
	d := x.days[day]
	if known && d.ByCode[c] == 0 {
		x.mu.Unlock()
		return nil
	}
	again := search{Code: c, Key: key, At: now, Done: true}
	show := func(name string) {
		e, ok := q.entry(day, name)
		if !ok || e.Err != nil || e.Reason.Code != c {
			return
		}
		switch until := each(e); {
		case until.IsZero():
		case len(again.Names) < maxAgain/2:
			again.Names = append(again.Names, name)
		case again.Until.IsZero() || until.Before(again.Until):
			again.Until = until
		}
		if progress != nil {
			progress()
		}
	}
	if known && d.Search != nil && d.Search.is(c, key, now) {
		// Done but for a few. What each changes is noted in the new one.
		names := d.Search.Names
		again.Until = d.Search.Until
		if len(names) == 0 {
			x.mu.Unlock()
			return nil
		}
		d.Search.Names, d.Search.Done = nil, false
		x.mu.Unlock()
		for _, n := range names {
			show(n)
		}
	} else {
		var begun *search
		if known {
			begun = &search{Code: c, Key: key, At: now}
			d.Search = begun
		}
		x.mu.Unlock()
		fd, _, err := q.openDay(day)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var buf []byte
		err = readDir(ctx, fd, func(name []byte, typ byte, _ uint64) {
			if typ != unix.DT_DIR || ctx.Err() != nil {
				return
			}
			var r brief
			if r, buf, err = readBrief(fd, name, buf); err == nil && r.Code == c {
				show(string(name))
			} else if progress != nil {
				progress()
			}
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if d := x.days[day]; d != nil && d.Search != nil && d.Search.Code == c && d.Search.Key == key {
		again.Names = append(again.Names, d.Search.Names...) // came meanwhile
		d.Search = &again
		x.keep(q)
	}
	return nil
}

// is says whether all but Names was shown.
func (s *search) is(c code.Code, key string, now time.Time) bool {
	return s.Done && s.Code == c && s.Key == key && (s.Until.IsZero() || now.Before(s.Until)) &&
		now.After(s.At.Add(-time.Minute)) // else the clock was set back
}
