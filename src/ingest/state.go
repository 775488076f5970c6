package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/journal"
	"cis490/src/metrics"
	"cis490/src/state"
	"cis490/src/store"
	"cis490/src/version"
	"cis490/src/wire"
)

// event is what is known of something that happened to an episode.
type event struct {
	host  string // its key where the name is not known
	id    episode.ID
	now   time.Time
	began time.Time
	bytes int64 // received
}

func (x *exchange) event() event {
	e := event{host: x.host, id: x.id, now: x.now, began: x.now, bytes: x.bytes}
	if e.host == "" {
		e.host = x.key.String()
	}
	return e
}

// noteStored counts and logs that an episode is acknowledged.
func (r *Receiver) noteStored(e event, c code.Code, receipt wire.Receipt) {
	r.counts.code(c)
	r.counts.took.Update(r.now().Sub(e.began).Seconds())
	r.notes.stored(e, c, receipt)
	msg := "stored"
	if c == code.AlreadyStored {
		msg = "already stored"
	}
	journal.Event(context.Background(), r.log, c, msg,
		slog.String("episode", e.id.String()), slog.String("host", e.host), slog.Int("status", c.Info().Status),
		slog.Int64("bytes", receipt.ArchiveSize), slog.Duration("duration", r.now().Sub(e.began)))
}

// noteRefusal counts and logs a refusal.
func (r *Receiver) noteRefusal(e event, c code.Code, detail string, status int) {
	r.counts.code(c)
	r.notes.refused(e, c, detail)
	if cl := c.Class(); cl != code.OfEpisode && cl != code.OfUpload && !r.notes.first(e.now, e.host, c) {
		// The whole queue of a host is behind each of these, and it asks again and again.
		return
	}
	attrs := []slog.Attr{slog.String("host", e.host), slog.Int("status", status), slog.String("detail", detail)}
	if !e.id.IsZero() {
		attrs = append(attrs, slog.String("episode", e.id.String()))
	}
	journal.Event(context.Background(), r.log, c, c.Info().Title, attrs...)
}

// notes is what happened lately, for the state file.
type notes struct {
	mu         sync.Mutex
	lastStored *state.Stored
	lastCode   *state.Happened
	logged     map[string]time.Time // by host and code
	held       map[string]*state.Happened
}

// accepted notes that a host spoke by a key that is known and not refused.
func (n *notes) accepted(host, key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.held) == 0 {
		return
	}
	for _, who := range []string{host, key} {
		if h := n.held[who]; h != nil && (h.Code == code.HostUnknown || h.Code == code.HostRevoked) {
			delete(n.held, who)
		}
	}
}

const (
	heldFor = 2 * time.Minute // without asking again; a host that holds its queue asks more often
	maxHeld = 1000            // remembered
	maxTold = 20              // in the state file
)

// holding lists the hosts that hold their queue for a refusal of theirs, which is
// about the host and not about an episode.
func (n *notes) holding(now time.Time) (first []state.Happened, count int) {
	for host, h := range n.held {
		if now.Sub(h.At) > heldFor {
			delete(n.held, host)
		}
	}
	for _, host := range slices.Sorted(maps.Keys(n.held)) {
		if len(first) == maxTold {
			break
		}
		first = append(first, *n.held[host])
	}
	return first, len(n.held)
}

// hold notes that a host was refused for what it is, or that it no longer is.
func (n *notes) hold(e event, c code.Code, detail string) {
	if c.Class() != code.OfHost {
		delete(n.held, e.host)
		return
	}
	h := &state.Happened{Code: c, Since: e.now.UTC(), At: e.now.UTC(), Host: e.host, Detail: detail}
	if was := n.held[e.host]; was != nil && was.Code == c {
		h.Since = was.Since
	} else if len(n.held) >= maxHeld {
		return
	}
	if n.held == nil {
		n.held = map[string]*state.Happened{}
	}
	n.held[e.host] = h
}

func (n *notes) stored(e event, c code.Code, receipt wire.Receipt) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastStored = &state.Stored{At: e.now.UTC(), Episode: receipt.Episode, Host: e.host}
	n.hold(e, c, "")
	n.happened(e, c, "")
}

func (n *notes) refused(e event, c code.Code, detail string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hold(e, c, detail)
	n.happened(e, c, detail)
}

func (n *notes) happened(e event, c code.Code, detail string) {
	since := e.now.UTC()
	if n.lastCode != nil && n.lastCode.Code == c {
		since = n.lastCode.Since
	}
	n.lastCode = &state.Happened{Code: c, Since: since, At: e.now.UTC(), Host: e.host, Detail: detail}
}

const (
	logAgain  = time.Minute
	maxLogged = 4096
)

// first says whether this is the first time lately that host got c.
func (n *notes) first(now time.Time, host string, c code.Code) bool {
	key := string(c) + " " + host
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, ok := n.logged[key]; ok && now.Sub(at) < logAgain && !now.Before(at) {
		return false
	}
	if n.logged == nil || len(n.logged) >= maxLogged {
		n.logged = map[string]time.Time{}
	}
	n.logged[key] = now
	return true
}

// State is how the receiver is right now.
func (r *Receiver) State() state.Receiver {
	s := state.Receiver{
		Schema: 1,
		Unit:   state.ReceiverUnit, Version: version.String(), PID: os.Getpid(), StartedAt: r.started.UTC(), UpdatedAt: r.now().UTC(),
		Listen: r.listener.Addr().String(), Window: r.settings.Load().window, CertificateNotAfter: r.cert.NotAfter().UTC(),
		Codes: r.counts.codeCounts(), UploadsUnderWay: r.slots.inUse(), ReservedBytes: r.store.Reserved(),
		Workers: r.tracker.States(time.Now()),
	}
	s.PartialUploads, s.PartialBytes = r.partials()
	s.FreeBytes, _ = r.store.Free() // 0 when it can't be told
	_, s.Rebuilding = r.store.Rebuilding()
	var err error
	if s.DamagedEpisodes, s.OldestCheck, err = r.store.Health(context.Background()); err != nil {
		s.CatalogueError = err.Error()
	}
	r.notes.mu.Lock()
	s.LastStored, s.LastCode = r.notes.lastStored, r.notes.lastCode
	s.Held, s.HeldCount = r.notes.holding(r.now())
	r.notes.mu.Unlock()
	return s
}

func (r *Receiver) partials() (count int, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.uploads {
		u.mu.Lock()
		if u.final == nil {
			count++
			bytes += u.size
		}
		u.mu.Unlock()
	}
	return count, bytes
}

func (r *Receiver) statusText() string {
	count, bytes := r.partials()
	counts := r.counts.codeCounts()
	damaged, _, _ := r.store.Health(context.Background())
	s := fmt.Sprintf("%d stored since the start, %d uploads under way, %d partial (%d MiB)", counts[code.Stored], r.slots.inUse(), count, bytes>>20)
	if n, running := r.store.Rebuilding(); running {
		s += fmt.Sprintf(", rebuilding the catalogue (%d episodes so far)", n)
	}
	if damaged > 0 {
		s += fmt.Sprintf(", %d stored episodes are damaged: cis490-receiver scrub", damaged)
	}
	return s
}

// writeState replaces the state file. It is in run_dir, which does not outlive
// the machine, so nothing is flushed.
func (r *Receiver) writeState() error {
	if err := state.Write(state.ReceiverPath(r.settings.Load().cfg.RunDir), r.State()); err != nil {
		return fmt.Errorf("write the state file: %w", err)
	}
	return nil
}

// counters are the receiver's metrics.
type counters struct {
	set      *vm.Set
	codes    map[code.Code]*vm.Counter
	received *vm.Counter
	cuts     *vm.Counter
	findings map[store.Kind]*vm.Counter
	took     *vm.Histogram
}

func newCounters(r *Receiver) *counters {
	c := &counters{set: vm.NewSet(), codes: map[code.Code]*vm.Counter{}}
	for _, i := range code.All() {
		if i.Status != 0 {
			c.codes[i.Code] = c.set.NewCounter(fmt.Sprintf(`cis490_receiver_answers_total{code=%q}`, i.Code))
		}
	}
	c.received = c.set.NewCounter("cis490_receiver_body_bytes_total")
	c.took = c.set.NewHistogram("cis490_receiver_acknowledge_seconds") // from the completing request to the receipt
	c.cuts = c.set.NewCounter("cis490_receiver_bodies_cut_total")
	c.set.NewGauge("cis490_receiver_uploads_under_way", func() float64 { return float64(r.slots.inUse()) })
	c.set.NewGauge("cis490_receiver_partial_uploads", func() float64 { n, _ := r.partials(); return float64(n) })
	c.set.NewGauge("cis490_receiver_partial_bytes", func() float64 { _, b := r.partials(); return float64(b) })
	c.set.NewGauge("cis490_receiver_reserved_bytes", func() float64 { return float64(r.store.Reserved()) })
	c.set.NewGauge("cis490_receiver_free_bytes", func() float64 {
		b, _ := r.store.Free() // 0 when it can't be told
		return float64(b)
	})
	c.findings = map[store.Kind]*vm.Counter{}
	for _, k := range []store.Kind{store.FoundDamaged, store.FoundUnlisted, store.FoundStray, store.FoundUnread, store.FoundMended} {
		c.findings[k] = c.set.NewCounter(fmt.Sprintf(`cis490_receiver_store_findings_total{kind=%q}`, k))
	}
	c.set.NewGauge("cis490_receiver_scrubbed_episodes_total", func() float64 { n, _ := r.store.Scrubbed(); return float64(n) })
	c.set.NewGauge("cis490_receiver_scrubbed_bytes_total", func() float64 { _, n := r.store.Scrubbed(); return float64(n) })
	c.set.NewGauge("cis490_receiver_damaged_episodes", func() float64 {
		n, _, _ := r.store.Health(context.Background()) // none while the catalogue can't be asked
		return float64(n)
	})
	c.set.NewGauge("cis490_receiver_oldest_check_seconds", func() float64 {
		_, at, _ := r.store.Health(context.Background())
		if at.IsZero() {
			return 0
		}
		return float64(at.Unix())
	})
	fleetGauges(c.set, r)
	c.set.NewGauge("cis490_receiver_certificate_not_after_seconds", func() float64 { return float64(r.cert.NotAfter().Unix()) })
	return c
}

func (c *counters) found(k store.Kind) {
	if n := c.findings[k]; n != nil {
		n.Inc()
	}
}

func (c *counters) code(k code.Code) {
	if n := c.codes[k]; n != nil {
		n.Inc()
	}
}

func (c *counters) codeCounts() map[code.Code]int64 {
	m := map[code.Code]int64{}
	for k, n := range c.codes {
		if v := n.Get(); v > 0 {
			m[k] = int64(v)
		}
	}
	return m
}

// metricsHandler serves /metrics and /healthz on the metrics listener.
func (r *Receiver) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics.Handler(r.counts.set))
	mux.HandleFunc(wire.PathHealth, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}
