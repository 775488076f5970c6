package ship

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"cis490/src/code"
	"cis490/src/episode"
)

// idAt is an id as it is made at a time.
func idAt(t time.Time, n byte) (id episode.ID) {
	ms := t.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (8 * (5 - i)))
	}
	id[6], id[8], id[15] = 0x70, 0x80, n
	return id
}

// some are n ids, made one a millisecond until now.
func some(n int) (ids []episode.ID) {
	for i := range n {
		ids = append(ids, idAt(time.Now().Add(time.Duration(i)*time.Millisecond), byte(i)))
	}
	time.Sleep(time.Duration(n) * time.Millisecond)
	return ids
}

// now takes a flight without waiting, nil if none may go.
func now(s *scheduler) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pick(time.Now())
}

var testBackoff = backoff{time.Second, 15 * time.Second}

func fail(c code.Code) *code.Error { return code.New(c, "test") }

func TestOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		ids := some(5)
		s.scanBegins()
		s.found(ids)
		a, b := now(s), now(s)
		if a.id != ids[0] || b.id != ids[1] {
			t.Fatalf("%v %v", a.id, b.id)
		}
		s.parked(a)
		if a = now(s); a.id != ids[0] {
			t.Errorf("what was parked is not the oldest any more: %v", a.id)
		}
		// A scan that began before b left still lists it.
		s.scanBegins()
		s.left(b, true)
		s.found(slices.Clone(ids))
		if f := now(s); f.id != ids[2] {
			t.Errorf("%v, want the third", f.id)
		}
		if _, q := s.view(); q.waiting != 2 || q.inFlight != 2 || q.oldest != ids[0] {
			t.Errorf("%+v", q)
		}
		// An older one that comes late goes first.
		late := idAt(time.Now().Add(-time.Hour), 99)
		s.scanBegins()
		s.found(append([]episode.ID{late}, ids[0], ids[2], ids[3], ids[4]))
		if f := now(s); f.id != late {
			t.Errorf("%v, want the late one", f.id)
		}
	})
}

func TestOneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		s.found(some(20))
		var air []*flight
		for range 8 {
			air = append(air, now(s))
		}
		if c := s.failed(air[0], fail(code.Unreachable)); c != pathHeld {
			t.Errorf("change %d", c)
		}
		p, _ := s.view()
		for _, f := range air[1:] {
			if c := s.failed(f, fail(code.Cut)); c != pathSame {
				t.Errorf("change %d by one that was under way", c)
			}
		}
		if q, _ := s.view(); q.next != p.next || q.failures != 1 || q.err.Code != code.Unreachable {
			t.Errorf("those that were under way count: %+v", q)
		}
		if now(s) != nil {
			t.Fatal("a probe without a wait")
		}
		for i := range 40 {
			p, _ := s.view()
			d := time.Until(p.next)
			if most := min(time.Second<<i, 15*time.Second); i < 5 && d > most || d > 15*time.Second || i > 4 && d < 7*time.Second {
				t.Errorf("wait %d is %s", i, d)
			}
			time.Sleep(d - 1)
			if now(s) != nil {
				t.Fatal("a probe too early")
			}
			time.Sleep(time.Nanosecond)
			f := now(s)
			if f == nil || !f.probe || now(s) != nil {
				t.Fatalf("probe %d: %+v, or a second one", i, f)
			}
			s.failed(f, fail(code.Unreachable))
		}
		if q, _ := s.view(); q.probes != 40 {
			t.Errorf("%d probes", q.probes)
		}
		time.Sleep(15 * time.Second)
		f := now(s)
		if c := s.left(f, true); c != pathOpen {
			t.Errorf("change %d by a success", c)
		}
		for i := range 8 {
			if now(s) == nil {
				t.Fatalf("worker %d is still held", i)
			}
		}
	})
}

// A probe that is let in opens the path on trial, where what failed fails before
// bytes flow; the back-off goes on where it was when that was an illusion.
func TestOpenOnTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for c, opens := range map[code.Code]bool{code.Unreachable: true, code.HostUnknown: true, code.ReceiverFull: true, code.ClockSkew: true,
			code.Cut: false, code.Stalled: false, code.ReceiverError: false, code.ReadFailed: false} {
			s := newScheduler(testBackoff)
			s.found(some(4))
			for range 5 {
				s.failed(now(s), fail(c))
				time.Sleep(16 * time.Second)
			}
			f := now(s)
			s.admitted(f)
			if open := now(s) != nil; open != opens {
				t.Errorf("%s: open %v after being let in", c, open)
			}
			s.advanced(f, false) // bytes flow
			g := now(s)
			if g == nil {
				t.Errorf("%s: held although bytes flow", c)
				continue
			}
			s.failed(g, fail(c))
			if p, _ := s.view(); !p.held || p.failures != 6 {
				t.Errorf("%s: after the trial: %+v", c, p)
			}
			s.advanced(f, true)
			if p, _ := s.view(); p.held || p.failures != 0 {
				t.Errorf("%s: after durable progress: %+v", c, p)
			}
		}
	})
}

func TestTroubledOnesWaitAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		ids := some(4)
		s.found(ids)
		s.postpone(now(s), fail(code.ReadFailed), false)
		time.Sleep(time.Minute)
		young := idAt(time.Now(), 50)
		s.scanBegins()
		s.found(append(slices.Clone(ids), young))
		var order []episode.ID
		for range 5 {
			f := now(s)
			order = append(order, f.id)
			s.left(f, true)
			time.Sleep(turnCheck)
		}
		if want := []episode.ID{ids[1], ids[2], ids[3], ids[0], young}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
	})
}

func TestASecondReadErrorIsTheHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		s.found(some(4))
		a := now(s)
		s.postpone(a, fail(code.ReadFailed), false)
		if p, _ := s.view(); p.held {
			t.Fatal("held by the first")
		}
		s.left(now(s), true) // another one can be read
		b := now(s)
		s.postpone(b, fail(code.ReadFailed), false)
		if p, _ := s.view(); p.held {
			t.Fatal("held although one succeeded in between")
		}
		c := now(s)
		if ch := s.postpone(c, fail(code.ReadFailed), false); ch != pathHeld {
			t.Errorf("change %d by the second in a row", ch)
		}
		// The same one again and again is its own trouble, however often.
		s = newScheduler(testBackoff)
		s.found(some(1))
		for range 10 {
			f := now(s)
			if f == nil {
				t.Fatal("never again")
			}
			s.postpone(f, fail(code.ReadFailed), false)
			if p, _ := s.view(); p.held {
				t.Fatal("held")
			}
			time.Sleep(11 * time.Minute)
		}
	})
}

func TestTriedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		ids := some(4)
		s.found(ids)
		s.isolate(ids[0])
		a, b := now(s), now(s)
		if a.id != ids[1] || b.id != ids[2] {
			t.Fatalf("%v %v", a.id, b.id)
		}
		s.left(a, true)
		c := now(s)
		if c.id != ids[3] {
			t.Fatalf("%v", c.id)
		}
		s.left(c, true)
		time.Sleep(turnCheck)
		if now(s) != nil {
			t.Fatal("not alone: another one is in flight")
		}
		s.left(b, true)
		f := now(s)
		if f == nil || f.id != ids[0] {
			t.Fatalf("%+v", f)
		}
		young := idAt(time.Now().Add(time.Second), 9)
		s.scanBegins()
		s.found([]episode.ID{ids[0], young})
		if now(s) != nil {
			t.Error("another one beside the one that is tried alone")
		}
		s.advanced(f, true)
		if g := now(s); g == nil || g.id != young {
			t.Error("it has moved: others may go")
		}

		// A long upload in flight does not hold the young ones back for hours.
		s = newScheduler(testBackoff)
		ids = some(3)
		s.found(ids)
		s.isolate(ids[1])
		long := now(s)
		s.left(now(s), true)
		young = idAt(time.Now().Add(time.Second), 9)
		time.Sleep(2 * time.Second)
		s.scanBegins()
		s.found([]episode.ID{ids[0], ids[1], young})
		if now(s) != nil {
			t.Error("the others are not held back at all")
		}
		time.Sleep(drainFor)
		if g := now(s); g == nil || g.id != young {
			t.Errorf("%+v", g)
		}
		_ = long
		// Nor does one that hangs without moving.
		time.Sleep(drainPause)
		s.left(long, true)
		s.mu.Lock()
		for _, g := range s.flights {
			s.land(g, true)
		}
		s.mu.Unlock()
		if g := now(s); g == nil || g.id != ids[1] {
			t.Fatalf("%+v", g)
		}
		younger := idAt(time.Now(), 10)
		s.scanBegins()
		s.found([]episode.ID{ids[1], younger})
		if now(s) != nil {
			t.Error("not alone")
		}
		time.Sleep(aloneFor)
		if g := now(s); g == nil || g.id != younger {
			t.Errorf("%+v", g)
		}
	})
}

func TestTakeWakesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		got := make(chan *flight)
		for range 3 {
			go func() {
				for f := s.take(); f != nil; f = s.take() {
					got <- f
				}
			}()
		}
		began := time.Now()
		s.found(some(1))
		s.failed(<-got, fail(code.DNSFailed))
		f := <-got
		if d := time.Since(began); d < 400*time.Millisecond || d > 2*time.Second {
			t.Errorf("probed after %s", d)
		}
		s.postpone(f, fail(code.DigestMismatch), true)
		f = <-got
		s.failed(f, fail(code.DNSFailed))
		began = time.Now()
		s.kick()
		<-got
		if d := time.Since(began); d != 0 {
			t.Errorf("a push was heeded after %s", d)
		}
		s.close()
		synctest.Wait()
	})
}

// Whatever happens, no episode is lost to the schedule, none is in flight twice,
// and a held path has one probe at most.
func TestScheduleKeepsItsPromises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Not t itself: rapid would ask it for a deadline, which a bubble has not.
		rapid.Check(struct{ rapid.TB }{t}, func(rt *rapid.T) {
			s := newScheduler(testBackoff)
			queue := map[episode.ID]bool{}
			air := map[episode.ID]*flight{}
			n := byte(0)
			scan := func() {
				s.scanBegins()
				var ids []episode.ID
				for id := range queue {
					ids = append(ids, id)
				}
				slices.SortFunc(ids, episode.ID.Compare)
				s.found(ids)
			}
			any := func() *flight {
				var fs []*flight
				for _, f := range air {
					fs = append(fs, f)
				}
				if len(fs) == 0 {
					rt.Skip()
				}
				slices.SortFunc(fs, func(a, b *flight) int { return a.id.Compare(b.id) })
				f := rapid.SampledFrom(fs).Draw(rt, "flight")
				delete(air, f.id)
				return f
			}
			codes := []code.Code{code.Unreachable, code.Cut, code.HostUnknown, code.ReceiverFull}
			rt.Repeat(map[string]func(*rapid.T){
				"seal": func(*rapid.T) {
					n++
					queue[idAt(time.Now(), n)] = true
					if n%3 == 0 {
						scan()
					}
				},
				"scan": func(*rapid.T) { scan() },
				"take": func(*rapid.T) {
					p, _ := s.view()
					f := now(s)
					if f == nil {
						return
					}
					if air[f.id] != nil {
						rt.Fatalf("%v is in flight twice", f.id)
					}
					if !queue[f.id] {
						// It left after the scan, by somebody else's hand.
						s.left(f, false)
						return
					}
					if p.held != f.probe {
						rt.Fatalf("held %v, probe %v", p.held, f.probe)
					}
					if f.probe && now(s) != nil {
						rt.Fatal("two probes")
					}
					air[f.id] = f
				},
				"stored": func(*rapid.T) {
					f := any()
					delete(queue, f.id)
					s.left(f, true)
				},
				"quarantined": func(*rapid.T) {
					f := any()
					delete(queue, f.id)
					s.left(f, false)
				},
				"fails":     func(*rapid.T) { s.failed(any(), fail(rapid.SampledFrom(codes).Draw(rt, "code"))) },
				"postponed": func(*rapid.T) { s.postpone(any(), fail(code.DigestMismatch), true) },
				"parked":    func(*rapid.T) { s.parked(any()) },
				"advances": func(*rapid.T) {
					f := any()
					air[f.id] = f
					s.advanced(f, rapid.Bool().Draw(rt, "lasting"))
				},
				"isolated": func(*rapid.T) {
					for id := range queue {
						if air[id] == nil && s.later[id] == nil {
							s.isolate(id)
							return
						}
					}
				},
				"kicked": func(*rapid.T) { s.kick() },
				"polled": func(*rapid.T) {
					if f := s.polls(); f != nil {
						s.polled(f, nil)
					}
				},
				"time": func(*rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 30_000).Draw(rt, "ms")) * time.Millisecond) },
				"someone else": func(*rapid.T) {
					for id := range queue {
						if air[id] == nil {
							delete(queue, id)
							return
						}
					}
				},
			})
			// All ends well once everything succeeds.
			for _, f := range air {
				delete(queue, f.id)
				s.left(f, true)
			}
			scan()
			for range 10_000 {
				f := now(s)
				if f == nil {
					if len(queue) == 0 {
						break
					}
					time.Sleep(time.Second)
					continue
				}
				delete(queue, f.id)
				s.left(f, true)
			}
			if len(queue) > 0 {
				rt.Fatalf("%d are never sent", len(queue))
			}
			if _, q := s.view(); q.waiting != 0 || q.inFlight != 0 {
				rt.Fatalf("%+v", q)
			}
		})
	})
}
