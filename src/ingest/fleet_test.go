package ingest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/health"
	"cis490/src/hosts"
	"cis490/src/wire"
)

func (c *client) report(body string) *answer {
	c.t.Helper()
	return c.do(request{method: http.MethodPut, path: wire.PathReport, body: bytes.NewReader([]byte(body))})
}

func (g *rig) seen(name string) hosts.Summary {
	g.t.Helper()
	list, err := g.operator().Hosts(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	for _, h := range list {
		if h.Name == name {
			return h
		}
	}
	g.t.Fatalf("no host %s in %+v", name, list)
	return hosts.Summary{}
}

func TestReportOfAHost(t *testing.T) {
	g := newRig(t)
	other := g.newHost("lab-2")
	if h := g.seen("lab-1"); !h.SeenAt.IsZero() || h.Verdict != health.Unknown || h.Report != nil {
		t.Errorf("before it spoke: %+v", h)
	}
	want(t, other.do(request{method: http.MethodGet, path: wire.PathSelf}), http.StatusOK, "")
	want(t, g.host.report(`{"schema":1,"version":"1.0","verdict":"yellow","interval_seconds":300,"queue":{"waiting":3},"new":{}}`), http.StatusNoContent, "")
	want(t, g.host.report(`{"schema":1,"version":"1.1","verdict":"green","interval_seconds":600,"queue":{"waiting":2},"clock_skew_seconds":-1.5}`), http.StatusNoContent, "")
	h := g.seen("lab-1")
	if h.Verdict != health.Green || h.Report == nil || h.Report.Version != "1.1" || h.Report.Queue.Waiting != 2 || *h.Report.Skew != -1.5 || time.Since(h.ReportedAt) > time.Minute {
		t.Errorf("%+v", h)
	}
	if o := g.seen("lab-2"); o.Verdict != health.Unknown || o.Report != nil || time.Since(o.SeenAt) > time.Minute {
		t.Errorf("the other one: %+v", o)
	}

	// It is its own host's alone, it has bounds, and what is none changes nothing.
	strange := g.stranger("lab-3")
	want(t, strange.report(`{"schema":1}`), http.StatusForbidden, code.HostUnknown)
	long := `{"schema":1,"version":"` + strings.Repeat("x", wire.MaxReport) + `"}`
	for body, status := range map[string]int{"": 400, "{}": 400, "nonsense": 400, `{"schema":2}`: 400, long: 413} {
		if a := g.host.report(body); a.StatusCode != status {
			t.Errorf("%.20q: %s, want %d", body, a, status)
		}
	}
	chunked := request{method: http.MethodPut, path: wire.PathReport, body: io.MultiReader(strings.NewReader(long)), length: -1}
	if a := g.host.do(chunked); a.StatusCode != 400 {
		t.Errorf("too long without a length: %s", a)
	}
	if a := g.host.do(request{method: http.MethodGet, path: wire.PathReport}); a.StatusCode != 405 || a.Header.Get("Allow") != "PUT" {
		t.Errorf("GET: %s", a)
	}
	if again := g.seen("lab-1"); again.Report.Version != "1.1" {
		t.Errorf("%+v", again.Report)
	}
}

// A host that says nothing for much longer than it said is silent, whatever its last word was.
func TestSilentHost(t *testing.T) {
	g := newRig(t)
	want(t, g.host.report(`{"schema":1,"verdict":"green","interval_seconds":600}`), http.StatusNoContent, "")
	for _, c := range []struct {
		later time.Duration
		want  health.Status
	}{{29 * time.Minute, health.Green}, {31 * time.Minute, hosts.Silent}} {
		g.late.Store(int64(c.later))
		if h := g.seen("lab-1"); h.Verdict != c.want {
			t.Errorf("%s later: %s, want %s", c.later, h.Verdict, c.want)
		}
	}
	// Any request is a sign of life.
	want(t, g.host.do(request{method: http.MethodGet, path: wire.PathSelf}), http.StatusOK, "")
	if h := g.seen("lab-1"); h.Verdict != health.Green || h.SeenAt.Before(h.ReportedAt.Add(30*time.Minute)) {
		t.Errorf("%+v", h.Seen)
	}
}

func TestReportsOutliveTheReceiver(t *testing.T) {
	g := newRig(t)
	gone := g.newHost("lab-2")
	want(t, g.host.report(`{"schema":1,"version":"1.0","verdict":"red"}`), http.StatusNoContent, "")
	want(t, gone.report(`{"schema":1,"version":"1.0","verdict":"red"}`), http.StatusNoContent, "")
	file := filepath.Join(g.cfg.StateDir, fleetFile)
	// The first pass has it on the disk, and then not before a minute is over.
	g.r.wake <- struct{}{}
	waitFor(t, "the file", func() bool { _, err := os.Stat(file); return err == nil })
	want(t, g.host.report(`{"schema":1,"version":"1.1","verdict":"yellow"}`), http.StatusNoContent, "")
	g.r.wake <- struct{}{}
	g.r.wake <- struct{}{}
	if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, []byte(`"version":"1.1"`)) {
		t.Errorf("%s, %v", b, err)
	}
	before := g.seen("lab-1").Seen
	g.restart()
	if h := g.seen("lab-1"); h.Report == nil || h.Report.Version != "1.1" || !h.SeenAt.Equal(before.SeenAt) || h.Verdict != health.Yellow {
		t.Errorf("after a restart: %+v, before %+v", h.Seen, before)
	}
	// Without a receiver, the operator sees what it wrote down.
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	off, err := DialOperator(t.Context(), g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := off.Hosts(t.Context())
	if err != nil || len(list) != 2 || list[0].Report == nil || list[0].Report.Version != "1.1" {
		t.Errorf("offline: %+v, %v", list, err)
	}
	if err := off.Close(); err != nil {
		t.Fatal(err)
	}
	// What somebody else wrote into the file does not reach a terminal either, and what can't be read is no reason not to serve.
	for content, sees := range map[string]bool{
		`{"schema":1,"hosts":{"lab-1":{"report":{"schema":1,"version":"\u001b[2J","verdict":"silent"}},"../x":{}}}`: true,
		`{"schema":2}`: false, "": false, "{": false,
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		g.start()
		h := g.seen("lab-1")
		if (h.Report != nil) != sees || sees && (h.Report.Version != "\ufffd[2J" || h.Verdict == health.Green) {
			t.Errorf("%s: %+v", content, h.Seen)
		}
		want(t, g.host.report(`{"schema":1,"verdict":"green"}`), http.StatusNoContent, "")
		if err := g.stop(); err != nil {
			t.Fatal(err)
		}
	}
	g.start()
	if h := g.seen("lab-1"); h.Verdict != health.Green {
		t.Errorf("%+v", h.Seen)
	}
}

func TestFleetFigures(t *testing.T) {
	g := newRig(t)
	for i, v := range []string{"green", "yellow", "red", "red"} {
		h := g.newHost(fmt.Sprintf("lab-%d", i+2))
		want(t, h.report(`{"schema":1,"verdict":"`+v+`","interval_seconds":86400}`), http.StatusNoContent, "")
	}
	if _, err := g.r.Hosts().Revoke("lab-5", time.Now()); err != nil {
		t.Fatal(err)
	}
	g.late.Store(int64(2 * time.Hour))
	want(t, g.host.report(`{"schema":1,"verdict":"green"}`), http.StatusNoContent, "")
	g.newHost("lab-9")
	w := httptest.NewRecorder()
	g.r.metricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		`cis490_receiver_hosts{verdict="green"} 2`, `cis490_receiver_hosts{verdict="yellow"} 1`, `cis490_receiver_hosts{verdict="red"} 1`,
		`cis490_receiver_hosts{verdict="unknown"} 1`, `cis490_receiver_hosts{verdict="silent"} 0`,
		`cis490_receiver_hosts_seen{within="10m"} 1`, `cis490_receiver_hosts_seen{within="1h"} 1`, `cis490_receiver_hosts_seen{within="1d"} 4`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("no %s in\n%s", line, w.Body)
		}
	}
	var longest float64
	for line := range strings.Lines(w.Body.String()) {
		_, _ = fmt.Sscanf(line, "cis490_receiver_longest_silence_seconds %g", &longest)
	}
	if longest < 7200 || longest > 7300 {
		t.Errorf("longest silence %g s", longest)
	}
}

// What is written for hosts that are no more goes with them: the file has a bound.
func TestFleetForgetsWhoIsNoHost(t *testing.T) {
	f := openFleet(t.TempDir(), testLog(t))
	now := time.Now()
	f.report("lab-1", wire.Report{Schema: 1}, now)
	f.report("lab-2", wire.Report{Schema: 1}, now)
	if !f.due(now, false) || f.write([]hosts.Host{{Name: "lab-2"}}, now) != nil || f.due(now.Add(2*writeEvery), false) {
		t.Error("it is not written once")
	}
	b, err := os.ReadFile(f.path)
	var file fleetOnDisk
	if err != nil || json.Unmarshal(b, &file) != nil || len(file.Hosts) != 1 || file.Hosts["lab-2"].Report == nil {
		t.Errorf("%s %v", b, err)
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(f.path, 0o755); err != nil {
		t.Fatal(err)
	}
	f.spoke("lab-2", now.Add(time.Hour))
	if err := f.write([]hosts.Host{{Name: "lab-2"}}, now.Add(time.Hour)); err == nil || f.due(now.Add(time.Hour), false) || !f.due(now.Add(time.Hour+writeEvery), false) {
		t.Errorf("a write that failed is not tried again a minute later: %v", err)
	}
}
