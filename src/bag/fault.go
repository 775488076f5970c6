package bag

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// FaultKind is a short stable name of what is wrong, for programs.
type FaultKind string

const (
	Malformed      FaultKind = "malformed"       // a tag file is not as RFC 8493 asks
	Missing        FaultKind = "missing"         // a required or listed file is not there
	Unlisted       FaultKind = "unlisted"        // a payload file that a manifest should list and does not
	Mismatch       FaultKind = "digest-mismatch" // a file's checksum is not the listed one
	UnsafePath     FaultKind = "unsafe-path"     // a path that leaves the bag, or may do so on another system
	Duplicate      FaultKind = "duplicate"       // a file listed twice, or two metadata elements where one is allowed
	OxumMismatch   FaultKind = "oxum-mismatch"   // Payload-Oxum differs from the payload
	Incomplete     FaultKind = "incomplete"      // fetch.txt: parts of the payload are elsewhere
	NotRegular     FaultKind = "not-regular"     // a link, device, socket or FIFO, or a directory where a file is listed
	Unsupported    FaultKind = "unsupported"     // a version, encoding or algorithm that can't be checked here
	Unreadable     FaultKind = "unreadable"      // the operating system refused or failed
	ProfileBreach  FaultKind = "profile"         // a valid bag, but not what an episode must be
	NameDifference FaultKind = "name"            // a warning: a name matched only after normalising it
)

// Fault is one thing that makes a bag invalid, or one warning.
type Fault struct {
	Kind   FaultKind `json:"kind"`
	File   string    `json:"file,omitempty"` // the tag file that shows it
	Line   int       `json:"line,omitempty"` // its line, from 1
	Path   string    `json:"path,omitempty"` // the file that it concerns, below the bag's directory
	Detail string    `json:"detail"`         // one plain sentence without the above
	Err    error     `json:"-"`              // the system's error of an Unreadable
}

// String is the fault on one line. Names are quoted when they could disturb a terminal.
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(Quote(f.File))
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		b.WriteString(": ")
	}
	if f.Path != "" {
		b.WriteString(Quote(f.Path) + ": ")
	}
	b.WriteString(f.Detail)
	return b.String()
}

// Quote is a name as it is when it is plain, else as a Go string literal: names of files are outside input and may hold line
// ends and terminal sequences.
func Quote(name string) string {
	plain := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '"' || r == '\\' || r == unicode.ReplacementChar || !unicode.IsPrint(r)
	})
	if plain {
		return name
	}
	return strconv.Quote(name)
}
