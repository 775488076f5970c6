package bag

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What can be left out of a bag, as files.jsonl names it.
const (
	SkippedSymlink = "symlink"
	SkippedSocket  = "socket"
	SkippedFIFO    = "fifo"
	SkippedChar    = "character-device"
	SkippedBlock   = "block-device"
	SkippedName    = "name-not-utf-8" // a file or directory of such a name, with all that is below it
	SkippedLong    = "path-too-long"  // longer than MaxPath
	SkippedUnknown = "unknown-type"   // a kind of file that this program does not know
)

// FileMeta is one line of files.jsonl: what a manifest can't say about a file, a directory, or something that was left out.
type FileMeta struct {
	Path    string    // as in the manifest, below data/; of something left out it may be invalid UTF-8
	ModTime time.Time // to the nanosecond
	Exec    bool      // the owner's x bit of a file
	Dir     bool      // a directory; all are listed, so that empty ones and the times of the others come back
	Changed bool      // the source was written to while it was copied, and whoever sealed it allowed that
	Skipped string    // why it was left out, one of the Skipped constants; "" for what is in the bag
	Target  string    // where a symlink that was left out points to
}

// The JSON form. Names that JSON can't hold are Go string literals in the members that end in _quoted.
type fileLine struct {
	Path         string `json:"path,omitempty"`
	PathQuoted   string `json:"path_quoted,omitempty"`
	Dir          bool   `json:"dir,omitempty"`
	Exec         bool   `json:"exec,omitempty"`
	Changed      bool   `json:"changed,omitempty"`
	ModTime      string `json:"mtime,omitempty"`
	Skipped      string `json:"skipped,omitempty"`
	Target       string `json:"target,omitempty"`
	TargetQuoted string `json:"target_quoted,omitempty"`
}

// MaxFilesLine is the longest line of a files.jsonl, in bytes: path and target, quoted and then escaped.
const MaxFilesLine = 64 << 10

// AppendFile appends the line of one file.
func AppendFile(b []byte, f FileMeta) []byte {
	l := fileLine{Dir: f.Dir, Exec: f.Exec, Changed: f.Changed, Skipped: f.Skipped, ModTime: formatModTime(f.ModTime)}
	l.Path, l.PathQuoted = splitQuoted(f.Path)
	l.Target, l.TargetQuoted = splitQuoted(f.Target)
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		panic(err) // strings and bools always encode
	}
	return append(b, buf.Bytes()...)
}

// FormatFiles writes a files.jsonl in the order given.
func FormatFiles(files []FileMeta) []byte {
	var b []byte
	for _, f := range files {
		b = AppendFile(b, f)
	}
	return b
}

func splitQuoted(s string) (plain, quoted string) {
	if utf8.ValidString(s) {
		return s, ""
	}
	return "", strconv.QuoteToASCII(s)
}

func joinQuoted(plain, quoted string) (string, error) {
	switch {
	case quoted == "":
		return plain, nil
	case plain != "":
		return "", fmt.Errorf("a name is given both plain and quoted")
	}
	s, err := strconv.Unquote(quoted)
	if err != nil || quoted[0] != '"' || utf8.ValidString(s) {
		return "", fmt.Errorf("%.80s does not quote a name that JSON can't hold", quoted)
	}
	return s, nil
}

// beyondYears is where RFC 3339's four digits of a year end on either side, roughly; times beyond are written as date(1) takes them.
const beyondYears = 60_000_000_000

// formatModTime writes RFC 3339 in UTC with as many digits as needed, or "@seconds.nanoseconds" for the years that RFC 3339 can't write.
func formatModTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if s := t.Unix(); s > -beyondYears && s < beyondYears {
		return t.UTC().Format(time.RFC3339Nano)
	}
	return fmt.Sprintf("@%d.%09d", t.Unix(), t.Nanosecond())
}

func parseModTime(s string) (time.Time, error) {
	sec, ok := strings.CutPrefix(s, "@")
	if !ok {
		t, err := time.Parse(time.RFC3339Nano, s)
		return t.UTC(), err
	}
	sec, nsec, _ := strings.Cut(sec, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	ns, ok := decimal(nsec)
	if err != nil || len(nsec) != 9 || !ok {
		return time.Time{}, fmt.Errorf("%.80q is not @seconds.nanoseconds", s)
	}
	return time.Unix(n, ns).UTC(), nil
}

// ScanFiles yields the lines of a files.jsonl. After an error, which is a *[LineError] or r's own, it yields no more.
// Paths are checked as a manifest's are. Members that are not known are passed over: a later version may add some.
func ScanFiles(r io.Reader) iter.Seq2[FileMeta, error] {
	return func(yield func(FileMeta, error) bool) {
		ls := newLineScanner(r, MaxFilesLine)
		for ls.scan() {
			f, err := parseFile(ls.bytes())
			if err != nil {
				yield(FileMeta{}, &LineError{Line: ls.line, Kind: Malformed, Err: err})
				return
			}
			if !yield(f, nil) {
				return
			}
		}
		if err := ls.err; err != nil {
			yield(FileMeta{}, err)
		}
	}
}

// ParseFiles reads a whole files.jsonl.
func ParseFiles(b []byte) ([]FileMeta, error) {
	files := make([]FileMeta, 0, bytes.Count(b, []byte("\n")))
	for f, err := range ScanFiles(memory{text: b}) {
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func parseFile(line []byte) (f FileMeta, err error) {
	if !utf8.Valid(line) {
		return f, fmt.Errorf("the line is not valid UTF-8")
	}
	var l fileLine
	if err := json.Unmarshal(line, &l); err != nil {
		return f, err
	}
	f = FileMeta{Exec: l.Exec, Dir: l.Dir, Changed: l.Changed, Skipped: l.Skipped}
	if f.Path, err = joinQuoted(l.Path, l.PathQuoted); err != nil {
		return f, err
	}
	if f.Target, err = joinQuoted(l.Target, l.TargetQuoted); err != nil {
		return f, err
	}
	if l.ModTime != "" {
		if f.ModTime, err = parseModTime(l.ModTime); err != nil {
			return f, err
		}
	}
	switch {
	case f.Skipped != "":
		if f.Path == "" {
			return f, fmt.Errorf("the path is empty")
		}
		return f, nil
	case f.Target != "":
		return f, fmt.Errorf("only a link that was left out has a target")
	case f.Dir && f.Exec:
		return f, fmt.Errorf("a directory has no x bit here")
	}
	if err := checkPath(f.Path); err != nil {
		return f, err
	}
	return f, checkKind(f.Path, Payload)
}
