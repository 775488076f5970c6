package main

import (
	"fmt"
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"cis490/src/episode"
	"cis490/src/state"
)

// barFrom is the least size of an episode that has a bar of its own, in tar
// bytes: smaller ones are gone before it could be read.
const barFrom = 32 << 20

// bars is progress on a terminal: one bar for the queue, one for each big
// episode in flight, and lines above them.
type bars struct {
	*lines
	p     *mpb.Progress
	total *mpb.Bar
	big   map[episode.ID]*mpb.Bar
	end1  bool
}

func newBars(f *os.File, l *lines) *bars {
	b := &bars{lines: l, big: map[episode.ID]*mpb.Bar{}}
	b.p = mpb.New(mpb.WithOutput(f), mpb.WithWidth(40), mpb.WithAutoRefresh())
	l.out, l.quiet = b.p, true
	return b
}

func (b *bars) show(first, st state.Shipper) {
	b.lines.show(first, st)
	done := int64(st.Totals.Shipped - first.Totals.Shipped)
	if aside := st.Quarantine.Total - first.Quarantine.Total; aside > 0 {
		done += int64(aside)
	}
	all := done + int64(st.Queue.Left())
	if b.total == nil {
		b.total = b.p.New(all, mpb.BarStyle().Rbound("|"), mpb.BarPriority(1<<30),
			mpb.PrependDecorators(decor.Name("queue", decor.WC{W: 9, C: decor.DindentRight})),
			mpb.AppendDecorators(decor.CountersNoUnit("%d of %d episodes")))
	}
	b.total.SetTotal(all, false)
	b.total.SetCurrent(done)
	flying := map[episode.ID]bool{}
	for _, w := range st.Workers {
		if w.Episode == nil || w.SizeBytes < barFrom {
			continue
		}
		id := *w.Episode
		flying[id] = true
		bar := b.big[id]
		if bar == nil {
			text := id.String()
			bar = b.p.New(w.SizeBytes, mpb.BarStyle().Rbound("|"), mpb.BarRemoveOnComplete(),
				mpb.PrependDecorators(decor.Name("…"+text[len(text)-8:], decor.WC{W: 9, C: decor.DindentRight})),
				mpb.AppendDecorators(decor.CountersKibiByte("% .1f of % .1f"), decor.AverageSpeed(decor.SizeB1024(0), "  % .1f")))
			b.big[id] = bar
		}
		bar.SetCurrent(min(w.SentBytes, w.SizeBytes-1))
	}
	for id, bar := range b.big {
		if !flying[id] {
			bar.Abort(true)
			delete(b.big, id)
		}
	}
}

func (b *bars) say(line string)   { fmt.Fprintln(b.p, line) }
func (b *bars) writer() io.Writer { return b.p }

// end takes the bars off the screen but for the queue's.
func (b *bars) end() {
	if b.end1 {
		return
	}
	b.end1 = true
	for _, bar := range b.big {
		bar.Abort(true)
	}
	if b.total != nil {
		b.total.Abort(false)
	}
	b.p.Wait()
}
