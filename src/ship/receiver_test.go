package ship

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/identity"
	"cis490/src/ingest"
	"cis490/src/state"
)

// receiver is the real receiver in this process.
type receiver struct {
	t    testing.TB
	cfg  config.Receiver
	addr string
	r    *ingest.Receiver
	stop func()
}

func newReceiver(t testing.TB, more string) *receiver {
	t.Helper()
	dir := t.TempDir()
	cfg, err := config.ParseReceiver("receiver.hcl", fmt.Appendf(nil, `
state_dir = %q
run_dir   = %q
listen    = "127.0.0.1:0"
tls { names = ["127.0.0.1"] }
%s
`, filepath.Join(dir, "state"), filepath.Join(dir, "run"), more))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := identity.InitCA(cfg.TLS.CACertFile, cfg.TLS.CAKeyFile); err != nil {
		t.Fatal(err)
	}
	r := &receiver{t: t, cfg: cfg}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *receiver) start() {
	r.t.Helper()
	var d ingest.Deps
	if r.addr != "" {
		ln, err := net.Listen("tcp", r.addr)
		if err != nil {
			r.t.Fatal(err)
		}
		d.Listener = ln
	}
	var err error
	if r.r, err = ingest.New(r.cfg, d); err != nil {
		r.t.Fatal(err)
	}
	r.addr = r.r.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.r.Run(ctx)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

// host makes a lab host for the receiver, unknown to it yet.
func (r *receiver) host(t *testing.T, change ...func(*config.LabHost)) (l *lab, id *identity.Client, key hosts.Key) {
	t.Helper()
	l = newLab(t, append([]func(*config.LabHost){to(r.addr)}, change...)...)
	cert, k, err := identity.LoadOrMakeHostKey(filepath.Join(l.cfg.DataDir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	if id, err = identity.NewClient(cert, r.cfg.TLS.CACertFile, "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if key, err = hosts.ParseKey(k); err != nil {
		t.Fatal(err)
	}
	return l, id, key
}

func (r *receiver) allow(key hosts.Key) {
	r.t.Helper()
	if err := r.r.Hosts().Allow("lab-01", key, time.Now()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *receiver) stored() (n int) {
	r.t.Helper()
	for _, err := range r.r.Store().List(context.Background(), catalog.Filter{}) {
		if err != nil {
			r.t.Fatal(err)
		}
		n++
	}
	return n
}

// Both sides together: a host that is not known yet, episodes of all sizes, a
// receiver that is restarted in the middle, a window, and a conflict.
func TestWithTheReceiver(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, `window { not_before = "2020-01-01T00:00:00Z" }`)
	l, id, key := r.host(t, func(c *config.LabHost) { c.RunDir = shortDir(t) })
	l.make(200, 300)
	big := l.make(3, 12<<20)
	old := l.make(1, 100, func(r *episode.Run) {
		r.Started.Realtime = time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)
		r.Ended = r.Started
	})[0]
	l.start(Deps{Identity: id, Key: key.String()})
	defer l.stop()
	eventually(t, 10*time.Second, "held by host-unknown", func() bool { return l.ship.State().Path.Code == code.HostUnknown })
	if l.waiting() != 204 {
		t.Errorf("%d wait", l.waiting())
	}
	r.allow(key)
	eventually(t, 10*time.Second, "some stored", func() bool { return l.ship.State().Totals.Shipped > 50 })
	r.stop()
	time.Sleep(100 * time.Millisecond)
	r.start()
	eventually(t, 40*time.Second, "an empty queue", func() bool { return l.waiting() == 0 && len(l.quarantined()) == 1 })
	if n := r.stored(); n != 203 {
		t.Errorf("%d stored", n)
	}
	if q := l.quarantined(); q[0].ID != old || q[0].Reason.Code != code.OutOfWindow || q[0].Reason.WindowID == "" {
		t.Errorf("quarantine: %+v", q[0])
	}
	for _, b := range big {
		if _, found, err := r.r.Store().Verify(t.Context(), b, nil); err != nil || !found {
			t.Errorf("%s: found %v, %v", b, found, err)
		}
	}
	n := 0
	for _, err := range l.queue.Receipts(time.Time{}) {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != 203 {
		t.Errorf("%d receipts in the ledger", n)
	}

	// The window is widened while the receiver runs.
	if err := r.r.Reload(func() (config.Receiver, error) {
		c := r.cfg
		c.Window.NotBefore = nil
		return c, nil
	}); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 10*time.Second, "the old one out by itself", func() bool { return len(l.quarantined()) == 0 && r.stored() == 204 })
	t.Logf("out by itself %s after the window was widened", took)

	// The same id with another content.
	e := episode.Spec{Run: episode.Run{ID: big[0], Host: "lab-01", Workload: "test"}, Files: []episode.File{{Path: "x", Data: []byte("other")}}}
	if _, err := episode.Make(t.Context(), l.cfg.DataDir, e); err != nil {
		t.Fatal(err)
	}
	l.wake <- struct{}{}
	eventually(t, 10*time.Second, "the conflict quarantined", func() bool {
		q := l.quarantined()
		return len(q) == 1 && q[0].Reason.Code == code.Conflict
	})

	testControl(t, l, key.String())
}

// shortDir is a directory whose sockets have short paths (unix(7)).
func shortDir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "ship")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// testControl asks a running shipper in all ways that there are.
func testControl(t *testing.T, l *lab, key string) {
	ctl := NewControl(l.cfg.RunDir)
	var st state.Shipper
	eventually(t, 5*time.Second, "the conflict in the figures", func() (ok bool) {
		var err error
		if st, err = ctl.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		return st.Quarantine.ByCode[code.Conflict] == 1
	})
	if st.Key != key || st.Host != "lab-01" || st.Success == nil || st.Poll.KnownAs != "lab-01" || st.Poll.ClockAgreedAt == nil {
		b, _ := json.MarshalIndent(st, "", "  ")
		t.Errorf("%s", b)
	}
	if _, err := ctl.Push(t.Context()); err != nil {
		t.Error(err)
	}
	seen := 0
	if err := ctl.Watch(t.Context(), func(state.Shipper) bool {
		seen++
		return seen < 3
	}); err != nil || seen != 3 {
		t.Errorf("%d states seen, %v", seen, err)
	}
	eventually(t, 5*time.Second, "state.json up to date", func() bool {
		f, err := state.ReadShipper(l.cfg.RunDir)
		return err == nil && f.Quarantine.Total == 1 && f.Queue.Left() == 0
	})
	w := &responses{header: http.Header{}}
	l.ship.Metrics().ServeHTTP(w, must(http.NewRequest(http.MethodGet, "/metrics", nil)))
	for _, want := range []string{`cis490_shipper_attempts_total{code="stored"} 2`, `cis490_shipper_quarantined{code="conflict"} 1`, `cis490_shipper_path_held 0`, `cis490_shipper_queue_episodes 0`} {
		if !strings.Contains(w.String(), want) {
			t.Errorf("the metrics lack %s:\n%s", want, w.String())
		}
	}
	l.stop()
	if _, err := ctl.Status(t.Context()); err == nil || !strings.Contains(err.Error(), ErrNotRunning.Error()) {
		t.Errorf("after the stop: %v", err)
	}
	if f, err := state.ReadShipper(l.cfg.RunDir); err != nil || !f.Stopping {
		t.Errorf("the state that is left: %+v, %v", f, err)
	}
}

type responses struct {
	strings.Builder
	header http.Header
}

func (r *responses) Header() http.Header { return r.header }
func (r *responses) WriteHeader(int)     {}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// An episode that was stored, but whose receipt got lost with everything else on
// this side, is acknowledged again.
func TestLostReceipts(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, "")
	l, id, key := r.host(t)
	r.allow(key)
	ids := append(l.make(5, 100), l.make(1, 3<<20)...)
	copies := t.TempDir()
	for _, id := range ids {
		if err := os.CopyFS(filepath.Join(copies, id.String()), os.DirFS(l.queue.Dir(id))); err != nil {
			t.Fatal(err)
		}
	}
	l.start(Deps{Identity: id})
	eventually(t, 10*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
	l.stop()
	if err := os.CopyFS(filepath.Join(l.cfg.DataDir, "sealed"), os.DirFS(copies)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(l.cfg.DataDir, "receipts")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(l.cfg.DataDir, "receipts"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.start(Deps{Identity: id})
	defer l.stop()
	eventually(t, 10*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
	var got []episode.ID
	for rec, err := range l.queue.Receipts(time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rec.Episode)
	}
	slices.SortFunc(got, episode.ID.Compare)
	slices.SortFunc(ids, episode.ID.Compare)
	if !slices.Equal(got, ids) {
		t.Errorf("receipts for %v, want %v", got, ids)
	}
	if n := strings.Count(l.log.String(), "code=already-stored"); n != 6 {
		t.Errorf("%d already stored", n)
	}
	if r.stored() != 6 {
		t.Errorf("%d stored", r.stored())
	}
}
