package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Eight large episodes fill a slow link for minutes; one of 64 KiB that is sealed then crosses within two seconds, and the
// oldest of the large ones goes on.
func TestASmallEpisodeDoesNotWaitForLargeOnes(t *testing.T) {
	r, p, h := pair(t, `shipper.compression = "raw"`)
	large := filepath.Join(tempDir(t), "large")
	if err := os.Mkdir(large, 0o755); err != nil {
		t.Fatal(err)
	}
	// Sparse: it costs no disk here, and raw it does not shrink on the way.
	if err := os.WriteFile(filepath.Join(large, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(large, "x"), 65<<20); err != nil {
		t.Fatal(err)
	}
	oldest := h.seal(large)
	for range 7 {
		h.seal(large)
	}
	small := filepath.Join(tempDir(t), "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(small, "x"), make([]byte, 64<<10), 0o644); err != nil {
		t.Fatal(err)
	}

	p.rate.Store(16 << 20)
	h.start()
	sent := func() (n int64) {
		for _, w := range h.state().Workers {
			if w.Episode == oldest {
				n = w.SentBytes
			}
		}
		return n
	}
	eventually(t, 20*time.Second, func() string {
		if sent() == 0 {
			return "the oldest large one is not under way"
		}
		return ""
	})
	before := sent()
	id := h.seal(small)
	began := time.Now()
	eventually(t, 2*time.Second, func() string {
		if len(r.archives(id)) == 0 {
			return "the small one has not arrived"
		}
		return ""
	})
	t.Logf("the small one arrived after %s", time.Since(began).Round(time.Millisecond))
	if n := len(r.stored()); n != 1 {
		t.Fatalf("%d are stored: the large ones were no hindrance", n)
	}
	eventually(t, 10*time.Second, func() string {
		if n := sent(); n <= before {
			return fmt.Sprintf("the oldest large one stands at %d bytes", n)
		}
		return ""
	})
	p.rate.Store(0)
	eventually(t, 60*time.Second, h.drained)
	if n := len(r.stored()); n != 9 {
		t.Errorf("%d are stored, want 9", n)
	}
}
