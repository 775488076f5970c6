package ship

import (
	"context"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"cis490/src/config"
	"cis490/src/state"
)

const (
	// paceEvery is how soon another limit is in force after the clock says so.
	paceEvery = time.Second
	// paceStep is how long the bytes take that are let go at once, so that many
	// uploads take their turns often, and none waits long enough to look stalled.
	paceStep = 50 * time.Millisecond
	// paceEach is what one of several uploads must get, in bytes per second: what
	// is less is shared by fewer. TLS sends up to 16 KiB at once, and the receiver
	// sees nothing of it before its end.
	paceEach = 4000
)

// pace is the limit of all uploads together: one bucket of bytes on the wire, TLS
// and headers included. It counts them too. It does not judge, and nobody judges the time that is
// spent in it by more than a moment.
type pace struct {
	limit config.RateLimit
	sent  atomic.Int64 // bytes on the wire since the start

	mu      sync.Mutex
	bucket  *rate.Limiter // nil: no limit
	part    int           // bytes that go at once
	set     bool
	now     config.Rate
	window  string
	since   time.Time
	next    time.Time // when another limit will hold; zero: not within a week
	figured time.Time // when next was found
}

func newPace(l config.RateLimit) *pace {
	p := &pace{limit: l, part: math.MaxInt}
	p.update(time.Now())
	return p
}

// update puts the limit of this moment into force, and says whether it is another
// one.
func (p *pace) update(now time.Time) (changed bool) {
	r, window := p.limit.At(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	changed = !p.set || r != p.now || window != p.window
	// The clock may have been set.
	if changed || now.Before(p.figured) || now.Sub(p.figured) > time.Hour || !p.next.IsZero() && !now.Before(p.next) {
		p.next, p.figured = p.limit.Next(now), now
	}
	if !changed {
		return false
	}
	p.set, p.now, p.window, p.since = true, r, window, now
	switch r {
	case config.RateOff: // the scheduler's; what is under way ends soon, and as fast as before
	case config.RateUnlimited:
		p.part, p.bucket = math.MaxInt, nil
	default:
		// A new one: what others wait for in the old is no debt of this.
		p.part = pieceAt(r)
		p.bucket = rate.NewLimiter(rate.Limit(r), 2*p.part)
	}
	return true
}

// pieceAt is how many bytes go at once under a limit.
func pieceAt(r config.Rate) int {
	return int(min(max(float64(r)*paceStep.Seconds(), 512), 64<<10))
}

// take is the bucket of now, and how many bytes may be asked of it at once.
func (p *pace) take() (*rate.Limiter, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bucket, p.part
}

// off says since when there are to be no uploads.
func (p *pace) off() (since time.Time, off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.since, p.now == config.RateOff
}

// width is how many of n uploads may go at once.
func (p *pace) width(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.now == config.RateOff:
		return 0
	case p.now == config.RateUnlimited:
		return n
	}
	return min(n, int(max(2, p.now/paceEach)))
}

// errOff ends uploads that go on after they were to stop.
var errOff = errors.New("a rate_window without uploads began")

// paceForever puts one limit after the other into force.
func (s *Shipper) paceForever(ctx context.Context) {
	if len(s.pace.limit.Windows) == 0 {
		return // it stays as New set it
	}
	for s.pause(ctx, paceEvery, nil) {
		now := time.Now()
		if s.pace.update(now) {
			st := s.pace.state()
			s.log.Info("upload limit", "rate_limit", st.Limit, "rate_window", st.Window)
			s.sched.setWidth(s.pace.width(len(s.uploaders)))
			poke(s.changed)
		}
		// By now what could end, or park after a frame, has.
		if since, off := s.pace.off(); off && now.Sub(since) > parkFor {
			for _, u := range s.uploaders {
				if cut := u.cut.Load(); cut != nil {
					(*cut)(errOff)
				}
			}
		}
	}
}

func (p *pace) state() state.Rate {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := state.Rate{Limit: p.now.String(), Window: p.window, Until: timeOrNil(p.next), Off: p.now == config.RateOff, BytesPerSecond: max(0, int64(p.now)), WireBytes: p.sent.Load()}
	if !p.next.IsZero() {
		then, _ := p.limit.At(p.next)
		st.Then = then.String()
	}
	return st
}

// pacedConn is a connection whose writes keep to the pace.
type pacedConn struct {
	net.Conn
	pace   *pace
	closed chan struct{}
	close  sync.Once
}

func (p *pace) conn(c net.Conn) net.Conn {
	return &pacedConn{Conn: c, pace: p, closed: make(chan struct{})}
}

// NetConn is the connection below.
func (c *pacedConn) NetConn() net.Conn { return c.Conn }

func (c *pacedConn) Write(b []byte) (n int, err error) {
	for {
		bucket, most := c.pace.take()
		part := b[n:min(len(b), n+min(len(b), most))]
		if bucket != nil {
			if err := c.wait(bucket, len(part)); err != nil {
				return n, err
			}
		}
		k, err := c.Conn.Write(part)
		c.pace.sent.Add(int64(k))
		n += k
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

// wait waits until n bytes may go.
func (c *pacedConn) wait(bucket *rate.Limiter, n int) error {
	now := time.Now()
	r := bucket.ReserveN(now, n)
	d := r.DelayFrom(now)
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.closed:
		r.Cancel()
		return net.ErrClosed
	}
}

// Close implements net.Conn; it ends a Write that waits.
func (c *pacedConn) Close() error {
	c.close.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
