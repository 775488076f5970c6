package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/version"
	"cis490/src/wire"
)

const (
	headerTimeout = 10 * time.Second // handshake, and header of a request
	idleTimeout   = 2 * time.Minute  // between requests of a connection

	statusTooManyRequests = http.StatusTooManyRequests
)

// exchange is one request and its answer.
type exchange struct {
	r       *Receiver
	w       http.ResponseWriter
	req     *http.Request
	rc      *http.ResponseController
	st      *settings
	now     time.Time
	host    string
	key     hosts.Key
	id      episode.ID // zero until known
	interop bool       // the client speaks the draft's version that we speak: it may be sent 104

	creation [][2]string // fields of interim answers to a request that creates an upload
	told     int64       // the offset that the last interim answer told

	answered bool // a final answer was begun
	bodyRead bool // something was read of the body
	bodyDone bool // the body's end was seen
	bytes    int64
}

// refusal is a code.Error with what else its answer needs.
type refusal struct {
	err         *code.Error
	status      int          // instead of the code's own
	window      *wire.Window // for out-of-window
	header      [][2]string
	expect, got *int64 // offsets, for offset-mismatch
}

func (e *refusal) Error() string { return e.err.Error() }
func (e *refusal) Unwrap() error { return e.err }

// plainError is an answer without one of our codes: the request was not one that
// a shipper makes, and nothing about an episode follows from it.
type plainError struct {
	status int
	detail string
	header [][2]string
}

func (e *plainError) Error() string { return e.detail }

// ServeHTTP answers one request of a host.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	x := &exchange{r: r, w: w, req: req, rc: http.NewResponseController(w), st: r.settings.Load(), now: r.now()}
	x.bodyDone = req.Body == nil || req.Body == http.NoBody
	defer x.recoverPanic()
	w.Header().Set(wire.HeaderWindow, strconv.Quote(x.st.window.ID))
	if err := x.route(); err != nil {
		x.fail(err)
	}
}

// recoverPanic turns a panic into receiver-error: one bad request must not take
// the other hosts' uploads along.
func (x *exchange) recoverPanic() {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // the value itself is the signal
		panic(p)
	}
	x.r.log.Error("panic while answering a request", "host", x.host, "method", x.req.Method, "path", x.req.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if x.answered {
		panic(http.ErrAbortHandler)
	}
	x.fail(code.New(code.ReceiverError, "the receiver failed inside; see its journal"))
}

func (x *exchange) route() error {
	path, method := x.req.URL.Path, x.req.Method
	if path == wire.PathHealth {
		return x.health()
	}
	if err := x.identify(); err != nil {
		return err
	}
	x.interop = x.req.ProtoAtLeast(1, 1) && x.req.Header.Get(wire.HeaderInterop) == wire.InteropVersion
	token, isUpload := strings.CutPrefix(path, wire.PathUploads)
	switch {
	case path == wire.PathEpisodes:
		switch method {
		case http.MethodPost:
			return x.create()
		case http.MethodOptions:
			return x.options()
		}
		return notAllowed("OPTIONS, POST")
	case isUpload:
		switch method {
		case http.MethodHead, http.MethodGet:
			return x.query(token)
		case http.MethodPatch:
			return x.append(token)
		case http.MethodDelete:
			return x.delete(token)
		}
		return notAllowed("DELETE, GET, HEAD, PATCH")
	case path == wire.PathSelf:
		if method == http.MethodGet || method == http.MethodHead {
			return x.self()
		}
		return notAllowed("GET, HEAD")
	}
	if path == wire.PathAudit {
		if method == http.MethodPost {
			return x.audit()
		}
		return notAllowed("POST")
	}
	if path == wire.PathReport {
		if method == http.MethodPut {
			return x.report()
		}
		return notAllowed("PUT")
	}
	return &plainError{status: http.StatusNotFound, detail: "there is nothing at this path; the receiver serves " + wire.PathEpisodes}
}

func notAllowed(allow string) error {
	return &plainError{status: http.StatusMethodNotAllowed, detail: "this path takes " + allow, header: [][2]string{{"Allow", allow}}}
}

// identify finds the host whose key spoke.
func (x *exchange) identify() (err error) {
	c, ok := x.req.Context().Value(connKey{}).(*conn)
	if !ok || !c.hasKey {
		return code.New(code.HostUnknown, "the connection carries no client certificate; the host's is in identity/ below its data_dir")
	}
	x.key = c.key
	if x.host, err = x.r.hosts.Lookup(x.key); err == nil {
		x.r.fleet.spoke(x.host, x.now)
		x.r.notes.accepted(x.host, x.key.String())
	}
	return err
}

func (x *exchange) health() error {
	x.answered = true
	x.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	x.w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(x.w, "ok\n")
	return nil
}

func (x *exchange) self() error {
	l := x.st.cfg.Limits
	damaged, err := x.r.store.Damaged(x.req.Context(), x.host)
	if err != nil {
		return err
	}
	return x.answer(http.StatusOK, wire.Self{
		Host: x.host, Key: x.key.String(), Window: x.st.window, MaxSkew: x.st.cfg.MaxSkew,
		Limits:     wire.Limits{EpisodeSize: int64(l.EpisodeSize), EpisodeFiles: int64(l.EpisodeFiles)},
		ServerTime: x.now.UTC(), ReceiverVersion: version.String(), Damaged: damaged,
	})
}

func (x *exchange) options() error {
	h := x.w.Header()
	l := x.st.cfg.Limits
	h.Set(wire.HeaderUploadLimit, wire.FormatUploadLimit(wire.UploadLimit{
		MaxSize: newBounds(wire.Announcement{Facts: episode.Facts{Size: int64(l.EpisodeSize), Files: int64(l.EpisodeFiles)}}, l).archive,
		MaxAge:  x.st.cfg.UploadMaxAge,
	}))
	h.Set("Allow", "OPTIONS, POST")
	h.Set("Cache-Control", "no-store")
	return x.answer(http.StatusNoContent, nil)
}

// answer sends a final answer; body may be nil.
func (x *exchange) answer(status int, body any) error {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return err
		}
		b = append(b, '\n')
		x.w.Header().Set("Content-Type", wire.MediaJSON)
		x.w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	}
	linger := x.settle()
	x.answered = true
	x.w.WriteHeader(status)
	if len(b) > 0 && x.req.Method != http.MethodHead {
		_, _ = x.w.Write(b) // a client that has gone needs no answer
	}
	if linger {
		x.linger()
	}
	return nil
}

// receipt answers that the episode is stored.
func (x *exchange) receipt(c code.Code, receipt wire.Receipt) error {
	x.w.Header().Set(wire.HeaderUploadComplete, wire.FormatBool(true))
	x.w.Header().Set(wire.HeaderCode, string(c))
	return x.answer(c.Info().Status, receipt)
}

// fail answers with an error.
func (x *exchange) fail(err error) {
	if errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
	h := x.w.Header()
	var plain *plainError
	if errors.As(err, &plain) {
		for _, kv := range plain.header {
			h.Set(kv[0], kv[1])
		}
		x.plain(plain)
		return
	}
	var c *code.Error
	if !errors.As(err, &c) {
		c = code.Wrap(code.ReceiverError, err, "")
	}
	detail := c.Detail
	if c.Code == code.ReceiverError {
		// What failed inside is for the journal.
		x.r.log.Error("a request failed", "host", x.host, "episode", x.idText(), "error", err)
	} else {
		detail = detailOf(c)
	}
	if c.Code.Class() == code.OfEpisode {
		h.Set(wire.HeaderUploadComplete, wire.FormatBool(true)) // no more of it is wanted
	}
	p := wire.NewProblem(c.Code, detail, x.now)
	p.RetryAfter = c.RetryAfter
	var more *refusal
	if errors.As(err, &more) {
		if more.status != 0 {
			p.Status = more.status
		}
		p.Window, p.ExpectedOffset, p.ProvidedOffset = more.window, more.expect, more.got
		for _, kv := range more.header {
			h.Set(kv[0], kv[1])
		}
	}
	if p.Status == 0 { // a code that is not meant to travel
		p.Status = http.StatusInternalServerError
	}
	x.r.noteRefusal(x.event(), c.Code, detail, p.Status)
	x.problem(p)
}

func (x *exchange) problem(p wire.Problem) {
	linger := x.settle()
	x.answered = true
	wire.WriteProblem(x.w, x.req, p)
	if linger {
		x.linger()
	}
}

// detailOf puts an error and its causes into words, without the codes within.
func detailOf(c *code.Error) string {
	if c.Err == nil {
		return c.Detail
	}
	cause := c.Err.Error()
	var inner *code.Error
	if errors.As(c.Err, &inner) {
		cause = detailOf(inner)
	}
	if c.Detail == "" || cause == "" {
		return c.Detail + cause
	}
	return c.Detail + ": " + cause
}

// plain answers with a problem that has no code of ours (RFC 9457, section 4.2.1).
func (x *exchange) plain(e *plainError) {
	b, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(e.status), e.status, e.detail})
	if err != nil { // strings and numbers can be marshalled
		panic(err)
	}
	b = append(b, '\n')
	h := x.w.Header()
	h.Set("Content-Type", wire.MediaProblem)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	linger := x.settle()
	x.answered = true
	x.w.WriteHeader(e.status)
	if x.req.Method != http.MethodHead {
		_, _ = x.w.Write(b) // a client that has gone needs no answer
	}
	if linger {
		x.linger()
	}
}

func (x *exchange) idText() string {
	if x.id.IsZero() {
		return ""
	}
	return x.id.String()
}

// The rest of a body that is not wanted is read, within bounds, for the sake of
// clients that read the answer only after they have sent everything, or whose
// system drops an answer when the connection is reset (RFC 9112, section 9.6).
const (
	lingerTime  = 3 * time.Second
	lingerBytes = 64 << 20
)

// settle prepares for a final answer while the body may not be read yet. A short
// rest is read first, so that the connection can be used again. With a long one,
// or of unknown length, the connection will be closed; the caller then calls
// linger after the answer.
func (x *exchange) settle() (linger bool) {
	switch {
	case x.bodyDone:
		return false
	case !x.bodyRead && strings.EqualFold(x.req.Header.Get("Expect"), "100-continue"):
		return false // the client waits for our word, and net/http closes the connection
	case x.req.ContentLength >= 0 && x.req.ContentLength-x.bytes <= smallBody:
		_ = x.rc.SetReadDeadline(time.Now().Add(lingerTime))
		_, err := io.Copy(io.Discard, x.req.Body)
		_ = x.rc.SetReadDeadline(time.Time{})
		if x.bodyDone = err == nil; x.bodyDone {
			return false
		}
	}
	x.w.Header().Set("Connection", "close")
	return true
}

func (x *exchange) linger() {
	if x.rc.Flush() == nil {
		_ = x.rc.SetReadDeadline(time.Now().Add(lingerTime))
		_, err := io.CopyN(io.Discard, x.req.Body, lingerBytes)
		// A body of chunks gives nothing more after a deadline that has passed, as at a verdict in mid-body.
		if c, ok := x.req.Context().Value(connKey{}).(*conn); ok && err != nil && err != io.EOF {
			_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
		}
	}
	_ = x.rc.SetReadDeadline(time.Unix(1, 0)) // net/http must not wait for more
}

// interim sends a 104 with the given fields (the draft, section "Status Code
// 104"), if the client may be sent one.
func (x *exchange) interim(fields ...[2]string) {
	if !x.interop {
		return
	}
	h := x.w.Header()
	h.Set(wire.HeaderInterop, wire.InteropVersion)
	for _, f := range fields {
		h.Set(f[0], f[1])
	}
	x.w.WriteHeader(wire.StatusUploadResumption)
	for _, f := range fields {
		h.Del(f[0])
	}
}
