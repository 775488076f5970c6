package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/identity"
	"cis490/src/pack"
	"cis490/src/wire"
)

// realm is a CA, and a host key, in files.
type realm struct {
	ca     *identity.CA
	caFile string
	cert   tls.Certificate
	key    string
}

func newRealm(t *testing.T) *realm {
	t.Helper()
	dir := t.TempDir()
	r := &realm{caFile: filepath.Join(dir, "ca.crt")}
	var err error
	if r.ca, _, err = identity.InitCA(r.caFile, filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if r.cert, r.key, err = identity.LoadOrMakeHostKey(filepath.Join(dir, "identity")); err != nil {
		t.Fatal(err)
	}
	return r
}

// server is the TLS configuration of a receiver of that realm.
func (r *realm) server(t *testing.T, names ...string) *tls.Config {
	t.Helper()
	s, err := identity.NewServer(r.ca, names)
	if err != nil {
		t.Fatal(err)
	}
	return s.Config()
}

func (r *realm) client(t *testing.T, name string) *identity.Client {
	t.Helper()
	c, err := identity.NewClient(r.cert, r.caFile, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// to points a lab host at addr, with waits short enough for a test.
func to(addr string) func(*config.LabHost) {
	return func(c *config.LabHost) {
		c.Receiver.URL = &url.URL{Scheme: "https", Host: addr}
		s := &c.Shipper
		s.BackoffMin, s.BackoffMax, s.PollInterval = 20*time.Millisecond, 200*time.Millisecond, time.Second
		s.StallTimeout, s.ResponseTimeout, s.ScanInterval = time.Second, 2*time.Second, 200*time.Millisecond
		s.ConnectTimeout = time.Second
	}
}

// Episodes of all sizes cross over mutual TLS.
func TestOverTLS(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	var keys sync.Map
	addr := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if p := req.TLS.PeerCertificates; len(p) == 1 {
			keys.Store(identity.KeyHash(p[0]), true)
		}
		s.ServeHTTP(w, req)
	}), r.server(t, "127.0.0.1"))
	l := newLab(t, to(addr.String()))
	l.make(100, 500)
	l.make(3, 1<<20+300_000)
	l.make(2, 5<<20)
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	eventually(t, 20*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
	if s.count() != 105 {
		t.Errorf("%d stored", s.count())
	}
	if n := s.seen("POST v1/episodes"); n != 105 {
		t.Errorf("%d posts for 105 episodes", n)
	}
	if n := s.seen("PATCH upload"); n != 5 {
		t.Errorf("%d appends for 5 big episodes", n)
	}
	if n := s.seen("HEAD upload"); n != 0 {
		t.Errorf("%d questions for an offset", n)
	}
	if _, ok := keys.Load(r.key); !ok {
		t.Error("the host's key was not presented")
	}
	// A new one leaves at once.
	l.make(1, 500)
	took := eventually(t, 2*time.Second, "the new one shipped", func() bool { return s.count() == 106 })
	t.Logf("a new episode was stored within %s", took)
}

// An upload that is cut goes on from the receiver's whole frames.
func TestResume(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	addr := serveTLS(t, s, r.server(t, "127.0.0.1"))
	const frame = pack.FrameSize
	for i := range 12 {
		s.cutAfter = append(s.cutAfter, int64(i)*frame*2/3) // the first ones get nowhere
	}
	l := newLab(t, to(addr.String()))
	l.make(1, 20<<20)
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	eventually(t, 20*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
	if s.count() != 1 {
		t.Errorf("%d stored", s.count())
	}
	if most := int64(20<<20 + 12*(frame+4096) + 64<<10); s.bytes > most {
		t.Errorf("%d bytes reached the receiver with 12 cuts, want at most %d", s.bytes, most)
	}
	if n := s.seen("POST v1/episodes"); n != 1 {
		t.Errorf("begun %d times", n)
	}
}

// A receiver that lost the upload gets it anew, one that counts otherwise is
// asked.
func TestUploadGone(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	var n atomic.Int32
	s.fault = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodPatch {
			return false
		}
		switch n.Add(1) {
		case 1:
			s.mu.Lock()
			clear(s.uploads)
			s.mu.Unlock()
		case 2:
			s.problem(w, req, code.LengthMismatch, "")
			return true
		case 3:
			s.problem(w, req, code.OffsetMismatch, "")
			return true
		}
		return false
	}
	addr := serveTLS(t, s, r.server(t, "127.0.0.1"))
	l := newLab(t, to(addr.String()))
	l.make(1, 3<<20)
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	eventually(t, 20*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
	if p, h := s.seen("POST v1/episodes"), s.seen("HEAD upload"); p != 3 || h != 1 {
		t.Errorf("begun %d times, asked %d times", p, h)
	}
	if st := l.ship.State(); st.Path.Since != nil {
		t.Errorf("the path was held: %+v", st.Path)
	}
}

// A receiver that never gets anywhere with an upload is not asked in a loop.
func TestUploadGoneForEver(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	s.fault = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPatch {
			s.problem(w, req, code.UploadGone, "")
			return true
		}
		return false
	}
	addr := serveTLS(t, s, r.server(t, "127.0.0.1"))
	l := newLab(t, to(addr.String()))
	l.make(1, 3<<20)
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	time.Sleep(time.Second)
	if n := s.seen("PATCH upload"); n > 100 {
		t.Errorf("%d appends in a second", n)
	}
	if len(l.quarantined()) > 0 {
		t.Error("quarantined")
	}
	s.setFault(nil)
	eventually(t, 5*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
}

// A verdict in mid-body is heard, and the rest is not sent.
func TestVerdictInMidBody(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		t.Run(map[bool]string{false: "heard", true: "lost with the connection"}[lost], func(t *testing.T) {
			t.Parallel()
			r, s := newRealm(t), newStandin()
			var said atomic.Bool
			var got atomic.Int64
			s.fault = func(w http.ResponseWriter, req *http.Request) bool {
				switch req.Method {
				case http.MethodPatch:
					n, _ := io.CopyN(io.Discard, req.Body, 2<<20)
					got.Add(n)
					said.Store(true)
					if lost {
						panic(http.ErrAbortHandler)
					}
					s.problem(w, req, code.TooLarge, "seen enough")
					return true
				case http.MethodHead:
					if said.Load() {
						s.problem(w, req, code.TooLarge, "seen enough")
						return true
					}
				}
				return false
			}
			addr := serveTLS(t, s, r.server(t, "127.0.0.1"))
			l := newLab(t, to(addr.String()))
			l.make(1, 60<<20)
			l.start(Deps{Identity: r.client(t, "127.0.0.1")})
			defer l.stop()
			eventually(t, 20*time.Second, "it quarantined", func() bool { return len(l.quarantined()) == 1 })
			q := l.quarantined()
			if l.waiting() != 0 || q[0].Reason.Code != code.TooLarge || q[0].Reason.Detail != "seen enough" || q[0].Reason.Status != 413 {
				t.Errorf("quarantine: %+v", q)
			}
			if n := s.seen("PATCH upload"); n != 1 {
				t.Errorf("%d appends", n)
			}
			if p := l.ship.State().Path; p.Since != nil {
				t.Errorf("the path was held: %+v", p)
			}
		})
	}
}

// wireTap is a network between a host and the receiver.
type wireTap struct {
	net.Listener
	to    string
	slow  atomic.Int64 // bytes a second towards the receiver, 0 no bound
	hole  atomic.Bool  // take nothing more, say nothing
	bytes atomic.Int64 // towards the receiver
	wg    sync.WaitGroup
}

func newWireTap(t *testing.T, to string) *wireTap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wireTap{Listener: ln, to: to}
	w.wg.Go(w.serve)
	t.Cleanup(func() {
		w.hole.Store(false)
		w.slow.Store(0)
		ln.Close()
		w.wg.Wait()
	})
	return w
}

func (w *wireTap) serve() {
	for {
		c, err := w.Accept()
		if err != nil {
			return
		}
		w.wg.Go(func() {
			defer c.Close()
			up, err := net.Dial("tcp", w.to)
			if err != nil {
				return
			}
			defer up.Close()
			c.(*net.TCPConn).SetReadBuffer(32 << 10)
			w.wg.Go(func() {
				io.Copy(c, up)
				c.Close()
			})
			buf := make([]byte, 4<<10)
			for {
				if w.hole.Load() {
					time.Sleep(20 * time.Millisecond)
					continue
				}
				c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				n, err := c.Read(buf)
				if n > 0 {
					w.bytes.Add(int64(n))
					if _, err := up.Write(buf[:n]); err != nil {
						return
					}
					if r := w.slow.Load(); r > 0 {
						time.Sleep(time.Duration(n) * time.Second / time.Duration(r))
					}
				}
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					return
				}
			}
		})
	}
}

// A link that trickles lives for much longer than stall_timeout; one that takes
// nothing more is given up after it.
func TestTrickleAndStall(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	addr := serveTLS(t, s, r.server(t, "127.0.0.1"))
	tap := newWireTap(t, addr.String())
	l := newLab(t, to(tap.Addr().String()))
	tap.slow.Store(300 << 10)
	l.make(1, 1<<20+300_000) // takes some 4 s, four times stall_timeout
	began := time.Now()
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	for l.waiting() > 0 {
		if late := l.ship.tracker.Late(time.Now()); len(late) > 0 {
			t.Fatalf("late: %+v", late)
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("not through")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if d := time.Since(began); d < 2*time.Second {
		t.Errorf("the link was not slow: %s", d)
	}
	if n := s.seen("PATCH upload"); n != 1 {
		t.Errorf("%d appends over a slow link, want 1", n)
	}
	if p := l.ship.State().Path; p.Since != nil {
		t.Errorf("the path was held: %+v", p)
	}

	tap.slow.Store(8 << 20)
	tap.bytes.Store(0)
	l.make(1, 60<<20)
	eventually(t, 20*time.Second, "an upload under way", func() bool { return tap.bytes.Load() > 4<<20 })
	tap.hole.Store(true)
	took := eventually(t, 10*time.Second, "the path held", func() bool { return l.ship.State().Path.Held })
	p := l.ship.State().Path
	if p.Code != code.Stalled && p.Code != code.TimedOut {
		t.Errorf("held by %s: %s", p.Code, p.Detail)
	}
	t.Logf("%s after %s in a black hole", p.Code, took)
	tap.slow.Store(0)
	tap.hole.Store(false)
	eventually(t, 20*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
}

// Interim responses keep a request alive whose answer takes long.
func TestInterimResponses(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	s.fault = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPatch {
			n, _ := wire.ParseInteger(req.Header.Values(wire.HeaderUploadOffset))
			for range 8 {
				time.Sleep(500 * time.Millisecond)
				n++
				w.Header().Set(wire.HeaderUploadOffset, strconv.FormatInt(n, 10))
				w.WriteHeader(wire.StatusUploadResumption)
			}
			w.Header().Del(wire.HeaderUploadOffset)
		}
		return false
	}
	addr := serveTLS(t, s, r.server(t, "127.0.0.1"))
	l := newLab(t, to(addr.String()))
	l.make(1, 2<<20)
	began := time.Now()
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	eventually(t, 20*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
	if d := time.Since(began); d < 3*time.Second {
		t.Errorf("after %s", d)
	}
	if n := s.seen("PATCH upload"); n != 1 {
		t.Errorf("%d appends", n)
	}
}

// Whom the shipper meets instead of its receiver.
func TestTLSFailures(t *testing.T) {
	t.Parallel()
	r, other := newRealm(t), newRealm(t)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(plain, http.NotFoundHandler())
	t.Cleanup(func() { plain.Close() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	strict := r.server(t, "127.0.0.1")
	strict.ClientAuth = tls.RequireAndVerifyClientCert
	strict.ClientCAs = nil
	for _, c := range []struct {
		name   string
		addr   string
		code   code.Code
		detail []string
	}{
		{"another CA", serveTLS(t, newStandin(), other.server(t, "127.0.0.1")).String(), code.TLSUntrusted, []string{identity.Fingerprint(r.ca.Cert), "got"}},
		{"another name", serveTLS(t, newStandin(), r.server(t, "elsewhere.test")).String(), code.TLSWrongName, []string{"elsewhere.test", "127.0.0.1"}},
		{"no TLS", plain.Addr().String(), code.TLSUntrusted, []string{"plain HTTP"}},
		{"refused", gone.Addr().String(), code.Unreachable, []string{"refused"}},
		{"no such name", "receiver.invalid:1", code.DNSFailed, []string{"receiver.invalid"}},
		{"certificate refused", serveTLS(t, newStandin(), strict).String(), code.HostUnknown, []string{"certificate"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, to(c.addr))
			l.make(2, 100)
			l.start(Deps{Identity: r.client(t, "127.0.0.1")})
			defer l.stop()
			eventually(t, 10*time.Second, "the path held", func() bool { return l.ship.State().Path.Held })
			p := l.ship.State().Path
			if p.Code != c.code {
				t.Errorf("held by %s (%s), want %s", p.Code, p.Detail, c.code)
			}
			for _, d := range c.detail {
				if !strings.Contains(p.Detail, d) {
					t.Errorf("detail %q lacks %q", p.Detail, d)
				}
			}
			if l.waiting() != 2 || len(l.quarantined()) != 0 {
				t.Errorf("%d wait, %d quarantined", l.waiting(), len(l.quarantined()))
			}
		})
	}
}

// A stop finishes what ends in time and parks the rest, which then goes on from
// there.
func TestStopParks(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	addr := serveTLS(t, s, r.server(t, "127.0.0.1"))
	tap := newWireTap(t, addr.String())
	tap.slow.Store(4 << 20)
	l := newLab(t, to(tap.Addr().String()), func(c *config.LabHost) {
		c.Shipper.StopTimeout, c.Shipper.UploadWorkers = 2*time.Second, 2
	})
	id := l.make(1, 40<<20)[0]
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	eventually(t, 10*time.Second, "some of it sent", func() bool { return tap.bytes.Load() > 6<<20 })
	began := time.Now()
	l.stop()
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("the stop took %s", d)
	} else {
		t.Logf("parked within %s", d)
	}
	if _, ok := l.queue.LoadUpload(id); !ok || l.waiting() != 1 {
		t.Fatalf("no token was kept, or %d wait", l.waiting())
	}
	// Frames that were under way arrive after the stop.
	time.Sleep(500 * time.Millisecond)
	tap.slow.Store(0)
	before := tap.bytes.Load()
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	eventually(t, 20*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
	if n := s.seen("POST v1/episodes"); n != 1 {
		t.Errorf("begun %d times", n)
	}
	if sent := before + tap.bytes.Load() - before; sent > 44<<20 {
		t.Errorf("%d bytes sent for 40 MiB", sent)
	}
}

// Many episodes at once use as many connections as there are workers, and keep
// them.
func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	var conns atomic.Int32
	c := r.server(t, "127.0.0.1")
	base := c.GetConfigForClient
	c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		conns.Add(1)
		if base != nil {
			return base(h)
		}
		return nil, nil
	}
	addr := serveTLS(t, s, c)
	l := newLab(t, to(addr.String()))
	l.make(300, 100)
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	eventually(t, 20*time.Second, "an empty queue", func() bool { return l.waiting() == 0 })
	if n := conns.Load(); n > 9 {
		t.Errorf("%d connections for 300 episodes and 8 workers", n)
	}
	if s.max > 9 {
		t.Errorf("%d requests at once", s.max)
	}
}

// An idle connection that the receiver closed costs nothing.
func TestIdleConnectionsClosed(t *testing.T) {
	t.Parallel()
	r, s := newRealm(t), newStandin()
	var mu sync.Mutex
	var open []net.Conn
	c := r.server(t, "127.0.0.1")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: s, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
		return ctx
	}}
	go srv.Serve(tls.NewListener(ln, c))
	defer srv.Close()
	l := newLab(t, to(ln.Addr().String()))
	l.start(Deps{Identity: r.client(t, "127.0.0.1")})
	defer l.stop()
	for i := range 5 {
		l.make(10, 100)
		eventually(t, 5*time.Second, "an empty queue", func() bool { return l.waiting() == 0 && s.count() == 10*(i+1) })
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		open = nil
		mu.Unlock()
	}
	if p := l.ship.State().Path; p.Since != nil {
		t.Errorf("the path was held: %+v", p)
	}
}
