package bag

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/unicode/utf32"
	"golang.org/x/text/transform"

	"cis490/src/durable"
)

// Bag is a bag's directory, opened. What was wrong with bagit.txt and bag-info.txt is among the faults that [Bag.Verify] gives.
type Bag struct {
	Dir      string
	Version  string // as bagit.txt has it, "" when it has none that can be read
	Encoding string // of the tag files, as bagit.txt names it
	Info     Info   // nil without a bag-info.txt

	// AllowFetched lets a fetch.txt pass when every file that it lists is there: RFC 8493 calls such a bag complete. Without
	// it any bag with a fetch.txt is refused as incomplete.
	AllowFetched bool
	// Workers is how many files Verify hashes at a time; 0 is one for each CPU.
	Workers int

	root     *os.File
	v1       bool              // 1.0 or later: its stricter rules hold
	decoder  encoding.Encoding // nil for UTF-8
	faults   []Fault
	warnings []Fault
	opened   struct{ faults, warnings int }  // how many of them Open found
	found    struct{ octets, streams int64 } // the payload as Verify found it
}

// Open opens a bag of any maker. It fails only when dir can't be opened or is no directory; what makes it no bag is for Verify to say.
func Open(dir string) (*Bag, error) {
	root, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open bag: %w", err)
	}
	b := &Bag{Dir: dir, root: root}
	b.readDeclaration()
	b.readInfo()
	b.opened.faults, b.opened.warnings = len(b.faults), len(b.warnings)
	return b, nil
}

// Close closes the directory.
func (b *Bag) Close() error { return b.root.Close() }

// Warnings are what Open and Verify found odd and nonetheless without doubt.
func (b *Bag) Warnings() []Fault { return sortFaults(slices.Clone(b.warnings)) }

func (b *Bag) fault(f Fault) { b.faults = append(b.faults, f) }

func (b *Bag) faultf(k FaultKind, file string, line int, path, format string, a ...any) {
	b.fault(Fault{Kind: k, File: file, Line: line, Path: path, Detail: fmt.Sprintf(format, a...)})
}

func (b *Bag) warnf(k FaultKind, file string, line int, path, format string, a ...any) {
	b.warnings = append(b.warnings, Fault{Kind: k, File: file, Line: line, Path: path, Detail: fmt.Sprintf(format, a...)})
}

// openTag opens a tag file. Its absence is reported as fault only by who needs it.
func (b *Bag) openTag(name string) (*os.File, bool) {
	f, err := durable.OpenBeneath(b.root, name)
	if err == nil {
		return f, true
	}
	if !errors.Is(err, fs.ErrNotExist) {
		b.fault(openFault(name, err))
	}
	return nil, false
}

// openFault is the fault of a file that could not be opened.
func openFault(path string, err error) Fault {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Fault{Kind: Missing, Path: path, Detail: "is not there"}
	case errors.Is(err, durable.ErrNotRegular), errors.Is(err, unix.ENOTDIR):
		return Fault{Kind: NotRegular, Path: path, Detail: "is not a regular file, or is reached through a link"}
	}
	return readFault(path, err)
}

func readFault(path string, err error) Fault {
	detail := err.Error()
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		detail = pe.Op + ": " + pe.Err.Error()
	}
	return Fault{Kind: Unreadable, Path: path, Detail: "can't be read: " + detail, Err: err}
}

// maxDeclaration is plenty for two short lines.
const maxDeclaration = 4 << 10

var (
	versionLine  = regexp.MustCompile(`^BagIt-Version[ \t]*:[ \t]*([0-9]+)\.([0-9]+)[ \t]*$`)
	encodingLine = regexp.MustCompile(`^Tag-File-Character-Encoding[ \t]*:[ \t]*([!-~]+)[ \t]*$`)
)

// knownVersions are those whose rules this package has: the drafts that were in use, and RFC 8493.
var knownVersions = []string{"0.93", "0.94", "0.95", "0.96", "0.97", "1.0"}

// readDeclaration reads bagit.txt (RFC 8493, section 2.1.1).
func (b *Bag) readDeclaration() {
	f, ok := b.openTag(Declaration)
	if !ok {
		if len(b.faults) == 0 {
			b.faultf(Missing, "", 0, Declaration, "is not there: this is no bag")
		}
		return
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDeclaration+1))
	if err != nil {
		b.fault(readFault(Declaration, err))
		return
	}
	b.parseDeclaration(text)
}

func (b *Bag) parseDeclaration(text []byte) {
	bad := func(line int, format string, a ...any) { b.faultf(Malformed, Declaration, line, "", format, a...) }
	if len(text) > maxDeclaration {
		bad(0, "is longer than %d bytes; it has two lines", maxDeclaration)
		return
	}
	if bytes.HasPrefix(text, bom) {
		bad(1, "begins with a byte order mark, which it must not have")
		text = text[len(bom):]
	}
	if !utf8.Valid(text) {
		bad(0, "is not valid UTF-8")
		return
	}
	var lines []string
	for _, l := range textLines(text) {
		lines = append(lines, l)
	}
	for len(lines) > 2 && strings.Trim(lines[len(lines)-1], " \t") == "" {
		lines = lines[:len(lines)-1]
		b.warnf(Malformed, Declaration, 3, "", "has a blank line at its end")
	}
	if len(lines) != 2 {
		bad(0, "has %d lines, must have two", len(lines))
	}
	line := func(i int) string {
		if i < len(lines) {
			return lines[i]
		}
		return ""
	}
	if m := versionLine.FindStringSubmatch(line(0)); m != nil {
		b.Version = m[1] + "." + m[2]
		b.v1 = m[1] != "0"
		if !slices.Contains(knownVersions, b.Version) {
			b.faultf(Unsupported, Declaration, 1, "", "BagIt %s is not known; 0.93 to 0.97 and 1.0 are", b.Version)
		}
		if b.v1 && line(0) != "BagIt-Version: "+b.Version {
			bad(1, "BagIt 1.0 wants %q without other blanks", "BagIt-Version: "+b.Version)
		}
	} else {
		bad(1, "wants %q with a version's two numbers, has %.80q", "BagIt-Version: M.N", line(0))
	}
	if m := encodingLine.FindStringSubmatch(line(1)); m != nil {
		b.Encoding = m[1]
		if b.v1 && line(1) != "Tag-File-Character-Encoding: "+b.Encoding {
			bad(2, "BagIt 1.0 wants %q without other blanks", "Tag-File-Character-Encoding: "+b.Encoding)
		}
		var err error
		if b.decoder, err = lookupEncoding(b.Encoding); err != nil {
			b.faultf(Unsupported, Declaration, 2, "", "%v", err)
		}
	} else {
		bad(2, "wants %q with the encoding's name, has %.80q", "Tag-File-Character-Encoding: ENCODING", line(1))
	}
}

var bom = []byte("\xef\xbb\xbf")

// lookupEncoding finds an encoding by its IANA name. nil is UTF-8, of which US-ASCII is a part.
func lookupEncoding(name string) (encoding.Encoding, error) {
	switch strings.ToUpper(name) {
	case "UTF-8", "UTF8", "US-ASCII", "ASCII":
		return nil, nil
	case "UTF-32":
		return utf32.UTF32(utf32.BigEndian, utf32.UseBOM), nil
	case "UTF-32BE":
		return utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM), nil
	case "UTF-32LE":
		return utf32.UTF32(utf32.LittleEndian, utf32.IgnoreBOM), nil
	}
	for _, index := range []*ianaindex.Index{ianaindex.MIME, ianaindex.IANA} {
		if e, err := index.Encoding(name); err == nil && e != nil {
			return e, nil
		}
	}
	return nil, fmt.Errorf("the encoding %.80q is not known", name)
}

// decode gives the text of a tag file as UTF-8.
func (b *Bag) decode(r io.Reader) io.Reader {
	if b.decoder == nil {
		return r
	}
	return transform.NewReader(r, b.decoder.NewDecoder())
}

// infoName is what bag-info.txt is called: package-info.txt before BagIt 0.96.
func (b *Bag) infoName() string {
	if b.Version == "0.93" || b.Version == "0.94" || b.Version == "0.95" {
		return "package-info.txt"
	}
	return InfoFile
}

func (b *Bag) readInfo() {
	name := b.infoName()
	f, ok := b.openTag(name)
	if !ok {
		return
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(b.decode(f), MaxInfo+1))
	switch {
	case err != nil:
		b.fault(readFault(name, err))
		return
	case len(text) > MaxInfo:
		b.faultf(Malformed, name, 0, "", "is longer than %d bytes", MaxInfo)
		return
	}
	if bytes.HasPrefix(text, bom) {
		b.warnf(Malformed, name, 1, "", "begins with a byte order mark")
		text = text[len(bom):]
	}
	info, faults := parseInfo(text)
	b.Info = info
	for _, e := range faults {
		b.faultf(e.Kind, name, e.Line, "", "%v", e.Err)
	}
}

// listed is one line of a manifest or of fetch.txt of any maker, read leniently.
type listed struct {
	line int
	path string // decoded and cleaned
	raw  string // as it is written, cleaned but not decoded
	sum  []byte
}

// scanManifest yields the lines of a manifest that can be used, and reports those that can't.
func (b *Bag) scanManifest(name string, r io.Reader, alg Algorithm, kind Kind) iter.Seq[listed] {
	return func(yield func(listed) bool) {
		b.scanLines(name, r, func(n int, line []byte) bool {
			i := bytes.IndexAny(line, " \t")
			sum := make([]byte, alg.Size())
			if i < 0 || !decodeHex(sum, line[:i], true) {
				b.faultf(Malformed, name, n, "", "wants %d hexadecimal digits, blanks and a path, has %.80q", 2*len(sum), line)
				return true
			}
			rest := bytes.TrimLeft(line[i:], " \t")
			if len(rest) > 1 && rest[0] == '*' {
				// What md5sum and its like write for files read in binary mode; no listed path can begin so.
				b.warnf(NameDifference, name, n, "", `has the "*" of checksum tools before the path`)
				rest = rest[1:]
			}
			l := listed{line: n, sum: sum}
			return !b.listedPath(&l, name, rest, kind) || yield(l)
		})
	}
}

// scanFetch yields the paths of fetch.txt (RFC 8493, section 2.2.3).
func (b *Bag) scanFetch(r io.Reader) iter.Seq[listed] {
	return func(yield func(listed) bool) {
		b.scanLines(FetchFile, r, func(n int, line []byte) bool {
			url, rest := cutBlank(line)
			length, path := cutBlank(rest)
			if _, ok := decimal(string(length)); len(url) == 0 || (!ok && string(length) != "-") || len(path) == 0 {
				b.faultf(Malformed, FetchFile, n, "", "wants a URL, a length or -, and a path, has %.80q", line)
				return true
			}
			l := listed{line: n}
			return !b.listedPath(&l, FetchFile, path, Payload) || yield(l)
		})
	}
}

func cutBlank(b []byte) (head, tail []byte) {
	i := bytes.IndexAny(b, " \t")
	if i < 0 {
		return b, nil
	}
	return b[:i], bytes.TrimLeft(b[i:], " \t")
}

// listedPath decodes, cleans and checks the path of a line.
func (b *Bag) listedPath(l *listed, name string, written []byte, kind Kind) bool {
	l.raw = string(written)
	cleaned := strings.TrimPrefix(l.raw, "./")
	for strings.Contains(cleaned, "//") {
		cleaned = strings.ReplaceAll(cleaned, "//", "/")
	}
	if cleaned != l.raw && !strings.HasPrefix(l.raw, "/") {
		b.warnf(NameDifference, name, l.line, l.raw, "is not written in its shortest form")
		l.raw = cleaned
	}
	l.path = lenientUnescape(l.raw)
	err := checkPath(l.path)
	if err == nil {
		err = checkKind(l.path, kind)
	}
	if err != nil {
		k := UnsafePath
		if !utf8.ValidString(l.path) {
			k = Malformed
		}
		b.faultf(k, name, l.line, l.path, "%v", err)
		return false
	}
	return true
}

// lenientUnescape decodes the three escapes and takes every other % as it is: not every maker encodes it.
func lenientUnescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if c, ok := unescape([]byte(s[i:min(i+3, len(s))])); ok {
				out = append(out, c)
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// scanLines calls fn with each line, whether it ends in LF, CR or CRLF, that is not blank.
func (b *Bag) scanLines(name string, f io.Reader, fn func(n int, line []byte) bool) {
	sc := bufio.NewScanner(b.decode(f))
	sc.Buffer(make([]byte, 0, 16<<10), 4*maxLine)
	sc.Split(splitLines)
	n := 0
	for sc.Scan() {
		n++
		line := sc.Bytes()
		if n == 1 && bytes.HasPrefix(line, bom) {
			b.warnf(Malformed, name, 1, "", "begins with a byte order mark")
			line = line[len(bom):]
		}
		if len(bytes.Trim(line, " \t")) == 0 {
			b.warnf(Malformed, name, n, "", "is a blank line")
			continue
		}
		if !fn(n, line) {
			return
		}
	}
	switch err := sc.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		b.faultf(Malformed, name, n+1, "", "is longer than %d bytes, and no path is", 4*maxLine)
	case err != nil:
		b.fault(readFault(name, err))
	}
}

// splitLines is a bufio.SplitFunc for LF, CR and CRLF.
func splitLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	i := bytes.IndexAny(data, "\r\n")
	switch {
	case i < 0 && atEOF && len(data) > 0:
		return len(data), data, nil
	case i < 0:
		return 0, nil, nil
	case data[i] == '\n':
		return i + 1, data[:i], nil
	case i+1 < len(data):
		if data[i+1] == '\n' {
			return i + 2, data[:i], nil
		}
		return i + 1, data[:i], nil
	case atEOF:
		return i + 1, data[:i], nil
	}
	return 0, nil, nil // whether an LF follows the CR is not known yet
}

// sortFaults orders faults by what they concern: the declaration, then tag files by name and line, then files by path.
func sortFaults(f []Fault) []Fault {
	key := func(f Fault) string {
		group := "3"
		switch {
		case f.File == Declaration || f.Path == Declaration:
			group = "0"
		case f.File != "":
			group = "1" + f.File + "\x00" + fmt.Sprintf("%020s", strconv.Itoa(f.Line))
		case !strings.HasPrefix(f.Path, PayloadDir+"/"):
			group = "2"
		}
		return group + "\x00" + f.Path + "\x00" + string(f.Kind) + "\x00" + f.Detail
	}
	slices.SortStableFunc(f, func(a, b Fault) int { return strings.Compare(key(a), key(b)) })
	return f
}
