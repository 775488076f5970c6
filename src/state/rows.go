package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cis490/src/code"
	"cis490/src/health"
)

// What is too long, for the shipper's own word and for the doctor's.
const (
	AgedAfter  = time.Hour // the first episode in the queue: yellow
	StaleAfter = 24 * time.Hour
	HeldFor    = time.Minute // what may pass by itself is not red before that
)

// Rows is what is not green in a shipper's state, by the names of the doctor's
// rows, and the worst of it.
func (st Shipper) Rows(now time.Time) (rows []health.Result, worst health.Status) {
	worst = health.Green
	add := func(id string, h health.Status, fix, format string, a ...any) {
		rows = append(rows, health.Result{ID: id, Status: h, Title: fmt.Sprintf(format, a...), Fix: fix})
		if h == health.Red || worst == health.Green {
			worst = h
		}
	}
	for _, w := range st.Workers {
		if w.Late != "" {
			add("workers", health.Red, "journalctl -k -p err -n 20", "%s of the shipper hangs (%s), overdue by %s", w.Name, w.Doing, w.Late)
		}
	}
	if st.Scan.Error != "" {
		add("scan", health.Red, "systemd-tmpfiles --create", "the shipper can't scan: %s", st.Scan.Error)
	}
	if p := st.Path; p.Held && p.Since != nil {
		add("path", p.Status(now), p.Fix, "the queue has been held for %s: %s", Span(now.Sub(*p.Since)), p.Code)
	}
	if o := st.Queue.Oldest; o != nil {
		switch age := now.Sub(o.SealedAt); {
		case age > StaleAfter:
			add("backlog", health.Red, "cis490-shipper status", "%d wait, the first for %s", st.Queue.Left(), Span(age))
		case age > AgedAfter:
			add("backlog", health.Yellow, "cis490-shipper status", "%d wait, the first for %s", st.Queue.Left(), Span(age))
		}
	}
	for _, c := range slices.Sorted(maps.Keys(st.Queue.PostponedByCode)) {
		add("trouble", TroubleStatus(c), c.Info().Fix, "%d at the end of the queue: %s", st.Queue.PostponedByCode[c], c)
	}
	if d := st.Poll.Damaged; d != nil {
		add("stored", health.Red, code.CopyDamaged.Info().Fix, "%d acknowledged, and damaged at the receiver", d.Count)
	}
	if q := st.Quarantine; q.Total > 0 {
		var by []string
		for _, c := range slices.Sorted(maps.Keys(q.ByCode)) {
			by = append(by, fmt.Sprintf("%s %d", c, q.ByCode[c]))
		}
		oldest := ""
		if q.Oldest != nil {
			oldest = ", oldest " + Span(now.Sub(*q.Oldest))
		}
		add("quarantine", health.Yellow, "cis490-shipper quarantine list", "%d held (%s)%s", q.Total, strings.Join(by, ", "), oldest)
	}
	if p := st.Poll; p.LastSuccess != nil && p.MaxSkewSeconds > 0 && max(p.SkewSeconds, -p.SkewSeconds) > p.MaxSkewSeconds {
		add("clock", health.Red, code.ClockSkew.Info().Fix, "the receiver's clock is %+.1f s from this host's, %.0f s are tolerated", p.SkewSeconds, p.MaxSkewSeconds)
	}
	if st.Disk.Low {
		add("disk", health.Red, code.DiskFull.Info().Fix, "%d MiB are free, min_free is %d MiB", st.Disk.FreeBytes>>20, st.Disk.MinFreeBytes>>20)
	}
	if o := st.Open; o.LeftOver > 0 {
		add("open", health.Yellow, o.Fix(), "%d sealings were cut off and left in open/", o.LeftOver)
	}
	return rows, worst
}

// Status is how bad it is that the queue is held: what may pass by itself is not
// red at once.
func (p Path) Status(now time.Time) health.Status {
	switch {
	case !p.Held:
		return health.Green
	case p.Code.Class() == code.Transient && p.Code != code.ReceiverFull && (p.Since == nil || now.Sub(*p.Since) < HeldFor):
		return health.Yellow
	}
	return health.Red
}

// TroubleStatus is how bad it is that an episode waits at the end of the queue
// with c.
func TroubleStatus(c code.Code) health.Status {
	if c == code.ReadFailed || c == code.AttemptDied {
		return health.Red
	}
	return health.Yellow
}
