package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cis490/src/baddisk"
	"cis490/src/code"
	"cis490/src/episode"
)

func TestReadyComesOnceTheQueueIsBuiltAndDoesNotWaitForAnybody(t *testing.T) {
	t.Parallel()
	r := newReceiver(t) // it does not run
	h := newHost(t, "lab-01", "https://"+r.addr, r.ca())
	h.notify = newNotifySocket(t, 10*time.Second)
	h.make(episode.Spec{})
	began := time.Now()
	h.start()
	eventually(t, 10*time.Second, func() string {
		if h.notify.index("READY=1") < 0 {
			return "no READY=1"
		}
		return ""
	})
	t.Logf("READY=1 %s after the start, with no receiver", time.Since(began).Round(time.Millisecond))
	if status := h.stop(10 * time.Second); status != 0 {
		t.Errorf("exit status %d after SIGTERM", status)
	}
	eventually(t, time.Second, func() string { // it has come, and may not have been read yet
		if h.notify.index("STOPPING=1") < h.notify.index("READY=1") {
			return "no STOPPING=1"
		}
		return ""
	})
	if n := h.notify.count("READY=1", began); n != 1 {
		t.Errorf("READY=1 came %d times", n)
	}
}

func TestNoReadyWithoutAQueue(t *testing.T) {
	t.Parallel()
	blocked := filepath.Join(tempDir(t), "file")
	writeFile(t, blocked, nil)
	for _, c := range []struct {
		name   string
		change string
		status []int
	}{
		{"a data_dir that can't be made", fmt.Sprintf("data_dir = %q", filepath.Join(blocked, "data")), []int{1, 78}},
		{"a configuration error", `shipper.scan_interval = "5 parsecs"`, []int{78}},
		{"a scan interval of more than half the watchdog's", `shipper.scan_interval = "6s"`, []int{78}},
	} {
		h := newHost(t, "lab-01", "https://127.0.0.1:1", filepath.Join(blocked, "ca.crt"))
		h.notify = newNotifySocket(t, 10*time.Second)
		h.conf.with(c.change)
		h.start()
		status := h.wait(10 * time.Second)
		if status != c.status[0] && status != c.status[len(c.status)-1] {
			t.Errorf("%s: exit status %d, want %v:\n%s", c.name, status, c.status, h.tail(20))
		}
		if h.notify.index("READY=1") >= 0 {
			t.Errorf("%s: READY=1", c.name)
		}
	}
}

func TestTheHeartbeatComesOncePerPassWhateverThePathDoes(t *testing.T) {
	for _, c := range []struct {
		name string
		on   func(*proxy)
	}{
		{"a healthy path", func(*proxy) {}},
		{"a receiver that drops packets", (*proxy).blackHole},
		{"a receiver that says nothing", (*proxy).silent},
		{"a receiver that refuses", (*proxy).refuse},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, p, h := pair(t, `shipper.scan_interval = "250ms"`)
			h.notify = newNotifySocket(t, 4*time.Second)
			c.on(p)
			h.start()
			eventually(t, 10*time.Second, func() string {
				if h.notify.index("WATCHDOG=1") < 0 {
					return "no WATCHDOG=1"
				}
				return ""
			})
			h.make(make([]episode.Spec, 5)...)
			time.Sleep(500 * time.Millisecond)
			since := time.Now()
			time.Sleep(6 * time.Second)
			n, passes := h.notify.count("WATCHDOG=1", since), int(6*time.Second/(250*time.Millisecond))
			t.Logf("%d heartbeats in 6 s of passes each 250 ms, longest gap %s", n, h.notify.longestGap(since).Round(time.Millisecond))
			// Passes that are woken come on top; none may be without its heartbeat.
			if n < passes*2/3 || n > passes*3/2 {
				t.Errorf("%d heartbeats, want about %d", n, passes)
			}
			if gap := h.notify.longestGap(since); gap > 2*time.Second {
				t.Errorf("no heartbeat for %s", gap)
			}
		})
	}
}

func TestAnUploadThatTricklesLivesAndTheWatchdogsAreFed(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.notify = newNotifySocket(t, 10*time.Second)
	p := newProxy(t, r.addr)
	h := newHost(t, "lab-01", p.url(), r.ca(), `shipper.scan_interval = "500ms"`, `shipper.stall_timeout = "1s"`, `shipper.response_timeout = "2s"`)
	r.allow(h)
	r.start()
	h.notify = newNotifySocket(t, 4*time.Second)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 8<<20)
	id := h.seal(src)
	// A frame takes over four minutes, and with buffers as small as they get each KiB counts as it passes.
	p.buffer = 1024
	p.refuse()
	p.pass()
	p.rate.Store(4 << 10)
	h.start()
	eventually(t, 10*time.Second, func() string {
		if p.up.Load() < 12<<10 {
			return "the upload has not begun"
		}
		return ""
	})
	since, sent, dialed := time.Now(), p.up.Load(), p.dialed.Load()
	time.Sleep(duration(t, "CIS490_E2E_TRICKLE", 20*time.Second))
	t.Logf("%s of trickle: %d bytes, %d new connections, %d heartbeats, longest gap %s, STATUS=%s", time.Since(since).Round(time.Second), p.up.Load()-sent, p.dialed.Load()-dialed,
		h.notify.count("WATCHDOG=1", since), h.notify.longestGap(since).Round(time.Millisecond), h.notify.status())
	if gap := h.notify.longestGap(since); gap > 2*time.Second {
		t.Errorf("no heartbeat for %s while the upload moved", gap)
	}
	// The receiver's passes come every five seconds.
	if gap := r.notify.longestGap(since); gap > 8*time.Second || r.notify.count("WATCHDOG=1", since) < 2 {
		t.Errorf("no heartbeat of the receiver for %s while the upload moved: STATUS=%s", gap, r.notify.status())
	}
	// Polls for the window make connections of their own, and one each second would be an upload that is cut and begun again.
	if strings.Contains(h.output(), "stalled") {
		t.Errorf("an upload that moves was called stalled:\n%s", h.tail(20))
	}
	p.pass()
	eventually(t, 30*time.Second, h.drained)
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(id, msg)
	}
}

func TestAStalledUploadIsCutAndGoesOnAndTheWatchdogIsFed(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t, `shipper.scan_interval = "500ms"`, `shipper.stall_timeout = "1s"`, `shipper.response_timeout = "2s"`)
	h.notify = newNotifySocket(t, 4*time.Second)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 12<<20)
	id := h.seal(src)
	p.rate.Store(4 << 20)
	h.start()
	eventually(t, 20*time.Second, func() string {
		if p.up.Load() < 4<<20 {
			return "the upload has not begun"
		}
		return ""
	})
	since := time.Now()
	p.freeze.Store(true)
	eventually(t, 10*time.Second, func() string { return h.held(code.Stalled, code.TimedOut) })
	t.Logf("noticed %s after nothing moved", time.Since(since).Round(time.Millisecond))
	time.Sleep(4 * time.Second)
	if gap := h.notify.longestGap(since); gap > 2*time.Second {
		t.Errorf("no heartbeat for %s while the upload stalled", gap)
	}
	p.pass()
	healed := time.Now()
	eventually(t, 20*time.Second, h.drained)
	t.Logf("arrived %s after the path healed, %d bytes in all", time.Since(healed).Round(time.Millisecond), p.up.Load())
	storedOnce(t, r, h, id)
}

func TestAWorkerHungOnADiskIsNamedAndWithholdsTheWatchdogUntilItMoves(t *testing.T) {
	t.Parallel()
	disk, data := mountFaulty(t)
	r := newReceiver(t, `limits.stall_timeout = "2s"`) // when it gives up on a body that does not come
	p := newProxy(t, r.addr)
	h := newHostIn(t, tempDir(t), data, "lab-01", p.url(), r.ca(),
		`shipper.scan_interval = "500ms"`, `shipper.connect_timeout = "1s"`, `shipper.stall_timeout = "1s"`, `shipper.response_timeout = "2s"`)
	r.allow(h)
	r.start()
	h.notify = newNotifySocket(t, 60*time.Second)
	h.make(episode.Spec{})
	h.start()
	eventually(t, 20*time.Second, h.drained) // it works through FUSE

	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "before.bin"), 2<<20)
	noise(t, filepath.Join(src, "hangs.bin"), 2<<20)
	disk.Fail(baddisk.Read, "hangs.bin", baddisk.Hang)
	command(t, program("cis490-episode"), "seal", src, "--into", h.data, "--host", h.name)
	eventually(t, 20*time.Second, func() string {
		if disk.Holding() == 0 {
			return "nothing reads hangs.bin"
		}
		return ""
	})
	hung := time.Now()
	var named string
	eventually(t, 60*time.Second, func() string {
		named = h.notify.status()
		if !strings.Contains(named, "upload") || !strings.Contains(named, "read") || !strings.Contains(named, "overdue") {
			return "STATUS= names no late worker: " + named
		}
		return ""
	})
	t.Logf("named %s after the read hung: STATUS=%s", time.Since(hung).Round(time.Millisecond), named)
	late := time.Now()
	time.Sleep(3 * time.Second)
	if n := h.notify.count("WATCHDOG=1", late); n > 0 {
		t.Errorf("%d heartbeats while a worker was late", n)
	}
	if !h.alive() {
		t.Fatal("the shipper ended by itself")
	}
	disk.Heal()
	released := time.Now()
	eventually(t, 20*time.Second, func() string {
		if h.notify.count("WATCHDOG=1", released) == 0 {
			return "no heartbeat"
		}
		return h.drained()
	})
	t.Logf("drained and beating %s after the disk came back; STATUS=%s", time.Since(released).Round(time.Millisecond), h.notify.status())
	if n := len(r.stored()); n != 2 {
		t.Errorf("%d are stored, want 2", n)
	}
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(msg)
	}
}

func TestReadyOfTheReceiverComesWhenItServes(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.notify = newNotifySocket(t, 0)
	r.launch()
	eventually(t, 10*time.Second, func() string {
		if r.notify.index("READY=1") < 0 {
			return "no READY=1"
		}
		return ""
	})
	command(t, "bash", "-c", `exec 3<>"/dev/tcp/${1%:*}/${1#*:}"`, "bash", r.addr)
	r.stop(20 * time.Second)
	eventually(t, time.Second, func() string {
		if r.notify.index("STOPPING=1") < 0 {
			return "no STOPPING=1"
		}
		return ""
	})
}
