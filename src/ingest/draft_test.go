package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/pack"
	"cis490/src/wire"
)

// The edge cases of draft-ietf-httpbis-resumable-upload, interop version 8.

func problem(t *testing.T, a *answer) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatalf("%v in %s", err, a)
	}
	return m
}

func TestWrongOffset(t *testing.T) {
	g := newRig(t)
	p := g.host.big(1, 2)
	all := p.bytes()
	path := g.host.begin(p)
	want(t, g.host.do(patch(path, 0, false, all[:5000])), http.StatusNoContent, "")
	for _, at := range []int64{0, 4999, 5001, int64(len(all))} {
		a := g.host.do(patch(path, at, true, all[4999:]))
		want(t, a, http.StatusConflict, code.OffsetMismatch)
		if offset(t, a) != 5000 || a.Header.Get(wire.HeaderUploadComplete) != "?0" {
			t.Errorf("offset %d: %s", at, a)
		}
		m := problem(t, a)
		if m["type"] != wire.TypeMismatchingOffset || m["expected-offset"] != 5000. || m["provided-offset"] != float64(at) {
			t.Errorf("offset %d: %s", at, a.body)
		}
		held(t, a)
	}
	receipt(t, g.host.do(patch(path, 5000, true, all[5000:])), p, code.Stored)
}

func TestWrongLength(t *testing.T) {
	g := newRig(t)
	p := g.host.big(2, 2)
	all := p.bytes()
	n := int64(len(all))
	ann := p.announcement()
	check := func(what string, a *answer) {
		t.Helper()
		want(t, a, http.StatusBadRequest, code.LengthMismatch)
		if m := problem(t, a); m["type"] != wire.TypeInconsistentLength || a.Header.Get(wire.HeaderUploadComplete) != "?0" {
			t.Errorf("%s: %s", what, a)
		}
	}
	// Content-Length and Upload-Length of one request.
	check("creation", g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(all),
		header: map[string]string{wire.HeaderUploadComplete: "?1", wire.HeaderUploadLength: strconv.FormatInt(n+1, 10)}}))

	// Two requests that tell different lengths; nothing is lost by it.
	a := g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann,
		header: map[string]string{wire.HeaderUploadComplete: "?0", wire.HeaderUploadLength: strconv.FormatInt(n, 10)}})
	want(t, a, http.StatusCreated, "")
	path := a.Header.Get("Location")
	want(t, g.host.do(patch(path, 0, false, all[:1000])), http.StatusNoContent, "")
	h := g.host.head(path)
	if got := h.Header.Get(wire.HeaderUploadLength); got != strconv.FormatInt(n, 10) {
		t.Errorf("Upload-Length %q; want %d", got, n)
	}
	check("too little", g.host.do(patch(path, 1000, true, all[1000:n-1])))
	check("too much", g.host.do(patch(path, 1000, true, append(bytes.Clone(all[1000:]), 0))))
	want(t, g.host.head(path), http.StatusNoContent, "")

	// A body of unknown length that ends early is told so at its end, and can go on.
	q := patch(path, 1000, true, nil)
	q.body = io.MultiReader(bytes.NewReader(all[1000 : n-7]))
	check("ends early", g.host.do(q))
	h = g.host.head(path)
	want(t, h, http.StatusNoContent, "")
	if offset(t, h) != n-7 {
		t.Errorf("offset %d; want %d", offset(t, h), n-7)
	}
	receipt(t, g.host.do(patch(path, n-7, true, all[n-7:])), p, code.Stored)

	// One that goes beyond the length makes the upload invalid.
	p2 := g.host.big(3, 2)
	ann = p2.announcement()
	a = g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann,
		header: map[string]string{wire.HeaderUploadComplete: "?0", wire.HeaderUploadLength: "1000"}})
	path = a.Header.Get("Location")
	q = patch(path, 0, false, nil)
	q.body = io.MultiReader(bytes.NewReader(p2.bytes()))
	want(t, g.host.do(q), http.StatusBadRequest, code.LengthMismatch)
	want(t, g.host.head(path), http.StatusBadRequest, code.LengthMismatch)
	want(t, g.host.do(patch(path, 0, true, p2.bytes()[:1000])), http.StatusBadRequest, code.LengthMismatch)
}

func TestAppendToFinished(t *testing.T) {
	g := newRig(t)
	p := g.host.big(4, 2)
	all := p.bytes()
	path := g.host.begin(p)
	first := receipt(t, g.host.do(patch(path, 0, true, all)), p, code.Stored)

	// The answer may have been lost: a valid append to it gets it again.
	if again := receipt(t, g.host.do(patch(path, int64(len(all)), true, nil)), p, code.Stored); again != first {
		t.Errorf("another receipt: %+v, %+v", again, first)
	}
	// Bytes can't be added, and a wrong offset is a wrong offset.
	a := g.host.do(patch(path, int64(len(all)), false, []byte("more")))
	want(t, a, http.StatusBadRequest, code.LengthMismatch)
	if a.Header.Get(wire.HeaderUploadComplete) != "?0" {
		t.Errorf("%s", a)
	}
	want(t, g.host.do(patch(path, 0, true, all)), http.StatusConflict, code.OffsetMismatch)
	g.stored(p)
}

func TestAppendWithoutItsFields(t *testing.T) {
	g := newRig(t)
	p := g.host.big(5, 2)
	path := g.host.begin(p)
	for field, status := range map[string]int{"Content-Type": 415, wire.HeaderUploadOffset: 400, wire.HeaderUploadComplete: 400} {
		q := patch(path, 0, false, []byte("x"))
		q.header[field] = ""
		if field == "Content-Type" {
			q.header[field] = "application/octet-stream"
		}
		a := g.host.do(q)
		// Without a code: it is not for a shipper to conclude anything about its episode.
		want(t, a, status, "")
		if status == 415 && a.Header.Get("Accept-Patch") != wire.MediaPartial {
			t.Errorf("no Accept-Patch: %s", a)
		}
	}
	// A field of another type counts as absent.
	q := patch(path, 0, false, []byte("x"))
	q.header[wire.HeaderUploadComplete] = "1"
	want(t, g.host.do(q), 400, "")
	receipt(t, g.host.do(patch(path, 0, true, p.bytes())), p, code.Stored)
}

func TestDelete(t *testing.T) {
	g := newRig(t)
	p := g.host.big(6, 2)
	path := g.host.begin(p)
	want(t, g.host.do(patch(path, 0, false, p.bytes()[:1<<20])), http.StatusNoContent, "")
	want(t, g.host.do(request{method: "DELETE", path: path}), http.StatusNoContent, "")
	for _, q := range []request{{method: "HEAD", path: path}, {method: "GET", path: path}, {method: "DELETE", path: path}, patch(path, 0, true, p.bytes())} {
		want(t, g.host.do(q), http.StatusGone, code.UploadGone)
	}
	if n := len(incoming(t, g)); n != 0 {
		t.Errorf("%d files are left in incoming/", n)
	}

	// It ends a request that is under way.
	path = g.host.begin(p)
	body := &cutBody{b: p.bytes()[:100_000], wait: make(chan struct{})}
	q := patch(path, 0, true, nil)
	q.body, q.length = body, int64(len(p.bytes()))
	done := make(chan error, 1)
	go func() { _, err := g.host.try(q); done <- err }()
	waitFor(t, "the request to be under way", func() bool { return g.r.slots.inUse() == 1 })
	want(t, g.host.do(request{method: "DELETE", path: path}), http.StatusNoContent, "")
	waitFor(t, "the older request to end at the receiver", func() bool { return g.r.slots.inUse() == 0 })
	close(body.wait) // the client waits for its body
	if err := <-done; err == nil {
		t.Error("the request went on after DELETE")
	}
	want(t, g.host.head(path), http.StatusGone, code.UploadGone)
	waitFor(t, "its place to be free", func() bool { return g.r.slots.inUse() == 0 })
}

func TestTwoAppendsAtOnce(t *testing.T) {
	g := newRig(t)
	p := g.host.big(7, 4)
	all := p.bytes()
	path := g.host.begin(p)
	body := &cutBody{b: all[:2<<20], wait: make(chan struct{})}
	q := patch(path, 0, true, nil)
	q.body, q.length = body, int64(len(all))
	done := make(chan error, 1)
	go func() { _, err := g.host.try(q); done <- err }()
	waitFor(t, "the first request to be under way", func() bool { return size(g, path) >= int64(len(p.frames[0])) })

	// The newer one ends the older, whose whole frames stay.
	began := time.Now()
	a := g.host.do(patch(path, 0, true, all))
	want(t, a, http.StatusConflict, code.OffsetMismatch)
	waitFor(t, "the older request to end at the receiver", func() bool { return g.r.slots.inUse() == 0 })
	close(body.wait) // the client waits for its body
	if err := <-done; err == nil {
		t.Error("the older request went on")
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("the older request held the newer one up for %s", d)
	}
	at := offset(t, a)
	if at != int64(len(p.frames[0])) && at != int64(len(p.frames[0])+len(p.frames[1])) {
		t.Errorf("offset %d is not the end of a frame", at)
	}
	if h := held(t, a); h.Content != h.Frames*pack.FrameSize || h.Frames < 1 {
		t.Errorf("held %+v", h)
	}
	receipt(t, g.host.do(patch(path, at, true, all[at:])), p, code.Stored)
	g.stored(p)
}

// HEAD ends a request that is under way too: the offset it tells must hold.
func TestHeadEndsOlderRequest(t *testing.T) {
	g := newRig(t)
	p := g.host.big(8, 3)
	all := p.bytes()
	path := g.host.begin(p)
	body := &cutBody{b: all[:1<<20+500_000], wait: make(chan struct{})}
	q := patch(path, 0, true, nil)
	q.body, q.length = body, int64(len(all))
	done := make(chan error, 1)
	go func() { _, err := g.host.try(q); done <- err }()
	waitFor(t, "the request to be under way", func() bool { return size(g, path) >= int64(len(p.frames[0])) })
	h := g.host.head(path)
	want(t, h, http.StatusNoContent, "")
	waitFor(t, "the older request to end at the receiver", func() bool { return g.r.slots.inUse() == 0 })
	close(body.wait) // the client waits for its body
	if err := <-done; err == nil {
		t.Error("the older request went on")
	}
	receipt(t, g.host.do(patch(path, offset(t, h), true, all[offset(t, h):])), p, code.Stored)
}

func TestManyTakeTurns(t *testing.T) {
	g := newRig(t)
	p := g.host.big(9, 3)
	all := p.bytes()
	path := g.host.begin(p)
	// However many requests fight over an upload, it stays consistent.
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stored := make(chan *answer, 8)
	for range 6 {
		wg.Go(func() {
			for ctx.Err() == nil && len(stored) == 0 {
				time.Sleep(rand.N(300 * time.Millisecond))
				h, err := g.host.try(request{method: "HEAD", path: path})
				if err != nil || h.StatusCode != http.StatusNoContent || h.Header.Get(wire.HeaderUploadComplete) == "?1" {
					continue
				}
				at, ok := wire.ParseInteger(h.Header.Values(wire.HeaderUploadOffset))
				if !ok || at > int64(len(all)) {
					t.Errorf("HEAD: %s", h)
					return
				}
				a, err := g.host.try(patch(path, at, true, all[at:]))
				if err == nil && a.StatusCode == http.StatusCreated {
					stored <- a
				}
			}
		})
	}
	wg.Wait()
	if len(stored) == 0 {
		t.Fatal("nobody completed the upload")
	}
	receipt(t, <-stored, p, code.Stored)
	g.stored(p)
}

func TestTokens(t *testing.T) {
	g := newRig(t)
	other := g.newHost("lab-2")
	p := g.host.big(10, 2)
	path := g.host.begin(p)
	for _, q := range []request{{method: "HEAD", path: path}, {method: "GET", path: path}, {method: "DELETE", path: path}, patch(path, 0, true, p.bytes())} {
		want(t, other.do(q), http.StatusNotFound, code.UploadGone)
	}
	for _, token := range []string{strings.Repeat("0", 32), "x", "", "../../catalogue.sqlite", strings.Repeat("z", 32)} {
		a := g.host.do(request{method: "HEAD", path: wire.PathUploads + token})
		want(t, a, http.StatusNotFound, code.UploadGone)
	}
	want(t, g.host.head(path), http.StatusNoContent, "")
}

func TestLimitsAreTold(t *testing.T) {
	g := newRig(t)
	a := g.host.do(request{method: "OPTIONS", path: wire.PathEpisodes})
	want(t, a, http.StatusNoContent, "")
	all, err := wire.ParseUploadLimit(a.Header.Values(wire.HeaderUploadLimit))
	if err != nil || all.MaxSize < int64(g.cfg.Limits.EpisodeSize) || all.MaxAge != g.cfg.UploadMaxAge {
		t.Errorf("Upload-Limit %+v, %v", all, err)
	}
	p := g.host.big(11, 2)
	path := g.host.begin(p)
	one, err := wire.ParseUploadLimit(g.host.head(path).Header.Values(wire.HeaderUploadLimit))
	if err != nil || one.MaxSize < p.facts.Size || one.MaxSize > all.MaxSize || one.MaxAge <= 0 {
		t.Errorf("Upload-Limit %+v, %v", one, err)
	}
}

func TestOtherRequests(t *testing.T) {
	g := newRig(t)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404}, {"GET", "/v1/hosts/other", 404}, {"GET", "/v1/episodes/x", 404},
		{"GET", wire.PathEpisodes, 405}, {"PUT", wire.PathEpisodes, 405}, {"DELETE", wire.PathEpisodes, 405},
		{"POST", wire.PathSelf, 405}, {"POST", wire.PathUploads + strings.Repeat("0", 32), 405},
		{"GET", wire.PathHealth, 200},
	} {
		a := g.host.do(request{method: c.method, path: c.path})
		if a.StatusCode != c.status || a.code() != "" {
			t.Errorf("%s %s: %s; want %d without a code", c.method, c.path, a, c.status)
		}
		if c.status == 405 && a.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
	}
	a := g.host.do(request{method: "GET", path: wire.PathSelf})
	want(t, a, 200, "")
	var self wire.Self
	if err := wire.ReadJSON(bytes.NewReader(a.body), &self); err != nil {
		t.Fatal(err)
	}
	if self.Host != "lab-1" || self.Key != g.host.key || self.Window.ID == "" || self.MaxSkew != g.cfg.MaxSkew || time.Since(self.ServerTime).Abs() > time.Minute || self.Limits.EpisodeFiles != g.cfg.Limits.EpisodeFiles {
		t.Errorf("self: %+v", self)
	}
}

// Without Upload-Complete it is a conventional upload: it works, and no resource is offered.
func TestConventionalUpload(t *testing.T) {
	g := newRig(t)
	p := g.host.big(12, 2)
	ann := p.announcement()
	a := g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes())})
	receipt(t, a, p, code.Stored)
	if len(a.interim) != 0 {
		t.Errorf("104 to a conventional upload: %v", a.interim)
	}
}
