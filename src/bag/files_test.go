package bag

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func fileMetas() *rapid.Generator[FileMeta] {
	name := rapid.OneOf(
		rapid.StringMatching(`[a-z %"\\\n\x{7f}…<>&\x{2028}]{1,6}`),
		rapid.Map(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 8), func(b []byte) string { return strings.ReplaceAll(string(b), "/", "_") }),
	).Filter(func(s string) bool { return s != "." && s != ".." })
	mtime := rapid.Custom(func(t *rapid.T) time.Time {
		sec := rapid.OneOf(
			rapid.Int64Range(0, 4e9), rapid.Int64Range(-70e9, 300e9),
			rapid.SampledFrom([]int64{0, -1, beyondYears, -beyondYears, beyondYears - 1, math.MaxInt32, 1 << 40, 1<<62 - 1}),
		).Draw(t, "sec")
		return time.Unix(sec, rapid.Int64Range(0, 999999999).Draw(t, "nsec")).UTC()
	})
	return rapid.Custom(func(t *rapid.T) FileMeta {
		m := FileMeta{Path: "data/output/" + name.Draw(t, "name"), ModTime: mtime.Draw(t, "mtime")}
		switch {
		case CheckPath(m.Path) != nil || rapid.Bool().Draw(t, "skipped"):
			m.Skipped = rapid.SampledFrom([]string{SkippedSymlink, SkippedName, SkippedFIFO}).Draw(t, "why")
			if m.Skipped == SkippedSymlink {
				m.Target = name.Draw(t, "target")
			}
		case rapid.Bool().Draw(t, "dir"):
			m.Dir = true
		default:
			m.Exec, m.Changed = rapid.Bool().Draw(t, "exec"), rapid.Bool().Draw(t, "changed")
		}
		return m
	})
}

func TestFilesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(fileMetas(), 0, 5).Draw(t, "files")
		b := FormatFiles(want)
		if n := bytes.Count(b, []byte("\n")); n != len(want) {
			t.Fatalf("%d lines for %d files: %q", n, len(want), b)
		}
		got, err := ParseFiles(b)
		if err != nil {
			t.Fatalf("%v in %q", err, b)
		}
		for i := range want {
			if got[i].ModTime.Unix() != want[i].ModTime.Unix() || got[i].ModTime.Nanosecond() != want[i].ModTime.Nanosecond() {
				t.Fatalf("%v became %v", want[i].ModTime, got[i].ModTime)
			}
			got[i].ModTime = want[i].ModTime
			if d := cmp.Diff(want[i], got[i]); d != "" {
				t.Fatalf("%q: %s", b, d)
			}
		}
	})
}

func TestFilesForm(t *testing.T) {
	got := string(FormatFiles([]FileMeta{
		{Path: "data/output", Dir: true, ModTime: time.Unix(1, 5)},
		{Path: "data/output/a<b>", Exec: true, ModTime: time.Unix(1782900000, 0)},
		{Path: "data/output/l\xff", Skipped: SkippedSymlink, Target: "/x", ModTime: time.Unix(1782900000, 0)},
		{Path: "data/output/old", ModTime: time.Unix(-1<<40, 7)},
	}))
	want := `{"path":"data/output","dir":true,"mtime":"1970-01-01T00:00:01.000000005Z"}
{"path":"data/output/a<b>","exec":true,"mtime":"2026-07-01T10:00:00Z"}
{"path_quoted":"\"data/output/l\\xff\"","mtime":"2026-07-01T10:00:00Z","skipped":"symlink","target":"/x"}
{"path":"data/output/old","mtime":"@-1099511627776.000000007"}
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFilesRefuse(t *testing.T) {
	for name, line := range map[string]string{
		"no JSON":             `data/a`,
		"array":               `[]`,
		"no path":             `{}`,
		"outside":             `{"path":"bagit.txt"}`,
		"leaves":              `{"path":"data/../x"}`,
		"absolute":            `{"path":"/data/x"}`,
		"both paths":          `{"path":"data/a","path_quoted":"\"data/\\xff\"","skipped":"symlink"}`,
		"quoted needlessly":   `{"path_quoted":"\"data/a\""}`,
		"quoted in backticks": "{\"path_quoted\":\"`data/a`\"}",
		"not quoted":          `{"path_quoted":"data/a"}`,
		"raw bytes not left":  `{"path_quoted":"\"data/\\xff\""}`,
		"target":              `{"path":"data/a","target":"b"}`,
		"bad time":            `{"path":"data/a","mtime":"yesterday"}`,
		"bad seconds":         `{"path":"data/a","mtime":"@1.5"}`,
		"x bit of directory":  `{"path":"data/a","dir":true,"exec":true}`,
		"skipped nothing":     `{"skipped":"symlink"}`,
		"not UTF-8":           "{\"path\":\"data/\xff\"}",
		"no final LF":         "",
	} {
		t.Run(name, func(t *testing.T) {
			text := line + "\n"
			if line == "" {
				text = `{"path":"data/a"}`
			}
			var le *LineError
			if _, err := ParseFiles([]byte(text)); !errors.As(err, &le) {
				t.Errorf("got %v, want a LineError", err)
			}
		})
	}
	if f, err := ParseFiles([]byte(`{"path":"data/a","added-later":[1,{"x":2}]}` + "\n")); err != nil || len(f) != 1 {
		t.Errorf("an unknown member: %v", err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte(`{"path":"data/output","dir":true,"mtime":"1970-01-01T00:00:01.000000005Z"}` + "\n" + `{"path":"data/output/x","exec":true}` + "\n"))
	f.Add([]byte(`{"path_quoted":"\"data/output/l\\xff\"","mtime":"@-1099511627776.000000007","skipped":"symlink","target":"/x"}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		files, err := ParseFiles(text)
		if err != nil {
			return
		}
		for _, m := range files {
			if m.Skipped == "" && CheckPath(m.Path) != nil {
				t.Errorf("%q was taken", m.Path)
			}
		}
		again, err := ParseFiles(FormatFiles(files))
		if err != nil || len(again) != len(files) {
			t.Fatalf("%q became %q: %v", text, FormatFiles(files), err)
		}
		for i := range files {
			if !files[i].ModTime.Equal(again[i].ModTime) {
				t.Errorf("%v became %v", files[i].ModTime, again[i].ModTime)
			}
			files[i].ModTime = again[i].ModTime
			if files[i] != again[i] {
				t.Errorf("%v became %v", files[i], again[i])
			}
		}
	})
}
