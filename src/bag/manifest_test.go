package bag

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var zeroSum = strings.Repeat("0", 64)

func TestManifestRefuses(t *testing.T) {
	line := func(path string) string { return zeroSum + "  " + path + "\n" }
	long := strings.Repeat("a", MaxPath-len("data/"))
	for name, c := range map[string]struct {
		text string
		kind FaultKind
		line int
	}{
		"one space":             {zeroSum + " data/a\n", Malformed, 1},
		"tab":                   {zeroSum + "\tdata/a\n", Malformed, 1},
		"binary mark":           {zeroSum + " *data/a\n", Malformed, 1},
		"upper case":            {strings.Repeat("A", 64) + "  data/a\n", Malformed, 1},
		"short sum":             {zeroSum[1:] + "  data/a\n", Malformed, 1},
		"long sum":              {"0" + zeroSum + "  data/a\n", Malformed, 1},
		"no path":               {zeroSum + "  \n", Malformed, 1},
		"blank line":            {line("data/a") + "\n" + line("data/b"), Malformed, 2},
		"no final LF":           {line("data/a") + zeroSum + "  data/b", Malformed, 2},
		"CRLF":                  {zeroSum + "  data/a\r\n", Malformed, 1},
		"CR in the middle":      {line("data/a\rb"), Malformed, 1},
		"percent alone":         {line("data/100%"), Malformed, 1},
		"percent of others":     {line("data/%41"), Malformed, 1},
		"lower-case escape":     {line("data/%0a"), Malformed, 1},
		"cut escape":            {line("data/%2"), Malformed, 1},
		"BOM":                   {"\xef\xbb\xbf" + line("data/a"), Malformed, 1},
		"not UTF-8":             {line("data/\xff"), UnsafePath, 1},
		"zero byte":             {line("data/\x00"), UnsafePath, 1},
		"absolute":              {line("/data/a"), UnsafePath, 1},
		"home":                  {line("~/a"), UnsafePath, 1},
		"home of another":       {line("~root/a"), UnsafePath, 1},
		"leaves":                {line("data/../../etc/passwd"), UnsafePath, 1},
		"comes back":            {line("data/a/../b"), UnsafePath, 1},
		"dot":                   {line("data/./a"), UnsafePath, 1},
		"leading dot":           {line("./data/a"), UnsafePath, 1},
		"two slashes":           {line("data//a"), UnsafePath, 1},
		"final slash":           {line("data/a/"), UnsafePath, 1},
		"outside the payload":   {line("bagit.txt"), UnsafePath, 1},
		"the payload itself":    {line("data"), UnsafePath, 1},
		"beside the payload":    {line("database/a"), UnsafePath, 1},
		"too long":              {line("data/" + long + "x"), UnsafePath, 1},
		"line without end":      {zeroSum + "  data/" + strings.Repeat("a", 5*maxLine) + "\n", Malformed, 1},
		"not sorted":            {line("data/b") + line("data/a"), Malformed, 2},
		"sorted as escaped":     {line("data/%0A") + line("data/\x09"), Malformed, 2},
		"twice":                 {line("data/a") + line("data/a"), Malformed, 2},
		"file and directory":    {line("data/a") + line("data/a/b"), Malformed, 2},
		"file, others, then in": {line("data/a") + line("data/a b") + line("data/a.b") + line("data/a/b"), Malformed, 4},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseManifest([]byte(c.text), SHA256)
			var le *LineError
			if !errors.As(err, &le) {
				t.Fatalf("got %v, want a LineError", err)
			}
			if le.Kind != c.kind || le.Line != c.line {
				t.Errorf("got %s on line %d (%v), want %s on line %d", le.Kind, le.Line, le, c.kind, c.line)
			}
		})
	}
	if _, err := ParseManifest([]byte(line("data/"+long)), SHA256); err != nil {
		t.Errorf("a path of %d bytes: %v", MaxPath, err)
	}
}

func TestTagManifestRefuses(t *testing.T) {
	for _, path := range []string{"data/a", "tagmanifest-sha256.txt", "tagmanifest-md5.txt"} {
		if _, err := ParseTagManifest([]byte(zeroSum+"  "+path+"\n"), SHA256); err == nil {
			t.Errorf("%s was taken", path)
		}
	}
	if _, err := ParseTagManifest([]byte(zeroSum+"  meta/tagmanifest-sha256.txt\n"), SHA256); err != nil {
		t.Errorf("a tag file of that name below another directory: %v", err)
	}
	if _, err := ParseManifest(nil, "crc32"); err == nil {
		t.Error("an unknown algorithm was taken")
	}
}

// paths draws distinct paths below data/ with all that is hard in names.
func paths() *rapid.Generator[[]string] {
	elem := rapid.OneOf(
		rapid.StringMatching(`[a-c.~ %\r\n\t\\*"-]{1,3}`),
		rapid.SampledFrom([]string{"a", "a.b", "a b", "\u00e9", "e\u0301", "…", "%0A", "%25", "CON", " ", "-", "~", "...", "\U0001f600"}),
	).Filter(func(s string) bool { return s != "." && s != ".." })
	return rapid.Custom(func(t *rapid.T) []string {
		n := rapid.IntRange(0, 12).Draw(t, "n")
		set := map[string]bool{}
		for range n {
			p := "data/" + strings.Join(rapid.SliceOfN(elem, 1, 4).Draw(t, "path"), "/")
			set[p] = true
		}
		var out []string
		for p := range set {
			// No file is a directory of another.
			if !slices.ContainsFunc(mapKeys(set), func(q string) bool { return strings.HasPrefix(q, p+"/") }) {
				out = append(out, p)
			}
		}
		slices.Sort(out)
		return out
	})
}

func mapKeys(m map[string]bool) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}

func TestManifestComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text []byte
		var want []Entry
		for _, p := range paths().Draw(t, "paths") {
			sum := sha256.Sum256([]byte(p))
			want = append(want, Entry{p, sum[:]})
			text = AppendManifestLine(text, sum[:], p)
		}
		got, err := ParseManifest(text, SHA256)
		if err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if len(got) != len(want) || len(want) > 0 && !cmp.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		n := 0
		for e, err := range ScanManifest(text, SHA256) {
			if err != nil || !cmp.Equal(e, want[n]) {
				t.Fatalf("scan gave %v, %v", e, err)
			}
			n++
		}
	})
}

// The scanner sees without a set what a set shows.
func TestManifestOrderAndConflicts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		elem := rapid.StringMatching(`[ab!.]{1,2}`).Filter(func(s string) bool { return s != "." && s != ".." })
		list := rapid.SliceOfN(rapid.Map(rapid.SliceOfN(elem, 1, 4), func(e []string) string { return "data/" + strings.Join(e, "/") }), 0, 10).Draw(t, "list")
		if rapid.Bool().Draw(t, "sorted") {
			slices.Sort(list)
		}
		set := map[string]bool{}
		for _, p := range list {
			set[p] = true
		}
		good := slices.IsSorted(list) && len(set) == len(list)
		for _, p := range list {
			for q := range set {
				good = good && !strings.HasPrefix(q, p+"/")
			}
		}
		var text []byte
		for _, p := range list {
			text = AppendManifestLine(text, make([]byte, 32), p)
		}
		if _, err := ParseManifest(text, SHA256); (err == nil) != good {
			t.Fatalf("%q: got %v, want good=%v", list, err, good)
		}
	})
}

func TestManifestScannerDoesNotAllocatePerLine(t *testing.T) {
	var text []byte
	for i := range 5000 {
		text = AppendManifestLine(text, make([]byte, 32), fmt.Sprintf("data/output/directory/file%%-%06d", i))
	}
	allocs := testing.AllocsPerRun(5, func() {
		s := NewManifestScanner(bytes.NewReader(text), SHA256, Payload)
		for s.Scan() {
		}
		if s.Err() != nil || s.Line() != 5000 {
			t.Fatal(s.Line(), s.Err())
		}
	})
	if allocs > 40 {
		t.Errorf("%v allocations for 5,000 lines", allocs)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(zeroSum + "  data/a\n" + zeroSum + "  data/b%25%0D%0A\n"))
	f.Add([]byte(zeroSum + " *./data/a\r\n" + zeroSum + "\t\tdata//~\r"))
	f.Add([]byte("\xef\xbb\xbf\n#\n" + zeroSum + "  ../x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		// What is taken as canonical is what would be written.
		for _, kind := range []Kind{Payload, Tag} {
			if entries, err := parseManifest(text, SHA256, kind); err == nil {
				var again []byte
				for _, e := range entries {
					again = AppendManifestLine(again, e.Sum, e.Path)
				}
				if !bytes.Equal(again, text) {
					t.Errorf("%q would be written %q", text, again)
				}
			}
		}
		// What is read from other makers stays in the bag.
		for _, name := range []string{"UTF-8", "UTF-16", "ISO-8859-1"} {
			b := &Bag{}
			b.decoder, _ = lookupEncoding(name)
			for l := range b.scanManifest("manifest-sha256.txt", bytes.NewReader(text), SHA256, Payload) {
				if err := CheckPath(l.path); err != nil || !strings.HasPrefix(l.path, "data/") || len(l.sum) != 32 {
					t.Errorf("%q was taken: %v", l.path, err)
				}
			}
			for l := range b.scanFetch(bytes.NewReader(text)) {
				if err := CheckPath(l.path); err != nil {
					t.Errorf("%q was taken: %v", l.path, err)
				}
			}
		}
	})
}

func TestDigest(t *testing.T) {
	d := DigestOf([]byte("abc"))
	if want := "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; d.String() != want {
		t.Errorf("got %s", d)
	}
	back, err := ParseDigest(d.String())
	if err != nil || back != d || d.IsZero() {
		t.Error(back, err)
	}
	for _, bad := range []string{"", d.String()[1:], strings.ToUpper(d.String()), d.String() + "0", "g" + d.String()[1:]} {
		if _, err := ParseDigest(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	for name, want := range map[string]Algorithm{"md5": MD5, "SHA-1": SHA1, "sha_256": SHA256, "SHA512": SHA512, "sha3_256": SHA3256, "SHA3-512": SHA3512, "sha-384": SHA384} {
		if got, ok := ParseAlgorithm(name); !ok || got != want {
			t.Errorf("%s: %s, %v", name, got, ok)
		}
	}
	if _, ok := ParseAlgorithm("crc32"); ok {
		t.Error("crc32 is known")
	}
	for _, a := range []Algorithm{MD5, SHA1, SHA224, SHA256, SHA384, SHA512, SHA3224, SHA3256, SHA3384, SHA3512} {
		if h := a.New(); h.Size() != a.Size() {
			t.Errorf("%s: %d and %d bytes", a, h.Size(), a.Size())
		}
	}
	if Algorithm("x").New() != nil {
		t.Error("an unknown algorithm makes a hash")
	}
}
