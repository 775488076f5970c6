package ingest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/wire"
)

// Every code that the receiver can give, from requests that bring it about.

// zstdFrames packs b as independent frames of n bytes.
func zstdFrames(t testing.TB, b []byte, n int) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for len(b) > 0 {
		k := min(n, len(b))
		out = e.EncodeAll(b[:k], out)
		b = b[k:]
	}
	return out
}

// zstdStream packs b as one frame that does not tell its size, as zstd does from a pipe.
func zstdStream(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 { // in pieces, so that the size is not known at once
		k := min(len(b), 10_000)
		_, _ = w.Write(b[:k])
		b = b[k:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (p *packed) tarBytes(t testing.TB) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b, err := d.DecodeAll(p.bytes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// send sends any body under any announcement, small and whole or in an upload.
func (c *client) send(ann wire.Announcement, body []byte, chunked bool) *answer {
	c.t.Helper()
	q := request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(body), header: map[string]string{wire.HeaderUploadComplete: "?1"}}
	if chunked {
		q.length = -1
	}
	return c.do(q)
}

func TestMalformed(t *testing.T) {
	g := newRig(t)
	p := g.host.small(1)
	ann := p.announcement()
	all := p.bytes()
	tarred := p.tarBytes(t)
	lie := func(f func(a *wire.Announcement)) wire.Announcement { a := ann; f(&a); return a }
	for what, c := range map[string]struct {
		ann  wire.Announcement
		body []byte
	}{
		"not zstd":           {ann, []byte("this is no archive, though it is long enough to be one")},
		"empty":              {ann, nil},
		"cut frame":          {ann, all[:len(all)-5]},
		"trailing bytes":     {ann, append(bytes.Clone(all), 'x')},
		"not tar":            {ann, zstdFrames(t, bytes.Repeat([]byte("no tar "), 1000), 1<<20)},
		"size lies":          {lie(func(a *wire.Announcement) { a.Size++ }), all},
		"files lies":         {lie(func(a *wire.Announcement) { a.Files++ }), all},
		"started lies":       {lie(func(a *wire.Announcement) { a.Started = a.Started.Add(-time.Second) }), all},
		"ended lies":         {lie(func(a *wire.Announcement) { a.Ended = a.Ended.Add(time.Second) }), all},
		"id lies":            {lie(func(a *wire.Announcement) { a.ID = episode.NewID() }), all},
		"second episode":     {ann, append(bytes.Clone(all), all...)},
		"a path that leaves": {ann, zstdFrames(t, bytes.ReplaceAll(tarred, []byte(p.facts.ID.String()+"/data/output/a.bin"), []byte("../../../../../../../../../../../../../../../../etc/pwd"[:36+18])), 1<<20)},
		"absolute path":      {ann, zstdFrames(t, tarOf(t, "/etc/cis490-evil", "x"), 1<<20)},
		"device":             {ann, zstdFrames(t, tarDevice(t), 1<<20)},
	} {
		for _, chunked := range []bool{false, true} {
			if chunked && len(c.body) == 0 {
				continue // net/http sends no empty chunked body
			}
			t.Run(fmt.Sprintf("%s/chunked=%v", what, chunked), func(t *testing.T) {
				a := g.host.send(c.ann, c.body, chunked)
				if a.code() == code.DigestMismatch && what == "trailing bytes" && chunked {
					// Some of it was good: the host is to look at its copy.
					return
				}
				want(t, a, http.StatusBadRequest, code.Malformed)
				if a.Header.Get(wire.HeaderUploadComplete) != "?1" {
					t.Errorf("Upload-Complete: %s", a)
				}
			})
		}
	}
	g.notStored(p)
	if n := incoming(t, g); len(n) != 0 {
		t.Errorf("left in incoming/: %v", n)
	}
	receipt(t, g.host.post(p), p, code.Stored)
}

func tarOf(t testing.TB, name, content string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarDevice(t testing.TB) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestMalformedHeader(t *testing.T) {
	g := newRig(t)
	p := g.host.small(2)
	ann := p.announcement()
	good := wire.FormatAnnouncement(ann)
	for what, header := range map[string]string{
		"missing":       "",
		"not a field":   "id=;;",
		"no id":         strings.Replace(good, `id="`, `ix="`, 1),
		"id not a UUID": strings.Replace(good, ann.ID.String(), "../../../../../../../../../../../tmp/x", 1),
		"upper case":    strings.ToUpper(good),
		"short digest":  strings.Replace(good, "digest=:", "digest=:AAAA:, x=:", 1),
		"negative":      strings.Replace(good, "files=", "files=-", 1),
	} {
		h := map[string]string{wire.HeaderEpisode: header, wire.HeaderUploadComplete: "?1"}
		a := g.host.do(request{method: "POST", path: wire.PathEpisodes, header: h, body: bytes.NewReader(p.bytes())})
		if t.Run(what, func(t *testing.T) { want(t, a, http.StatusBadRequest, code.Malformed) }); t.Failed() {
			return
		}
	}
	a := g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes()), header: map[string]string{"Content-Encoding": "gzip"}})
	want(t, a, http.StatusBadRequest, code.Malformed)
}

func TestDigestMismatch(t *testing.T) {
	g := newRig(t)
	p := g.host.big(3, 2)
	tarred := p.tarBytes(t)
	damage := func(at int) []byte {
		b := bytes.Clone(tarred)
		b[at] ^= 1
		return zstdFrames(t, b, 1<<20)
	}
	ann := p.announcement()
	for what, body := range map[string][]byte{
		"payload byte":     damage(bytes.Index(tarred, noise(3, 2<<20)[1000:1032])),
		"manifest byte":    damage(bytes.Index(tarred, []byte("data/output/a.bin"))),
		"frame's checksum": flip(p.bytes(), len(p.frames[0])+len(p.frames[1])-1),
		"frame's content":  flip(p.bytes(), 500_000),
	} {
		a := g.host.send(ann, body, true)
		if c := a.code(); c != code.DigestMismatch && !(what == "manifest byte" && c == code.Malformed) {
			t.Errorf("%s: %s", what, a)
		}
	}
	// Another episode's digest.
	ann.Digest = g.host.small(4).facts.Digest
	want(t, g.host.send(ann, p.bytes(), false), http.StatusUnprocessableEntity, code.DigestMismatch)
	// In one frame, the short way.
	s := g.host.small(5)
	want(t, g.host.send(s.announcement(), flip(s.bytes(), len(s.bytes())-1), false), http.StatusUnprocessableEntity, code.DigestMismatch)
	want(t, g.host.send(s.announcement(), flip(s.bytes(), 15_000), false), http.StatusUnprocessableEntity, code.DigestMismatch)
	g.notStored(p)
	receipt(t, g.host.post(p), p, code.Stored)
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0x10
	return b
}

func TestOutOfWindow(t *testing.T) {
	day := time.Now().UTC().Truncate(24 * time.Hour)
	tomorrow := day.Add(48 * time.Hour)
	g := newRig(t, func(c *config.Receiver) { c.Window.NotBefore = &tomorrow })
	old := g.host.small(6)
	for _, q := range []*packed{old, g.host.big(6, 2)} {
		a := g.host.post(q)
		want(t, a, http.StatusPreconditionFailed, code.OutOfWindow)
		a.Body = io.NopCloser(bytes.NewReader(a.body))
		p, _ := wire.ReadProblem(a.Response)
		if p.Window == nil || p.Window.ID != g.r.settings.Load().window.ID || p.Window.NotBefore == nil || !p.Window.NotBefore.Equal(tomorrow) {
			t.Errorf("the window is not told: %s", a.body)
		}
	}
	if n := incoming(t, g); len(n) != 0 {
		t.Errorf("left in incoming/: %v", n)
	}

	// Widened while it runs, and narrowed again: what is stored is acknowledged for ever.
	widened := g.cfg
	widened.Window.NotBefore = nil
	before := g.r.settings.Load().window.ID
	if err := g.r.Reload(func() (config.Receiver, error) { return widened, nil }); err != nil {
		t.Fatal(err)
	}
	a := g.host.post(old)
	first := receipt(t, a, old, code.Stored)
	if a.Header.Get(wire.HeaderWindow) == fmt.Sprintf("%q", before) || first.WindowID == before {
		t.Error("another window has the same id")
	}
	if err := g.r.Reload(func() (config.Receiver, error) { return g.cfg, nil }); err != nil {
		t.Fatal(err)
	}
	if got := g.r.settings.Load().window.ID; got != before {
		t.Errorf("the same window has another id: %s, %s", got, before)
	}
	if again := receipt(t, g.host.post(old), old, code.AlreadyStored); again != first {
		t.Errorf("another receipt: %+v", again)
	}

	// A bad configuration changes nothing.
	if err := g.r.Reload(func() (config.Receiver, error) { return config.Receiver{}, os.ErrInvalid }); err == nil {
		t.Error("a bad configuration was taken")
	}
	bad := widened
	bad.Hosts = []config.Host{{Name: "x", Key: "y"}}
	if err := g.r.Reload(func() (config.Receiver, error) { return bad, nil }); err == nil || g.r.settings.Load().window.ID != before {
		t.Error("half of a bad configuration was taken")
	}
}

func TestWindowBounds(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) { c.Window.MaxAge, c.Window.MaxAhead = time.Hour, 10*time.Minute })
	at := func(started, ended time.Duration) *packed {
		now := time.Now()
		return g.host.episodeOf(episode.Run{Host: "lab-1", Workload: "t", Started: episode.Moment{Realtime: now.Add(started)}, Ended: episode.Moment{Realtime: now.Add(ended)}})
	}
	want(t, g.host.post(at(-3*time.Hour, -2*time.Hour)), http.StatusPreconditionFailed, code.OutOfWindow)
	want(t, g.host.post(at(0, 11*time.Minute)), http.StatusPreconditionFailed, code.OutOfWindow)
	p := at(-30*time.Minute, 5*time.Minute)
	receipt(t, g.host.post(p), p, code.Stored)
}

func TestClockSkew(t *testing.T) {
	g := newRig(t)
	p := g.host.small(7)
	for _, off := range []time.Duration{-time.Hour, time.Hour, -g.cfg.MaxSkew - 5*time.Second, g.cfg.MaxSkew + 5*time.Second} {
		ann := p.announcement()
		ann.Sent = ann.Sent.Add(off)
		want(t, g.host.send(ann, p.bytes(), false), http.StatusPreconditionFailed, code.ClockSkew)
	}
	for _, off := range []time.Duration{-g.cfg.MaxSkew + 5*time.Second, g.cfg.MaxSkew - 5*time.Second} {
		ann := p.announcement()
		ann.Sent = ann.Sent.Add(off)
		if a := g.host.send(ann, p.bytes(), false); a.StatusCode/100 != 2 {
			t.Errorf("off by %s: %s", off, a)
		}
	}
	// The clock outranks the window: nothing is known of an episode's age with a wrong clock.
	far := time.Now().Add(24 * time.Hour)
	g2 := newRig(t, func(c *config.Receiver) { c.Window.NotBefore = &far })
	q := g2.host.small(8)
	ann := q.announcement()
	ann.Sent = ann.Sent.Add(time.Hour)
	want(t, g2.host.send(ann, q.bytes(), false), http.StatusPreconditionFailed, code.ClockSkew)
}

func TestConflict(t *testing.T) {
	g := newRig(t)
	id := episode.NewID()
	run := episode.Run{ID: id, Host: "lab-1", Workload: "t"}
	first := g.host.episodeOf(run, episode.File{Path: "output/x", Data: []byte("one")})
	receipt(t, g.host.post(first), first, code.Stored)

	other := newClient(t, "lab-1", t.TempDir(), g.cfg.TLS.CACertFile, g.host.base)
	if k, err := hosts.ParseKey(other.key); err != nil || g.r.Hosts().Allow("lab-1", k, time.Now()) != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 2 << 20} {
		run.Started.Realtime = time.Now()
		second := other.episodeOf(run, episode.File{Path: "output/x", Data: append([]byte("two"), noise(9, n)...)})
		want(t, other.post(second), http.StatusConflict, code.Conflict)
		if err := os.RemoveAll(other.data); err != nil {
			t.Fatal(err)
		}
	}
	// Another host's id is no way to learn or change anything.
	lab2 := g.newHost("lab-2")
	run.Host = "lab-2"
	third := lab2.episodeOf(run, episode.File{Path: "output/x", Data: []byte("three")})
	want(t, lab2.post(third), http.StatusConflict, code.Conflict)
	g.stored(first)
}

func TestTooLarge(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) {
		c.Limits.EpisodeSize, c.Limits.EpisodeFiles, c.Limits.Ratio = 3<<20, 10, 100
	})
	check := func(a *answer) {
		t.Helper()
		want(t, a, http.StatusRequestEntityTooLarge, code.TooLarge)
	}
	p := g.host.big(10, 4)
	check(g.host.post(p))
	ann := p.announcement()
	a := g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, header: map[string]string{wire.HeaderUploadComplete: "?0"}})
	check(a) // before any byte
	if _, err := wire.ParseUploadLimit(a.Header.Values(wire.HeaderUploadLimit)); err != nil {
		t.Error(err)
	}
	var files []episode.File
	for i := range 12 {
		files = append(files, episode.File{Path: fmt.Sprintf("output/%d", i)})
	}
	check(g.host.post(g.host.episode(files...)))
	// A length that can't be.
	small := g.host.small(11)
	ann = small.announcement()
	check(g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, header: map[string]string{wire.HeaderUploadComplete: "?0", wire.HeaderUploadLength: "9999999999999"}}))
}

// A body that unpacks to far more than it is: it costs neither memory nor time.
func TestBombs(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) { c.Limits.Ratio = 1000 })
	zeros := zstdFrames(t, make([]byte, 4<<20), 4<<20) // under a kB
	p := g.host.small(12)

	// More than was announced, as frames whose header tells their size.
	a := g.host.send(p.announcement(), bytes.Repeat(zeros, 200), true)
	if c := a.code(); c != code.Malformed && c != code.TooLarge {
		t.Errorf("%s", a)
	}
	// As announced, but too dense.
	ann := p.announcement()
	ann.Size = 5 << 30
	a = g.host.send(ann, bytes.Repeat(zeros, 1000), true)
	if c := a.code(); c != code.Malformed && c != code.TooLarge {
		t.Errorf("%s", a)
	}
	// As one frame that does not tell its size.
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	head := p.tarBytes(t)
	_, _ = w.Write(head[:len(head)-1024])
	for range 300 {
		_, _ = w.Write(make([]byte, 1<<20))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, chunked := range []bool{false, true} {
		a = g.host.send(p.announcement(), b.Bytes(), chunked)
		if c := a.code(); c != code.Malformed && c != code.TooLarge {
			t.Errorf("%s", a)
		}
	}
	// A million empty frames.
	empty := zstdFrames(t, []byte("x"), 1)[:0]
	e, _ := zstd.NewWriter(nil, zstd.WithZeroFrames(true))
	empty = e.EncodeAll(nil, empty)
	a = g.host.send(p.announcement(), bytes.Repeat(empty, 1_000_000), true)
	if c := a.code(); c != code.Malformed && c != code.TooLarge {
		t.Errorf("%s", a)
	}
}

func TestUnknownAndRevoked(t *testing.T) {
	g := newRig(t)
	s := g.stranger("lab-9")
	p := s.small(13)
	want(t, s.post(p), http.StatusForbidden, code.HostUnknown)
	want(t, s.do(request{method: "GET", path: wire.PathSelf}), http.StatusForbidden, code.HostUnknown)
	want(t, s.do(request{method: "GET", path: "/"}), http.StatusForbidden, code.HostUnknown)

	// Without any certificate.
	conf := s.tls.Clone()
	conf.Certificates, conf.GetClientCertificate = nil, nil
	bare := *s
	bare.http = &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	want(t, bare.do(request{method: "GET", path: wire.PathSelf}), http.StatusForbidden, code.HostUnknown)

	// Revoked: from the next request of an open connection on, and an upload begun before is not completed.
	q := g.host.big(14, 2)
	path := g.host.begin(q)
	body := &cutBody{b: q.bytes()[:1_500_000], wait: make(chan struct{})}
	r := patch(path, 0, true, nil)
	r.body, r.length = io.MultiReader(body.first(), bytes.NewReader(q.bytes()[1_500_000:])), int64(len(q.bytes()))
	done := make(chan *answer, 1)
	go func() { a, _ := g.host.try(r); done <- a }()
	waitFor(t, "the upload to be under way", func() bool { return size(g, path) >= int64(len(q.frames[0])) })
	if n, err := g.r.Hosts().Revoke("lab-1", time.Now()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	want(t, g.host.do(request{method: "GET", path: wire.PathSelf}), http.StatusForbidden, code.HostRevoked)
	close(body.wait)
	if a := <-done; a == nil || a.code() != code.HostRevoked {
		t.Errorf("the upload under way: %v", a)
	}
	g.notStored(q)
	k, err := hosts.ParseKey(g.host.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.r.Hosts().Allow("lab-1", k, time.Now()); err != nil {
		t.Fatal(err)
	}
	// It lost nothing: all bytes are there, and asking for completion again is enough.
	h := g.host.head(path)
	want(t, h, http.StatusNoContent, "")
	if offset(t, h) != int64(len(q.bytes())) {
		t.Errorf("offset %d of %d", offset(t, h), len(q.bytes()))
	}
	receipt(t, g.host.do(patch(path, offset(t, h), true, nil)), q, code.Stored)
}

// first is a body that gives its bytes and then waits, instead of failing.
func (c *cutBody) first() io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if len(c.b) == 0 {
			<-c.wait
			return 0, io.EOF
		}
		n := copy(p, c.b)
		c.b = c.b[n:]
		return n, nil
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestReceiverFull(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) { c.Limits.MinFree = 1 << 60 })
	for _, p := range []*packed{g.host.small(15), g.host.big(15, 2)} {
		a := g.host.post(p)
		want(t, a, http.StatusInsufficientStorage, code.ReceiverFull)
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("no Retry-After: %s", a)
		}
	}
	// Too many bytes of partial uploads of one host; another is not affected.
	g = newRig(t, func(c *config.Receiver) { c.Limits.PartialBytesPerHost = 5 << 20 })
	g.host.begin(g.host.big(16, 3))
	p := g.host.big(17, 3)
	want(t, g.host.post(p), http.StatusInsufficientStorage, code.ReceiverFull)
	other := g.newHost("lab-2")
	q := other.big(18, 3)
	receipt(t, other.post(q), q, code.Stored)
}

func TestReceiverBusy(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) { c.Limits.UploadsPerHost, c.Limits.Uploads = 2, 3 })
	p := g.host.big(19, 2)
	var bodies []*cutBody
	occupy := func(c *client) {
		t.Helper()
		q := c.big(uint64(20+len(bodies)), 2)
		path := c.begin(q)
		b := &cutBody{b: q.bytes()[:1000], wait: make(chan struct{})}
		bodies = append(bodies, b)
		r := patch(path, 0, true, nil)
		r.body, r.length = b, int64(len(q.bytes()))
		n := g.r.slots.inUse()
		go func() { _, _ = c.try(r) }()
		waitFor(t, "a place to be taken", func() bool { return g.r.slots.inUse() == n+1 })
	}
	t.Cleanup(func() {
		for _, b := range bodies {
			close(b.wait)
		}
	})
	occupy(g.host)
	occupy(g.host)
	for _, a := range []*answer{g.host.post(p), g.host.post(g.host.small(23))} {
		want(t, a, http.StatusTooManyRequests, code.ReceiverBusy)
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("no Retry-After: %s", a)
		}
	}
	// What needs no place goes on.
	want(t, g.host.do(request{method: "GET", path: wire.PathSelf}), http.StatusOK, "")
	// Others don't feel it, until all places are taken.
	lab2 := g.newHost("lab-2")
	q := lab2.small(24)
	receipt(t, lab2.post(q), q, code.Stored)
	occupy(lab2)
	lab3 := g.newHost("lab-3")
	want(t, lab3.post(lab3.small(25)), http.StatusServiceUnavailable, code.ReceiverBusy)
}

// A body that stalls is cut after stall_timeout; one that trickles is not, and
// holds nobody up.
func TestStallAndTrickle(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) { c.Limits.StallTimeout = 700 * time.Millisecond; c.Limits.UploadsPerHost = 1 })
	p := g.host.big(26, 2)
	path := g.host.begin(p)
	body := &cutBody{b: p.bytes()[:1_200_000], wait: make(chan struct{})}
	r := patch(path, 0, true, nil)
	r.body, r.length = body, int64(len(p.bytes()))
	done := make(chan error, 1)
	began := time.Now()
	go func() { _, err := g.host.try(r); done <- err }()
	waitFor(t, "the upload to be under way", func() bool { return g.r.slots.inUse() == 1 })
	waitFor(t, "the stalled body to be cut", func() bool { return g.r.slots.inUse() == 0 })
	if d := time.Since(began); d < 700*time.Millisecond || d > 5*time.Second {
		t.Errorf("cut after %s", d)
	}
	close(body.wait)
	<-done
	h := g.host.head(path)
	if offset(t, h) != int64(len(p.frames[0])) {
		t.Errorf("offset %d; want the end of the first frame, %d", offset(t, h), len(p.frames[0]))
	}

	// A small one stalls too: it holds its memory no longer than that.
	s := g.host.small(27)
	ann := s.announcement()
	small := &cutBody{b: s.bytes()[:1000], wait: make(chan struct{})}
	go func() {
		_, err := g.host.try(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: small, length: int64(len(s.bytes())), header: map[string]string{wire.HeaderUploadComplete: "?1"}})
		done <- err
	}()
	waitFor(t, "it to be under way", func() bool { return g.r.slots.inUse() == 1 })
	waitFor(t, "it to be cut", func() bool { return g.r.slots.inUse() == 0 })
	close(small.wait)
	<-done

	// A trickle that moves lives for longer than the stall timeout.
	rest := p.bytes()[offset(t, h):]
	slow := readerFunc(func(b []byte) (int, error) {
		if len(rest) == 0 {
			return 0, io.EOF
		}
		time.Sleep(100 * time.Millisecond)
		n := copy(b, rest[:min(len(rest), 150_000)])
		rest = rest[n:]
		return n, nil
	})
	r = patch(path, offset(t, h), true, nil)
	r.body = io.Reader(slow)
	began = time.Now()
	receipt(t, g.host.do(r), p, code.Stored)
	if time.Since(began) < 700*time.Millisecond {
		t.Error("that was no trickle")
	}
}

// A verdict in mid-body ends the body early, and HEAD gives it.
func TestVerdictInMidBody(t *testing.T) {
	g := newRig(t)
	p := g.host.big(28, 6)
	body := flip(p.bytes(), len(p.frames[0])+1000) // in the second of seven frames
	path := g.host.begin(p)
	wait := &cutBody{b: body[:len(body)-1000], wait: make(chan struct{})}
	r := patch(path, 0, true, nil)
	r.body, r.length = wait, int64(len(body))
	done := make(chan *answer, 1)
	go func() { a, _ := g.host.try(r); done <- a }()
	a := <-done // though the body never ends
	close(wait.wait)
	if a == nil || a.Response == nil {
		t.Fatal("no answer")
	}
	want(t, a, http.StatusUnprocessableEntity, code.DigestMismatch)
	h := g.host.head(path)
	want(t, h, http.StatusUnprocessableEntity, code.DigestMismatch)
	if d, ok := wire.ParseString(h.Header.Values(wire.HeaderDetail)); !ok || d == "" || h.Header.Get(wire.HeaderUploadComplete) != "?1" {
		t.Errorf("%s", h)
	}
	want(t, g.host.do(patch(path, 0, true, p.bytes())), http.StatusUnprocessableEntity, code.DigestMismatch)
	if n := incoming(t, g); len(n) != 0 {
		t.Errorf("left in incoming/: %v", n)
	}
	// It is begun anew, and goes well.
	receipt(t, g.host.do(patch(g.host.begin(p), 0, true, p.bytes())), p, code.Stored)
}

// A client that sends everything before it reads sees a refusal, also one of a
// long body that nobody wants.
func TestRefusalIsSeen(t *testing.T) {
	g := newRig(t)
	s := g.stranger("lab-9")
	for _, n := range []int{100_000, 1 << 20, 5 << 20} {
		for _, framing := range []string{"length", "chunked"} {
			conn, err := tls.Dial("tcp", strings.TrimPrefix(s.base, "https://"), s.tls.Clone())
			if err != nil {
				t.Fatal(err)
			}
			w := bufio.NewWriter(conn)
			fmt.Fprintf(w, "POST %s HTTP/1.1\r\nHost: x\r\n", wire.PathEpisodes)
			if framing == "length" {
				fmt.Fprintf(w, "Content-Length: %d\r\n\r\n", n)
			} else {
				fmt.Fprintf(w, "Transfer-Encoding: chunked\r\n\r\n%x\r\n", n)
			}
			_, _ = w.Write(noise(29, n)) // may fail
			if framing == "chunked" {
				fmt.Fprint(w, "\r\n0\r\n\r\n")
			}
			if err := w.Flush(); err != nil {
				t.Errorf("%d bytes, %s: the body could not be sent: %v", n, framing, err)
			}
			time.Sleep(50 * time.Millisecond)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != http.StatusForbidden {
				t.Errorf("%d bytes, %s: %v, %v", n, framing, resp, err)
			}
			conn.Close()
		}
	}
}

// With Expect: 100-continue a refusal costs no byte of the body.
func TestExpectContinue(t *testing.T) {
	g := newRig(t)
	p := g.host.big(30, 2)
	ann := p.announcement()
	ann.Sent = ann.Sent.Add(-time.Hour)
	sent := false
	body := readerFunc(func([]byte) (int, error) { sent = true; return 0, io.EOF })
	a := g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: body, length: int64(len(p.bytes())),
		header: map[string]string{wire.HeaderUploadComplete: "?1", "Expect": "100-continue"}})
	want(t, a, http.StatusPreconditionFailed, code.ClockSkew)
	if sent {
		t.Error("the body was asked for")
	}
	ann.Sent = time.Now()
	a = g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes()),
		header: map[string]string{wire.HeaderUploadComplete: "?1", "Expect": "100-continue"}})
	receipt(t, a, p, code.Stored)
}

// A panic costs one request.
func TestPanic(t *testing.T) {
	g := newRig(t)
	p := g.host.small(31)
	good := g.r.hosts
	g.r.hosts = nil // every identification panics
	a := g.host.do(request{method: "GET", path: wire.PathSelf})
	want(t, a, http.StatusInternalServerError, code.ReceiverError)
	g.r.hosts = good
	receipt(t, g.host.post(p), p, code.Stored)
}
