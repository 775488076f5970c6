package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/state"
	"cis490/src/wire"
)

// operatorCurl runs the stock client on the operator socket.
func (g *rig) operatorCurl(path string, args ...string) (header string, body []byte, err error) {
	g.t.Helper()
	exe, err := exec.LookPath("curl")
	if err != nil {
		g.t.Skip("curl is not installed")
	}
	dir := g.t.TempDir()
	args = append([]string{"--silent", "--show-error", "--max-time", "30", "--unix-socket", state.OperatorPath(g.cfg.RunDir),
		"--dump-header", filepath.Join(dir, "header"), "http://receiver" + path}, args...)
	if !slices.Contains(args, "--output") {
		args = append(args, "--output", filepath.Join(dir, "body"))
	}
	out, err := exec.CommandContext(g.t.Context(), exe, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	h, _ := os.ReadFile(filepath.Join(dir, "header"))
	body, _ = os.ReadFile(filepath.Join(dir, "body")) // there is none without a body
	return string(h), body, err
}

func TestFilesByCurl(t *testing.T) {
	g := newRig(t)
	data := noise(7, 5<<20)
	odd := "output/näme with 100%? #1\n\".csv"
	p := g.host.episode(episode.File{Path: "output/a.bin", Data: data}, episode.File{Path: odd, Data: []byte("a,b\n")}, episode.File{Path: "output/none"})
	receipt(t, g.host.post(p), p, code.Stored)
	base := "/v1/episodes/" + p.facts.ID.String() + "/files/data/"
	sum := sha256.Sum256(data)
	tag, digest := `"`+hex.EncodeToString(sum[:])+`"`, "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":"
	get := func(path string, args ...string) (string, []byte) {
		t.Helper()
		h, b, err := g.operatorCurl(path, args...)
		if err != nil {
			t.Fatal(err)
		}
		return h, b
	}
	h, b := get(base + "output/a.bin")
	if final(h) != 200 || !bytes.Equal(b, data) || field(h, "etag") != tag || field(h, "repr-digest") != digest || field(h, "content-digest") != digest ||
		field(h, "accept-ranges") != "bytes" || field(h, "content-length") != fmt.Sprint(len(data)) {
		t.Errorf("%s and %d bytes", h, len(b))
	}
	h, b = get(base+"output/a.bin", "--head")
	if final(h) != 200 || field(h, "etag") != tag || field(h, "content-length") != fmt.Sprint(len(data)) || field(h, "repr-digest") != digest {
		t.Errorf("HEAD: %s and %d bytes", h, len(b))
	}
	for r, want := range map[string][2]int{"0-0": {0, 1}, "1048000-2097151": {1048000, 2097152}, "-10": {len(data) - 10, len(data)}, "5242870-": {5242870, len(data)}, "100-99999999": {100, len(data)}} {
		h, b = get(base+"output/a.bin", "-r", r)
		if final(h) != 206 || !bytes.Equal(b, data[want[0]:want[1]]) || field(h, "content-range") != fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, len(data)) ||
			field(h, "content-digest") != "" || field(h, "repr-digest") != digest {
			t.Errorf("range %s: %s and %d bytes", r, h, len(b))
		}
	}
	h, b = get(base+"output/a.bin", "-r", "0-9,100-109")
	if final(h) != 206 || !strings.HasPrefix(field(h, "content-type"), "multipart/byteranges") || !bytes.Contains(b, data[100:110]) {
		t.Errorf("two ranges: %s and %d bytes", h, len(b))
	}
	h, _ = get(base+"output/a.bin", "-r", "5242880-")
	if final(h) != 416 || field(h, "content-range") != fmt.Sprintf("bytes */%d", len(data)) {
		t.Errorf("behind the end: %s", h)
	}
	h, b = get(base+"output/a.bin", "-r", "0-9", "-H", "If-Range: "+tag)
	if final(h) != 206 || len(b) != 10 {
		t.Errorf("If-Range that holds: %s", h)
	}
	h, b = get(base+"output/a.bin", "-r", "0-9", "-H", `If-Range: "other"`)
	if final(h) != 200 || len(b) != len(data) {
		t.Errorf("If-Range that doesn't: %s", h)
	}
	h, _ = get(base+"output/a.bin", "-H", "If-None-Match: "+tag)
	if final(h) != 304 {
		t.Errorf("If-None-Match: %s", h)
	}
	h, b = get(base + "output/none")
	if final(h) != 200 || len(b) != 0 || field(h, "content-length") != "0" {
		t.Errorf("an empty file: %s", h)
	}
	h, b = get(base + "output/" + url.PathEscape(filepath.Base(odd)))
	if final(h) != 200 || string(b) != "a,b\n" {
		t.Errorf("an odd name: %s %q", h, b)
	}
	h, b = get(base + "output/a.bim")
	if final(h) != 404 || !strings.Contains(string(b), "did you mean data/output/a.bin?") {
		t.Errorf("%s %s", h, b)
	}
	for _, path := range []string{base + "output", base + "../../../../etc/passwd", "/v1/episodes/" + p.facts.ID.String() + "/files/bagit.txt"} {
		if h, b = get(path, "--path-as-is", "--location"); final(h) != 404 {
			t.Errorf("%s: %s %s", path, h, b)
		}
	}

	// A download that was cut goes on.
	into := filepath.Join(t.TempDir(), "a.bin")
	if err := os.WriteFile(into, data[:1_234_567], 0o600); err != nil {
		t.Fatal(err)
	}
	get(base+"output/a.bin", "-C", "-", "--output", into)
	if b, err := os.ReadFile(into); err != nil || !bytes.Equal(b, data) {
		t.Errorf("resumed: %d bytes, %v", len(b), err)
	}
	get(base+"output/a.bin", "-C", "-", "--output", into) // is whole already

	// Of a file that is not what the manifest says, the end never comes.
	path := g.r.Store().ArchivePath(p.facts)
	archive, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	tar, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(tar, data[:100])
	tar[i+3<<20] ^= 1
	rotten := zstdFrames(t, tar, 1<<20)
	if err := os.WriteFile(path, append(rotten, make([]byte, max(0, len(archive)-len(rotten)))...)[:len(archive)], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, b, err = g.operatorCurl(base + "output/a.bin"); err == nil || len(b) >= len(data) {
		t.Errorf("a damaged file came whole: %d of %d bytes, %v", len(b), len(data), err)
	}
}

// One file is read without the rest, from an operator's side too, and compared there.
func TestOperatorFiles(t *testing.T) {
	g := newRig(t)
	big := noise(8, 24<<20)
	p := g.host.episode(episode.File{Path: "output/a.bin", Data: big}, episode.File{Path: "output/z.csv", Data: []byte("a,b\n1,2\n")})
	receipt(t, g.host.post(p), p, code.Stored)
	// One huge frame, as curl might send it.
	q := g.host.episode(episode.File{Path: "output/a.bin", Data: big[:9<<20]}, episode.File{Path: "output/z.csv", Data: []byte("a,b\n1,2\n")})
	var one bytes.Buffer
	w, err := zstd.NewWriter(&one, zstd.WithWindowSize(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(q.tarBytes(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ann := q.announcement()
	receipt(t, g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(one.Bytes()), header: map[string]string{wire.HeaderUploadComplete: "?1"}}), q, code.Stored)
	for _, e := range []*packed{p, q} {
		a, err := g.operator().Files(t.Context(), e.facts.ID)
		if err != nil {
			t.Fatal(err)
		}
		f, err := a.Open("data/output/z.csv")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil || string(b) != "a,b\n1,2\n" {
			t.Errorf("%q, %v", b, err)
		}
		if n := a.Read(); e == p && n > 4<<20 {
			t.Errorf("%d bytes of the archive were read for a file of 8", n)
		}
		if _, err := a.Open("data/output/z.cvs"); err == nil || !strings.Contains(err.Error(), "did you mean data/output/z.csv?") {
			t.Error(err)
		}
		into := filepath.Join(t.TempDir(), "out")
		if out, err := a.Extract(t.Context(), "data/output", into); err != nil || out.Files != 2 {
			t.Errorf("%+v, %v", out, err)
		}
		if _, err := a.Extract(t.Context(), "data/outpu", into+"2"); err == nil || !strings.Contains(err.Error(), "has no \"data/outpu\"") {
			t.Error(err)
		}
	}
	// The copy is replaced while it is read.
	a, err := g.operator().Files(t.Context(), p.facts.ID)
	if err != nil {
		t.Fatal(err)
	}
	g.rot(p)
	if rep, err := g.operator().Scrub(t.Context(), everything(t)); err != nil || rep.Damaged != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	receipt(t, g.host.post(p), p, code.Stored)
	f, err := a.Open("data/output/z.csv")
	if err == nil {
		_, err = io.ReadAll(f)
	}
	if err == nil || !strings.Contains(err.Error(), "stored anew while it was read") {
		t.Error(err)
	}
}

// The cost of a range follows the range: the receiver reads a few MiB of the archive.
func TestRangeCost(t *testing.T) {
	g := newRig(t)
	p := g.host.episode(episode.File{Path: "output/a.bin", Data: noise(9, 48<<20)}, episode.File{Path: "output/b.bin", Data: noise(10, 1<<20)})
	receipt(t, g.host.post(p), p, code.Stored)
	var d net.Dialer
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", state.OperatorPath(g.cfg.RunDir))
	}}
	defer tr.CloseIdleConnections()
	for _, name := range []string{"a.bin", "b.bin"} {
		before := charsRead(t)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://receiver/v1/episodes/"+p.facts.ID.String()+"/files/data/output/"+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", "bytes=-1048576")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(b) != 1<<20 || resp.StatusCode != http.StatusPartialContent {
			t.Fatalf("%s, %d bytes, %v", resp.Status, len(b), err)
		}
		// Client and receiver are one process here: the megabyte itself counts too.
		if n := charsRead(t) - before; n > 6*pack.FrameSize {
			t.Errorf("%s: %d bytes were read for a range of 1 MiB", name, n)
		} else {
			t.Logf("%s: %d bytes were read", name, n)
		}
	}
}

// charsRead is what this process has read so far, from files and sockets.
func charsRead(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err == nil {
		_, err = fmt.Sscanf(string(b), "rchar: %d", &n)
	}
	if err != nil {
		t.Skip("this kernel doesn't count reads: ", err)
	}
	return n
}

func TestNotAnEpisodesFile(t *testing.T) {
	g := newRig(t)
	o := g.operator()
	if _, err := o.Files(t.Context(), episode.NewID()); err == nil {
		t.Error("files of an episode that is not there")
	}
	resp, err := o.do(t.Context(), http.MethodGet, "/episodes/x/files/data/a")
	if err == nil {
		resp.Body.Close()
		t.Error("an id that is none")
	}
}
