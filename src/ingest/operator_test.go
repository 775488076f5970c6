package ingest

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/liveness"
	"cis490/src/pack"
	"cis490/src/state"
	"cis490/src/wire"
)

func (g *rig) operator() *OperatorClient {
	g.t.Helper()
	c, err := DialOperator(g.t.Context(), g.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

func TestOperator(t *testing.T) {
	g := newRig(t)
	p := g.host.big(1, 2)
	receipt(t, g.host.post(p), p, code.Stored)
	q := g.host.small(2)
	receipt(t, g.host.post(q), q, code.Stored)
	i, err := os.Stat(state.OperatorPath(g.cfg.RunDir))
	if err != nil || i.Mode().Perm() != 0o660 {
		t.Errorf("operator socket: %v, %v; want mode 0660", i, err)
	}

	check := func(t *testing.T, o *OperatorClient) {
		ctx := t.Context()
		list, err := o.Hosts(ctx)
		if err != nil || len(list) == 0 || list[0].Name != "lab-1" || list[0].Episodes != 2 || list[0].Revoked {
			t.Errorf("hosts: %+v, %v", list, err)
		}
		key, err := hosts.ParseKey("sha256:" + strings.Repeat("ab", 32))
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Allow(ctx, "lab-2", key); err != nil {
			t.Error(err)
		}
		if err := o.Allow(ctx, "lab-3", key); err == nil {
			t.Error("one key for two hosts")
		}
		if n, err := o.Revoke(ctx, "lab-2"); n != 1 || err != nil {
			t.Error(n, err)
		}
		if _, err := o.Revoke(ctx, "lab-77"); err == nil {
			t.Error("an unknown host was revoked")
		}
		var found []OperatorEpisode
		all := func(e OperatorEpisode) error { found = append(found, e); return nil }
		if err := o.Episodes(ctx, catalog.Filter{Host: "lab-1", From: time.Now().Add(-time.Hour)}, all); err != nil || len(found) != 2 {
			t.Errorf("episodes: %+v, %v", found, err)
		}
		if err := o.Episodes(ctx, catalog.Filter{Limit: 1}, all); err != nil || len(found) != 3 {
			t.Errorf("episodes: %+v, %v", found, err)
		}
		if err := o.Episodes(ctx, catalog.Filter{To: time.Now().Add(-time.Hour)}, all); err != nil || len(found) != 3 {
			t.Errorf("episodes: %+v, %v", found, err)
		}
		e, err := o.Episode(ctx, p.facts.ID)
		if err != nil || e.Receipt.BagDigest != p.facts.Digest || e.Outcome != "complete" || !json.Valid(e.Run) || !strings.HasPrefix(e.Archive, g.cfg.StateDir) {
			t.Errorf("episode: %+v, %v", e, err)
		}
		if _, err := o.Episode(ctx, episode.NewID()); err == nil {
			t.Error("an episode that is not there was shown")
		}
		step, err := o.Verify(ctx, p.facts.ID, func(int64) {})
		if err != nil || step.Files != p.facts.Files || step.Bytes != p.facts.Size {
			t.Errorf("verify: %+v, %v", step, err)
		}
		a, n, err := o.Archive(ctx, p.facts.ID)
		if err != nil || n != e.Receipt.ArchiveSize {
			t.Fatalf("archive: %d bytes, %v", n, err)
		}
		defer a.Close()
		dir, err := pack.Extract(ctx, a, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if f, err := episode.Verify(ctx, dir, nil); err != nil || f != p.facts {
			t.Errorf("extracted: %+v, %v", f, err)
		}
		if r, err := o.Reindex(ctx, func(int64) {}); err != nil || r.Episodes != 2 || r.Missing+r.Damaged != 0 {
			t.Errorf("reindex: %+v, %v", r, err)
		}
	}
	t.Run("running", func(t *testing.T) {
		o := g.operator()
		if o.Offline {
			t.Error("the receiver was not found")
		}
		check(t, o)
		s, err := o.State(t.Context())
		if err != nil || s.Codes[code.Stored] != 2 || s.LastStored == nil || s.LastStored.Episode != q.facts.ID {
			t.Errorf("state: %+v, %v", s, err)
		}
		// Revoking counts from the next request on.
		if _, err := o.Revoke(t.Context(), "lab-1"); err != nil {
			t.Fatal(err)
		}
		want(t, g.host.do(request{method: "GET", path: wire.PathSelf}), http.StatusForbidden, code.HostRevoked)
		k, err := hosts.ParseKey(g.host.key)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Allow(t.Context(), "lab-1", k); err != nil {
			t.Fatal(err)
		}
		want(t, g.host.do(request{method: "GET", path: wire.PathSelf}), http.StatusOK, "")
	})
	// Damage in the store is found.
	e, err := g.operator().Episode(t.Context(), q.facts.ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(e.Archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(e.Archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.Archive, flip(b, 15_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := g.operator().Verify(t.Context(), q.facts.ID, func(int64) {}); err == nil {
		t.Error("a damaged archive was found sound")
	}
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	t.Run("offline", func(t *testing.T) {
		o, err := DialOperator(t.Context(), g.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if !o.Offline {
			t.Error("a receiver runs")
		}
		// The store is locked meanwhile: no receiver can start, and no other client.
		if _, err := DialOperator(t.Context(), g.cfg); !errors.Is(err, durable.ErrLocked) {
			t.Errorf("%v; want that it is locked", err)
		}
		check(t, o)
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	g.start()
}

func TestNoOperatorOnTheNetwork(t *testing.T) {
	g := newRig(t)
	for _, path := range []string{"/hosts", "/episodes", "/hosts/lab-1/revoke", "/reindex", "/state", "/metrics"} {
		for _, m := range []string{"GET", "POST"} {
			if a := g.host.do(request{method: m, path: path}); a.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: %s", m, path, a)
			}
		}
	}
}

func TestNoCA(t *testing.T) {
	_, err := New(parseConfig(t, t.TempDir()), Deps{})
	if !errors.Is(err, ErrNoCA) || !strings.Contains(err.Error(), "cis490-receiver ca init") {
		t.Errorf("%v; want it to say: cis490-receiver ca init", err)
	}
}

func TestStateMetricsAndNotifications(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: sock, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", sock)
	notifier := liveness.NewNotifier()
	messages := make(chan string, 100)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := l.Read(buf)
			if err != nil {
				close(messages)
				return
			}
			messages <- string(buf[:n])
		}
	}()
	await := func(what string) {
		t.Helper()
		timeout := time.After(10 * time.Second)
		for {
			select {
			case m := <-messages:
				if strings.Contains(m, what) {
					return
				}
			case <-timeout:
				t.Fatalf("no %s", what)
			}
		}
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := port.Addr().String()
	port.Close()

	g := newRig(t, func(c *config.Receiver) { c.MetricsListen = addr })
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	g.deps.Notifier = notifier
	g.start()
	await("READY=1")
	p := g.host.small(1)
	receipt(t, g.host.post(p), p, code.Stored)
	g.r.wake <- struct{}{}
	await("1 stored")
	if err := g.r.Reload(func() (config.Receiver, error) { return g.cfg, nil }); err != nil {
		t.Error(err)
	}
	await("RELOADING=1")
	await("READY=1")

	var s state.Receiver
	waitFor(t, "the state file", func() bool {
		b, err := os.ReadFile(filepath.Join(g.cfg.RunDir, "state.json"))
		return err == nil && json.Unmarshal(b, &s) == nil && s.Codes[code.Stored] == 1
	})
	if s.Unit != "cis490-receiver" || s.Window.ID == "" || s.CertificateNotAfter.Before(time.Now()) || s.FreeBytes == 0 || s.LastStored == nil {
		t.Errorf("state.json: %+v", s)
	}
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if m := get("/metrics"); !strings.Contains(m, `cis490_receiver_answers_total{code="stored"} 1`) {
		t.Error(m)
	}
	if h := get("/healthz"); h != "ok\n" {
		t.Error(h)
	}
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	await("STOPPING=1")
	g.deps.Notifier = nil
	g.start()
}

// Refusals of a whole queue don't flood the log.
func TestLogOnce(t *testing.T) {
	var n notes
	now := time.Now()
	if !n.first(now, "a", code.HostUnknown) || n.first(now.Add(time.Second), "a", code.HostUnknown) || !n.first(now, "a", code.ClockSkew) || !n.first(now, "b", code.HostUnknown) || !n.first(now.Add(2*logAgain), "a", code.HostUnknown) {
		t.Error("wrong")
	}
	for i := range 3 * maxLogged {
		n.first(now, string(rune(i)), code.HostUnknown)
	}
	if len(n.logged) > maxLogged {
		t.Errorf("%d entries", len(n.logged))
	}
}
