// Package state is what the daemons tell of themselves: the state files in their
// run_dir and the answers on their sockets.
//
// It promises one meaning to whoever reads them: the daemons' own status, the
// doctor, other people's programs. Times are the daemon's wall clock.
package state

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/health"
	"cis490/src/queue"
	"cis490/src/wire"
)

// ShipperUnit is the name of the service, and of its directory below run_dir.
const ShipperUnit = "cis490-shipper"

// ShipperPath is where a shipper with that run_dir keeps its state for others to
// read.
func ShipperPath(runDir string) string { return filepath.Join(runDir, ShipperUnit, "state.json") }

// Shipper is what a shipper tells of itself: in state.json, which is replaced
// whole and at most once a second, and over the control socket.
type Shipper struct {
	Schema     int        `json:"schema"` // 1
	Unit       string     `json:"unit"`
	Version    string     `json:"version"`
	PID        int        `json:"pid"`
	Host       string     `json:"host"`
	Key        string     `json:"key,omitempty"` // hash of the host's public key, as the receiver knows it
	Receiver   string     `json:"receiver"`      // URL
	StartedAt  time.Time  `json:"started_at"`
	WrittenAt  time.Time  `json:"written_at"`
	Stopping   bool       `json:"stopping,omitempty"`
	Summary    string     `json:"summary"` // one line, as in systemctl status
	Success    *Success   `json:"last_success,omitempty"`
	Last       *Code      `json:"last_code,omitempty"`
	Problem    *Code      `json:"last_problem,omitempty"` // the last code that was no success
	Path       Path       `json:"path"`
	Queue      Queue      `json:"queue"`
	Quarantine Quarantine `json:"quarantine"`
	Open       Open       `json:"open"`
	Poll       Poll       `json:"poll"`
	Report     Report     `json:"report"`
	Rate       Rate       `json:"rate"`
	Disk       Disk       `json:"disk"`
	Scan       Scan       `json:"scan"`
	Totals     Totals     `json:"totals"` // since StartedAt
	Workers    []Worker   `json:"workers"`
}

// Success is the last receipt.
type Success struct {
	At      time.Time  `json:"at"`
	Episode episode.ID `json:"episode"`
}

// Code is the last outcome.
type Code struct {
	Code   code.Code `json:"code"`
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"` // the first time in a row
	At     time.Time `json:"at"`    // the last time
}

// Path is the state of the way to the receiver. When it is not held the
// rest is about the last outage.
type Path struct {
	Held      bool       `json:"held"`
	Code      code.Code  `json:"code,omitempty"`
	Detail    string     `json:"detail,omitempty"`
	Fix       string     `json:"fix,omitempty"`
	Since     *time.Time `json:"since,omitempty"`
	CodeSince *time.Time `json:"code_since,omitempty"`
	Probes    int        `json:"probes,omitempty"`
	NextProbe *time.Time `json:"next_probe_at,omitempty"`
}

// Queue is what waits.
type Queue struct {
	Scanned         bool              `json:"scanned"` // false until the first scan has ended
	Waiting         int               `json:"waiting"` // not in flight
	InFlight        int               `json:"in_flight"`
	Postponed       int               `json:"postponed"` // of Waiting, those in trouble of their own
	PostponedByCode map[code.Code]int `json:"postponed_by_code,omitempty"`
	Oldest          *Oldest           `json:"oldest,omitempty"`
	Before          *Sample           `json:"before,omitempty"` // some ten minutes ago, or at the start
}

// Left is the number of episodes that have not left the queue.
func (q Queue) Left() int { return q.Waiting + q.InFlight }

// Sample is how many episodes had not left the queue at a time.
type Sample struct {
	At   time.Time `json:"at"`
	Left int       `json:"left"`
}

// Oldest is the first episode in the queue.
type Oldest struct {
	Episode    episode.ID `json:"episode"`
	SealedAt   time.Time  `json:"sealed_at"`
	AgeSeconds int64      `json:"age_seconds"`
}

// Quarantine is what was set aside.
type Quarantine struct {
	Total      int               `json:"total"`
	Counting   bool              `json:"counting,omitempty"` // the figures are not all in yet
	ByCode     map[code.Code]int `json:"by_code,omitempty"`
	Unreadable int               `json:"unreadable,omitempty"` // entries without a readable reason.json
	Oldest     *time.Time        `json:"oldest,omitempty"`     // the least quarantined_at
	CleanedAt  *time.Time        `json:"cleaned_at,omitempty"`
	Cleanup    queue.Outcome     `json:"cleanup,omitempty"` // of the last clean-up that was due
}

// Open is what sealings that died a day ago or longer left in open/, and nobody
// recovered.
type Open struct {
	LeftOver int        `json:"left_over"`
	Oldest   *time.Time `json:"oldest,omitempty"` // when the first of them began
	Error    string     `json:"error,omitempty"`  // why that can't be told
}

// Fix is the command that deals with them.
func (Open) Fix() string { return "cis490-episode recover" }

// Poll is what the receiver says of itself.
type Poll struct {
	LastSuccess     *time.Time   `json:"last_success,omitempty"`
	Failure         *Code        `json:"failure,omitempty"`      // of the last poll, when it failed
	SkewSeconds     float64      `json:"clock_skew_seconds"`     // the receiver's clock minus ours, at LastSuccess
	MaxSkewSeconds  float64      `json:"max_clock_skew_seconds"` // what the receiver tolerates
	ClockAgreedAt   *time.Time   `json:"clock_agreed_at,omitempty"`
	KnownAs         string       `json:"known_as,omitempty"` // this host's name at the receiver
	ReceiverVersion string       `json:"receiver_version,omitempty"`
	Window          *wire.Window `json:"window,omitempty"`
	// Damaged is what the receiver acknowledged and no longer holds sound.
	Damaged *wire.Damaged `json:"damaged,omitempty"`
}

// Report is what the receiver was told of how this host is.
type Report struct {
	SentAt  *time.Time    `json:"sent_at,omitempty"` // the last that it took
	Verdict health.Status `json:"verdict,omitempty"` // of that one
	Failure *Code         `json:"failure,omitempty"` // of the last one, when it failed: nothing else depends on it
}

// Rate is the limit of all uploads together.
type Rate struct {
	Limit          string     `json:"limit"`            // as in the configuration
	BytesPerSecond int64      `json:"bytes_per_second"` // 0: no limit, or off
	WireBytes      int64      `json:"wire_bytes"`       // sent since the start of the process or its last reload
	Off            bool       `json:"off"`
	Window         string     `json:"window,omitempty"` // the rate_window that it is from
	Until          *time.Time `json:"until,omitempty"`  // when another one holds, if within a week
	Then           string     `json:"then,omitempty"`   // which
}

// String is the limit for people.
func (r Rate) String() string {
	s := r.Limit
	if r.Window != "" {
		s += ", by rate_window " + r.Window
	}
	if r.Until != nil {
		s += " until " + r.Until.Local().Format("Mon 15:04") + ", then " + r.Then
	}
	return s
}

// Disk is about the file system of data_dir.
type Disk struct {
	FreeBytes    int64 `json:"free_bytes"`
	MinFreeBytes int64 `json:"min_free_bytes"`
	Low          bool  `json:"low"`
}

// Scan is the last scan pass.
type Scan struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"`
}

// Totals is what was done since the start.
type Totals struct {
	Shipped      uint64 `json:"shipped"`
	PayloadBytes uint64 `json:"payload_bytes"`
	SentBytes    uint64 `json:"sent_bytes"` // packed, without what was sent twice
}

// Worker is what one upload worker is at, or another worker that is late. Sizes are of the tar stream.
type Worker struct {
	Name      string      `json:"name"`
	Doing     string      `json:"doing,omitempty"` // empty: waits for work
	Episode   *episode.ID `json:"episode,omitempty"`
	Attempt   int         `json:"attempt,omitempty"`
	Since     *time.Time  `json:"since,omitempty"`
	SizeBytes int64       `json:"size_bytes,omitempty"`
	SentBytes int64       `json:"sent_bytes,omitempty"`
	Late      string      `json:"late,omitempty"` // overdue for the watchdog by
}

// Line is the state in one line, for Summary.
func (st Shipper) Line(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "shipping %d, %d queued", st.Queue.InFlight, st.Queue.Waiting)
	if o := st.Queue.Oldest; o != nil {
		fmt.Fprintf(&b, ", oldest %s", Span(now.Sub(o.SealedAt)))
	}
	if n := st.Quarantine.Total; n > 0 {
		fmt.Fprintf(&b, ", %d quarantined", n)
	}
	if n := st.Queue.Postponed; n > 0 {
		fmt.Fprintf(&b, ", %d at the end of the queue", n)
	}
	if n := st.Open.LeftOver; n > 0 {
		fmt.Fprintf(&b, ", %d cut off in open/", n)
	}
	if d := st.Poll.Damaged; d != nil {
		fmt.Fprintf(&b, ", %d damaged at the receiver", d.Count)
	}
	if st.Path.Held {
		fmt.Fprintf(&b, "; held for %s: %s", Span(now.Sub(*st.Path.Since)), st.Path.Code)
		if d := st.Path.NextProbe.Sub(now); d >= time.Second {
			fmt.Fprintf(&b, ", next try in %s", Span(d))
		}
	}
	if st.Rate.Off {
		b.WriteString("; uploads are " + st.Rate.String())
	}
	if st.Disk.Low {
		fmt.Fprintf(&b, "; low on disk space, %d MiB free", st.Disk.FreeBytes>>20)
	}
	if st.Scan.Error != "" {
		fmt.Fprintf(&b, "; can't scan: %s", st.Scan.Error)
	}
	return b.String()
}

// Span writes a duration for people: one unit, rounded down.
func Span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

// ReadShipper reads the state that a shipper with that run_dir last wrote.
func ReadShipper(runDir string) (Shipper, error) {
	var st Shipper
	err := read(ShipperPath(runDir), &st, func() int { return st.Schema })
	return st, err
}
