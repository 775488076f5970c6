package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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
	eventually(t, 20*time.Second, p.passed(6<<20))
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
	if most := int64(24<<20 + frame + 4*perCut); total > most {
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
	eventually(t, 20*time.Second, p.passed(2<<20))
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
	ids := h.make(make([]episode.Spec, 300)...)
	h.start()
	for i := range 4 {
		at := (i + 1) * 30
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
	ids := h.make(make([]episode.Spec, 300)...)
	h.start()
	for i := range 4 {
		at := (i + 1) * 50
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

func TestAReceiptThatGotLostIsGivenAgain(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 4<<20)
	id := h.seal(src)
	p.rate.Store(4 << 20)
	h.start()
	eventually(t, 20*time.Second, p.passed(2<<20))
	p.deaf.Store(true)
	eventually(t, 20*time.Second, func() string {
		if len(r.archives(id)) == 0 {
			return "not stored"
		}
		return ""
	})
	always(t, time.Second, func() string {
		if !slices.Contains(h.sealed(), id) {
			return "the source was freed without a receipt"
		}
		return ""
	})
	first := r.cli("episodes", "list", "--json")
	p.pass()
	eventually(t, 20*time.Second, h.drained)
	storedOnce(t, r, h, id)
	if again := r.cli("episodes", "list", "--json"); again != first {
		t.Errorf("the receipt changed:\n%s\nwas\n%s", again, first)
	}
	if n := p.up.Load(); n > 5<<20 {
		t.Errorf("%d bytes sent for an episode of 4 MiB that was stored: its bytes were sent again", n)
	}
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
	eventually(t, 10*time.Second, func() string {
		if n := len(hosts[0].quarantined()) + len(hosts[1].quarantined()); n != 1 {
			return fmt.Sprintf("%d are in quarantine, want 1", n)
		}
		return ""
	})
	q := map[string]string{}
	for _, h := range hosts {
		for id, why := range h.quarantined() {
			q[id] += string(why.Code)
		}
	}
	if q[shared.String()] != "conflict" {
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

func TestASlowHostHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, "limits.uploads = 12", "limits.uploads_per_host = 8")
	p := newProxy(t, r.addr)
	slow := newHost(t, "lab-01", p.url(), r.ca(), `shipper.stall_timeout = "20s"`)
	quick := newHost(t, "lab-02", "https://"+r.addr, r.ca())
	r.allow(slow, quick)
	r.start()
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 2<<20)
	for range 10 {
		slow.seal(src)
	}
	p.rate.Store(32 << 10)
	slow.start()
	eventually(t, 20*time.Second, func() string {
		if p.open.Load() < 8 || p.up.Load() < 100<<10 {
			return fmt.Sprintf("%d connections, %d bytes", p.open.Load(), p.up.Load())
		}
		return ""
	})
	quick.make(make([]episode.Spec, 100)...)
	quick.seal(src)
	began := time.Now()
	quick.start()
	eventually(t, 20*time.Second, quick.drained)
	t.Logf("101 episodes in %s beside a host whose 8 uploads trickle", time.Since(began).Round(time.Millisecond))
	if n := len(slow.sealed()); n != 10 {
		t.Errorf("%d wait at the slow host, want all 10: it was not slow", n)
	}
	p.pass()
	eventually(t, 60*time.Second, slow.drained)
	if msg := slow.nothingQuarantined(); msg != "" {
		t.Error(msg)
	}
}

func TestAReloadTakesTheNewConfigurationAndKeepsTheOldOneWhenItIsBad(t *testing.T) {
	for _, who := range []string{"shipper", "receiver"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, `window.not_before = "2025-01-01T00:00:00Z"`)
			h := newHost(t, "lab-01", "https://"+r.addr, r.ca(), `shipper.scan_interval = "200ms"`)
			r.allow(h)
			n := newNotifySocket(t, 0)
			var p *process
			var file string
			if who == "shipper" {
				h.notify = n
				r.start()
				h.start()
				p, file = h.process, h.config
			} else {
				r.notify = n
				r.start()
				p, file = r.process, r.config
			}
			ready := func(times int) func() string {
				return func() string {
					if k := n.count("READY=1", time.Time{}); k < times {
						if !p.alive() {
							t.Fatalf("it ended:\n%s", p.tail(20))
						}
						return fmt.Sprintf("READY=1 came %d times, want %d", k, times)
					}
					return ""
				}
			}
			eventually(t, 10*time.Second, ready(1))
			good := readFile(t, file)
			writeFile(t, file, []byte(good+"\nno such thing\n"))
			for i := range 2 {
				if i == 1 {
					writeFile(t, file, []byte(good))
				}
				if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				eventually(t, 10*time.Second, ready(i+2))
				if k := n.count("RELOADING=1", time.Time{}); k != i+1 {
					t.Errorf("RELOADING=1 came %d times, want %d", k, i+1)
				}
			}
			if !strings.Contains(p.output(), "no such thing") && !strings.Contains(p.output(), filepath.Base(file)) {
				t.Errorf("the log does not say what is wrong with the new configuration:\n%s", p.tail(20))
			}
			if status := p.stop(20 * time.Second); status != 0 {
				t.Errorf("exit status %d", status)
			}
		})
	}
}

func TestAReloadSendsTheUploadUnderWayOnToTheNewAddressFromItsLastFrame(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t)
	h.notify = newNotifySocket(t, 0)
	other := newProxy(t, r.addr)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 24<<20)
	id := h.seal(src)
	p.rate.Store(4 << 20)
	h.start()
	eventually(t, 20*time.Second, p.passed(6<<20))
	h.conf.with(fmt.Sprintf("receiver.url = %q", other.url()))
	h.conf.write(t, h.config)
	if err := h.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, h.drained)
	t.Logf("%d bytes to the old address, %d to the new one", p.up.Load(), other.up.Load())
	if n := p.up.Load() + other.up.Load(); n > 24<<20+frame+4*perCut {
		t.Errorf("%d bytes sent for an episode of 24 MiB: the upload did not go on from where it was", n)
	}
	storedOnce(t, r, h, id)
	if n := h.notify.count("STOPPING=1", time.Time{}); n != 0 {
		t.Error("the service manager was told of a stop")
	}
	if n := h.notify.count("READY=1", time.Time{}); n != 2 {
		t.Errorf("READY=1 came %d times, want 2", n)
	}
}

func TestPushWaitEndsWhenAllIsAcknowledgedAndOneShipperAtATimeRuns(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	ids := h.make(make([]episode.Spec, 50)...)
	h.start()
	eventually(t, 10*time.Second, func() string {
		if !h.state().Queue.Scanned {
			return "no scan yet"
		}
		return ""
	})
	h.cli("push", "--wait")
	if why := h.drained(); why != "" {
		t.Errorf("push --wait has ended, and there are %s", why)
	}
	if got := listed(r); len(got) != len(ids) {
		t.Errorf("%d are stored, want %d", len(got), len(ids))
	}
	_, stderr, status := try(t, program("cis490-shipper"), "run", "--config", h.config)
	if status != 1 || !strings.Contains(stderr, "another shipper") {
		t.Errorf("a second shipper ended with status %d: %s", status, stderr)
	}
	if !h.alive() {
		t.Error("the first one has ended")
	}
}

func TestACatalogueThatIsLostIsRebuiltFromTheStore(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	h.make(make([]episode.Spec, 50)...)
	h.start()
	eventually(t, 20*time.Second, h.drained)
	before := r.cli("episodes", "list", "--json")
	r.stop(20 * time.Second)
	found, err := filepath.Glob(filepath.Join(r.state, "catalogue*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no catalogue in %s: %v", r.state, err)
	}
	for _, f := range found {
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	r.cli("reindex")
	if after := r.cli("episodes", "list", "--json"); after != before {
		t.Errorf("the catalogue has changed:\n%s\nwas\n%s", after, before)
	}
}
