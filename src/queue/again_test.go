package queue

import (
	"errors"
	"os"
	"testing"
	"time"

	"cis490/src/bag"
	"cis490/src/episode"
)

// What is to be sent again waits, over any number of restarts, until there is a
// new receipt; the old one does not free it.
func TestSendAgain(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir, WithKeepShipped(time.Hour))
	id := episode.NewID()
	r := receipt(id, seal(t, dir, id))
	if _, err := q.Kept(r); !errors.Is(err, ErrWaiting) {
		t.Errorf("before the receipt: %v", err)
	}
	if err := q.Acknowledge(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Kept(r); err != nil {
		t.Error(err)
	}
	other := r
	other.BagDigest = bag.DigestOf([]byte("other"))
	if err := q.SendAgain(other); !errors.Is(err, ErrOtherDigest) {
		t.Errorf("with another digest: %v", err)
	}
	if err := q.SendAgain(r); err != nil {
		t.Fatal(err)
	}
	if err := q.SendAgain(r); !errors.Is(err, ErrWaiting) {
		t.Errorf("twice: %v", err)
	}
	for range 2 {
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		// As if nothing were known of what has been freed.
		os.Remove(q.path(freedFile))
		q = locked(t, dir, WithKeepShipped(time.Hour))
		if ids := scanned(t, q); len(ids) != 1 || ids[0] != id {
			t.Fatalf("waits: %v", ids)
		}
	}
	r.ReceiverVersion = "2.0"
	if err := q.Acknowledge(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if ids := scanned(t, q); len(ids) > 0 {
		t.Errorf("still waits: %v", ids)
	}
	if n := names(t, q.path(againDir)); len(n) > 0 {
		t.Errorf("still marked: %v", n)
	}
	if _, err := q.Kept(r); err != nil {
		t.Error(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}

	q = locked(t, dir)
	id = episode.NewID()
	r = receipt(id, seal(t, dir, id))
	if err := q.Acknowledge(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := q.SendAgain(r); !errors.Is(err, ErrNotKept) {
		t.Errorf("of what was not kept: %v", err)
	}
}

// What came back into sealed/ by a power cut is freed by its receipt as ever; the
// one beside it that is to be sent again is not.
func TestSendAgainBesideWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir, WithKeepShipped(time.Hour))
	a, b := episode.NewID(), episode.NewID()
	ra, rb := receipt(a, seal(t, dir, a)), receipt(b, seal(t, dir, b))
	for _, r := range []*struct{ id episode.ID }{{a}, {b}} {
		x := ra
		if r.id == b {
			x = rb
		}
		if err := q.Acknowledge(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.SendAgain(ra); err != nil {
		t.Fatal(err)
	}
	kept, err := q.Kept(rb)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kept, q.Dir(b)); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	os.Remove(q.path(freedFile))
	q = locked(t, dir, WithKeepShipped(time.Hour))
	if ids := scanned(t, q); len(ids) != 1 || ids[0] != a {
		t.Errorf("waits: %v, want %v", ids, a)
	}
}

func TestReceiptsSince(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	now := time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC)
	q.now = func() time.Time { return now }
	for range 3 {
		id := episode.NewID()
		r := receipt(id, seal(t, dir, id))
		r.StoredAt = now
		if err := q.Acknowledge(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		now = now.AddDate(0, 1, 0)
	}
	for since, want := range map[string]int{"2026-03-01": 3, "2026-05-01": 2, "2026-05-02": 1, "2026-09-01": 0} {
		at, err := time.Parse(time.DateOnly, since)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, err := range q.Receipts(at) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != want {
			t.Errorf("since %s: %d receipts, want %d", since, n, want)
		}
	}
}
