// Package ingest is the receiver: it lets episodes in over HTTPS, verifies them
// while they arrive, and stores them.
//
// The upload follows draft-ietf-httpbis-resumable-upload, interop version 8
// (text of 2026-07). What the package promises:
//
//   - an episode is acknowledged only when every digest in it was checked against
//     what was decoded, and the store has it on the disk;
//   - an offset is told only when the bytes below it are on the disk;
//   - a refusal is decided on the header alone wherever it can be, before any
//     byte of the body;
//   - whatever a host sends, the receiver's memory stays bounded, other hosts
//     are served, and the answer is one of the codes of package code;
//   - a body that is slow, stalled or endless holds places of its own host only;
//   - a partial upload survives the death of the receiver up to its last whole
//     zstd frame, and the end of any request that ended properly.
//
// There is no state outside a [Receiver]: several may run in one process.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"cis490/src/config"
	"cis490/src/durable"
	"cis490/src/hosts"
	"cis490/src/identity"
	"cis490/src/journal"
	"cis490/src/liveness"
	"cis490/src/metrics"
	"cis490/src/state"
	"cis490/src/store"
	"cis490/src/version"
)

// Deps is what a Receiver uses of its surroundings. The zero value is usable.
type Deps struct {
	Log      *slog.Logger       // nil: nothing is logged
	Notifier *liveness.Notifier // nil: nobody is told
	Listener net.Listener       // nil: config.Receiver.Listen
	Now      func() time.Time   // nil: time.Now

	tune func(*Receiver) // for tests: what is otherwise a constant
}

// Receiver is a running receiver. Make one with [New].
type Receiver struct {
	log      *slog.Logger
	notifier *liveness.Notifier
	tracker  *liveness.Tracker
	now      func() time.Time
	started  time.Time

	settings atomic.Pointer[settings]
	store    *store.Store
	hosts    *hosts.Registry
	fleet    *fleet
	cert     *identity.Server

	listener net.Listener // without TLS
	operator net.Listener
	slots    slots
	audits   slots
	shares   shares
	bodies   *budget             // bytes of short bodies in memory
	frames   *budget             // frames of uploads under way
	decoders *semaphore.Weighted // bytes of frames that are decoded
	checks   *semaphore.Weighted // verifications under way
	streams  lanes               // uploads that are verified as a stream
	counts   *counters
	notes    notes

	passing sync.Mutex // one pass at a time
	tidying atomic.Bool
	keeping atomic.Bool // the fleet is written down

	mu      sync.Mutex
	uploads map[string]*upload // by token

	progressEvery time.Duration // between interim answers
	slowBody      time.Duration // after which a short body is kept in a file
	onDiskWithin  time.Duration // the watchdog's deadline for one step of an upload on the disk
	verifying     atomic.Int64  // verifications that have a place in checks

	stopping chan struct{}  // closed when bodies are to end
	work     sync.WaitGroup // verifications, commits and flushes under way
	base     context.Context
	cancel   context.CancelFunc
	wake     chan struct{}
}

const (
	passInterval = 5 * time.Second
	// stopGrace is for how long bodies may go on after a stop was asked for.
	stopGrace = 5 * time.Second
	// stopTimeout bounds the whole stop.
	stopTimeout = 5 * time.Minute
)

// New opens the store, takes up the partial uploads that a former process left,
// and listens. Nobody is served before [Receiver.Run]. A configuration that
// can't work is a *config.Error or names the command that mends it.
func New(cfg config.Receiver, d Deps) (_ *Receiver, err error) {
	r := &Receiver{
		log: d.Log, notifier: d.Notifier, tracker: liveness.NewTracker(), now: d.Now,
		uploads: map[string]*upload{}, stopping: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	if r.log == nil {
		r.log = journal.Discard()
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.progressEvery, r.slowBody, r.onDiskWithin = progressEvery, slowBody, flushWithin
	r.shares = newShares(int64(cfg.Limits.Memory), cfg.Limits.Uploads)
	if d.tune != nil {
		d.tune(r)
	}
	r.bodies, r.frames = newBudget(r.shares.bodies), newBudget(r.shares.frames)
	r.decoders = semaphore.NewWeighted(r.shares.decode)
	r.checks = semaphore.NewWeighted(int64(r.shares.checks))
	r.streams = lanes{all: semaphore.NewWeighted(r.shares.streams), hosts: map[string]*lane{}}
	r.started = r.now()
	r.base, r.cancel = context.WithCancel(context.Background())
	r.slots.hosts, r.audits.hosts = map[string]int{}, map[string]int{}
	r.settings.Store(newSettings(cfg))
	defer func() {
		if err != nil {
			r.close()
		}
	}()

	if r.cert, err = serverIdentity(cfg); err != nil {
		return nil, err
	}
	r.cert.Log = r.log
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if err := durable.MkdirAll(dir, 0o750); err != nil {
			return nil, err
		}
	}
	if r.hosts, err = hosts.Open(filepath.Join(cfg.StateDir, hostsFile), cfg.Hosts); err != nil {
		return nil, err
	}
	r.fleet = openFleet(cfg.StateDir, r.log)
	if r.store, err = openStore(cfg, r); err != nil {
		return nil, err
	}
	if err := r.recoverUploads(); err != nil {
		return nil, err
	}
	r.counts = newCounters(r)
	if r.listener = d.Listener; r.listener == nil {
		if r.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			return nil, fmt.Errorf("listen = %q of receiver.hcl: %w", cfg.Listen, err)
		}
	}
	if r.operator, err = listenOperator(cfg); err != nil {
		return nil, err
	}
	return r, nil
}

// hostsFile is the registry's file below state_dir.
const hostsFile = "hosts.json"

func openStore(cfg config.Receiver, r *Receiver) (*store.Store, error) {
	o := store.Options{
		Log: r.log, ReceiverVersion: version.String(), MinFree: int64(cfg.Limits.MinFree), Now: r.now,
		Within:   commitWithin,
		Worker:   func(name string) store.Worker { return r.tracker.Worker(name) },
		Progress: func(int64) { _ = r.notifier.ExtendTimeout(time.Minute) },
		Found:    r.noteFound,
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(100 * time.Millisecond) {
		s, err := store.Open(cfg.StateDir, o)
		if !errors.Is(err, durable.ErrLocked) || time.Now().After(end) {
			return s, err
		}
		if c, derr := net.Dial("unix", state.OperatorPath(cfg.RunDir)); derr == nil {
			c.Close()
			return nil, err // another receiver runs
		}
		// An operator's command has it for a moment.
	}
}

const lockPatience = 10 * time.Second

// commitWithin is the watchdog's deadline for one step of a commit. The flush of
// a big archive is such a step; most of it is on the disk already by then.
const commitWithin = 2 * time.Minute

// ErrNoCA says that the receiver has no certificate yet, and what to run.
var ErrNoCA = errors.New("the receiver has no CA yet; make one once with: cis490-receiver ca init")

func serverIdentity(cfg config.Receiver) (*identity.Server, error) {
	if cfg.TLS.CertFile != "" {
		return identity.NewServerFiles(cfg.TLS.CertFile, cfg.TLS.KeyFile)
	}
	for _, f := range []string{cfg.TLS.CACertFile, cfg.TLS.CAKeyFile} {
		if _, err := os.Stat(f); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s does not exist: %w%s", f, ErrNoCA, configFlag(cfg.File))
		}
	}
	ca, err := identity.LoadCA(cfg.TLS.CACertFile, cfg.TLS.CAKeyFile)
	if err != nil {
		return nil, err
	}
	return identity.NewServer(ca, cfg.TLS.Names)
}

func configFlag(file string) string {
	if file == "" {
		return ""
	}
	return " --config " + file
}

// Addr is the address that hosts connect to.
func (r *Receiver) Addr() net.Addr { return r.listener.Addr() }

// Hosts is the registry of hosts.
func (r *Receiver) Hosts() *hosts.Registry { return r.hosts }

// Store is the store.
func (r *Receiver) Store() *store.Store { return r.store }

// Seen is what is known of how a host is.
func (r *Receiver) Seen(host string) hosts.Seen { return r.fleet.seen(host, r.now()) }

// Run serves until ctx ends, and then lets bodies end, or cuts them at a frame's
// end, finishes the commits under way, and closes the store. It is called once.
func (r *Receiver) Run(ctx context.Context) error {
	defer r.close()
	cfg := r.settings.Load().cfg
	conns := newConns(r.listener, r.cert.Config(), cfg.Limits.Connections, r.hosts.Lookup, r.log)
	srv := &http.Server{
		ConnState:         conns.state,
		ConnContext:       withConn,
		Handler:           r,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    cfg.Limits.HeaderBytes,
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug), // handshakes of strangers, mostly
		Protocols:         new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	op := &http.Server{Handler: OperatorHandler(r), ReadHeaderTimeout: headerTimeout, ErrorLog: srv.ErrorLog}

	failed := make(chan error, 2)
	serve := func(s *http.Server, l net.Listener, what string) {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("%s: %w", what, err)
		}
	}
	go serve(srv, conns, "serve "+r.listener.Addr().String())
	go serve(op, r.operator, "serve the operator socket")
	side, stopSide := context.WithCancel(context.WithoutCancel(ctx))
	var scrubbing sync.WaitGroup
	scrubbing.Go(func() { r.store.KeepScrubbing(side, r.scrubPlan) })
	defer scrubbing.Wait()
	defer stopSide()
	go metrics.Serve(side, cfg.MetricsListen, r.metricsHandler(), r.log)

	if err := r.notifier.Ready(); err != nil {
		r.log.Warn("could not tell systemd that the receiver is ready", "error", err)
	}
	r.log.Info("receiver ready", "listen", r.listener.Addr().String(), "window", r.settings.Load().window.ID, "version", version.String())

	loop, stopLoop := context.WithCancelCause(ctx)
	defer stopLoop(nil)
	go func() {
		select {
		case err := <-failed:
			stopLoop(err)
		case <-loop.Done():
		}
	}()
	beat := &liveness.Beat{Notifier: r.notifier, Tracker: r.tracker, Log: r.log}
	err := liveness.RunForever(loop, liveness.RunOptions{Interval: passInterval, Wake: r.wake, Log: r.log}, r.pass, beat.Beat)
	if ctx.Err() != nil {
		err = nil // a stop that was asked for
	}
	return errors.Join(err, r.stop(srv, op))
}

// stop ends the service; see [Receiver.Run].
func (r *Receiver) stop(srv, op *http.Server) error {
	_ = r.notifier.Stopping()
	close(r.stopping)
	deadline, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	grace := time.AfterFunc(stopGrace, r.interruptAll)
	defer grace.Stop()
	done := make(chan error, 1)
	go func() {
		err := srv.Shutdown(deadline)
		r.stopChecks()
		r.work.Wait()
		if r.fleet.due(r.now(), true) {
			err = errors.Join(err, r.fleet.write(r.hosts.List(), r.now()))
		}
		_ = op.Close() // an operator's request may be long, and loses nothing
		done <- err
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			_ = r.notifier.ExtendTimeout(30 * time.Second)
			_ = r.notifier.Status(fmt.Sprintf("stopping: %d uploads under way", r.slots.inUse()))
		case <-deadline.Done():
			return fmt.Errorf("stop: uploads were still under way after %s", stopTimeout)
		}
	}
}

func (r *Receiver) close() {
	r.cancel()
	if r.listener != nil {
		r.listener.Close()
	}
	if r.operator != nil {
		r.operator.Close()
	}
	r.mu.Lock()
	all := make([]*upload, 0, len(r.uploads))
	for _, u := range r.uploads {
		all = append(all, u)
	}
	r.mu.Unlock()
	for _, u := range all {
		u.park()
	}
	if r.store != nil {
		if err := r.store.Close(); err != nil {
			r.log.Error("close the store", "error", err)
		}
	}
}

// Reload reads the configuration anew with load and takes over its window, hosts,
// limits, max_skew, upload_max_age and certificate. With an error everything stays as it was.
func (r *Receiver) Reload(load func() (config.Receiver, error)) error {
	_ = r.notifier.Reloading()
	defer func() { _ = r.notifier.Ready() }()
	next, err := load()
	if err == nil {
		err = r.apply(next)
	}
	if err != nil {
		r.log.Error("reload refused, the old configuration stays", "error", err)
		return err
	}
	return nil
}

func (r *Receiver) apply(next config.Receiver) error {
	old := r.settings.Load().cfg
	// Anew even where nothing in the configuration changed: the files may have.
	cert, err := serverIdentity(next)
	if err != nil {
		return err
	}
	if err := r.hosts.Declare(next.Hosts); err != nil {
		return err
	}
	// What can't change while it is in use stays as it is.
	for _, c := range []struct{ name, old, new string }{
		{"state_dir", old.StateDir, next.StateDir},
		{"run_dir", old.RunDir, next.RunDir},
		{"listen", old.Listen, next.Listen},
		{"metrics_listen", old.MetricsListen, next.MetricsListen},
		{"operator_group", old.OperatorGroup, next.OperatorGroup},
		{"limits.min_free", fmt.Sprint(old.Limits.MinFree), fmt.Sprint(next.Limits.MinFree)},
		{"limits.header_bytes", fmt.Sprint(old.Limits.HeaderBytes), fmt.Sprint(next.Limits.HeaderBytes)},
		{"limits.memory", fmt.Sprint(old.Limits.Memory), fmt.Sprint(next.Limits.Memory)},
		{"limits.connections", fmt.Sprint(old.Limits.Connections), fmt.Sprint(next.Limits.Connections)},
	} {
		if c.old != c.new {
			r.log.Warn("this takes a restart to change: systemctl restart cis490-receiver", "setting", c.name)
		}
	}
	next.StateDir, next.RunDir, next.Listen, next.MetricsListen = old.StateDir, old.RunDir, old.Listen, old.MetricsListen
	next.OperatorGroup = old.OperatorGroup
	next.Limits.MinFree, next.Limits.HeaderBytes = old.Limits.MinFree, old.Limits.HeaderBytes
	r.cert.Replace(cert)
	next.Limits.Memory, next.Limits.Connections = old.Limits.Memory, old.Limits.Connections
	s := newSettings(next)
	r.settings.Store(s)
	r.log.Info("configuration reloaded", "window", s.window.ID, "hosts", len(next.Hosts))
	return nil
}
