package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"cis490/src/code"
)

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// view shows each episode's way while it goes: a bar each on a terminal, a
// line for each change elsewhere.
type view struct {
	stop chan struct{}
	wg   sync.WaitGroup
}

func newView(ctx context.Context, d *demo, out io.Writer) *view {
	v := &view{stop: make(chan struct{})}
	show := d.lines(out)
	finish := func() {}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		show, finish = d.bars(out)
	}
	v.wg.Go(func() {
		for {
			if _, err := d.look(); err == nil {
				show()
			}
			select {
			case <-v.stop:
				show()
				finish()
				return
			case <-ctx.Done():
				finish()
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	return v
}

func (v *view) close() {
	close(v.stop)
	v.wg.Wait()
}

// lines prints a line whenever an episode's state changes.
func (d *demo) lines(out io.Writer) func() {
	said := map[*item]string{}
	return func() {
		for _, it := range d.snapshot() {
			if said[it.item] == it.state {
				continue
			}
			said[it.item] = it.state
			switch it.state {
			case "sealing":
				fmt.Fprintf(out, "sealing  %s\n", it.what)
			case "waiting":
				fmt.Fprintf(out, "sealed   %s: %s files, %s\n", it.what, humanize.Comma(it.files), bytesText(it.size))
			case string(code.Stored):
				fmt.Fprintf(out, "stored   %s, %s after sealing\n", it.what, it.took.Round(time.Millisecond))
			default:
				fmt.Fprintf(out, "refused  %s: %s\n", it.what, it.state)
			}
		}
	}
}

// bars shows a progress bar for each episode.
func (d *demo) bars(out io.Writer) (show, finish func()) {
	p := mpb.New(mpb.WithOutput(out), mpb.WithWidth(40), mpb.WithAutoRefresh())
	bars := map[*item]*mpb.Bar{}
	return func() {
			for _, it := range d.snapshot() {
				b := bars[it.item]
				if b == nil {
					item := it.item
					b = p.AddBar(1, mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-32.32s", it.what))),
						mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return d.words(item) })))
					bars[it.item] = b
				}
				if it.size > 0 {
					b.SetTotal(it.size, false)
				}
				b.SetCurrent(min(it.sent, it.size))
				if it.state != "sealing" && it.state != "waiting" {
					if it.state != string(code.Stored) {
						b.SetCurrent(0)
					}
					b.SetTotal(max(1, it.size), it.state == string(code.Stored))
				}
			}
		}, func() {
			for _, b := range bars {
				b.Abort(false) // those that were refused have no end of their own
			}
			p.Wait()
		}
}

// shown is what the view needs of an item, copied under the lock.
type shown struct {
	item              *item
	what, state       string
	files, size, sent int64
	took              time.Duration
}

func (d *demo) snapshot() []shown {
	sent := map[string]int64{}
	for _, w := range d.lab.shipper.State().Workers {
		if w.Episode != nil {
			sent[w.Episode.String()] = w.SentBytes
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []shown
	for _, it := range d.items {
		s := shown{item: it, what: it.what, state: it.state, files: it.sealed.Files, size: it.sealed.Size, took: it.took, sent: sent[it.sealed.ID.String()]}
		if it.state == string(code.Stored) {
			s.sent = s.size
		}
		out = append(out, s)
	}
	return out
}

func (d *demo) words(it *item) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch it.state {
	case "sealing":
		return "sealing"
	case "waiting":
		return fmt.Sprintf("shipping %s", bytesText(it.sealed.Size))
	case string(code.Stored):
		return fmt.Sprintf("stored   %s in %s", bytesText(it.sealed.Size), it.took.Round(time.Millisecond))
	}
	return "refused  " + it.state
}
