package bag

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf8"
)

// MaxPath is the longest path, in bytes, that a bag of this package holds: with its final zero byte it is Linux's PATH_MAX,
// beyond which no ordinary tool can open a file (path_resolution(7)).
const MaxPath = 4095

// maxLine bounds a manifest line: a checksum and a path whose every byte is percent-encoded, and generous separators.
const maxLine = 128 + 3*MaxPath + 64

// Entry is one line of a manifest.
type Entry struct {
	Path string // percent-decoded, slash separated; passed CheckPath
	Sum  []byte
}

// Kind says which of the two kinds of manifest is read: they may list different paths.
type Kind int

const (
	Payload Kind = iota // manifest-ALG.txt: every path is below data/
	Tag                 // tagmanifest-ALG.txt: no path is below data/, and none is a tag manifest
)

// CheckPath says what is wrong with a percent-decoded path in a manifest: it must name a file below the bag's directory
// and name it in one way only (RFC 8493, sections 2.1.3 and 5.1).
func CheckPath(p string) error { return checkPath(p) }

func checkPath[T string | []byte](p T) error {
	switch {
	case len(p) == 0:
		return errors.New("the path is empty")
	case len(p) > MaxPath:
		return fmt.Errorf("the path is longer than %d bytes", MaxPath)
	case p[0] == '/':
		return errors.New("the path is absolute")
	case p[0] == '~':
		return errors.New("the path begins with ~")
	}
	start := 0
	for i := 0; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			if p[i] == 0 {
				return errors.New("the path has a zero byte")
			}
			continue
		}
		switch n := i - start; {
		case n == 0:
			return errors.New("the path has an empty element")
		case n == 1 && p[start] == '.':
			return errors.New(`the path has an element "."`)
		case n == 2 && p[start] == '.' && p[start+1] == '.':
			return errors.New(`the path has an element ".."`)
		}
		start = i + 1
	}
	if !validUTF8(p) {
		return errors.New("the path is not valid UTF-8")
	}
	return nil
}

func validUTF8[T string | []byte](p T) bool {
	switch v := any(p).(type) {
	case string:
		return utf8.ValidString(v)
	case []byte:
		return utf8.Valid(v)
	}
	return false
}

func checkKind[T string | []byte](p T, k Kind) error {
	const data = PayloadDir + "/"
	below := len(p) >= len(data) && string(p[:len(data)]) == data
	switch {
	case k == Payload && !below:
		return errors.New("a payload manifest lists a file outside data/")
	case k == Tag && below:
		return errors.New("a tag manifest lists a payload file")
	case k == Tag && isTagManifest(string(p)):
		return errors.New("a tag manifest lists a tag manifest")
	}
	return nil
}

// isTagManifest and isManifest tell a manifest by the name of a file in the bag's base directory.
func isTagManifest(name string) bool {
	return strings.HasPrefix(name, "tagmanifest-") && strings.HasSuffix(name, ".txt") && !strings.Contains(name, "/")
}

func isManifest(name string) bool {
	return strings.HasPrefix(name, "manifest-") && strings.HasSuffix(name, ".txt") && !strings.Contains(name, "/")
}

// A LineError is a fault of one line of a tag file.
type LineError struct {
	Line int // from 1
	Kind FaultKind
	Path string // the path that the line names, when it got that far
	Err  error
}

func (e *LineError) Error() string {
	if e.Path != "" {
		return fmt.Sprintf("line %d: %s: %v", e.Line, Quote(e.Path), e.Err)
	}
	return fmt.Sprintf("line %d: %v", e.Line, e.Err)
}

func (e *LineError) Unwrap() error { return e.Err }

// A ManifestScanner reads a manifest in canonical form, the one that [AppendManifestLine] writes and an episode must have:
// lower-case checksum, two spaces, path; CR, LF and % in it as %0D, %0A and %25; each line ended by LF; sorted by the bytes of the decoded
// path, none twice; no path is a directory of another. It keeps one line in memory and allocates nothing per line.
type ManifestScanner struct {
	lines *lineScanner
	kind  Kind
	path  []byte
	sum   []byte
	prev  []byte
	stack []int // lengths of prefixes of prev that are listed files; see checkOrder
	err   error
}

// NewManifestScanner reads a manifest of alg from r.
func NewManifestScanner(r io.Reader, alg Algorithm, kind Kind) *ManifestScanner {
	s := &ManifestScanner{lines: newLineScanner(r, maxLine), kind: kind, sum: make([]byte, alg.Size())}
	if alg.Size() == 0 {
		s.err = fmt.Errorf("checksum algorithm %q is not known", string(alg))
	}
	return s
}

// Scan goes to the next line. It returns false at the end and at the first fault, which [ManifestScanner.Err] tells.
func (s *ManifestScanner) Scan() bool {
	if s.err != nil {
		return false
	}
	if !s.lines.scan() {
		s.err = s.lines.err
		return false
	}
	line := s.lines.bytes()
	n := 2 * len(s.sum)
	if len(line) < n+3 || line[n] != ' ' || line[n+1] != ' ' || !decodeHex(s.sum, line[:n], false) {
		return s.fail(Malformed, fmt.Errorf("want %d lower-case hexadecimal digits, two spaces and a path", n))
	}
	var err error
	s.prev, s.path = s.path, s.prev[:0]
	if s.path, err = decodePath(s.path, line[n+2:]); err != nil {
		return s.fail(Malformed, err)
	}
	if err = checkPath(s.path); err == nil {
		err = checkKind(s.path, s.kind)
	}
	if err != nil {
		return s.fail(UnsafePath, err)
	}
	if err = s.checkOrder(); err != nil {
		return s.fail(Malformed, err)
	}
	return true
}

func (s *ManifestScanner) fail(k FaultKind, err error) bool {
	s.err = &LineError{Line: s.lines.line, Kind: k, Path: string(s.path), Err: err}
	return false
}

// checkOrder compares s.path with the lines before it. Sorted strings that begin with p stand together, right behind p; so
// it is enough to remember those of the listed paths that the current one begins with, and there is no need of a set
// to see that "data/a" is listed both as a file and as the directory of "data/a/b".
func (s *ManifestScanner) checkOrder() error {
	switch c := bytes.Compare(s.prev, s.path); {
	case s.lines.line == 1:
		return nil
	case c == 0:
		return errors.New("the path is listed twice")
	case c > 0:
		return errors.New("the lines are not sorted by the bytes of their paths")
	}
	s.stack = append(s.stack, len(s.prev))
	common := 0
	for common < len(s.prev) && common < len(s.path) && s.prev[common] == s.path[common] {
		common++
	}
	for len(s.stack) > 0 && s.stack[len(s.stack)-1] > common {
		s.stack = s.stack[:len(s.stack)-1]
	}
	for _, n := range s.stack {
		if s.path[n] == '/' {
			return fmt.Errorf("%s is listed as a file and used as a directory", Quote(string(s.path[:n])))
		}
	}
	return nil
}

// Path is the decoded path of the current line; it is overwritten by the next call of Scan but one.
func (s *ManifestScanner) Path() []byte { return s.path }

// Sum is the checksum of the current line; it is overwritten by the next call of Scan.
func (s *ManifestScanner) Sum() []byte { return s.sum }

// Line is the number of the current line, from 1: at the end, the number of lines.
func (s *ManifestScanner) Line() int { return s.lines.line }

// Err is what stopped Scan: nil at the end of the manifest, a *[LineError] for a fault of the manifest, else the reader's error.
func (s *ManifestScanner) Err() error { return s.err }

// ScanManifest yields the lines of a canonical payload manifest in its order. After an error it yields no more. The
// entries may be kept.
func ScanManifest(b []byte, alg Algorithm) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		s := NewManifestScanner(memory{text: b}, alg, Payload)
		for s.Scan() {
			if !yield(Entry{Path: string(s.Path()), Sum: bytes.Clone(s.Sum())}, nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(Entry{}, err)
		}
	}
}

// ParseManifest reads a whole canonical payload manifest.
func ParseManifest(b []byte, alg Algorithm) ([]Entry, error) { return parseManifest(b, alg, Payload) }

// ParseTagManifest reads a whole canonical tag manifest.
func ParseTagManifest(b []byte, alg Algorithm) ([]Entry, error) { return parseManifest(b, alg, Tag) }

func parseManifest(b []byte, alg Algorithm, kind Kind) ([]Entry, error) {
	n := bytes.Count(b, []byte("\n"))
	entries := make([]Entry, 0, n)
	sums := make([]byte, 0, n*alg.Size())
	s := NewManifestScanner(memory{text: b}, alg, kind)
	for s.Scan() {
		at := len(sums)
		sums = append(sums, s.Sum()...)
		entries = append(entries, Entry{Path: string(s.Path()), Sum: sums[at:len(sums):len(sums)]})
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return entries, nil
}

// AppendManifestLine appends the canonical line of one file.
func AppendManifestLine(b []byte, sum []byte, path string) []byte {
	b = hex.AppendEncode(b, sum)
	b = append(b, "  "...)
	b = appendEncodedPath(b, path)
	return append(b, '\n')
}

// appendEncodedPath percent-encodes CR, LF and %, and nothing else (RFC 8493, section 2.1.3).
func appendEncodedPath(b []byte, path string) []byte {
	for i := 0; i < len(path); i++ {
		switch c := path[i]; c {
		case '\r':
			b = append(b, "%0D"...)
		case '\n':
			b = append(b, "%0A"...)
		case '%':
			b = append(b, "%25"...)
		default:
			b = append(b, c)
		}
	}
	return b
}

// decodePath undoes appendEncodedPath, and takes only what that writes.
func decodePath(dst, src []byte) ([]byte, error) {
	for {
		i := bytes.IndexByte(src, '%')
		if i < 0 {
			i = len(src)
		}
		if bytes.IndexByte(src[:i], '\r') >= 0 {
			return dst, errors.New("the path has a bare CR")
		}
		dst = append(dst, src[:i]...)
		if src = src[i:]; len(src) == 0 {
			return dst, nil
		}
		c, ok := unescape(src)
		if !ok || (src[2] >= 'a' && src[2] <= 'z') {
			return dst, errors.New("% in a path must be written %25, and only CR, LF and % are encoded")
		}
		dst, src = append(dst, c), src[3:]
	}
}

// unescape decodes the %0A, %0D or %25 that s begins with, the digits in either case.
func unescape(s []byte) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	switch {
	case s[1] == '0' && s[2]|0x20 == 'a':
		return '\n', true
	case s[1] == '0' && s[2]|0x20 == 'd':
		return '\r', true
	case s[1] == '2' && s[2] == '5':
		return '%', true
	}
	return 0, false
}
