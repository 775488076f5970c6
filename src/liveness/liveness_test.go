package liveness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// pid1 is a real notification socket.
type pid1 struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T, name string) *pid1 {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &pid1{t, c}
}

// next is the next datagram, "" if none comes within wait.
func (p *pid1) next(wait time.Duration) string {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 4096)
	n, err := p.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b[:n])
}

// all is every datagram sent so far.
func (p *pid1) all() (got []string) {
	p.t.Helper()
	for {
		s := p.next(20 * time.Millisecond)
		if s == "" {
			return got
		}
		got = append(got, s)
	}
}

func (p *pid1) expect(want ...string) {
	p.t.Helper()
	if got := p.all(); fmt.Sprint(got) != fmt.Sprint(want) {
		p.t.Fatalf("systemd heard %q, want %q", got, want)
	}
}

func notifier(t *testing.T) (*Notifier, *pid1) {
	t.Helper()
	p := listen(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("NOTIFY_SOCKET", p.conn.LocalAddr().String())
	return NewNotifier(), p
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

func logger() (*slog.Logger, *lines) {
	l := &lines{}
	return slog.New(slog.NewTextHandler(l, nil)), l
}

func TestNotifierSaysEachThingOnce(t *testing.T) {
	n, p := notifier(t)
	for range 3 {
		if err := n.Ready(); err != nil {
			t.Fatal(err)
		}
		if err := n.Status("shipping 2,\n37 queued"); err != nil {
			t.Fatal(err)
		}
	}
	p.expect("READY=1", "STATUS=shipping 2, 37 queued")
	n.Watchdog()
	n.ExtendTimeout(90 * time.Second)
	n.Stopping()
	p.expect("WATCHDOG=1", "EXTEND_TIMEOUT_USEC=90000000", "STOPPING=1")
}

func TestReloadingIsEndedByReady(t *testing.T) {
	n, p := notifier(t)
	n.Ready()
	if err := n.Reloading(); err != nil {
		t.Fatal(err)
	}
	n.Ready()
	n.Ready()
	got := p.all()
	if len(got) != 3 || got[0] != "READY=1" || got[2] != "READY=1" {
		t.Fatalf("systemd heard %q", got)
	}
	us, ok := strings.CutPrefix(got[1], "RELOADING=1\nMONOTONIC_USEC=")
	if n, err := strconv.ParseInt(us, 10, 64); !ok || err != nil || n <= 0 {
		t.Fatalf("got %q", got[1])
	}
}

func TestNotifierAbstractSocket(t *testing.T) {
	name := "@cis490-test-" + strconv.Itoa(os.Getpid())
	p := listen(t, name)
	t.Setenv("NOTIFY_SOCKET", name)
	n := NewNotifier()
	if err := n.Ready(); err != nil {
		t.Fatal(err)
	}
	p.expect("READY=1")
}

func TestNotifierOutlivesItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	p := listen(t, path)
	t.Setenv("NOTIFY_SOCKET", path)
	n := NewNotifier()
	n.Watchdog()
	p.expect("WATCHDOG=1")
	p.conn.Close()
	if err := n.Watchdog(); err == nil {
		t.Fatal("sent to nobody without an error")
	}
	os.Remove(path)
	p = listen(t, path)
	if err := n.Watchdog(); err != nil {
		t.Fatal(err)
	}
	p.expect("WATCHDOG=1")
}

func TestNotifierTakesTheEnvironmentAway(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"10000000", self, 10 * time.Second},
		{"10000000", "", 10 * time.Second},
		{"10000000", "1", 0}, // meant for another process
		{"", "", 0},
		{"-5", "", 0},
		{"junk", "", 0},
		{"9223372036854775807", "", 0},
	} {
		t.Setenv("NOTIFY_SOCKET", "")
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		n := NewNotifier()
		if got := n.WatchdogInterval(); got != c.want {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: %s, want %s", c.usec, c.pid, got, c.want)
		}
		if n.Enabled() {
			t.Error("enabled without a socket")
		}
		for _, k := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
			if v, ok := os.LookupEnv(k); ok {
				t.Errorf("a child would inherit %s=%q", k, v)
			}
		}
	}
}

func TestNothingToDoWithoutSystemd(t *testing.T) {
	for _, n := range []*Notifier{nil, {}} {
		for _, err := range []error{n.Ready(), n.Watchdog(), n.Status("x"), n.Stopping(), n.Reloading(), n.ExtendTimeout(time.Second)} {
			if err != nil {
				t.Error(err)
			}
		}
		if n.WatchdogInterval() != 0 {
			t.Error("a watchdog without systemd")
		}
	}
	var tr *Tracker
	w := tr.Worker("x")
	w.Within(time.Second)
	w.Progress()
	w.Doing("y")
	w.Idle()
	w.Done()
	if len(tr.Late(time.Now())) != 0 || len(tr.States(time.Now())) != 0 {
		t.Error("a nil Tracker knows workers")
	}
	if err := (&Beat{}).Beat(); err != nil {
		t.Error(err)
	}
}

// The whole of it with a real socket: READY once, one WATCHDOG=1 per pass, and
// what goes wrong in passes and heartbeats does not end the loop.
func TestHeartbeatOncePerPassWhateverHappens(t *testing.T) {
	n, p := notifier(t)
	log, out := logger()
	ctx, cancel := context.WithCancel(t.Context())
	beat := &Beat{Notifier: n, Tracker: NewTracker(), Log: log}
	passes, beats := 0, 0
	if err := n.Ready(); err != nil {
		t.Fatal(err)
	}
	err := RunForever(ctx, RunOptions{Interval: time.Millisecond, Log: log},
		func(context.Context) error {
			passes++
			switch passes {
			case 2:
				return errors.New("the disk is on strike")
			case 3:
				panic("pass went off its rails")
			case 8:
				cancel()
			}
			return nil
		},
		func() error {
			beats++
			if beats != passes {
				t.Errorf("heartbeat %d after pass %d", beats, passes)
			}
			switch beats {
			case 5:
				return errors.New("heartbeat skipped")
			case 6:
				panic("heartbeat went off its rails")
			}
			return beat.Beat()
		})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("RunForever returned %v", err)
	}
	if passes != 8 || beats != 8 {
		t.Errorf("%d passes, %d heartbeats", passes, beats)
	}
	got := p.all()
	if len(got) != 7 || got[0] != "READY=1" || strings.Join(got[1:], " ") != strings.TrimSpace(strings.Repeat("WATCHDOG=1 ", 6)) {
		t.Errorf("systemd heard %q", got)
	}
	for _, s := range []string{"the disk is on strike", "panic: pass went off its rails", "heartbeat skipped", "panic: heartbeat went off its rails",
		"scan pass works again", "heartbeat works again", "liveness_test.go"} {
		if out.count(s) == 0 {
			t.Errorf("the log does not say %q:\n%s", s, out.b.String())
		}
	}
}

// A worker that hangs withholds the ping, is named in STATUS= at each pass and in
// the log once, and the ping comes back with it. One that is slow but moves never
// does.
func TestLateWorkerWithholdsThePing(t *testing.T) {
	n, p := notifier(t)
	log, out := logger()
	tr := NewTracker()
	b := &Beat{Notifier: n, Tracker: tr, Log: log}
	n.Status("shipping 2")
	hung, slow, idle := tr.Worker("upload 3"), tr.Worker("upload 4"), tr.Worker("upload 5")
	hung.Within(time.Minute)
	hung.Doing("reading 0198/data/output.bin")
	slow.Within(time.Minute)
	idle.Within(time.Millisecond)
	idle.Idle()
	p.expect("STATUS=shipping 2")
	if err := b.Beat(); err != nil {
		t.Fatal(err)
	}
	p.expect("WATCHDOG=1")
	hung.Within(15 * time.Millisecond)
	time.Sleep(20 * time.Millisecond)
	for range 3 {
		b.Beat()
		n.Status("shipping 1") // must not hide what is wrong
	}
	p.expect("STATUS=stuck, no watchdog ping: upload 3 (reading 0198/data/output.bin) 0s overdue")
	if c := out.count(`worker="upload 3"`); c != 1 {
		t.Errorf("named %d times in the log", c)
	}
	hung.Progress()
	hung.Within(time.Minute)
	b.Beat()
	b.Beat()
	p.expect("STATUS=shipping 1", "WATCHDOG=1", "WATCHDOG=1")
	if out.count("moved on") != 1 {
		t.Errorf("recovery is not in the log once:\n%s", out.b.String())
	}
	// Late again is a change again; a worker that is gone is late no more.
	hung.Within(-time.Second)
	b.Beat()
	if c := out.count("no progress"); c != 2 {
		t.Errorf("logged %d times", c)
	}
	hung.Done()
	b.Beat()
	if got := p.all(); got[len(got)-1] != "WATCHDOG=1" {
		t.Errorf("systemd heard %q", got)
	}
}

func TestManyLateWorkersAreSummedUp(t *testing.T) {
	tr := NewTracker()
	for i := range 9 {
		w := tr.Worker(fmt.Sprintf("upload %d", i))
		w.Within(-time.Duration(i+1) * time.Minute)
	}
	late := tr.Late(time.Now())
	if len(late) != 9 || late[0].Name != "upload 8" {
		t.Fatalf("late: %v", late)
	}
	got := describe(late)
	if want := "stuck, no watchdog ping: upload 8 9m0s overdue, upload 7 8m0s overdue"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "and 4 more") {
		t.Error(got)
	}
}

func TestIntervalAndWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		wake := make(chan struct{}, 1)
		start := time.Now()
		var at []time.Duration
		var fail atomic.Bool
		go RunForever(ctx, RunOptions{Interval: 5 * time.Second, Wake: wake, Log: slog.New(slog.DiscardHandler)},
			func(context.Context) error {
				at = append(at, time.Since(start))
				if fail.Load() {
					return errors.New("no")
				}
				return nil
			}, func() error { return nil })
		time.Sleep(11 * time.Second) // 0, 5, 10
		wake <- struct{}{}           // 11
		synctest.Wait()
		fail.Store(true)
		wake <- struct{}{} // 11
		synctest.Wait()
		wake <- struct{}{} // a failed pass waits its time: 16
		synctest.Wait()
		time.Sleep(6 * time.Second)
		fail.Store(false)
		synctest.Wait()
		want := "[0s 5s 10s 11s 11s 16s]"
		if got := fmt.Sprint(at); got != want {
			t.Errorf("passes at %s, want %s", got, want)
		}
		cancel()
		synctest.Wait()
	})
}

func TestClosedWakeIsNoBusyLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 31*time.Second)
		defer cancel()
		wake := make(chan struct{})
		close(wake)
		passes := 0
		RunForever(ctx, RunOptions{Interval: 10 * time.Second, Wake: wake},
			func(context.Context) error { passes++; return nil }, func() error { return nil })
		if passes != 5 { // 0, at once, 10, 20, 30
			t.Errorf("%d passes", passes)
		}
	})
}

func TestRepeatedFailureIsLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out := logger()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Second)
		defer cancel()
		RunForever(ctx, RunOptions{Interval: 5 * time.Second, Log: log},
			func(context.Context) error { return errors.New("same") }, func() error { return nil })
		if n := out.count("err=same"); n < 10 || n > 11 {
			t.Errorf("logged %d times in ten minutes", n)
		}
	})
}

func TestStoppedPassIsNoFailure(t *testing.T) {
	log, out := logger()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("told to stop")
	err := RunForever(ctx, RunOptions{Interval: time.Hour, Log: log},
		func(ctx context.Context) error { cancel(why); <-ctx.Done(); return ctx.Err() }, func() error { return nil })
	if err != why || out.count("failed") != 0 {
		t.Errorf("returned %v, log:\n%s", err, out.b.String())
	}
	ran := false
	RunForever(ctx, RunOptions{Interval: time.Hour}, func(context.Context) error { ran = true; return nil }, func() error { return nil })
	if ran {
		t.Error("a pass ran although the context was done")
	}
}

// A worker is late exactly if its last report lies further back than it said.
func TestLatenessProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			what string
			d    time.Duration
		}
		steps := rapid.SliceOf(rapid.Custom(func(t *rapid.T) step {
			return step{
				rapid.SampledFrom([]string{"within", "progress", "idle", "sleep", "sleep"}).Draw(t, "what"),
				time.Duration(rapid.IntRange(2, 1e6).Draw(t, "ms")) * time.Millisecond,
			}
		})).Draw(rt, "steps")
		wrong := ""
		synctest.Test(t, func(*testing.T) {
			tr := NewTracker()
			w := tr.Worker("w")
			var due time.Time // zero: idle
			var within time.Duration
			for i, s := range steps {
				switch s.what {
				case "within":
					within = s.d
					w.Within(within)
					due = time.Now().Add(within)
				case "progress":
					w.Progress()
					if !due.IsZero() {
						due = time.Now().Add(within)
					}
				case "idle":
					w.Idle()
					due = time.Time{}
				case "sleep":
					time.Sleep(s.d)
				}
				if over := time.Since(due); over >= 0 && over < time.Microsecond {
					continue // a deadline is kept to the nanosecond, give or take one
				}
				late, want := tr.Late(time.Now()), !due.IsZero() && time.Now().After(due)
				if (len(late) == 1) != want {
					wrong = fmt.Sprintf("step %d: late %v, due %s, now %s", i, late, due, time.Now())
				}
				if states := tr.States(time.Now()); len(states) != 1 || states[0].Busy == due.IsZero() {
					wrong = fmt.Sprintf("step %d: states %+v", i, states)
				}
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

func TestTrackerIsSafeForConcurrentUse(t *testing.T) {
	tr := NewTracker()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				w := tr.Worker(strconv.Itoa(i))
				w.Within(time.Minute)
				w.Doing("x")
				w.Progress()
				tr.Late(time.Now())
				tr.States(time.Now())
				w.Done()
			}
		})
	}
	wg.Wait()
	if s := tr.States(time.Now()); len(s) != 0 {
		t.Errorf("left over: %v", s)
	}
}

func BenchmarkProgress(b *testing.B) {
	w := NewTracker().Worker("w")
	w.Within(time.Minute)
	for b.Loop() {
		w.Progress()
	}
}
