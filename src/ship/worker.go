package ship

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/liveness"
	"cis490/src/queue"
)

// What an uploader is at.
const (
	stepIdle   = ""
	stepRead   = "read the episode"
	stepPack   = "read and pack the episode"
	stepSend   = "send"
	stepAsk    = "ask for the offset"
	stepVerify = "verify the copy on disk"
	stepAside  = "set the episode aside"
	stepHand   = "hand the receipt over"
)

// uploader is one upload worker: it takes flights from the scheduler and brings
// each to its end.
type uploader struct {
	s      *Shipper
	slot   int
	worker *liveness.Worker
	acker  *liveness.Worker // of the goroutine beside it, which records receipts
	meter  *meter
	done   chan struct{}

	// What it is at, for those who look.
	doing  atomic.Pointer[string]
	flying atomic.Pointer[flight]
	cut    atomic.Pointer[context.CancelCauseFunc] // ends the attempt as a stop would
	size   atomic.Int64                            // tar bytes in all
	held   atomic.Int64                            // tar bytes sent, counting what the receiver held before
	from   atomic.Int64                            // tar bytes that it held when this attempt began
	began  atomic.Int64                            // UnixNano of when sending began
	handed atomic.Int64                            // packed bytes sent in this attempt
}

func newUploader(s *Shipper, slot int) *uploader {
	c := s.cfg.Shipper
	u := &uploader{s: s, slot: slot, done: make(chan struct{}),
		worker: s.tracker.Worker(fmt.Sprintf("upload %d", slot)), acker: s.tracker.Worker(fmt.Sprintf("acknowledge %d", slot))}
	u.meter = newMeter(c.ConnectTimeout, c.StallTimeout, c.ResponseTimeout, u.worker)
	u.at(stepIdle)
	return u
}

// at notes what the worker does.
func (u *uploader) at(step string) {
	u.doing.Store(&step)
	if step != stepIdle {
		u.worker.Doing(step)
	}
	u.worker.Progress()
}

func (u *uploader) sizes(total int64) {
	u.size.Store(total)
	u.held.Store(0)
	u.from.Store(0)
	u.handed.Store(0)
	u.began.Store(time.Now().UnixNano())
}

// sent notes how many tar bytes the receiver holds or was sent.
func (u *uploader) sent(n int64) {
	if u.held.Load() == 0 {
		u.from.Store(n)
	}
	u.held.Store(n)
}

// parks says, at the end of a frame, whether to stop there: when there are to be
// no uploads for now, or when the shipper stops and this one would not end in the
// time that is left.
func (u *uploader) parks() bool {
	if _, off := u.s.pace.off(); off {
		return true
	}
	at := u.s.parkAt.Load()
	if at == 0 {
		return false
	}
	now := time.Now()
	left := time.Unix(0, at).Sub(now)
	if left <= 0 {
		return true
	}
	spent := now.Sub(time.Unix(0, u.began.Load()))
	done, rest := u.held.Load()-u.from.Load(), u.size.Load()-u.held.Load()
	return done <= 0 || float64(rest)/float64(done)*float64(spent) > float64(left)
}

// advanced notes that the receiver holds more of the episode than before.
func (u *uploader) advanced(f *flight) {
	u.worker.Progress()
	if err := u.s.queue.Advanced(f.id); err != nil {
		u.s.log.Debug("note an advance", "episode", f.id.String(), "err", err.Error())
	}
	u.s.path(u.s.sched.advanced(f, true))
}

// run takes one flight after the other.
func (u *uploader) run(ctx context.Context) {
	defer close(u.done)
	defer u.worker.Done()
	for {
		f := u.s.sched.take()
		if f == nil {
			return
		}
		u.flying.Store(f)
		u.worker.Within(u.s.step)
		if u.hasRoom(f) {
			mine, cut := context.WithCancelCause(ctx)
			u.cut.Store(&cut)
			u.one(mine, f)
			u.cut.Store(nil)
			cut(nil)
		}
		u.flying.Store(nil)
		u.at(stepIdle)
		u.worker.Idle()
	}
}

// hasRoom says whether a flight can go on beside what is under way, as far as can
// be told without opening its episode.
func (u *uploader) hasRoom(f *flight) bool {
	if f.most == heavy {
		return true
	}
	n, err := u.s.queue.PayloadSize(f.id)
	// What can't be read is found out, and dealt with, by opening it.
	return err != nil || u.s.sched.weighed(f, n)
}

// one makes one attempt and does what its outcome asks for.
func (u *uploader) one(ctx context.Context, f *flight) {
	s := u.s
	if err := s.queue.Begin(u.slot, f.id); err != nil {
		s.log.Debug("note an attempt", "episode", f.id.String(), "err", err.Error())
	}
	began := time.Now()
	out := u.send(ctx, f)
	if out.fail != nil && out.fail.code() == code.DigestMismatch && !out.fail.parked {
		u.verify(ctx, f, &out)
	}
	if err := s.queue.End(u.slot); err != nil {
		s.log.Debug("note the end of an attempt", "episode", f.id.String(), "err", err.Error())
	}
	switch fail := out.fail; {
	case out.left:
		s.path(s.sched.left(f, false))
	case out.waits:
	case fail == nil:
		u.at(stepHand)
		s.sched.uploaded(f)
		s.acks <- ack{f: f, sent: out, took: time.Since(began)}
	case fail.parked:
		s.sched.parked(f)
	case isOfEpisode(fail.code()):
		u.setAside(f, out)
	case fail.code() == code.ReadFailed, fail.code() == code.DigestMismatch:
		s.postpone(f, fail)
	default:
		s.failed(f, fail)
	}
}

// verify finds out whether a digest mismatch is the fault of the copy on this
// disk: then the failure becomes damaged. A sound copy is sent from zero.
func (u *uploader) verify(ctx context.Context, f *flight, out *sent) {
	u.at(stepVerify)
	if err := u.s.queue.DropUpload(f.id); err != nil {
		u.s.log.Debug("drop an upload's token", "episode", f.id.String(), "err", err.Error())
	}
	why, err := u.damage(ctx, f.id)
	switch {
	case ctx.Err() != nil:
		out.fail = &failure{why: out.fail.why, parked: true}
	case errors.Is(err, fs.ErrNotExist):
		// A file is missing, or the whole of it: reading it anew will tell.
		out.fail = &failure{why: code.Wrap(code.Damaged, err, "")}
	case err != nil:
		out.fail = &failure{why: onDisk(err, "verify the copy on disk")}
	case why != "":
		out.fail = &failure{why: code.New(code.Damaged, "%s", why)}
	}
}

// damage verifies the episode on disk; "" is a sound one.
func (u *uploader) damage(ctx context.Context, id episode.ID) (string, error) {
	b, err := bag.Open(u.s.queue.Dir(id))
	if err != nil {
		if c, ok := code.Of(err); ok && c == code.Damaged {
			return err.Error(), nil
		}
		return "", err
	}
	faults, err := b.Verify(ctx, func(int64) { u.worker.Progress() })
	if err != nil || len(faults) == 0 {
		return "", err
	}
	var s strings.Builder
	for i, f := range faults {
		if i == 3 {
			fmt.Fprintf(&s, "; and %d more", len(faults)-i)
			break
		}
		if i > 0 {
			s.WriteString("; ")
		}
		s.WriteString(f.String())
	}
	return s.String(), nil
}

// setAside quarantines an episode.
func (u *uploader) setAside(f *flight, out sent) {
	u.at(stepAside)
	s, fail := u.s, out.fail
	r := queue.Reason{Code: fail.code(), Detail: detail(fail.why), Receiver: s.client.base.String(), Status: fail.status, Attempts: f.attempt}
	if !out.facts.ID.IsZero() {
		r.Describe(out.facts)
	}
	if r.Code == code.OutOfWindow {
		r.WindowID = fail.windowID
	}
	err := s.queue.Quarantine(f.id.String(), r)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.path(s.sched.left(f, fail.answered))
	case err != nil:
		s.failed(f, &failure{why: onDisk(err, "set episode "+f.id.String()+" aside")})
	default:
		s.figures.failed(r.Code)
		s.facts.failed(fail)
		i := r.Code.Info()
		s.event(r.Code, "quarantined: "+i.Title, slog.String("episode", f.id.String()), slog.Int("status", fail.status),
			slog.String("detail", r.Detail), slog.String("fix", i.Fix))
		s.path(s.sched.left(f, fail.answered))
		s.countQuarantine()
	}
	poke(s.changed)
}
