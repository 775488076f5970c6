package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/durable"
)

// CleanupOptions says when and what Cleanup removes.
type CleanupOptions struct {
	KeepDays    int           // entries of the quarantine older than this many days of 24 h go; 0: none ever
	Interval    time.Duration // Cleanup does its work at most once in this time; 0: at every call
	ClockAgreed bool          // this clock was seen to agree with the receiver's in the last 24 h
	Progress    func()        // called at each step forward; may be nil
	Removed     func(Removed) // called for each entry that was taken away; may be nil
	Failed      func(Failed)  // called for each that could not be; may be nil
}

const maxKeepDays = 36500 // what a time.Duration holds, and a century

// Outcome says what a Cleanup came to.
type Outcome string

const (
	CleanupNotDue       Outcome = "not-due"       // ran less than Interval ago; it cost no more than a comparison
	CleanupClockUnknown Outcome = "clock-unknown" // due, but ClockAgreed is false: nothing was removed
	CleanupOff          Outcome = "off"           // KeepDays is 0: the quarantine was left alone, shipped/ was not
	CleanupRan          Outcome = "ran"
)

// Removed is an entry that Cleanup took away.
type Removed struct {
	Name string
	Code code.Code
	Age  time.Duration // from quarantined_at
}

// Failed is something that Cleanup could not take away or not judge.
type Failed struct {
	Name string    // of an entry; of anything else its path
	Code code.Code // "" when reason.json could not be read
	Age  time.Duration
	Err  error
}

// Report is what a Cleanup did. It is of a bounded size, see CleanupOptions for each entry.
type Report struct {
	Outcome    Outcome
	Removed    int      // entries of the quarantine that were taken away
	Failed     int      // due, but the removal failed; the next Cleanup tries again
	Unreadable int      // kept: without a readable quarantined_at they have no age
	Strange    []Failed // the first few of the Unreadable
	Shipped    int      // taken from shipped/ because keep_shipped passed: episodes, whole days as one
}

// maxStrange bounds Report.Strange.
const maxStrange = 16

// gate is when Cleanup last ran.
type gate struct {
	mu     sync.Mutex
	loaded bool
	last   time.Time
}

const gateFile = quarantineDir + "/.cleanup.json"

type gateRecord struct {
	LastRun time.Time `json:"last_run"`
}

// Cleanup removes from quarantine what has been there for longer than KeepDays,
// from shipped/ what was kept long enough, and, in the process that ships, what
// earlier removals left. The time of the last run is durable, so that the
// interval also holds across restarts; it is noted before the work begins, so
// that work which kills the process is not begun anew at each start. Days that
// can't have expired are not opened. A clock that was set back since the last
// run makes Cleanup due.
//
// An error does not mean that nothing was removed: the Report is always valid.
func (q *Queue) Cleanup(ctx context.Context, now time.Time, o CleanupOptions) (Report, error) {
	g := &q.cleanup
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.loaded {
		g.last, g.loaded = q.loadGate(), true
	}
	if since := now.Sub(g.last); !g.last.IsZero() && since >= 0 && since < o.Interval {
		return Report{Outcome: CleanupNotDue}, nil
	}
	if !o.ClockAgreed {
		return Report{Outcome: CleanupClockUnknown}, nil
	}
	g.last = now
	var errs []error
	if err := q.saveGate(now); err != nil {
		// A full disk is no reason not to make room; this process keeps the interval all the same.
		errs = append(errs, fmt.Errorf("note the time of the clean-up: %w", err))
	}
	r := Report{Outcome: CleanupRan}
	if o.KeepDays > 0 {
		errs = append(errs, q.cleanQuarantine(ctx, now, time.Duration(min(o.KeepDays, maxKeepDays))*24*time.Hour, o, &r))
	} else {
		r.Outcome = CleanupOff
	}
	errs = append(errs, q.cleanShipped(ctx, now, time.Duration(q.keepShipped.Load()), o, &r))
	if q.locked.Load() {
		for _, f := range append(q.sweep(ctx, steps(o.Progress)), q.stuckSources()...) {
			o.failed(&r, f)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return r, fmt.Errorf("clean up: %w", err)
	}
	return r, nil
}

func (o CleanupOptions) failed(r *Report, f Failed) {
	r.Failed++
	if o.Failed != nil {
		o.Failed(f)
	}
}

// steps makes a Worker of a function that may be nil.
type steps func()

func (s steps) Within(time.Duration) {}
func (s steps) Idle()                {}
func (s steps) Progress() {
	if s != nil {
		s()
	}
}

func (q *Queue) loadGate() time.Time {
	var rec gateRecord
	b, err := readSmall(q.path(gateFile), 4096)
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		q.log.Warn("The time of the last clean-up can't be read; it is due.", "file", q.path(gateFile), "error", err)
	}
	return rec.LastRun
}

func (q *Queue) saveGate(now time.Time) error {
	b, err := json.Marshal(gateRecord{now.UTC()})
	if err != nil {
		return err
	}
	return durable.WriteFile(q.path(gateFile), append(b, '\n'), 0o644)
}

// expirable are the days of dir whose first moment lies keep or longer before now.
func (q *Queue) expirable(dir string, now time.Time, keep time.Duration) ([]string, error) {
	days, err := q.days(dir)
	if err != nil {
		return nil, err
	}
	for i, day := range days {
		began, _ := time.Parse(dayLayout, day)
		if now.Sub(began) < keep {
			return days[:i], nil
		}
	}
	return days, nil
}

func (q *Queue) cleanQuarantine(ctx context.Context, now time.Time, keep time.Duration, o CleanupOptions, r *Report) error {
	days, err := q.expirable(quarantineDir, now, keep)
	if err != nil {
		return err
	}
	defer q.index.later(q)()
	var errs []error
	for _, day := range days {
		if oldest, known := q.index.oldest(q, day); known && now.Sub(oldest) < keep {
			continue
		}
		if err := q.cleanDay(ctx, day, now, keep, o, r); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
		if release, err := q.lockQuarantine(ctx); err == nil {
			q.dropDay(day)
			release()
		}
	}
	return errors.Join(errs...)
}

// cleanDay goes through one day as the directory gives it: what is unlinked
// while it is read does not confuse that (readdir(3)), and what the file system
// should skip the next clean-up finds.
func (q *Queue) cleanDay(ctx context.Context, day string, now time.Time, keep time.Duration, o CleanupOptions, r *Report) error {
	fd, _, err := q.openDay(day)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	w := steps(o.Progress)
	var buf []byte
	var lock error
	err = readDir(ctx, fd, func(name []byte, typ byte, _ uint64) {
		if typ != unix.DT_DIR || ctx.Err() != nil || lock != nil {
			return
		}
		var b brief
		var err error
		if b, buf, err = readBrief(fd, name, buf); err != nil || now.Sub(b.QuarantinedAt) >= keep {
			lock = q.expire(day, string(name), now, keep, o, r)
		}
		w.Progress()
	})
	return errors.Join(err, lock, ctx.Err())
}

// expire judges one entry and removes it if it is due. Under the lock: an entry
// that another process puts back or discards meanwhile is either still whole
// here, or gone. The error is that of the lock alone.
func (q *Queue) expire(day, name string, now time.Time, keep time.Duration, o CleanupOptions, r *Report) error {
	release, err := q.lockQuarantine(context.Background())
	if err != nil {
		return err
	}
	e, ok := q.entry(day, name)
	if !ok {
		release()
		return nil
	}
	if e.Err != nil {
		release()
		if r.Unreadable++; len(r.Strange) < maxStrange {
			r.Strange = append(r.Strange, Failed{Name: name, Err: e.Err})
		}
		return nil
	}
	age := now.Sub(e.Reason.QuarantinedAt)
	if age < keep {
		release()
		return nil
	}
	gone, err := q.trash(e)
	release()
	w := steps(o.Progress)
	w.Progress()
	if err == nil && gone != "" {
		if err = removeTree(gone, w); err != nil {
			err = fmt.Errorf("it is out of the quarantine, but not all of it could be removed: %w", err)
		}
	}
	if err != nil {
		o.failed(r, Failed{Name: name, Code: e.Reason.Code, Age: age, Err: err})
		return nil
	}
	r.Removed++
	if o.Removed != nil {
		o.Removed(Removed{Name: name, Code: e.Reason.Code, Age: age})
	}
	return nil
}

// cleanShipped removes whole days that have passed, and of a day that has
// passed in part the episodes that were moved there long enough ago: rename(2)
// sets the ctime of what it moves.
func (q *Queue) cleanShipped(ctx context.Context, now time.Time, keep time.Duration, o CleanupOptions, r *Report) error {
	days, err := q.expirable(shippedDir, now, keep)
	if err != nil {
		return err
	}
	w := steps(o.Progress)
	remove := func(path string) {
		gone, err := durable.MoveToTrash(path, q.path(removingDir))
		w.Progress()
		if err == nil && gone != "" {
			err = removeTree(gone, w)
		}
		if err != nil {
			o.failed(r, Failed{Name: path, Err: err})
		} else {
			r.Shipped++
		}
		w.Progress()
	}
	var errs []error
	for _, day := range days {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		dir := q.path(shippedDir, day)
		if began, _ := time.Parse(dayLayout, day); now.Sub(began.Add(24*time.Hour)) >= keep {
			remove(dir)
			continue
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			errs = append(errs, &fs.PathError{Op: "open", Path: dir, Err: err})
			continue
		}
		err = readDir(ctx, fd, func(name []byte, _ byte, _ uint64) {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && now.Sub(time.Unix(st.Ctim.Unix())) >= keep {
				remove(dir + "/" + string(name))
			}
			w.Progress()
		})
		unix.Close(fd)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
