package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"cis490/src/episode"
)

func TestAStopInMidUploadParksItAndTheNextStartGoesOn(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t, `shipper.stop_timeout = "500ms"`)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 24<<20)
	id := h.seal(src)
	p.rate.Store(4 << 20)
	h.start()
	eventually(t, 20*time.Second, func() string {
		if n := p.up.Load(); n < 6<<20 {
			return fmt.Sprintf("%d bytes sent", n)
		}
		return ""
	})
	asked := time.Now()
	if status := h.stop(20 * time.Second); status != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
	t.Logf("stopped within %s", time.Since(asked).Round(time.Millisecond))
	if got := h.sealed(); !slices.Equal(got, []string{id}) {
		t.Fatalf("sealed/ has %v, want the episode that was under way", got)
	}
	sent := p.up.Load()
	p.rate.Store(0)
	h.start()
	eventually(t, 30*time.Second, h.drained)
	total := p.up.Load()
	t.Logf("%d bytes before the stop, %d after it", sent, total-sent)
	if most := int64(25<<20 + perCut); total > most {
		t.Errorf("%d bytes sent for an episode of 24 MiB: the upload did not go on from where it was", total)
	}
	storedOnce(t, r, h, id)
}

func TestAStopLetsAnUploadThatSoonEndsEnd(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t, `shipper.stop_timeout = "20s"`)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 6<<20)
	id := h.seal(src)
	p.rate.Store(4 << 20)
	h.start()
	eventually(t, 20*time.Second, func() string {
		if n := p.up.Load(); n < 2<<20 {
			return fmt.Sprintf("%d bytes sent", n)
		}
		return ""
	})
	if status := h.stop(25 * time.Second); status != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
	if why := h.drained(); why != "" {
		t.Error(why)
	}
	storedOnce(t, r, h, id)
}

func TestAReceiverRestartedInMidQueueLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	var ids []string
	for range 10 {
		ids = append(ids, h.make(make([]episode.Spec, 60)...)...)
	}
	h.start()
	for i := range 4 {
		at := (i + 1) * 60
		eventually(t, 30*time.Second, func() string {
			if n := len(h.sealed()); n > len(ids)-at {
				return fmt.Sprintf("%d still wait", n)
			}
			return ""
		})
		if i%2 == 0 {
			r.kill()
		} else if status := r.stop(30 * time.Second); status != 0 {
			t.Errorf("the receiver's exit status is %d after SIGTERM, want 0:\n%s", status, r.tail(20))
		}
		r.start()
	}
	eventually(t, 60*time.Second, h.drained)
	slices.Sort(ids)
	if got := r.stored(); !slices.Equal(got, ids) {
		t.Errorf("%d are stored, want %d", len(got), len(ids))
	}
	if got := listed(r); !slices.Equal(got, ids) {
		t.Errorf("%d are in the catalogue, want %d", len(got), len(ids))
	}
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(msg)
	}
	have := map[string]bool{}
	for _, rc := range h.receipts() {
		have[rc.Episode.String()] = true
	}
	if len(have) != len(ids) {
		t.Errorf("the ledger has receipts of %d episodes, want %d", len(have), len(ids))
	}
}

func TestAShipperKilledInMidQueueLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	var ids []string
	for range 10 {
		ids = append(ids, h.make(make([]episode.Spec, 60)...)...)
	}
	h.start()
	for i := range 4 {
		at := (i + 1) * 100
		eventually(t, 30*time.Second, func() string {
			if n := len(h.sealed()); n > len(ids)-at {
				return fmt.Sprintf("%d still wait", n)
			}
			return ""
		})
		h.kill()
		h.start()
	}
	eventually(t, 60*time.Second, h.drained)
	slices.Sort(ids)
	if got := listed(r); !slices.Equal(got, ids) {
		t.Errorf("%d are in the catalogue, want %d", len(got), len(ids))
	}
	if got := r.stored(); !slices.Equal(got, ids) {
		t.Errorf("%d are stored, want %d", len(got), len(ids))
	}
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(msg)
	}
	// What was freed before a death must have been removed after it.
	eventually(t, 20*time.Second, func() string {
		if left := names(t, filepath.Join(h.data, ".removing")); len(left) > 0 {
			return fmt.Sprintf("%d are still in .removing/", len(left))
		}
		return ""
	})
}

func TestTwoHostsShipAtOnceAndOneIdGoesToTheFirst(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	url := "https://" + r.addr
	hosts := []*host{newHost(t, "lab-01", url, r.ca()), newHost(t, "lab-02", url, r.ca())}
	r.allow(hosts...)
	r.start()
	const each = 50
	for _, h := range hosts {
		h.make(make([]episode.Spec, each)...)
	}
	// Each host has an episode of this id, of other content: their run.json names the host.
	shared := episode.NewID()
	for _, h := range hosts {
		h.make(episode.Spec{Run: episode.Run{ID: shared}})
	}
	var both sync.WaitGroup
	for _, h := range hosts {
		h.start()
	}
	for _, h := range hosts {
		both.Go(func() {
			for deadline := time.Now().Add(30 * time.Second); h.drained() != "" && time.Now().Before(deadline); {
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	both.Wait()
	for _, h := range hosts {
		if why := h.drained(); why != "" {
			t.Errorf("%s: %s", h.name, why)
		}
	}
	if n := len(r.stored()); n != 2*each+1 {
		t.Errorf("%d are stored, want %d", n, 2*each+1)
	}
	if n := len(r.archives(shared.String())); n != 1 {
		t.Errorf("%d archives have the shared id", n)
	}
	q := map[string]string{}
	for _, h := range hosts {
		for id, why := range h.quarantined() {
			q[id] += string(why.Code)
		}
	}
	if len(q) != 1 || q[shared.String()] != "conflict" {
		t.Errorf("in quarantine: %v, want the shared id once, as a conflict", q)
	}
}

func TestANewEpisodeLeavesAtOnceThoughTheScanIsSlow(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t, `shipper.scan_interval = "1m"`)
	h.start()
	eventually(t, 10*time.Second, func() string {
		if !h.state().Queue.Scanned {
			return "no scan yet"
		}
		return ""
	})
	h.make(episode.Spec{})
	eventually(t, 10*time.Second, h.drained)
	src := smallSource(t, "by hand")
	began := time.Now()
	command(t, program("cis490-episode"), "seal", src, "--into", h.data, "--host", h.name)
	eventually(t, 5*time.Second, func() string {
		if n := len(r.stored()); n != 2 {
			return fmt.Sprintf("%d are stored, want 2", n)
		}
		return ""
	})
	t.Logf("sealed and stored %s after the command began", time.Since(began).Round(time.Millisecond))
}
