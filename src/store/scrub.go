package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
)

// A scrub reads what is stored anew and compares it with its digests, the
// longest unread first. It marks what is damaged and lifts the mark of what is
// sound again; it never removes, moves or mends a file.

// Kind says what a [Finding] is about.
type Kind string

const (
	FoundDamaged  Kind = "damaged"  // an acknowledged episode is not what it was; it is marked
	FoundUnlisted Kind = "unlisted" // the catalogue doesn't list what is stored, or says something else of it
	FoundStray    Kind = "stray"    // a file or directory that is no episode's
	FoundUnread   Kind = "unread"   // it could not be looked at, for a reason that says nothing about it
	FoundMended   Kind = "mended"   // no fault: what was marked as damaged is sound again
)

// Fix says what to do about findings of a kind.
func (k Kind) Fix() string {
	switch k {
	case FoundDamaged:
		return "If the host still has the episode (cis490-shipper audit, there), it can send it again, and a sound copy takes the damaged one's place. Else restore the file from a backup, then: cis490-receiver scrub. Look for disk errors: journalctl -k -p err; smartctl -a"
	case FoundUnlisted:
		return "cis490-receiver reindex"
	case FoundMended:
		return "Nothing to do."
	case FoundStray:
		return "Look at it, and move it out of the store if it is of no use."
	}
	return "journalctl -u cis490-receiver -p err, then: cis490-receiver scrub"
}

// Finding is one thing that a scrub found to be wrong.
type Finding struct {
	Kind    Kind       `json:"kind"`
	Host    string     `json:"host,omitempty"`
	Episode episode.ID `json:"episode,omitzero"`
	Path    string     `json:"path"` // below the store's directory
	What    string     `json:"what"`
	Fix     string     `json:"fix"`
	Since   string     `json:"since,omitempty"` // RFC 3339: an earlier scrub found it
}

// ScrubReport sums up a scrub.
type ScrubReport struct {
	Begun    time.Time `json:"begun"`
	Episodes int64     `json:"episodes"`      // looked at
	Bytes    int64     `json:"archive_bytes"` // read
	Sound    int64     `json:"sound"`
	Mended   int64     `json:"mended"` // of these: were marked as damaged before
	Damaged  int64     `json:"damaged"`
	Unlisted int64     `json:"unlisted"`
	Strays   int64     `json:"strays"`
	Unread   int64     `json:"unread"`
	Walked   bool      `json:"walked"` // strays and what is unlisted were looked for
}

// Faults is how much was found.
func (r *ScrubReport) Faults() int64 { return r.Damaged + r.Unlisted + r.Strays + r.Unread }

// ScrubProgress is how far a scrub is.
type ScrubProgress struct {
	Episodes, Bytes     int64 // looked at, read
	OfEpisodes, OfBytes int64 // that there are to be
	Files               int64 // that were looked at for strays, at the end
}

// ScrubOptions say what to look at. The zero value is everything, as fast as it goes.
type ScrubOptions struct {
	Since    time.Time // pass over what was checked at this time or later
	Marked   time.Time // the same, for what is marked as damaged; zero: pass over none
	Host     string    // only this host's
	Rate     int64     // bytes of archives per second; 0: as fast as it goes
	NoWalk   bool      // don't look for strays and for what is unlisted
	Found    func(Finding)
	Progress func(ScrubProgress)
}

// Scrub looks at the store as the options say, one episode after the other, with
// the lowest priority for CPU and disk. What was acknowledged meanwhile is not looked at.
// When ctx ends it stops; another one with Since set to the report's Begun goes on where it stopped.
// One runs at a time: another gets receiver-busy, unless it is the one of
// [Store.KeepScrubbing], which makes way.
func (s *Store) Scrub(ctx context.Context, o ScrubOptions) (ScrubReport, error) {
	if o.Host != "" && !episode.ValidHost(o.Host) {
		return ScrubReport{}, code.New(code.Malformed, "%.80q is not the name of a host", o.Host)
	}
	release, err := s.scrubs.begin(ctx, s.ctx, false)
	if err != nil {
		return ScrubReport{}, err
	}
	defer release()
	return s.scrub(ctx, o)
}

// scrubs sees to it that there is one scrub at a time.
type scrubs struct {
	mu         sync.Mutex
	episodes   atomic.Int64  // looked at since the start
	bytes      atomic.Int64  // of archives read since the start
	running    chan struct{} // closed when it has ended; nil: none runs
	background context.CancelFunc
}

var errScrubbing = code.New(code.ReceiverBusy, "another scrub is under way")

func (c *scrubs) begin(ctx, store context.Context, background bool) (release func(), err error) {
	for {
		c.mu.Lock()
		if store.Err() != nil {
			c.mu.Unlock()
			return nil, code.Wrap(code.ReceiverBusy, ErrClosed, "scrub")
		}
		running, stop := c.running, c.background
		if running == nil {
			mine := make(chan struct{})
			c.running = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				c.running, c.background = nil, nil
				c.mu.Unlock()
				close(mine)
			}, nil
		}
		c.mu.Unlock()
		if !background && stop == nil {
			return nil, errScrubbing
		}
		if !background {
			stop()
		}
		select {
		case <-running:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// wait waits for the one that runs when the store is being closed.
func (c *scrubs) wait() {
	c.mu.Lock()
	running := c.running
	c.mu.Unlock()
	if running != nil {
		<-running
	}
}

// Scrubbed is how many episodes, and bytes of archives, all scrubs since Open
// have read.
func (s *Store) Scrubbed() (episodes, bytes int64) {
	return s.scrubs.episodes.Load(), s.scrubs.bytes.Load()
}

// setBackground says that the scrub that runs makes way when stop is called.
func (c *scrubs) setBackground(stop context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.background = stop
}

type scrubber struct {
	s   *Store
	ctx context.Context
	o   ScrubOptions
	w   Worker
	rep ScrubReport
	p   ScrubProgress

	limit  *rate.Limiter // nil: none
	checks []catalog.Check
	since  time.Time // of the first of them
}

const (
	checksBatch = 256
	checksAge   = 5 * time.Second
)

func (s *Store) scrub(ctx context.Context, o ScrubOptions) (rep ScrubReport, err error) {
	if err := s.ready(); err != nil {
		return rep, err
	}
	if err := s.catchUp(ctx); err != nil {
		return rep, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	now := s.opt.Now()
	b := &scrubber{s: s, ctx: ctx, o: o, w: s.opt.Worker("scrub")}
	defer b.w.Done()
	b.rep.Begun = now.UTC()
	if o.Rate > 0 {
		b.limit = rate.NewLimiter(rate.Limit(o.Rate), scrubRead)
	}
	sound, marked := now, now
	if !o.Since.IsZero() && o.Since.Before(now) {
		sound = o.Since
	}
	if !o.Marked.IsZero() {
		marked = o.Marked
	}
	b.w.Within(s.opt.Within)
	cat := s.cat.Load()
	if b.p.OfEpisodes, b.p.OfBytes, err = cat.CountUnchecked(ctx, marked, sound, o.Host); err != nil {
		return b.rep, s.catalogueFailed(err)
	}
	low := newLowly()
	defer low.end()
	for row, err := range cat.Unchecked(ctx, marked, sound, o.Host) {
		if err == nil {
			err = b.episode(low, row)
		}
		if err != nil {
			return b.rep, errors.Join(b.failed(err), b.flush())
		}
	}
	if err := b.flush(); err != nil {
		return b.rep, err
	}
	if !o.NoWalk {
		if err := b.walk(); err != nil {
			return b.rep, b.failed(err)
		}
		b.rep.Walked = true
	}
	return b.rep, nil
}

func (b *scrubber) failed(err error) error {
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	if catalog.IsCorrupt(err) {
		return b.s.catalogueFailed(err)
	}
	return fmt.Errorf("scrub: %w", err)
}

func (b *scrubber) found(f Finding) {
	switch f.Kind {
	case FoundDamaged:
		b.rep.Damaged++
	case FoundUnlisted:
		b.rep.Unlisted++
	case FoundStray:
		b.rep.Strays++
	case FoundMended:
		b.rep.Mended++
	default:
		b.rep.Unread++
	}
	f.Fix = f.Kind.Fix()
	if b.o.Found != nil {
		b.o.Found(f)
	}
	if f.Kind != FoundDamaged { // that is told when it is marked
		b.s.tell(f)
	}
}

// tell tells the store's owner.
func (s *Store) tell(f Finding) {
	f.Fix = f.Kind.Fix()
	if s.opt.Found != nil {
		s.opt.Found(f)
	}
}

func (b *scrubber) progress() {
	b.w.Progress()
	if b.o.Progress != nil {
		b.o.Progress(b.p)
	}
}

// episode looks at one episode and keeps what it found.
func (b *scrubber) episode(low *lowly, row catalog.Row) error {
	s := b.s
	if _, underway := s.unindexed.lookup(row.Facts.ID); underway {
		return nil // it has just been stored anew
	}
	base := b.p.Bytes
	in := &inspection{s: s, row: row, tell: func(n int) error {
		b.p.Bytes += int64(n)
		b.rep.Bytes += int64(n)
		s.scrubs.bytes.Add(int64(n))
		b.progress()
		if b.limit == nil {
			return b.ctx.Err()
		}
		b.w.Idle()
		defer b.w.Within(s.opt.Within)
		return b.limit.WaitN(b.ctx, n)
	}}
	low.do(in.run)
	// What is left of the size that was expected of it.
	b.p.Bytes = base + row.Receipt.ArchiveSize
	if in.err != nil && b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	b.p.Episodes++
	b.rep.Episodes++
	s.scrubs.episodes.Add(1)
	b.progress()

	// It was read without being held, for it may have taken hours. Whatever was stored
	// in its place meanwhile was verified just then.
	release, err := s.holds.hold(b.ctx, row.Facts.ID)
	if err != nil {
		return err
	}
	defer release()
	if _, underway := s.unindexed.lookup(row.Facts.ID); underway {
		return nil
	}
	now, found, err := s.cat.Load().Lookup(b.ctx, row.Facts.ID)
	if err != nil {
		return err
	}
	if !found || now.Receipt != row.Receipt || in.moved() {
		return nil
	}
	f := Finding{Host: row.Facts.Host, Episode: row.Facts.ID, Path: in.path, What: in.what}
	switch {
	case in.err != nil:
		f.Kind, f.What = FoundUnread, in.err.Error()
		b.found(f)
	case in.damaged:
		f.Kind = FoundDamaged
		if now.Damaged != "" {
			f.Since, _, _ = strings.Cut(now.Damaged, ": ")
		}
		if _, err := s.mark(now, in.path, in.what); err != nil {
			return err
		}
		b.found(f)
	default:
		if in.what != "" {
			f.Kind = FoundUnlisted
			b.found(f)
		} else {
			b.rep.Sound++
		}
		if now.Damaged != "" {
			if err := b.mended(now); err != nil {
				return err
			}
		}
		if len(b.checks) == 0 {
			b.since = time.Now()
		}
		b.checks = append(b.checks, catalog.Check{ID: row.Facts.ID, At: s.opt.Now()})
		if len(b.checks) >= checksBatch || time.Since(b.since) > checksAge {
			return b.flush()
		}
	}
	return nil
}

// mended lifts the mark of an episode that is sound again.
func (b *scrubber) mended(row catalog.Row) error {
	s := b.s
	d := day(row.Facts.Host, row.Facts.Started)
	dir, err := openDir(s.ep, d)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := s.unmark(dir, row.Facts.ID); err != nil {
		return err
	}
	if err := s.cat.Load().SetChecked(context.WithoutCancel(b.ctx), []catalog.Check{{ID: row.Facts.ID, At: s.opt.Now(), Lift: true}}); err != nil {
		return err
	}
	b.found(Finding{Kind: FoundMended, Host: row.Facts.Host, Episode: row.Facts.ID, Path: s.inStore(row, archiveName(row.Facts.ID)), What: "marked as damaged: " + row.Damaged})
	return nil
}

// flush enters what was found sound. Were it lost, it would only be looked at again.
func (b *scrubber) flush() error {
	checks := b.checks
	b.checks = b.checks[:0]
	return b.s.cat.Load().SetChecked(context.WithoutCancel(b.ctx), checks)
}

// lowly does work on a thread of the lowest priority, which ends with it: a
// thread may not raise its priority again.
type lowly struct {
	jobs chan func()
	done chan struct{}
}

func newLowly() *lowly {
	l := &lowly{make(chan func()), make(chan struct{})}
	go func() {
		defer close(l.done)
		runtime.LockOSThread() // for good
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
		const self, process, idle = 0, 1, 3 << 13 // ioprio_set(2); where it is not allowed, or does nothing, there is still the rate
		_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, process, self, idle)
		for job := range l.jobs {
			job()
			l.done <- struct{}{}
		}
	}()
	return l
}

func (l *lowly) do(job func()) {
	l.jobs <- job
	<-l.done
}

func (l *lowly) end() {
	close(l.jobs)
	<-l.done
}
