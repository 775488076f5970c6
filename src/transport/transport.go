// Package transport says in codes what went wrong between a host and its
// receiver.
//
// It promises a code for every error of net/http and every answer that is no
// success, the same one to the shipper and to the doctor, and that an answer is
// taken for the receiver's only if it carries a code that a receiver has.
package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/identity"
	"cis490/src/wire"
)

// Classify finds the code for an error of a request to the receiver at host
// (host:port) for which there was no answer. id explains failed handshakes; nil:
// there was no TLS.
func Classify(err error, id *identity.Client, host string) *code.Error {
	var known *code.Error
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var op *net.OpError
	text := err.Error()
	// A TLS alert (RFC 8446, section 6) about a certificate is about ours.
	if errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Err.Error(), "certificate") {
		return code.New(code.HostUnknown, "what answers at %s refused this host's certificate: %s", host, op.Err)
	}
	if id != nil {
		if e := id.Explain(err); e != nil {
			return e
		}
	}
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &dns):
		return code.New(code.DNSFailed, "%s", dns.Error())
	case errors.As(err, &record), strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return code.New(code.Unreachable, "what answers at %s does not speak TLS", host)
	case op != nil && op.Op == "remote error":
		return code.New(code.Unreachable, "TLS with %s failed: %s", host, op.Err)
	case isTimeout(err):
		return code.New(code.TimedOut, "%s", text)
	case op != nil && (op.Op == "dial" || op.Op == "proxyconnect"), isUnreachable(err):
		return code.New(code.Unreachable, "%s", text)
	}
	return code.New(code.Cut, "%s", text)
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func isUnreachable(err error) bool {
	for _, e := range []syscall.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENETDOWN, unix.EHOSTDOWN, unix.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Refusal is an answer that is no success.
type Refusal struct {
	Why      *code.Error
	Answered bool         // the receiver itself said so, by our code
	Window   *wire.Window // as told with an out-of-window
	WindowID string
	Problem  wire.Problem // what was said
}

// Refused reads an answer that is not a success.
func Refused(r *http.Response) Refusal {
	p, ok := wire.ReadProblem(r)
	if ok {
		i := p.Code.Info()
		clientError := r.StatusCode >= 400 && r.StatusCode < 500
		// A code that never travels, and a verdict over an episode under a
		// status that is none, is not the receiver's.
		ok = i.Status != 0 && i.Class != code.Done && (i.Class != code.OfEpisode || clientError)
	}
	v := Refusal{Answered: ok, Problem: p}
	if ok {
		v.Window, v.WindowID = p.Window, WindowID(r)
		if p.Window != nil && p.Window.ID != "" {
			v.WindowID = p.Window.ID
		}
		v.Why = &code.Error{Code: p.Code, Detail: p.Detail, RetryAfter: p.RetryAfter}
		return v
	}
	said := "status " + strconv.Itoa(r.StatusCode)
	if t := http.StatusText(r.StatusCode); t != "" {
		said += " " + t
	}
	if s := r.Header.Get("Server"); s != "" {
		said += " from a server that calls itself " + strconv.Quote(s)
	}
	c := code.ReceiverError
	switch {
	case r.StatusCode == http.StatusInsufficientStorage:
		c = code.ReceiverFull
	case r.StatusCode == http.StatusTooManyRequests, r.StatusCode == http.StatusServiceUnavailable && p.RetryAfter > 0:
		c = code.ReceiverBusy
	case r.StatusCode >= 400 && r.StatusCode < 500:
		c = code.Unmarked4xx
	}
	v.Why = &code.Error{Code: c, Detail: said + ", without a code of the receiver's", RetryAfter: p.RetryAfter}
	return v
}

// WindowID is the id of the receiver's window as every answer carries it; "" is
// none. It is a structured string (RFC 9651, section 3.3.3) with nothing in it
// that would be escaped.
func WindowID(r *http.Response) string { return strings.Trim(r.Header.Get(wire.HeaderWindow), `"`) }
