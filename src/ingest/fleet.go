package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/health"
	"cis490/src/hosts"
	"cis490/src/wire"
)

// A fleet is what the receiver knows of how its hosts are: when each last spoke,
// and its last report. It is kept in memory and written down at most once a
// minute: a crash costs a minute of it, and each host says it anew before long.
type fleet struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	hosts   map[string]hosts.Seen
	changed bool      // since it was written
	written time.Time // or tried to be
}

const (
	fleetFile    = "reports.json" // below state_dir
	fleetSchema  = 1
	writeEvery   = time.Minute
	seenGrain    = 10 * time.Minute // what is written of when a host spoke may be so old
	reportTime   = 30 * time.Second // for which the body of a report may take
	silentAfter  = 3                // intervals of a host's reports
	leastSilence = 15 * time.Minute
)

type fleetOnDisk struct {
	Schema int                   `json:"schema"`
	Hosts  map[string]hosts.Seen `json:"hosts"`
}

// openFleet reads what a former process wrote down. One that can't be read is no
// reason not to serve: it is replaced.
func openFleet(stateDir string, log *slog.Logger) *fleet {
	f := &fleet{path: filepath.Join(stateDir, fleetFile), log: log, hosts: map[string]hosts.Seen{}}
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f
	}
	var file fleetOnDisk
	if err == nil {
		err = json.Unmarshal(b, &file)
	}
	if err == nil && file.Schema != fleetSchema {
		err = fmt.Errorf("it has schema %d, this version reads %d", file.Schema, fleetSchema)
	}
	if err != nil {
		log.Warn("what the hosts reported before can't be read; they report anew", "file", f.path, "error", err)
		return f
	}
	for name, s := range file.Hosts {
		if !episode.ValidHost(name) {
			continue
		}
		if s.Report != nil {
			s.Report.Clean()
		}
		f.hosts[name] = s
	}
	return f
}

// spoke notes that a host was heard of.
func (f *fleet) spoke(host string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.hosts[host]
	f.changed = f.changed || now.Sub(s.SeenAt) > seenGrain
	s.SeenAt = now.UTC()
	f.hosts[host] = s
}

// report notes what a host says of itself.
func (f *fleet) report(host string, r wire.Report, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts[host] = hosts.Seen{SeenAt: now.UTC(), ReportedAt: now.UTC(), Report: &r}
	f.changed = true
}

// seen is what is known of a host.
func (f *fleet) seen(host string, now time.Time) hosts.Seen {
	f.mu.Lock()
	s := f.hosts[host]
	f.mu.Unlock()
	s.Verdict = verdict(s, now)
	return s
}

// verdict is a host's own word, unless it is silent for so long that it has lost its worth.
func verdict(s hosts.Seen, now time.Time) health.Status {
	if s.Report == nil {
		return health.Unknown
	}
	if now.Sub(s.SeenAt) > max(silentAfter*time.Duration(s.Report.Interval)*time.Second, leastSilence) {
		return hosts.Silent
	}
	return s.Report.Verdict
}

// due says whether there is something to write down now, or, at the end, at all.
func (f *fleet) due(now time.Time, end bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := now.Sub(f.written)
	return f.changed && (end || d >= writeEvery || d < 0)
}

// write writes down what is known of those hosts that are still known.
func (f *fleet) write(known []hosts.Host, now time.Time) error {
	names := make(map[string]bool, len(known))
	for _, h := range known {
		names[h.Name] = true
	}
	f.mu.Lock()
	f.written, f.changed = now, false
	file := fleetOnDisk{Schema: fleetSchema, Hosts: make(map[string]hosts.Seen, len(f.hosts))}
	for name, s := range f.hosts {
		if !names[name] {
			delete(f.hosts, name)
			continue
		}
		file.Hosts[name] = s
	}
	f.mu.Unlock()
	b, err := json.Marshal(file)
	if err == nil {
		err = durable.WriteFile(f.path, append(b, '\n'), 0o600)
	}
	if err != nil {
		f.mu.Lock()
		f.changed = true
		f.mu.Unlock()
		return fmt.Errorf("write down what the hosts report: %w", err)
	}
	return nil
}

// keepFleet writes the fleet down when that is due, beside the pass: see tidy.
func (r *Receiver) keepFleet(now time.Time) {
	if !r.fleet.due(now, false) || !r.keeping.CompareAndSwap(false, true) {
		return
	}
	w := r.tracker.Worker("write down reports")
	w.Within(r.onDiskWithin)
	r.work.Add(1)
	go func() {
		defer r.work.Done()
		defer r.keeping.Store(false)
		defer w.Done()
		if err := r.fleet.write(r.hosts.List(), now); err != nil {
			r.log.Warn("reports are kept in memory alone", "error", err)
		}
	}()
}

// report takes a host's word of how it is. Nothing else depends on it.
func (x *exchange) report() error {
	if x.req.ContentLength > wire.MaxReport {
		return &plainError{status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("a report has at most %d bytes", wire.MaxReport)}
	}
	_ = x.rc.SetReadDeadline(time.Now().Add(reportTime))
	x.bodyRead = true
	rep, err := wire.ReadReport(x.req.Body)
	_ = x.rc.SetReadDeadline(time.Time{})
	if err != nil {
		return &plainError{status: http.StatusBadRequest, detail: "the body is no report: " + err.Error()}
	}
	x.r.fleet.report(x.host, rep, x.now)
	x.w.Header().Set("Cache-Control", "no-store")
	return x.answer(http.StatusNoContent, nil)
}

// census counts hosts that may speak.
type census struct {
	verdicts map[health.Status]int
	within   map[time.Duration]int // heard of within so long
	longest  time.Duration         // since one of those that ever spoke was heard of
}

// seenWithin are the spans that are counted.
var seenWithin = []struct {
	span time.Duration
	name string
}{{10 * time.Minute, "10m"}, {time.Hour, "1h"}, {24 * time.Hour, "1d"}, {7 * 24 * time.Hour, "7d"}}

func (f *fleet) count(known []hosts.Host, now time.Time) census {
	c := census{verdicts: map[health.Status]int{}, within: map[time.Duration]int{}}
	last := ""
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range known { // by name: a host with several keys is one
		if h.Revoked || h.Name == last {
			continue
		}
		last = h.Name
		s := f.hosts[h.Name]
		c.verdicts[verdict(s, now)]++
		if s.SeenAt.IsZero() {
			continue
		}
		age := max(now.Sub(s.SeenAt), 0)
		c.longest = max(c.longest, age)
		for _, w := range seenWithin {
			if age <= w.span {
				c.within[w.span]++
			}
		}
	}
	return c
}

// fleetGauges are the figures of the fleet: few, however many hosts there are.
func fleetGauges(set *vm.Set, r *Receiver) {
	count := func() census { return r.fleet.count(r.hosts.List(), r.now()) }
	for _, v := range []health.Status{health.Green, health.Yellow, health.Red, health.Unknown, hosts.Silent} {
		set.NewGauge(fmt.Sprintf(`cis490_receiver_hosts{verdict=%q}`, v), func() float64 { return float64(count().verdicts[v]) })
	}
	for _, w := range seenWithin {
		set.NewGauge(fmt.Sprintf(`cis490_receiver_hosts_seen{within=%q}`, w.name), func() float64 { return float64(count().within[w.span]) })
	}
	set.NewGauge("cis490_receiver_longest_silence_seconds", func() float64 { return count().longest.Seconds() })
}
