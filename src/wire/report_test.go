package wire_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"cis490/src/code"
	"cis490/src/health"
	"cis490/src/wire"
)

func TestReadReport(t *testing.T) {
	skew, at := -0.25, time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	want := wire.Report{Schema: 1, Host: "lab-01", Version: "1.2.3", SentAt: at, StartedAt: at, Interval: 300, Verdict: health.Yellow, LastSuccess: &at, Skew: &skew,
		Rows: []health.Result{{ID: "quarantine", Status: health.Yellow, Title: "2 held", Evidence: "the oldest since yesterday", Fix: "cis490-shipper quarantine list"}}}
	want.Queue.Waiting, want.Queue.OldestAge = 3, 60
	want.Quarantine.Total, want.Quarantine.ByCode = 2, map[code.Code]int64{code.Damaged: 2}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.ReadReport(strings.NewReader(string(b)))
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}

	for _, bad := range []string{"", "[]", "{}", `{"schema":2}`, `{"schema":1,"queue":{"waiting":"many"}}`, `{"schema":1,"sent_at":"yesterday"}`, "nonsense",
		`{"schema":1,"version":"` + strings.Repeat("x", wire.MaxReport) + `"}`, strings.Repeat("[", 15000)} {
		if r, err := wire.ReadReport(strings.NewReader(bad)); err == nil {
			t.Errorf("%.40q was read as %+v", bad, r)
		}
	}
	// A member that this version does not know is none of its business, and of the rest it keeps what it can show.
	got, err = wire.ReadReport(strings.NewReader(`{"schema":1,"mood":{"deep":[1]},"version":"1\u001b[2J\n\u202e\u009bx","verdict":"silent","interval_seconds":99999999,
		"queue":{"waiting":-5},"quarantine":{"total":7,"by_code":{"damaged":1,"\u001b]0;":3,"malformed":-1}},"path":{"code":"no-such-code"},
		"last_success_at":"9999-12-31T23:59:59-23:00","rows":[{"id":"a\tb","status":"skipped","depends_on":["\u0007"],"docs":"\u0007","took":9,"title":"` + strings.Repeat("ü", 600) + `"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != "1\ufffd[2J\ufffd\ufffd\ufffdx" || got.Verdict != health.Unknown || got.Interval != 86400 || got.Queue.Waiting != 0 || got.Quarantine.Total != 7 ||
		!reflect.DeepEqual(got.Quarantine.ByCode, map[code.Code]int64{code.Damaged: 1}) || got.Path.Code != "" || got.LastSuccess != nil ||
		got.Rows[0].ID != "a\ufffdb" || got.Rows[0].Status != health.Unknown || got.Rows[0].Docs != "" || got.Rows[0].DependsOn != nil || got.Rows[0].Took != 0 || got.Rows[0].Title != strings.Repeat("ü", 256) {
		t.Errorf("%+v", got)
	}
}

// Whatever a host sends, what is kept of it is small, can be written and read again, and does nothing to a terminal.
func FuzzReadReport(f *testing.F) {
	for _, s := range []string{
		`{"schema":1}`, `{"schema":1,"version":"1.0","verdict":"green","queue":{"waiting":3,"oldest_age_seconds":1e3}}`,
		`{"schema":1,"rows":[{"id":"x","status":"red","title":"\u001b[31m","fix":"a\u2028b"}],"quarantine":{"by_code":{"damaged":1}}}`,
		`{"schema":1,"sent_at":"0001-01-01T00:00:00+23:59","clock_skew_seconds":1e308,"path":{"held":true,"code":"stalled","since":"2026-01-01T00:00:00Z"}}`,
		`{"schema":1,"host":"\ud800","version":"` + "\xff\xfe" + `"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := wire.ReadReport(strings.NewReader(s))
		if err != nil {
			return
		}
		texts := []string{r.Host, r.Version, string(r.Verdict), string(r.Path.Code)}
		for _, w := range r.Rows {
			texts = append(texts, w.ID, string(w.Status), w.Title, w.Evidence, w.Fix)
		}
		for c, n := range r.Quarantine.ByCode {
			if texts = append(texts, string(c)); n <= 0 {
				t.Errorf("%d of %s", n, c)
			}
		}
		for _, x := range texts {
			if len(x) > 512 || !utf8.ValidString(x) || strings.ContainsFunc(x, func(r rune) bool {
				return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs)
			}) {
				t.Errorf("kept %q", x)
			}
		}
		if len(r.Rows) > 64 || min(r.Interval, r.Queue.Waiting, r.Queue.InFlight, r.Queue.Postponed, r.Queue.OldestAge, r.Quarantine.Total, r.Disk.Free, r.Disk.Min) < 0 {
			t.Errorf("kept %+v", r)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("%q can't be written again: %v", s, err)
		}
		var again wire.Report
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		again.Clean()
		if b2, err := json.Marshal(again); err != nil || string(b) != string(b2) {
			t.Errorf("%s was read again as %s, %v", b, b2, err)
		}
	})
}
