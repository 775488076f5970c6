package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/journal"
	"cis490/src/liveness"
	"cis490/src/ship"
	"cis490/src/state"
)

func pushCommand(file *string) *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:   "push",
		Short: "Ship now, whatever the back-off",
		Long: `Makes the running shipper scan and try now; with --wait, shows how the queue
empties. If no shipper runs, ships in this process until the queue is empty.

Exits with 1, and says why, if the queue can't be emptied or something had to
be set aside.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.LoadLabHost(*file)
			if err != nil {
				return err
			}
			ctl := ship.NewControl(cfg.RunDir)
			st, err := ctl.Push(c.Context())
			switch {
			case errors.Is(err, ship.ErrNotRunning):
				return pushHere(c.Context(), cfg, c.ErrOrStderr())
			case errors.Is(err, fs.ErrPermission):
				return hint(err)
			case err != nil:
				return err
			case !wait:
				fmt.Fprintf(c.OutOrStdout(), "The shipper is on it: %s\n", st.Summary)
				return nil
			}
			p := newProgress(c.ErrOrStderr(), true)
			defer p.end()
			e := emptying{progress: p}
			if e.see(st) {
				if err := ctl.Watch(c.Context(), e.see); err != nil {
					return err
				}
			}
			return e.verdict()
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "show the progress until the queue is empty")
	return c
}

// pushHere ships in this process until the queue is empty.
func pushHere(ctx context.Context, cfg config.LabHost, out io.Writer) (err error) {
	p := newProgress(out, false)
	defer p.end()
	s, q, err := open(cfg, nil, liveness.NewTracker(), journal.New(p.writer(), journal.Options{Level: slog.LevelWarn}))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := q.Close(); err == nil {
			err = cerr
		}
	}()
	before, err := q.Counts()
	if err != nil {
		return hint(err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	// From the start, before which nothing was shipped.
	e := emptying{progress: p, begun: true, first: state.Shipper{Quarantine: state.Quarantine{Total: before.Total}}}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for e.see(s.State()) {
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), <-ran)
		case err := <-ran:
			return err
		case <-tick.C:
		}
	}
	stop()
	return errors.Join(<-ran, e.verdict())
}

const (
	// enoughProbes is after how many probes in vain push gives up.
	enoughProbes = 3
	// enoughTrouble is for how long nothing but troubled episodes may be left.
	enoughTrouble = 10 * time.Second
)

// emptying watches a queue become empty, or not.
type emptying struct {
	progress progress
	begun    bool
	first    state.Shipper
	last     state.Shipper
	since    time.Time // of the outage whose probes are counted
	probes   int
	trouble  time.Time // since when only troubled ones are left
	failed   error
}

// see takes one state after the other, and returns false when it has seen
// enough.
func (e *emptying) see(st state.Shipper) bool {
	if !st.Queue.Scanned {
		return true
	}
	if !e.begun {
		e.begun, e.first = true, st
	}
	e.last = st
	e.progress.show(e.first, st)
	if st.Queue.Left() == 0 {
		return false
	}
	if st.Rate.Off && st.Queue.InFlight == 0 {
		e.failed = fmt.Errorf("%d episodes wait: uploads are %s\nfix: nothing, if that is meant so; else change it in the shipper block of lab-host.hcl, then: systemctl reload cis490-shipper", st.Queue.Left(), st.Rate)
		return false
	}
	now := time.Now()
	if !st.Path.Held {
		e.since = time.Time{}
	} else if e.since.IsZero() || !e.since.Equal(*st.Path.Since) {
		e.since, e.probes = *st.Path.Since, st.Path.Probes
	} else if st.Path.Probes-e.probes >= enoughProbes {
		e.failed = fmt.Errorf("%d episodes wait: %s: %s\nfix: %s", st.Queue.Left(), st.Path.Code, st.Path.Detail, st.Path.Fix)
		return false
	}
	if st.Queue.InFlight > 0 || st.Queue.Waiting > st.Queue.Postponed || st.Path.Held {
		e.trouble = time.Time{}
	} else if e.trouble.IsZero() {
		e.trouble = now
	} else if now.Sub(e.trouble) >= enoughTrouble {
		var c code.Code
		for c = range st.Queue.PostponedByCode {
			break
		}
		e.failed = fmt.Errorf("%d episodes can't be shipped now: %s\nfix: %s", st.Queue.Left(), c, c.Info().Fix)
		return false
	}
	return true
}

// verdict is what came of it.
func (e *emptying) verdict() error {
	if e.failed != nil {
		return e.failed
	}
	shipped := e.last.Totals.Shipped - e.first.Totals.Shipped
	if aside := e.last.Quarantine.Total - e.first.Quarantine.Total; aside > 0 {
		return fmt.Errorf("the queue is empty: %d shipped, %d quarantined: cis490-shipper quarantine list", shipped, aside)
	}
	e.progress.say(fmt.Sprintf("The queue is empty: %d shipped.", shipped))
	return nil
}

// progress shows how a queue empties.
type progress interface {
	show(first, now state.Shipper)
	say(line string)
	writer() io.Writer // for lines of others
	end()
}

// newProgress has bars on a terminal and lines elsewhere. reports: also tells
// what happens to the path and the quarantine, which nobody else does.
func newProgress(out io.Writer, reports bool) progress {
	l := &lines{out: out, reports: reports}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return newBars(f, l)
	}
	return l
}

// lines is progress for logs and pipes.
type lines struct {
	out     io.Writer
	reports bool
	begun   bool
	held    code.Code
	aside   int
	at      time.Time
	quiet   bool // no summaries
}

const summaryEvery = 10 * time.Second

func (l *lines) show(first, st state.Shipper) {
	if !l.begun {
		l.begun, l.aside, l.at = true, first.Quarantine.Total, time.Now()
		if !l.quiet {
			done := int(st.Totals.Shipped-first.Totals.Shipped) + max(0, st.Quarantine.Total-first.Quarantine.Total)
			l.say(fmt.Sprintf("%d episodes to ship", st.Queue.Left()+done))
		}
	}
	if l.reports {
		now := code.Code("")
		if st.Path.Held {
			now = st.Path.Code
		}
		if now != l.held {
			l.held = now
			if now == "" {
				l.say("the queue moves again")
			} else {
				l.say(fmt.Sprintf("held: %s: %s; fix: %s", now, st.Path.Detail, st.Path.Fix))
			}
		}
		if st.Quarantine.Total > l.aside {
			l.say(fmt.Sprintf("%d more quarantined: cis490-shipper quarantine list", st.Quarantine.Total-l.aside))
		}
		l.aside = st.Quarantine.Total
	}
	if !l.quiet && time.Since(l.at) >= summaryEvery {
		l.at = time.Now()
		l.say(st.Summary)
	}
}

func (l *lines) say(line string)   { fmt.Fprintln(l.out, line) }
func (l *lines) writer() io.Writer { return l.out }
func (l *lines) end()              {}
