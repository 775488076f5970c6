package ship

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/liveness"
	"cis490/src/pack"
	"cis490/src/wire"
)

// stub is a source of frames that does as it is told.
type stub struct {
	next   func() (pack.Frame, error)
	closed chan struct{}
}

func (s *stub) Next() (pack.Frame, error) { return s.next() }
func (s *stub) Close() error {
	close(s.closed)
	return nil
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// testbench is a client with a metered worker.
type testbench struct {
	client  *client
	meter   *meter
	worker  *liveness.Worker
	tracker *liveness.Tracker
}

func newTestbench(t *testing.T, rt http.RoundTripper) *testbench {
	l := newLab(t)
	b := &testbench{tracker: liveness.NewTracker()}
	b.worker = b.tracker.Worker("upload 0")
	b.worker.Within(90 * time.Second)
	b.meter = newMeter(10*time.Second, 30*time.Second, time.Minute, b.worker)
	b.client = newClient(l.cfg, rt, nil, func(string) {})
	return b
}

func (b *testbench) patch(ctx context.Context, src frames) (*body, *failure) {
	var made *body
	f := b.client.do(ctx, b.meter, request{method: http.MethodPatch, url: b.client.episodes, header: http.Header{}, stream: func(context.Context) *body {
		made = newBody(b.meter, src)
		return made
	}}, func(r *http.Response) *failure {
		if !success(r) {
			return refused(r)
		}
		return nil
	})
	return made, f
}

// drain reads a body as the transport does, at a rate.
func drain(r *http.Request, each time.Duration) error {
	defer r.Body.Close()
	buf := make([]byte, 1000)
	for {
		_, err := r.Body.Read(buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(each):
		case <-r.Context().Done():
			return context.Cause(r.Context())
		}
	}
}

func ok(r *http.Request) *http.Response {
	return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody, Request: r}
}

// A body that waits for a dead disk is no stall: nothing is cancelled, and the
// worker is late, so that the watchdog comes.
func TestAHungDiskIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestbench(t, roundTrip(func(r *http.Request) (*http.Response, error) {
			if err := drain(r, 0); err != nil {
				return nil, err
			}
			return ok(r), nil
		}))
		hang := make(chan struct{})
		n := 0
		src := &stub{closed: make(chan struct{}), next: func() (pack.Frame, error) {
			if n++; n == 3 {
				<-hang
				return pack.Frame{}, code.New(code.ReadFailed, "input/output error")
			}
			return pack.Frame{Data: make([]byte, 5000)}, nil
		}}
		got := make(chan *failure)
		go func() {
			_, f := b.patch(t.Context(), src)
			got <- f
		}()
		time.Sleep(80 * time.Second)
		if late := b.tracker.Late(time.Now()); len(late) != 0 {
			t.Errorf("late already: %+v", late)
		}
		time.Sleep(10 * time.Minute)
		if late := b.tracker.Late(time.Now()); len(late) != 1 {
			t.Error("a worker that hangs on a disk is not late")
		}
		select {
		case f := <-got:
			t.Fatalf("given up: %v", f)
		default:
		}
		close(hang)
		if f := <-got; f == nil || f.code() != code.ReadFailed {
			t.Errorf("%v", f)
		}
		<-src.closed
	})
}

// A receiver that takes nothing, little, or all and does not answer: the worker is
// never late, and what does not move is given up.
func TestADeadReceiverMakesNoWorkerLate(t *testing.T) {
	frame := pack.Frame{Data: make([]byte, 100_000)}
	for _, c := range []struct {
		name string
		rt   roundTrip
		n    int // frames
		code code.Code
		took time.Duration // at least; at most a tick more
	}{
		{"takes nothing", func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			r.Body.Close()
			return nil, context.Cause(r.Context())
		}, 3, code.Stalled, 30 * time.Second},
		{"stops in the middle", func(r *http.Request) (*http.Response, error) {
			r.Body.Read(make([]byte, 1000))
			<-r.Context().Done()
			r.Body.Close()
			return nil, context.Cause(r.Context())
		}, 3, code.Stalled, 30 * time.Second},
		{"takes all and says nothing", func(r *http.Request) (*http.Response, error) {
			drain(r, 0)
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		}, 3, code.TimedOut, time.Minute},
		{"a trickle of 1000 bytes in 25 s", func(r *http.Request) (*http.Response, error) {
			if err := drain(r, 25*time.Second); err != nil {
				return nil, err
			}
			return ok(r), nil
		}, 3, "", 300 * 25 * time.Second},
		{"the answer's body never comes", func(r *http.Request) (*http.Response, error) {
			drain(r, 0)
			resp := ok(r)
			resp.StatusCode = 502
			resp.Header.Set("Content-Type", wire.MediaProblem)
			resp.Body = never{r.Context()}
			return resp, nil
		}, 1, code.TimedOut, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestbench(t, c.rt)
				left := c.n
				src := &stub{closed: make(chan struct{}), next: func() (pack.Frame, error) {
					if left--; left < 0 {
						return pack.Frame{}, io.EOF
					}
					return frame, nil
				}}
				began := time.Now()
				got := make(chan *failure)
				go func() {
					_, f := b.patch(t.Context(), src)
					got <- f
				}()
				var f *failure
				for f == nil {
					select {
					case f = <-got:
						if f == nil {
							f = &failure{why: code.New("", "")}
						}
					case <-time.After(time.Second):
						if late := b.tracker.Late(time.Now()); len(late) > 0 {
							t.Fatalf("late: %+v", late)
						}
					}
				}
				took := time.Since(began)
				if f.code() != c.code {
					t.Errorf("%v, want %q", f, c.code)
				}
				if took < c.took || took > c.took+3*time.Second {
					t.Errorf("took %s, want %s", took, c.took)
				}
				<-src.closed
			})
		})
	}
}

// never is a response body that does not come.
type never struct{ ctx context.Context }

func (n never) Read([]byte) (int, error) {
	<-n.ctx.Done()
	return 0, context.Cause(n.ctx)
}
func (n never) Close() error { return nil }

// An answer in mid-body ends the sending, also when the body is just waiting for
// the disk; its memory is given back once it is not.
func TestAnswerWhileTheDiskIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drained := make(chan error, 1)
		b := newTestbench(t, roundTrip(func(r *http.Request) (*http.Response, error) {
			go func() { drained <- drain(r, 0) }()
			time.Sleep(time.Second)
			resp := ok(r)
			resp.StatusCode = 502
			return resp, nil
		}))
		hang := make(chan struct{})
		src := &stub{closed: make(chan struct{}), next: func() (pack.Frame, error) {
			<-hang
			return pack.Frame{Data: make([]byte, 5000)}, nil
		}}
		_, f := b.patch(t.Context(), src)
		if f == nil || f.code() != code.ReceiverError {
			t.Errorf("%v", f)
		}
		select {
		case <-src.closed:
			t.Error("the source was closed while it was read")
		default:
		}
		close(hang)
		<-src.closed
		if err := <-drained; !errors.Is(err, errClosed) {
			t.Errorf("the transport went on: %v", err)
		}
	})
}

// An episode that the process died on three times is tried after all others,
// alone, and not condemned.
func TestAttemptDied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, slow)
		s := newStandin()
		ids := l.make(5, 100)
		killer := ids[1]
		time.Sleep(time.Second)
		writeFile(t, l.cfg.DataDir+"/uploads/.deaths.json", `{"`+killer.String()+`": 3}`)
		var order []episode.ID
		alone := false
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			a, err := wire.ParseAnnouncement(r.Header.Values(wire.HeaderEpisode))
			if err != nil {
				return false
			}
			s.mu.Lock()
			order = append(order, a.ID)
			if a.ID == killer {
				alone = s.now == 1
			}
			s.mu.Unlock()
			time.Sleep(time.Second)
			return false
		})
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		eventually(t, time.Minute, "an empty queue", func() bool { return l.waiting() == 0 })
		if len(order) != 5 || order[4] != killer || !alone {
			t.Errorf("order %v, alone %v, killer %s\n%s", order, alone, killer, l.log)
		}
		if len(l.quarantined()) != 0 {
			t.Error("quarantined")
		}
	})
}

// The poll, as any request, is bounded and makes no worker late; and a poll that
// fails holds no episode.
func TestAPollThatFailsHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, func(c *config.LabHost) { c.Shipper.PollInterval = 10 * time.Second })
		s := newStandin()
		s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet {
				<-r.Context().Done()
				return true
			}
			return false
		})
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		for i := range 20 {
			l.make(1, 100)
			eventually(t, time.Second, "shipped", func() bool { return s.count() == i+1 })
			time.Sleep(20 * time.Second)
			if late := l.ship.tracker.Late(time.Now()); len(late) > 0 {
				t.Fatalf("late: %+v", late)
			}
		}
		st := l.ship.State()
		if st.Path.Since != nil || st.Poll.Failure == nil || st.Poll.Failure.Code != code.TimedOut {
			t.Errorf("path %+v, poll %+v", st.Path, st.Poll)
		}
	})
}
