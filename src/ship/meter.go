package ship

import (
	"context"
	"net"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/liveness"
	"cis490/src/wire"
)

// meter watches one request at a time and cancels it when it has stopped
// moving. What moves is: bytes handed to the transport, bytes acknowledged by
// the peer's TCP, and interim responses. So an upload that trickles lives for
// hours, one that vanished into a black hole does not, and the worker that made
// the request reports to the watchdog exactly when something moved.
//
// While the request's body waits for this host's disk the meter does not judge:
// then it is the worker's own deadline that counts.
type meter struct {
	connect, stall, response time.Duration
	worker                   *liveness.Worker

	handed  atomic.Int64 // bytes of the body
	interim atomic.Int64 // interim responses
	disk    atomic.Bool  // the body waits for the packer
	sent    atomic.Bool  // the whole request is handed over
	tcp     atomic.Pointer[net.TCPConn]
	reused  atomic.Bool // the connection was idle before

	mu     sync.Mutex
	hooks  hooks
	cancel context.CancelCauseFunc // nil: no request
	timer  *time.Timer
	tick   time.Duration
	began  time.Time
	moved  time.Time
	seen   int64
	moving bool // hooks.moving was called
	cause  *code.Error
	trace  *httptrace.ClientTrace
}

// hooks are told what happens to a request. They are called from other
// goroutines than the one that made it, but not after meter.end.
type hooks struct {
	interim func(textproto.MIMEHeader) // a 104 (Upload Resumption Supported) came
	moving  func()                     // once: the body has moved for trialAfter
}

// trialAfter is how long the bytes of a probe must have moved before the other
// workers may try too.
const trialAfter = 10 * time.Second

func newMeter(connect, stall, response time.Duration, w *liveness.Worker) *meter {
	m := &meter{connect: connect, stall: stall, response: response, worker: w}
	m.tick = min(max(min(stall, response)/10, 10*time.Millisecond), time.Second)
	m.timer = time.AfterFunc(time.Hour, m.look)
	m.timer.Stop()
	m.trace = &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			m.tcp.Store(tcpOf(i.Conn))
			m.reused.Store(i.Reused)
			m.step()
		},
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if i.Err == nil {
				m.sent.Store(true)
			}
		},
		Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
			m.interim.Add(1)
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.hooks.interim != nil && status == wire.StatusUploadResumption {
				m.hooks.interim(h)
			}
			return nil
		},
	}
	return m
}

// begin starts to watch a request, which cancel ends.
func (m *meter) begin(ctx context.Context, cancel context.CancelCauseFunc, h hooks) context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handed.Store(0)
	m.interim.Store(0)
	m.disk.Store(false)
	m.sent.Store(false)
	m.tcp.Store(nil)
	m.reused.Store(false)
	now := time.Now()
	m.cancel, m.hooks, m.began, m.moved, m.seen, m.moving, m.cause = cancel, h, now, now, 0, false, nil
	m.timer.Reset(m.tick)
	m.worker.Progress()
	return httptrace.WithClientTrace(ctx, m.trace)
}

// end stops watching and returns why the request was cancelled, nil if it was
// not.
func (m *meter) end() *code.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.timer.Stop()
	m.cancel, m.hooks = nil, hooks{}
	m.worker.Progress()
	return m.cause
}

// step tells of a step forward that no figure shows.
func (m *meter) step() { m.interim.Add(1) }

// look is one tick.
func (m *meter) look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel == nil {
		return
	}
	now := time.Now()
	acked, unacked := tcpAcked(m.tcp.Load())
	cur := m.handed.Load() + m.interim.Load() + acked
	still := now.Sub(m.moved)
	switch {
	case cur != m.seen:
		m.seen, m.moved = cur, now
		m.worker.Progress()
		if m.hooks.moving != nil && !m.moving && m.handed.Load() > 0 && now.Sub(m.began) >= trialAfter {
			m.moving = true
			m.hooks.moving()
		}
	case m.disk.Load():
		m.moved = now
	case m.sent.Load() && unacked == 0:
		if still >= m.response {
			m.stop(code.New(code.TimedOut, "no answer within %s", m.response))
			return
		}
	case still >= m.stall:
		m.stop(code.New(code.Stalled, "nothing moved for %s", m.stall))
		return
	}
	m.timer.Reset(m.tick)
}

func (m *meter) stop(e *code.Error) {
	m.cause = e
	m.cancel(e)
}

// tcpOf finds the TCP connection below c.
func tcpOf(c net.Conn) *net.TCPConn {
	for c != nil {
		switch v := c.(type) {
		case *net.TCPConn:
			return v
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// tcpAcked asks the kernel how many bytes the peer's TCP has acknowledged on c
// since it was opened, and how many segments it has not (tcp(7), TCP_INFO).
func tcpAcked(c *net.TCPConn) (bytes int64, unacked uint32) {
	if c == nil {
		return 0, 0
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0
	}
	_ = raw.Control(func(fd uintptr) {
		if i, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
			bytes, unacked = int64(i.Bytes_acked), i.Unacked
			if i.Notsent_bytes > 0 {
				unacked++
			}
		}
	})
	return bytes, unacked
}
