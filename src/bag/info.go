package bag

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The labels of bag-info.txt that this program writes or reads (RFC 8493, section 2.2.2). They are compared without
// regard to case.
const (
	LabelOrganization = "Source-Organization"
	LabelBaggingDate  = "Bagging-Date"
	LabelOxum         = "Payload-Oxum"
	LabelIdentifier   = "External-Identifier"
	LabelAgent        = "Bag-Software-Agent"
)

// MaxInfo is the longest bag-info.txt that is read, in bytes.
const MaxInfo = 16 << 20

// Element is one metadata element of bag-info.txt.
type Element struct {
	Label string `json:"label"`
	Value string `json:"value"` // continuation lines joined by one space
}

// Info is a bag-info.txt: elements in the order of the file, labels repeated as they are there.
type Info []Element

// Get is the value of the first element with that label, "" without one.
func (i Info) Get(label string) string {
	for _, e := range i {
		if strings.EqualFold(e.Label, label) {
			return e.Value
		}
	}
	return ""
}

// All is the values of every element with that label.
func (i Info) All(label string) []string {
	var v []string
	for _, e := range i {
		if strings.EqualFold(e.Label, label) {
			v = append(v, e.Value)
		}
	}
	return v
}

// ErrNoOxum says that a bag-info.txt has no Payload-Oxum, which is optional in a bag and required in an episode.
var ErrNoOxum = errors.New("bag-info.txt has no " + LabelOxum)

// Oxum is the Payload-Oxum: the payload's size in bytes and its number of files.
func (i Info) Oxum() (octets, streams int64, err error) {
	switch all := i.All(LabelOxum); len(all) {
	case 0:
		return 0, 0, ErrNoOxum
	case 1:
		return ParseOxum(all[0])
	}
	return 0, 0, fmt.Errorf("%s is there more than once", LabelOxum)
}

// ParseOxum reads "octets.streams".
func ParseOxum(s string) (octets, streams int64, err error) {
	o, n, ok := strings.Cut(s, ".")
	octets, okO := decimal(o)
	streams, okN := decimal(n)
	if !ok || !okO || !okN {
		return 0, 0, fmt.Errorf("%s %.80q is not of the form OCTETS.STREAMS", LabelOxum, s)
	}
	return octets, streams, nil
}

// FormatOxum writes what ParseOxum reads.
func FormatOxum(octets, streams int64) string {
	return strconv.FormatInt(octets, 10) + "." + strconv.FormatInt(streams, 10)
}

// decimal reads digits only: no sign, no underscore, no blank.
func decimal(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// ParseInfo reads a bag-info.txt in UTF-8. It takes every line ending that RFC 8493 allows, continuation lines, and blanks around the colon
// as BagIt 0.97 and earlier had them. Its error is a *[LineError].
func ParseInfo(b []byte) (Info, error) {
	info, faults := parseInfo(b)
	if len(faults) > 0 {
		return nil, faults[0]
	}
	return info, nil
}

// parseInfo goes on past faults and gives all of them.
func parseInfo(b []byte) (Info, []*LineError) {
	var info Info
	var faults []*LineError
	bad := func(line int, format string, a ...any) {
		faults = append(faults, &LineError{Line: line, Kind: Malformed, Err: fmt.Errorf(format, a...)})
	}
	if !utf8.Valid(b) {
		bad(0, "the text is not valid UTF-8")
		return nil, faults
	}
	open := false // the last line was an element or its continuation
	for n, line := range textLines(b) {
		switch {
		case strings.Trim(line, " \t") == "":
			open = false
		case line[0] == ' ' || line[0] == '\t':
			if !open {
				bad(n, "a continuation line has nothing to continue")
				continue
			}
			last := &info[len(info)-1]
			last.Value = strings.TrimLeft(last.Value+" "+strings.Trim(line, " \t"), " ")
		default:
			open = false
			label, value, ok := strings.Cut(line, ":")
			label = strings.TrimRight(label, " \t")
			if !ok || label == "" {
				bad(n, "want a label, a colon and a value, got %.80q", line)
				continue
			}
			info = append(info, Element{Label: label, Value: strings.Trim(value, " \t")})
			open = true
		}
	}
	return info, faults
}

// textLines yields the lines of a text, numbered from 1, without their LF, CR or CRLF.
func textLines(b []byte) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		for n := 1; len(b) > 0; n++ {
			i := bytes.IndexAny(b, "\r\n")
			if i < 0 {
				yield(n, string(b))
				return
			}
			line := string(b[:i])
			if b[i] == '\r' && i+1 < len(b) && b[i+1] == '\n' {
				i++
			}
			b = b[i+1:]
			if !yield(n, line) {
				return
			}
		}
	}
}

// FormatInfo writes a bag-info.txt. It refuses what would not come back as it was: an empty label, a colon in a label, line ends, control
// characters, blanks at an end, and text that is not UTF-8.
func FormatInfo(i Info) ([]byte, error) {
	var b []byte
	for _, e := range i {
		control := func(r rune) bool { return r < 0x20 || r == 0x7f }
		switch {
		case e.Label == "" || strings.Contains(e.Label, ":") || strings.TrimSpace(e.Label) != e.Label:
			return nil, fmt.Errorf("bag-info.txt can't have a label %q", e.Label)
		case strings.Trim(e.Value, " \t") != e.Value,
			strings.ContainsFunc(e.Label, control), strings.ContainsFunc(e.Value, control),
			!utf8.ValidString(e.Label), !utf8.ValidString(e.Value):
			return nil, fmt.Errorf("bag-info.txt can't have %s: %q", e.Label, e.Value)
		}
		b = append(b, e.Label...)
		b = append(b, ": "...)
		b = append(b, e.Value...)
		b = append(b, '\n')
	}
	return b, nil
}

// Clone is a copy that shares nothing with i.
func (i Info) Clone() Info { return slices.Clone(i) }
