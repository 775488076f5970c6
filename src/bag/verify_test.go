package bag

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
)

// A maker builds bags as any maker might. Files are its payload and its other tag files by their path in the bag.
type maker struct {
	version  string
	encoding string
	encode   func(string) string // of tag files but bagit.txt
	sep, eol string
	algs     []Algorithm
	upper    bool                // checksums
	name     func(string) string // how a path is written in manifests
	info     string
	files    map[string]string
	tags     bool // tag manifests
	// edit changes the finished tag files by name before the tag manifests are made; change all of them after.
	edit, change func(tag map[string]string)
}

func usual() *maker {
	return &maker{
		version: "1.0", encoding: "UTF-8", encode: func(s string) string { return s }, sep: "  ", eol: "\n", algs: []Algorithm{SHA256},
		name: func(s string) string { return string(appendEncodedPath(nil, s)) },
		info: "Payload-Oxum: 11.2\nContact-Name: A\n", tags: true,
		files: map[string]string{"data/a": "hello", "data/dir/b c": "world!"},
	}
}

func sumHex(a Algorithm, s string, upper bool) string {
	h := a.New()
	h.Write([]byte(s))
	x := fmt.Sprintf("%x", h.Sum(nil))
	if upper {
		x = strings.ToUpper(x)
	}
	return x
}

func (m *maker) make(t testing.TB) string {
	t.Helper()
	tag := map[string]string{}
	tag["bagit.txt"] = "BagIt-Version: " + m.version + m.eol + "Tag-File-Character-Encoding: " + m.encoding + m.eol
	if m.info != "" {
		tag["bag-info.txt"] = m.encode(strings.ReplaceAll(m.info, "\n", m.eol))
	}
	list := func(a Algorithm, files map[string]string) string {
		var b strings.Builder
		for _, p := range slices.Sorted(maps.Keys(files)) {
			b.WriteString(sumHex(a, files[p], m.upper) + m.sep + m.name(p) + m.eol)
		}
		return m.encode(b.String())
	}
	payload, others := map[string]string{}, map[string]string{}
	for p, s := range m.files {
		if strings.HasPrefix(p, "data/") {
			payload[p] = s
		} else {
			others[p] = s
		}
	}
	for _, a := range m.algs {
		tag["manifest-"+string(a)+".txt"] = list(a, payload)
	}
	maps.Copy(tag, others)
	if m.edit != nil {
		m.edit(tag)
	}
	if m.tags {
		all := maps.Clone(tag)
		for _, a := range m.algs {
			tag["tagmanifest-"+string(a)+".txt"] = list(a, all)
		}
	}
	if m.change != nil {
		m.change(tag)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, files := range []map[string]string{tag, payload} {
		for p, s := range files {
			write(t, filepath.Join(dir, p), s)
		}
	}
	return dir
}

func write(t testing.TB, path, s string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
}

func verify(t testing.TB, dir string) (faults, warnings []Fault) {
	t.Helper()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	faults, err = b.Verify(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return faults, b.Warnings()
}

func encodeWith(e interface{ String(string) (string, error) }) func(string) string {
	return func(s string) string {
		out, err := e.String(s)
		if err != nil {
			panic(err)
		}
		return out
	}
}

func TestValidBags(t *testing.T) {
	set := func(fs ...func(*maker)) *maker {
		m := usual()
		for _, f := range fs {
			f(m)
		}
		return m
	}
	version := func(v string) func(*maker) { return func(m *maker) { m.version = v } }
	algs := func(a ...Algorithm) func(*maker) { return func(m *maker) { m.algs = a } }
	umlaut := func(m *maker) {
		m.files = map[string]string{"data/grün": "hello world"}
		m.info = "Contact-Name: Jürgen\n"
	}
	for name, c := range map[string]struct {
		m        *maker
		warnings int
	}{
		"plain":           {set(), 0},
		"no tag manifest": {set(func(m *maker) { m.tags = false }), 0},
		"no bag-info":     {set(func(m *maker) { m.info = "" }), 0},
		"no payload":      {set(func(m *maker) { m.files = nil; m.info = "Payload-Oxum: 0.0\n" }), 0},
		"two algorithms":  {set(algs(SHA256, SHA512)), 0},
		"md5 and sha1":    {set(algs(MD5, SHA1)), 0},
		"sha3 and sha384": {set(algs(SHA3256, SHA384, SHA224)), 0},
		"0.97":            {set(version("0.97"), algs(MD5)), 0},
		"0.96":            {set(version("0.96")), 0},
		"upper-case sums": {set(func(m *maker) { m.upper = true }), 0},
		"one blank":       {set(func(m *maker) { m.sep = " " }), 0},
		"tabs":            {set(func(m *maker) { m.sep = "\t \t" }), 0},
		"CRLF":            {set(func(m *maker) { m.eol = "\r\n" }), 0},
		"CR":              {set(func(m *maker) { m.eol = "\r" }), 0},
		"binary mode":     {set(func(m *maker) { m.sep = " *" }), 5},
		"leading ./":      {set(func(m *maker) { m.name = func(s string) string { return "./" + s } }), 5},
		"two slashes":     {set(func(m *maker) { m.name = func(s string) string { return strings.ReplaceAll(s, "/", "//") } }), 2},
		"lower-case escape": {set(func(m *maker) {
			m.files = map[string]string{"data/a\nb\r": "hello world"}
			m.info = ""
			m.name = func(s string) string { return strings.NewReplacer("\n", "%0a", "\r", "%0d").Replace(s) }
		}), 0},
		"all escapes": {set(func(m *maker) { m.files = map[string]string{"data/a\nb\rc%d%0A": "hello world"}; m.info = "" }), 0},
		"percent as it is": {set(func(m *maker) {
			m.files = map[string]string{"data/100% %41": "x"}
			m.info = ""
			m.name = func(s string) string { return s }
		}), 0},
		"escape as it is": {set(func(m *maker) {
			m.files = map[string]string{"data/%25": "x"}
			m.info = ""
			m.name = func(s string) string { return s }
		}), 1},
		"tilde inside":      {set(func(m *maker) { m.files = map[string]string{"data/~root/x": "x"}; m.info = "" }), 0},
		"backslash":         {set(func(m *maker) { m.files = map[string]string{`data/a\..\b`: "x"}; m.info = "" }), 0},
		"names with blanks": {set(func(m *maker) { m.files = map[string]string{"data/ a b ": "x", "data/*": "y"}; m.info = "" }), 0},
		"bag in a bag": {set(func(m *maker) {
			m.files = map[string]string{"data/bagit.txt": "x", "data/data/fetch.txt": "y", "data/manifest-sha256.txt": "z"}
			m.info = ""
		}), 0},
		"more tag files": {set(func(m *maker) { m.files["meta/rights.txt"] = "all"; m.files["README"] = "r" }), 0},
		"unlisted tag files": {set(func(m *maker) {
			m.change = func(tag map[string]string) { tag["notes/x"] = "1"; tag["y"] = "2" }
		}), 0},
		"unordered, no final LF": {set(func(m *maker) {
			m.edit = func(tag map[string]string) {
				l := strings.SplitAfter(tag["manifest-sha256.txt"], "\n")
				tag["manifest-sha256.txt"] = l[1] + strings.TrimSuffix(l[0], "\n")
			}
		}), 0},
		"repeated metadata": {set(func(m *maker) { m.info += "Contact-Name: B\nCONTACT-NAME: C\n  D\n" }), 0},
		"blanks at colons":  {set(version("0.97"), func(m *maker) { m.info = "Payload-Oxum : 11.2\nX:y\n" }), 0},
		"blanks in bagit.txt before 1.0": {set(version("0.97"), func(m *maker) {
			m.edit = func(tag map[string]string) {
				tag["bagit.txt"] = "BagIt-Version :  0.97 \nTag-File-Character-Encoding:UTF-8\n\n"
			}
		}), 1},
		"one manifest of two lists it, before 1.0": {set(version("0.97"), algs(SHA256, MD5), func(m *maker) {
			m.edit = func(tag map[string]string) {
				tag["manifest-md5.txt"] = strings.SplitAfter(tag["manifest-md5.txt"], "\n")[0]
				tag["manifest-sha256.txt"] = strings.SplitAfter(tag["manifest-sha256.txt"], "\n")[1]
			}
		}), 0},
		"twice with one sum, before 1.0": {set(version("0.97"), func(m *maker) {
			m.edit = func(tag map[string]string) { tag["manifest-sha256.txt"] += tag["manifest-sha256.txt"] }
		}), 2},
		"tag manifest without manifest, before 1.0": {set(version("0.97"), func(m *maker) {
			m.change = func(tag map[string]string) {
				tag["tagmanifest-sha256.txt"] = sumHex(SHA256, tag["bagit.txt"], false) + "  bagit.txt\n"
			}
		}), 1},
		"names of algorithms": {set(algs(SHA3512), func(m *maker) {
			m.tags = false
			m.edit = func(tag map[string]string) {
				tag["manifest-SHA3_512.txt"] = tag["manifest-sha3512.txt"]
				delete(tag, "manifest-sha3512.txt")
			}
		}), 0},
		"package-info.txt": {set(version("0.95"), func(m *maker) {
			m.edit = func(tag map[string]string) {
				tag["package-info.txt"] = tag["bag-info.txt"]
				delete(tag, "bag-info.txt")
			}
		}), 0},
		"ISO-8859-1": {set(umlaut, func(m *maker) { m.encoding, m.encode = "ISO-8859-1", encodeWith(charmap.ISO8859_1.NewEncoder()) }), 0},
		"windows-1252": {set(umlaut, func(m *maker) {
			m.encoding, m.encode = "windows-1252", encodeWith(charmap.Windows1252.NewEncoder())
		}), 0},
		"UTF-16": {set(umlaut, func(m *maker) {
			e := unicode.UTF16(unicode.LittleEndian, unicode.UseBOM).NewEncoder()
			m.encoding, m.encode = "UTF-16", func(s string) string { e.Reset(); return encodeWith(e)(s) }
		}), 0},
		"UTF-16BE": {set(umlaut, func(m *maker) {
			m.encoding, m.encode = "utf-16be", encodeWith(unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM).NewEncoder())
		}), 0},
		"UTF-32": {set(umlaut, func(m *maker) {
			e := utf32.UTF32(utf32.BigEndian, utf32.UseBOM).NewEncoder()
			m.encoding, m.encode = "UTF-32", func(s string) string { e.Reset(); return encodeWith(e)(s) }
		}), 0},
		"UTF-8 with BOM in a manifest": {set(func(m *maker) {
			m.edit = func(tag map[string]string) { tag["manifest-sha256.txt"] = "\xef\xbb\xbf" + tag["manifest-sha256.txt"] }
		}), 1},
		"listed composed, stored decomposed": {set(func(m *maker) {
			m.files = map[string]string{"data/e\u0301": "x"}
			m.info, m.name = "", func(s string) string { return strings.ReplaceAll(s, "e\u0301", "\u00e9") }
		}), 1},
		"listed decomposed, stored composed": {set(func(m *maker) {
			m.files = map[string]string{"data/\u00e9": "x"}
			m.info, m.name = "", func(s string) string { return strings.ReplaceAll(s, "\u00e9", "e\u0301") }
		}), 1},
		"listed in both forms, before 1.0": {set(version("0.97"), func(m *maker) {
			m.files, m.info = map[string]string{"data/\u00e9": "x"}, ""
			m.edit = func(tag map[string]string) {
				tag["manifest-sha256.txt"] += strings.ReplaceAll(tag["manifest-sha256.txt"], "\u00e9", "e\u0301")
			}
		}), 1},
		"names in the tag files' encoding": {set(func(m *maker) {
			m.files = map[string]string{"data/gr\xfcn": "x"}
			m.info, m.tags = "", false
			m.encoding = "ISO-8859-1"
		}), 1},
	} {
		t.Run(name, func(t *testing.T) {
			faults, warnings := verify(t, c.m.make(t))
			if len(faults) > 0 {
				t.Errorf("faults: %v", faults)
			}
			if len(warnings) != c.warnings {
				t.Errorf("%d warnings, want %d: %v", len(warnings), c.warnings, warnings)
			}
		})
	}
}

// at is where a fault is: its kind, tag file, line and path.
func at(f Fault) string { return fmt.Sprintf("%s %s:%d %s", f.Kind, f.File, f.Line, f.Path) }

func TestInvalidBags(t *testing.T) {
	declare := func(text string) func(*maker) {
		return func(m *maker) { m.edit = func(tag map[string]string) { tag["bagit.txt"] = text } }
	}
	manifest := func(edit func(text, sum string) string) func(*maker) {
		return func(m *maker) {
			m.edit = func(tag map[string]string) {
				tag["manifest-sha256.txt"] = edit(tag["manifest-sha256.txt"], strings.Repeat("0", 64))
			}
		}
	}
	adds := func(path string) func(*maker) {
		return manifest(func(text, sum string) string { return text + sum + "  " + path + "\n" })
	}
	fetch := func(text string) func(*maker) {
		return func(m *maker) { m.edit = func(tag map[string]string) { tag["fetch.txt"] = text } }
	}
	old := func(fs ...func(*maker)) func(*maker) {
		return func(m *maker) {
			m.version = "0.97"
			for _, f := range fs {
				f(m)
			}
		}
	}
	const encodingLine = "Tag-File-Character-Encoding: UTF-8\n"
	for name, c := range map[string]struct {
		set    func(*maker)
		damage func(t *testing.T, dir string) // after all was written
		want   []string
	}{
		"nothing in the directory": {damage: func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"missing :0 bagit.txt", "missing :0 ", "missing :0 data"}},
		"no bagit.txt":                  {damage: remove("bagit.txt"), want: []string{"missing :0 bagit.txt", "missing tagmanifest-sha256.txt:2 bagit.txt"}},
		"no bag-info.txt though listed": {damage: remove("bag-info.txt"), want: []string{"missing tagmanifest-sha256.txt:1 bag-info.txt"}},
		"no manifest":                   {func(m *maker) { m.tags = false }, remove("manifest-sha256.txt"), []string{"missing :0 ", "unlisted :0 data/a", "unlisted :0 data/dir/b c"}},
		"no payload":                    {damage: remove("data"), want: []string{"oxum-mismatch bag-info.txt:0 ", "missing manifest-sha256.txt:1 data/a", "missing manifest-sha256.txt:2 data/dir/b c", "missing :0 data"}},
		"one file gone":                 {damage: remove("data/a"), want: []string{"oxum-mismatch bag-info.txt:0 ", "missing manifest-sha256.txt:1 data/a"}},
		"one file more":                 {damage: put("data/new", ""), want: []string{"oxum-mismatch bag-info.txt:0 ", "unlisted :0 data/new"}},
		"one byte changed":              {damage: put("data/a", "hellO"), want: []string{"digest-mismatch manifest-sha256.txt:1 data/a"}},
		"one byte more":                 {damage: put("data/a", "hello\n"), want: []string{"oxum-mismatch bag-info.txt:0 ", "digest-mismatch manifest-sha256.txt:1 data/a"}},
		"all wrong at once": {damage: func(t *testing.T, dir string) {
			put("data/a", "HELLO")(t, dir)
			remove("data/dir/b c")(t, dir)
			put("data/z", "new")(t, dir)
			put("bagit.txt", "nonsense\n")(t, dir)
		}, want: []string{
			"malformed bagit.txt:0 ", "malformed bagit.txt:1 ", "malformed bagit.txt:2 ", "digest-mismatch tagmanifest-sha256.txt:2 bagit.txt",
			"oxum-mismatch bag-info.txt:0 ", "digest-mismatch manifest-sha256.txt:1 data/a", "missing manifest-sha256.txt:2 data/dir/b c", "unlisted :0 data/z",
		}},
		"tag file changed": {damage: put("bag-info.txt", "Payload-Oxum: 11.2\nContact-Name: B\n"), want: []string{"digest-mismatch tagmanifest-sha256.txt:1 bag-info.txt"}},
		"only one of two sums": {func(m *maker) {
			m.algs, m.tags = []Algorithm{MD5, SHA256}, false
			m.edit = func(tag map[string]string) {
				tag["manifest-md5.txt"] = strings.Replace(tag["manifest-md5.txt"], "5d41", "5d42", 1)
			}
		}, nil, []string{"digest-mismatch manifest-md5.txt:1 data/a"}},
		"1.0: not in every manifest": {func(m *maker) {
			m.algs = []Algorithm{MD5, SHA256}
			m.edit = func(tag map[string]string) {
				tag["manifest-md5.txt"] = strings.SplitAfter(tag["manifest-md5.txt"], "\n")[0]
			}
		}, nil, []string{"unlisted manifest-md5.txt:0 data/dir/b c"}},
		"1.0: tag manifest without manifest": {func(m *maker) {
			m.change = func(tag map[string]string) {
				tag["tagmanifest-sha256.txt"] = sumHex(SHA256, tag["bagit.txt"], false) + "  bagit.txt\n"
			}
		}, nil, []string{"unlisted tagmanifest-sha256.txt:0 manifest-sha256.txt"}},
		"1.0: twice with one sum":   {manifest(func(text, _ string) string { return text + text }), nil, []string{"duplicate manifest-sha256.txt:3 data/a", "duplicate manifest-sha256.txt:4 data/dir/b c"}},
		"twice with different sums": {old(adds("data/a")), nil, []string{"duplicate manifest-sha256.txt:3 data/a"}},
		"twice, once as ./":         {old(adds("./data/a")), nil, []string{"duplicate manifest-sha256.txt:3 data/a"}},

		"BOM in bagit.txt":         {declare("\xef\xbb\xbf" + DeclarationText), nil, []string{"malformed bagit.txt:1 "}},
		"bagit.txt in UTF-16":      {declare("B\x00a\x00g\x00I\x00t\x00\xff\xfe"), nil, []string{"malformed bagit.txt:0 "}},
		"version only":             {declare("BagIt-Version: 1.0\n"), nil, []string{"malformed bagit.txt:0 ", "malformed bagit.txt:2 "}},
		"three lines":              {declare(DeclarationText + "X: y\n"), nil, []string{"malformed bagit.txt:0 "}},
		"lines changed over":       {declare(encodingLine + "BagIt-Version: 1.0\n"), nil, []string{"malformed bagit.txt:1 ", "malformed bagit.txt:2 "}},
		"version .97":              {declare("BagIt-Version: .97\n" + encodingLine), nil, []string{"malformed bagit.txt:1 "}},
		"version 1":                {declare("BagIt-Version: 1\n" + encodingLine), nil, []string{"malformed bagit.txt:1 "}},
		"version 2.0":              {declare("BagIt-Version: 2.0\n" + encodingLine), nil, []string{"unsupported bagit.txt:1 "}},
		"version 0.92":             {declare("BagIt-Version: 0.92\n" + encodingLine), nil, []string{"unsupported bagit.txt:1 "}},
		"1.0: blank before colon":  {declare("BagIt-Version : 1.0\nTag-File-Character-Encoding : UTF-8\n"), nil, []string{"malformed bagit.txt:1 ", "malformed bagit.txt:2 "}},
		"1.0: blank at the end":    {declare("BagIt-Version: 1.0 \n" + encodingLine), nil, []string{"malformed bagit.txt:1 "}},
		"1.0: no blank":            {declare("BagIt-Version:1.0\n" + encodingLine), nil, []string{"malformed bagit.txt:1 "}},
		"unknown encoding":         {declare("BagIt-Version: 1.0\nTag-File-Character-Encoding: klingon\n"), nil, []string{"unsupported bagit.txt:2 "}},
		"no encoding":              {declare("BagIt-Version: 1.0\nTag-File-Character-Encoding: \n"), nil, []string{"malformed bagit.txt:2 "}},
		"bagit.txt without end":    {declare(strings.Repeat("x", maxDeclaration+1)), nil, []string{"malformed bagit.txt:0 "}},
		"bagit.txt is a directory": {func(m *maker) { m.tags = false }, func(t *testing.T, dir string) { remove("bagit.txt")(t, dir); put("bagit.txt/x", "")(t, dir) }, []string{"not-regular :0 bagit.txt"}},

		"absolute path":         {adds("/etc/passwd"), nil, []string{"unsafe-path manifest-sha256.txt:3 /etc/passwd"}},
		"path that leaves":      {adds("../../README"), nil, []string{"unsafe-path manifest-sha256.txt:3 ../../README"}},
		"path that leaves data": {adds("data/../../x"), nil, []string{"unsafe-path manifest-sha256.txt:3 data/../../x"}},
		"path out of data":      {adds("data/../bagit.txt"), nil, []string{"unsafe-path manifest-sha256.txt:3 data/../bagit.txt"}},
		"home":                  {adds("~/x"), nil, []string{"unsafe-path manifest-sha256.txt:3 ~/x"}},
		"another's home":        {adds("~root/x"), nil, []string{"unsafe-path manifest-sha256.txt:3 ~root/x"}},
		"drive":                 {adds(`C:\x`), nil, []string{`unsafe-path manifest-sha256.txt:3 C:\x`}},
		"tag file as payload":   {adds("bag-info.txt"), nil, []string{"unsafe-path manifest-sha256.txt:3 bag-info.txt"}},
		"path not UTF-8":        {adds("data/\xff"), nil, []string{"malformed manifest-sha256.txt:3 data/\xff"}},
		"zero byte":             {adds("data/\x00"), nil, []string{"unsafe-path manifest-sha256.txt:3 data/\x00"}},
		"sum without path":      {manifest(func(text, sum string) string { return text + sum + "\n" }), nil, []string{"malformed manifest-sha256.txt:3 "}},
		"sum too short":         {manifest(func(text, sum string) string { return text + "00  data/a\n" }), nil, []string{"malformed manifest-sha256.txt:3 "}},
		"sum of another kind":   {manifest(func(text, sum string) string { return text + strings.Repeat("0", 128) + "  data/a\n" }), nil, []string{"malformed manifest-sha256.txt:3 "}},
		"no sum":                {manifest(func(text, sum string) string { return text + strings.Repeat("x", 64) + "  data/a\n" }), nil, []string{"malformed manifest-sha256.txt:3 "}},
		"comment":               {manifest(func(text, sum string) string { return "# made by hand\n" + text }), nil, []string{"malformed manifest-sha256.txt:1 "}},
		"line without end":      {manifest(func(text, sum string) string { return text + strings.Repeat("x", 5*maxLine) }), nil, []string{"malformed manifest-sha256.txt:3 "}},
		"payload in tag manifest": {func(m *maker) {
			m.change = func(tag map[string]string) { tag["tagmanifest-sha256.txt"] += strings.Repeat("0", 64) + "  data/a\n" }
		}, nil, []string{"unsafe-path tagmanifest-sha256.txt:4 data/a"}},
		"tag manifest in tag manifest": {func(m *maker) {
			m.change = func(tag map[string]string) {
				tag["tagmanifest-sha256.txt"] += strings.Repeat("0", 64) + "  tagmanifest-sha256.txt\n"
			}
		}, nil, []string{"unsafe-path tagmanifest-sha256.txt:4 tagmanifest-sha256.txt"}},
		"unknown algorithm": {func(m *maker) { m.edit = func(tag map[string]string) { tag["manifest-crc32.txt"] = "0 data/a\n" } }, nil, []string{"unsupported manifest-crc32.txt:0 "}},
		"an algorithm twice": {func(m *maker) {
			m.edit = func(tag map[string]string) { tag["manifest-sha-256.txt"] = tag["manifest-sha256.txt"] }
		}, nil, []string{"duplicate manifest-sha256.txt:0 "}},

		"oxum in words":       {func(m *maker) { m.info = "Payload-Oxum: many\n" }, nil, []string{"malformed bag-info.txt:0 "}},
		"oxum twice":          {func(m *maker) { m.info += "Payload-Oxum: 11.2\n" }, nil, []string{"malformed bag-info.txt:0 "}},
		"oxum of other bytes": {func(m *maker) { m.info = "Payload-Oxum: 12.2\n" }, nil, []string{"oxum-mismatch bag-info.txt:0 "}},
		"oxum of other files": {func(m *maker) { m.info = "Payload-Oxum: 11.3\n" }, nil, []string{"oxum-mismatch bag-info.txt:0 "}},
		"line without colon":  {func(m *maker) { m.info += "nonsense\nX: y\nmore\n" }, nil, []string{"malformed bag-info.txt:3 ", "malformed bag-info.txt:5 "}},
		"bag-info not UTF-8":  {func(m *maker) { m.info += "X: \xff\n" }, nil, []string{"malformed bag-info.txt:0 "}},

		"to be fetched": {fetch("http://h/x 5 data/x\n"), nil, []string{"incomplete fetch.txt:1 data/x", "unlisted fetch.txt:1 data/x"}},
		"listed and to fetch": {func(m *maker) {
			adds("data/x")(m)
			e := m.edit
			m.edit = func(tag map[string]string) { e(tag); tag["fetch.txt"] = "http://h/x - data/x\n" }
		}, nil, []string{"incomplete fetch.txt:1 data/x", "missing manifest-sha256.txt:3 data/x"}},
		"fetched already":      {fetch("http://h/a - data/a\n"), nil, []string{"incomplete fetch.txt:0 "}},
		"empty fetch.txt":      {fetch(""), nil, []string{"incomplete fetch.txt:0 "}},
		"fetch leaves":         {fetch("http://h/a - ../x\n"), nil, []string{"incomplete fetch.txt:0 ", "unsafe-path fetch.txt:1 ../x"}},
		"fetch of a tag file":  {fetch("http://h/a - bag-info.txt\n"), nil, []string{"incomplete fetch.txt:0 ", "unsafe-path fetch.txt:1 bag-info.txt"}},
		"fetch line malformed": {fetch("http://h/a five data/a\nhttp://h/b\n"), nil, []string{"incomplete fetch.txt:0 ", "malformed fetch.txt:1 ", "malformed fetch.txt:2 "}},

		"link in the payload":   {damage: link("data/l", "/etc/passwd"), want: []string{"not-regular :0 data/l"}},
		"listed file is a link": {damage: func(t *testing.T, dir string) { remove("data/a")(t, dir); link("data/a", "dir/b c")(t, dir) }, want: []string{"oxum-mismatch bag-info.txt:0 ", "not-regular :0 data/a"}},
		"directory is a link": {damage: func(t *testing.T, dir string) {
			move("data/dir", "elsewhere")(t, dir)
			link("data/dir", "../elsewhere")(t, dir)
		}, want: []string{"oxum-mismatch bag-info.txt:0 ", "missing manifest-sha256.txt:2 data/dir/b c", "not-regular :0 data/dir"}},
		"payload is a link": {damage: func(t *testing.T, dir string) { move("data", "real")(t, dir); link("data", "real")(t, dir) }, want: []string{"oxum-mismatch bag-info.txt:0 ", "missing manifest-sha256.txt:1 data/a", "missing manifest-sha256.txt:2 data/dir/b c", "missing :0 data"}},
		"manifest is a link": {func(m *maker) { m.tags = false }, func(t *testing.T, dir string) {
			move("manifest-sha256.txt", "real")(t, dir)
			link("manifest-sha256.txt", "real")(t, dir)
		}, []string{"not-regular :0 manifest-sha256.txt", "unlisted :0 data/a", "unlisted :0 data/dir/b c"}},
		"listed file is a FIFO":    {damage: func(t *testing.T, dir string) { remove("data/a")(t, dir); fifo("data/a")(t, dir) }, want: []string{"oxum-mismatch bag-info.txt:0 ", "not-regular :0 data/a"}},
		"bag-info.txt is a FIFO":   {damage: func(t *testing.T, dir string) { remove("bag-info.txt")(t, dir); fifo("bag-info.txt")(t, dir) }, want: []string{"not-regular :0 bag-info.txt", "not-regular :0 bag-info.txt"}},
		"listed file is directory": {damage: func(t *testing.T, dir string) { remove("data/a")(t, dir); put("data/a/x", "")(t, dir) }, want: []string{"oxum-mismatch bag-info.txt:0 ", "not-regular manifest-sha256.txt:1 data/a", "unlisted :0 data/a/x"}},
		"1.0: listed in both forms": {func(m *maker) {
			m.files, m.info = map[string]string{"data/\u00e9": "x"}, ""
			m.edit = func(tag map[string]string) {
				tag["manifest-sha256.txt"] += strings.ReplaceAll(tag["manifest-sha256.txt"], "\u00e9", "e\u0301")
			}
		}, nil, []string{"missing manifest-sha256.txt:2 data/e\u0301"}},
		"two that differ in form": {func(m *maker) {
			m.files, m.info = map[string]string{"data/\u00e9": "x"}, ""
		}, put("data/e\u0301", "x"), []string{"unlisted :0 data/e\u0301"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := usual()
			if c.set != nil {
				c.set(m)
			}
			dir := m.make(t)
			if c.damage != nil {
				c.damage(t, dir)
			}
			faults, _ := verify(t, dir)
			var got []string
			for _, f := range faults {
				got = append(got, at(f))
				if f.Detail == "" || strings.ContainsAny(f.String(), "\x00\n") || !utf8.ValidString(f.String()) {
					t.Errorf("for people: %q", f.String())
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s\n%v", d, faults)
			}
		})
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func put(name, s string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { write(t, filepath.Join(dir, name), s) }
}

func link(name, target string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func move(from, to string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
}

func fifo(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAllowFetched(t *testing.T) {
	m := usual()
	m.edit = func(tag map[string]string) { tag["fetch.txt"] = "http://h/a 5 data/a\nhttp://h/b%20c - data/dir/b c\n" }
	dir := m.make(t)
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.AllowFetched = true
	for range 2 { // a bag can be verified again
		if faults, err := b.Verify(context.Background(), nil); len(faults) > 0 || err != nil {
			t.Error(faults, err)
		}
	}
	remove("data/a")(t, dir)
	if faults, err := b.Verify(context.Background(), nil); len(faults) == 0 || err != nil {
		t.Error(faults, err)
	}
}

func TestVerifyTellsProgressAndStops(t *testing.T) {
	m := usual()
	m.info = ""
	for i := range 50 {
		m.files[fmt.Sprintf("data/f%02d", i)] = strings.Repeat("x", 100_000)
	}
	dir := m.make(t)
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var done atomic.Int64
	faults, err := b.Verify(context.Background(), func(n int64) { done.Add(n) })
	if err != nil || len(faults) > 0 {
		t.Fatal(faults, err)
	}
	octets, streams := b.Payload()
	if octets != 5_000_011 || streams != 52 {
		t.Errorf("the payload has %d bytes in %d files", octets, streams)
	}
	if done.Load() < octets {
		t.Errorf("told of %d bytes", done.Load())
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	if _, err := b.Verify(ctx, func(n int64) { cancel(cause) }); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefusesWhatIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	write(t, file, "")
	for _, p := range []string{file, file + "-none"} {
		if _, err := Open(p); err == nil {
			t.Errorf("%s was opened", p)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"a b": "a b", "größe…": "größe…", "": `""`, "a\nb": `"a\nb"`, "\x1b[2J": `"\x1b[2J"`, "\xff": `"\xff"`, `a"b`: `"a\"b"`, `a\b`: `"a\\b"`, "\u202e": `"\u202e"`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
