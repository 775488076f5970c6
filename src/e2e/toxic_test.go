package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"cis490/src/episode"
)

// toxiproxyVersion is built outside of this module: it would bring two dozen modules that nothing else here needs.
const toxiproxyVersion = "v2.5.0"

// toxiproxy is its server's program, built once for each machine.
func toxiproxy(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("no place to keep toxiproxy: %v", err)
	}
	dir := filepath.Join(cache, "cis490", "toxiproxy-"+toxiproxyVersion)
	file := filepath.Join(dir, "server")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	tmp := tempDir(t) // two test runs may build it at once
	cmd := exec.Command("go", "install", "github.com/Shopify/toxiproxy/v2/cmd/server@"+toxiproxyVersion)
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "GOBIN="+tmp, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("toxiproxy %s can't be built here: %v: %s", toxiproxyVersion, err, out)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := []byte(readFile(t, filepath.Join(tmp, "server")))
	whole := filepath.Join(dir, "server."+strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(whole, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(whole, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// toxic is a running toxiproxy with one proxy in it, before a receiver.
type toxic struct {
	t    *testing.T
	api  string
	addr string
}

func newToxic(t *testing.T, backend string) *toxic {
	t.Helper()
	port := freePort(t)
	x := &toxic{t: t, api: fmt.Sprintf("http://127.0.0.1:%d", port), addr: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	start(t, tempDir(t), []string{"LOG_LEVEL=error"}, toxiproxy(t), "-host", "127.0.0.1", "-port", strconv.Itoa(port))
	eventually(t, 10*time.Second, func() string {
		r, err := http.Get(x.api + "/version")
		if err != nil {
			return err.Error()
		}
		r.Body.Close()
		return ""
	})
	x.do(http.MethodPost, "/proxies", map[string]any{"name": "path", "listen": x.addr, "upstream": backend, "enabled": true})
	// A slow link, so that many faults meet each episode of size.
	x.do(http.MethodPost, "/proxies/path/toxics", map[string]any{"name": "link", "type": "bandwidth", "stream": "upstream", "attributes": map[string]any{"rate": 600}})
	return x
}

func (x *toxic) do(method, path string, body any) {
	x.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		x.t.Fatal(err)
	}
	req, err := http.NewRequest(method, x.api+path, bytes.NewReader(b))
	if err != nil {
		x.t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		x.t.Fatal(err)
	}
	answer, _ := io.ReadAll(r.Body)
	r.Body.Close()
	if r.StatusCode/100 != 2 {
		x.t.Fatalf("toxiproxy: %s %s: %s: %s", method, path, r.Status, answer)
	}
}

// strike brings one random fault upon the path for a while.
func (x *toxic) strike(rng *rand.Rand) (what string) {
	between := func(min, max int) int { return min + rng.IntN(max-min) }
	lasts := time.Duration(between(30, 300)) * time.Millisecond
	toxics := []struct {
		kind  string
		attrs map[string]any
	}{
		{"cut", nil},
		{"reset_peer", map[string]any{"timeout": between(0, 50)}},
		{"limit_data", map[string]any{"bytes": between(1, 200_000)}},
		{"timeout", map[string]any{"timeout": 0}}, // nothing passes
		{"bandwidth", map[string]any{"rate": between(50, 2000)}},
		{"latency", map[string]any{"latency": between(1, 100), "jitter": between(1, 50)}},
		{"slicer", map[string]any{"average_size": between(100, 2000), "size_variation": 50, "delay": between(1, 1000)}},
		{"slow_close", map[string]any{"delay": between(1, 200)}},
	}
	k := toxics[rng.IntN(len(toxics))]
	stream := []string{"upstream", "downstream"}[rng.IntN(2)]
	if k.kind == "cut" {
		x.do(http.MethodPost, "/proxies/path", map[string]any{"enabled": false})
		time.Sleep(lasts / 4)
		x.do(http.MethodPost, "/proxies/path", map[string]any{"enabled": true})
		return k.kind
	}
	if k.kind == "timeout" && rng.IntN(8) == 0 {
		lasts = 1500 * time.Millisecond // longer than the shipper waits
	}
	x.do(http.MethodPost, "/proxies/path/toxics", map[string]any{"name": "t", "type": k.kind, "stream": stream,
		"toxicity": []float64{0.3, 1}[rng.IntN(2)], "attributes": k.attrs})
	time.Sleep(lasts)
	x.do(http.MethodDelete, "/proxies/path/toxics/t", nil)
	return k.kind + " " + stream
}

// TestFiveHundredEpisodesThroughAToxicPathAreEachStoredOnce takes CIS490_E2E_SEED to repeat a run's faults, as far as the timing lets it.
func TestFiveHundredEpisodesThroughAToxicPathAreEachStoredOnce(t *testing.T) {
	t.Parallel()
	need(t, "zstd", "tar")
	seed, err := strconv.ParseUint(os.Getenv("CIS490_E2E_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("CIS490_E2E_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newReceiver(t)
	x := newToxic(t, r.addr)
	h := newHost(t, "lab-01", "https://"+x.addr, r.ca(), `shipper.keep_shipped = "1d"`, `shipper.stall_timeout = "1s"`, `shipper.backoff_max = "200ms"`)
	r.allow(h)
	r.start()
	const episodes = 500
	specs := make([]episode.Spec, episodes)
	for i := range specs {
		size := rng.IntN(16 << 10)
		if i%20 == 0 {
			size = 256<<10 + rng.IntN(2<<20)
		}
		data := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(data)
		specs[i].Files = []episode.File{{Path: "output/capture.bin", Data: data}}
	}
	ids := h.make(specs...)
	slices.Sort(ids)
	h.start()
	began := time.Now()
	struck := map[string]int{}
	for h.drained() != "" {
		if time.Since(began) > 4*time.Minute {
			t.Fatalf("not in four minutes: %s", h.drained())
		}
		struck[x.strike(rng)]++
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
	}
	t.Logf("drained in %s through %v", time.Since(began).Round(time.Millisecond), struck)
	if status := h.stop(20 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(msg)
	}
	if got := r.stored(); !slices.Equal(got, ids) {
		t.Errorf("%d archives are stored for %d episodes", len(got), len(ids))
	}
	if got := listed(r); !slices.Equal(got, ids) {
		t.Errorf("the catalogue has %d rows for %d episodes", len(got), len(ids))
	}
	var acked []string
	for _, rc := range h.receipts() {
		acked = append(acked, rc.Episode.String())
	}
	if slices.Sort(acked); !slices.Equal(acked, ids) {
		t.Errorf("the ledger has %d receipts for %d episodes", len(acked), len(ids))
	}
	// What was shipped is kept by day: the same trees come out of the store.
	out, want := tempDir(t), tempDir(t)
	command(t, "bash", "-c", `set -eo pipefail; find "$1" -name '*.tar.zst' | while read -r a; do zstd -q -dc -- "$a" | tar -x -C "$2"; done`, "bash", filepath.Join(r.state, "episodes"), out)
	for _, day := range names(t, filepath.Join(h.data, "shipped")) {
		command(t, "bash", "-c", `mv -- "$1"/* "$2"`, "bash", filepath.Join(h.data, "shipped", day), want)
	}
	if diff, _, status := try(t, "diff", "-r", want, out); status != 0 || len(names(t, out)) != episodes {
		t.Errorf("status %d, %d came out of the store:\n%.2000s", status, len(names(t, out)), diff)
	}
}
