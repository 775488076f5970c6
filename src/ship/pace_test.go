package ship

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cis490/src/config"
)

func noon() time.Time { return time.Now().Truncate(24 * time.Hour).Add(36 * time.Hour) }

// All connections together keep to the limit, whatever it becomes, and each of
// them moves all the time.
func TestPaceOfManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(noon()))
		p := newPace(config.RateLimit{Default: 2e6, Windows: []*config.RateWindow{
			{Name: "slow", Days: 127, From: minuteOf(time.Now()) + 1, To: minuteOf(time.Now()) + 2, Rate: 10_000},
			{Name: "free", Days: 127, From: minuteOf(time.Now()) + 2, To: minuteOf(time.Now()) + 3, Rate: config.RateUnlimited},
		}})
		const conns = 8
		var all atomic.Int64
		var each [conns]atomic.Int64 // when it last moved
		var moving sync.WaitGroup
		defer moving.Wait()
		for i := range conns {
			a, b := net.Pipe()
			c := p.conn(a)
			defer b.Close()
			defer c.Close()
			moving.Go(func() {
				buf := make([]byte, 64<<10)
				for {
					n, err := b.Read(buf)
					if err != nil {
						return
					}
					all.Add(int64(n))
					each[i].Store(time.Now().UnixNano())
					if bucket, _ := p.take(); bucket == nil {
						time.Sleep(time.Millisecond) // else no time would pass
					}
				}
			})
			moving.Go(func() {
				record := make([]byte, 16<<10)
				for {
					if _, err := c.Write(record); err != nil {
						return
					}
				}
			})
		}
		measure := func(want float64, longest time.Duration) {
			t.Helper()
			time.Sleep(time.Second) // the step from the limit before
			began, from := time.Now(), all.Load()
			for range 40 {
				time.Sleep(100 * time.Millisecond)
				for i := range each {
					if d := time.Duration(time.Now().UnixNano() - each[i].Load()); d > longest {
						t.Fatalf("connection %d has not moved for %s", i, d)
					}
				}
			}
			got := float64(all.Load()-from) / time.Since(began).Seconds()
			if got < 0.95*want || got > 1.05*want {
				t.Errorf("%.0f B/s, want %.0f", got, want)
			}
		}
		measure(2e6, time.Second)
		time.Sleep(time.Until(p.limit.Next(time.Now())))
		if !p.update(time.Now()) || p.update(time.Now()) {
			t.Fatal("the limit did not change, or did twice")
		}
		measure(10e3, time.Second)
		if st := p.state(); st.Limit != "10kB/s" || st.Window != "slow" || st.Then != "unlimited" || time.Until(*st.Until) > time.Minute {
			t.Errorf("%+v", st)
		}
		time.Sleep(time.Until(p.limit.Next(time.Now())))
		p.update(time.Now())
		from := all.Load()
		time.Sleep(time.Second)
		if n := all.Load() - from; n < 16<<20 {
			t.Errorf("%d bytes in a second without a limit", n)
		}
	})
}

func minuteOf(t time.Time) config.TimeOfDay { return config.TimeOfDay(t.Hour()*60 + t.Minute()) }

// A connection that is closed ends the Write that waits for its turn.
func TestPacedConnCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(config.RateLimit{Default: 10_000})
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		defer b.Close()
		c := p.conn(a)
		wrote := make(chan error)
		go func() {
			_, err := c.Write(make([]byte, 1<<20))
			wrote <- err
		}()
		time.Sleep(time.Second)
		c.Close()
		c.Close()
		if err := <-wrote; !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	})
}

func TestPaceWidth(t *testing.T) {
	for _, c := range []struct {
		rate    config.Rate
		n, want int
	}{{config.RateUnlimited, 8, 8}, {config.RateOff, 8, 0}, {10_000, 8, 2}, {10_000, 1, 1}, {20_000, 8, 5}, {2e6, 8, 8}, {2e6, 256, 256}} {
		if got := newPace(config.RateLimit{Default: c.rate}).width(c.n); got != c.want {
			t.Errorf("%s: %d of %d, want %d", c.rate, got, c.n, c.want)
		}
	}
}
