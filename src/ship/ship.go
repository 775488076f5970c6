// Package ship brings sealed episodes from a lab host to the receiver.
//
// What it promises: an episode that waits in the queue is sent until the
// receiver has acknowledged this very content, whatever happens to the disk, the
// network, the receiver, the clock or the process, and is freed against nothing
// but that receipt. What is at fault with one episode never holds up another;
// what is at fault with the path to the receiver never condemns an episode, and
// costs one probe at a time however many wait. Memory is bounded by the number
// of workers and one id for each episode that waits.
package ship

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/identity"
	"cis490/src/journal"
	"cis490/src/liveness"
	"cis490/src/metrics"
	"cis490/src/pack"
	"cis490/src/queue"
	"cis490/src/state"
)

// Deps is what a Shipper is given. Only Queue, and Identity or Transport, are
// needed.
type Deps struct {
	Queue     *queue.Queue       // opened, and locked by the caller
	Identity  *identity.Client   // who this host is, and whom it trusts; nil for http
	Key       string             // this host's key, for people
	Transport http.RoundTripper  // instead of the one made from Identity
	Notifier  *liveness.Notifier // nil: no service manager listens
	Tracker   *liveness.Tracker  // of this process; nil: one of its own
	Log       *slog.Logger       // nil: none
	Wake      <-chan struct{}    // something was put into the queue; nil: the queue's own watch
}

// Shipper ships one queue.
type Shipper struct {
	cfg      config.LabHost
	queue    *queue.Queue
	packer   *pack.Packer
	client   *client
	sched    *scheduler
	pace     *pace
	notifier *liveness.Notifier
	tracker  *liveness.Tracker
	log      *slog.Logger
	figures  *figures
	key      string
	begun    time.Time
	step     time.Duration // within which a busy worker reports

	wake      <-chan struct{}
	kicked    chan struct{} // scan now
	pollNow   chan struct{}
	cleanNow  chan struct{}
	changed   chan struct{} // the state has something new to show
	uploaders []*uploader
	acks      chan ack
	workers   sync.WaitGroup // uploaders and those who acknowledge
	others    sync.WaitGroup

	parkAt   atomic.Int64 // UnixNano of when a stop parks what is under way; 0: no stop
	windowID atomic.Pointer[string]
	passes   passes
	facts    facts
	writing  failing
}

// ack is a receipt on its way into the ledger.
type ack struct {
	f    *flight
	sent sent
	took time.Duration
}

// passes counts scan passes, for those who wait for one.
type passes struct {
	mu     sync.Mutex
	begun  int
	ended  int
	took   time.Duration
	over   time.Time
	notice chan struct{} // closed at the end of a pass
}

// New makes a Shipper; nothing runs before Run.
func New(cfg config.LabHost, deps Deps) (*Shipper, error) {
	level, err := pack.ParseLevel(cfg.Shipper.Compression)
	if err != nil {
		return nil, err
	}
	s := &Shipper{
		cfg: cfg, queue: deps.Queue, notifier: deps.Notifier, log: deps.Log, wake: deps.Wake, key: deps.Key,
		tracker: deps.Tracker,
		packer:  pack.NewPacker(pack.Options{Workers: cfg.Shipper.PackWorkers, Level: level}),
		sched:   newScheduler(backoff{cfg.Shipper.BackoffMin, cfg.Shipper.BackoffMax}),
		kicked:  make(chan struct{}, 1), pollNow: make(chan struct{}, 1), cleanNow: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		acks:  make(chan ack),
		pace:  newPace(cfg.Shipper.RateLimit),
		begun: time.Now(),
		// Longer than anything that a dead peer can cost: see the meter.
		step: max(2*cfg.Shipper.ConnectTimeout, cfg.Shipper.StallTimeout, cfg.Shipper.ResponseTimeout) + 30*time.Second,
	}
	if s.tracker == nil {
		s.tracker = liveness.NewTracker()
	}
	if s.log == nil {
		s.log = journal.Discard()
	}
	s.log = s.log.With("host", cfg.Host)
	s.passes.notice = make(chan struct{})
	transport := deps.Transport
	if transport == nil {
		transport = newTransport(cfg, deps.Identity, s.pace)
	}
	s.client = newClient(cfg, transport, deps.Identity, s.sawWindow)
	s.figures = newFigures(s)
	for i := range min(cfg.Shipper.UploadWorkers, queue.MaxSlots) {
		s.uploaders = append(s.uploaders, newUploader(s, i))
	}
	s.sched.setWidth(s.pace.width(len(s.uploaders)))
	return s, nil
}

// ErrReload, as the cause of the end of Run's context, says that another Shipper
// goes on with the same queue at once: uploads are parked at the end of the frame
// under way, and the service manager is not told of a stop.
var ErrReload = errors.New("the configuration is taken anew")

// ErrStuck is Run's error when, after ErrReload, something that hangs on a disk did
// not come back: it may still be at work on the queue, so only a new process may
// go on.
var ErrStuck = errors.New("a worker hangs and did not come back")

// Run ships until ctx ends. Then it finishes what ends within stop_timeout,
// parks the rest and returns; nothing that it started runs on. But see
// [ErrReload].
func (s *Shipper) Run(ctx context.Context) error {
	hard, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	wake := s.wake
	if wake == nil {
		w, err := s.queue.Watch(ctx)
		if err != nil {
			s.log.Warn("new episodes are noticed within a second, not at once", "err", err.Error())
		}
		wake = w
	}
	s.isolateSuspects(ctx)
	for _, u := range s.uploaders {
		s.workers.Go(func() { u.run(hard) })
		s.workers.Go(func() { s.acknowledge(hard, u.acker) })
	}
	s.others.Go(func() { s.pollForever(ctx) })
	s.others.Go(func() { s.cleanForever(ctx) })
	s.others.Go(func() { s.showForever(ctx) })
	s.others.Go(func() { s.paceForever(ctx) })
	if s.cfg.RunDir != "" {
		s.others.Go(func() { s.control(ctx) })
	}
	if addr := s.cfg.Shipper.MetricsListen; addr != "" {
		s.others.Go(func() { metrics.Serve(ctx, addr, s.Metrics(), s.log) })
	}
	throttled := make(chan struct{}, 1)
	s.others.Go(func() { s.throttle(ctx, wake, throttled) })

	if err := s.notifier.Ready(); err != nil {
		s.log.Warn("tell the service manager", "err", err.Error())
	}
	s.log.Info("shipping", "receiver", s.client.base.String(), "data_dir", s.queue.Root(), "upload_workers", len(s.uploaders))
	beat := &liveness.Beat{Notifier: s.notifier, Tracker: s.tracker, Log: s.log}
	_ = liveness.RunForever(ctx, liveness.RunOptions{Interval: s.cfg.Shipper.ScanInterval, Wake: throttled, Log: s.log}, s.pass, beat.Beat)
	reload := errors.Is(context.Cause(ctx), ErrReload)
	whole := s.stop(kill, reload)
	rest := make(chan struct{})
	go func() {
		s.others.Wait()
		close(rest)
	}()
	select {
	case <-rest:
		s.writeState(s.State())
	case <-time.After(parkFor):
		s.log.Error("stopped; the clean-up did not come back")
		whole = false
	}
	if t, ok := s.client.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
	if reload && !whole {
		return ErrStuck
	}
	return nil
}

// isolateSuspects puts what the process died on too often at the end of the
// queue.
func (s *Shipper) isolateSuspects(ctx context.Context) {
	ids, _, err := s.queue.Scan(ctx)
	if err != nil {
		return // the first pass says so
	}
	for _, id := range ids {
		if n := s.queue.Deaths(id); n >= queue.DeathsToIsolate {
			s.sched.isolate(id)
			s.event(code.AttemptDied, "episode is tried alone, at the end of the queue", slog.String("episode", id.String()), slog.Int("deaths", n))
		}
	}
}

// throttle passes wakes on, no more often than lets scanning take a tenth of
// the time: a long list of what waits is not listed anew for each arrival.
func (s *Shipper) throttle(ctx context.Context, wake <-chan struct{}, out chan<- struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-wake:
			if !ok {
				wake = nil
				continue
			}
			s.passes.mu.Lock()
			rest := time.Until(s.passes.over.Add(9 * s.passes.took))
			s.passes.mu.Unlock()
			if rest > 0 {
				select {
				case <-ctx.Done():
					return
				case <-s.kicked:
				case <-time.After(min(rest, s.cfg.Shipper.ScanInterval)):
				}
			}
		case <-s.kicked:
		}
		poke(out)
	}
}

// poke puts a value into a channel of capacity one, if there is none.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pass is one scan pass.
func (s *Shipper) pass(ctx context.Context) error {
	began := time.Now()
	s.passes.mu.Lock()
	s.passes.begun++
	s.passes.mu.Unlock()
	poke(s.cleanNow)
	s.sched.scanBegins()
	ids, strays, err := s.queue.Scan(ctx)
	if err == nil {
		s.sched.found(ids)
		for _, x := range strays {
			s.setAsideStray(x)
		}
	}
	s.lookAtDisk()
	s.lookAtOpen()
	s.countQuarantine()
	s.reportOpen()
	s.facts.scan(err)
	poke(s.changed)

	p := &s.passes
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = p.begun
	p.over, p.took = time.Now(), time.Since(began)
	close(p.notice)
	p.notice = make(chan struct{})
	return err
}

// setAsideStray quarantines what lies in sealed/ without being an episode.
func (s *Shipper) setAsideStray(x queue.Stray) {
	err := s.queue.Quarantine(x.Name, queue.Reason{Code: code.Damaged, Detail: x.Why})
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if s.facts.stray(x.Name, err) {
		if err != nil {
			s.log.Error("set aside what is no episode", "name", x.Name, "why", x.Why, "err", err.Error())
			return
		}
		s.event(code.Damaged, "quarantined: no episode", slog.String("name", x.Name), slog.String("detail", x.Why))
	}
}

// lookAtDisk notices when the free space falls below min_free.
func (s *Shipper) lookAtDisk() {
	var st unix.Statfs_t
	if err := unix.Statfs(s.queue.Root(), &st); err != nil {
		return
	}
	free := int64(st.Bavail) * st.Bsize
	if changed, low := s.facts.disk(free, int64(s.cfg.MinFree)); changed {
		if low {
			s.event(code.DiskFull, "free space is below min_free; shipping goes on, new experiments do not start",
				slog.Int64("free_bytes", free), slog.Int64("min_free_bytes", int64(s.cfg.MinFree)))
		} else {
			s.log.Info("free space is above min_free again", "free_bytes", free)
		}
	}
}

const (
	// leftOverAfter is how old what a sealing left must be to be reported: until then somebody may be at it.
	leftOverAfter = 24 * time.Hour
	openEvery     = time.Minute // between two looks
)

// lookAtOpen counts the sealings that were cut off, and says so once when there are more. Only the user's cis490-episode touches them: it
// knows how to finish one, and may read its source.
func (s *Shipper) lookAtOpen() {
	now := time.Now()
	if !s.facts.openIsDue(now) {
		return
	}
	left, err := episode.FindLeftOvers(s.queue.Root(), now.Add(-leftOverAfter))
	o := state.Open{LeftOver: left.Count, Oldest: timeOrNil(left.Oldest)}
	if err != nil {
		o.Error = err.Error()
	}
	if s.facts.leftOpen(o) {
		s.log.Warn("sealings were cut off more than a day ago and left in open/", "count", o.LeftOver, "oldest", left.Oldest, "fix", o.Fix())
	}
}

// countQuarantine refreshes the figures of the quarantine. Days that take long
// are counted beside the pass, see recount.
func (s *Shipper) countQuarantine() {
	if c, whole, err := s.queue.QuickCounts(); err == nil {
		s.facts.quarantine(c, !whole)
	}
}

// Push asks for a scan and a try now, whatever the back-off, and waits for the
// scan.
func (s *Shipper) Push(ctx context.Context) error {
	p := &s.passes
	p.mu.Lock()
	after := p.begun + 1
	p.mu.Unlock()
	s.sched.kick()
	poke(s.kicked)
	poke(s.pollNow)
	for {
		p.mu.Lock()
		ended, notice := p.ended, p.notice
		p.mu.Unlock()
		if ended >= after {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-notice:
		}
	}
}

// acknowledge records receipts and frees the sources. It is not the uploader's
// work, so that the next episode is under way while this one's receipt is
// flushed.
func (s *Shipper) acknowledge(ctx context.Context, w *liveness.Worker) {
	defer w.Done()
	for a := range s.acks {
		w.Doing("record a receipt")
		w.Within(s.step)
		err := s.queue.Acknowledge(ctx, a.sent.receipt)
		w.Idle()
		if err != nil {
			s.ackFailed(a, err)
			continue
		}
		c := code.Stored
		if a.sent.status == code.AlreadyStored.Info().Status {
			c = code.AlreadyStored
		}
		s.figures.stored(c, a)
		s.facts.shipped(a.f.id, c)
		s.event(c, "shipped", slog.String("episode", a.f.id.String()), slog.Int64("bytes", a.sent.facts.Size), slog.Duration("duration", a.took))
		s.path(s.sched.left(a.f, true))
		poke(s.changed)
	}
}

// ackFailed deals with a receipt that could not be recorded: the source stays,
// and the episode is sent, and answered by the same receipt, again.
func (s *Shipper) ackFailed(a ack, err error) {
	if errors.Is(err, queue.ErrOtherDigest) {
		s.postpone(a.f, &failure{why: code.Wrap(code.DigestMismatch, err, "")})
		return
	}
	s.failed(a.f, &failure{why: onDisk(err, "record the receipt of "+a.f.id.String())})
}

// onDisk finds the code for an error of this host's file system.
func onDisk(err error, doing string) *code.Error {
	var e *code.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return code.Wrap(code.DiskFull, err, "%s", doing)
	}
	return code.Wrap(code.ReadFailed, err, "%s", doing)
}

// failed reports a failure of the path.
func (s *Shipper) failed(f *flight, fail *failure) {
	s.figures.failed(fail.code())
	s.facts.failed(fail)
	switch fail.code() {
	case code.Stalled, code.TimedOut, code.Unreachable, code.TLSUntrusted, code.TLSExpired, code.TLSWrongName:
		// What is idle may lead into the same hole, or to a server that is no more.
		if t, ok := s.client.transport.(interface{ CloseIdleConnections() }); ok {
			t.CloseIdleConnections()
		}
	}
	s.path(s.sched.failed(f, fail.why))
}

// postpone reports trouble of one episode that is not the receiver's verdict
// over it.
func (s *Shipper) postpone(f *flight, fail *failure) {
	s.figures.failed(fail.code())
	s.facts.failed(fail)
	s.event(fail.code(), "episode goes to the end of the queue: "+fail.code().Info().Title, slog.String("episode", f.id.String()),
		slog.String("detail", detail(fail.why)), slog.Int("attempt", f.attempt), slog.String("fix", fail.code().Info().Fix))
	s.path(s.sched.postpone(f, fail.why, fail.answered))
}

// path logs a change of the state of the path.
func (s *Shipper) path(c pathChange) {
	if c == pathSame {
		return
	}
	p, q := s.sched.view()
	poke(s.changed)
	switch c {
	case pathOpen:
		poke(s.pollNow) // what the receiver said while it was held is old
	case pathHeld, pathCode:
		if p.err == nil {
			return
		}
		i := p.err.Code.Info()
		if !s.facts.newTrouble(p) {
			return
		}
		s.event(p.err.Code, "queue held: "+i.Title, slog.String("receiver", s.client.base.String()), slog.String("detail", detail(p.err)),
			slog.Int("queued", q.waiting+q.inFlight), slog.String("fix", i.Fix))
	}
}

// reportOpen says that the queue moves again, once it has for a moment: a path
// that opens only to break again is the same trouble still.
func (s *Shipper) reportOpen() {
	p, _ := s.sched.view()
	if p.held || time.Since(p.opened) < openFor {
		return
	}
	if was, ok := s.facts.troubleOver(); ok {
		s.log.Info("queue moves again", "held", p.opened.Sub(was.since).Round(time.Second), "probes", p.probes, "was", string(was.code))
	}
}

// openFor is how long the path must stay open to be reported so.
const openFor = time.Second

func (s *Shipper) event(c code.Code, msg string, attrs ...slog.Attr) {
	journal.Event(context.Background(), s.log, c, msg, attrs...)
}

// detail is an error's text without its code.
func detail(e *code.Error) string {
	switch {
	case e.Err == nil:
		return e.Detail
	case e.Detail == "":
		return e.Err.Error()
	}
	return e.Detail + ": " + e.Err.Error()
}

// stop ends the workers: what will end within stop_timeout, or none of it for a
// reload, is finished, the rest is parked, and what does not even park is cut. It
// says whether all came back.
func (s *Shipper) stop(kill func(), reload bool) (whole bool) {
	patience := s.cfg.Shipper.StopTimeout
	if reload {
		patience = 0
	} else {
		_ = s.notifier.Stopping() // who does not listen need not know
	}
	s.parkAt.Store(time.Now().Add(patience).UnixNano())
	s.sched.close()
	idle := make(chan struct{})
	go func() {
		var up sync.WaitGroup
		for _, u := range s.uploaders {
			up.Go(func() { <-u.done })
		}
		up.Wait()
		close(s.acks)
		s.workers.Wait()
		close(idle)
	}()
	// A little more than it takes to park: a frame on a slow link.
	cut := time.NewTimer(patience + parkFor)
	defer cut.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-idle:
			if !reload {
				s.log.Info("stopped")
			}
			return true
		case <-tick.C:
			_, q := s.sched.view()
			if !reload {
				_ = s.notifier.ExtendTimeout(5 * time.Second)
			}
			_ = s.notifier.Status(fmt.Sprintf("stopping, %d under way", q.inFlight))
			poke(s.changed)
		case <-cut.C:
			kill()
			select {
			case <-idle:
				return true
			case <-time.After(parkFor):
				// A worker hangs on a disk; the process ends all the same.
				s.log.Error("stopped; a worker did not come back", "late", fmt.Sprint(s.tracker.Late(time.Now().Add(s.step))))
				return false
			}
		}
	}
}

// parkFor is how long parking may take beyond stop_timeout.
const parkFor = 5 * time.Second

// isOfEpisode says whether a verdict condemns the episode.
func isOfEpisode(c code.Code) bool {
	switch c {
	case code.Malformed, code.OutOfWindow, code.Conflict, code.TooLarge, code.Damaged:
		return true
	}
	return false
}
