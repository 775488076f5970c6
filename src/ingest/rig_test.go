package ingest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/identity"
	"cis490/src/pack"
	"cis490/src/wire"
)

// rig is a receiver on a real socket, with a host that may speak to it.
type rig struct {
	t    testing.TB
	dir  string
	cfg  config.Receiver
	r    *Receiver
	stop func() error
	host *client
	deps Deps
	late atomic.Int64 // nanoseconds by which the receiver's clock is ahead
}

// client is one host's side.
type client struct {
	t    testing.TB
	name string
	key  string
	dir  string // of the host key
	base string
	http *http.Client
	tls  *tls.Config
	data string // data_dir for its episodes
}

const rigHCL = `
state_dir = %q
run_dir   = %q
listen    = "127.0.0.1:0"
tls { names = ["127.0.0.1"] }
limits {
  min_free      = "1MiB"
  stall_timeout = "5s"
}
`

// parseConfig makes a configuration below dir.
func parseConfig(t testing.TB, dir string) config.Receiver {
	t.Helper()
	cfg, err := config.ParseReceiver("receiver.hcl", fmt.Appendf(nil, rigHCL, filepath.Join(dir, "state"), filepath.Join(dir, "run")))
	if err != nil {
		t.Fatal(err)
	}
	cfg.File = ""
	return cfg
}

// newRig starts a receiver whose configuration change may change.
func newRig(t testing.TB, change ...func(*config.Receiver)) *rig {
	t.Helper()
	return newRigWith(t, Deps{}, change...)
}

// newRigWith is newRig of a receiver with surroundings of its own.
func newRigWith(t testing.TB, deps Deps, change ...func(*config.Receiver)) *rig {
	t.Helper()
	g := &rig{t: t, dir: t.TempDir(), deps: deps}
	g.cfg = parseConfig(t, g.dir)
	for _, f := range change {
		f(&g.cfg)
	}
	if _, _, err := identity.InitCA(g.cfg.TLS.CACertFile, g.cfg.TLS.CAKeyFile); err != nil {
		t.Fatal(err)
	}
	g.start()
	g.host = g.newHost("lab-1")
	t.Cleanup(func() {
		if g.stop != nil {
			if err := g.stop(); err != nil {
				t.Error("stop:", err)
			}
		}
	})
	return g
}

func (g *rig) start() {
	g.t.Helper()
	d := g.deps
	d.Log = testLog(g.t)
	d.Now = func() time.Time { return time.Now().Add(time.Duration(g.late.Load())) }
	r, err := New(g.cfg, d)
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	g.r = r
	g.stop = func() error {
		g.stop = nil
		cancel()
		return <-done
	}
	if g.host != nil {
		g.host.base = "https://" + r.Addr().String()
	}
}

// restart stops the receiver and starts another one on the same store.
func (g *rig) restart() {
	g.t.Helper()
	if err := g.stop(); err != nil {
		g.t.Fatal("stop:", err)
	}
	g.start()
}

// newHost makes a host that the receiver knows.
func (g *rig) newHost(name string) *client {
	g.t.Helper()
	c := g.stranger(name)
	k, err := hosts.ParseKey(c.key)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.r.Hosts().Allow(name, k, time.Now()); err != nil {
		g.t.Fatal(err)
	}
	return c
}

// stranger makes a host that the receiver does not know.
func (g *rig) stranger(name string) *client {
	g.t.Helper()
	dir := g.t.TempDir()
	return newClient(g.t, name, dir, g.cfg.TLS.CACertFile, "https://"+g.r.Addr().String())
}

func newClient(t testing.TB, name, dir, caFile, base string) *client {
	t.Helper()
	cert, key, err := identity.LoadOrMakeHostKey(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.NewClient(cert, caFile, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: id.Config(), MaxIdleConnsPerHost: 64, ExpectContinueTimeout: time.Second}
	t.Cleanup(tr.CloseIdleConnections)
	return &client{t: t, name: name, key: key, dir: dir, base: base, http: &http.Client{Transport: tr, Timeout: time.Minute}, tls: id.Config(), data: filepath.Join(dir, "data")}
}

// packed is an episode ready to be sent.
type packed struct {
	facts  episode.Facts
	frames [][]byte
	tar    []int64 // tar bytes in each frame
}

func (p *packed) bytes() []byte { return bytes.Join(p.frames, nil) }

func (p *packed) announcement() wire.Announcement {
	return wire.Announcement{Facts: p.facts, Sent: time.Now()}
}

// noise is n bytes that don't compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = c.Read(b) // never fails
	return b
}

// episode seals and packs an episode of the given files.
func (c *client) episode(files ...episode.File) *packed {
	c.t.Helper()
	return c.episodeOf(episode.Run{Host: c.name, Workload: "test"}, files...)
}

func (c *client) episodeOf(run episode.Run, files ...episode.File) *packed {
	c.t.Helper()
	sealed, err := episode.Make(c.t.Context(), c.data, episode.Spec{Run: run, Files: files})
	if err != nil {
		c.t.Fatal(err)
	}
	return packDir(c.t, filepath.Join(c.data, "sealed", sealed[0].Facts.ID.String()))
}

func packDir(t testing.TB, dir string) *packed {
	t.Helper()
	plan, err := pack.NewPlan(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	p := &packed{facts: plan.Facts()}
	s := pack.NewPacker(pack.Options{Workers: 1, Level: pack.Fastest}).Stream(context.Background(), plan, 0)
	defer s.Close()
	for {
		f, err := s.Next()
		if err == io.EOF {
			return p
		}
		if err != nil {
			t.Fatal(err)
		}
		p.frames = append(p.frames, bytes.Clone(f.Data))
		p.tar = append(p.tar, int64(f.Len))
		f.Release()
	}
}

// small is an episode of one frame.
func (c *client) small(seed uint64) *packed {
	return c.episode(episode.File{Path: "output/a.bin", Data: noise(seed, 20_000)})
}

// big is an episode of about n MiB that don't compress.
func (c *client) big(seed uint64, n int) *packed {
	return c.episode(episode.File{Path: "output/a.bin", Data: noise(seed, n<<20)}, episode.File{Path: "output/b.txt", Data: []byte("b\n")})
}

// request is what a test sends.
type request struct {
	method string
	path   string
	ann    *wire.Announcement
	header map[string]string
	body   io.Reader
	length int64 // of body; -1: chunked; 0: found out
}

// answer is what came back.
type answer struct {
	*http.Response
	body    []byte
	interim []textproto.MIMEHeader // of the 104s
}

func (a *answer) code() code.Code { return code.Code(a.Header.Get(wire.HeaderCode)) }

func (a *answer) String() string {
	return fmt.Sprintf("%s %v %s", a.Status, a.Header, a.body)
}

func (c *client) try(q request) (*answer, error) {
	if _, isReader := q.body.(*bytes.Reader); q.body != nil && !isReader && q.length == 0 {
		q.length = -1
	}
	req, err := http.NewRequestWithContext(c.t.Context(), q.method, c.base+q.path, q.body)
	if err != nil {
		return nil, err
	}
	if q.length != 0 {
		req.ContentLength = q.length
	}
	if q.ann != nil {
		req.Header.Set(wire.HeaderEpisode, wire.FormatAnnouncement(*q.ann))
		req.Header.Set("Content-Type", wire.MediaEpisode)
	}
	if q.method == http.MethodPatch {
		req.Header.Set("Content-Type", wire.MediaPartial)
	}
	req.Header.Set(wire.HeaderInterop, wire.InteropVersion)
	for k, v := range q.header {
		if v == "" {
			req.Header.Del(k)
		} else {
			req.Header.Set(k, v)
		}
	}
	a := &answer{}
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
		if status == wire.StatusUploadResumption {
			a.interim = append(a.interim, h)
		}
		return nil
	}}))
	resp, err := c.http.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.Response = resp
	a.body, err = io.ReadAll(resp.Body)
	return a, err
}

func (c *client) do(q request) *answer {
	c.t.Helper()
	a, err := c.try(q)
	if err != nil {
		c.t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	return a
}

// post sends a whole episode in one request.
func (c *client) post(p *packed) *answer {
	c.t.Helper()
	ann := p.announcement()
	return c.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes()), header: map[string]string{wire.HeaderUploadComplete: "?1"}})
}

// begin creates an upload without a body and returns its path.
func (c *client) begin(p *packed) string {
	c.t.Helper()
	ann := p.announcement()
	a := c.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, header: map[string]string{wire.HeaderUploadComplete: "?0"}})
	want(c.t, a, http.StatusCreated, "")
	return a.Header.Get("Location")
}

func patch(path string, offset int64, complete bool, body []byte) request {
	return request{method: "PATCH", path: path, body: bytes.NewReader(body), header: map[string]string{
		wire.HeaderUploadOffset: strconv.FormatInt(offset, 10), wire.HeaderUploadComplete: wire.FormatBool(complete),
	}}
}

func (c *client) head(path string) *answer {
	c.t.Helper()
	return c.do(request{method: "HEAD", path: path})
}

// want checks status and code of an answer, and that a problem body says the same.
func want(t testing.TB, a *answer, status int, k code.Code) {
	t.Helper()
	if a.StatusCode != status || a.code() != k {
		t.Fatalf("got %s; want status %d, code %q", a, status, k)
	}
	if a.Header.Get(wire.HeaderWindow) == "" {
		t.Errorf("no %s in %s", wire.HeaderWindow, a)
	}
	if k == "" || status < 400 || a.Request.Method == http.MethodHead {
		return
	}
	a.Body = io.NopCloser(bytes.NewReader(a.body))
	p, ok := wire.ReadProblem(a.Response)
	if !ok || p.Code != k || p.Status != status || p.ServerTime.IsZero() || p.Fix == "" || p.Detail == "" {
		t.Fatalf("problem body: %+v, %v in %s", p, ok, a)
	}
}

// receipt checks that the answer is a receipt for p.
func receipt(t testing.TB, a *answer, p *packed, k code.Code) wire.Receipt {
	t.Helper()
	want(t, a, k.Info().Status, k)
	var r wire.Receipt
	if err := wire.ReadJSON(bytes.NewReader(a.body), &r); err != nil {
		t.Fatal(err)
	}
	if r.Episode != p.facts.ID || r.BagDigest != p.facts.Digest || r.Host != p.facts.Host || r.StoredAt.IsZero() || r.WindowID == "" || r.ReceiverVersion == "" {
		t.Fatalf("receipt %+v does not fit %+v", r, p.facts)
	}
	if a.Header.Get(wire.HeaderUploadComplete) != "?1" {
		t.Errorf("a receipt without Upload-Complete: ?1: %v", a.Header)
	}
	return r
}

// stored checks that p is in the store, sound, and was stored once.
func (g *rig) stored(p *packed) {
	g.t.Helper()
	v, found, err := g.r.Store().Verify(g.t.Context(), p.facts.ID, nil)
	if err != nil || !found {
		g.t.Fatalf("episode %s in the store: found %v, %v", p.facts.ID, found, err)
	}
	if v.Facts != p.facts {
		g.t.Fatalf("stored %+v, sent %+v", v.Facts, p.facts)
	}
}

func (g *rig) notStored(p *packed) {
	g.t.Helper()
	if _, found, err := g.r.Store().Lookup(g.t.Context(), p.facts.ID); err != nil || found {
		g.t.Fatalf("episode %s: found %v, %v; want none", p.facts.ID, found, err)
	}
}

// cutBody gives n bytes of b and then fails, or waits until told.
type cutBody struct {
	b    []byte
	wait chan struct{}
}

var errCut = errors.New("cut by the test")

func (c *cutBody) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		if c.wait != nil {
			<-c.wait
		}
		return 0, errCut
	}
	n := copy(p, c.b)
	c.b = c.b[n:]
	return n, nil
}

func offset(t testing.TB, a *answer) int64 {
	t.Helper()
	n, ok := wire.ParseInteger(a.Header.Values(wire.HeaderUploadOffset))
	if !ok {
		t.Fatalf("no Upload-Offset in %s", a)
	}
	return n
}

func held(t testing.TB, a *answer) wire.Held {
	t.Helper()
	h, err := wire.ParseHeld(a.Header.Values(wire.HeaderHeld))
	if err != nil {
		t.Fatal(err)
	}
	return h
}
