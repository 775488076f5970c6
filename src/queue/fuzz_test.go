package queue

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cis490/src/bag"
	"cis490/src/episode"
)

func fuzzID(b byte) episode.ID {
	return episode.ID{1, 2, 3, 4, 5, 6, 0x70, 8, 0x80, 10, 11, 12, 13, 14, 15, b}
}

// A token that is read names an upload, and is kept as it was read.
func FuzzUpload(f *testing.F) {
	b, _ := json.Marshal(Upload{URL: "https://r.example/v1/uploads/x", Digest: bag.Digest{1}, Created: time.Unix(5, 0).UTC(), Sent: 5, Size: 10})
	f.Add(b)
	f.Add([]byte(`{"url":"","digest":"00"}`))
	f.Add([]byte("\x00\x00\x00"))
	dir := f.TempDir()
	q := open(f, dir)
	if err := os.MkdirAll(filepath.Join(dir, uploadsDir), 0o755); err != nil {
		f.Fatal(err)
	}
	id := fuzzID(1)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(q.uploadFile(id), b, 0o644); err != nil {
			t.Fatal(err)
		}
		u, ok := q.LoadUpload(id)
		if !ok {
			if u != (Upload{}) {
				t.Fatalf("%q was not taken, and gives %+v", b, u)
			}
			return
		}
		if u.URL == "" {
			t.Fatalf("%q was taken", b)
		}
		if err := q.SaveUpload(id, u); err != nil {
			return // a time that JSON can't have
		}
		if again, ok := q.LoadUpload(id); !ok || again.URL != u.URL || again.Digest != u.Digest || !again.Created.Equal(u.Created) || again.Sent != u.Sent || again.Size != u.Size {
			t.Fatalf("%+v became %+v, %v", u, again, ok)
		}
	})
}

// Whatever is in the slots and the record of deaths, only what waits has died, at least once, and the slots are empty afterwards.
func FuzzSlots(f *testing.F) {
	waiting := []episode.ID{fuzzID(1), fuzzID(2)}
	f.Add(append(slotBytes(waiting[0], flagSending), slotBytes(waiting[1], flagSending|flagAdvanced)...), []byte(`{"`+waiting[1].String()+`":2}`))
	f.Add(slotBytes(fuzzID(9), flagSending)[:31], []byte(`{"x":1}`))
	f.Add([]byte(nil), []byte(`{"`+waiting[0].String()+`":-5,"`+waiting[1].String()+`":9223372036854775807}`))
	dir := f.TempDir()
	q := open(f, dir)
	if err := os.MkdirAll(filepath.Join(dir, uploadsDir), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, slots, deaths []byte) {
		for name, b := range map[string][]byte{slotsFile: slots, deathsFile: deaths} {
			if err := os.WriteFile(q.path(name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.countDeaths(waiting); err != nil {
			t.Fatal(err)
		}
		defer q.slots.close()
		sum := 0
		for id, n := range q.slots.deaths {
			if id != waiting[0] && id != waiting[1] || n < 1 {
				t.Fatalf("%s died %d times", id, n)
			}
			sum++
		}
		if sum > 2 {
			t.Fatal(q.slots.deaths)
		}
		if st, err := os.Stat(q.path(slotsFile)); err != nil || st.Size() != 0 {
			t.Fatalf("the slots have %d bytes, %v", st.Size(), err)
		}
		// Counted once: the next process finds the same.
		before := len(q.slots.deaths)
		q.slots.close()
		if err := q.countDeaths(waiting); err != nil || len(q.slots.deaths) != before {
			t.Fatalf("%d became %v, %v", before, q.slots.deaths, err)
		}
	})
}

// A time of the last clean-up that can't be read makes it due; one that can is kept.
func FuzzGate(f *testing.F) {
	f.Add([]byte(`{"last_run":"2026-05-01T12:00:00Z"}`))
	f.Add([]byte(`{"last_run":"9999-05-01T12:00:00+23:59"}`))
	f.Add([]byte("\x00"))
	q := open(f, f.TempDir())
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(q.path(gateFile), b, 0o644); err != nil {
			t.Fatal(err)
		}
		last := q.loadGate()
		if !json.Valid(b) && !last.IsZero() {
			t.Fatalf("%q was read as %s", b, last)
		}
		if last.IsZero() || q.saveGate(last) != nil {
			return
		}
		if again := q.loadGate(); !again.Equal(last) {
			t.Fatalf("%s became %s", last, again)
		}
	})
}
