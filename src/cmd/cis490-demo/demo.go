package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/identity"
	"cis490/src/ingest"
	"cis490/src/journal"
	"cis490/src/queue"
	"cis490/src/ship"
)

type options struct {
	keep   bool
	dir    string
	tree   string
	bigMiB int64
	out    io.Writer
}

const hostName = "demo-host"

// run is the demo from the first line to the table. Its error is what went
// wrong, including any episode that did not arrive equal.
func run(ctx context.Context, o options) (err error) {
	dir, err := workDir(o.dir)
	if err != nil {
		return err
	}
	if !o.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if o.tree == "" {
		o.tree = bigTree()
	}
	lab, err := start(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.stop()) }()
	fmt.Fprintf(o.out, "A lab host and a receiver on this machine, in %s\n  receiver  %s  TLS 1.3 by its own CA, log in receiver.log\n  lab host  %s  key %s\n\n",
		dir, lab.cfg.Receiver.URL, hostName, lab.key)

	if free := freeBytes(dir); free < 4*o.bigMiB<<20+1<<30 {
		o.bigMiB = max(1, (free-1<<30)/(4<<20))
		fmt.Fprintf(o.out, "Only %s free here: the big file will have %d MiB.\n", bytesText(free), o.bigMiB)
	}
	began := time.Now()
	d := &demo{lab: lab, dir: dir, o: o}
	view := newView(ctx, d, o.out)
	err = errors.Join(d.sealAll(ctx), d.settle(ctx))
	took := time.Since(began)
	view.close()
	if err != nil {
		return err
	}
	failed, err := d.report(ctx, took)
	if err != nil {
		return err
	}
	if o.keep {
		d.tryNext()
		<-ctx.Done()
	}
	return failed
}

func workDir(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "cis490-demo-")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return "", fmt.Errorf("--dir %s is not empty", dir)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func freeBytes(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}

// laboratory is a receiver and a shipper that run in this process, each with
// the configuration file, sockets and log that it has as a service.
type laboratory struct {
	cfg     config.LabHost
	rcfg    config.Receiver
	key     string
	queue   *queue.Queue
	shipper *ship.Shipper
	logs    []*os.File

	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	err    error
}

func start(dir string) (_ *laboratory, err error) {
	l := &laboratory{}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	defer func() {
		if err != nil {
			err = errors.Join(err, l.stop())
		}
	}()

	state, data := filepath.Join(dir, "receiver"), filepath.Join(dir, "lab-host")
	if _, _, err = identity.InitCA(filepath.Join(state, "ca", "ca.crt"), filepath.Join(state, "ca", "ca.key")); err != nil {
		return nil, err
	}
	cert, key, err := identity.LoadOrMakeHostKey(filepath.Join(data, "identity"))
	if err != nil {
		return nil, err
	}
	l.key = key
	receiverFile := filepath.Join(dir, "receiver.hcl")
	if err = os.WriteFile(receiverFile, fmt.Appendf(nil, receiverHCL, state, dir+"/run/receiver", hostName, key), 0o644); err != nil {
		return nil, err
	}
	if l.rcfg, err = config.LoadReceiver(receiverFile); err != nil {
		return nil, err
	}
	log, err := l.log(dir, "receiver.log")
	if err != nil {
		return nil, err
	}
	receiver, err := ingest.New(l.rcfg, ingest.Deps{Log: log})
	if err != nil {
		return nil, err
	}
	l.goRun("receiver", func() error { return receiver.Run(ctx) })

	labFile := filepath.Join(dir, "lab-host.hcl")
	if err = os.WriteFile(labFile, fmt.Appendf(nil, labHostHCL, hostName, data, dir+"/run", receiver.Addr(), filepath.Join(state, "ca", "ca.crt")), 0o644); err != nil {
		return nil, err
	}
	if l.cfg, err = config.LoadLabHost(labFile); err != nil {
		return nil, err
	}
	client, err := identity.NewClient(cert, l.cfg.Receiver.CAFile, l.cfg.Receiver.Name())
	if err != nil {
		return nil, err
	}
	if log, err = l.log(dir, "shipper.log"); err != nil {
		return nil, err
	}
	if l.queue, err = queue.Open(data, queue.WithLog(log)); err != nil {
		return nil, err
	}
	if err = l.queue.Lock(); err != nil {
		return nil, err
	}
	if l.shipper, err = ship.New(l.cfg, ship.Deps{Queue: l.queue, Identity: client, Key: key, Log: log}); err != nil {
		return nil, err
	}
	l.goRun("shipper", func() error { return l.shipper.Run(ctx) })
	return l, nil
}

const receiverHCL = `state_dir = %q
run_dir   = %q
listen    = "127.0.0.1:0"

tls {
  names = ["127.0.0.1", "localhost"]
}
window {
  max_age = "365d" # what ended before is refused as out-of-window
}
limits {
  min_free = "100MiB"
}
host %q {
  key = %q
}
`

const labHostHCL = `host     = %q
data_dir = %q
run_dir  = %q

receiver {
  url     = "https://%s"
  ca_file = %q
}
`

func (l *laboratory) log(dir, name string) (*slog.Logger, error) {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	l.logs = append(l.logs, f)
	return journal.New(f, journal.Options{}), nil
}

func (l *laboratory) goRun(name string, f func() error) {
	l.wg.Go(func() {
		if err := f(); err != nil {
			l.mu.Lock()
			l.err = errors.Join(l.err, fmt.Errorf("%s: %w", name, err))
			l.mu.Unlock()
		}
	})
}

// failed is why a daemon ended before it was told to, if one did.
func (l *laboratory) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *laboratory) stop() error {
	l.cancel()
	l.wg.Wait()
	err := l.failed()
	if l.queue != nil {
		err = errors.Join(err, l.queue.Close())
	}
	for _, f := range l.logs {
		err = errors.Join(err, f.Close())
	}
	return err
}

// item is one episode of the demo.
type item struct {
	what   string
	source string    // the tree that was sealed
	expect code.Code // stored, or why it should be refused
	sealed episode.Sealed

	state  string // sealing, waiting, stored, or the code of its quarantine
	detail string
	fix    string
	took   time.Duration // from sealed to acknowledged or refused
	since  time.Time
}

// demo is what is sent and how far it is.
type demo struct {
	lab *laboratory
	dir string
	o   options

	mu    sync.Mutex
	items []*item
	all   bool // every source is sealed
}

// sealAll makes and seals the sources, the small ones first, so that something
// arrives at once.
func (d *demo) sealAll(ctx context.Context) error {
	sources := filepath.Join(d.dir, "sources")
	n := 0
	if err := growLog(ctx, sources, 5, 300*time.Millisecond, func(dir string) error {
		n++
		return d.seal(ctx, fmt.Sprintf("growing log, snapshot %d", n), dir, code.Stored, episode.SealOptions{})
	}); err != nil {
		return err
	}
	last := filepath.Join(sources, "log-5")
	old := time.Now().AddDate(-3, 0, 0)
	if err := d.seal(ctx, "a run of three years ago", last, code.OutOfWindow, episode.SealOptions{Started: old, Ended: old.Add(time.Hour)}); err != nil {
		return err
	}
	if err := d.seal(ctx, "a run that names another host", last, code.Malformed, episode.SealOptions{Host: "another-host"}); err != nil {
		return err
	}
	if err := d.seal(ctx, d.o.tree, d.o.tree, code.Stored, episode.SealOptions{}); err != nil {
		return err
	}
	big := filepath.Join(sources, "big")
	if err := bigFile(ctx, filepath.Join(big, "samples.bin"), d.o.bigMiB<<20); err != nil {
		return err
	}
	if err := d.seal(ctx, fmt.Sprintf("one file of %d MiB", d.o.bigMiB), big, code.Stored, episode.SealOptions{}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = true
	return nil
}

func (d *demo) seal(ctx context.Context, what, source string, expect code.Code, opt episode.SealOptions) error {
	it := &item{what: what, source: source, expect: expect, state: "sealing"}
	d.mu.Lock()
	d.items = append(d.items, it)
	d.mu.Unlock()
	if opt.Host == "" {
		opt.Host = hostName
	}
	opt.Workload, opt.AllowChanged = "demo", true
	sealed, err := episode.SealDir(ctx, source, d.lab.cfg.DataDir, opt)
	if err != nil {
		return fmt.Errorf("sealing %s: %w", source, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	it.sealed, it.state, it.since = sealed, "waiting", time.Now()
	return nil
}

// settle waits until every episode is acknowledged or in quarantine.
func (d *demo) settle(ctx context.Context) error {
	for {
		left, err := d.look()
		if err != nil {
			return err
		}
		d.mu.Lock()
		done := d.all && left == 0
		d.mu.Unlock()
		if done {
			return nil
		}
		if err := d.lab.failed(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// look brings the states up to date from the ledger and the quarantine, and
// says how many episodes are neither acknowledged nor refused.
func (d *demo) look() (left int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range d.items {
		if it.state == "sealing" {
			left++
			continue
		}
		if it.state != "waiting" {
			continue
		}
		_, acknowledged, err := d.lab.queue.LedgerHas(it.sealed.ID)
		if err != nil {
			return 0, err
		}
		q, err := d.lab.queue.Show(it.sealed.ID.String())
		switch {
		case acknowledged:
			it.state, it.took = string(code.Stored), time.Since(it.since)
		case err == nil && q.Err == nil:
			it.state, it.detail, it.fix, it.took = string(q.Reason.Code), q.Reason.Detail, q.Reason.Fix, time.Since(it.since)
		case err != nil && !errors.Is(err, queue.ErrNotQuarantined):
			return 0, err
		default:
			left++
		}
	}
	return left, nil
}
