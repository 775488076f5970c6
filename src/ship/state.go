package ship

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/health"
	"cis490/src/queue"
	"cis490/src/state"
	"cis490/src/version"
)

// facts is what the shipper remembers only to tell it.
type facts struct {
	mu       sync.Mutex
	success  state.Success
	last     state.Code
	problem  state.Code
	scanned  state.Scan
	free     state.Disk
	counts   queue.Counts
	counting bool // counts are not all in yet
	cleaned  time.Time
	cleanup  queue.Outcome
	strays   map[string]string
	open     state.Open
	lookedAt time.Time // into open/
	report   state.Report
	tried    time.Time     // when a report was last sent, whatever came of it
	said     health.Status // in it
	poll     state.Poll
	agreeing bool
	agreed   time.Time // wall clock: when the receiver's clock last agreed with ours
	reported *outage
	samples  []state.Sample // of the queue, one a minute
}

// outage is an outage that was reported.
type outage struct {
	code  code.Code
	since time.Time
}

func (f *facts) outcome(c code.Code, detail string) {
	now := time.Now()
	if f.last.Code != c {
		f.last = state.Code{Code: c, Since: now}
	}
	f.last.Detail, f.last.At = detail, now
	if c.Class() != code.Done {
		f.problem = f.last
	}
}

func (f *facts) shipped(id episode.ID, c code.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.success = state.Success{At: time.Now(), Episode: id}
	f.outcome(c, "")
}

func (f *facts) failed(fail *failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outcome(fail.code(), detail(fail.why))
}

func (f *facts) scan(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scanned = state.Scan{At: time.Now()}
	if err != nil {
		f.scanned.Error = err.Error()
	}
}

// sample notes how long the queue is and gives what it was some ten minutes ago,
// by the monotonic clock; nil while nothing was scanned.
func (f *facts) sample(now time.Time, q state.Queue) *state.Sample {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !q.Scanned {
		return nil
	}
	if n := len(f.samples); n == 0 || now.Sub(f.samples[n-1].At) >= time.Minute {
		f.samples = append(f.samples, state.Sample{At: now, Left: q.Left()})
		f.samples = f.samples[max(0, len(f.samples)-10):]
	}
	b := f.samples[0]
	b.At = b.At.UTC().Round(0)
	return &b
}

// stray says whether this about a stray is new.
func (f *facts) stray(name string, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.strays, name)
		return true
	}
	if f.strays[name] == err.Error() {
		return false
	}
	if f.strays == nil || len(f.strays) > 1000 {
		f.strays = map[string]string{}
	}
	f.strays[name] = err.Error()
	return true
}

// disk notes the free space and says whether it crossed min_free.
func (f *facts) disk(free, least int64) (changed, low bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	low = free < least
	changed = low != f.free.Low
	f.free = state.Disk{FreeBytes: free, MinFreeBytes: least, Low: low}
	return changed, low
}

// openIsDue says whether it is time to look into open/ again.
func (f *facts) openIsDue(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := now.Sub(f.lookedAt); d >= 0 && d < openEvery {
		return false
	}
	f.lookedAt = now
	return true
}

// leftOpen notes what lies in open/ and says whether that is more than before. What can't be told keeps the last count.
func (f *facts) leftOpen(o state.Open) (more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.Error != "" {
		f.open.Error = o.Error
		return false
	}
	more = o.LeftOver > f.open.LeftOver
	f.open = o
	return more
}

func (f *facts) quarantine(c queue.Counts, counting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts, f.counting = c, counting
}

// newTrouble says whether an outage, or its code, is to be reported.
func (f *facts) newTrouble(p pathView) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reported == nil {
		f.reported = &outage{since: p.since}
	}
	if f.reported.code == p.err.Code {
		return false
	}
	f.reported.code = p.err.Code
	return true
}

// troubleOver ends the outage that was reported, if there was one.
func (f *facts) troubleOver() (outage, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reported == nil {
		return outage{}, false
	}
	t := *f.reported
	f.reported = nil
	return t, true
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Round(0)
	return &t
}

// State is the state now.
func (s *Shipper) State() state.Shipper {
	p, q := s.sched.view()
	now := time.Now()
	st := state.Shipper{
		Schema: 1, Unit: state.ShipperUnit, Version: version.String(), PID: os.Getpid(), Host: s.cfg.Host, Key: s.key, Receiver: s.client.base.String(),
		StartedAt: s.begun.UTC().Round(0), WrittenAt: now.UTC().Round(0), Stopping: s.parkAt.Load() != 0,
		Queue:  state.Queue{Scanned: q.scanned, Waiting: q.waiting, InFlight: q.inFlight, Postponed: q.later, PostponedByCode: q.troubles},
		Path:   state.Path{Held: p.held, Since: timeOrNil(p.since), CodeSince: timeOrNil(p.codeSince), Probes: p.probes},
		Rate:   s.pace.state(),
		Totals: s.figures.totals(),
	}
	if p.err != nil {
		st.Path.Code, st.Path.Detail, st.Path.Fix = p.err.Code, detail(p.err), p.err.Code.Info().Fix
	}
	if p.held {
		st.Path.NextProbe = timeOrNil(p.next)
	}
	st.Queue.Before = s.facts.sample(now, st.Queue)
	if !q.oldest.IsZero() {
		o := &state.Oldest{Episode: q.oldest, SealedAt: now}
		// The directory last changed when it was sealed; the id is as old as the run.
		if fi, err := os.Lstat(s.queue.Dir(q.oldest)); err == nil && fi.ModTime().Before(now) {
			o.SealedAt = fi.ModTime()
		}
		o.AgeSeconds = int64(now.Sub(o.SealedAt) / time.Second)
		o.SealedAt = o.SealedAt.UTC().Round(0)
		st.Queue.Oldest = o
	}
	f := &s.facts
	f.mu.Lock()
	if !f.success.At.IsZero() {
		v := f.success
		v.At = v.At.UTC().Round(0)
		st.Success = &v
	}
	if f.last.Code != "" {
		v := f.last
		v.Since, v.At = v.Since.UTC().Round(0), v.At.UTC().Round(0)
		st.Last = &v
	}
	if f.problem.Code != "" {
		v := f.problem
		v.Since, v.At = v.Since.UTC().Round(0), v.At.UTC().Round(0)
		st.Problem = &v
	}
	st.Scan, st.Disk, st.Poll, st.Open, st.Report = f.scanned, f.free, f.poll, f.open, f.report
	st.Scan.At = st.Scan.At.UTC().Round(0)
	st.Poll.ClockAgreedAt = timeOrNil(f.agreed)
	st.Quarantine = state.Quarantine{Total: f.counts.Total, Counting: f.counting, ByCode: f.counts.ByCode, Unreadable: f.counts.Unreadable,
		Oldest: timeOrNil(f.counts.Oldest), CleanedAt: timeOrNil(f.cleaned), Cleanup: f.cleanup}
	f.mu.Unlock()
	late := map[string]string{}
	for _, l := range s.tracker.Late(now) {
		late[l.Name] = l.Overdue.Round(time.Second).String()
	}
	for i, u := range s.uploaders {
		w := state.Worker{Name: fmt.Sprintf("upload %d", i), Doing: *u.doing.Load()}
		if fl := u.flying.Load(); fl != nil {
			w.Episode, w.Attempt, w.Since = &fl.id, fl.attempt, timeOrNil(fl.began)
			w.SizeBytes, w.SentBytes = u.size.Load(), u.held.Load()
		}
		w.Late = late[w.Name]
		delete(late, w.Name)
		st.Workers = append(st.Workers, w)
	}
	for _, name := range slices.Sorted(maps.Keys(late)) {
		st.Workers = append(st.Workers, state.Worker{Name: name, Late: late[name]})
	}
	st.Summary = st.Line(now)
	return st
}

// writeState replaces state.json. It is for the running system and not made
// durable: after a power cut it would be wrong anyway.
func (s *Shipper) writeState(st state.Shipper) {
	if s.cfg.RunDir == "" {
		return
	}
	path := state.ShipperPath(s.cfg.RunDir)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = state.Write(path, st)
	}
	s.writing.report(s.log, "write the state file", err)
}
