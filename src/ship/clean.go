package ship

import (
	"context"
	"time"

	"cis490/src/code"
	"cis490/src/liveness"
	"cis490/src/queue"
)

// cleanForever cleans up at the start of each scan pass that finds a clean-up
// due. It is beside the pass, so that taking much away delays no episode; it is
// a worker of its own to the watchdog.
func (s *Shipper) cleanForever(ctx context.Context) {
	w := s.tracker.Worker("clean-up")
	defer w.Done()
	unknown, said := time.Time{}, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.cleanNow:
		}
		w.Within(s.step)
		now := time.Now()
		s.recount(ctx, w)
		r, err := s.queue.Cleanup(ctx, now, queue.CleanupOptions{
			KeepDays: s.cfg.Shipper.QuarantineKeepDays, Interval: s.cfg.Shipper.QuarantineCleanupInterval,
			ClockAgreed: s.facts.clockAgreed(now), Progress: w.Progress,
			Removed: func(x queue.Removed) {
				// By the code under which it was set aside, but it is no news of that code.
				s.log.Info("removed from quarantine: kept long enough", "episode", x.Name, "code", string(x.Code), "age", x.Age.Round(time.Second),
					"quarantine_keep_days", s.cfg.Shipper.QuarantineKeepDays)
			},
			Failed: func(x queue.Failed) {
				s.log.Error("remove from quarantine; it is tried again", "episode", x.Name, "code", string(x.Code), "err", text(x.Err))
			},
		})
		w.Idle()
		for _, x := range r.Strange {
			s.log.Warn("kept in quarantine: its reason.json can't be read, so it has no age", "episode", x.Name, "err", text(x.Err), "of", r.Unreadable)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Error("clean up", "err", err.Error())
		}
		if r.Outcome == queue.CleanupNotDue || r.Outcome == "" {
			continue
		}
		switch {
		case r.Outcome != queue.CleanupClockUnknown:
			unknown, said = time.Time{}, false
		case unknown.IsZero():
			unknown = now
		case !said && now.Sub(unknown) >= clockPatience && s.facts.asideTotal() > 0:
			said = true
			s.log.Warn("quarantine not cleaned up: the receiver has not confirmed this host's clock", "fix", code.ClockSkew.Info().Fix)
		}
		s.facts.cleanedUp(r.Outcome, now)
		s.figures.cleanedUp(r.Removed)
		if r.Removed > 0 {
			s.countQuarantine()
			poke(s.changed)
		}
	}
}

// recount counts days of the quarantine that take longer than a scan pass may.
func (s *Shipper) recount(ctx context.Context, w *liveness.Worker) {
	_, whole, err := s.queue.QuickCounts()
	if err != nil || whole {
		return
	}
	if err := s.queue.Recount(ctx, w.Progress); err != nil && ctx.Err() == nil {
		s.log.Warn("count what is in quarantine", "err", err.Error())
		return
	}
	s.countQuarantine()
	poke(s.changed)
}

// clockPatience is for how long the clean-up waits for the receiver's word on the
// clock before it says so.
const clockPatience = 10 * time.Minute

func (f *facts) asideTotal() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts.Total
}

func (f *facts) cleanedUp(o queue.Outcome, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cleanup = o
	if o == queue.CleanupRan {
		f.cleaned = now
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
