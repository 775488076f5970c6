package ship

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"cis490/src/liveness"
)

// brokenIdle is a transport whose first connections, all reused, break while the
// request is written.
type brokenIdle struct {
	breaks int
	reused bool
	calls  int
	closed int
	bodies []string
}

func (b *brokenIdle) CloseIdleConnections() { b.closed++ }

func (b *brokenIdle) RoundTrip(r *http.Request) (*http.Response, error) {
	b.calls++
	httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{Reused: b.reused && b.calls <= b.breaks})
	if b.calls <= b.breaks {
		if r.Body != nil {
			_, _ = r.Body.Read(make([]byte, 3))
			r.Body.Close()
		}
		return nil, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	if r.Body != nil {
		got, _ := io.ReadAll(r.Body)
		b.bodies = append(b.bodies, string(got))
		r.Body.Close()
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}, nil
}

// A connection that ends while it is taken from the idle ones says nothing about
// the path: the request is repeated, once, and whole.
func TestRepeatsWhatMetAnEndingIdleConnection(t *testing.T) {
	t.Parallel()
	payload := []byte("a whole episode")
	for _, c := range []struct {
		name          string
		tr            brokenIdle
		body          bool
		wantCalls     int
		wantDelivered bool
	}{
		{"with a body", brokenIdle{breaks: 1, reused: true}, true, 2, true},
		{"without a body", brokenIdle{breaks: 1, reused: true}, false, 2, true},
		{"only once", brokenIdle{breaks: 2, reused: true}, true, 2, false},
		{"not on a fresh connection", brokenIdle{breaks: 1}, true, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := c.tr
			cl := &client{transport: &tr, base: &url.URL{Scheme: "http", Host: "receiver"}, window: func(string) {}}
			m := newMeter(time.Second, time.Second, time.Second, liveness.NewTracker().Worker("test"))
			r := request{method: http.MethodPost, url: cl.base, header: http.Header{}}
			if c.body {
				r.length = int64(len(payload))
				r.again = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(payload)), nil }
				r.body, _ = r.again()
			}
			f := cl.do(t.Context(), m, r, func(*http.Response) *failure { return nil })
			if (f == nil) != c.wantDelivered || tr.calls != c.wantCalls {
				t.Fatalf("failure %v after %d calls; want delivered %v after %d", f, tr.calls, c.wantDelivered, c.wantCalls)
			}
			if c.wantDelivered && tr.closed != 1 {
				t.Errorf("the idle connections were closed %d times, want once", tr.closed)
			}
			if c.wantDelivered && c.body && (len(tr.bodies) != 1 || tr.bodies[0] != string(payload)) {
				t.Errorf("arrived: %q", tr.bodies)
			}
		})
	}
}
