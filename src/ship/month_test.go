package ship

import (
	"context"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/queue"
	"cis490/src/wire"
)

const month = 30 * 24 * time.Hour

// slow makes a simulated month cheap: fewer passes and polls, all else as by
// default.
func slow(c *config.LabHost) {
	c.Shipper.ScanInterval, c.Shipper.PollInterval, c.Shipper.BackoffMax = 20*time.Minute, 20*time.Minute, 20*time.Minute
}

// A path that is broken for a month condemns nothing, is tried by one probe at a
// time at the capped back-off, and the queue is empty within seconds of its
// healing.
func TestAMonthOfABrokenPath(t *testing.T) {
	refuse := func(err error) func(context.Context) error { return func(context.Context) error { return err } }
	answer := func(f func(http.ResponseWriter, *http.Request) bool) func(*standin, *direct) {
		return func(s *standin, _ *direct) { s.setFault(f) }
	}
	problem := func(c code.Code, retry time.Duration) func(*standin, *direct) {
		return answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet { // the receiver still says who we are, where it can
				if c.Class() != code.OfHost {
					return false
				}
			}
			p := wire.NewProblem(c, "told so", time.Now())
			p.RetryAfter = retry
			wire.WriteProblem(w, r, p)
			return true
		})
	}
	dial := func(err error) func(*standin, *direct) {
		f := refuse(err)
		return func(_ *standin, d *direct) { d.dial.Store(&f) }
	}
	hole := func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for _, c := range []struct {
		name string
		code code.Code
		on   func(*standin, *direct)
		each time.Duration // what one probe costs beside the back-off
	}{
		{"403 host-unknown", code.HostUnknown, problem(code.HostUnknown, 0), 0},
		{"403 host-revoked", code.HostRevoked, problem(code.HostRevoked, 0), 0},
		{"bare 404", code.Unmarked4xx, answer(status(404)), 0},
		{"bare 403", code.Unmarked4xx, answer(status(403)), 0},
		{"bare 413", code.Unmarked4xx, answer(status(413)), 0},
		{"bare 400", code.Unmarked4xx, answer(status(400)), 0},
		{"bare 200", code.ReceiverError, answer(status(200)), 0},
		{"redirect", code.ReceiverError, answer(status(302)), 0},
		{"502", code.ReceiverError, answer(status(502)), 0},
		{"507", code.ReceiverFull, problem(code.ReceiverFull, 0), 0},
		{"503 with Retry-After", code.ReceiverBusy, problem(code.ReceiverBusy, 10*time.Second), 0},
		{"429", code.ReceiverBusy, answer(status(429)), 0},
		{"refused", code.Unreachable, dial(&net.OpError{Op: "dial", Net: "tcp", Err: unix.ECONNREFUSED}), 0},
		{"no route", code.Unreachable, dial(&net.OpError{Op: "dial", Net: "tcp", Err: unix.EHOSTUNREACH}), 0},
		{"name lookup", code.DNSFailed, dial(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "receiver.test", IsNotFound: true}}), 0},
		{"connect times out", code.TimedOut, dial(&net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}), 0},
		{"black hole", code.TimedOut, func(_ *standin, d *direct) { d.dial.Store(&hole) }, time.Minute},
		{"reset", code.Cut, answer(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }), 0},
		{"reads all and says nothing", code.TimedOut, answer(func(_ http.ResponseWriter, r *http.Request) bool {
			buf := make([]byte, 64<<10)
			for {
				if _, err := r.Body.Read(buf); err != nil {
					break
				}
			}
			<-r.Context().Done()
			return true
		}), time.Minute},
		{"tls-untrusted", code.TLSUntrusted, dial(code.New(code.TLSUntrusted, "expected A, got B")), 0},
		{"tls-expired", code.TLSExpired, dial(code.New(code.TLSExpired, "expired")), 0},
		{"tls-wrong-name", code.TLSWrongName, dial(code.New(code.TLSWrongName, "another name")), 0},
		{"clock-skew", code.ClockSkew, func(s *standin, _ *direct) { s.skew.Store(int64(time.Hour)) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, slow)
				s := newStandin()
				d := &direct{h: s}
				c.on(s, d)
				l.make(20, 1000)
				l.start(Deps{Transport: d})
				defer l.stop()

				time.Sleep(2 * time.Hour)
				// What was under way when the path broke is over.
				before := d.tcp.Load()
				d.max.Store(0)
				time.Sleep(month)
				n := d.tcp.Load() - before
				if m := d.max.Load(); m != 1 {
					t.Errorf("%d requests at once, want one probe at a time", m)
				}
				// Jitter may halve the back-off.
				const backoff = 20 * time.Minute
				least, most := int64(month/(backoff+c.each+100*time.Millisecond)), int64(month/(backoff/2+c.each))+1
				if n < least || n > most {
					t.Errorf("%d probes in a month, want %d to %d", n, least, most)
				}
				if q := l.quarantined(); len(q) != 0 {
					t.Fatalf("%d quarantined, the first: %+v", len(q), q[0].Reason)
				}
				if w := l.waiting(); w != 20 {
					t.Fatalf("%d wait, want 20", w)
				}
				st := l.ship.State()
				if !st.Path.Held || st.Path.Code != c.code {
					t.Errorf("path: %+v, want held by %s", st.Path, c.code)
				}
				if st.Path.Fix == "" || !strings.Contains(st.Summary, string(c.code)) {
					t.Errorf("summary %q, fix %q", st.Summary, st.Path.Fix)
				}
				if k := strings.Count(l.log.String(), "queue held"); k < 1 || k > 2 {
					t.Errorf("%d journal entries of one outage, want one, or two where the first was of another code", k)
				}

				// Healed.
				s.setFault(nil)
				s.skew.Store(0)
				d.dial.Store(nil)
				healed := time.Now()
				eventually(t, backoff+c.each+time.Second, "a first success", func() bool { return s.count() > 0 })
				first := time.Since(healed)
				rest := eventually(t, 2*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
				t.Logf("%d probes in a month; first success %s after healing, the queue empty %s later", n, first, rest)
				if s.count() != 20 || len(l.quarantined()) != 0 {
					t.Errorf("%d stored, %d quarantined", s.count(), len(l.quarantined()))
				}
				time.Sleep(21 * time.Minute)
				if !strings.Contains(l.log.String(), "queue moves again") {
					t.Error("the journal does not say that the queue moves again")
				}
			})
		})
	}
}

// Retry-After is honoured, up to a bound.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, slow)
		s := newStandin()
		var retry atomic.Int64
		retry.Store(int64(20 * time.Minute))
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet {
				return false
			}
			p := wire.NewProblem(code.ReceiverFull, "", time.Now())
			p.RetryAfter = time.Duration(retry.Load())
			wire.WriteProblem(w, r, p)
			return true
		})
		d := &direct{h: s}
		l.make(1, 100)
		l.start(Deps{Transport: d})
		defer l.stop()
		time.Sleep(time.Hour)
		if n := s.seen("POST v1/episodes"); n < 3 || n > 4 {
			t.Errorf("%d tries in an hour with Retry-After: 1200", n)
		}
		retry.Store(int64(365 * 24 * time.Hour))
		time.Sleep(24 * time.Hour)
		if n := s.seen("POST v1/episodes"); n < 4+20 || n > 4+26 {
			t.Errorf("%d tries in a day with Retry-After: a year", n-4)
		}
	})
}

// A verdict over one episode sets that one aside, with its reason; the rest goes
// on, and it is not sent again for a month.
func TestAVerdictOverAnEpisode(t *testing.T) {
	for _, c := range []code.Code{code.OutOfWindow, code.Malformed, code.Conflict, code.TooLarge} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, slow, func(c *config.LabHost) { c.Shipper.QuarantineKeepDays = 0 })
				s := newStandin()
				ids := l.make(20, 1000)
				bad := ids[3]
				s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
					a, err := wire.ParseAnnouncement(r.Header.Values(wire.HeaderEpisode))
					if err != nil || a.ID != bad {
						return false
					}
					p := wire.NewProblem(c, "because", time.Now())
					p.Window = &wire.Window{ID: "w1"}
					wire.WriteProblem(w, r, p)
					return true
				})
				l.start(Deps{Transport: &direct{h: s}})
				defer l.stop()
				eventually(t, time.Second, "the rest shipped", func() bool { return s.count() == 19 && l.waiting() == 0 })
				time.Sleep(month)
				q := l.quarantined()
				if len(q) != 1 || q[0].ID != bad {
					t.Fatalf("quarantine: %+v", q)
				}
				r := q[0].Reason
				if r.Code != c || r.Detail != "because" || r.Status != c.Info().Status || r.Attempts != 1 || r.Fix == "" || r.Digest == "" || r.Started == nil || r.Receiver == "" {
					t.Errorf("reason: %+v", r)
				}
				if (r.WindowID == "w1") != (c == code.OutOfWindow) {
					t.Errorf("window id %q", r.WindowID)
				}
				if s.posts[bad] != 1 {
					t.Errorf("sent %d times", s.posts[bad])
				}
				if st := l.ship.State(); st.Quarantine.ByCode[c] != 1 || st.Path.Held {
					t.Errorf("state: %+v", st)
				}
				if log := l.log.String(); !strings.Contains(log, "quarantined: "+c.Info().Title) || !strings.Contains(log, bad.String()) || !strings.Contains(log, "fix=") {
					t.Errorf("log:\n%s", log)
				}
			})
		})
	}
}

// Whatever was set aside for the window goes out by itself once it fits.
func TestTheWindowIsWidened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		s := newStandin()
		from := time.Now().Add(-time.Hour)
		s.window = wire.Window{ID: "w1", NotBefore: &from}
		old := func(d time.Duration) func(*episode.Run) {
			return func(r *episode.Run) {
				r.Started.Realtime = time.Now().Add(-d)
				r.Ended.Realtime = r.Started.Realtime.Add(time.Minute)
			}
		}
		older := l.make(3, 100, old(10*24*time.Hour))
		l.make(4, 100, old(2*24*time.Hour))
		l.make(5, 100, old(0))
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		eventually(t, time.Second, "5 stored", func() bool { return s.count() == 5 && l.waiting() == 0 })
		time.Sleep(24 * time.Hour)
		if q := l.quarantined(); len(q) != 7 {
			t.Fatalf("%d quarantined", len(q))
		}
		posts := s.seen("POST v1/episodes")
		if posts != 12 {
			t.Errorf("%d posts, want 12", posts)
		}
		// Three days' worth.
		s.mu.Lock()
		from = time.Now().Add(-4 * 24 * time.Hour)
		s.window = wire.Window{ID: "w2", NotBefore: &from}
		s.mu.Unlock()
		took := eventually(t, 2*time.Minute, "9 stored", func() bool { return s.count() == 9 && l.waiting() == 0 })
		t.Logf("put back and shipped %s after the window was widened", took)
		time.Sleep(time.Hour)
		q := l.quarantined()
		if len(q) != 3 {
			t.Errorf("%d still quarantined", len(q))
		}
		for _, e := range q {
			if !slices.Contains(older, e.ID) {
				t.Errorf("%s is still quarantined", e.ID)
			}
		}
		// The id of the new window is seen in any answer, not only in a poll's.
		s.mu.Lock()
		s.window = wire.Window{ID: "w3"}
		s.mu.Unlock()
		time.Sleep(10 * time.Second)
		l.make(1, 100)
		took = eventually(t, 5*time.Second, "13 stored", func() bool { return s.count() == 13 && l.waiting() == 0 })
		t.Logf("put back and shipped %s after an answer with the new window", took)
		if q := l.quarantined(); len(q) != 0 {
			t.Errorf("%d still quarantined", len(q))
		}
	})
}

// An episode from the future fits the same window later on. One that the
// receiver refuses although it seems to fit is put back no second time.
func TestTheWindowComesToFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, slow, func(c *config.LabHost) { c.Shipper.PollInterval = time.Minute })
		s := newStandin()
		s.window = wire.Window{ID: "w1", MaxAhead: 10 * time.Minute}
		l.make(1, 100, func(r *episode.Run) {
			r.Started.Realtime = time.Now().Add(2 * time.Hour)
			r.Ended.Realtime = r.Started.Realtime.Add(time.Minute)
		})
		bad := l.make(1, 100)[0]
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if a, err := wire.ParseAnnouncement(r.Header.Values(wire.HeaderEpisode)); err == nil && a.ID == bad {
				s.problem(w, r, code.OutOfWindow, "on principle")
				return true
			}
			return false
		})
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		time.Sleep(110 * time.Minute)
		if len(l.quarantined()) != 2 {
			t.Fatalf("%d quarantined", len(l.quarantined()))
		}
		time.Sleep(10 * time.Minute)
		if s.count() != 1 || len(l.quarantined()) != 1 {
			t.Errorf("%d stored, %d quarantined", s.count(), len(l.quarantined()))
		}
		time.Sleep(month)
		if s.posts[bad] != 1 {
			t.Errorf("sent %d times", s.posts[bad])
		}
	})
}

// A receipt that names another digest frees nothing; the copy here is verified.
func TestTheReceiptLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, slow)
		s := newStandin()
		s.tamper = func(r *wire.Receipt) { r.BagDigest[0] ^= 1 }
		l.make(3, 100)
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		time.Sleep(month)
		if w, q := l.waiting(), l.quarantined(); w != 3 || len(q) != 0 {
			t.Fatalf("%d wait, %d quarantined", w, len(q))
		}
		if st := l.ship.State(); !st.Path.Held || st.Path.Code != code.DigestMismatch {
			t.Errorf("two episodes in a row: the path is at fault: %+v", st.Path)
		}
		if n := s.seen("POST v1/episodes"); int64(n) > int64(month/(9*time.Minute)) {
			t.Errorf("sent %d times", n)
		}
		s.mu.Lock()
		s.tamper = nil
		s.mu.Unlock()
		eventually(t, 21*time.Minute, "an empty queue", func() bool { return l.waiting() == 0 })
	})
}

// A digest mismatch is followed up on this disk: damage is quarantined, a sound
// copy sent again.
func TestDigestMismatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, slow)
		s := newStandin()
		ids := l.make(4, 3000)
		// Rot: same size, another byte.
		path := l.queue.Dir(ids[1]) + "/data/output/data.bin"
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[100] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		once := true
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if a, err := wire.ParseAnnouncement(r.Header.Values(wire.HeaderEpisode)); err == nil && a.ID == ids[2] && once {
				once = false
				s.problem(w, r, code.DigestMismatch, "memory error")
				return true
			}
			return false
		})
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		eventually(t, 20*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
		q := l.quarantined()
		if len(q) != 1 || q[0].ID != ids[1] || q[0].Reason.Code != code.Damaged || !strings.Contains(q[0].Reason.Detail, "data.bin") {
			t.Errorf("quarantine: %+v", q)
		}
		if s.count() != 3 || s.posts[ids[2]] != 2 {
			t.Errorf("%d stored, the sound one sent %d times", s.count(), s.posts[ids[2]])
		}
	})
}

// A file that shrank, a missing file, and what is no episode at all.
func TestDamagedOnThisHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, slow)
		s := newStandin()
		ids := l.make(5, 3000)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(os.Truncate(l.queue.Dir(ids[0])+"/data/output/data.bin", 10))
		must(os.Remove(l.queue.Dir(ids[1]) + "/data/stdout.log"))
		must(os.Remove(l.queue.Dir(ids[2]) + "/tagmanifest-sha256.txt"))
		must(os.WriteFile(l.cfg.DataDir+"/sealed/notes.txt", []byte("x"), 0o644))
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		eventually(t, 10*time.Minute, "an empty queue", func() bool { return l.waiting() == 0 })
		q := l.quarantined()
		if len(q) != 4 || s.count() != 2 {
			t.Fatalf("%d quarantined, %d stored: %+v", len(q), s.count(), q)
		}
		for _, e := range q {
			if e.Reason.Code != code.Damaged || e.Reason.Detail == "" {
				t.Errorf("%s: %+v", e.Name, e.Reason)
			}
		}
	})
}

// The clean-up waits for the receiver's clock to agree, runs at the start of a
// pass, and a clock that jumps ahead removes nothing.
func TestCleanUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, slow)
		s := newStandin()
		d := &direct{h: s}
		ids := l.make(2, 100)
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost {
				s.problem(w, r, code.Malformed, "because")
				return true
			}
			return false
		})
		l.start(Deps{Transport: d})
		defer l.stop()
		eventually(t, time.Second, "both quarantined", func() bool { return len(l.quarantined()) == 2 })
		time.Sleep(29 * 24 * time.Hour)
		if n := len(l.quarantined()); n != 2 {
			t.Fatalf("%d left after 29 days", n)
		}
		// The receiver's clock stays behind, as if ours had jumped ahead.
		s.skew.Store(int64(-365 * 24 * time.Hour))
		time.Sleep(5 * 24 * time.Hour)
		if n := len(l.quarantined()); n != 2 {
			t.Fatalf("%d left: removed on the word of a wrong clock", n)
		}
		if st := l.ship.State(); st.Quarantine.Cleanup != queue.CleanupClockUnknown {
			t.Errorf("clean-up: %s", st.Quarantine.Cleanup)
		}
		if !strings.Contains(l.log.String(), "not cleaned up") {
			t.Error("the journal does not say that nothing is cleaned up")
		}
		s.skew.Store(0)
		took := eventually(t, 2*time.Hour, "both removed", func() bool { return len(l.quarantined()) == 0 })
		t.Logf("removed %s after the clocks agreed again", took)
		for _, id := range ids {
			if !strings.Contains(l.log.String(), "removed from quarantine: kept long enough host=lab-01 episode="+id.String()+" code=malformed age=") {
				t.Errorf("no entry for %s in\n%s", id, l.log)
			}
		}
	})
}
