package ship

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/wire"
)

// standin is a small receiver: it keeps episodes in memory, verifies them as
// the real one does, and does as it is told when something is to go wrong.
type standin struct {
	skew atomic.Int64 // of its clock, time.Duration

	mu       sync.Mutex
	window   wire.Window
	damaged  wire.Damaged
	stored   map[episode.ID]wire.Receipt
	uploads  map[string]*upload
	requests map[string]int // by method and kind
	posts    map[episode.ID]int
	bytes    int64 // of bodies
	reports  []wire.Report
	next     int
	now, max int // requests at once, and the most there were

	// fault, if not nil, may answer a request in its place.
	fault func(w http.ResponseWriter, r *http.Request) bool
	// tamper may change a receipt.
	tamper func(*wire.Receipt)
	// cutAfter breaks the connection after so many bytes of an append, once each.
	cutAfter []int64
}

type upload struct {
	ann  wire.Announcement
	data []byte // whole frames only
	held wire.Held
}

func newStandin() *standin {
	return &standin{window: wire.Window{ID: "w1"}, stored: map[episode.ID]wire.Receipt{}, uploads: map[string]*upload{},
		requests: map[string]int{}, posts: map[episode.ID]int{}}
}

func (s *standin) count() (stored int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.stored)
}

func (s *standin) seen(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[kind]
}

// told are the reports that came.
func (s *standin) told() []wire.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reports)
}

func (s *standin) setFault(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *standin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	kind := r.Method + " " + strings.Trim(r.URL.Path, "/")
	if strings.HasPrefix(r.URL.Path, wire.PathUploads) {
		kind = r.Method + " upload"
	}
	s.requests[kind]++
	if r.Method == http.MethodPost {
		if a, err := wire.ParseAnnouncement(r.Header.Values(wire.HeaderEpisode)); err == nil {
			s.posts[a.ID]++
		}
	}
	s.now++
	s.max = max(s.max, s.now)
	fault := s.fault
	window, damaged := s.window, s.damaged
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.now--
	}()
	if fault != nil && fault(w, r) {
		return
	}
	w.Header().Set(wire.HeaderWindow, strconv.Quote(window.ID))
	switch {
	case r.URL.Path == wire.PathSelf:
		writeJSON(w, 200, wire.Self{Host: "lab-01", Key: "sha256:00", Window: window, MaxSkew: 5 * time.Minute, ServerTime: s.clock(), ReceiverVersion: "test", Damaged: damaged})
	case r.URL.Path == wire.PathReport && r.Method == http.MethodPut:
		rep, err := wire.ReadReport(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.reports = append(s.reports, rep)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == wire.PathEpisodes && r.Method == http.MethodPost:
		s.post(w, r, window)
	case strings.HasPrefix(r.URL.Path, wire.PathUploads):
		s.upload(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *standin) clock() time.Time { return time.Now().Add(time.Duration(s.skew.Load())).UTC() }

func (s *standin) problem(w http.ResponseWriter, r *http.Request, c code.Code, detail string) {
	p := wire.NewProblem(c, detail, s.clock())
	if c == code.OutOfWindow {
		s.mu.Lock()
		win := s.window
		s.mu.Unlock()
		p.Window = &win
	}
	wire.WriteProblem(w, r, p)
}

func (s *standin) post(w http.ResponseWriter, r *http.Request, window wire.Window) {
	a, err := wire.ParseAnnouncement(r.Header.Values(wire.HeaderEpisode))
	if err != nil {
		s.problem(w, r, code.Malformed, err.Error())
		return
	}
	a.Host = "lab-01"
	if d := s.clock().Sub(a.Sent).Abs(); d > 5*time.Minute+time.Second {
		s.problem(w, r, code.ClockSkew, "the clocks differ by "+d.String())
		return
	}
	if why, ok := window.Admits(a.Started, a.Ended, s.clock()); !ok {
		s.problem(w, r, code.OutOfWindow, why)
		return
	}
	s.mu.Lock()
	got, ok := s.stored[a.ID]
	s.mu.Unlock()
	if ok {
		if got.BagDigest != a.Digest {
			s.problem(w, r, code.Conflict, "another content is stored")
			return
		}
		s.receipt(w, 200, got)
		return
	}
	complete, _ := wire.ParseBool(r.Header.Values(wire.HeaderUploadComplete))
	if complete {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		s.mu.Lock()
		s.bytes += int64(len(body))
		s.mu.Unlock()
		s.finish(w, r, a, body)
		return
	}
	s.mu.Lock()
	s.next++
	token := fmt.Sprintf("t%d", s.next)
	s.uploads[token] = &upload{ann: a}
	s.mu.Unlock()
	w.Header().Set("Location", wire.PathUploads+token)
	w.Header().Set(wire.HeaderUploadComplete, "?0")
	w.WriteHeader(201)
}

func (s *standin) finish(w http.ResponseWriter, r *http.Request, a wire.Announcement, archive []byte) {
	// Not pack's decoder: what is pooled in one bubble of synctest can't be used in another.
	d, err := zstd.NewReader(bytes.NewReader(archive), zstd.WithDecoderConcurrency(1))
	if err == nil {
		_, err = pack.Verify(d, a.Facts, pack.Limits{})
		d.Close()
	}
	if err != nil {
		c, _ := code.Of(err)
		if c == "" {
			c = code.DigestMismatch
		}
		w.Header().Set(wire.HeaderUploadComplete, "?1")
		s.problem(w, r, c, err.Error())
		return
	}
	got := wire.Receipt{Episode: a.ID, Host: a.Host, BagDigest: a.Digest, ArchiveSize: int64(len(archive)), StoredAt: s.clock(), ReceiverVersion: "test", WindowID: "w1"}
	s.mu.Lock()
	if s.tamper != nil {
		s.tamper(&got)
	} else {
		s.stored[a.ID] = got
	}
	s.mu.Unlock()
	s.receipt(w, 201, got)
}

func (s *standin) receipt(w http.ResponseWriter, status int, r wire.Receipt) {
	w.Header().Set(wire.HeaderUploadComplete, "?1")
	writeJSON(w, status, r)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, _ := json.Marshal(v)
	w.Header().Set("Content-Type", wire.MediaJSON)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	w.Write(b)
}

func (s *standin) upload(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.URL.Path, wire.PathUploads)
	s.mu.Lock()
	u := s.uploads[token]
	s.mu.Unlock()
	if u == nil {
		s.problem(w, r, code.UploadGone, "no such upload")
		return
	}
	if r.Method == http.MethodHead {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set(wire.HeaderUploadOffset, strconv.Itoa(len(u.data)))
		w.Header().Set(wire.HeaderUploadComplete, "?0")
		w.Header().Set(wire.HeaderHeld, wire.FormatHeld(u.held))
		w.WriteHeader(204)
		return
	}
	if at, ok := wire.ParseInteger(r.Header.Values(wire.HeaderUploadOffset)); !ok || at != int64(len(u.data)) {
		w.Header().Set(wire.HeaderUploadOffset, strconv.Itoa(len(u.data)))
		s.problem(w, r, code.OffsetMismatch, "elsewhere")
		return
	}
	limit := int64(-1)
	s.mu.Lock()
	if len(s.cutAfter) > 0 {
		limit, s.cutAfter = s.cutAfter[0], s.cutAfter[1:]
	}
	s.mu.Unlock()
	body := io.Reader(r.Body)
	if limit >= 0 {
		body = io.LimitReader(body, limit)
	}
	var scan pack.FrameScanner
	var frame []byte
	buf := make([]byte, 64<<10)
	var total int64
	var err error
	for {
		var n int
		n, err = body.Read(buf)
		total += int64(n)
		for p := buf[:n]; len(p) > 0; {
			k, done, serr := scan.Scan(p)
			if serr != nil {
				s.problem(w, r, code.Malformed, serr.Error())
				return
			}
			frame = append(frame, p[:k]...)
			p = p[k:]
			if done {
				s.mu.Lock()
				u.data = append(u.data, frame...)
				u.held.Frames++
				u.held.Content += scan.Frame().Content
				s.mu.Unlock()
				frame = frame[:0]
			}
		}
		if err != nil {
			break
		}
	}
	s.mu.Lock()
	s.bytes += total
	s.mu.Unlock()
	if err != io.EOF || limit >= 0 && total == limit {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	delete(s.uploads, token)
	s.mu.Unlock()
	s.finish(w, r, u.ann, u.data)
}

// direct is a transport that calls a handler: no sockets, so that time may be
// simulated. What breaks the connection or never answers does so here.
type direct struct {
	h http.Handler
	// dial, if it returns an error, is how connecting fails.
	dial atomic.Pointer[func(ctx context.Context) error]
	tcp  atomic.Int64 // attempts to connect
	now  atomic.Int64
	max  atomic.Int64 // the most at once
}

var errReset = errors.New("connection reset by peer")

func (d *direct) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	d.tcp.Add(1)
	if n := d.now.Add(1); n > d.max.Load() {
		d.max.Store(n)
	}
	defer d.now.Add(-1)
	defer func() {
		if r.Body != nil {
			r.Body.Close()
		}
	}()
	if dial := d.dial.Load(); dial != nil {
		if err := (*dial)(r.Context()); err != nil {
			return nil, err
		}
	}
	defer func() {
		switch p := recover(); {
		case p == nil:
		case p == http.ErrAbortHandler:
			resp, err = nil, errReset
		default:
			panic(p)
		}
	}()
	rec := httptest.NewRecorder()
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	d.h.ServeHTTP(rec, in)
	if err := r.Context().Err(); err != nil {
		return nil, context.Cause(r.Context())
	}
	resp = rec.Result()
	resp.Request = r
	if r.Method == http.MethodHead {
		resp.Body = http.NoBody
	}
	return resp, nil
}

// serveTLS runs h behind a real listener.
func serveTLS(t *testing.T, h http.Handler, c *tls.Config) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(tls.NewListener(ln, c))
	t.Cleanup(func() { srv.Close() })
	return ln.Addr()
}
