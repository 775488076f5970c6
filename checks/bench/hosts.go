package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/identity"
	"cis490/src/queue"
	"cis490/src/ship"
)

// load is W6 as the process that plays all the hosts is told it.
type load struct {
	Dir            string // the hosts' data directories, one for each
	Hosts, Seconds int
	URL            string
	CA             string // "": tus
}

// latencies is what it answers: the time to each acknowledgement, in seconds.
type latencies []float64

// hosts is W6. The hosts' disks are in memory where there is /dev/shm: a hundred
// hosts have a hundred disks, and the receiver's is what is measured.
func (b *bench) hosts(ctx context.Context) error {
	hosts, seconds := 100, 60
	if b.quick {
		hosts, seconds = 20, 8
	}
	for _, name := range []string{oursName, tusdName} {
		if !b.has(name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "W6: %s\n", name)
		if err := b.load(ctx, name, hosts, seconds); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	b.printHosts(hosts, seconds)
	return nil
}

func (b *bench) load(ctx context.Context, name string, hosts, seconds int) (err error) {
	work, done, err := b.disk.fresh(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	in := "/dev/shm"
	if _, err := os.Stat(in); err != nil || b.disk.dir != "" {
		in = work
	}
	memory, err := os.MkdirTemp(in, "cis490-bench-hosts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(memory)
	job := load{Dir: memory, Hosts: hosts, Seconds: seconds}
	var server *process
	if name == oursName {
		l := lab{bin: b.bin, net: loopback{}, work: work}
		keys := map[string]string{}
		for i := range hosts {
			if _, keys[job.host(i)], err = identity.LoadOrMakeHostKey(filepath.Join(job.data(i), "identity")); err != nil {
				return err
			}
		}
		if err := l.receiveFrom(ctx, keys); err != nil {
			return err
		}
		server, job.URL, job.CA = l.receiver, l.url, l.ca()
	} else {
		t, err := tusd(place{work: work, net: loopback{}})
		if err != nil {
			return err
		}
		if server, err = serve(ctx, loopback{}, t.env, t.address, t.server...); err != nil {
			return err
		}
		job.URL = tusURL(t.address)
	}
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	began := time.Now()
	client, err := launch(ctx, nil, b.self, "tool", "hosts", string(text))
	if err != nil {
		return err
	}
	var r result
	var cerr, serr error
	r.client, cerr = client.wait()
	r.wall = time.Since(began)
	r.server, serr = server.stop()
	var took latencies
	if err := errors.Join(cerr, serr); err != nil {
		return err
	}
	if err := json.Unmarshal(client.out.Bytes(), &took); err != nil {
		return err
	}
	b.records = append(b.records, record{Workload: "W6", Contender: name, Episodes: len(took), Bytes: int64(len(took)) << 20, Wall: r.wall.Seconds(),
		P50: quantile(took, 0.5), P99: quantile(took, 0.99)}.with(r))
	return nil
}

func (l load) host(i int) string { return fmt.Sprintf("lab-%03d", i) }
func (l load) data(i int) string { return filepath.Join(l.Dir, l.host(i)) }

// hostsTool plays the hosts: each seals an episode of 1 MiB a second and ships
// it, ours by the real shipper with its own queue, key and connections.
func hostsTool(ctx context.Context, text string) error {
	var l load
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	pool := telemetryPool()
	ctx, stop := context.WithTimeout(ctx, time.Duration(l.Seconds)*time.Second+time.Minute)
	defer stop()
	var hosts sync.WaitGroup
	took := make([]latencies, l.Hosts)
	failed := make([]error, l.Hosts)
	for i := range l.Hosts {
		hosts.Go(func() {
			if l.CA != "" {
				took[i], failed[i] = l.shipped(ctx, i, pool)
			} else {
				took[i], failed[i] = l.uploaded(ctx, i, pool)
			}
		})
	}
	hosts.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	all := latencies{}
	for _, t := range took {
		all = append(all, t...)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// telemetryPool is what episodes are cut from: making them is not to cost what
// is measured.
func telemetryPool() (pool [][]byte) {
	for f := range 8 {
		pool = append(pool, telemetry(rand.New(rand.NewPCG(6, uint64(f))), f, 8<<20))
	}
	return pool
}

// record has the i-th host seal one episode a second, and hands each to sealed.
func (l load) record(ctx context.Context, i int, pool [][]byte, sealed func(episode.Sealed) error) error {
	next := time.Now().Add(time.Duration(i) * time.Second / time.Duration(l.Hosts))
	r := rand.New(rand.NewPCG(uint64(i), 6))
	for range l.Seconds {
		time.Sleep(time.Until(next))
		next = next.Add(time.Second)
		spec := episode.Spec{Run: episode.Run{Host: l.host(i), Workload: "bench"}}
		for f, from := range pool {
			const size = 128 << 10
			at := r.IntN(len(from)-size) &^ 7
			spec.Files = append(spec.Files, episode.File{Path: partName(f), Data: from[at : at+size]})
		}
		made, err := episode.Make(ctx, l.data(i), spec)
		if err != nil {
			return err
		}
		if err := sealed(made[0]); err != nil {
			return err
		}
	}
	return nil
}

// shipped is the i-th host with our shipper.
func (l load) shipped(ctx context.Context, i int, pool [][]byte) (latencies, error) {
	file := l.data(i) + ".hcl"
	if err := os.WriteFile(file, labHost(l.host(i), l.data(i), l.data(i)+"-run", l.URL, l.CA, ""), 0o644); err != nil {
		return nil, err
	}
	cfg, err := config.LoadLabHost(file)
	if err != nil {
		return nil, err
	}
	q, err := queue.Open(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	if err := q.Lock(); err != nil {
		return nil, err
	}
	cert, key, err := identity.LoadOrMakeHostKey(filepath.Join(cfg.DataDir, "identity"))
	if err != nil {
		return nil, err
	}
	id, err := identity.NewClient(cert, cfg.Receiver.CAFile, cfg.Receiver.Name())
	if err != nil {
		return nil, err
	}
	acks := &acks{at: map[string]time.Time{}, some: make(chan struct{}, 1)}
	s, err := ship.New(cfg, ship.Deps{Queue: q, Identity: id, Key: key, Log: slog.New(acks)})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()
	sealed := map[string]time.Time{}
	err = l.record(ctx, i, pool, func(e episode.Sealed) error {
		sealed[e.ID.String()] = time.Now()
		return nil
	})
	if err == nil {
		err = acks.wait(ctx, len(sealed))
	}
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return nil, fmt.Errorf("%s: %w", l.host(i), err)
	}
	var took latencies
	for id, at := range sealed {
		took = append(took, acks.at[id].Sub(at).Seconds())
	}
	return took, nil
}

// acks is a slog.Handler that notes when the shipper says "shipped".
type acks struct {
	mu   sync.Mutex
	at   map[string]time.Time
	some chan struct{}
}

// Enabled, WithAttrs and WithGroup are slog.Handler's: all is seen, nothing kept.
func (a *acks) Enabled(context.Context, slog.Level) bool { return true }

func (a *acks) WithAttrs([]slog.Attr) slog.Handler { return a }

func (a *acks) WithGroup(string) slog.Handler { return a }

// Handle is slog.Handler's.
func (a *acks) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "shipped" {
		return nil
	}
	r.Attrs(func(attr slog.Attr) bool {
		if attr.Key == "episode" {
			a.mu.Lock()
			a.at[attr.Value.String()] = time.Now()
			a.mu.Unlock()
		}
		return true
	})
	select {
	case a.some <- struct{}{}:
	default:
	}
	return nil
}

func (a *acks) wait(ctx context.Context, n int) error {
	for {
		a.mu.Lock()
		have := len(a.at)
		a.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-a.some:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d acknowledged: %w", have, n, ctx.Err())
		}
	}
}

// uploaded is the i-th host with a tus client.
func (l load) uploaded(ctx context.Context, i int, pool [][]byte) (took latencies, err error) {
	c := newTusClient(l.URL)
	todo := make(chan string, l.Seconds)
	times := make(chan latencies, 1)
	var sending error
	began := sync.Map{}
	go func() {
		var took latencies
		for dir := range todo {
			if sending == nil {
				sending = c.send(ctx, dir)
			}
			at, _ := began.Load(dir)
			took = append(took, time.Since(at.(time.Time)).Seconds())
			sending = errors.Join(sending, os.RemoveAll(dir))
		}
		times <- took
	}()
	err = l.record(ctx, i, pool, func(e episode.Sealed) error {
		began.Store(e.Dir, time.Now())
		todo <- e.Dir
		return nil
	})
	close(todo)
	took = <-times
	return took, errors.Join(err, sending)
}
