// Package health is the vocabulary of how a host is: what one row says, in the
// doctor's report and in a daemon's own word, and the doctor's report of them.
//
// It promises that a report, whatever happened while it was made, is one JSON
// document with "schema": 1, and that what could not be looked at is never
// green.
package health

import (
	"fmt"
	"time"
)

// Status is what a row came to.
type Status string

// The statuses. Only Green means that all is well.
const (
	Green   Status = "green"
	Yellow  Status = "yellow"  // works, and will not for long, or not as it should
	Red     Status = "red"     // broken
	Unknown Status = "unknown" // could not look: denied, timed out, crashed; or was told nothing that can be understood
	Skipped Status = "skipped" // its cause is red already
)

// Result is one row.
type Result struct {
	ID        string   `json:"id"`
	Status    Status   `json:"status"`
	Title     string   `json:"title"`                // one line: what is so
	Evidence  string   `json:"evidence,omitempty"`   // what was seen, where the title does not say it all
	Fix       string   `json:"fix,omitempty"`        // a line that can be pasted, or what to set where
	Docs      string   `json:"docs,omitempty"`       // where the row is explained
	DependsOn []string `json:"depends_on,omitempty"` // ids of rows whose red is the cause of this one's
	Took      float64  `json:"took,omitempty"`       // seconds that looking took; a daemon knows its rows without looking
}

// Report is what one run of the doctor found.
type Report struct {
	Schema  int       `json:"schema"` // 1
	Role    string    `json:"role"`   // lab-host, receiver, or both with a comma between
	Host    string    `json:"host,omitempty"`
	Version string    `json:"version"` // of the doctor
	At      time.Time `json:"at"`
	Took    float64   `json:"took"` // seconds
	Verdict Status    `json:"verdict"`
	Summary string    `json:"summary"`         // the verdict in words
	Error   string    `json:"error,omitempty"` // why the doctor itself failed
	Results []Result  `json:"results"`
}

// Finish fills in what follows from the results.
func (r *Report) Finish() {
	r.Schema = 1
	if r.Results == nil {
		r.Results = []Result{}
	}
	n := map[Status]int{}
	for _, x := range r.Results {
		n[x.Status]++
	}
	more := ""
	if n[Unknown] > 0 {
		more = fmt.Sprintf(", %d could not be looked at", n[Unknown])
	}
	if n[Skipped] > 0 {
		more += fmt.Sprintf(", %d skipped", n[Skipped])
	}
	switch {
	case r.Error != "":
		r.Verdict, r.Summary = Unknown, "the doctor itself failed: "+r.Error
	case n[Red] > 0:
		r.Verdict, r.Summary = Red, fmt.Sprintf("%d broken, %d to watch, %d well%s", n[Red], n[Yellow], n[Green], more)
	case n[Yellow] > 0:
		r.Verdict, r.Summary = Yellow, fmt.Sprintf("nothing is broken, %d to watch, %d well%s", n[Yellow], n[Green], more)
	case n[Green] > 0:
		r.Verdict, r.Summary = Green, fmt.Sprintf("all %d rows that could be looked at are well%s", n[Green], more)
	default:
		r.Verdict, r.Summary = Unknown, "nothing could be looked at"
	}
}

// Exit statuses of the doctor.
const (
	ExitWell   = 0 // no row is red
	ExitRed    = 1
	ExitFailed = 2 // the doctor itself failed
)

// Exit is the exit status for the report; with strict, yellow counts as red.
func (r *Report) Exit(strict bool) int {
	switch {
	case r.Error != "":
		return ExitFailed
	case r.Verdict == Red, strict && r.Verdict == Yellow:
		return ExitRed
	}
	return ExitWell
}
