package metrics

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
)

func TestServe(t *testing.T) {
	set := vm.NewSet()
	set.NewCounter(`cis490_ships_total{code="stored"}`).Add(3)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Serve(ctx, addr, Handler(set), slog.New(slog.DiscardHandler))
	}()
	var resp *http.Response
	for range 200 {
		if resp, err = http.Get("http://" + addr + "/metrics"); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cis490_ships_total{code=\"stored\"} 3\n", "go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
	if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/plain; version=0.0.4") {
		t.Error(ct)
	}
	if resp, err := http.Get("http://" + addr + "/"); err != nil || resp.StatusCode != 404 {
		t.Error(resp, err)
	}
	cancel()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("goes on after its context is done")
	}
}

// An address that is taken is logged once, and is no reason to stop.
func TestServeOnATakenAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var log bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	Serve(ctx, ln.Addr().String(), Handler(), slog.New(slog.NewTextHandler(&log, nil)))
	if n := strings.Count(log.String(), "address already in use"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
	Serve(t.Context(), "", nil, nil) // no listener: returns
}

func TestHandleProfiles(t *testing.T) {
	mux := http.NewServeMux()
	HandleProfiles(mux)
	if _, pattern := mux.Handler(httptest.NewRequest("GET", "/debug/pprof/profile", nil)); pattern != "GET /debug/pprof/profile" {
		t.Errorf("a CPU profile is served by %q", pattern) // it takes a second at least: not taken here
	}
	for path, want := range map[string]string{
		"/debug/pprof/":                   "goroutine",
		"/debug/pprof/goroutine?debug=1":  "TestHandleProfiles",
		"/debug/pprof/trace?seconds=0.01": "go 1.",
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("GET %s: %d %.200q, want %q", path, w.Code, w.Body.String(), want)
		}
	}
}
