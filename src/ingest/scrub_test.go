package ingest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/state"
	"cis490/src/store"
	"cis490/src/wire"
)

func (c *client) self() (s wire.Self) {
	c.t.Helper()
	a := c.do(request{method: "GET", path: wire.PathSelf})
	want(c.t, a, http.StatusOK, "")
	if err := json.Unmarshal(a.body, &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// rot flips a bit in the middle of the stored archive of p.
func (g *rig) rot(p *packed) {
	g.t.Helper()
	path := g.r.Store().ArchivePath(p.facts)
	b, err := os.ReadFile(path)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(path, flip(b, len(b)/2), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// Damage in the store is named, its host alone is told, and the episode sent
// again mends it, also when the window would not let it in any more.
func TestDamageInTheStore(t *testing.T) {
	g := newRig(t, func(c *config.Receiver) { c.Window.MaxAge = 24 * time.Hour })
	other := g.newHost("lab-2")
	small, big, fine := g.host.small(1), g.host.big(2, 3), other.small(3)
	first := map[*packed]wire.Receipt{}
	for _, p := range []*packed{small, big} {
		first[p] = receipt(t, g.host.post(p), p, code.Stored)
	}
	receipt(t, other.post(fine), fine, code.Stored)
	if d := g.host.self().Damaged; d.Count != 0 || len(d.Episodes) != 0 {
		t.Errorf("damaged: %+v", d)
	}
	o := g.operator()
	var found []store.Finding
	scrub := func() store.ScrubReport {
		t.Helper()
		found = nil
		rep, err := o.Scrub(t.Context(), store.ScrubOptions{Found: func(f store.Finding) { found = append(found, f) }, Progress: func(store.ScrubProgress) {}})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	if rep := scrub(); rep.Sound != 3 || rep.Faults() != 0 || !rep.Walked || len(found) != 0 {
		t.Errorf("%+v %+v", rep, found)
	}
	g.rot(small)
	g.rot(big)
	if rep := scrub(); rep.Damaged != 2 || rep.Sound != 1 || len(found) != 2 {
		t.Errorf("%+v %+v", rep, found)
	}
	for _, f := range found {
		if f.Host != "lab-1" || f.Fix == "" || f.What == "" || !strings.HasPrefix(f.Path, "episodes/lab-1/") {
			t.Errorf("%+v", f)
		}
	}
	if d := g.host.self().Damaged; d.Count != 2 || len(d.Episodes) != 2 {
		t.Errorf("damaged: %+v", d)
	}
	if d := other.self().Damaged; d.Count != 0 {
		t.Errorf("another host is told: %+v", d)
	}
	if s := g.r.State(); s.DamagedEpisodes != 2 || s.OldestCheck.IsZero() {
		t.Errorf("state: %+v", s)
	}
	var metrics bytes.Buffer
	g.r.counts.set.WritePrometheus(&metrics)
	for _, line := range []string{`store_findings_total{kind="damaged"} 2`, "cis490_receiver_damaged_episodes 2", "cis490_receiver_scrubbed_episodes_total 6"} {
		if !strings.Contains(metrics.String(), line) {
			t.Errorf("no %s in the metrics", line)
		}
	}
	if !strings.Contains(g.r.statusText(), "2 stored episodes are damaged") {
		t.Error(g.r.statusText())
	}
	if e, err := o.Episode(t.Context(), small.facts.ID); err != nil || e.Damaged == "" {
		t.Errorf("%+v, %v", e, err)
	}

	// Two days later they are older than the window: what the receiver acknowledged once it takes again.
	g.restart()
	g.late.Store(int64(48 * time.Hour))
	for _, p := range []*packed{small, big} {
		ann := p.announcement()
		ann.Sent = time.Now().Add(48 * time.Hour)
		r := receipt(t, g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes()), header: map[string]string{wire.HeaderUploadComplete: "?1"}}), p, code.Stored)
		if r.BagDigest != first[p].BagDigest || r.WindowID != first[p].WindowID || !r.StoredAt.After(first[p].StoredAt) {
			t.Errorf("receipt %+v, the first %+v", r, first[p])
		}
		if again := receipt(t, g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, header: map[string]string{wire.HeaderUploadComplete: "?0"}}), p, code.AlreadyStored); again != r {
			t.Errorf("receipt %+v, before %+v", again, r)
		}
		g.stored(p)
	}
	o = g.operator()
	if rep := scrub(); rep.Sound != 3 || rep.Faults() != 0 {
		t.Errorf("%+v %+v", rep, found)
	}
	if d := g.host.self().Damaged; d.Count != 0 {
		t.Errorf("damaged: %+v", d)
	}
}

// A header that lies about a damaged episode gets no further than any lie.
func TestLieAboutADamagedEpisode(t *testing.T) {
	g := newRig(t)
	p := g.host.small(1)
	receipt(t, g.host.post(p), p, code.Stored)
	if err := os.Remove(g.r.Store().ArchivePath(p.facts)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.r.Store().Scrub(t.Context(), store.ScrubOptions{}); err != nil {
		t.Fatal(err)
	}
	ann := p.announcement()
	ann.Size++
	a := g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes()), header: map[string]string{wire.HeaderUploadComplete: "?1"}})
	want(t, a, http.StatusBadRequest, code.Malformed)
	ann = p.announcement()
	ann.Digest[0]++
	a = g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.bytes()), header: map[string]string{wire.HeaderUploadComplete: "?1"}})
	if a.code() != code.Conflict && a.code() != code.DigestMismatch {
		t.Errorf("%s", a)
	}
	if d := g.host.self().Damaged; d.Count != 1 {
		t.Errorf("damaged: %+v", d)
	}
	receipt(t, g.host.post(p), p, code.Stored)
}

func everything(t *testing.T) store.ScrubOptions {
	return store.ScrubOptions{Found: func(f store.Finding) { t.Logf("%+v", f) }, Progress: func(store.ScrubProgress) {}}
}

// An operator who doesn't read the answer holds up neither the scrub nor the watchdog.
func TestStoppedOperator(t *testing.T) {
	g := newRig(t)
	g.operator() // it is there
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(g.cfg.StateDir, "episodes", strings.Repeat("x", 200)+fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := net.Dial("unix", state.OperatorPath(g.cfg.RunDir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "POST /v1/scrub HTTP/1.1\r\nHost: receiver\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReaderSize(c, 16).ReadByte(); err != nil {
		t.Fatal(err)
	}
	// Nothing more is read.
	waitFor(t, "the scrub's end", func() bool {
		_, err := g.r.Store().Scrub(context.Background(), store.ScrubOptions{})
		return err == nil
	})
	if err := errors.Join(c.Close()); err != nil {
		t.Error(err)
	}
}
