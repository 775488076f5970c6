// Package liveness keeps a daemon honest with systemd's watchdog: the ping is
// tied to progress, not to a timer.
//
// It promises that RunForever's loop goes on whatever a pass or a heartbeat does,
// short of never returning; and that WATCHDOG=1 is sent from Beat.Beat, called
// once per pass, only while every worker has reported within the time that it
// set itself. So a process whose loop or whose worker is stuck is killed and
// started anew, and one that is merely slow, or whose peer is gone, is not.
package liveness

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// RunOptions is how RunForever runs.
type RunOptions struct {
	Interval time.Duration   // from the end of a pass to the start of the next
	Wake     <-chan struct{} // a receive starts the next pass at once; may be nil
	Log      *slog.Logger    // nil: slog.Default()
}

// RunForever calls pass, then heartbeat, waits for Interval or Wake, and so on
// until ctx is done, and returns ctx's cause. heartbeat is called exactly once
// after each pass, also after one that failed. Neither an error nor a panic of
// either ends the loop: it is logged (the same one at most once a minute). After
// a failed pass Wake is not heeded, so that a failure can't turn into a busy
// loop.
//
// READY=1 is the caller's to send before, once it is set up.
func RunForever(ctx context.Context, o RunOptions, pass func(context.Context) error, heartbeat func() error) error {
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	passLog := repeated{log: log, what: "scan pass"}
	beatLog := repeated{log: log, what: "heartbeat"}
	timer := time.NewTimer(o.Interval)
	defer timer.Stop()
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := guard(func() error { return pass(ctx) })
		if ctx.Err() != nil && err != nil {
			// Being cut short by the stop is no failure.
			err = nil
		}
		passLog.report(err)
		beatLog.report(guard(heartbeat))

		wake := o.Wake
		if err != nil {
			wake = nil
		}
		timer.Reset(o.Interval)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case _, ok := <-wake:
			if !ok {
				o.Wake = nil // a closed channel is always ready: go by the timer alone
			}
		}
	}
}

// panicked is a panic made into an error.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{v, debug.Stack()}
		}
	}()
	return f()
}

// repeated logs a failure when it begins, when it changes, once a minute while
// it lasts, and when it is over.
type repeated struct {
	log    *slog.Logger
	what   string
	last   string
	logged time.Time
	count  int
}

func (r *repeated) report(err error) {
	if err == nil {
		if r.count > 0 {
			r.log.Info(r.what+" works again", "failures", r.count)
		}
		r.last, r.count = "", 0
		return
	}
	r.count++
	text := err.Error()
	now := time.Now()
	if text == r.last && now.Sub(r.logged) < time.Minute {
		return
	}
	r.last, r.logged = text, now
	attrs := []any{"err", text, "failures", r.count}
	if p, ok := err.(*panicked); ok {
		attrs = append(attrs, "stack", string(p.stack))
	}
	r.log.Error(r.what+" failed, the loop goes on", attrs...)
}

// Beat is the heartbeat for RunForever.
type Beat struct {
	Notifier *Notifier
	Tracker  *Tracker
	Log      *slog.Logger // nil: slog.Default()

	mu   sync.Mutex
	late map[string]bool
}

// Beat sends WATCHDOG=1 if no worker is late. Else it sends none, and names the
// late ones in STATUS= and in the log, there once when one becomes late and once
// when it reports again.
func (b *Beat) Beat() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	log := b.Log
	if log == nil {
		log = slog.Default()
	}
	late := b.Tracker.Late(time.Now())
	is := map[string]bool{}
	for _, l := range late {
		is[l.Name] = true
		if !b.late[l.Name] {
			log.Error("a worker makes no progress: watchdog ping withheld", "worker", l.Name, "doing", l.Doing, "overdue", l.Overdue)
		}
	}
	for name := range b.late {
		if !is[name] {
			log.Info("a late worker has moved on", "worker", name)
		}
	}
	b.late = is
	if len(late) == 0 {
		if err := b.Notifier.covered(""); err != nil {
			return err
		}
		return b.Notifier.Watchdog()
	}
	return b.Notifier.covered(describe(late))
}

func describe(late []Late) string {
	var s strings.Builder
	s.WriteString("stuck, no watchdog ping: ")
	for i, l := range late {
		if i == 5 {
			fmt.Fprintf(&s, " and %d more", len(late)-i)
			break
		}
		if i > 0 {
			s.WriteString(", ")
		}
		s.WriteString(l.Name)
		if l.Doing != "" {
			s.WriteString(" (" + l.Doing + ")")
		}
		fmt.Fprintf(&s, " %s overdue", l.Overdue.Round(time.Second))
	}
	return s.String()
}
