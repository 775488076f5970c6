package e2e

import (
	"os"
	"strings"
	"testing"
	"time"
)

// A bit of a stored archive is flipped: the scrub finds it, the shipper of its host is told and says so, and the audit there
// sends the copy that was kept once more, which mends it. An archive that is gone is found and mended likewise; what was not
// kept is named.
func TestAHolderOfAReceiptIsToldOfDamageAndCanMendIt(t *testing.T) {
	r, _, h := pair(t, `shipper.keep_shipped = "1h"`)
	h.start()
	src := randomDir(t, 100_000)
	flipped, gone, sound := h.seal(src), h.seal(src), h.seal(src)
	eventually(t, 20*time.Second, h.drained)
	if out := h.cli("audit"); !strings.Contains(out, "3 receipts: 3 stored, 0 missing, 0 differs, 0 damaged") {
		t.Fatal(out)
	}

	b, err := os.ReadFile(r.archives(flipped)[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 4
	if err := os.WriteFile(r.archives(flipped)[0], b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.archives(gone)[0]); err != nil {
		t.Fatal(err)
	}
	if out, stderr, status := try(t, program("cis490-receiver"), "scrub", "--config", r.config); status != 1 || !strings.Contains(out+stderr, flipped) || !strings.Contains(out+stderr, gone) {
		t.Fatalf("scrub: status %d\n%s%s", status, out, stderr)
	}
	eventually(t, 10*time.Second, func() string {
		if s := h.cli("status"); !strings.Contains(s, "2 damaged at the receiver") || !strings.Contains(s, "fix: cis490-shipper audit --requeue") {
			return s
		}
		return ""
	})
	if n := strings.Count(h.output(), "code=copy-damaged"); n != 1 {
		t.Errorf("the journal has it %d times", n)
	}

	out, stderr, status := try(t, program("cis490-shipper"), "audit", "--config", h.config)
	if status != 1 || !strings.Contains(out, "damaged  "+flipped) || !strings.Contains(out, " "+gone) || strings.Contains(out, sound) ||
		strings.Count(out, "a copy is still here") != 2 || !strings.Contains(out, "3 receipts: 1 stored") {
		t.Fatalf("audit: status %d\n%s%s", status, out, stderr)
	}
	if out, stderr, status := try(t, program("cis490-shipper"), "audit", "--requeue", "--config", h.config); status != 1 || !strings.Contains(out, "2 back in the queue") {
		t.Fatalf("audit --requeue: status %d\n%s%s", status, out, stderr)
	}
	eventually(t, 20*time.Second, h.drained)
	eventually(t, 10*time.Second, func() string {
		out, stderr, status := try(t, program("cis490-shipper"), "audit", "--config", h.config)
		if status != 0 || !strings.Contains(out, "5 receipts: 5 stored") {
			return out + stderr
		}
		return ""
	})
	r.cli("scrub")
	for _, id := range []string{flipped, gone, sound} {
		r.cli("episodes", "verify", id)
	}
	eventually(t, 10*time.Second, func() string {
		if s := h.cli("status"); strings.Contains(s, "damaged at the receiver") {
			return s
		}
		return ""
	})
	if why := h.nothingQuarantined(); why != "" {
		t.Error(why)
	}
}
