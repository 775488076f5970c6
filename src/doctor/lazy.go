package doctor

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"time"

	"cis490/src/state"
)

// lazy is a value that several checks need and that is found out once.
type lazy[T any] struct {
	once sync.Once
	find func(context.Context) T
	done chan struct{}
	v    T
	died any
}

func later[T any](find func(context.Context) T) *lazy[T] {
	return &lazy[T]{find: find, done: make(chan struct{})}
}

// get waits for the value. It is false when ctx ended first; whoever finds the
// value out may hang for good.
func (l *lazy[T]) get(ctx context.Context) (v T, ok bool) {
	l.once.Do(func() {
		go func() {
			defer close(l.done)
			defer func() { l.died = recover() }()
			// Not the first asker's context, which ends with that check.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), each-200*time.Millisecond)
			defer cancel()
			l.v = l.find(ctx)
		}()
	})
	select {
	case <-l.done:
		if l.died != nil {
			panic(l.died) // in the check that asked, which makes it a row
		}
		return l.v, true
	case <-ctx.Done():
		return v, false
	}
}

func timedOut(what string) []Finding {
	return []Finding{unknown("timed out: no answer within "+each.String(), "it looks at: "+what, hung)}
}

// output runs a program that only reads. What it says is in no language but C's.
func output(ctx context.Context, name string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=", "PAGER=")
	cmd.WaitDelay = 100 * time.Millisecond
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), errs.String(), err
}

// ago writes how long ago something was.
func ago(now, t time.Time) string { return state.Span(now.Sub(t)) + " ago" }

// firstLine keeps a row's text short.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}
