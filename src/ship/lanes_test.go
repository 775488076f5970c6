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

// Eight that are large do not keep a small one waiting, and go on themselves.
func TestASmallOneFindsAWayBesideLargeOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		s.setWidth(8)
		ids := some(9)
		s.found(ids[:8])
		var air []*flight
		for f := now(s); f != nil; f = now(s) {
			if s.weighed(f, 2<<30) {
				air = append(air, f)
			}
		}
		if len(air) != 6 {
			t.Fatalf("%d large ones at once, want 6 of 8", len(air))
		}
		s.scanBegins()
		s.found(ids)
		f := now(s)
		if f == nil || f.id != ids[8] || !s.weighed(f, 64<<10) {
			t.Fatalf("%+v", f)
		}
		if now(s) != nil {
			t.Error("a seventh large one")
		}
		// The next large one goes as soon as one is through, while its receipt is
		// still being recorded.
		s.uploaded(air[0])
		if g := now(s); g == nil || g.id != ids[6] || g.weight != heavy {
			t.Errorf("%+v, want the oldest large one", g)
		}
	})
}

// A worker that waits with nothing but large ones left is woken when another one
// that was large gives way to a small one.
func TestAWorkerThatWaitsForRoomIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		s.setWidth(4)
		ids := some(6)
		s.found(ids)
		var air []*flight
		for range 3 {
			f := now(s)
			s.weighed(f, 1<<30)
			air = append(air, f)
		}
		s.weighed(now(s), 1<<30) // the fourth waits: three are what there is room for
		small := now(s)
		got := make(chan *flight, 1)
		go func() {
			for f := s.take(); f != nil; f = s.take() {
				if s.weighed(f, 1<<30) {
					got <- f
				}
			}
		}()
		synctest.Wait()
		if len(got) > 0 {
			t.Fatal("a fourth large one")
		}
		s.left(air[1], true)
		if f := <-got; f.id != ids[3] {
			t.Errorf("%v", f.id)
		}
		_ = small
		s.close()
		synctest.Wait()
	})
}

// The probe that turns out to be too large was none.
func TestWhatFindsNoRoomIsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(testBackoff)
		s.setWidth(2)
		ids := some(3)
		s.found(ids)
		large := now(s)
		s.weighed(large, 1<<30)
		f := now(s)
		s.failed(f, code.New(code.Cut, "test"))
		time.Sleep(time.Minute)
		f = now(s)
		if !f.probe || s.weighed(f, 1<<30) {
			t.Fatalf("%+v", f)
		}
		if p, _ := s.view(); p.probes != 0 {
			t.Errorf("%d probes", p.probes)
		}
		if g := now(s); g == nil || g.id != ids[2] || !g.probe {
			t.Errorf("%+v", g)
		}
	})
}

// Whatever comes and goes: as many go as there is room for; what goes is the
// oldest that there was room for; and every one gets its turn.
func TestLanesAreFair(t *testing.T) {
	sizes := []int64{0, 64 << 10, lightMax, lightMax + 1, middleMax, middleMax + 1, 2 << 30}
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(struct{ rapid.TB }{t}, func(rt *rapid.T) {
			s := newScheduler(testBackoff)
			n := rapid.IntRange(1, 9).Draw(rt, "width")
			s.setWidth(n)
			size := map[episode.ID]int64{}
			var air []*flight
			count := byte(0)
			scan := func() {
				s.scanBegins()
				var ids []episode.ID
				for id := range size {
					ids = append(ids, id)
				}
				slices.SortFunc(ids, episode.ID.Compare)
				s.found(ids)
			}
			waits := func(id episode.ID) bool {
				return !slices.ContainsFunc(air, func(f *flight) bool { return f.id == id })
			}
			room := func() [heavy + 1]bool {
				var n3 [heavy + 1]int
				for _, f := range air {
					n3[weigh(size[f.id])]++
				}
				large := n3[middle] + n3[heavy]
				if n == 1 {
					free := len(air) == 0
					return [heavy + 1]bool{free, free, free}
				}
				free := len(air) < n
				return [heavy + 1]bool{free, free && large < n-1, free && large < n-1 && n3[heavy] < n-max(1, n/4)}
			}
			// All workers that are free look for something to do.
			fill := func() {
				for {
					f := now(s)
					if f == nil {
						break
					}
					r := room()
					w := weigh(size[f.id])
					if s.weighed(f, size[f.id]) != r[w] {
						rt.Fatalf("%d bytes beside %d: room %v", size[f.id], len(air), r)
					}
					if !r[w] {
						continue
					}
					for id, b := range size {
						if id.Compare(f.id) < 0 && waits(id) && r[weigh(b)] {
							rt.Fatalf("%v goes before %v, which is older and has room", f.id, id)
						}
					}
					air = append(air, f)
				}
				r := room()
				for id, b := range size {
					if waits(id) && r[weigh(b)] {
						rt.Fatalf("%v of %d bytes waits although there is room", id, b)
					}
				}
			}
			rt.Repeat(map[string]func(*rapid.T){
				"seal": func(*rapid.T) {
					count++
					time.Sleep(time.Millisecond)
					size[idAt(time.Now(), count)] = rapid.SampledFrom(sizes).Draw(rt, "size")
					scan()
					fill()
				},
				"ends": func(*rapid.T) {
					if len(air) == 0 {
						rt.Skip()
					}
					i := rapid.IntRange(0, len(air)-1).Draw(rt, "flight")
					f := air[i]
					air = slices.Delete(air, i, i+1)
					delete(size, f.id)
					s.uploaded(f)
					fill()
					s.left(f, true)
				},
				"parked": func(*rapid.T) {
					if len(air) == 0 {
						rt.Skip()
					}
					i := rapid.IntRange(0, len(air)-1).Draw(rt, "flight")
					f := air[i]
					air = slices.Delete(air, i, i+1)
					s.parked(f)
					fill()
				},
				"scan": func(*rapid.T) { scan(); fill() },
				"width": func(*rapid.T) {
					if len(air) > 0 {
						rt.Skip()
					}
					n = rapid.IntRange(1, 9).Draw(rt, "n")
					s.setWidth(n)
					fill()
				},
			})
			for len(air) > 0 {
				f := air[0]
				air = air[1:]
				delete(size, f.id)
				s.left(f, true)
				fill()
			}
			if len(size) > 0 {
				rt.Fatalf("%d are never sent", len(size))
			}
		})
	})
}
