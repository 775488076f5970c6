package ship

import (
	"fmt"
	"log/slog"
	"math"
	"net/http"

	vm "github.com/VictoriaMetrics/metrics"

	"cis490/src/code"
	"cis490/src/metrics"
	"cis490/src/state"
)

// figures is what the shipper counts, for Prometheus.
type figures struct {
	set      *vm.Set
	outcomes map[code.Code]*vm.Counter
	polls    map[code.Code]*vm.Counter
	payload  *vm.Counter
	sent     *vm.Counter
	removed  *vm.Counter
	duration *vm.Histogram
}

func newFigures(s *Shipper) *figures {
	set := vm.NewSet()
	f := &figures{set: set, outcomes: map[code.Code]*vm.Counter{}, polls: map[code.Code]*vm.Counter{}}
	for _, i := range code.All() {
		f.outcomes[i.Code] = set.NewCounter(fmt.Sprintf(`cis490_shipper_attempts_total{code=%q}`, i.Code))
		f.polls[i.Code] = set.NewCounter(fmt.Sprintf(`cis490_shipper_failed_polls_total{code=%q}`, i.Code))
		if i.Class == code.OfEpisode {
			set.NewGauge(fmt.Sprintf(`cis490_shipper_quarantined{code=%q}`, i.Code), func() float64 {
				s.facts.mu.Lock()
				defer s.facts.mu.Unlock()
				return float64(s.facts.counts.ByCode[i.Code])
			})
		}
	}
	f.payload = set.NewCounter("cis490_shipper_payload_bytes_total")
	f.sent = set.NewCounter("cis490_shipper_sent_bytes_total")
	f.removed = set.NewCounter("cis490_shipper_quarantine_removed_total")
	f.duration = set.NewHistogram("cis490_shipper_episode_duration_seconds")
	set.NewGauge("cis490_shipper_queue_episodes", func() float64 {
		_, q := s.sched.view()
		return float64(q.waiting + q.inFlight)
	})
	set.NewGauge("cis490_shipper_in_flight", func() float64 {
		_, q := s.sched.view()
		return float64(q.inFlight)
	})
	set.NewGauge("cis490_shipper_path_held", func() float64 {
		if p, _ := s.sched.view(); p.held {
			return 1
		}
		return 0
	})
	set.NewGauge("cis490_shipper_oldest_age_seconds", func() float64 {
		if o := s.State().Queue.Oldest; o != nil {
			return float64(o.AgeSeconds)
		}
		return 0
	})
	set.NewGauge("cis490_shipper_last_success_timestamp_seconds", func() float64 {
		s.facts.mu.Lock()
		defer s.facts.mu.Unlock()
		if s.facts.success.At.IsZero() {
			return 0
		}
		return float64(s.facts.success.At.Unix())
	})
	set.NewGauge("cis490_shipper_clock_skew_seconds", s.facts.skew)
	set.NewGauge("cis490_shipper_damaged_at_receiver", func() float64 {
		s.facts.mu.Lock()
		defer s.facts.mu.Unlock()
		if d := s.facts.poll.Damaged; d != nil {
			return float64(d.Count)
		}
		return 0
	})
	set.NewGauge("cis490_shipper_open_left_over", func() float64 {
		s.facts.mu.Lock()
		defer s.facts.mu.Unlock()
		return float64(s.facts.open.LeftOver)
	})
	set.NewGauge("cis490_shipper_rate_limit_bytes_per_second", func() float64 {
		switch r := s.pace.state(); {
		case r.Off:
			return 0
		case r.BytesPerSecond > 0:
			return float64(r.BytesPerSecond)
		}
		return math.Inf(1)
	})
	return f
}

func (f *figures) stored(c code.Code, a ack) {
	f.outcomes[c].Inc()
	f.payload.AddInt64(a.sent.facts.Size)
	f.sent.AddInt64(a.sent.bytes)
	f.duration.Update(a.took.Seconds())
}

func (f *figures) failed(c code.Code) {
	if n := f.outcomes[c]; n != nil {
		n.Inc()
	}
}

func (f *figures) pollFailed(c code.Code) {
	if n := f.polls[c]; n != nil {
		n.Inc()
	}
}

func (f *figures) cleanedUp(n int) { f.removed.Add(n) }

func (f *figures) totals() state.Totals {
	return state.Totals{Shipped: f.outcomes[code.Stored].Get() + f.outcomes[code.AlreadyStored].Get(),
		PayloadBytes: f.payload.Get(), SentBytes: f.sent.Get()}
}

// Metrics answers with the shipper's figures in the Prometheus text format.
func (s *Shipper) Metrics() http.Handler { return metrics.Handler(s.figures.set) }

// failing logs something that may fail again and again: when it begins to, when
// the reason changes, and when it works again.
type failing struct{ text string }

func (f *failing) report(log *slog.Logger, doing string, err error) {
	if text(err) == f.text {
		return
	}
	f.text = text(err)
	if err != nil {
		log.Warn(doing+" failed; shipping goes on", "err", f.text)
	} else {
		log.Info(doing + " works again")
	}
}
