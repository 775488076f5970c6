package store

import (
	"context"
	"errors"
	"time"

	"cis490/src/code"
)

// ScrubPlan is how a store is scrubbed all the time.
type ScrubPlan struct {
	Every time.Duration // each episode is read again this long after it was last; 0: never
	Rate  int64         // bytes per second; 0: as fast as it goes
}

const (
	markedAgain = 24 * time.Hour // what is damaged may have been mended
	scrubSoon   = time.Minute    // the shortest pause between two looks for what is due
	scrubPause  = time.Hour      // the longest
)

// KeepScrubbing scrubs what is due, until ctx ends. plan is asked before each
// turn. It returns when ctx has ended and it has stopped.
func (s *Store) KeepScrubbing(ctx context.Context, plan func() ScrubPlan) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	for ctx.Err() == nil {
		pause := scrubPause
		if p := plan(); p.Every > 0 {
			next, err := s.scrubTurn(ctx, p)
			if err == nil {
				pause = min(max(next, scrubSoon), scrubPause)
			} else if c, _ := code.Of(err); ctx.Err() == nil && !errors.Is(err, context.Canceled) && c != code.ReceiverBusy {
				s.log.Error("the store can't be scrubbed; the next attempt is in an hour", "error", err)
			} else {
				pause = scrubSoon // it made way, or the catalogue is being rebuilt
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// scrubTurn scrubs what is due, and says in how long the next will be.
func (s *Store) scrubTurn(ctx context.Context, p ScrubPlan) (next time.Duration, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	release, err := s.scrubs.begin(ctx, s.ctx, true)
	if err != nil {
		return 0, err
	}
	defer release()
	s.scrubs.setBackground(stop)
	if err := s.ready(); err != nil {
		return 0, err
	}
	cat, now := s.cat.Load(), s.opt.Now()
	walked, err := cat.Walked(ctx)
	if err != nil {
		return 0, s.catalogueFailed(err)
	}
	if walked.IsZero() {
		// A store that is new, or was not scrubbed before: there is no hurry.
		walked = now
		if err := cat.SetWalked(ctx, now); err != nil {
			return 0, s.catalogueFailed(err)
		}
	}
	due := now.Add(-p.Every)
	rep, err := s.scrub(ctx, ScrubOptions{Since: due, Marked: now.Add(-markedAgain), Rate: p.Rate, NoWalk: walked.After(due)})
	if rep.Faults() > 0 || rep.Mended > 0 {
		s.log.Info("scrubbed", "episodes", rep.Episodes, "bytes", rep.Bytes, "damaged", rep.Damaged, "mended", rep.Mended,
			"unlisted", rep.Unlisted, "strays", rep.Strays, "unread", rep.Unread)
	}
	if err != nil {
		return 0, err
	}
	if rep.Walked {
		if err := cat.SetWalked(ctx, now); err != nil {
			return 0, s.catalogueFailed(err)
		}
		walked = now
	}
	next = walked.Add(p.Every).Sub(s.opt.Now())
	oldest, found, err := cat.OldestCheck(ctx)
	if err != nil {
		return 0, s.catalogueFailed(err)
	}
	if found {
		next = min(next, oldest.Add(p.Every).Sub(s.opt.Now()))
	}
	return next, nil
}
