package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"cis490/src/ship"
	"cis490/src/state"
)

// watchEvery is how often the live view is drawn anew.
const watchEvery = time.Second

// watch shows the state until ctx ends or, on a terminal, q is pressed. It outlives
// the shipper, and shows the next one.
func watch(ctx context.Context, runDir string, out io.Writer, asJSON bool) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	latest := make(chan seen, 1)
	go func() {
		for ctx.Err() == nil {
			follow(ctx, runDir, func(s seen) {
				select { // the newest counts
				case <-latest:
				default:
				}
				latest <- s
			})
			select {
			case <-ctx.Done():
			case <-time.After(watchEvery):
			}
		}
	}()
	if asJSON {
		return watchJSON(ctx, out, latest)
	}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return watchScreen(ctx, stop, f, latest)
	}
	return watchLines(ctx, out, latest)
}

// seen is a state, or why there is none.
type seen struct {
	st   state.Shipper
	live bool
	err  error
}

// follow hands over what the running shipper says until it ends, and then, or if
// there is none, what it left.
func follow(ctx context.Context, runDir string, see func(seen)) {
	err := ship.NewControl(runDir).Watch(ctx, func(st state.Shipper) bool {
		see(seen{st: st, live: true})
		return ctx.Err() == nil
	})
	if err != nil && ctx.Err() == nil {
		st, live, err := current(ctx, runDir)
		see(seen{st, live, err})
	}
}

// watchJSON writes a document a line.
func watchJSON(ctx context.Context, out io.Writer, latest <-chan seen) error {
	e := json.NewEncoder(out)
	return eachSecond(ctx, latest, nil, func(s seen) error {
		if s.err != nil {
			return e.Encode(map[string]any{"live": false, "error": s.err.Error()})
		}
		return e.Encode(liveState{s.live, s.st})
	})
}

// watchLines is for logs and pipes: a line when something changes that matters, and
// now and then one that sums up.
func watchLines(ctx context.Context, out io.Writer, latest <-chan seen) error {
	l := &lines{out: out, reports: true}
	var first state.Shipper
	said := ""
	return eachSecond(ctx, latest, nil, func(s seen) error {
		why := ""
		switch {
		case s.err != nil:
			why = s.err.Error()
		case !s.live:
			why = "not running: systemctl start cis490-shipper"
		}
		if why != said {
			said = why
			if why == "" {
				why = "running again"
			}
			l.say(why)
		}
		if said != "" || !s.st.Queue.Scanned {
			return nil
		}
		if !l.begun {
			first = s.st
			l.say(s.st.Summary)
		}
		l.show(first, s.st)
		return nil
	})
}

// eachSecond hands over the newest state once a second, and at once when again
// says so.
func eachSecond(ctx context.Context, latest <-chan seen, again <-chan os.Signal, see func(seen) error) error {
	var s seen
	select {
	case <-ctx.Done():
		return nil
	case s = <-latest:
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := see(s); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-tick.C:
		}
		select {
		case s = <-latest:
		default:
		}
	}
}

// What the live view sends to a terminal (ECMA-48, and xterm's private modes): its
// own screen without a cursor, where lines that are too long end at the edge; and
// back. A frame is one write, which terminals that know mode 2026 show at once.
const (
	screenOn   = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
	screenOff  = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	frameBegin = "\x1b[?2026h\x1b[H"
	frameEnd   = "\x1b[J\x1b[?2026l"
)

// watchScreen is the live view.
func watchScreen(ctx context.Context, stop func(), f *os.File, latest <-chan seen) (err error) {
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		old, err := term.MakeRaw(in)
		if err != nil {
			return fmt.Errorf("read keys from the terminal: %w", err)
		}
		defer func() { err = errors.Join(err, term.Restore(in, old)) }()
		go keys(os.Stdin, stop)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	if _, err := io.WriteString(f, screenOn); err != nil {
		return err
	}
	defer func() {
		_, werr := io.WriteString(f, screenOff)
		err = errors.Join(err, werr)
	}()
	h := &history{}
	return eachSecond(ctx, latest, resized, func(s seen) error {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			width, height = 80, 24
		}
		var lines []string
		if s.err != nil {
			v := &viewer{width: max(width, 10)}
			v.fold("", "", s.err.Error())
			v.line("q: quit")
			lines = v.lines
		} else {
			if s.live {
				h.add(s.st)
			}
			lines = view(s.st, s.live, h, time.Now(), width, height)
		}
		var b bytes.Buffer
		b.WriteString(frameBegin)
		b.WriteString(strings.Join(lines[:min(len(lines), height)], "\x1b[K\r\n"))
		b.WriteString("\x1b[K" + frameEnd)
		_, err = f.Write(b.Bytes())
		return err
	})
}

// keys waits for q or Ctrl-C, which in raw mode is no signal.
func keys(in io.Reader, stop func()) {
	b := make([]byte, 16)
	for {
		n, err := in.Read(b)
		if err != nil || bytes.ContainsAny(b[:n], "qQ\x03\x04") {
			stop()
			return
		}
	}
}
