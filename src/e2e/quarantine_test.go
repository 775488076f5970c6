package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/ingest"
)

// make seals episodes from memory, for what the tool refuses to make: episodes of the past, of other hosts, of a given id.
func (h *host) make(specs ...episode.Spec) []string {
	h.t.Helper()
	for i := range specs {
		s := &specs[i]
		if s.Run.Host == "" {
			s.Run.Host = h.name
		}
		if s.Run.Workload == "" {
			s.Run.Workload = "test"
		}
		if s.Files == nil {
			s.Files = []episode.File{{Path: "output/result.txt", Data: []byte("42\n")}}
		}
	}
	sealed, err := episode.Make(context.Background(), h.data, specs...)
	if err != nil {
		h.t.Fatal(err)
	}
	ids := make([]string, len(sealed))
	for i, s := range sealed {
		ids[i] = s.ID.String()
	}
	return ids
}

// ran is a spec of an episode that ran at a time.
func ran(at time.Time) episode.Spec {
	return episode.Spec{Run: episode.Run{Started: episode.Moment{Realtime: at}, Ended: episode.Moment{Realtime: at.Add(time.Minute)}}}
}

func year(y int) time.Time { return time.Date(y, 7, 1, 12, 0, 0, 0, time.UTC) }

func TestARefusedEpisodeIsSetAsideWithReasonAndFixAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, `limits.episode_files = 20`, `window.not_before = "2025-01-01T00:00:00Z"`)
	h := newHost(t, "lab-01", "https://"+r.addr, r.ca())
	r.allow(h)
	r.start()

	// The one that the later one conflicts with.
	first := h.make(episode.Spec{})[0]
	h.start()
	eventually(t, 20*time.Second, h.drained)
	h.stop(time.Minute)
	archive := sum(t, r.archives(first)[0])
	firstID, err := episode.ParseID(first)
	if err != nil {
		t.Fatal(err)
	}

	var many []episode.File
	for i := range 30 {
		many = append(many, episode.File{Path: fmt.Sprintf("output/%d", i), Data: []byte("x")})
	}
	bad := map[code.Code]string{
		code.OutOfWindow: h.make(ran(year(2020)))[0],
		code.Malformed:   h.make(episode.Spec{Run: episode.Run{Host: "somebody-else"}})[0],
		code.TooLarge:    h.make(episode.Spec{Files: many})[0],
		code.Conflict: h.make(episode.Spec{Run: episode.Run{ID: firstID},
			Files: []episode.File{{Path: "output/result.txt", Data: []byte("43\n")}}})[0],
	}
	good := h.make(make([]episode.Spec, 10)...)
	h.start()
	eventually(t, 20*time.Second, h.drained)

	eventually(t, 10*time.Second, func() string { return h.setAside(len(bad)) })
	got := h.quarantined()
	list := h.cli("quarantine", "list")
	for c, id := range bad {
		q, ok := got[id]
		if !ok {
			t.Errorf("%s: %s is not in quarantine", c, id)
			continue
		}
		i := c.Info()
		if q.Code != c || q.Status != i.Status || q.Fix != i.Fix || q.Detail == "" || q.Attempts < 1 ||
			!strings.Contains(q.Receiver, r.addr) || time.Since(q.At).Abs() > time.Minute {
			t.Errorf("%s: reason.json has %+v", c, q)
		}
		if !strings.Contains(list, id) || !strings.Contains(list, string(c)) {
			t.Errorf("quarantine list does not show %s with %s:\n%s", id, c, list)
		}
		if show := h.cli("quarantine", "show", id); !strings.Contains(show, q.Detail) || !strings.Contains(flat(show), flat(i.Fix)) {
			t.Errorf("quarantine show %s gives no detail or no fix:\n%s", id, show)
		}
		found, err := filepath.Glob(filepath.Join(h.data, "quarantine", "*", id, "bag"))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		t.Logf("%s %d: %s", c, q.Status, q.Detail)
	}
	for _, id := range good {
		if len(r.archives(id)) != 1 {
			t.Errorf("%s, which nothing is wrong with, was not stored", id)
		}
	}
	if now := sum(t, r.archives(first)[0]); now != archive {
		t.Errorf("the stored episode changed when another came under its id: %s, was %s", now, archive)
	}
}

// flat takes the line breaks of a terminal away.
func flat(s string) string { return strings.Join(strings.Fields(s), " ") }

func sum(t *testing.T, file string) string {
	t.Helper()
	s := sha256.Sum256([]byte(readFile(t, file)))
	return hex.EncodeToString(s[:])
}

func TestAWidenedWindowLetsOutTheQuarantinedThatFitByThemselves(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, `window.not_before = "2025-01-01T00:00:00Z"`)
	h := newHost(t, "lab-01", "https://"+r.addr, r.ca())
	r.allow(h)
	r.start()
	ids := h.make(ran(year(2010)), ran(year(2020)), ran(year(2023)), ran(year(2025)))
	h.start()
	eventually(t, 20*time.Second, func() string {
		if why := h.setAside(3); why != "" {
			return why
		}
		return h.drained()
	})
	// The same window again, after a restart of the host, is no reason to ask again.
	h.stop(time.Minute)
	h.start()
	always(t, time.Second, func() string { return h.setAside(3) })

	r.conf.with(`window.not_before = "2015-01-01T00:00:00Z"`)
	r.conf.write(t, r.config)
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	widened := time.Now()
	eventually(t, 20*time.Second, func() string {
		for _, id := range ids[1:] {
			if len(r.archives(id)) != 1 {
				return id + " has not arrived"
			}
		}
		return h.drained()
	})
	t.Logf("out by themselves %s after the window was widened", time.Since(widened).Round(time.Millisecond))
	if got := h.quarantined(); len(got) != 1 || got[ids[0]].Code != code.OutOfWindow {
		t.Errorf("the one that does not fit must stay: %v", got)
	}
}

// skewed is a receiver in this process whose clock can be set wrong.
func skewed(t *testing.T, r *receiver, by *atomic.Int64) (stop func()) {
	t.Helper()
	cfg, err := config.LoadReceiver(r.config)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := ingest.New(cfg, ingest.Deps{Now: func() time.Time { return time.Now().Add(time.Duration(by.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rec.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestAClockAnHourWrongHoldsTheQueueAndCondemnsNothing(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t)
			p := newProxy(t, r.addr)
			h := newHost(t, "lab-01", p.url(), r.ca())
			r.allow(h)
			var by atomic.Int64
			by.Store(int64(off))
			defer skewed(t, r, &by)()

			ids := h.make(make([]episode.Spec, 20)...)
			h.start()
			eventually(t, 10*time.Second, func() string { return h.held(code.ClockSkew) })
			always(t, 2*time.Second, func() string {
				if n := len(h.sealed()); n != len(ids) {
					return fmt.Sprintf("%d wait, want %d", n, len(ids))
				}
				return h.nothingQuarantined()
			})
			if s, _, _ := try(t, program("cis490-shipper"), "status", "--config", h.config); !strings.Contains(flat(s), flat(code.ClockSkew.Info().Fix)) {
				t.Errorf("status does not give the fix:\n%s", s)
			}
			by.Store(0)
			set := time.Now()
			eventually(t, 10*time.Second, h.drained)
			t.Logf("drained %s after the clock was set", time.Since(set).Round(time.Millisecond))
			if n := len(r.stored()); n != len(ids) {
				t.Errorf("%d stored, want %d", n, len(ids))
			}
		})
	}
}
