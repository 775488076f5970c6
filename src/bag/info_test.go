package bag

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseInfo(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Info
	}{
		"empty":             {"", nil},
		"one":               {"A: b\n", Info{{"A", "b"}}},
		"no final LF":       {"A: b", Info{{"A", "b"}}},
		"CRLF":              {"A: b\r\nC: d\r\n", Info{{"A", "b"}, {"C", "d"}}},
		"CR":                {"A: b\rC: d\r", Info{{"A", "b"}, {"C", "d"}}},
		"continued":         {"A: b\n  c\n\td\n", Info{{"A", "b c d"}}},
		"continued empty":   {"A:\n  c\n", Info{{"A", "c"}}},
		"blanks at colon":   {"A : b\nB:c\nC  :   d\n", Info{{"A", "b"}, {"B", "c"}, {"C", "d"}}},
		"empty value":       {"A: \nB:\n", Info{{"A", ""}, {"B", ""}}},
		"colon in value":    {"A: http://b\n", Info{{"A", "http://b"}}},
		"repeated":          {"A: b\na: c\n", Info{{"A", "b"}, {"a", "c"}}},
		"blank lines":       {"A: b\n\n \nC: d\n", Info{{"A", "b"}, {"C", "d"}}},
		"label with blanks": {"A label: b\n", Info{{"A label", "b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseInfo([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	for name, text := range map[string]string{
		"no colon": "A b\n", "no label": ": b\n", "continues nothing": "  b\n", "continues a blank": "A: b\n\n  c\n", "not UTF-8": "A: \xff\n",
	} {
		var le *LineError
		if _, err := ParseInfo([]byte(text)); !errors.As(err, &le) {
			t.Errorf("%s: got %v, want a LineError", name, err)
		}
	}
}

func TestInfoGet(t *testing.T) {
	i := Info{{"Payload-Oxum", "12.3"}, {"X", "1"}, {"x", "2"}}
	if i.Get("payload-oxum") != "12.3" || i.Get("none") != "" || !cmp.Equal(i.All("X"), []string{"1", "2"}) {
		t.Error(i)
	}
	if o, n, err := i.Oxum(); o != 12 || n != 3 || err != nil {
		t.Error(o, n, err)
	}
	if _, _, err := (Info{}).Oxum(); !errors.Is(err, ErrNoOxum) {
		t.Error(err)
	}
	if _, _, err := append(i, Element{"payload-OXUM", "12.3"}).Oxum(); err == nil {
		t.Error("two were taken")
	}
	for _, bad := range []string{"", "1", "1.", ".1", "-1.1", "+1.1", "1.1.1", "1_0.1", " 1.1", "9223372036854775808.1", "1.1e3"} {
		if _, _, err := ParseOxum(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if o, n, err := ParseOxum(FormatOxum(9223372036854775807, 0)); o != 9223372036854775807 || n != 0 || err != nil {
		t.Error(o, n, err)
	}
}

func TestFormatInfoRefuses(t *testing.T) {
	for _, e := range []Element{{"", "a"}, {"a:b", "c"}, {" a", "b"}, {"a", "b\nC: d"}, {"a", "b\r"}, {"a", " b"}, {"a\nb", "c"}, {"a", "\xff"}, {"a", "\x1b[2J"}} {
		if b, err := FormatInfo(Info{e}); err == nil {
			t.Errorf("%q became %q", e, b)
		}
	}
}

func TestInfoComesBack(t *testing.T) {
	text := rapid.StringMatching(`[a-z:…é.]([a-z :…é.]{0,8}[a-z:…é.])?`)
	rapid.Check(t, func(t *rapid.T) {
		var want Info
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			label := strings.ReplaceAll(text.Draw(t, "label"), ":", "-")
			want = append(want, Element{label, text.Draw(t, "value")})
		}
		b, err := FormatInfo(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseInfo(b)
		if err != nil || !cmp.Equal(got, want) {
			t.Fatalf("%q: %v, %v", b, got, err)
		}
	})
}

func FuzzInfo(f *testing.F) {
	f.Add([]byte("Source-Organization: a\nPayload-Oxum: 1.2\r\n"))
	f.Add([]byte("A : b\r\tc\n\n:"))
	f.Fuzz(func(t *testing.T, text []byte) {
		info, err := ParseInfo(text)
		if err != nil {
			return
		}
		info.Oxum()
		b, err := FormatInfo(info)
		if err != nil {
			return // control characters
		}
		again, err := ParseInfo(b)
		if err != nil || !cmp.Equal(info, again) {
			t.Errorf("%q became %q: %v", text, b, err)
		}
	})
}

func FuzzDeclaration(f *testing.F) {
	f.Add([]byte(DeclarationText))
	f.Add([]byte("BagIt-Version : 0.97\r\nTag-File-Character-Encoding:UTF-16\r\n\r\n"))
	f.Add([]byte("\xef\xbb\xbfBagIt-Version: 1.0"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b := &Bag{}
		b.parseDeclaration(text)
		if len(b.faults) == 0 && (b.Version == "" || b.Encoding == "") {
			t.Errorf("%q has no fault and no version or encoding", text)
		}
		if b.v1 && len(b.faults) == 0 && len(b.warnings) == 0 {
			want := "BagIt-Version: " + b.Version + "\nTag-File-Character-Encoding: " + b.Encoding
			var lines []string
			for _, l := range textLines(text) {
				lines = append(lines, l)
			}
			if strings.Join(lines, "\n") != want {
				t.Errorf("%q was taken without a word", text)
			}
		}
	})
}
