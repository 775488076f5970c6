package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
)

// outage is for how long each fault lasts.
func outage(t *testing.T) time.Duration {
	t.Helper()
	return duration(t, "CIS490_E2E_OUTAGE", 3*time.Second)
}

// pathPair is pair, with the shipper's own back-off and time-outs when the outage is long, and with its longest wait between two
// probes of a path that is at fault.
func pathPair(t *testing.T) (*receiver, *proxy, *host, time.Duration) {
	t.Helper()
	r, p, h := pair(t)
	most := 400 * time.Millisecond
	if outage(t) >= 30*time.Second {
		for _, a := range []string{"backoff_min", "backoff_max", "connect_timeout", "stall_timeout", "response_timeout", "poll_interval"} {
			delete(h.conf["shipper"], a)
		}
		most = 15 * time.Second
	}
	return r, p, h, most
}

// fault is one thing that can be wrong with the way to the receiver.
type fault struct {
	name  string
	codes []code.Code // what the shipper may call it
	on    func(*receiver, *proxy)
	off   func(*receiver, *proxy) // nil: proxy.pass
}

var faults = []fault{
	{"a proxy's bare 404", []code.Code{code.Unmarked4xx}, func(r *receiver, p *proxy) { p.status(r.front(), 404) }, nil},
	{"a proxy's bare 403", []code.Code{code.Unmarked4xx}, func(r *receiver, p *proxy) { p.status(r.front(), 403) }, nil},
	{"a proxy's bare 413", []code.Code{code.Unmarked4xx}, func(r *receiver, p *proxy) { p.status(r.front(), 413) }, nil},
	{"a proxy's 502", []code.Code{code.ReceiverError}, func(r *receiver, p *proxy) { p.status(r.front(), 502) }, nil},
	{"another server's 200", []code.Code{code.ReceiverError}, func(r *receiver, p *proxy) { p.status(r.front(), 200) }, nil},
	{"connection refused", []code.Code{code.Unreachable}, func(_ *receiver, p *proxy) { p.refuse() }, nil},
	{"packets dropped", []code.Code{code.TimedOut}, func(_ *receiver, p *proxy) { p.blackHole() }, nil},
	{"accepted and not a word", []code.Code{code.TimedOut, code.Stalled}, func(_ *receiver, p *proxy) { p.silent() }, nil},
	{"cut in the handshake", []code.Code{code.Cut, code.Unreachable}, func(_ *receiver, p *proxy) { p.reset(100) }, nil},
	{"certificate of another CA", []code.Code{code.TLSUntrusted},
		func(r *receiver, p *proxy) {
			p.status(certificate(r.t, "127.0.0.1", nil, time.Now().Add(time.Hour)), 200)
		}, nil},
	{"certificate of another name", []code.Code{code.TLSWrongName},
		func(r *receiver, p *proxy) {
			p.status(certificate(r.t, "elsewhere.example.org", r.caPair(), time.Now().Add(time.Hour)), 200)
		}, nil},
	{"certificate expired", []code.Code{code.TLSExpired},
		func(r *receiver, p *proxy) {
			p.status(certificate(r.t, "127.0.0.1", r.caPair(), time.Now().Add(-time.Hour)), 200)
		}, nil},
	{"receiver full", []code.Code{code.ReceiverFull},
		func(r *receiver, _ *proxy) { r.restart(`limits.min_free = "1024TiB"`) },
		func(r *receiver, _ *proxy) { r.restart(`limits.min_free = "0B"`) }},
}

func (r *receiver) restart(changes ...string) {
	r.t.Helper()
	r.conf.with(changes...)
	r.stop(30 * time.Second)
	r.start()
}

func TestAFaultOfThePathCondemnsNothingCostsOneProbeAtATimeAndIsOverWithinSeconds(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			r, p, h, most := pathPair(t)
			h.make(episode.Spec{})
			h.start()
			eventually(t, 20*time.Second, h.drained)

			f.on(r, p)
			waiting := h.make(make([]episode.Spec, 30)...)
			holds(t, h, p, f.codes, len(waiting), most)

			if f.off != nil {
				f.off(r, p)
			} else {
				p.pass()
			}
			healed := time.Now()
			eventually(t, 10*time.Second+2*most, h.drained)
			t.Logf("drained %s after the path healed", time.Since(healed).Round(time.Millisecond))
			if n := len(r.stored()); n != len(waiting)+1 {
				t.Errorf("%d are stored, want %d", n, len(waiting)+1)
			}
			if msg := h.nothingQuarantined(); msg != "" {
				t.Error(msg)
			}
		})
	}
}

// holds checks that a fault is called by its code, and that for as long as it lasts n episodes wait, none is condemned, and one
// attempt at a time is made, with back-off that grows to most.
func holds(t *testing.T, h *host, p *proxy, codes []code.Code, n int, most time.Duration) {
	t.Helper()
	eventually(t, 20*time.Second+2*most, func() string { return h.held(codes...) })
	// What was under way when the queue was held may go on for as long as a connection may take to be made.
	settle := 500 * time.Millisecond
	if slices.Contains(codes, code.TimedOut) {
		d, err := time.ParseDuration(strings.Trim(h.conf["shipper"]["connect_timeout"], `"`))
		if err != nil {
			d = 10 * time.Second
		}
		settle += d
	}
	time.Sleep(settle)
	p.cut()
	dialed, requests, began := p.dialed.Load(), p.requests.Load(), time.Now()
	atOnce := 0
	// Like connecting, what two looks see: on a busy machine a connection is known to be closed some time after the next was made. Many short
	// ones at once would be too many attempts.
	before, looked := p.connections(), began
	always(t, outage(t), func() string {
		if k := len(h.sealed()); k != n {
			return fmt.Sprintf("%d wait, want %d", k, n)
		}
		atOnce = max(atOnce, connecting(p.addr))
		if now := time.Now(); now.Sub(looked) > 250*time.Millisecond {
			open, still := p.connections(), 0
			for c := range open {
				if before[c] {
					still++
				}
			}
			atOnce, before, looked = max(atOnce, still), open, now
		}
		return h.nothingQuarantined()
	})
	attempts := max(p.dialed.Load()-dialed, p.requests.Load()-requests)
	t.Logf("%d attempts in %s, at most %d connections at once", attempts, time.Since(began).Round(time.Millisecond), atOnce)
	if atOnce > 1 {
		t.Errorf("%d connections at once, want one probe at a time", atOnce)
	}
	// Jitter may halve a wait; the back-off may still be growing.
	if limit := int64(time.Since(began)/(most/2)) + 4; attempts > limit {
		t.Errorf("%d attempts in %s, more than back-off allows (%d)", attempts, time.Since(began).Round(time.Millisecond), limit)
	}
}

// connecting counts the sockets of this machine that have sent a SYN to addr and have no answer: what a black hole sees. It counts
// what two readings have, for one is no moment: on a busy machine a probe ends, and the next begins, while the list is read.
func connecting(addr string) (n int) {
	before := unanswered(addr)
	for socket := range unanswered(addr) {
		if before[socket] {
			n++
		}
	}
	return n
}

// unanswered are those sockets, by inode.
func unanswered(addr string) map[string]bool {
	_, port, _ := net.SplitHostPort(addr)
	var k int
	fmt.Sscan(port, &k)
	b, err := os.ReadFile("/proc/net/tcp") // proc_net(5): local, remote, state 02 for SYN_SENT; the tenth is the inode
	if err != nil {
		return nil
	}
	sockets := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 9 && f[3] == "02" && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", k)) {
			sockets[f[9]] = true
		}
	}
	return sockets
}

// What the tests of a black hole count is what is there at once.
func TestConnectingCountsWhatIsThereAtOnce(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	p := newProxy(t, r.addr)
	p.blackHole()
	for want := range 3 {
		eventually(t, 10*time.Second, func() string {
			if n := connecting(p.addr); n != want {
				return fmt.Sprintf("%d, want %d", n, want)
			}
			return ""
		})
		go func() {
			if c, err := net.DialTimeout("tcp", p.addr, time.Minute); err == nil {
				c.Close()
			}
		}()
	}
	p.pass()
}

func TestAHostThatTheReceiverDoesNotKnowHoldsItsQueueUntilItIsAllowed(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	p := newProxy(t, r.addr)
	h := newHost(t, "lab-01", p.url(), r.ca())
	r.start()
	waiting := h.make(make([]episode.Spec, 30)...)
	h.start()
	holds(t, h, p, []code.Code{code.HostUnknown}, len(waiting), 400*time.Millisecond)
	if s, _, _ := try(t, program("cis490-shipper"), "status", "--config", h.config); !strings.Contains(s, h.key) {
		t.Errorf("status does not show the key that the receiver's operator needs:\n%s", s)
	}
	r.cli("hosts", "allow", "lab-01", h.key)
	healed := time.Now()
	eventually(t, 15*time.Second, h.drained)
	t.Logf("drained %s after the host was allowed", time.Since(healed).Round(time.Millisecond))

	r.cli("hosts", "revoke", "lab-01")
	waiting = h.make(make([]episode.Spec, 5)...)
	holds(t, h, p, []code.Code{code.HostRevoked}, len(waiting), 400*time.Millisecond)
	r.cli("hosts", "allow", "lab-01", h.key)
	eventually(t, 15*time.Second, h.drained)
	if n := len(r.stored()); n != 35 {
		t.Errorf("%d are stored, want 35", n)
	}
}

// nameServer answers every question with NXDOMAIN, or with 127.0.0.1 once it knows (RFC 1035, section 4.1).
func nameServer(t *testing.T, addr string, knows *atomic.Bool) (asked *atomic.Int64) {
	t.Helper()
	c, err := net.ListenPacket("udp", addr+":53")
	if err != nil {
		t.Skipf("port 53 of %s can't be listened on: %v", addr, err)
	}
	asked = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 17 {
				continue
			}
			asked.Add(1)
			end := 12 // of the one question
			for end < n && buf[end] != 0 {
				end += int(buf[end]) + 1
			}
			if end += 5; end > n {
				continue
			}
			a := append([]byte(nil), buf[:end]...)
			binary.BigEndian.PutUint16(a[2:], 0x8183) // response, recursion, NXDOMAIN
			clear(a[6:12])
			if knows.Load() {
				binary.BigEndian.PutUint16(a[2:], 0x8180)
				if kind := binary.BigEndian.Uint16(buf[end-4:]); kind == 1 {
					a[7] = 1
					a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1)
				}
			}
			c.WriteTo(a, from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return asked
}

func TestANameThatDoesNotResolveHoldsTheQueueUntilItDoes(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("giving a process its own resolv.conf takes root")
	}
	need(t, "unshare", "mount")
	const dns = "127.94.90.53"
	var knows atomic.Bool
	asked := nameServer(t, dns, &knows)
	r := newReceiver(t, `tls.names = ["receiver.cis490.test"]`)
	p := newProxy(t, r.addr)
	_, port, _ := net.SplitHostPort(p.addr)
	h := newHost(t, "lab-01", "https://receiver.cis490.test:"+port, r.ca())
	r.allow(h)
	r.start()
	conf := filepath.Join(h.dir, "resolv.conf")
	writeFile(t, conf, []byte("nameserver "+dns+"\noptions timeout:1 attempts:1\n"))
	waiting := h.make(make([]episode.Spec, 30)...)
	h.conf.write(t, h.config)
	h.process = start(t, h.dir, nil, "unshare", "--mount", "bash", "-c", `mount --bind "$1" /etc/resolv.conf && exec "$2" run --config "$3"`,
		"bash", conf, program("cis490-shipper"), h.config)
	holds(t, h, p, []code.Code{code.DNSFailed}, len(waiting), 400*time.Millisecond)
	if n := p.dialed.Load(); n != 0 {
		t.Errorf("%d connections without an address", n)
	}
	t.Logf("%d questions to the name server", asked.Load())
	knows.Store(true)
	healed := time.Now()
	eventually(t, 15*time.Second, h.drained)
	t.Logf("drained %s after the name was known", time.Since(healed).Round(time.Millisecond))
	if n := len(r.stored()); n != len(waiting) {
		t.Errorf("%d are stored, want %d", n, len(waiting))
	}
}
