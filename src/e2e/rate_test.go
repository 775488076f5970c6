package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// randomDir is a directory with one file that does not compress.
func randomDir(t *testing.T, size int) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), "random")
	b := make([]byte, size)
	rand.Read(b)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// All uploads together keep to the limit within 5 %, as a proxy counts them, also after a reload; at 10 kB/s nothing is taken
// for a stall; and "off" ends what is under way within seconds, to go on from there.
func TestUploadsKeepToTheirLimit(t *testing.T) {
	r, p, h := pair(t, `shipper.rate_limit = "2MB/s"`)
	for range 4 {
		h.seal(randomDir(t, 8<<20))
	}
	h.start()
	measure := func(want float64) {
		t.Helper()
		from, began := p.up.Load(), time.Now()
		time.Sleep(2 * time.Second)
		got := float64(p.up.Load()-from) / time.Since(began).Seconds()
		t.Logf("%.0f B/s of %.0f", got, want)
		if got < 0.95*want || got > 1.05*want {
			t.Errorf("%.0f B/s pass, want %.0f", got, want)
		}
	}
	under := func(limit string) {
		t.Helper()
		eventually(t, 10*time.Second, func() string {
			s, why, _ := try(t, program("cis490-shipper"), "status", "--config", h.config)
			if strings.HasPrefix(s, "not running") || !strings.Contains(s, limit) {
				return "status does not have " + limit + ":\n" + s + why
			}
			return ""
		})
		eventually(t, 10*time.Second, func() string {
			if n := p.up.Load(); n < 100_000 {
				return fmt.Sprintf("%d bytes passed", n)
			}
			return ""
		})
		time.Sleep(time.Second)
	}
	under("2MB/s")
	measure(2e6)
	h.reload(`shipper.rate_limit = "10kB/s"`)
	under("10kB/s")
	measure(10e3)
	if out := h.output(); strings.Contains(out, "stalled") || strings.Contains(out, "timed-out") || strings.Contains(out, "late") {
		t.Errorf("a limit was taken for a fault:\n%s", h.tail(20))
	}
	h.reload(`shipper.rate_limit = "off"`)
	under("off")
	eventually(t, 10*time.Second, func() string {
		if s := h.state(); s.Queue.InFlight > 0 {
			return fmt.Sprintf("%d are under way", s.Queue.InFlight)
		}
		return ""
	})
	from := p.up.Load()
	time.Sleep(time.Second)
	if n := p.up.Load() - from; n > 10_000 {
		t.Errorf("%d bytes pass while uploads are off", n)
	}
	stored := len(r.stored())
	_, said, status := try(t, program("cis490-shipper"), "push", "--wait", "--config", h.config)
	if status != 1 || !strings.Contains(said, "uploads are off") {
		t.Errorf("push --wait: status %d: %s", status, said)
	}
	h.reload(`shipper.rate_limit = "unlimited"`)
	eventually(t, 30*time.Second, h.drained)
	if n := len(r.stored()); n != 4 || stored == 4 {
		t.Errorf("%d are stored, want 4; %d before uploads were off", n, stored)
	}
	if why := h.nothingQuarantined(); why != "" {
		t.Error(why)
	}
}
