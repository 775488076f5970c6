package pack

import (
	"testing"
	"time"
)

// world is a host, a link and a receiver in a simulation without a clock: frames are packed by workers, and cross a link that takes them
// one by one.
type world struct {
	link    float64              // packed bytes a second
	workers int                  // that really run at once
	pack    [Default + 1]float64 // tar bytes a second of one
	ratio   [Default + 1]float64
	receive float64 // tar bytes a second that the receiver takes, 0: any
	contend float64 // CPU seconds for each packed byte that sending costs the workers
	frame   int

	now    time.Time
	worker []time.Time // when each is free
	net    time.Time   // when the link is free
	sent   []time.Time // when the last frames were sent
	tar    float64
	used   [Default + 1]int
}

// step sends one frame.
func (w *world) step(c *chooser) {
	l := c.pick()
	w.used[l]++
	packed := int(float64(w.frame) / w.ratio[l])
	// The worker that is free first packs it, only so far ahead of the link.
	i := 0
	for j := range w.worker {
		if w.worker[j].Before(w.worker[i]) {
			i = j
		}
	}
	begin := w.worker[i]
	if len(w.sent) > w.workers && begin.Before(w.sent[0]) {
		begin = w.sent[0]
	}
	cost := time.Duration(float64(w.frame) / w.pack[l] * 1e9)
	cost += time.Duration(w.contend * float64(packed) * 1e9)
	w.worker[i] = begin.Add(cost)
	c.packed(w.worker[i], l, w.frame, packed, cost)
	start := w.net
	if start.Before(w.worker[i]) {
		start = w.worker[i]
	}
	took := w.linkTime(packed)
	if w.receive > 0 {
		took = max(took, time.Duration(float64(w.frame)/w.receive*1e9))
	}
	w.net = start.Add(took)
	if w.sent = append(w.sent, w.net); len(w.sent) > w.workers+1 {
		w.sent = w.sent[1:]
	}
	w.now = w.net
	c.link(packed, took)
	c.sent(w.now, l, w.frame, packed)
	w.tar += float64(w.frame)
}

func (w *world) linkTime(packed int) time.Duration {
	return time.Duration(float64(packed) / w.link * 1e9)
}

func (w *world) run(c *chooser, d time.Duration) (rate float64) {
	begin, tar := w.now, w.tar
	for w.now.Sub(begin) < d {
		w.step(c)
	}
	return (w.tar - tar) / w.now.Sub(begin).Seconds()
}

func newWorld(link float64) *world {
	w := &world{link: link, workers: 2, frame: FrameSize, now: time.Unix(1, 0)}
	w.pack = [Default + 1]float64{Raw: 4e9, Fastest: 280e6, Default: 140e6}
	w.ratio = [Default + 1]float64{Raw: 1, Fastest: 3, Default: 3.4}
	w.worker = []time.Time{w.now, w.now}
	w.net = w.now
	return w
}

// best is the rate that a level could reach for ever.
func (w world) best() (best Level, rate float64) {
	for l := Raw; l <= Default; l++ {
		x := w
		x.worker = []time.Time{x.now, x.now}
		c := newChooser(2, false)
		c.cur = l
		for k := range c.levels {
			c.levels[k].until = x.now.Add(1e6 * time.Hour) // stay there
		}
		if r := x.run(c, 5*time.Second); r > rate {
			best, rate = l, r
		}
	}
	return best, rate
}

func TestChooserFindsTheBestLevel(t *testing.T) {
	const mbit = 1e6 / 8
	for name, world := range map[string]func() *world{
		"10 Mbit/s":  func() *world { return newWorld(10 * mbit) },
		"100 Mbit/s": func() *world { return newWorld(100 * mbit) },
		"1 Gbit/s":   func() *world { return newWorld(1000 * mbit) },
		"10 Gbit/s":  func() *world { return newWorld(10_000 * mbit) },
		"fast link, slow receiver": func() *world {
			w := newWorld(10_000 * mbit)
			w.receive = 300e6
			return w
		},
		"loopback, where sending costs CPU": func() *world {
			w := newWorld(900e6)
			w.contend = 2e-9
			return w
		},
		"what does not shrink": func() *world {
			w := newWorld(100 * mbit)
			w.ratio = [Default + 1]float64{1, 1, 1, 1}
			w.pack[Fastest], w.pack[Default] = 4e9, 3e9
			return w
		},
		"a default that shrinks less": func() *world {
			w := newWorld(10 * mbit)
			w.ratio[Default] = 2.9
			return w
		},
		"slow CPU": func() *world {
			w := newWorld(1000 * mbit)
			w.pack[Fastest], w.pack[Default] = 40e6, 20e6
			return w
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := world()
			level, best := w.best()
			c := newChooser(2, false)
			c.enter()
			first := w.run(c, 20*time.Second)
			later := w.run(c, 120*time.Second)
			t.Logf("best is %v at %.0f MB/s; the first 20 s ran at %.0f, later %.0f; frames %v", level, best/1e6, first/1e6, later/1e6, w.used)
			if first < 0.75*best {
				t.Errorf("the first 20 s ran at %.2f of the best", first/best)
			}
			if later < 0.92*best {
				t.Errorf("later it ran at %.2f of the best", later/best)
			}
		})
	}
}

// When the world changes, the choice follows.
func TestChooserFollows(t *testing.T) {
	w := newWorld(1250e6)
	c := newChooser(2, false)
	c.enter()
	w.run(c, 20*time.Second)
	if c.pick() != Raw && c.prev != Raw {
		t.Errorf("at 10 Gbit/s it packs at %v", c.cur)
	}
	w.link = 1.25e6
	w.run(c, 60*time.Second)
	got := w.run(c, 60*time.Second)
	if _, best := w.best(); got < 0.85*best {
		t.Errorf("after the link slowed it runs at %.2f of the best", got/best)
	}
	w.link = 1250e6
	w.run(c, 30*time.Second)
	got = w.run(c, 60*time.Second)
	if _, best := w.best(); got < 0.85*best {
		t.Errorf("after the link came back it runs at %.2f of the best", got/best)
	}
}

// Pauses are no measure of a level.
func TestChooserIgnoresIdleTime(t *testing.T) {
	w := newWorld(1250e6)
	c := newChooser(2, false)
	for range 300 {
		c.enter()
		for range 8 {
			w.step(c)
		}
		c.leave()
		w.now = w.now.Add(5 * time.Second)
		w.net = w.now
	}
	if c.levels[Fastest].sent != 0 {
		t.Errorf("something was learned from %v/s with pauses", c.levels[Fastest].sent)
	}
	c.link(0, 0) // nothing is learned from nothing
	c.packed(w.now, Fastest, 0, 0, 0)
	c.sent(w.now, Raw, 1, 1)
}

func TestChooserOfSmallFrames(t *testing.T) {
	for name, link := range map[string]float64{"slow": 1.25e6, "fast": 1250e6} {
		w := newWorld(link)
		w.frame = 70_000
		c := newChooser(2, true)
		if c.pick() != Raw {
			t.Error("it does not begin raw")
		}
		c.enter()
		w.run(c, 30*time.Second)
		got := w.run(c, 60*time.Second)
		if l, best := w.best(); got < 0.9*best {
			t.Errorf("%s: %.2f of the best, which is %v", name, got/best, l)
		}
	}
}
