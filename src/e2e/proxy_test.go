package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// proxy stands at one address before a receiver, counts, and is the network's faults. Its socket buffers are small and its
// segments those of an Ethernet, so that what is under way when something dies is little.
type proxy struct {
	t       *testing.T
	addr    string
	backend string
	buffer  int // bytes of the receive buffer of connections from the shipper

	up, down atomic.Int64 // bytes from the shipper, and to it
	dialed   atomic.Int64 // connections accepted
	open     atomic.Int64
	requests atomic.Int64 // answered by answer()
	rate     atomic.Int64 // bytes per second upwards, all connections together; 0: no limit
	freeze   atomic.Bool  // stop moving bytes
	deaf     atomic.Bool  // bytes to the shipper get lost

	mu    sync.Mutex
	ln    net.Listener
	idle  chan struct{} // closed when ln is
	conns map[net.Conn]bool
	serve func(net.Conn) // what happens to a connection
	heal  func()         // undoes a fault that is not in serve
	pace  time.Time      // when the next bytes may pass
}

const proxyBuffer = 64 << 10

func newProxy(t *testing.T, backend string) *proxy {
	t.Helper()
	p := &proxy{t: t, backend: backend, buffer: proxyBuffer, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), conns: map[net.Conn]bool{}}
	p.serve = p.forward
	p.listen()
	t.Cleanup(func() {
		p.pass()
		p.unlisten()
		p.cut()
	})
	return p
}

func (p *proxy) url() string { return "https://" + p.addr }

func sockopts(opts ...[3]int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			for _, o := range opts {
				if err == nil {
					err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), o[0], o[1], o[2]))
				}
			}
		})
		if cerr != nil {
			return cerr
		}
		return err
	}
}

// listen begins to accept. A connection inherits the listening socket's options (tcp(7)).
func (p *proxy) listen() {
	p.t.Helper()
	lc := net.ListenConfig{Control: sockopts([3]int{unix.SOL_SOCKET, unix.SO_RCVBUF, p.buffer}, [3]int{unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1448})}
	var ln net.Listener
	p.bind(func() (err error) {
		ln, err = lc.Listen(context.Background(), "tcp", p.addr)
		return err
	})
	idle := make(chan struct{})
	p.mu.Lock()
	p.ln, p.idle = ln, idle
	p.mu.Unlock()
	go func() {
		defer close(idle)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.dialed.Add(1)
			p.open.Add(1)
			p.mu.Lock()
			p.conns[c] = true
			serve := p.serve
			p.mu.Unlock()
			go func() {
				serve(c)
				p.forget(c)
			}()
		}
	}()
}

// bind tries again for a moment while the address is in use: a process that is just being started has a copy of the socket
// that was closed, until it executes its program.
func (p *proxy) bind(try func() error) {
	p.t.Helper()
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
			p.t.Fatalf("bind %s: %v", p.addr, err)
		}
	}
}

// unlisten returns when the port is free.
func (p *proxy) unlisten() {
	p.mu.Lock()
	ln, idle := p.ln, p.idle
	p.mu.Unlock()
	ln.Close()
	<-idle
}

func (p *proxy) forget(c net.Conn) {
	p.mu.Lock()
	known := p.conns[c]
	delete(p.conns, c)
	p.mu.Unlock()
	c.Close()
	if known {
		p.open.Add(-1)
	}
}

// connections are those that are open now.
func (p *proxy) connections() map[net.Conn]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.conns)
}

// cut resets every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	all := make([]net.Conn, 0, len(p.conns))
	for c := range p.conns {
		all = append(all, c)
	}
	p.mu.Unlock()
	for _, c := range all {
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0)
		}
		p.forget(c)
	}
}

// forward is the proxy without faults.
func (p *proxy) forward(c net.Conn) {
	d := net.Dialer{Control: sockopts([3]int{unix.SOL_SOCKET, unix.SO_SNDBUF, proxyBuffer})}
	b, err := d.Dial("tcp", p.backend)
	if err != nil {
		c.(*net.TCPConn).SetLinger(0)
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		p.copy(c, b, &p.down, false)
		c.(*net.TCPConn).CloseWrite()
	}()
	if p.copy(b, c, &p.up, true) != nil {
		// The receiver is gone: nothing more is taken from the shipper.
		b.Close()
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	} else {
		b.(*net.TCPConn).CloseWrite()
	}
	<-back
	b.Close()
}

// copy returns an error if to can't be written to.
func (p *proxy) copy(to, from net.Conn, n *atomic.Int64, up bool) error {
	buf := make([]byte, 16<<10)
	for {
		for p.freeze.Load() {
			time.Sleep(10 * time.Millisecond)
		}
		size := len(buf)
		rate := p.rate.Load()
		if up && rate > 0 {
			size = min(size, int(max(1, rate/20)))
		}
		k, err := from.Read(buf[:size])
		n.Add(int64(k))
		if up && rate > 0 {
			p.wait(time.Duration(k) * time.Second / time.Duration(rate))
		}
		if k > 0 && (up || !p.deaf.Load()) {
			if _, err := to.Write(buf[:k]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

func (p *proxy) wait(d time.Duration) {
	p.mu.Lock()
	now := time.Now()
	if p.pace.Before(now) {
		p.pace = now
	}
	p.pace = p.pace.Add(d)
	until := p.pace
	p.mu.Unlock()
	time.Sleep(time.Until(until))
}

// set puts another way of serving in place of the last, and cuts what is open.
func (p *proxy) set(serve func(net.Conn), heal func()) {
	p.mu.Lock()
	old := p.heal
	p.serve, p.heal = serve, heal
	p.mu.Unlock()
	if old != nil {
		old()
	}
	p.cut()
}

// pass ends every fault.
func (p *proxy) pass() {
	p.freeze.Store(false)
	p.deaf.Store(false)
	p.rate.Store(0)
	p.set(p.forward, nil)
}

// refuse makes the port one that nobody listens on.
func (p *proxy) refuse() {
	p.unlisten()
	p.set(p.forward, p.listen)
}

// blackHole makes connections that can't be made: SYNs go unanswered, as behind a firewall that drops them. A listening
// socket whose queue is full does that on loopback (listen(2)).
func (p *proxy) blackHole() {
	p.unlisten()
	_, port, _ := net.SplitHostPort(p.addr)
	n, _ := strconv.Atoi(port)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	p.bind(func() error { return unix.Bind(fd, &unix.SockaddrInet4{Port: n, Addr: [4]byte{127, 0, 0, 1}}) })
	if err := unix.Listen(fd, 0); err != nil {
		p.t.Fatalf("listen on %s: %v", p.addr, err)
	}
	var fill []net.Conn
	for range 8 {
		c, err := net.DialTimeout("tcp", p.addr, 100*time.Millisecond)
		if err != nil {
			break
		}
		fill = append(fill, c)
	}
	p.set(p.forward, func() {
		unix.Close(fd)
		for _, c := range fill {
			c.Close()
		}
		p.listen()
	})
}

// silent accepts connections, and that is all: nothing is ever answered.
func (p *proxy) silent() {
	p.set(func(c net.Conn) { io.Copy(io.Discard, c) }, nil)
}

// reset cuts every connection once n bytes came.
func (p *proxy) reset(n int) {
	p.set(func(c net.Conn) {
		buf := make([]byte, 4096)
		for n := n; n > 0; {
			k, err := c.Read(buf)
			if err != nil {
				return
			}
			n -= k
		}
		c.(*net.TCPConn).SetLinger(0)
	}, nil)
}

// answer ends TLS with cert and answers nothing that the receiver would: what h says.
func (p *proxy) answer(cert tls.Certificate, h http.HandlerFunc) {
	in := &connListener{conns: make(chan net.Conn), addr: p.addr, done: make(chan struct{})}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.requests.Add(1)
			h(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          discardLog,
	}
	go srv.Serve(tls.NewListener(in, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}))
	p.set(func(c net.Conn) {
		gone := make(chan struct{})
		select {
		case in.conns <- &noticed{Conn: c, gone: gone}:
			<-gone
		case <-in.done:
		}
	}, func() { srv.Close() })
}

// status answers as a proxy that never heard of us.
func (p *proxy) status(cert tls.Certificate, status int) {
	p.answer(cert, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Server", "nginx")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<html><head><title>%d %s</title></head></html>\n", status, http.StatusText(status))
	})
}

// connListener is a net.Listener of connections that somebody else accepted.
type connListener struct {
	conns chan net.Conn
	addr  string
	once  sync.Once
	done  chan struct{}
}

func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *connListener) Close() error { l.once.Do(func() { close(l.done) }); return nil }
func (l *connListener) Addr() net.Addr {
	a, _ := net.ResolveTCPAddr("tcp", l.addr)
	return a
}

// noticed tells when it is closed.
type noticed struct {
	net.Conn
	once sync.Once
	gone chan struct{}
}

func (c *noticed) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.gone) })
	return err
}

// passed says whether n bytes have come from the shipper.
func (p *proxy) passed(n int64) func() string {
	return func() string {
		if got := p.up.Load(); got < n {
			return fmt.Sprintf("%d bytes of %d came", got, n)
		}
		return ""
	}
}
