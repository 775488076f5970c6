package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cis490/src/cli"
	"cis490/src/doctor"
	"cis490/src/health"
)

func says(id string, f doctor.Finding) doctor.Check {
	return doctor.Check{ID: id, Looks: "a thing", Run: func(context.Context) []doctor.Finding { return []doctor.Finding{f} }}
}

// call runs the program with these checks.
func call(t *testing.T, checks []doctor.Check, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	c := command(here(func(doctor.Options) []doctor.Check { return checks }))
	var out, errs bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&errs)
	status = cli.Execute(t.Context(), c, args)
	return out.String(), errs.String(), status
}

func TestExitStatusAndOneDocumentAlways(t *testing.T) {
	well := says("a", doctor.Finding{Status: health.Green, Title: "well"})
	watch := says("b", doctor.Finding{Status: health.Yellow, Title: "watch", Fix: "do"})
	broken := says("c", doctor.Finding{Status: health.Red, Title: "broken", Fix: "mend"})
	crash := doctor.Check{ID: "d", Run: func(context.Context) []doctor.Finding { panic("boo") }}
	for _, c := range []struct {
		name   string
		checks []doctor.Check
		args   []string
		status int
		word   string
	}{
		{"well", []doctor.Check{well}, nil, 0, "green"},
		{"watch", []doctor.Check{well, watch}, nil, 0, "yellow"},
		{"strict", []doctor.Check{well, watch}, []string{"--strict"}, 1, "yellow"},
		{"broken", []doctor.Check{well, broken}, nil, 1, "red"},
		{"only what is well", []doctor.Check{well, broken}, []string{"--only", "a"}, 0, "green"},
		{"crash", []doctor.Check{well, crash}, nil, 2, "unknown"},
		{"crash beside what is broken", []doctor.Check{broken, crash}, nil, 2, "unknown"},
		{"no such row", []doctor.Check{well}, []string{"--only", "x"}, 2, "unknown"},
		{"no such flag", []doctor.Check{well}, []string{"--wrong"}, 2, "unknown"},
		{"bad duration", []doctor.Check{well}, []string{"--since", "soon"}, 2, "unknown"},
		{"no duration", []doctor.Check{well}, []string{"--since", "0s"}, 2, "unknown"},
		{"both", []doctor.Check{well}, []string{"--host", "--receiver"}, 2, "unknown"},
		{"argument", []doctor.Check{well}, []string{"please"}, 2, "unknown"},
	} {
		out, errs, status := call(t, c.checks, append([]string{"--json"}, c.args...)...)
		d := json.NewDecoder(strings.NewReader(out))
		var r health.Report
		if err := d.Decode(&r); err != nil || d.More() || r.Schema != 1 || r.Results == nil || string(r.Verdict) != c.word || status != c.status {
			t.Errorf("%s: status %d, %v, %+v, %s%s", c.name, status, err, r, out, errs)
		}
		out, errs, status = call(t, c.checks, c.args...)
		if status != c.status || strings.Contains(out, "\x1b") {
			t.Errorf("%s: status %d without --json\n%s%s", c.name, status, out, errs)
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(c.args) == 0 && !strings.HasPrefix(lines[len(lines)-1], c.word) {
			t.Errorf("%s: the last line is no verdict:\n%s", c.name, out)
		}
		if status == 2 && len(c.checks) == 1 && errs == "" {
			t.Errorf("%s: no word on standard error", c.name)
		}
	}
}

// A write that fails is a failure of the doctor's.
func TestAReportThatCannotBeWritten(t *testing.T) {
	c := command(here(func(doctor.Options) []doctor.Check {
		return []doctor.Check{says("a", doctor.Finding{Status: health.Green, Title: "well"})}
	}))
	c.SetOut(full{})
	c.SetErr(io.Discard)
	if status := cli.Execute(t.Context(), c, nil); status != health.ExitFailed {
		t.Errorf("status %d", status)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestListLooksAtNothing(t *testing.T) {
	out, _, status := call(t, nil, "--list", "--host")
	if status != 0 || !strings.Contains(out, "configuration") || !strings.Contains(out, "quarantine") || strings.Contains(out, "catalogue") {
		t.Errorf("status %d\n%s", status, out)
	}
	out, _, status = call(t, nil, "--list", "--receiver")
	if status != 0 || !strings.Contains(out, "catalogue") {
		t.Errorf("status %d\n%s", status, out)
	}
}

// The bundle has what helps and nothing that tells who it is about; it replaces no file.
func TestTheBundleIsRedacted(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		f := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return f
	}
	key := "sha256:" + strings.Repeat("5a", 32)
	file := write("lab-host.hcl", `host = "lab-secret"
organization = "Institute of Secrets"
data_dir = "`+dir+`/data"
run_dir = "`+dir+`/run"
# token = "abcdefg"
receiver {
  url = "https://receiver.secret.example:8490"
}
`)
	write("run/cis490-shipper/state.json", `{"schema":1,"host":"lab-secret","key":"`+key+`","receiver":"https://receiver.secret.example:8490","path":{"detail":"dial 192.0.2.77:8490, upload /v1/uploads/SECRETTOKEN"}}`)
	out := filepath.Join(dir, "bundle.tar.gz")
	check := says("a", doctor.Finding{Status: health.Red, Title: "lab-secret is gone", Evidence: "-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----", Fix: "cis490-receiver hosts allow lab-secret " + key})
	said, errs, status := call(t, []doctor.Check{check}, "report", "--config", file, "--output", out)
	if status != 0 || !strings.Contains(said, out) {
		t.Fatalf("status %d: %s%s", status, said, errs)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		have[filepath.Base(h.Name)] = string(b)
		for _, secret := range []string{"secret", "Secrets", "SECRETTOKEN", "abcdefg", "5a5a5a5a5a5a5a5a5a", "192.0.2.77", "MIG"} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s has %q in it:\n%s", h.Name, secret, b)
			}
		}
	}
	for name, want := range map[string]string{"report.json": `"schema": 1`, "lab-host.hcl": "[receiver]", "shipper-state.json": "sha256:5a5a5a5a…", "cis490-shipper.service": "", "cis490-shipper.journal": ""} {
		if text, ok := have[name]; !ok || !strings.Contains(text, want) {
			t.Errorf("%s: %q lacks %q", name, text, want)
		}
	}
	if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if _, errs, status := call(t, []doctor.Check{check}, "report", "--config", file, "--output", out); status != 2 || !strings.Contains(errs, "exists") {
		t.Errorf("it was replaced: status %d, %s", status, errs)
	}
}
