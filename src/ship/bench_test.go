package ship

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/identity"
	"cis490/src/journal"
	"cis490/src/queue"
)

// BenchmarkSmallEpisodes ships b.N episodes of 8 files and 64 KiB to a receiver in
// this process: mutual TLS, verified, durable, and freed here.
func BenchmarkSmallEpisodes(b *testing.B) {
	r := newReceiver(b, "")
	data := filepath.Join(b.TempDir(), "data")
	var specs []episode.Spec
	for i := range b.N {
		specs = append(specs, telemetry(i))
		if len(specs) == 500 || i == b.N-1 {
			if _, err := episode.Make(b.Context(), data, specs...); err != nil {
				b.Fatal(err)
			}
			specs = nil
		}
	}
	l := &lab{}
	to(r.addr)(&l.cfg)
	cert, k, err := identity.LoadOrMakeHostKey(filepath.Join(data, "identity"))
	if err != nil {
		b.Fatal(err)
	}
	id, err := identity.NewClient(cert, r.cfg.TLS.CACertFile, "127.0.0.1")
	if err != nil {
		b.Fatal(err)
	}
	key, err := hosts.ParseKey(k)
	if err != nil {
		b.Fatal(err)
	}
	r.t = b
	r.allow(key)
	cfg := l.cfg
	cfg.Host, cfg.DataDir = "lab-01", data
	s := &cfg.Shipper
	s.UploadWorkers, s.PackWorkers, s.Compression = 8, 2, "auto"
	s.ScanInterval, s.PollInterval, s.StallTimeout, s.ResponseTimeout, s.ConnectTimeout = 5*time.Second, time.Minute, 30*time.Second, time.Minute, 10*time.Second
	s.StopTimeout = time.Second
	cfg.Shipper = config.Shipper(*s)
	q, err := queue.Open(data)
	if err != nil {
		b.Fatal(err)
	}
	if err := q.Lock(); err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	wake := make(chan struct{})
	sh, err := New(cfg, Deps{Queue: q, Identity: id, Wake: wake, Log: journal.New(discard{}, journal.Options{Level: slog.LevelInfo})})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	b.ResetTimer()
	go func() {
		defer close(done)
		sh.Run(ctx)
	}()
	for sh.State().Totals.Shipped < uint64(b.N) {
		time.Sleep(5 * time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "episodes/s")
	cancel()
	<-done
	r.stop()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// telemetry is an episode like those of an experiment: lines of counters, some
// binary; some 64 KiB that compress 3:1.
func telemetry(i int) episode.Spec {
	rnd := rand.New(rand.NewPCG(uint64(i), 1))
	spec := episode.Spec{Run: episode.Run{Host: "lab-01", Workload: "bench"}}
	for f := range 6 {
		var b []byte
		t := rnd.IntN(1e9)
		for len(b) < 8<<10 {
			t += 1000 + rnd.IntN(50)
			b = fmt.Appendf(b, `{"t_us":%d,"cpu_usage_us":%d,"memory_current_bytes":%d,"state":"running"}`+"\n", t, t/3+rnd.IntN(100), 1<<20+rnd.IntN(1<<16)<<12)
		}
		spec.Files = append(spec.Files, episode.File{Path: fmt.Sprintf("output/counters-%d.jsonl", f), Data: b})
	}
	bin := make([]byte, 13<<10)
	for j := range bin {
		bin[j] = byte(rnd.Uint32())
	}
	spec.Files = append(spec.Files, episode.File{Path: "output/samples.bin", Data: bin})
	return spec
}
