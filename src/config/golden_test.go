package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// Each file in testdata is a case: an archive of one input file (lab-host.hcl,
// receiver.hcl, or one of them with .json behind it) and what comes of it:
// "errors", or "warnings" if any and "loaded", the whole result as JSON. Run with
// -update to write the expected parts anew, then read the diff.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := a.Files[0]
			got := &txtar.Archive{Comment: a.Comment, Files: []txtar.File{in}}
			add := func(name, text string) {
				text = strings.TrimRight(text, "\n") + "\n"
				got.Files = append(got.Files, txtar.File{Name: name, Data: []byte(text)})
			}
			var warnings strings.Builder
			opts := []Option{atLab, Warn(func(s string) { warnings.WriteString(s) })}
			var result any
			if strings.HasPrefix(in.Name, "receiver") {
				result, err = ParseReceiver(in.Name, in.Data, opts...)
			} else {
				result, err = ParseLabHost(in.Name, in.Data, opts...)
			}
			if err != nil {
				add("errors", err.Error())
			} else {
				if warnings.Len() > 0 {
					add("warnings", warnings.String())
				}
				b, err := json.MarshalIndent(result, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				add("loaded", string(b))
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(txtar.Format(a)), string(txtar.Format(got))); d != "" {
				t.Errorf("%s (-want +got):\n%s", file, d)
			}
		})
	}
}

// atLab makes results independent of the machine and of the day.
func atLab(o *options) {
	o.hostname = func() (string, error) { return "Lab-07.example.org", nil }
	o.now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	o.cores = 4
}

// JSON for the golden files: durations and sizes as people write them.
func (s Size) MarshalText() ([]byte, error)      { return []byte(s.String()), nil }
func (r Rate) MarshalText() ([]byte, error)      { return []byte(r.String()), nil }
func (t TimeOfDay) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
func (w Weekdays) MarshalText() ([]byte, error) {
	var names []string
	for d, n := range dayNames {
		if w.has(time.Weekday(d)) {
			names = append(names, n)
		}
	}
	return []byte(strings.Join(names, " ")), nil
}
