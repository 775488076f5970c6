package ship

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/identity"
	"cis490/src/transport"
	"cis490/src/version"
	"cis490/src/wire"
)

// client speaks to one receiver.
type client struct {
	transport http.RoundTripper
	tls       *identity.Client // explains failed handshakes; may be nil
	base      *url.URL
	episodes  *url.URL
	self      *url.URL
	audits    *url.URL
	reports   *url.URL
	agent     []string
	window    func(id string) // told the window id of every answer of the receiver
}

func newClient(cfg config.LabHost, transport http.RoundTripper, id *identity.Client, window func(string)) *client {
	// With an empty path JoinPath would make relative ones, which a server refuses.
	at := func(path string) *url.URL {
		return &url.URL{Scheme: cfg.Receiver.URL.Scheme, Host: cfg.Receiver.URL.Host, Path: path}
	}
	return &client{
		transport: transport, tls: id, window: window,
		base: at(""), episodes: at(wire.PathEpisodes), self: at(wire.PathSelf), audits: at(wire.PathAudit), reports: at(wire.PathReport),
		agent: []string{"cis490-shipper/" + version.String()},
	}
}

// newTransport is the transport of a host: HTTP/1.1 (one connection for each
// worker, and no flow-control window over several), mutual TLS 1.3.
func newTransport(cfg config.LabHost, id *identity.Client, p *pace) *http.Transport {
	d := &net.Dialer{
		Timeout: cfg.Shipper.ConnectTimeout, // name lookup included
		Control: func(_, _ string, raw syscall.RawConn) error {
			// Bytes that wait in the kernel unsent are bytes that look handed
			// over: keep them few.
			return raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, 256<<10)
			})
		},
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return p.conn(c), nil
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		TLSHandshakeTimeout:    cfg.Shipper.ConnectTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    cfg.Shipper.UploadWorkers + 1,
		MaxConnsPerHost:        cfg.Shipper.UploadWorkers + 1, // and the poll's; else more are opened than are used
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        64 << 10,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	if id != nil {
		t.TLSClientConfig = id.Config()
		// Records begin at full size: nothing here waits for a first byte.
		t.TLSClientConfig.DynamicRecordSizingDisabled = true
	}
	return t
}

// failure is why something asked of the receiver did not succeed.
type failure struct {
	why      *code.Error
	status   int          // HTTP status; 0: no answer
	answered bool         // the receiver itself said so, by our code
	window   *wire.Window // as told with an out-of-window
	windowID string
	parked   bool // ended by our own stop; says nothing about anything
}

func (f *failure) code() code.Code { return f.why.Code }

// Error makes a failure an error for those who only print it.
func (f *failure) Error() string { return f.why.Error() }

// Unwrap gives the coded error.
func (f *failure) Unwrap() error { return f.why }

// request is one request.
type request struct {
	method string
	url    *url.URL
	header http.Header
	length int64
	body   io.ReadCloser
	again  func() (io.ReadCloser, error) // the same body from its start
	stream func(context.Context) *body   // instead of body: of unknown length
	hooks  hooks
}

// do sends r and hands a final answer, whatever its status, to read. The meter
// watches all of it, and cancels it when it stops moving.
func (c *client) do(ctx context.Context, m *meter, r request, read func(*http.Response) *failure) *failure {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.header["User-Agent"] = c.agent
	r.header[wire.HeaderInterop] = []string{wire.InteropVersion}
	req := &http.Request{
		Method: r.method, URL: r.url, Host: r.url.Host, Header: r.header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: r.body, GetBody: r.again, ContentLength: r.length,
	}
	req = req.WithContext(m.begin(ctx, cancel, r.hooks))
	var b *body
	if r.stream != nil {
		b = r.stream(ctx)
		defer b.abort()
		req.Body, req.ContentLength = b, -1
	} else if r.length == 0 {
		m.sent.Store(true)
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil && b == nil && m.reused.Load() && ctx.Err() == nil {
		// The server, or a proxy, had just given up the idle connection. The
		// transport repeats what met its end before a byte was written; every
		// request without a stream may be repeated after that, too.
		resp, err = c.repeat(req, m, r, err)
	}
	if err != nil {
		return c.explain(ctx, err, m.end(), b)
	}
	if b != nil {
		// An answer in mid-body is a refusal: what is left need not be sent.
		b.pause()
		m.sent.Store(true)
	}
	if id := transport.WindowID(resp); id != "" {
		c.window(id)
	}
	f := read(resp)
	// A few bytes more let the connection be used again.
	_, rerr := io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close() // it has been read as far as it is wanted
	if cause := m.end(); cause != nil && f != nil && rerr != io.EOF {
		return &failure{why: cause}
	}
	return f
}

// repeat sends a request once more, on a connection that was not idle before. It
// returns the first error if it can't.
func (c *client) repeat(req *http.Request, m *meter, r request, first error) (*http.Response, error) {
	if idle, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		idle.CloseIdleConnections()
	}
	if r.again != nil {
		body, err := r.again()
		if err != nil {
			return nil, first
		}
		req.Body = body
	} else if r.body != nil {
		return nil, first
	}
	m.sent.Store(r.length == 0)
	return c.transport.RoundTrip(req)
}

// explain says why a request had no answer.
func (c *client) explain(ctx context.Context, err error, cause *code.Error, b *body) *failure {
	if b != nil {
		switch berr := b.failed(); {
		case berr == nil:
		case errors.Is(berr, errParked):
			return &failure{why: code.Wrap(code.Cut, berr, ""), parked: true}
		default:
			var e *code.Error
			if errors.As(berr, &e) {
				return &failure{why: e}
			}
			if ctx.Err() == nil {
				return &failure{why: code.Wrap(code.ReadFailed, berr, "pack")}
			}
		}
	}
	if cause != nil {
		return &failure{why: cause}
	}
	if ctx.Err() != nil {
		return &failure{why: code.Wrap(code.Cut, context.Cause(ctx), "the shipper stops"), parked: true}
	}
	return &failure{why: transport.Classify(err, c.tls, c.base.Host)}
}

// refused reads an answer that is not a success.
func refused(r *http.Response) *failure {
	v := transport.Refused(r)
	return &failure{why: v.Why, status: r.StatusCode, answered: v.Answered, window: v.Window, windowID: v.WindowID}
}

// notOurs is an answer that claims success without being the receiver's.
func notOurs(r *http.Response, what string) *failure {
	return &failure{status: r.StatusCode,
		why: code.New(code.ReceiverError, "status %d, but %s: something else than the receiver answers there; check receiver.url", r.StatusCode, what)}
}

// unread is an answer whose body can't be taken: cut, or not what it should be.
func unread(r *http.Response, err error, what string) *failure {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if err == nil || err == io.EOF || errors.As(err, &syntax) || errors.As(err, &kind) {
		return notOurs(r, what)
	}
	return &failure{status: r.StatusCode, why: code.Wrap(code.Cut, err, "in the answer")}
}

func success(r *http.Response) bool { return r.StatusCode >= 200 && r.StatusCode < 300 }

// whoami asks the receiver for its state: GET /v1/hosts/self.
func (c *client) whoami(ctx context.Context, m *meter) (self wire.Self, took time.Duration, f *failure) {
	began := time.Now()
	f = c.do(ctx, m, request{method: http.MethodGet, url: c.self, header: http.Header{}}, func(r *http.Response) *failure {
		if !success(r) {
			return refused(r)
		}
		if err := wire.ReadJSON(r.Body, &self); err != nil || self.ServerTime.IsZero() || self.Key == "" && self.Host == "" {
			return unread(r, err, "no description of this host")
		}
		return nil
	})
	return self, time.Since(began), f
}
