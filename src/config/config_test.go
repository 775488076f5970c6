package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cis490/src/identity"
)

func loadString(t *testing.T, name, src string, opts ...Option) error {
	t.Helper()
	opts = append([]Option{atLab}, opts...)
	var err error
	if strings.HasPrefix(name, "receiver") {
		_, err = ParseReceiver(name, []byte(src), opts...)
	} else {
		_, err = ParseLabHost(name, []byte(src), opts...)
	}
	return err
}

func wantErrors(t *testing.T, err error, parts ...string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %v, not a *config.Error", err)
	}
	flat := strings.Join(strings.Fields(err.Error()), " ")
	for _, p := range parts {
		if !strings.Contains(flat, p) {
			t.Errorf("no %q in:\n%v", p, err)
		}
	}
}

// The examples load as they are, and with every line of them in force.
func TestExamplesLoad(t *testing.T) {
	for name, src := range map[string]string{"lab-host.hcl": LabHostExample(), "receiver.hcl": ReceiverExample()} {
		if err := loadString(t, name, src); err != nil {
			t.Errorf("%s:\n%v", name, err)
		}
	}
	for name, src := range examples(true) {
		src = strings.NewReplacer(
			// Of the receiver's two sources of certificates, one can be in force.
			`cert_file = "/etc/cis490/receiver.crt"`, ``,
			`key_file = "/etc/cis490/receiver.key"`, ``,
		).Replace(src)
		if err := loadString(t, name, src); err != nil {
			t.Errorf("%s with all in force:\n%v\n%s", name, err, src)
		}
	}
}

// What the commented example says is the default is what holds without a file.
func TestDefaultsAreWhatTheExampleShows(t *testing.T) {
	least, err := ParseLabHost("lab-host.hcl", []byte(`receiver { url = "https://receiver.example.org:8490" }`), atLab)
	if err != nil {
		t.Fatal(err)
	}
	example, err := ParseLabHost("lab-host.hcl", []byte(LabHostExample()), atLab)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(least, example); d != "" {
		t.Error(d)
	}
	want := Shipper{
		ScanInterval: 5 * time.Second, Watchdog: 180 * time.Second, UploadWorkers: 16, PackWorkers: 4, Compression: "auto",
		ConnectTimeout: 10 * time.Second, StallTimeout: 30 * time.Second, ResponseTimeout: time.Minute,
		BackoffMin: time.Second, BackoffMax: 15 * time.Second, PollInterval: time.Minute, ReportInterval: 5 * time.Minute, StopTimeout: 30 * time.Second,
		QuarantineKeepDays: 30, QuarantineCleanupInterval: time.Hour,
	}
	if d := cmp.Diff(want, least.Shipper); d != "" {
		t.Error(d)
	}
	empty, err := ParseReceiver("receiver.hcl", nil, atLab)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := ParseReceiver("receiver.hcl", []byte(ReceiverExample()), atLab)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(empty, shown); d != "" {
		t.Error(d)
	}
}

func TestEveryAttributeHasItsWords(t *testing.T) {
	var hosts []*Host
	seen := map[string]bool{}
	var walk func(s *block)
	walk = func(s *block) {
		if s.doc == "" {
			t.Errorf("block %q has no doc", s.name)
		}
		for _, a := range s.attrs {
			switch {
			case a.doc == "" || a.kind.allowed == "":
				t.Errorf("%s.%s has no doc or does not say what is allowed", s.name, a.name)
			case a.required == (a.def != "" || a.defWords != ""):
				t.Errorf("%s.%s has to be either required or have a default", s.name, a.name)
			case a.example == "" && a.def == "":
				t.Errorf("%s.%s has no example", s.name, a.name)
			}
			if a.example != "" {
				b := a
				b.def = a.example
				if err := setDefault(b); err != nil {
					t.Errorf("the example of %s.%s: %v", s.name, a.name, err)
				}
			}
			seen[a.name] = true
		}
		for _, b := range s.blocks {
			walk(b)
		}
	}
	walk(labHostSchema(new(LabHost)))
	walk(receiverSchema(new(Receiver), &hosts))
	for _, n := range []string{"quarantine_keep_days", "quarantine_cleanup_interval_s"} {
		if !seen[n] {
			t.Errorf("%s is gone; its name is a promise", n)
		}
	}
}

func TestURLs(t *testing.T) {
	for in, want := range map[string]string{
		"https://receiver.example.org":        "https://receiver.example.org",
		"https://receiver.example.org/":       "https://receiver.example.org",
		"HTTPS://receiver.example.org:443":    "https://receiver.example.org:443",
		"https://192.0.2.1:8490":              "https://192.0.2.1:8490",
		"https://[2001:db8::1]:8490":          "https://[2001:db8::1]:8490",
		"http://localhost:8490":               "http://localhost:8490",
		"http://127.0.0.1:8490":               "http://127.0.0.1:8490",
		"http://[::1]:8490":                   "http://[::1]:8490",
		"http://receiver.example.org":         "",
		"http://192.0.2.1":                    "",
		"http://localhost.example.org":        "",
		"ftp://receiver.example.org":          "",
		"receiver.example.org:8490":           "",
		"receiver.example.org":                "",
		"https://":                            "",
		"https:receiver":                      "",
		"https://host:0":                      "",
		"https://host:":                       "",
		"https://host:99999":                  "",
		"https://host:https":                  "",
		"https://user:pw@host":                "",
		"https://host/v1":                     "",
		"https://host?x=1":                    "",
		"https://host?":                       "",
		"https://host#x":                      "",
		"https://ho st":                       "",
		"https://*.example.org":               "",
		"https://[fe80::1%25eth0]:8490":       "",
		"https://a_b.example.org":             "",
		"":                                    "",
		"https://host\n.example.org":          "",
		"https://receiver.example.org/%2e%2e": "",
	} {
		c, err := ParseLabHost("lab-host.hcl", []byte(fmt.Sprintf("receiver {\n  url = %s\n}\n", hclString(in))), atLab)
		switch {
		case want == "":
			if err == nil {
				t.Errorf("%q is accepted", in)
			} else {
				wantErrors(t, err, "lab-host.hcl line 2", "Allowed: https://host")
			}
		case err != nil:
			t.Errorf("%q: %v", in, err)
		case c.Receiver.URL.String() != want:
			t.Errorf("%q became %q, want %q", in, c.Receiver.URL, want)
		}
	}
}

func hclString(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(fmt.Sprintf("%q", s))
}

func TestMissingFileSaysWhatToDo(t *testing.T) {
	_, err := LoadLabHost(filepath.Join(t.TempDir(), "lab-host.hcl"))
	wantErrors(t, err, "no such file", "check-config --example")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("not fs.ErrNotExist")
	}
	_, err = LoadReceiver(t.TempDir())
	wantErrors(t, err, "is a directory")
}

func TestLoadFromDisk(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "receiver.hcl")
	if err := os.WriteFile(file, []byte(ReceiverExample()), 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := LoadReceiver(file); err != nil || c.File != file {
		t.Error(c.File, err)
	}
}

func TestWatchdogOfTheUnitCounts(t *testing.T) {
	src := "receiver { url = \"https://h\" }\nshipper { scan_interval = \"6s\" }"
	if err := loadString(t, "lab-host.hcl", src); err != nil {
		t.Error(err)
	}
	if err := loadString(t, "lab-host.hcl", src, WithWatchdog(12*time.Second)); err != nil {
		t.Error(err)
	}
	wantErrors(t, loadString(t, "lab-host.hcl", src, WithWatchdog(11*time.Second)), "line 2", "WatchdogSec= of the unit", "5.5s")
	wantErrors(t, loadString(t, "lab-host.hcl", `receiver { url = "https://h" }`, WithWatchdog(9*time.Second)), "scan_interval is 5s", "4.5s")
}

func TestHostNameOfTheMachine(t *testing.T) {
	for name, want := range map[string]string{"lab-01": "lab-01", "LAB-01.Example.org": "lab-01", "lab_01": "", "": "", "(none)": ""} {
		c, err := ParseLabHost("lab-host.hcl", []byte(`receiver { url = "https://h" }`), func(o *options) {
			o.hostname = func() (string, error) { return name, nil }
		})
		if want == "" {
			wantErrors(t, err, "Missing host", "Set one", `host = "lab-01"`)
		} else if err != nil || c.Host != want {
			t.Errorf("%q: %q, %v", name, c.Host, err)
		}
	}
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	ca, _, err := identity.InitCA(at("ca.crt"), at("ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := identity.InitCA(at("other.crt"), at("other.key")); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(at("junk"), []byte("not a certificate"), 0o644)
	os.WriteFile(at("broken"), []byte(strings.Replace(string(ca.PEM), "MII", "AAA", 1)), 0o644)
	lab := func(file string) string {
		return fmt.Sprintf("receiver {\n  url = \"https://h\"\n  ca_file = %q\n}", at(file))
	}
	// A daemon starts all the same; check-config says so.
	for _, f := range []string{"ca.crt", "junk", "absent"} {
		if err := loadString(t, "lab-host.hcl", lab(f)); err != nil {
			t.Error(err)
		}
	}
	if err := loadString(t, "lab-host.hcl", lab("ca.crt"), CheckFiles()); err != nil {
		t.Error(err)
	}
	wantErrors(t, loadString(t, "lab-host.hcl", lab("absent"), CheckFiles()), "Can't read ca_file", "line 3", "absent", "Copy it from the receiver")
	wantErrors(t, loadString(t, "lab-host.hcl", lab("junk"), CheckFiles()), "No certificate in ca_file", "line 3")
	wantErrors(t, loadString(t, "lab-host.hcl", lab("broken"), CheckFiles()), "Bad certificate in ca_file", "line 3")
	var warned string
	far := func(o *options) { o.now = func() time.Time { return time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC) } }
	if err := loadString(t, "lab-host.hcl", lab("ca.crt"), CheckFiles(), far, Warn(func(s string) { warned += s })); err != nil || !strings.Contains(warned, "expired on 9999-12-31") {
		t.Errorf("error %v, warnings %q", err, warned)
	}

	rec := func(a, b, c, d string) string {
		return fmt.Sprintf("tls {\n  %s = %q\n  %s = %q\n}", a, at(b), c, at(d))
	}
	if err := loadString(t, "receiver.hcl", rec("ca_cert_file", "ca.crt", "ca_key_file", "ca.key"), CheckFiles()); err != nil {
		t.Error(err)
	}
	wantErrors(t, loadString(t, "receiver.hcl", rec("ca_cert_file", "ca.crt", "ca_key_file", "other.key"), CheckFiles()), "Can't use ca_cert_file", "is not for the key in", "ca init")
	wantErrors(t, loadString(t, "receiver.hcl", rec("cert_file", "ca.crt", "key_file", "other.key"), CheckFiles()), "Can't use cert_file with key_file")
	wantErrors(t, loadString(t, "receiver.hcl", rec("cert_file", "absent", "key_file", "ca.key"), CheckFiles()), "no such file")
	if err := loadString(t, "receiver.hcl", rec("cert_file", "ca.crt", "key_file", "ca.key"), CheckFiles()); err != nil {
		t.Error(err)
	}
	wantErrors(t, loadString(t, "receiver.hcl", `operator_group = "no-such-group-here"`, CheckFiles()), "groupadd --system no-such-group-here")
	if err := loadString(t, "receiver.hcl", `operator_group = "root"`, CheckFiles()); err != nil {
		t.Error(err)
	}
}

func TestTooLargeAndTooDeep(t *testing.T) {
	wantErrors(t, loadString(t, "lab-host.hcl", strings.Repeat("# x\n", 1<<19)), "File too large")
	for _, open := range []string{"(", "[", "{", "x {\n", "\"${", "!", "-"} {
		for _, name := range []string{"lab-host.hcl", "lab-host.json"} {
			src := "host = " + strings.Repeat(open, 2_000)
			if strings.HasSuffix(name, "json") {
				src = `{"host": ` + strings.Repeat(open, 2_000)
			}
			if err := loadString(t, name, src); err == nil {
				t.Errorf("%s: %q over and over is accepted", name, open)
			}
		}
	}
}

func TestUnitsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "d"))
		if rapid.Bool().Draw(t, "whole") {
			d = d / time.Hour * time.Hour
		}
		s := FormatDuration(d)
		if got, err := ParseDuration(s); err != nil || got != d {
			t.Fatalf("%d is written %s, read as %d, %v", d, s, got, err)
		}
		n := Size(rapid.Int64Min(0).Draw(t, "n"))
		n >>= rapid.IntRange(0, 62).Draw(t, "shift")
		n <<= rapid.SampledFrom([]int{0, 0, 10, 20}).Draw(t, "unit")
		if n < 0 {
			return
		}
		if got, err := ParseSize(n.String()); err != nil || got != n {
			t.Fatalf("%d is written %s, read as %d, %v", int64(n), n, int64(got), err)
		}
	})
}

func TestDurations(t *testing.T) {
	day := 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "5s": 5 * time.Second, "250ms": 250 * time.Millisecond, "1.5h": 90 * time.Minute, "30d": 30 * day,
		"1w": 7 * day, "1w2d3h4m5s": 9*day + 3*time.Hour + 4*time.Minute + 5*time.Second, "0.5d": 12 * time.Hour, "1d12h": 36 * time.Hour,
		"": -1, "5": -1, "s": -1, "5 s": -1, "-5s": -1, "+5s": -1, "5x": -1, "1d1": -1, "1..5s": -1, "1e3s": -1, "d": -1,
		"106752d": -1, "15251w": -1, "9223372036s9223372036s": -1, "300000h300000h300000h300000h300000h300000h300000h300000h300000h": -1,
		"99999999999999999999s": -1, "5S": -1, "1D": -1, ".s": -1, "5s ": -1,
	} {
		got, err := ParseDuration(s)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %s, %v; want %s", s, got, err, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]Size{
		"0B": 0, "1B": 1, "1KiB": 1024, "1kB": 1000, "1.5MiB": 3 << 19, "64 GiB": 64 << 30, "1TiB": 1 << 40, "2TB": 2e12, "0.1kB": 100,
		"": -1, "1": -1, "B": -1, "1K": -1, "1KB": -1, "1kib": -1, "1 k": -1, "-1B": -1, "1e3B": -1, "8388608TiB": -1, "9999999999999999999TB": -1,
		"1..5kB": -1, "1B1B": -1, "1 000B": -1, "0x1B": -1, ".B": -1,
	} {
		got, err := ParseSize(s)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for n, want := range map[Size]string{0: "0B", 1 << 40: "1TiB", 2e12: "2TB", 5e8: "500MB", 1025: "1025B", 16 << 10: "16KiB"} {
		if n.String() != want {
			t.Errorf("%d is written %s, want %s", int64(n), n, want)
		}
	}
}

// Whatever is set, both syntaxes give the same configuration, or the same
// mistakes in as many words.
func TestBothSyntaxesSayTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := func(values ...string) string { return rapid.SampledFrom(values).Draw(t, "value") }
		pick := func(name string) bool { return rapid.Bool().Draw(t, name) }
		var native, js strings.Builder
		var sep string
		set := func(name, v string) {
			fmt.Fprintf(&native, "%s = %s\n", name, v)
			fmt.Fprintf(&js, "%s%q: %s", sep, name, v)
			sep = ", "
		}
		begin := func(name string) {
			fmt.Fprintf(&native, "%s {\n", name)
			fmt.Fprintf(&js, "%s%q: {", sep, name)
			sep = ""
		}
		end := func() { native.WriteString("}\n"); js.WriteString("}"); sep = ", " }
		js.WriteString("{")
		if pick("host") {
			set("host", value(`"lab-1"`, `"lab 1"`, `null`, `5`, `"$${x}"`))
		}
		if pick("data_dir") {
			set("data_dir", value(`"/data"`, `"data"`, `["/data"]`, `true`))
		}
		if pick("min_free") {
			set("min_free", value(`"1GiB"`, `"1KB"`, `7`, `{}`))
		}
		begin("receiver")
		set("url", value(`"https://h"`, `"http://h"`, `"https://${x}"`))
		if pick("unknown") {
			set("urll", value(`1`))
		}
		end()
		if pick("shipper") {
			begin("shipper")
			if pick("scan") {
				set("scan_interval", value(`"1s"`, `"9m"`, `1`, `"x"`))
			}
			if pick("workers") {
				set("upload_workers", value(`3`, `0`, `1.5`, `-1`, `"3"`))
			}
			end()
		}
		js.WriteString("}")
		a, errA := ParseLabHost("lab-host.hcl", []byte(native.String()), atLab)
		b, errB := ParseLabHost("lab-host.json", []byte(js.String()), atLab)
		a.File, b.File = "", ""
		if d := cmp.Diff(a, b); d != "" {
			t.Fatalf("%s\nand\n%s\ndiffer: %s", native.String(), js.String(), d)
		}
		if wa, wb := words(errA), words(errB); wa != wb {
			t.Fatalf("%s\n\n%s\nsays %s\nand\n%s\nsays %s", native.String(), js.String(), wa, js.String(), wb)
		}
	})
}

// words is the errors without the places and without examples, which are in the
// syntax of the file.
func words(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	set := map[string]bool{}
	for _, d := range e.Diags {
		detail, _, _ := strings.Cut(d.Detail, "For example:")
		set[d.Summary+": "+detail] = true
	}
	return fmt.Sprintf("%d %v", len(e.Diags), set)
}

func FuzzParse(f *testing.F) {
	cases, _ := filepath.Glob("testdata/*.txtar")
	for _, c := range cases {
		b, err := os.ReadFile(c)
		if err != nil {
			f.Fatal(err)
		}
		_, in, _ := strings.Cut(string(b), " --\n")
		in, _, _ = strings.Cut(in, "\n-- ")
		f.Add(in, strings.Contains(c, "json"), strings.Contains(c, "receiver"))
	}
	f.Add(LabHostExample(), false, false)
	f.Add(ReceiverExample(), false, true)
	f.Fuzz(func(t *testing.T, src string, js, receiver bool) {
		name := "lab-host.hcl"
		if js {
			name = "lab-host.json"
		}
		if receiver {
			name = strings.Replace(name, "lab-host", "receiver", 1)
		}
		err := loadString(t, name, src)
		if err == nil {
			return
		}
		var e *Error
		if !errors.As(err, &e) || len(e.Diags) == 0 || err.Error() == "" {
			t.Fatalf("an error without a diagnostic: %#v", err)
		}
		for _, d := range e.Diags {
			if d.Subject == nil || d.Subject.Filename != name || d.Subject.Start.Line < 1 {
				t.Errorf("%s has no place: %v", d.Summary, d.Subject)
			}
		}
	})
}
