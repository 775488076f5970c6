package episode

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cis490/src/bag"
)

func ptr[T any](v T) *T { return &v }

func fullRun() *Run {
	at := time.Date(2026, 7, 1, 12, 0, 0, 123456789, time.UTC)
	return &Run{
		Schema: 1, ID: ID{0x01, 0x9f, 0x1d, 0x8c, 0xe2, 0x7b, 0x77, 0x4f, 0x8b, 0x77, 0x46, 0xbf, 0x12, 0xb2, 0x3f, 0x1e}, Host: "lab-1", Workload: "fio", Description: "a <test>", Argv: []string{"fio", "--x=1 2"}, Cwd: "/srv",
		Environment: map[string]string{"LANG": "C"}, Source: "/srv/run", Outcome: Failed, Reason: "exit status 3",
		Exit:      &Exit{Status: ptr(3), Result: "exit-code"},
		Started:   Moment{Realtime: at, MonotonicNS: ptr(int64(5)), BootID: "b", Synchronised: ptr(false)},
		Ended:     Moment{Realtime: at.Add(time.Minute), MonotonicNS: ptr(int64(60e9 + 5)), BootID: "b", Synchronised: ptr(true), OffsetNS: ptr(int64(-7)), MaxErrorNS: ptr(int64(9))},
		Resources: &Resources{CPUUsageUS: ptr(int64(1)), MemoryPeakBytes: ptr(int64(2))},
		HostFacts: &HostFacts{Kernel: "Linux 6", CPUs: 2, MemoryBytes: 1 << 34},
		NixOS:     &NixOS{System: "/nix/store/x"}, Versions: map[string]string{"cis490": "1"},
	}
}

func TestRunComesBack(t *testing.T) {
	want := fullRun()
	b, err := want.Format()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRun(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if bytes.Contains(b, []byte(`\u003c`)) {
		t.Errorf("written for HTML: %s", b)
	}
	later := bytes.Replace(b, []byte(`"schema": 1,`), []byte(`"schema": 1, "added later": {"a": [1, {"b": null}]},`), 1)
	if got, err := ParseRun(later); err != nil || !cmp.Equal(got, want) {
		t.Errorf("a member of a later version: %v", err)
	}
}

func TestParseRunRefuses(t *testing.T) {
	good, err := fullRun().Format()
	if err != nil {
		t.Fatal(err)
	}
	swap := func(old, new string) string {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("%s has no %s", good, old)
		}
		return string(bytes.Replace(good, []byte(old), []byte(new), 1))
	}
	id := fullRun().ID.String()
	for name, text := range map[string]string{
		"empty":              "",
		"no object":          "[]",
		"null":               "null",
		"cut":                string(good[:len(good)-3]),
		"text behind":        string(good) + "{}",
		"not UTF-8":          swap("fio", "f\xffo"),
		"schema 2":           swap(`"schema": 1`, `"schema": 2`),
		"no schema":          swap(`"schema"`, `"scheme"`),
		"no id":              swap(`"id"`, `"ident"`),
		"id in capitals":     swap(id, strings.ToUpper(id)),
		"host":               swap(`"lab-1"`, `"Lab 1"`),
		"no host":            swap(`"host"`, `"guest"`),
		"no workload":        swap(`"workload": "fio"`, `"workload": ""`),
		"outcome":            swap(`"failed"`, `"fine"`),
		"no start":           swap(`"started"`, `"begun"`),
		"no end":             swap(`"ended"`, `"end"`),
		"time without zone":  swap("12:00:00.123456789Z", "12:00:00.123456789"),
		"before 1970":        swap("2026-07-01T12:00:00", "1965-07-01T12:00:00"),
		"id twice":           swap(`"id":`, `"id": "f47ac10b-58cc-4372-a567-0e02b2c3d479", "id":`),
		"id in another case": swap(`"id":`, `"ID": "f47ac10b-58cc-4372-a567-0e02b2c3d479", "id":`),
		"id by long s":       swap(`"host":`, `"ho\u017ft": "lab-2", "host":`),
		"id escaped":         swap(`"host":`, `"h\u006fst": "lab-2", "host":`),
		"twice deep down":    swap(`"status":`, `"status": 0, "status":`),
		"twice in an array":  swap(`"schema"`, `"x": [1, {"a": 1, "b": {}, "a": 2}], "schema"`),
		"wrong type":         swap(`"argv": [`, `"argv": 1, "args": [`),
		"too long":           swap("a <test>", strings.Repeat("x", MaxRun)),
	} {
		if r, err := ParseRun([]byte(text)); err == nil {
			t.Errorf("%s: taken as %+v", name, r)
		}
	}
	bad := fullRun()
	bad.Host = "no host"
	if _, err := bad.Format(); err == nil {
		t.Error("a run that could not be read was written")
	}
}

func FuzzRun(f *testing.F) {
	good, err := fullRun().Format()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"schema":1,"id":"f47ac10b-58cc-4372-a567-0e02b2c3d479","host":"a","workload":"b","outcome":"complete","started":{"realtime":"2026-07-01T12:00:00Z"},"ended":{"realtime":"2026-07-01T12:00:00+01:00"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRun(text)
		if err != nil {
			return
		}
		b, err := r.Format()
		if err != nil {
			t.Fatalf("%q was read and can't be written: %v", text, err)
		}
		if len(b) > MaxRun {
			return // indented, it has become longer
		}
		again, err := ParseRun(b)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, b, err)
		}
		once, _ := json.Marshal(r)
		twice, _ := json.Marshal(again)
		if !bytes.Equal(once, twice) {
			t.Errorf("%s became %s", once, twice)
		}
	})
}

func TestMakeFacts(t *testing.T) {
	run := fullRun()
	good := bag.Info{
		{Label: "External-Identifier", Value: run.ID.String()}, {Label: "Cis490-Host", Value: "lab-1"}, {Label: "Payload-Oxum", Value: "12.3"},
	}
	digest := bag.DigestOf(nil)
	f, err := MakeFacts(digest, good, run)
	if err != nil {
		t.Fatal(err)
	}
	want := Facts{ID: run.ID, Host: "lab-1", Digest: digest, Started: time.Unix(1782907200, 0).UTC(), Ended: time.Unix(1782907260, 0).UTC(), Size: 12, Files: 3}
	if f != want {
		t.Errorf("got %+v, want %+v", f, want)
	}
	for name, change := range map[string]func(bag.Info) bag.Info{
		"no oxum":      func(i bag.Info) bag.Info { return i[:2] },
		"no id":        func(i bag.Info) bag.Info { return i[1:] },
		"another id":   func(i bag.Info) bag.Info { i[0].Value = NewID().String(); return i },
		"two ids":      func(i bag.Info) bag.Info { return append(i, i[0]) },
		"another host": func(i bag.Info) bag.Info { i[1].Value = "lab-2"; return i },
		"no host":      func(i bag.Info) bag.Info { i[1].Label = "Host"; return i },
		"bad oxum":     func(i bag.Info) bag.Info { i[2].Value = "12"; return i },
	} {
		if f, err := MakeFacts(digest, change(good.Clone()), run); err == nil {
			t.Errorf("%s: taken as %+v", name, f)
		}
	}
}

func TestThisHost(t *testing.T) {
	m, h := Now(), ThisHost()
	if m.Realtime.IsZero() || m.MonotonicNS == nil || *m.MonotonicNS <= 0 || m.BootID == "" || h.CPUs < 1 || h.Kernel == "" || h.Machine == "" || h.MemoryBytes <= 0 {
		t.Errorf("%+v %+v", m, h)
	}
}

func TestCrate(t *testing.T) {
	r := fullRun()
	b, err := formatCrate(r, "The lab", r.Ended.Realtime, []crateFile{{"run.json", 5}, {"output/", 0}, {"stdout.log", 7}})
	if err != nil {
		t.Fatal(err)
	}
	var crate struct {
		Context []string         `json:"@context"`
		Graph   []map[string]any `json:"@graph"`
	}
	if err := json.Unmarshal(b, &crate); err != nil {
		t.Fatal(err)
	}
	byID := map[string]map[string]any{}
	for _, e := range crate.Graph {
		byID[e["@id"].(string)] = e
	}
	// Every reference leads to an entity of the crate, or out of it.
	var refs func(v any)
	refs = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if id, ok := v["@id"].(string); ok && len(v) == 1 && byID[id] == nil && !strings.HasPrefix(id, "http") {
				t.Errorf("%s is referred to and not there", id)
			}
			for _, x := range v {
				refs(x)
			}
		case []any:
			for _, x := range v {
				refs(x)
			}
		}
	}
	for _, e := range crate.Graph {
		refs(e)
	}
	at := func(id, key string) any {
		v := byID[id][key]
		if m, ok := v.(map[string]any); ok {
			return m["@id"]
		}
		return v
	}
	for _, c := range []struct {
		id, key string
		want    any
	}{
		{"ro-crate-metadata.json", "about", "./"},
		{"ro-crate-metadata.json", "conformsTo", "https://w3id.org/ro/crate/1.1"},
		{"./", "@type", "Dataset"},
		{"./", "conformsTo", "https://w3id.org/ro/wfrun/process/0.5"},
		{"./", "mentions", "#run"},
		{"./", "publisher", "#organization"},
		{"./", "description", "a <test>"},
		{"#run", "@type", "CreateAction"},
		{"#run", "instrument", "#workload"},
		{"#run", "startTime", "2026-07-01T12:00:00.123456789Z"},
		{"#run", "actionStatus", "http://schema.org/FailedActionStatus"},
		{"#run", "error", "exit status 3"},
		{"#workload", "@type", "SoftwareApplication"},
		{"output/", "@type", "Dataset"},
		{"stdout.log", "@type", "File"},
		{"stdout.log", "encodingFormat", "text/plain"},
		{"stdout.log", "contentSize", 7.0},
	} {
		if got := at(c.id, c.key); got != c.want {
			t.Errorf("%s of %s is %v, want %v", c.key, c.id, got, c.want)
		}
	}
	for _, key := range []string{"name", "datePublished", "license"} {
		if at("./", key) == nil {
			t.Errorf("the crate has no %s", key)
		}
	}
}
