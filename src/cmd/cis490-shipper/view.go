package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mitchellh/go-wordwrap"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/state"
)

// speedOver is the time over which speeds are measured.
const speedOver = 10 * time.Second

// history is what the last states had, for what is a speed.
type history struct{ samples []sample }

type sample struct {
	at      time.Time
	started time.Time // of the shipper
	wire    int64
	shipped uint64
	sent    map[episode.ID]int64
}

func (h *history) add(st state.Shipper) {
	s := sample{at: st.WrittenAt, started: st.StartedAt, wire: st.Rate.WireBytes, shipped: st.Totals.Shipped, sent: map[episode.ID]int64{}}
	for _, w := range st.Workers {
		if w.Episode != nil {
			s.sent[*w.Episode] = w.SentBytes
		}
	}
	if n := len(h.samples); n > 0 && (!h.samples[n-1].started.Equal(s.started) || h.samples[n-1].wire > s.wire) {
		h.samples = nil // another shipper, that counts from its own start
	}
	h.samples = append(h.samples, s)
	for len(h.samples) > 2 && s.at.Sub(h.samples[1].at) >= speedOver {
		h.samples = h.samples[1:]
	}
}

// rate is bytes on the wire and episodes per second.
func (h *history) rate() (bytes, episodes float64, ok bool) {
	if len(h.samples) < 2 {
		return 0, 0, false
	}
	a, b := h.samples[0], h.samples[len(h.samples)-1]
	d := b.at.Sub(a.at).Seconds()
	if d <= 0 {
		return 0, 0, false
	}
	return float64(b.wire-a.wire) / d, float64(b.shipped-a.shipped) / d, true
}

// speed is an upload's, in bytes of its tar stream per second.
func (h *history) speed(id episode.ID) (float64, bool) {
	if len(h.samples) == 0 {
		return 0, false
	}
	last := h.samples[len(h.samples)-1]
	for _, s := range h.samples {
		// What it had when it began is what the receiver held before.
		if n, ok := s.sent[id]; ok && n > 0 {
			d := last.at.Sub(s.at).Seconds()
			return float64(last.sent[id]-n) / d, d >= 1 && last.sent[id] > n
		}
	}
	return 0, false
}

// view draws the state for a terminal of that size: lines without an end, none
// wider than width, no more than height.
func view(st state.Shipper, live bool, h *history, now time.Time, width, height int) []string {
	v := &viewer{width: max(width, 10)}
	v.line(fmt.Sprintf("%s  %s  to %s", now.Format("15:04:05"), st.Host, st.Receiver))
	if !live {
		v.fold("", "", fmt.Sprintf("not running; the state of %s ago: systemctl start cis490-shipper", state.Span(now.Sub(st.WrittenAt))))
	}
	v.fold("", "", st.Summary)
	v.line("")
	v.backlog(st, now)
	v.rate(st, h, live)
	v.path(st, now)
	if st.Success != nil {
		v.row("receipt", fmt.Sprintf("%s ago, episode %s", state.Span(now.Sub(st.Success.At)), st.Success.Episode))
	} else {
		v.row("receipt", "none since the start")
	}
	if p := st.Problem; p != nil && !st.Path.Held {
		v.row("problem", fmt.Sprintf("%s, %s ago: %s", p.Code, state.Span(now.Sub(p.At)), printable(p.Detail)))
		v.more("fix: " + p.Code.Info().Fix)
	}
	if d := st.Poll.Damaged; d != nil {
		v.row("stored", fmt.Sprintf("%d acknowledged, and damaged at the receiver", d.Count))
		v.more("fix: " + code.CopyDamaged.Info().Fix)
	}
	if q := st.Quarantine; q.Total > 0 {
		var by []string
		for _, c := range slices.Sorted(maps.Keys(q.ByCode)) {
			by = append(by, fmt.Sprintf("%d %s", q.ByCode[c], c))
		}
		v.row("aside", strings.Join(by, ", ")+": cis490-shipper quarantine list")
	}
	if o := st.Open; o.LeftOver > 0 {
		v.row("open", fmt.Sprintf("%d sealings were cut off and left in open/", o.LeftOver))
		v.more("fix: " + o.Fix())
	}
	v.line("")
	v.uploads(st, h, height-len(v.lines)-1)
	return append(v.lines[:min(len(v.lines), max(height-1, 0))], v.cut("q: quit"))
}

type viewer struct {
	width int
	lines []string
}

const (
	nameWidth = 9  // of the column of names
	narrow    = 50 // below it that column is done without
)

func (v *viewer) line(s string) { v.lines = append(v.lines, v.cut(s)) }

// cut makes s fit.
func (v *viewer) cut(s string) string {
	if utf8.RuneCountInString(s) <= v.width {
		return s
	}
	r := []rune(s)
	return string(r[:v.width-1]) + "…"
}

// row adds a named row, over several lines where it is long.
func (v *viewer) row(name, s string) {
	if v.width < narrow {
		v.fold("", "  ", name+": "+s)
		return
	}
	v.fold(fmt.Sprintf("%-*s", nameWidth, name), strings.Repeat(" ", nameWidth), s)
}

// more goes on with a row.
func (v *viewer) more(s string) {
	indent := strings.Repeat(" ", nameWidth)
	if v.width < narrow {
		indent = "  "
	}
	v.fold(indent, indent, s)
}

// fold adds a text whose first line begins with first, and the others with rest.
func (v *viewer) fold(first, rest, s string) {
	room := max(v.width-len(rest), 8)
	for _, l := range strings.Split(wordwrap.WrapString(s, uint(room)), "\n") {
		// A word that is longer than a line, such as a key, is needed whole.
		for r := []rune(l); ; r = r[room:] {
			v.line(first + string(r[:min(len(r), room)]))
			first = rest
			if len(r) <= room {
				break
			}
		}
	}
}

func (v *viewer) backlog(st state.Shipper, now time.Time) {
	q := st.Queue
	s := fmt.Sprintf("%d waiting, %d under way", q.Waiting, q.InFlight)
	if !q.Scanned {
		s = "not scanned yet"
	}
	if q.Postponed > 0 {
		s += fmt.Sprintf(", %d of them in trouble at its end", q.Postponed)
	}
	if q.Oldest != nil {
		s += ", oldest sealed " + state.Span(now.Sub(q.Oldest.SealedAt)) + " ago"
	}
	v.row("queue", s)
	for _, c := range slices.Sorted(maps.Keys(q.PostponedByCode)) {
		v.more("fix: " + c.Info().Fix)
	}
}

func (v *viewer) rate(st state.Shipper, h *history, live bool) {
	s := "-"
	if bytes, episodes, ok := h.rate(); ok && live {
		s = size(int64(bytes)) + "/s"
		if per := episodes * 60; per >= 1 {
			s += fmt.Sprintf(", %.0f episodes a minute", per)
		}
	}
	if st.Rate.Limit != "" && st.Rate.Limit != config.RateUnlimited.String() || st.Rate.Until != nil {
		s += "; limit " + st.Rate.String()
	}
	v.row("rate", s)
}

func (v *viewer) path(st state.Shipper, now time.Time) {
	p := st.Path
	if !p.Held {
		v.row("path", "open")
		return
	}
	s := fmt.Sprintf("held for %s: %s", state.Span(now.Sub(*p.Since)), p.Code)
	if p.NextProbe != nil {
		if d := p.NextProbe.Sub(now); d > 0 {
			s += ", next try in " + state.Span(d+time.Second-1)
		} else {
			s += ", trying now"
		}
	}
	v.row("path", s+": "+printable(p.Detail))
	v.more("fix: " + p.Fix)
}

// uploads draws a line for each upload under way, as far as there is room.
func (v *viewer) uploads(st state.Shipper, h *history, room int) {
	var busy []state.Worker
	for _, w := range st.Workers {
		if w.Episode != nil {
			busy = append(busy, w)
		}
	}
	for i, w := range busy {
		if i >= room-1 && len(busy) > room {
			v.line(fmt.Sprintf("… and %d more", len(busy)-i))
			return
		}
		v.line(v.upload(w, h))
	}
}

func (v *viewer) upload(w state.Worker, h *history) string {
	id := w.Episode.String()
	s := "…" + id[len(id)-8:] + " "
	if v.width >= 100 {
		s = id + " "
	}
	if w.Late != "" {
		return s + "STUCK, overdue by " + w.Late + ": " + w.Doing
	}
	if w.SizeBytes == 0 || w.SentBytes == 0 && w.Doing != "send" {
		return s + w.Doing
	}
	done := min(float64(w.SentBytes)/float64(w.SizeBytes), 1)
	tail := fmt.Sprintf(" %3.0f %%", done*100)
	if v.width >= narrow {
		tail += fmt.Sprintf(" of %s", size(w.SizeBytes))
	}
	if speed, ok := h.speed(*w.Episode); ok {
		left := time.Duration(float64(w.SizeBytes-w.SentBytes) / speed * float64(time.Second))
		if v.width >= 70 {
			tail += fmt.Sprintf(", %s/s", size(int64(speed)))
		}
		tail += ", " + state.Span(left) + " left"
	} else if w.Attempt > 1 && v.width >= 70 {
		tail += fmt.Sprintf(", attempt %d", w.Attempt)
	}
	if n := min(v.width-utf8.RuneCountInString(s)-utf8.RuneCountInString(tail)-2, 40); n >= 5 {
		full := int(done * float64(n))
		s += "[" + strings.Repeat("=", full) + strings.Repeat("-", n-full) + "]"
	}
	return s + tail
}
