package ingest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
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

// TestMain lets the test's program be a receiver too, one that can be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CIS490_TEST_RECEIVER"); dir != "" {
		if err := serveForTest(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveForTest(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := config.ParseReceiver("receiver.hcl", fmt.Appendf(nil, rigHCL, filepath.Join(dir, "state"), filepath.Join(dir, "run")))
	if err != nil {
		return err
	}
	cfg.Listen = os.Getenv("CIS490_TEST_LISTEN")
	r, err := New(cfg, Deps{Log: testLog(nil)})
	if err != nil {
		return err
	}
	fmt.Println(r.Addr())
	return r.Run(ctx)
}

// child is a receiver in a process of its own.
type child struct {
	cmd  *exec.Cmd
	addr string
}

func startChild(t testing.TB, dir, listen string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(exe)}
	c.cmd.Env = append(os.Environ(), "CIS490_TEST_RECEIVER="+dir, "CIS490_TEST_LISTEN="+listen)
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("the receiver did not start:", err)
	}
	c.addr = strings.TrimSpace(line)
	return c
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may be dead already
	_ = c.cmd.Wait()
}

// A receiver that is killed in mid-upload loses at most the frame under way, and
// the upload that goes on after it is verified as a whole.
func TestKilledInMidUpload(t *testing.T) {
	dir := t.TempDir()
	cfg := parseConfig(t, dir)
	if _, _, err := identity.InitCA(cfg.TLS.CACertFile, cfg.TLS.CAKeyFile); err != nil {
		t.Fatal(err)
	}
	host := newClient(t, "lab-1", t.TempDir(), cfg.TLS.CACertFile, "")
	k, err := hosts.ParseKey(host.key)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := hosts.Open(filepath.Join(cfg.StateDir, hostsFile), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.Allow("lab-1", k, time.Now()); err != nil {
		t.Fatal(err)
	}
	p := host.big(1, 12)
	all := p.bytes()
	c := startChild(t, dir, "127.0.0.1:0")
	host.base = "https://" + c.addr
	path := host.begin(p)

	at, total := int64(0), int64(0)
	for kill := range 5 {
		upTo := at + rand.Int64N(3<<20)
		if upTo > int64(len(all)) {
			upTo = int64(len(all)) - 1
		}
		body := &cutBody{b: all[at:upTo], wait: make(chan struct{})}
		q := patch(path, at, true, nil)
		q.body, q.length = body, int64(len(all))-at
		done := make(chan error, 1)
		go func() { _, err := host.try(q); done <- err }()
		// The receiver has got all that was sent once the last whole frame is in the file.
		want := int64(0)
		for _, f := range p.frames {
			if want+int64(len(f)) > upTo {
				break
			}
			want += int64(len(f))
		}
		file := filepath.Join(cfg.StateDir, "incoming", strings.TrimPrefix(path, wire.PathUploads)+dataSuffix)
		waitFor(t, "the frames to be in the file", func() bool {
			i, err := os.Stat(file)
			return err == nil && i.Size() >= want
		})
		c.kill()
		close(body.wait)
		if err := <-done; err == nil {
			t.Fatal("an answer from a dead receiver")
		}
		c = startChild(t, dir, c.addr)
		h := host.head(path)
		if h.StatusCode != http.StatusNoContent || offset(t, h) != want {
			t.Fatalf("kill %d after %d bytes: %s; want offset %d", kill, upTo, h, want)
		}
		if hh := held(t, h); hh.Content != tarBefore(p, want) {
			t.Errorf("held %+v at %d; want %d tar bytes", hh, want, tarBefore(p, want))
		}
		total += upTo - at
		at = want
	}
	receipt(t, host.do(patch(path, at, true, all[at:])), p, code.Stored)
	if over := total + int64(len(all)) - at - int64(len(all)); over > 5*(pack.FrameSize+1<<16) {
		t.Errorf("%d bytes were sent twice over 5 kills", over)
	}
	receipt(t, host.post(p), p, code.AlreadyStored)

	// A stop that is asked for ends cleanly.
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Error("SIGTERM:", err)
	}
}

func tarBefore(p *packed, offset int64) (tar int64) {
	for i, f := range p.frames {
		if offset < int64(len(f)) {
			break
		}
		offset -= int64(len(f))
		tar += p.tar[i]
	}
	return tar
}

func TestRestart(t *testing.T) {
	g := newRig(t)
	p := g.host.big(2, 4)
	all := p.bytes()
	path := g.host.begin(p)
	// A request that ended properly keeps all its bytes, also beyond a restart.
	cut := 1<<20 + 333_333
	want(t, g.host.do(patch(path, 0, false, all[:cut])), http.StatusNoContent, "")
	empty := g.host.begin(g.host.big(3, 2))
	g.restart()
	h := g.host.head(path)
	want(t, h, http.StatusNoContent, "")
	if offset(t, h) != int64(cut) || held(t, h).Frames != 1 {
		t.Fatalf("%s; want offset %d", h, cut)
	}
	want(t, g.host.head(empty), http.StatusNoContent, "")
	other := g.newHost("lab-2")
	want(t, other.head(path), http.StatusNotFound, code.UploadGone)
	receipt(t, g.host.do(patch(path, int64(cut), true, all[cut:])), p, code.Stored)
	g.stored(p)
	g.restart()
	want(t, g.host.head(path), http.StatusNotFound, code.UploadGone)
	receipt(t, g.host.post(p), p, code.AlreadyStored)
}

// After a crash of the machine the file can be longer than what was flushed, with
// anything in it.
func TestCrashOfTheMachine(t *testing.T) {
	g := newRig(t)
	p := g.host.big(4, 4)
	all := p.bytes()
	path := g.host.begin(p)
	want(t, g.host.do(patch(path, 0, false, all[:3<<20])), http.StatusNoContent, "")
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimPrefix(path, wire.PathUploads)
	meta := filepath.Join(g.cfg.StateDir, "incoming", token+metaSuffix)
	data := filepath.Join(g.cfg.StateDir, "incoming", token+dataSuffix)
	b, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	// Another boot, nothing told, and the second frame half zeros.
	b = bytes.Replace(b, []byte(bootID()), []byte("00000000-0000-0000-0000-000000000000"), 1)
	b = bytes.Replace(b, []byte(`"proper":3145728`), []byte(`"proper":0`), 1)
	if err := os.WriteFile(meta, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(data, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 4096), int64(len(p.frames[0]))+100_000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	g.start()
	h := g.host.head(path)
	want(t, h, http.StatusNoContent, "")
	at := offset(t, h)
	if at != int64(len(p.frames[0])) {
		t.Fatalf("offset %d; want only the first frame, %d", at, len(p.frames[0]))
	}
	receipt(t, g.host.do(patch(path, at, true, all[at:])), p, code.Stored)
	g.stored(p)
}

func TestStrayFilesAreSwept(t *testing.T) {
	g := newRig(t)
	p := g.host.big(5, 2)
	path := g.host.begin(p)
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(g.cfg.StateDir, "incoming")
	stray := strings.Repeat("a", 32)
	for name, content := range map[string]string{
		stray + dataSuffix:                    "x", // without its meta
		strings.Repeat("b", 32) + metaSuffix:  "{}",
		strings.Repeat("c", 32) + metaSuffix:  "not JSON",
		strings.Repeat("c", 32) + dataSuffix:  "x",
		"." + stray + metaSuffix + ".tmp-123": "{",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g.start()
	if n := incoming(t, g); len(n) != 2 {
		t.Errorf("in incoming/: %v; want only the one upload", n)
	}
	receipt(t, g.host.do(patch(path, 0, true, p.bytes())), p, code.Stored)
}

// A graceful stop keeps what has arrived, and says so to the client that sends.
func TestStopInMidBody(t *testing.T) {
	g := newRig(t)
	p := g.host.big(6, 4)
	all := p.bytes()
	path := g.host.begin(p)
	body := &cutBody{b: all[:2<<20], wait: make(chan struct{})}
	q := patch(path, 0, true, nil)
	q.body, q.length = body, int64(len(all))
	done := make(chan *answer, 1)
	go func() { a, _ := g.host.try(q); done <- a }()
	waitFor(t, "the upload to be under way", func() bool { return size(g, path) >= int64(len(p.frames[0])) })
	old := g.r
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop() }()
	<-old.stopping
	old.interruptAll() // what the stop does after a while
	a := <-done
	close(body.wait)
	if a == nil || a.Response == nil || a.code() != code.ReceiverBusy || a.Header.Get("Retry-After") == "" {
		t.Errorf("answer: %v", a)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	g.start()
	h := g.host.head(path)
	want(t, h, http.StatusNoContent, "")
	at := offset(t, h)
	if at < int64(len(p.frames[0])) {
		t.Errorf("offset %d", at)
	}
	receipt(t, g.host.do(patch(path, at, true, all[at:])), p, code.Stored)
}

func TestExpiry(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) { c.UploadMaxAge = time.Hour })
	p := g.host.big(7, 2)
	path := g.host.begin(p)
	want(t, g.host.do(patch(path, 0, false, p.bytes()[:1<<20])), http.StatusNoContent, "")
	after := func(d time.Duration) *answer {
		t.Helper()
		g.late.Store(int64(d))
		if err := g.r.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the tidying to end", func() bool { return !g.r.tidying.Load() })
		g.late.Store(0)
		return g.host.head(path)
	}
	want(t, after(59*time.Minute), http.StatusNoContent, "")
	want(t, after(61*time.Minute), http.StatusGone, code.UploadGone)
	if n := incoming(t, g); len(n) != 0 {
		t.Errorf("left in incoming/: %v", n)
	}
	want(t, after(3*time.Hour), http.StatusNotFound, code.UploadGone)
	receipt(t, g.host.post(p), p, code.Stored)
}

// A host that lost its token begins anew; the old upload makes place after a while.
func TestLostTokens(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) { c.Limits.PartialBytesPerHost = 9 << 20 })
	p := g.host.big(8, 3)
	first := g.host.begin(p)
	second := g.host.begin(p)
	want(t, g.host.head(first), http.StatusNoContent, "") // both live: it may be two connections
	ann := p.announcement()
	q := request{method: "POST", path: wire.PathEpisodes, ann: &ann, header: map[string]string{wire.HeaderUploadComplete: "?0"}}
	want(t, g.host.do(q), http.StatusInsufficientStorage, code.ReceiverFull)
	for _, path := range []string{first, second} {
		u := g.r.uploads[strings.TrimPrefix(path, wire.PathUploads)]
		u.mu.Lock()
		u.last = u.last.Add(-2 * staleAfter)
		u.mu.Unlock()
	}
	third := g.host.begin(p)
	want(t, g.host.head(first), http.StatusGone, code.UploadGone)
	want(t, g.host.head(second), http.StatusGone, code.UploadGone)
	receipt(t, g.host.do(patch(third, 0, true, p.bytes())), p, code.Stored)
}

// An upload that rests for long gives its memory back and goes on all the same.
func TestParkedUpload(t *testing.T) {
	g := newRig(t)
	p := g.host.big(9, 4)
	all := p.bytes()
	path := g.host.begin(p)
	want(t, g.host.do(patch(path, 0, false, all[:2<<20])), http.StatusNoContent, "")
	u := g.r.uploads[strings.TrimPrefix(path, wire.PathUploads)]
	u.rest(time.Now().Add(2 * parkAfter))
	u.mu.Lock()
	if u.file != nil || u.check != nil || u.room != nil {
		t.Error("it still holds something")
	}
	u.mu.Unlock()
	receipt(t, g.host.do(patch(path, 2<<20, true, all[2<<20:])), p, code.Stored)
	g.stored(p)
}

// The same episode by two connections at once, in all ways of sending it: stored
// once, one receipt.
func TestSameEpisodeAtOnce(t *testing.T) {
	g := newRig(t)
	for _, p := range []*packed{g.host.small(10), g.host.big(11, 3)} {
		type got struct {
			a   *answer
			err error
		}
		results := make(chan got)
		const n = 6
		for i := range n {
			go func() {
				ann := p.announcement()
				q := request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes()), header: map[string]string{wire.HeaderUploadComplete: "?1"}}
				if i%2 == 1 {
					q.body = io.MultiReader(q.body)
				}
				a, err := g.host.try(q)
				results <- got{a, err}
			}()
		}
		var first wire.Receipt
		fresh := 0
		for i := range n {
			r := <-results
			if r.err != nil {
				t.Fatal(r.err)
			}
			if r.a.code() == code.Stored {
				fresh++
			}
			rec := receipt(t, r.a, p, r.a.code())
			if i > 0 && rec != first {
				t.Errorf("receipts differ: %+v, %+v", rec, first)
			}
			first = rec
		}
		if fresh != 1 {
			t.Errorf("%d answers said that it was stored now; want 1", fresh)
		}
		g.stored(p)
	}
	if n := incoming(t, g); len(n) != 0 {
		t.Errorf("left in incoming/: %v", n)
	}
	count := 0
	err := filepath.WalkDir(filepath.Join(g.cfg.StateDir, "episodes"), func(p string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".tar.zst") {
			count++
		}
		return err
	})
	if err != nil || count != 2 {
		t.Errorf("%d archives, %v; want 2", count, err)
	}
}

// Archives of other packers: one frame of unknown size, big frames, a seek table.
func TestForeignFrames(t *testing.T) {
	g := newRig(t)
	for name, frames := range map[string]func(tar []byte) []byte{
		"one frame of unknown size": func(tar []byte) []byte { return zstdStream(t, tar) },
		"one big frame":             func(tar []byte) []byte { return zstdFrames(t, tar, len(tar)) },
		"tiny frames":               func(tar []byte) []byte { return zstdFrames(t, tar, 100_000) },
		"skippable frames": func(tar []byte) []byte {
			return append(zstdFrames(t, tar, 1<<20), 0x5e, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4)
		},
	} {
		for _, n := range []int{20_000, 6 << 20} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				p := g.host.episode(episode.File{Path: "output/x", Data: noise(12, n)})
				body := frames(p.tarBytes(t))
				ann := p.announcement()
				if n < 1<<20 {
					receipt(t, g.host.send(ann, body, false), p, code.Stored)
					g.stored(p)
					return
				}
				// Cut in the middle, twice: a big frame is kept in parts.
				path := g.host.begin(p)
				at := int64(0)
				for range 2 {
					q := patch(path, at, true, nil)
					q.body, q.length = &cutBody{b: body[at : at+2_500_000]}, int64(len(body))-at
					if _, err := g.host.try(q); err == nil {
						t.Fatal("the cut was not felt")
					}
					// What has arrived is not lost, though HEAD comes at once; it may even come first.
					var h *answer
					waitFor(t, "what was sent to arrive", func() bool {
						h = g.host.head(path)
						want(t, h, http.StatusNoContent, "")
						return offset(t, h) >= at+2_500_000-1<<20-1<<16
					})
					at = offset(t, h)
				}
				g.restart()
				h := g.host.head(path)
				want(t, h, http.StatusNoContent, "")
				if offset(t, h) != at {
					t.Fatalf("offset %d after the restart; want %d", offset(t, h), at)
				}
				receipt(t, g.host.do(patch(path, at, true, body[at:])), p, code.Stored)
				g.stored(p)
			})
		}
	}
}

// A request that takes long gets signs of life.
func TestSignsOfLife(t *testing.T) {
	g := newRig(t)
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	g.deps.tune = func(r *Receiver) { r.progressEvery = time.Millisecond }
	g.start()
	p := g.host.big(13, 30)
	path := g.host.begin(p)
	a := g.host.do(patch(path, 0, true, p.bytes()))
	receipt(t, a, p, code.Stored)
	g.stored(p)
	if len(a.interim) == 0 {
		t.Error("no 104 though it took long")
	}
	for _, h := range a.interim {
		if h.Get("Location") != "" || h.Get(wire.HeaderInterop) != wire.InteropVersion {
			t.Errorf("104 of an append: %v", h)
		}
	}
	q := g.host.big(14, 2)
	want(t, g.host.send(q.announcement(), flip(q.bytes(), 700_000), true), http.StatusUnprocessableEntity, code.DigestMismatch)
}

// While a long body is sent, the client is told how far it is on the disk.
func TestProgressIsTold(t *testing.T) {
	g := newRig(t)
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	g.deps.tune = func(r *Receiver) { r.progressEvery = time.Millisecond }
	g.start()
	p := g.host.big(15, 150)
	ann := p.announcement()
	a := g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes()), header: map[string]string{wire.HeaderUploadComplete: "?1"}})
	receipt(t, a, p, code.Stored)
	last, told := int64(0), 0
	for _, h := range a.interim {
		if h.Get("Location") != a.interim[0].Get("Location") {
			t.Errorf("another Location: %v", h)
		}
		if n, ok := wire.ParseInteger(h.Values(wire.HeaderUploadOffset)); ok {
			if told++; n <= last {
				t.Errorf("offset %d after %d", n, last)
			}
			last = n
		}
	}
	if told == 0 || last < flushEvery {
		t.Errorf("told %d times, at last %d", told, last)
	}
}
