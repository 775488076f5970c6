package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"cis490/src/pack"
)

// bytesOf is the size of the episode in the test below.
func bytesOf(t *testing.T) int64 {
	t.Helper()
	s := os.Getenv("CIS490_E2E_BYTES")
	if s == "" {
		return 256 << 20
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 16<<20 {
		t.Fatalf("CIS490_E2E_BYTES=%s: give a number of bytes from 16777216 on", s)
	}
	return n
}

// What does not compress travels as it is, in whole frames. A new connection costs a handshake, a question for the
// offset and the header of a request.
const (
	frame  = pack.FrameSize
	perCut = 32 << 10
)

func TestAnEpisodeCutFortyTimesIsStoredOnceForAtMostAFrameMorePerCut(t *testing.T) {
	for _, v := range []struct {
		name string
		make func(*testing.T, string, int64)
	}{
		{"incompressible", noise},
		{"compressible", telemetry},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			// A fixed level, so that the transfer without cuts compresses as the one with cuts does.
			r, p, h := pair(t, `shipper.compression = "default"`)
			size := bytesOf(t)
			src := filepath.Join(tempDir(t), "run")
			v.make(t, filepath.Join(src, "capture.bin"), size/2)
			v.make(t, filepath.Join(src, "more", "capture.bin"), size-size/2-1<<20)
			for i := range 64 {
				v.make(t, filepath.Join(src, "small", fmt.Sprint(i)), 16<<10)
			}

			h.seal(src)
			began := time.Now()
			h.start()
			eventually(t, 5*time.Minute, h.drained)
			uncut, took := p.up.Load(), time.Since(began)
			if status := h.stop(time.Minute); status != 0 {
				t.Fatalf("the shipper stopped with status %d:\n%s", status, h.tail(20))
			}

			id := h.seal(src)
			const kills = 20
			rate := max(uncut/6, 1<<20)
			p.rate.Store(rate)
			began = time.Now()
			before := p.up.Load()
			// A moment is that at which a random number of bytes has passed since the last start, or a random time after it.
			moment := func(k int) {
				if k%2 == 0 {
					at := p.up.Load() + rand.Int64N(2*uncut/(2*kills+10))
					for deadline := time.Now().Add(30 * time.Second); p.up.Load() < at && h.drained() != ""; time.Sleep(time.Millisecond) {
						if time.Now().After(deadline) {
							t.Fatalf("nothing moves: %d of %d bytes after 30 s\nshipper:\n%s\nreceiver:\n%s", p.up.Load(), at, h.tail(20), r.tail(20))
						}
					}
				} else {
					time.Sleep(rand.N(250 * time.Millisecond))
				}
			}
			h.start()
			for k := range kills {
				moment(k)
				h.kill()
				h.start()
			}
			shipperDied := p.up.Load() - before
			for k := range kills {
				moment(k)
				r.kill()
				r.launch()
			}
			if got := r.archives(id); len(got) > 0 {
				t.Errorf("the episode had arrived before the last kill: it was cut less than %d times", 2*kills)
			}
			bothDied := p.up.Load() - before
			p.rate.Store(0)
			eventually(t, 5*time.Minute, h.drained)
			ours, theirs := h.peak(), r.peak()

			extra := p.up.Load() - before - uncut
			t.Logf("%s: %d payload bytes; uncut %d bytes through the proxy in %s; cut %d times: %d bytes more, %.0f per cut (%d when the shipper's kills were over, %d when the receiver's were), in %s",
				v.name, size, uncut, took.Round(time.Millisecond), 2*kills, extra, float64(extra)/(2*kills), shipperDied, bothDied, time.Since(began).Round(time.Millisecond))
			t.Logf("memory at most: shipper %d MiB, receiver %d MiB", ours>>20, theirs>>20)
			if most := int64(192 << 20); max(ours, theirs) > most {
				t.Errorf("the shipper took %d bytes of memory and the receiver %d; %d are enough for an episode of any size", ours, theirs, most)
			}
			if most := int64(2*kills) * (frame + perCut); extra > most {
				t.Errorf("%d bytes more than without cuts; at most %d are allowed for %d cuts", extra, most, 2*kills)
			}
			if msg := h.nothingQuarantined(); msg != "" {
				t.Error(msg)
			}
			storedOnce(t, r, h, id)
			bag := unpackByStockTools(t, r.archives(id)[0], id)
			command(t, "diff", "-r", src, filepath.Join(bag, "data", "output"))
		})
	}
}

// storedOnce checks that one archive of id is in the store and in the catalogue, that the host has its receipt, and that nothing
// of its upload is left.
func storedOnce(t *testing.T, r *receiver, h *host, id string) {
	t.Helper()
	if got := r.archives(id); len(got) != 1 {
		t.Fatalf("the store has %d archives of %s: %v", len(got), id, got)
	}
	if n := count(r.stored(), id); n != 1 {
		t.Errorf("%s is %d times in the store", id, n)
	}
	if n := count(listed(r), id); n != 1 {
		t.Errorf("%s is %d times in the catalogue", id, n)
	}
	var receipts []string
	for _, rc := range h.receipts() {
		if rc.Episode.String() == id {
			receipts = append(receipts, fmt.Sprint(rc.BagDigest, rc.StoredAt))
		}
	}
	// A shipper that died after it wrote a receipt may write the same one again.
	if slices.Sort(receipts); len(slices.Compact(receipts)) != 1 {
		t.Errorf("the ledger has %d receipts of %s: %v", len(receipts), id, receipts)
	}
	eventually(t, 10*time.Second, func() string {
		// The verdict is kept for a host that did not hear it.
		if n := r.incoming(); n > 4096 {
			return fmt.Sprintf("%d bytes are left in incoming/", n)
		}
		return ""
	})
}

func count(all []string, x string) (n int) {
	for _, a := range all {
		if a == x {
			n++
		}
	}
	return n
}
