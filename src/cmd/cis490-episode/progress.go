package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// progress shows on a terminal how many bytes are done; elsewhere it shows nothing.
type progress struct {
	w     io.Writer
	verb  string
	total int64 // 0 when it is not known
	done  atomic.Int64
	stop  chan struct{}
	idle  chan struct{}
}

// showProgress begins to show on w, until close is called. Nothing appears in the first half second.
func showProgress(w io.Writer, verb string, total int64) *progress {
	p := &progress{w: w, verb: verb, total: total, stop: make(chan struct{}), idle: make(chan struct{})}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		close(p.idle)
		return p
	}
	go func() {
		defer close(p.idle)
		shown := false
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				shown = true
				fmt.Fprintf(p.w, "\r\x1b[K%s", p)
			case <-p.stop:
				if shown {
					fmt.Fprint(p.w, "\r\x1b[K")
				}
				return
			}
		}
	}()
	return p
}

func (p *progress) add(n int64) { p.done.Add(n) }

func (p *progress) String() string {
	done := p.done.Load()
	if p.total <= 0 {
		return p.verb + " " + size(done)
	}
	return fmt.Sprintf("%s %s of %s (%d %%)", p.verb, size(done), size(p.total), min(100, done*100/p.total))
}

// close takes the line away.
func (p *progress) close() {
	close(p.stop)
	<-p.idle
}
