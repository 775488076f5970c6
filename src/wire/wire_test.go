package wire_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/wire"
)

func announcement(t *rapid.T) wire.Announcement {
	second := func(name string) time.Time {
		return time.Unix(rapid.Int64Range(0, 4e9).Draw(t, name), 0).UTC()
	}
	var a wire.Announcement
	copy(a.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	a.Digest = bag.Digest(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
	a.Sent, a.Started = second("sent"), second("started")
	a.Ended = a.Started.Add(time.Duration(rapid.Int64Range(0, 1e6).Draw(t, "ran")) * time.Second)
	a.Size = rapid.Int64Range(0, 1e14).Draw(t, "size")
	a.Files = rapid.Int64Range(0, 1e9).Draw(t, "files")
	return a
}

func TestAnnouncementRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := announcement(t)
		got, err := wire.ParseAnnouncement([]string{wire.FormatAnnouncement(want)})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

const good = `id="01890a5d-ac96-774b-bcce-b302099a8057", digest=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:, sent=@1700000000, started=@1699999000, ended=@1699999900, size=7, files=2`

func TestAnnouncementRefusals(t *testing.T) {
	if _, err := wire.ParseAnnouncement([]string{good}); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ParseAnnouncement([]string{good + `, later="x"`}); err != nil {
		t.Errorf("an unknown member must be ignored: %v", err)
	}
	for name, c := range map[string][2]string{
		"no field":        {good, ""},
		"no id":           {`id="01890a5d-ac96-774b-bcce-b302099a8057", `, ""},
		"id not a UUID":   {"01890a5d-ac96", "../../../../"},
		"id upper case":   {"01890a5d-ac96-774b-bcce-b302099a8057", "01890A5D-AC96-774B-BCCE-B302099A8057"},
		"id a number":     {`"01890a5d-ac96-774b-bcce-b302099a8057"`, "7"},
		"digest short":    {"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=", "LPJN"},
		"size negative":   {"size=7", "size=-7"},
		"size text":       {"size=7", `size="7"`},
		"files missing":   {", files=2", ""},
		"time a number":   {"sent=@1700000000", "sent=1700000000"},
		"ends before":     {"ended=@1699999900", "ended=@1699998000"},
		"an inner list":   {"size=7", "size=(7 8)"},
		"not a structure": {", ", ";;; "},
		"too long":        {"files=2", "files=2, pad=\"" + strings.Repeat("x", 5000) + "\""},
	} {
		if got, err := wire.ParseAnnouncement([]string{strings.Replace(good, c[0], c[1], 1)}); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func FuzzParseAnnouncement(f *testing.F) {
	f.Add(good)
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := wire.ParseAnnouncement([]string{s})
		if err != nil {
			return
		}
		again, err := wire.ParseAnnouncement([]string{wire.FormatAnnouncement(a)})
		if err != nil || again != a {
			t.Fatalf("%q: %+v, again %+v, %v", s, a, again, err)
		}
	})
}

func FuzzFields(f *testing.F) {
	f.Add("frames=3, content=3145728")
	f.Add("?1")
	f.Add(`%"caf%c3%a9"`)
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := wire.ParseHeld([]string{s}); err == nil {
			if again, err := wire.ParseHeld([]string{wire.FormatHeld(h)}); err != nil || again != h {
				t.Fatalf("%q: %+v, again %+v, %v", s, h, again, err)
			}
		}
		wire.ParseUploadLimit([]string{s})
		wire.ParseBool([]string{s})
		if n, ok := wire.ParseInteger([]string{s}); ok && n < 0 {
			t.Fatal("a negative offset")
		}
		if got, ok := wire.ParseString([]string{wire.FormatString(s)}); !ok || got != strings.ToValidUTF8(s, "�") {
			t.Fatalf("%q came back as %q, %v", s, got, ok)
		}
	})
}

func TestHeldAndLimit(t *testing.T) {
	h := wire.Held{Frames: 3, Content: 3 << 20}
	if got, err := wire.ParseHeld([]string{wire.FormatHeld(h)}); err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
	l := wire.UploadLimit{MaxSize: 5, MaxAge: time.Hour}
	if got, err := wire.ParseUploadLimit([]string{wire.FormatUploadLimit(l)}); err != nil || got != l {
		t.Errorf("%+v, %v", got, err)
	}
	if s := wire.FormatUploadLimit(wire.UploadLimit{}); s != "min-size=0" {
		t.Errorf("no limit is %q", s)
	}
	if _, err := wire.ParseUploadLimit([]string{`max-size="5"`}); err == nil {
		t.Error("a known member of another type must make the field invalid")
	}
}

func TestWindow(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return now.Add(d) }
	p := func(d time.Duration) *time.Time { t := at(d); return &t }
	for _, c := range []struct {
		name           string
		w              wire.Window
		started, ended time.Duration
		ok             bool
	}{
		{"open", wire.Window{}, -1e6 * time.Hour, 1e6 * time.Hour, true},
		{"too old", wire.Window{MaxAge: time.Hour}, -3 * time.Hour, -time.Hour - time.Second, false},
		{"ended late enough", wire.Window{MaxAge: time.Hour}, -3 * time.Hour, -time.Hour, true},
		{"ahead", wire.Window{MaxAhead: time.Minute}, 0, 2 * time.Minute, false},
		{"just ahead", wire.Window{MaxAhead: time.Minute}, 0, time.Minute, true},
		{"before", wire.Window{NotBefore: p(0)}, -time.Second, 0, false},
		{"after", wire.Window{NotAfter: p(0)}, -time.Hour, time.Second, false},
		{"inside", wire.Window{NotBefore: p(-time.Hour), NotAfter: p(0)}, -time.Hour, 0, true},
	} {
		why, ok := c.w.Admits(at(c.started), at(c.ended), now)
		if ok != c.ok || ok != (why == "") {
			t.Errorf("%s: %v %q", c.name, ok, why)
		}
	}
}

func TestProblemTravels(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	for _, method := range []string{http.MethodPost, http.MethodHead} {
		for _, i := range code.All() {
			if i.Status == 0 {
				continue
			}
			p := wire.NewProblem(i.Code, "naïve\ndetail", now)
			p.RetryAfter = 1500 * time.Millisecond
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { wire.WriteProblem(w, r, p) }))
			req, _ := http.NewRequest(method, srv.URL, nil)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := wire.ReadProblem(resp)
			resp.Body.Close()
			srv.Close()
			if !ok || got.Code != i.Code || got.Status != i.Status || got.Detail != p.Detail || got.Fix != i.Fix || got.RetryAfter != 2*time.Second {
				t.Errorf("%s %s: %+v, %v", method, i.Code, got, ok)
			}
		}
	}
}

func TestAProxyIsNotTheReceiver(t *testing.T) {
	for name, body := range map[string]string{
		"html":         "<html>404</html>",
		"json":         `{"code":"malformed"}`,
		"unknown code": `{"code":"who-knows","status":400}`,
		"no code":      `{"status":400,"title":"Bad"}`,
		"cut":          `{"code":"malf`,
	} {
		media := wire.MediaProblem
		if name == "html" || name == "json" {
			media = "text/html"
		}
		r := &http.Response{StatusCode: 400, Header: http.Header{"Content-Type": {media}}, Body: io.NopCloser(strings.NewReader(body)),
			Request: &http.Request{Method: http.MethodPost}}
		if p, ok := wire.ReadProblem(r); ok {
			t.Errorf("%s: taken for the receiver's word: %+v", name, p)
		} else if p.Status != 400 {
			t.Errorf("%s: status %d", name, p.Status)
		}
	}
}

func TestReadJSONIsBounded(t *testing.T) {
	var v any
	if err := wire.ReadJSON(strings.NewReader(`"`+strings.Repeat("x", 100_000)+`"`), &v); err == nil {
		t.Error("an endless body was read")
	}
	var s wire.Self
	if err := wire.ReadJSON(strings.NewReader(`{"host":"a"}`), &s); err != nil || s.Host != "a" {
		t.Error(err)
	}
}
