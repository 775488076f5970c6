package ship

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"cis490/src/code"
	"cis490/src/liveness"
	"cis490/src/queue"
	"cis490/src/state"
	"cis490/src/wire"
)

const (
	// pollGap is the least time between two polls.
	pollGap = time.Second
	// agreementHolds is for how long a look at the receiver's clock vouches for
	// this one.
	agreementHolds = 24 * time.Hour
	// maxSkewUntold is what the clocks may differ by when the receiver does not
	// say what it tolerates.
	maxSkewUntold = 5 * time.Minute
)

// poller asks the receiver for its state.
type poller struct {
	s      *Shipper
	worker *liveness.Worker
	meter  *meter

	reporting failing
}

// pollForever polls once per poll_interval, jittered, and when the window of an
// answer is not the one last seen.
func (s *Shipper) pollForever(ctx context.Context) {
	p := &poller{s: s, worker: s.tracker.Worker("poll")}
	defer p.worker.Done()
	c := s.cfg.Shipper
	p.meter = newMeter(c.ConnectTimeout, c.StallTimeout, c.ResponseTimeout, p.worker)
	for {
		began := time.Now()
		p.worker.Within(s.step)
		if !p.poll(ctx) && ctx.Err() == nil {
			// The path is held, and what waits is the better probe.
			p.worker.Idle()
			path, _ := s.sched.view()
			if !s.pause(ctx, max(pollGap, time.Until(path.next)+pollGap), s.pollNow) {
				return
			}
			continue
		}
		p.worker.Idle()
		d := c.PollInterval
		d = d/2 + rand.N(d/2+1) + d/4
		if in, on := s.reportIn(time.Now()); on && in > 0 { // one that is still due waits for a poll that succeeds
			d = min(d, in)
		}
		if !s.pause(ctx, d, s.pollNow) || !s.pause(ctx, time.Until(began.Add(pollGap)), nil) {
			return
		}
	}
}

// pause waits for d or for early, and is false when ctx ended.
func (s *Shipper) pause(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-early:
	}
	return true
}

// sawWindow is told the window id of every answer of the receiver.
func (s *Shipper) sawWindow(id string) {
	if old := s.windowID.Load(); old != nil && *old == id {
		return
	}
	s.windowID.Store(&id)
	poke(s.pollNow)
}

// poll polls once; false when it must not now.
func (p *poller) poll(ctx context.Context) bool {
	s := p.s
	f := s.sched.polls()
	if f == nil {
		return false
	}
	self, took, fail := s.client.whoami(ctx, p.meter)
	if fail != nil {
		if fail.parked {
			s.path(s.sched.polled(f, nil))
			return true
		}
		s.facts.pollFailed(fail)
		s.figures.pollFailed(fail.code())
		s.path(s.sched.polled(f, fail.why))
		poke(s.changed)
		return true
	}
	s.path(s.sched.polled(f, nil))
	now := time.Now()
	most := self.MaxSkew
	if most <= 0 {
		most = maxSkewUntold
	}
	// The receiver read its clock somewhere in the middle of the exchange.
	skew := self.ServerTime.Sub(now.Round(0).Add(-took / 2))
	agrees := skew.Abs() <= most+took/2
	if s.facts.polled(self, skew, most, agrees, now) && !agrees {
		s.event(code.ClockSkew, "this host's clock and the receiver's differ; nothing is cleaned up on its word",
			slog.Duration("skew", skew), slog.Duration("max_skew", most), slog.String("fix", code.ClockSkew.Info().Fix))
	}
	s.noteDamaged(self.Damaged)
	p.putBack(ctx, self.Window, agrees)
	poke(s.changed)
	p.report(ctx)
	return true
}

// putBack puts quarantined episodes that did not fit the receiver's window back
// into the queue, when the window has changed so that they do, or when by the
// passing of time they came to fit the same one. The verdict is the receiver's
// all the same, so each is put back once for one reason.
func (p *poller) putBack(ctx context.Context, w wire.Window, clockAgrees bool) {
	s := p.s
	now := time.Now().Round(0)
	if !clockAgrees {
		// By the receiver's clock, which is what it judges by.
		now = now.Add(time.Duration(s.facts.skew() * float64(time.Second)))
	}
	n, first := 0, ""
	err := s.queue.Search(ctx, code.OutOfWindow, w.ID, now, p.worker.Progress, func(e queue.Quarantined) (again time.Time) {
		r := e.Reason
		if r.Started == nil || r.Ended == nil || e.ID.IsZero() {
			return time.Time{}
		}
		if _, ok := w.Admits(*r.Started, *r.Ended, now); !ok {
			// Time makes nothing fit but what lies ahead.
			if at := r.Ended.Add(-w.MaxAhead); w.MaxAhead > 0 && at.After(now) {
				return at
			}
			return time.Time{}
		}
		if r.WindowID == w.ID {
			if _, did := w.Admits(*r.Started, *r.Ended, r.QuarantinedAt); did {
				return time.Time{} // the receiver sees it otherwise, and its word counts
			}
		}
		if _, err := s.queue.Requeue(ctx, queue.Selection{Names: []string{e.Day + "/" + e.Name}}); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("put back what fits the receiver's window", "episode", e.Name, "err", err.Error())
			}
			return now.Add(time.Minute)
		}
		if n++; n == 1 {
			first = e.Name
		}
		return time.Time{}
	})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("look through the quarantine for the receiver's window", "err", err.Error())
	}
	if n > 0 {
		s.log.Info("put back: they fit the receiver's window now", "episodes", n, "window_id", w.ID, "first", first)
		s.sched.returned()
		s.countQuarantine()
		poke(s.kicked)
	}
}

// noteDamaged notes which of this host's acknowledged episodes the receiver holds
// no sound copy of any more, and tells when that has changed.
func (s *Shipper) noteDamaged(d wire.Damaged) {
	was, changed := s.facts.damaged(d)
	switch {
	case !changed:
	case d.Count == 0:
		s.log.Info("the receiver's copies are all sound again", "were_damaged", was)
	default:
		ids := make([]string, len(d.Episodes))
		for i, id := range d.Episodes {
			ids[i] = id.String()
		}
		s.event(code.CopyDamaged, "the receiver no longer holds a sound copy of acknowledged episodes", slog.Int64("episodes", d.Count),
			slog.String("first", strings.Join(ids, " ")), slog.String("fix", code.CopyDamaged.Info().Fix))
	}
}

// damaged notes what the receiver said, and whether that is another thing than
// before; was is the count before.
func (f *facts) damaged(d wire.Damaged) (was int64, changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.poll.Damaged != nil {
		was = f.poll.Damaged.Count
		changed = !slices.Equal(f.poll.Damaged.Episodes, d.Episodes)
	}
	changed = changed || was != d.Count
	f.poll.Damaged = nil
	if d.Count > 0 {
		f.poll.Damaged = &d
	}
	return was, changed
}

// pollFailed notes a poll without success.
func (f *facts) pollFailed(fail *failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now().UTC().Round(0)
	c := state.Code{Code: fail.code(), Since: now}
	if old := f.poll.Failure; old != nil && old.Code == c.Code {
		c.Since = old.Since
	}
	c.Detail, c.At = detail(fail.why), now
	f.poll.Failure = &c
}

// polled notes what the receiver said, and whether it is news about the clocks.
func (f *facts) polled(self wire.Self, skew, most time.Duration, agrees bool, now time.Time) (news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &f.poll
	news = agrees != f.agreeing || p.LastSuccess == nil
	f.agreeing = agrees
	p.LastSuccess, p.Failure = timeOrNil(now), nil
	p.SkewSeconds, p.MaxSkewSeconds = skew.Seconds(), most.Seconds()
	p.KnownAs, p.ReceiverVersion = self.Host, self.ReceiverVersion
	w := self.Window
	p.Window = &w
	f.agreed = time.Time{}
	if agrees {
		f.agreed = now.Round(0) // wall clock: a clock that jumps must be seen to
	}
	return news
}

func (f *facts) skew() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.poll.SkewSeconds
}

// clockAgreed says whether the receiver's clock agreed with ours, as far as is
// known, within the last 24 hours of the wall clock.
func (f *facts) clockAgreed(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.agreed.IsZero() {
		return false
	}
	age := now.Round(0).Sub(f.agreed)
	return age >= -time.Minute && age <= agreementHolds
}
