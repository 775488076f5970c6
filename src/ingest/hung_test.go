package ingest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cis490/src/baddisk"
	"cis490/src/config"
	"cis490/src/liveness"
	"cis490/src/wire"
)

// heard is what a service manager was told: sd_notify(3).
type heard struct {
	mu   sync.Mutex
	said []string
}

// listen makes the service manager's socket and a Notifier that speaks to it.
func listen(t *testing.T) (*heard, *liveness.Notifier) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	h, done := &heard{}, make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			h.mu.Lock()
			h.said = append(h.said, strings.Split(string(buf[:n]), "\n")...)
			h.mu.Unlock()
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "60000000")
	t.Setenv("WATCHDOG_PID", "")
	return h, liveness.NewNotifier()
}

// pings counts WATCHDOG=1; last is the last line that begins with prefix.
func (h *heard) pings() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.said {
		if s == "WATCHDOG=1" {
			n++
		}
	}
	return n
}

func (h *heard) last(prefix string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.said) - 1; i >= 0; i-- {
		if s, ok := strings.CutPrefix(h.said[i], prefix); ok {
			return s
		}
	}
	return ""
}

func TestAWriteThatHangsOnTheDiskIsNamedAndWithholdsTheWatchdogPing(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Getuid() != 0 {
		t.Skip("mounting by FUSE takes root and /dev/fuse")
	}
	said, notifier := listen(t)
	var disk *baddisk.FS
	g := newRigWith(t, Deps{Notifier: notifier, tune: func(r *Receiver) { r.onDiskWithin = 300 * time.Millisecond }}, func(cfg *config.Receiver) {
		// Partial uploads alone: the catalogue maps a file into the memory of this process, which serves the disk.
		incoming, below := filepath.Join(cfg.StateDir, "incoming"), filepath.Join(filepath.Dir(cfg.StateDir), "below")
		for _, dir := range []string{incoming, below} {
			if err := os.MkdirAll(dir, 0o750); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if disk, err = baddisk.Mount(below, incoming); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { // before the receiver's own, which the disk must not hold up
		disk.Heal()
		if g.stop != nil {
			if err := g.stop(); err != nil {
				t.Error("stop:", err)
			}
		}
		if err := disk.Unmount(); err != nil {
			t.Error("unmount:", err)
		}
	})
	passes, stop := context.WithCancel(t.Context())
	defer stop()
	var asked atomic.Int64
	go func() { // more often than every five seconds
		for passes.Err() == nil {
			select {
			case g.r.wake <- struct{}{}:
				asked.Add(1) // the one before it has begun
			case <-passes.Done():
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()

	p := g.host.big(7, 4)
	path := g.host.begin(p)
	waitFor(t, "a ping", func() bool { return said.pings() > 0 })
	disk.Fail(baddisk.Write, "*"+dataSuffix, baddisk.Hang)
	answered := make(chan *answer, 1)
	go func() {
		a, err := g.host.try(patch(path, 0, false, p.bytes()[:3<<20]))
		if err != nil {
			t.Error("the upload whose write hangs:", err)
		}
		answered <- a
	}()
	waitFor(t, "a write that hangs", func() bool { return disk.Holding() > 0 })
	name := "write upload of " + p.facts.ID.String()
	waitFor(t, "a status that names it", func() bool {
		s := said.last("STATUS=")
		return strings.Contains(s, name) && strings.Contains(s, "overdue")
	})
	t.Log(said.last("STATUS="))
	pings, before := said.pings(), asked.Load()
	// All else goes on: requests are answered, passes come, and none of them pings.
	want(t, g.host.do(request{method: http.MethodGet, path: wire.PathSelf}), http.StatusOK, "")
	waitFor(t, "ten more passes", func() bool { return asked.Load() > before+10 })
	if n := said.pings() - pings; n > 0 {
		t.Errorf("%d pings while a write hung", n)
	}

	disk.Heal()
	waitFor(t, "a ping after the disk came back", func() bool { return said.pings() > pings })
	if s := said.last("STATUS="); strings.Contains(s, "overdue") {
		t.Errorf("still says %q", s)
	}
	a := <-answered
	want(t, a, http.StatusNoContent, "")
	if at := offset(t, g.host.head(path)); at != 3<<20 {
		t.Errorf("offset %d of 3 MiB that were sent", at)
	}
}
