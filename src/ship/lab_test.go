package ship

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/journal"
	"cis490/src/queue"
)

// lab is a lab host under test.
type lab struct {
	t     *testing.T
	cfg   config.LabHost
	queue *queue.Queue
	log   *record
	wake  chan struct{}
	ship  *Shipper
	stop  func()
}

// record keeps the log.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func newLab(t *testing.T, change ...func(*config.LabHost)) *lab {
	t.Helper()
	l := &lab{t: t, log: &record{}, wake: make(chan struct{}, 1)}
	u, err := url.Parse("https://receiver.test:8490")
	if err != nil {
		t.Fatal(err)
	}
	l.cfg = config.LabHost{
		Host: "lab-01", DataDir: filepath.Join(t.TempDir(), "data"),
		Receiver: config.ReceiverAddress{URL: u},
		Shipper: config.Shipper{
			ScanInterval: 5 * time.Second, UploadWorkers: 8, PackWorkers: 2, Compression: "fastest",
			ConnectTimeout: 10 * time.Second, StallTimeout: 30 * time.Second, ResponseTimeout: time.Minute,
			BackoffMin: time.Second, BackoffMax: 15 * time.Second, PollInterval: time.Minute, StopTimeout: 10 * time.Second,
			QuarantineKeepDays: 30, QuarantineCleanupInterval: time.Hour,
		},
	}
	for _, c := range change {
		c(&l.cfg)
	}
	log := journal.New(l.log, journal.Options{Level: slog.LevelDebug})
	if l.queue, err = queue.Open(l.cfg.DataDir, queue.WithLog(log)); err != nil {
		t.Fatal(err)
	}
	return l
}

// make makes n sealed episodes of about size bytes each.
func (l *lab) make(n, size int, run ...func(*episode.Run)) []episode.ID {
	l.t.Helper()
	var ids []episode.ID
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range n {
		data := make([]byte, size)
		rnd.Read(data)
		spec := episode.Spec{Run: episode.Run{Host: l.cfg.Host, Workload: "test"},
			Files: []episode.File{{Path: "output/data.bin", Data: data}, {Path: "stdout.log", Data: fmt.Appendf(nil, "run %d\n", i)}}}
		for _, f := range run {
			f(&spec.Run)
		}
		made, err := episode.Make(l.t.Context(), l.cfg.DataDir, spec)
		if err != nil {
			l.t.Fatal(err)
		}
		ids = append(ids, made[0].ID)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return ids
}

// start runs a shipper over transport until stop, or the end of the test.
func (l *lab) start(d Deps) {
	l.t.Helper()
	if err := l.queue.Lock(); err != nil {
		l.t.Fatal(err)
	}
	d.Queue, d.Wake = l.queue, l.wake
	if d.Log == nil {
		d.Log = journal.New(l.log, journal.Options{})
	}
	s, err := New(l.cfg, d)
	if err != nil {
		l.t.Fatal(err)
	}
	l.ship = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	l.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := l.queue.Close(); err != nil {
			l.t.Error(err)
		}
	})
}

func (l *lab) waiting() int {
	l.t.Helper()
	e, err := os.ReadDir(filepath.Join(l.cfg.DataDir, "sealed"))
	if err != nil {
		l.t.Fatal(err)
	}
	return len(e)
}

func (l *lab) quarantined() []queue.Quarantined {
	l.t.Helper()
	q, err := l.queue.List()
	if err != nil {
		l.t.Fatal(err)
	}
	return q
}

// eventually waits in the time of the test, simulated or not.
func eventually(t *testing.T, d time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > d {
			t.Fatalf("not within %s: %s", d, what)
		}
		time.Sleep(max(20*time.Millisecond, d/1000))
	}
	return time.Since(began)
}

// status answers every request with a bare status.
func status(n int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(n)
		return true
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
