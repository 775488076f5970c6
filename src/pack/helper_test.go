package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cis490/src/bag"
	"cis490/src/episode"
)

// tree is the payload of an episode in a test: path below data/ to content.
type tree map[string][]byte

// content is an episode as its files; a test may change it before it is written or packed.
type content struct {
	id    episode.ID
	tags  map[string][]byte
	files tree // with the prefix data/, run.json among them
}

// makeContent makes the files of an episode. meta lines are added to files.jsonl.
func makeContent(t testing.TB, files tree, meta ...bag.FileMeta) *content {
	t.Helper()
	id := episode.NewID()
	at := time.Date(2026, 3, 4, 5, 6, 7, 890, time.UTC)
	run := &episode.Run{
		Schema: episode.Schema, ID: id, Host: "lab-1", Workload: "test", Outcome: episode.Complete,
		Started: episode.Moment{Realtime: at}, Ended: episode.Moment{Realtime: at.Add(90 * time.Second)},
	}
	runJSON, err := run.Format()
	if err != nil {
		t.Fatal(err)
	}
	c := &content{id: id, files: tree{runFile: runJSON}, tags: map[string][]byte{}}
	for p, b := range files {
		c.files[bag.PayloadDir+"/"+p] = b
	}
	c.tags[bag.Files] = bag.FormatFiles(meta)
	c.seal(t, "lab-1")
	return c
}

// seal makes the tag files fit the payload.
func (c *content) seal(t testing.TB, host string) {
	t.Helper()
	var list []byte
	size := int64(0)
	for _, p := range c.paths() {
		sum := sha256.Sum256(c.files[p])
		list = bag.AppendManifestLine(list, sum[:], p)
		size += int64(len(c.files[p]))
	}
	info, err := bag.FormatInfo(bag.Info{
		{Label: bag.LabelOxum, Value: bag.FormatOxum(size, int64(len(c.files)))},
		{Label: bag.LabelIdentifier, Value: c.id.String()},
		{Label: episode.LabelHost, Value: host},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.tags[bag.Manifest] = list
	c.tags[bag.InfoFile] = info
	c.tags[bag.Declaration] = []byte(bag.DeclarationText)
	c.sealTags()
}

// sealTags makes the tag manifest fit the other tag files.
func (c *content) sealTags() {
	names := slices.Clone(tagFiles[1:])
	slices.Sort(names)
	var b []byte
	for _, n := range names {
		sum := sha256.Sum256(c.tags[n])
		b = bag.AppendManifestLine(b, sum[:], n)
	}
	c.tags[bag.TagManifest] = b
}

func (c *content) paths() []string {
	var p []string
	for n := range c.files {
		p = append(p, n)
	}
	slices.Sort(p)
	return p
}

// facts are those of the content, however wrong it is otherwise.
func (c *content) facts(t testing.TB) episode.Facts {
	t.Helper()
	info, err := bag.ParseInfo(c.tags[bag.InfoFile])
	if err != nil {
		t.Fatal(err)
	}
	run, err := episode.ParseRun(c.files[runFile])
	if err != nil {
		t.Fatal(err)
	}
	f, err := episode.MakeFacts(bag.DigestOf(c.tags[bag.TagManifest]), info, run)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// write puts the episode on the disk, below a directory of its own, and gives its directory.
func (c *content) write(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), c.id.String())
	for n, b := range c.tags {
		writeFile(t, filepath.Join(dir, n), b)
	}
	for n, b := range c.files {
		writeFile(t, filepath.Join(dir, filepath.FromSlash(n)), b)
	}
	return dir
}

func writeFile(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// tar is the stream that the content should give, built in the plainest way.
func (c *content) tar(t testing.TB) []byte {
	t.Helper()
	var b []byte
	add := func(name string, data []byte) {
		var err error
		if b, err = appendHeader(b, c.id.String(), name, int64(len(data))); err != nil {
			t.Fatal(err)
		}
		b = append(b, data...)
		b = append(b, make([]byte, padding(int64(len(data))))...)
	}
	for _, n := range tagFiles {
		add(n, c.tags[n])
	}
	for _, p := range c.paths() {
		add(p, c.files[p])
	}
	return append(b, make([]byte, endSize)...)
}

func plan(t testing.TB, dir string) *Plan {
	t.Helper()
	p, err := NewPlan(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// stream reads a whole stream and gives its packed bytes.
func stream(t testing.TB, p *Packer, pl *Plan, from int64) (packed []byte, frames []FrameInfo) {
	t.Helper()
	return taken(t, p.Stream(context.Background(), pl, from))
}

// taken is all that a stream gives.
func taken(t testing.TB, s *Stream) (packed []byte, frames []FrameInfo) {
	t.Helper()
	defer s.Close()
	at := s.from
	for {
		f, err := s.Next()
		if err == io.EOF {
			if at != s.plan.TarSize() {
				t.Fatalf("the stream ended at %d of %d", at, s.plan.TarSize())
			}
			return packed, frames
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Offset != at || f.Len <= 0 || f.Len > FrameSize {
			t.Fatalf("frame of %d at %d, want it at %d", f.Len, f.Offset, at)
		}
		at += int64(f.Len)
		packed = append(packed, f.Data...)
		frames = append(frames, FrameInfo{int64(len(f.Data)), int64(f.Len)})
		f.Release()
	}
}

func unpack(t testing.TB, packed []byte) []byte {
	t.Helper()
	d := NewDecoder(bytes.NewReader(packed))
	defer d.Close()
	b, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// telemetry is text as a workload would record it.
func telemetry(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	ts, c := int64(1_700_000_000_000_000), [4]int64{}
	for b.Len() < n {
		ts += 100_000 + r.Int64N(500)
		for i := range c {
			c[i] += r.Int64N(5000)
		}
		if b.Len()>>17&1 == 0 {
			fmt.Fprintf(&b, "%d,%d,%d,%d,%d,%.4f\n", ts, c[0], c[1], c[2], c[3], r.Float64())
		} else {
			json.NewEncoder(&b).Encode(map[string]any{"ts_us": ts, "cpu_usage_us": c[0], "memory_current_bytes": c[1] * 4096, "state": "running"})
		}
	}
	return b.Bytes()[:n]
}

func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// mixed is content with long runs of text, noise and zeros.
func mixed(seed uint64, n int) []byte {
	var b []byte
	for i := seed; len(b) < n; i++ {
		switch i % 3 {
		case 0:
			b = append(b, telemetry(i, min(n-len(b), 700_000))...)
		case 1:
			b = append(b, noise(i, min(n-len(b), 500_000))...)
		case 2:
			b = append(b, make([]byte, min(n-len(b), 1_500_000))...)
		}
	}
	return b
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one of %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Fatalf("error %q has no %q", err, p)
		}
	}
}
