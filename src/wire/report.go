package wire

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"cis490/src/code"
	"cis490/src/health"
)

// MaxReport is the most bytes of the body of a report.
const MaxReport = 16 << 10

// Report is the body of PUT /v1/hosts/self/report: how a host is, for the
// receiver's list of hosts. All of it is that host's word. What a receiver does
// not know in it, it ignores.
type Report struct {
	Schema      int           `json:"schema"` // 1
	Host        string        `json:"host"`   // as it calls itself
	Version     string        `json:"version"`
	SentAt      time.Time     `json:"sent_at"` // its clock
	StartedAt   time.Time     `json:"started_at"`
	Interval    int64         `json:"interval_seconds"` // the next one comes within
	Verdict     health.Status `json:"verdict"`          // the worst of Rows
	LastSuccess *time.Time    `json:"last_success_at,omitempty"`

	Queue struct {
		Waiting   int64 `json:"waiting"`
		InFlight  int64 `json:"in_flight"`
		Postponed int64 `json:"postponed"`          // of Waiting
		OldestAge int64 `json:"oldest_age_seconds"` // 0: nothing waits
	} `json:"queue"`
	Quarantine struct {
		Total  int64               `json:"total"`
		ByCode map[code.Code]int64 `json:"by_code,omitempty"`
	} `json:"quarantine"`
	Path struct {
		Held  bool       `json:"held"`
		Code  code.Code  `json:"code,omitempty"` // of the last outage when it is not held
		Since *time.Time `json:"since,omitempty"`
	} `json:"path"`
	Disk struct {
		Free int64 `json:"free_bytes"`
		Min  int64 `json:"min_free_bytes"`
	} `json:"disk"`
	Skew *float64        `json:"clock_skew_seconds,omitempty"` // the receiver's clock minus its own; nil: not known
	Rows []health.Result `json:"rows,omitempty"`               // what is not green
}

// Bounds of what is kept of a report.
const (
	maxRows  = 64
	maxName  = 64  // bytes of a name or a version
	maxTitle = 512 // bytes of a text
)

// ReadReport reads a report and leaves in it what can be shown to anybody on any
// terminal: texts of one line without control characters, counts that are none
// below zero, codes and words that this version knows. Its error is for whoever
// sent it.
func ReadReport(r io.Reader) (rep Report, err error) {
	if err := readJSON(r, MaxReport, &rep); err != nil {
		return Report{}, err
	}
	if rep.Schema != 1 {
		return Report{}, fmt.Errorf("it has schema %d; this receiver reads 1", rep.Schema)
	}
	rep.Clean()
	return rep, nil
}

// Clean is what [ReadReport] does to a report that was read elsewhere.
func (r *Report) Clean() {
	for _, s := range []*string{&r.Host, &r.Version} {
		*s = line(*s, maxName)
	}
	for _, n := range []*int64{&r.Interval, &r.Queue.Waiting, &r.Queue.InFlight, &r.Queue.Postponed, &r.Queue.OldestAge, &r.Quarantine.Total, &r.Disk.Free, &r.Disk.Min} {
		*n = max(*n, 0)
	}
	r.Interval = min(r.Interval, int64(maxInterval/time.Second))
	r.SentAt, r.StartedAt = moment(r.SentAt), moment(r.StartedAt)
	for _, t := range []**time.Time{&r.LastSuccess, &r.Path.Since} {
		if *t != nil {
			if at := moment(**t); at.IsZero() {
				*t = nil
			} else {
				*t = &at
			}
		}
	}
	r.Verdict = told(r.Verdict)
	if _, known := code.Lookup(r.Path.Code); !known {
		r.Path.Code = ""
	}
	for c, n := range r.Quarantine.ByCode {
		if _, known := code.Lookup(c); !known || n <= 0 {
			delete(r.Quarantine.ByCode, c)
		}
	}
	r.Rows = r.Rows[:min(len(r.Rows), maxRows)]
	for i, w := range r.Rows {
		r.Rows[i] = health.Result{ID: line(w.ID, maxName), Status: told(w.Status), Title: line(w.Title, maxTitle), Evidence: line(w.Evidence, maxTitle), Fix: line(w.Fix, maxTitle)}
	}
}

// maxInterval bounds for how long a host can say that its silence means nothing.
const maxInterval = 24 * time.Hour

// told is a verdict that a host may give on itself.
func told(s health.Status) health.Status {
	if s == health.Green || s == health.Yellow || s == health.Red {
		return s
	}
	return health.Unknown
}

// moment is a time that can be written again, in UTC; else zero.
func moment(t time.Time) time.Time {
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// line makes s one line of at most most bytes that does nothing to a terminal:
// what is no printable character, marks of direction among it, becomes U+FFFD.
func line(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
