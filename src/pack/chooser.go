package pack

import (
	"sync"
	"time"
)

// chooser picks the level at which frames cross fastest.
//
// It has a model: a level moves tar bytes at the rate of whichever is slower, the workers packing at that level or the link taking what they
// make of it. The model is an optimist (it can't know how much of the CPU other work will want, TLS and a receiver on
// the same machine among it), so it only proposes. What decides is the rate at which frames were really sent while a
// level was in force: a proposed level is tried for a short while, and kept only if it did better. One that did not
// waits longer before each new try.
//
// It reads no clock: the calls that need the time bring it.
type chooser struct {
	mu      sync.Mutex
	workers float64
	small   bool
	levels  [Default + 1]levelStats
	cur     Level
	prev    Level // that cur is tried against, Auto when it is not on trial

	linkBytes, linkTime float64 // decaying sums of what LinkSample told

	active int // streams open, or small frames under way
	period period
}

// levelStats is what is known of a level.
type levelStats struct {
	rate    float64 // tar bytes a second that one worker packs
	ratio   float64 // tar bytes to packed bytes
	learned time.Time
	sent    float64 // tar bytes a second really sent, 0 unknown
	until   time.Time
	wait    time.Duration // until the next try after one that failed
}

// period is a time over which what was really sent is counted: frames of the current level only, while at least one stream is open.
type period struct {
	start  time.Time // zero: not begun
	frames int
	tar    float64
	packed float64
}

const (
	trialMargin = 1.08 // what a level must promise over the current one to be tried
	keepMargin  = 1.03 // and do, to be kept
	minWait     = 5 * time.Second
	maxWait     = 10 * time.Minute
	staleAfter  = 60 * time.Second
	linkMemory  = 8 << 20 // bytes over which the link's rate is averaged
	rawRate     = 3e9
)

// expected is what a level is thought to do before it was seen.
var expected = [Default + 1]levelStats{
	Raw:     {rate: rawRate, ratio: 1},
	Fastest: {rate: 280e6, ratio: 3},
	Default: {rate: 150e6, ratio: 3.3},
}

// newChooser begins with the fastest level, which is never far from the best. Small episodes begin raw: on a slow link the few that are sent until that is known cost
// little, and on a fast one there are so many of them that packing them costs much.
func newChooser(workers int, small bool) *chooser {
	c := &chooser{workers: float64(workers), small: small, cur: Fastest}
	copy(c.levels[:], expected[:])
	if small {
		c.cur = Raw
	}
	return c
}

// pick gives the level of the next frame.
func (c *chooser) pick() Level {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur
}

// packed tells that a worker took d to make out bytes of in tar bytes.
func (c *chooser) packed(now time.Time, l Level, in, out int, d time.Duration) {
	if in == 0 || out == 0 || l <= Raw {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.levels[l]
	const alpha = 0.2
	if d > 0 {
		s.rate += alpha * (float64(in)/d.Seconds() - s.rate)
	}
	s.ratio += alpha * (float64(in)/float64(out) - s.ratio)
	s.learned = now
}

// link tells that the link took bytes in d.
func (c *chooser) link(bytes int, d time.Duration) {
	if bytes <= 0 || d <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// Sums, not a mean of rates: the first bytes go into a buffer at once, and the next wait for them. Each of several connections sees
	// its share of the link.
	decay := 1 - min(float64(bytes)/linkMemory, 0.5)
	c.linkBytes = c.linkBytes*decay + float64(bytes)*float64(max(1, c.active))
	c.linkTime = c.linkTime*decay + d.Seconds()
}

// enter tells that a stream opened, or a small frame is under way; leave that it is closed, or answered.
func (c *chooser) enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active++
}

func (c *chooser) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active--; c.active == 0 {
		c.period = period{} // idle time is no measure of anything
	}
}

// sent tells that a frame has crossed.
func (c *chooser) sent(now time.Time, l Level, tar, packed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l != c.cur { // from before the last change
		return
	}
	p := &c.period
	if p.start.IsZero() {
		p.start = now
		return
	}
	p.frames++
	p.tar += float64(tar)
	p.packed += float64(packed)
	d := now.Sub(p.start)
	if d <= 0 {
		return
	}
	rate := p.tar / d.Seconds()
	if c.prev != Auto && p.frames >= c.minFrames()/4 && d >= 50*time.Millisecond && rate < 0.6*c.levels[c.prev].sent {
		c.conclude(now, rate) // a failure that is plain already
		return
	}
	if p.frames >= c.minFrames() && d >= c.minTime() || p.frames >= 3 && d >= 4*time.Second {
		c.conclude(now, rate)
	}
}

// minFrames and minTime are how long a period is at least.
func (c *chooser) minFrames() int {
	if c.small {
		return 128
	}
	return 12
}

func (c *chooser) minTime() time.Duration {
	if c.small {
		return 100 * time.Millisecond
	}
	return 200 * time.Millisecond
}

// conclude ends a period in which the current level sent at rate, and decides what comes next.
func (c *chooser) conclude(now time.Time, rate float64) {
	link := c.linkRate()
	if packed := c.period.packed / now.Sub(c.period.start).Seconds(); packed > link {
		link = packed // it can't be slower than what it did
	}
	c.period = period{}
	s := &c.levels[c.cur]
	if s.sent == 0 || c.prev != Auto {
		s.sent = rate
	} else {
		s.sent += 0.5 * (rate - s.sent)
	}
	if c.prev != Auto { // the trial is over
		tried, won, lost := c.cur, c.cur, c.prev
		if s.sent < keepMargin*c.levels[c.prev].sent {
			won, lost = lost, won
		}
		wait := min(max(2*c.levels[lost].wait, minWait), maxWait)
		c.levels[lost].wait = wait
		// Where packing harder did worse, packing still harder would too, and so with less.
		step := Level(1)
		if lost < won {
			step = -1
		}
		for l := lost; Raw <= l && l <= Default; l += step {
			if until := now.Add(wait); until.After(c.levels[l].until) {
				c.levels[l].until = until
			}
		}
		c.cur, c.prev = won, Auto
		if tried == lost {
			return // measure the winner anew before anything else
		}
		c.levels[won].wait = 0
	}
	cur := &c.levels[c.cur]
	best, promise := c.cur, trialMargin*cur.sent
	for l := Raw; l <= Default; l++ {
		if l == c.cur || now.Before(c.levels[l].until) {
			continue
		}
		if m := c.model(now, l, link); m > promise {
			best, promise = l, m
		}
	}
	if best != c.cur {
		c.prev, c.cur = c.cur, best
	}
}

// linkRate is in packed bytes a second, 0 unknown.
func (c *chooser) linkRate() float64 {
	if c.linkTime == 0 {
		return 0
	}
	return c.linkBytes / c.linkTime
}

// model is the rate that a level can reach at most.
func (c *chooser) model(now time.Time, l Level, link float64) float64 {
	s, e := c.levels[l], expected[l]
	rate, ratio := s.rate, s.ratio
	if now.Sub(s.learned) > staleAfter {
		// Other data, or other work on this machine, by now: hope again.
		rate, ratio = max(rate, e.rate), max(ratio, e.ratio)
	}
	return min(rate*c.workers, link*ratio)
}
