package ingest

import (
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/wire"
)

// Which hosts hold their queue for what they are: until an episode of theirs is stored or they are let in, and no longer than they
// go on asking.
func TestHeldHosts(t *testing.T) {
	now := time.Date(2026, 7, 20, 12, 0, 0, 0, time.UTC)
	n := &notes{}
	at := func(host string, after time.Duration) event { return event{host: host, now: now.Add(after)} }
	held := func(after time.Duration, want ...string) {
		t.Helper()
		first, count := n.holding(now.Add(after))
		if count != len(want) || len(first) != len(want) {
			t.Fatalf("after %s: %d held, %+v, want %v", after, count, first, want)
		}
		for i, h := range first {
			if h.Host != want[i] {
				t.Errorf("after %s: %+v, want %v", after, first, want)
			}
		}
	}
	held(0)
	n.refused(at("lab-01", 0), code.ClockSkew, "an hour")
	n.refused(at("lab-02", 0), code.Malformed, "of an episode")
	n.refused(at("lab-03", 0), code.ReceiverBusy, "of the receiver")
	n.refused(at("sha256:aa", 0), code.HostUnknown, "")
	held(time.Second, "lab-01", "sha256:aa")
	n.accepted("lab-04", "sha256:aa") // it was allowed
	n.accepted("lab-01", "sha256:01") // that is no news of its clock
	held(time.Second, "lab-01")
	n.refused(at("lab-01", time.Minute), code.ClockSkew, "an hour")
	if first, _ := n.holding(now.Add(time.Minute)); !first[0].Since.Equal(now) {
		t.Errorf("held since %s", first[0].Since)
	}
	held(2*time.Minute+time.Second, "lab-01")
	held(4 * time.Minute) // it does not ask any more
	n.refused(at("lab-01", 5*time.Minute), code.ClockSkew, "an hour")
	n.stored(at("lab-01", 6*time.Minute), code.Stored, wire.Receipt{})
	held(6 * time.Minute)
	// A flood of strangers takes no memory.
	for i := range 3 * maxHeld {
		n.refused(at(string(rune('a'+i%26))+time.Duration(i).String(), 7*time.Minute), code.HostUnknown, "")
	}
	if first, count := n.holding(now.Add(7 * time.Minute)); count != maxHeld || len(first) != maxTold {
		t.Errorf("%d remembered, %d told", count, len(first))
	}
}
