package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"cis490/src/hosts"
)

// conns bounds the connections: in all, of each host, and of all strangers
// together. When there is no place for another one, the one that has waited
// longest for a request is closed, a stranger's before a host's; a host that meant
// to use it makes a new one.
//
// It sits between TLS and HTTP, because what one connection may make the receiver
// keep is bounded on both sides of it: how long a handshake is, and how many lines
// a header has. net/http bounds a header's bytes, but a header of nothing but
// line ends takes forty times its length in memory.
type conns struct {
	net.Listener
	config *tls.Config
	known  func(hosts.Key) (string, error)
	log    *slog.Logger
	max    int

	mu   sync.Mutex
	open map[*conn]struct{}
	by   map[string]int // of each host, "" for strangers
}

const (
	// maxHandshake bounds what a client may send before its handshake is done:
	// certificates, mostly. Our hosts' have less than 1 KiB.
	maxHandshake = 32 << 10
	// maxHeaderLines bounds the fields of a request.
	maxHeaderLines = 128
)

// conn is a connection of TLS.
type conn struct {
	*tls.Conn
	raw  *rawConn
	all  *conns
	once sync.Once // close

	// The reader's own.
	shaken bool
	key    hosts.Key // of the client; hasKey
	hasKey bool
	lines  int  // of the header, so far
	filled bool // the line under way has something in it
	body   bool // the header has ended

	// Guarded by all.mu.
	host   string
	placed bool      // counts for host
	busy   bool      // a request is being answered
	since  time.Time // of the last change of busy
}

func newConns(l net.Listener, config *tls.Config, max int, known func(hosts.Key) (string, error), log *slog.Logger) *conns {
	return &conns{Listener: l, config: config, known: known, log: log, max: max, open: map[*conn]struct{}{}, by: map[string]int{}}
}

// Accept gives the next connection for which there is a place.
func (l *conns) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		r := &rawConn{Conn: raw, left: maxHandshake}
		c := &conn{Conn: tls.Server(r, l.config), raw: r, all: l, since: time.Now()}
		if l.place(c) {
			return c, nil
		}
		raw.Close()
	}
}

func (l *conns) place(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.max && !l.evict(func(o *conn) bool { return o.host == "" }) && !l.evict(func(*conn) bool { return true }) {
		return false
	}
	l.open[c] = struct{}{}
	return true
}

// evict closes the connection that has waited longest of those that ok names. The
// caller holds mu.
func (l *conns) evict(ok func(*conn) bool) bool {
	var victim *conn
	for o := range l.open {
		if !o.busy && ok(o) && (victim == nil || o.since.Before(victim.since)) {
			victim = o
		}
	}
	if victim == nil {
		return false
	}
	l.forget(victim)
	victim.raw.Conn.Close() // its reader finds out
	return true
}

// forget takes c out of the counts. The caller holds mu.
func (l *conns) forget(c *conn) {
	if _, is := l.open[c]; !is {
		return
	}
	delete(l.open, c)
	if c.placed {
		if l.by[c.host]--; l.by[c.host] == 0 {
			delete(l.by, c.host)
		}
	}
}

var errTooMany = errors.New("too many connections of one host")

// identified gives c a place among those of its host.
func (l *conns) identified(c *conn) error {
	host := ""
	if c.hasKey {
		host, _ = l.known(c.key) // a stranger, or revoked: told so by the answer to a request
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, is := l.open[c]; !is {
		return net.ErrClosed
	}
	if l.by[host] >= max(1, l.max/4) && !l.evict(func(o *conn) bool { return o.placed && o.host == host }) {
		l.log.Debug("connection refused", "host", host, "remote", c.RemoteAddr().String(), "error", errTooMany)
		return errTooMany
	}
	c.host, c.placed = host, true
	l.by[host]++
	return nil
}

// state follows what net/http does with a connection; see http.Server.ConnState.
func (l *conns) state(nc net.Conn, s http.ConnState) {
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	if s == http.StateIdle {
		c.lines, c.filled, c.body = 0, false, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s {
	case http.StateActive, http.StateIdle:
		c.busy, c.since = s == http.StateActive, time.Now()
	}
}

// connKey is the context's key of the connection of a request.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// Read reads what the client sent, and watches over the header of a request.
func (c *conn) Read(p []byte) (int, error) {
	if !c.shaken {
		if err := c.handshake(); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	if !c.body && !c.header(p[:n]) {
		const answer = "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n431 Request Header Fields Too Large\n"
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(c.Conn, answer) // whether it is heard or not
		return 0, io.EOF
	}
	return n, err
}

func (c *conn) handshake() error {
	_ = c.raw.SetWriteDeadline(time.Now().Add(headerTimeout)) // reading has one already
	if err := c.Handshake(); err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) && plain.Conn != nil && bytes.IndexByte([]byte("GPHDOCT"), plain.RecordHeader[0]) >= 0 {
			_, _ = io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		}
		c.all.log.Debug("TLS handshake failed", "remote", c.RemoteAddr().String(), "error", err)
		return io.EOF // net/http has nothing to say to it
	}
	_ = c.raw.SetWriteDeadline(time.Time{})
	c.raw.left = -1
	c.shaken = true
	// That the client holds the key was proved by the handshake (RFC 8446, section
	// 4.4.3); nothing else about its certificate matters.
	if certs := c.ConnectionState().PeerCertificates; len(certs) > 0 {
		c.key, c.hasKey = sha256.Sum256(certs[0].RawSubjectPublicKeyInfo), true
	}
	if err := c.all.identified(c); err != nil {
		return io.EOF
	}
	return nil
}

// header counts the lines of a header in p up to its end. False: there are too many.
func (c *conn) header(p []byte) bool {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			c.filled = c.filled || len(bytes.TrimRight(p, "\r")) > 0
			return true
		}
		if !c.filled && len(bytes.TrimRight(p[:i], "\r")) == 0 && c.lines > 0 {
			c.body = true
			return true
		}
		if c.lines++; c.lines > maxHeaderLines {
			return false
		}
		c.filled = false
		p = p[i+1:]
	}
	return true
}

// Close closes the connection and frees its place.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.all.mu.Lock()
		defer c.all.mu.Unlock()
		c.all.forget(c)
	})
	return c.Conn.Close()
}

// rawConn is the connection below TLS.
type rawConn struct {
	net.Conn
	left int // bytes that may still be read; negative: any
}

var errHandshake = errors.New("the TLS handshake is too long")

func (c *rawConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errHandshake
	}
	if c.left > 0 && len(p) > c.left {
		p = p[:c.left]
	}
	n, err := c.Conn.Read(p)
	if c.left > 0 {
		c.left -= n
	}
	return n, err
}
