package wire_test

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/wire"
)

var (
	sfInteger = regexp.MustCompile(`^ *(-?[0-9]{1,15}) *(;|$)`)
	sfBool    = regexp.MustCompile(`^ *\?([01]) *(;|$)`)
)

// The Upload-* fields are read as a regular expression of RFC 9651 reads them, and never as less than nothing.
func FuzzUploadFields(f *testing.F) {
	for _, s := range []string{"?1", "?0", "12", "-1", "0;x=1", "999999999999999", "1000000000000000", "max-size=5, max-age=3600", "max-size=-1", "max-age=9999999999999", "1.5", " 7 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		one := []string{s}
		if n, ok := wire.ParseInteger(one); ok {
			m := sfInteger.FindStringSubmatch(s)
			if m == nil || n < 0 {
				t.Fatalf("%q was read as %d", s, n)
			}
			if want, err := strconv.ParseInt(m[1], 10, 64); err != nil || want != n {
				t.Fatalf("%q was read as %d", s, n)
			}
		} else if m := sfInteger.FindStringSubmatch(s); m != nil && m[2] == "" && m[1][0] != '-' {
			t.Fatalf("%q was not read", s)
		}
		if b, ok := wire.ParseBool(one); ok {
			if m := sfBool.FindStringSubmatch(s); m == nil || (m[1] == "1") != b {
				t.Fatalf("%q was read as %v", s, b)
			}
		} else if m := sfBool.FindStringSubmatch(s); m != nil && m[2] == "" {
			t.Fatalf("%q was not read", s)
		}
		// A field that is there twice is not one value.
		for _, twice := range [][]string{{s, s}, {s + ", " + s}} {
			if strings.Contains(s, `"`) {
				break // a string that goes on over the comma
			}
			if _, ok := wire.ParseInteger(twice); ok {
				t.Fatalf("%q was read as one integer", twice)
			}
			if _, ok := wire.ParseBool(twice); ok {
				t.Fatalf("%q was read as one boolean", twice)
			}
		}
		l, err := wire.ParseUploadLimit(one)
		if err != nil {
			return
		}
		if l.MaxSize < 0 || l.MaxAge < 0 {
			t.Fatalf("%q was read as %+v", s, l)
		}
		if again, err := wire.ParseUploadLimit([]string{wire.FormatUploadLimit(l)}); err != nil || again != l {
			t.Fatalf("%q: %+v, again %+v, %v", s, l, again, err)
		}
	})
}

// What a shipper takes for the receiver's word carries one of our codes and the status of the connection.
func FuzzProblem(f *testing.F) {
	for _, i := range code.All() {
		b, _ := json.Marshal(wire.NewProblem(i.Code, "detail", time.Unix(1, 0)))
		f.Add(i.Status, "Application/Problem+json; charset=utf-8", "", "5", b, false)
		f.Add(i.Status, wire.MediaProblem, "", "5", b, false)
		f.Add(i.Status, "", string(i.Code), "Fri, 31 Dec 1999 23:59:59 GMT", []byte(nil), true)
	}
	f.Fuzz(func(t *testing.T, status int, media, coded, retry string, body []byte, head bool) {
		r := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: &http.Request{Method: http.MethodPost}}
		if head {
			r.Request.Method = http.MethodHead
		}
		r.Header.Set("Content-Type", media)
		r.Header.Set(wire.HeaderCode, coded)
		r.Header.Set("Retry-After", retry)
		p, ok := wire.ReadProblem(r)
		if p.Status != status || p.RetryAfter < 0 {
			t.Fatalf("%+v", p)
		}
		if !ok {
			return
		}
		if i, known := code.Lookup(p.Code); !known || i.Status == 0 {
			t.Fatalf("%+v was taken", p)
		}
		if mt, _, _ := mime.ParseMediaType(media); (head || mt != wire.MediaProblem) && coded != string(p.Code) {
			t.Fatalf("%+v from %q", p, coded)
		}
	})
}

// A receipt or an answer to "who am I" that is taken says the same when it is said again, and a long one is not read.
func FuzzBodies(f *testing.F) {
	f.Add([]byte(`{"episode":"01890a5d-ac96-774b-bcce-b302099a8057","host":"lab-1","bag_digest":"` + strings.Repeat("ab", 32) + `","archive_size":5,"stored_at":"2026-05-01T12:00:00Z","window_id":"w"}`))
	f.Add([]byte(`{"host":"a","key":"sha256:x","window":{"window_id":"w","not_before":"2026-05-01T12:00:00Z","max_age_ns":5},"max_skew_ns":300000000000,"limits":{"episode_size":1,"episode_files":2},"server_time":"2026-05-01T12:00:00+02:00"}`))
	f.Add([]byte(`"` + strings.Repeat("x", 70_000) + `"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r wire.Receipt
		if err := wire.ReadJSON(bytes.NewReader(b), &r); err == nil {
			same(t, b, &r, new(wire.Receipt))
		}
		var s wire.Self
		if err := wire.ReadJSON(bytes.NewReader(b), &s); err == nil {
			same(t, b, &s, new(wire.Self))
		}
	})
}

// same says first again into again, and compares.
func same(t *testing.T, b []byte, first, again any) {
	t.Helper()
	if len(b) > 64<<10 {
		t.Fatalf("a body of %d bytes was read", len(b))
	}
	said, err := json.Marshal(first)
	if err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	if err := wire.ReadJSON(bytes.NewReader(said), again); err != nil {
		t.Fatalf("%q was taken, %q is not: %v", b, said, err)
	}
	twice, err := json.Marshal(again)
	if err != nil || !bytes.Equal(said, twice) {
		t.Fatalf("%q became %q and %q, %v", b, said, twice, err)
	}
}
