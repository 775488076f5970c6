package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/baddisk"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/identity"
)

// flip changes one bit of a file.
func flip(t *testing.T, file string, bit int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, bit/8); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << (bit % 8)
	if _, err := f.WriteAt(b, bit/8); err != nil {
		t.Fatal(err)
	}
}

func TestABitThatFlipsInAnyFileOfASealedEpisodeIsFoundAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	files := []string{"bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt", "files.jsonl",
		"data/run.json", "data/ro-crate-metadata.json", "data/output/result.csv"}
	flipped := map[string]string{}
	for _, f := range files {
		for _, end := range []bool{false, true} {
			id := h.seal(smallSource(t, f))
			file := filepath.Join(h.data, "sealed", id, f)
			bit := int64(3)
			if end {
				bit = 8*int64(len(readFile(t, file))) - 5
			}
			flip(t, file, bit)
			flipped[id] = fmt.Sprintf("bit %d of %s", bit, f)
		}
	}
	rest := h.make(make([]episode.Spec, 10)...)
	h.start()
	eventually(t, 30*time.Second, h.drained)
	if got := r.stored(); !slices.Equal(got, slices.Sorted(slices.Values(rest))) {
		t.Errorf("stored %v, want %v", got, rest)
	}
	eventually(t, 10*time.Second, func() string { return h.setAside(len(flipped)) })
	for id, why := range h.quarantined() {
		if why.Code != code.Damaged || why.Detail == "" || why.Fix == "" {
			t.Errorf("%s: %+v", flipped[id], why)
		}
	}
}

func TestABitThatFlipsDuringTheUploadIsFound(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 24<<20)
	id := h.seal(src)
	p.rate.Store(8 << 20)
	h.start()
	eventually(t, 20*time.Second, p.passed(4<<20))
	flip(t, filepath.Join(h.data, "sealed", id, "data/output/capture.bin"), 8*(23<<20))
	p.rate.Store(0)
	eventually(t, 20*time.Second, func() string { return h.setAside(1) })
	if why := h.quarantined()[id]; why.Code != code.Damaged || !strings.Contains(why.Detail, "capture.bin") || why.Fix == "" {
		t.Errorf("%+v", why)
	}
	if got := r.stored(); len(got) != 0 {
		t.Errorf("stored: %v", got)
	}
}

// flipping is a body of which one bit arrives wrong.
type flipping struct {
	io.ReadCloser
	at int64 // byte
}

func (f *flipping) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if 0 <= f.at && f.at < int64(n) {
		p[f.at] ^= 0x10
	}
	f.at -= int64(n)
	return n, err
}

// TestABitThatFlipsOnTheWayIsSentAgain has somebody in the middle who ends TLS and has the host's key, as a box with bad memory might.
func TestABitThatFlipsOnTheWayIsSentAgain(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t)
	cert, _, err := identity.LoadOrMakeHostKey(filepath.Join(h.data, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(readFile(t, r.ca())))
	to := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "https", Host: r.addr})
			pr.Out.Host = pr.In.Host
		},
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}},
		FlushInterval: -1,
		ErrorLog:      discardLog,
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	var flips int
	const most = 12
	p.answer(r.front(), func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		if flips < most && req.Method == http.MethodPost && req.ContentLength != 0 {
			flips++
			size := int64(20_000)
			if req.ContentLength > 0 {
				size = req.ContentLength
			}
			req.Body = &flipping{req.Body, rng.Int64N(size)}
		}
		mu.Unlock()
		to.ServeHTTP(w, req)
	})
	big := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(big, "capture.bin"), 3<<20)
	sources := map[string]string{h.seal(big): big}
	for i := range 10 {
		src := filepath.Join(tempDir(t), "run")
		noise(t, filepath.Join(src, fmt.Sprint(i), "capture.bin"), 20<<10)
		sources[h.seal(src)] = src
	}
	h.start()
	eventually(t, time.Minute, h.drained)
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(msg)
	}
	mu.Lock()
	t.Logf("%d bits flipped in %d requests", flips, p.requests.Load())
	mu.Unlock()
	for id, src := range sources {
		storedOnce(t, r, h, id)
		command(t, "diff", "-r", src, filepath.Join(unpackByStockTools(t, r.archives(id)[0], id), "data", "output"))
	}
}

func TestABitThatFlipsInTheCiphertextIsSentAgain(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t)
	var flips atomic.Int64
	p.set(func(c net.Conn) {
		b, err := net.Dial("tcp", p.backend)
		if err != nil {
			return
		}
		defer b.Close()
		go func() {
			io.Copy(c, b)
			c.Close()
		}()
		// Past the handshake; and one connection in four is sound.
		at := 20_000 + rand.Int64N(200_000)
		if flips.Load()%4 == 3 {
			at = -1
		}
		io.CopyN(b, c, max(at, 0))
		if at >= 0 {
			buf := make([]byte, 1)
			if _, err := c.Read(buf); err != nil {
				return
			}
			buf[0] ^= 1
			b.Write(buf)
		}
		flips.Add(1)
		io.Copy(b, c)
	}, nil)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 8<<20)
	ids := []string{h.seal(src), h.seal(src)}
	ids = append(ids, h.make(make([]episode.Spec, 50)...)...)
	h.start()
	eventually(t, time.Minute, h.drained)
	t.Logf("%d connections, %d of them with a flipped bit or sound to the end", p.dialed.Load(), flips.Load())
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(msg)
	}
	if flips.Load() == 0 {
		t.Error("no bit was flipped")
	}
	for _, id := range ids[:3] {
		storedOnce(t, r, h, id)
	}
	for _, id := range ids[:2] {
		command(t, "diff", "-r", src, filepath.Join(unpackByStockTools(t, r.archives(id)[0], id), "data", "output"))
	}
	if got := r.stored(); len(got) != len(ids) {
		t.Errorf("%d stored, want %d", len(got), len(ids))
	}
}

func TestStraysInSealedAreSetAsideAndNeverAStop(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	sealed := func(name string) string { return filepath.Join(h.data, "sealed", name) }
	made := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rest := h.make(make([]episode.Spec, 10)...)
	made(unix.Mkfifo(sealed("pipe"), 0o644))
	made(unix.Mkfifo(sealed(episode.NewID().String()), 0o644))
	made(os.Symlink("/etc", sealed(episode.NewID().String())))
	made(os.Symlink(sealed("nowhere"), sealed("dangling")))
	made(os.WriteFile(sealed("notes \n\x1b[31m.txt"), []byte("x"), 0o644))
	made(os.WriteFile(sealed("\xff\xfe"), nil, 0o644))
	made(os.Mkdir(sealed("half-made"), 0o755))
	made(os.Mkdir(sealed(episode.NewID().String()), 0o755))
	half := sealed(episode.NewID().String())
	writeFile(t, filepath.Join(half, "bagit.txt"), []byte("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"))
	writeFile(t, filepath.Join(half, "data", "output", "part"), []byte("x"))
	inside := h.make(episode.Spec{})[0] // a FIFO where a payload file was: reading it must not hang
	made(os.Remove(filepath.Join(sealed(inside), "data/output/result.txt")))
	made(unix.Mkfifo(filepath.Join(sealed(inside), "data/output/result.txt"), 0o644))
	tag := h.make(episode.Spec{})[0]
	made(os.Remove(filepath.Join(sealed(tag), "tagmanifest-sha256.txt")))
	made(unix.Mkfifo(filepath.Join(sealed(tag), "tagmanifest-sha256.txt"), 0o644))
	linked := h.make(episode.Spec{})[0] // the same bytes, by way of a link
	made(os.Rename(filepath.Join(sealed(linked), "data/output/result.txt"), filepath.Join(h.data, "elsewhere")))
	made(os.Symlink(filepath.Join(h.data, "elsewhere"), filepath.Join(sealed(linked), "data/output/result.txt")))
	const strays = 12
	h.start()
	eventually(t, 30*time.Second, h.drained)
	if got := r.stored(); !slices.Equal(got, slices.Sorted(slices.Values(rest))) {
		t.Errorf("stored %v, want %v", got, rest)
	}
	eventually(t, 10*time.Second, func() string { return h.setAside(strays) })
	for id, why := range h.quarantined() {
		if why.Code != code.Damaged || why.Detail == "" || why.Fix == "" {
			t.Errorf("%s: %+v", id, why)
		}
	}
	if list := h.cli("quarantine", "list"); strings.Contains(list, "\x1b") || !strings.Contains(list, fmt.Sprintf("%d damaged", strays)) {
		t.Errorf("quarantine list:\n%q", list)
	}
	if s := h.cli("status"); !strings.Contains(s, fmt.Sprintf("%d damaged", strays)) {
		t.Errorf("status:\n%s", s)
	}
}

// TestWhatTheShippersUserMayNotReadIsWaitedFor: an episode that somebody else sealed with other rights. It can't be set aside either.
func TestWhatTheShippersUserMayNotReadIsWaitedFor(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	r, _, h := pair(t)
	const nobody = 65534
	rest := h.make(make([]episode.Spec, 10)...)
	ids := h.make(make([]episode.Spec, 2)...)
	slices.Sort(ids)
	h.user = &syscall.Credential{Uid: nobody, Gid: nobody}
	made := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{h.dir, filepath.Dir(r.ca()), filepath.Dir(filepath.Dir(r.ca())), r.dir, bin} {
		made(os.Chmod(d, 0o755))
	}
	made(filepath.WalkDir(h.dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, nobody, nobody)
	}))
	dir := filepath.Join(h.data, "sealed", ids[0])
	file := filepath.Join(h.data, "sealed", ids[1], "data/output/result.txt")
	for _, p := range []string{dir, file} {
		made(os.Chown(p, 0, 0))
		made(os.Chmod(p, 0))
	}
	h.start()
	waits := func() string {
		if n := len(r.stored()); n != len(rest) {
			return fmt.Sprintf("%d are stored, want %d", n, len(rest))
		}
		if got := h.sealed(); !slices.Equal(got, ids) {
			return fmt.Sprintf("%v wait, want %v", got, ids)
		}
		return h.nothingQuarantined()
	}
	eventually(t, 20*time.Second, waits)
	always(t, 2*time.Second, waits)
	if s := h.cli("status"); !strings.Contains(s, string(code.ReadFailed)) || !strings.Contains(s, "permission denied") {
		t.Errorf("status does not say %s, or not why:\n%s", code.ReadFailed, s)
	}
	made(os.Chmod(dir, 0o755))
	made(os.Chown(dir, nobody, nobody))
	made(os.Chown(file, nobody, nobody))
	made(os.Chmod(file, 0o644))
	h.cli("push")
	eventually(t, 20*time.Second, h.drained)
	for _, id := range ids {
		storedOnce(t, r, h, id)
	}
	if !strings.Contains(h.output(), "permission denied") {
		t.Error("the log does not say why they waited")
	}
}

// TestADirectoryThatCannotBeReadIsWaitedFor: EIO on the way to a file, and on the way to the queue.
func TestADirectoryThatCannotBeReadIsWaitedFor(t *testing.T) {
	t.Parallel()
	disk, data := mountFaulty(t)
	r := newReceiver(t)
	h := newHostIn(t, tempDir(t), data, "lab-01", "https://"+r.addr, r.ca())
	r.allow(h)
	r.start()
	src := filepath.Join(tempDir(t), "run")
	writeFile(t, filepath.Join(src, "unreadable", "a"), []byte("a"))
	id := h.seal(src)
	rest := h.make(make([]episode.Spec, 10)...)
	disk.Fail(baddisk.Lookup, "unreadable", syscall.EIO)
	h.start()
	waits := func() string {
		if n := len(r.stored()); n != len(rest) {
			return fmt.Sprintf("%d are stored, want %d", n, len(rest))
		}
		if got := h.sealed(); len(got) != 1 || got[0] != id {
			return fmt.Sprintf("%v wait, want %s", got, id)
		}
		return h.nothingQuarantined()
	}
	eventually(t, 20*time.Second, waits)
	always(t, time.Second, waits)
	if s := h.cli("status"); !strings.Contains(s, string(code.ReadFailed)) {
		t.Errorf("status does not say %s:\n%s", code.ReadFailed, s)
	}
	// And sealed/ itself: nothing can be known to wait, and the shipper says so and lives.
	disk.Fail(baddisk.Lookup, "sealed", syscall.EIO)
	eventually(t, 20*time.Second, func() string {
		if s := h.cli("status"); !strings.Contains(s, "can't scan") || !strings.Contains(s, "input/output error") {
			return s
		}
		return ""
	})
	disk.Heal()
	h.cli("push")
	eventually(t, 20*time.Second, h.drained)
	storedOnce(t, r, h, id)
	if !h.alive() {
		t.Error("the shipper ended")
	}
}
