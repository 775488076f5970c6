package queue

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
)

// history makes n entries of the quarantine with the code, all of one day, as
// cheaply as possible: their reasons are links of a few files.
func history(t testing.TB, q *Queue, n int, c code.Code, at time.Time) (day string) {
	t.Helper()
	day = at.UTC().Format(dayLayout)
	dir := q.path(quarantineDir, day)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	reason := ""
	for i := range n {
		entry := filepath.Join(dir, episode.NewID().String())
		err := os.Mkdir(entry, 0o755)
		if err == nil && i%10000 == 0 {
			reason = filepath.Join(entry, reasonFile)
			err = os.WriteFile(reason, fmt.Appendf(nil, `{"schema":1,"code":%q,"quarantined_at":%q,"started":%[2]q,"ended":%[2]q}`, c, at.UTC().Format(time.RFC3339)), 0o644)
		} else if err == nil {
			err = os.Link(reason, filepath.Join(entry, reasonFile))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Minute)
	q.now = func() time.Time { return old.Add(2 * time.Minute) } // what changed just now is not trusted
	return day
}

func TestABigDayIsCountedOnceAndNotInPassing(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	at := time.Now().AddDate(0, 0, -3)
	n := few + 500
	history(t, q, n, code.Conflict, at)
	c, whole, err := q.QuickCounts()
	if err != nil || whole || c.Total != 0 || q.index.read > few {
		t.Errorf("in passing: %+v %v %v, %d read", c, whole, err, q.index.read)
	}
	steps := 0
	if err := q.Recount(t.Context(), func() { steps++ }); err != nil || steps != n {
		t.Errorf("%v, %d steps", err, steps)
	}
	exact := func(q *Queue, total int) {
		t.Helper()
		read := q.index.read
		c, whole, err := q.QuickCounts()
		if err != nil || !whole || c.Total != total || c.Total != c.ByCode[code.Conflict]+c.ByCode[code.Damaged] || q.index.read != read {
			t.Errorf("%+v %v %v, %d read; want %d and none", c, whole, err, q.index.read-read, total)
		}
	}
	exact(q, n)
	// The next process reads none of it, nor does one that changes it.
	next := open(t, dir)
	exact(next, n)
	ids := sealMany(t, dir, 3)
	for _, id := range ids {
		aside(t, q, id, code.Damaged, at)
	}
	exact(q, n+3)
	exact(next, n+3)
	if _, err := next.Requeue(t.Context(), Selection{Names: []string{ids[0].String()}}); err != nil {
		t.Fatal(err)
	}
	if err := next.Discard(ids[1].String()); err != nil {
		t.Fatal(err)
	}
	exact(q, n+1)
	exact(open(t, dir), n+1)
	// A day that somebody else changed is counted again, and shows the last figures until then.
	if err := os.RemoveAll(q.path(quarantineDir, at.UTC().Format(dayLayout), ids[2].String())); err != nil {
		t.Fatal(err)
	}
	if c, whole, err := q.QuickCounts(); err != nil || whole || c.Total != n+1 {
		t.Errorf("%+v %v %v", c, whole, err)
	}
	if c, err := q.Counts(); err != nil || c.Total != n {
		t.Errorf("%+v %v", c, err)
	}
	exact(q, n)
}

func TestCountingCostsNoMemory(t *testing.T) {
	q := locked(t, t.TempDir())
	at := time.Now().AddDate(0, 0, -3)
	history(t, q, few+1, code.Conflict, at)
	if _, err := q.Counts(); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := q.QuickCounts(); err != nil {
			t.Fatal(err)
		}
	}); n > 60 {
		t.Errorf("%.0f allocations to count a day that did not change", n)
	}
}

func TestSearchShowsEachOnce(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	at := time.Now().AddDate(0, 0, -3)
	n := few + 500
	history(t, q, n, code.OutOfWindow, at)
	history(t, q, 10, code.Conflict, at)
	if _, err := q.Counts(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	again := map[string]time.Time{}
	shown := func(q *Queue, key string, now time.Time) (names []string) {
		t.Helper()
		if err := q.Search(t.Context(), code.OutOfWindow, key, now, nil, func(e Quarantined) time.Time {
			names = append(names, e.Name)
			return again[e.Name]
		}); err != nil {
			t.Fatal(err)
		}
		return names
	}
	all := shown(q, "w1", now)
	if len(all) != n {
		t.Fatalf("%d shown of %d", len(all), n)
	}
	for _, q := range []*Queue{q, open(t, dir)} {
		if got := shown(q, "w1", now); len(got) != 0 {
			t.Errorf("%d shown again", len(got))
		}
	}
	// One that comes is shown; with another key, or a clock set back, all are.
	ids := sealMany(t, dir, 2)
	aside(t, q, ids[0], code.OutOfWindow, at)
	aside(t, q, ids[1], code.Conflict, at)
	if got := shown(q, "w1", now); !slices.Equal(got, []string{ids[0].String()}) {
		t.Errorf("%q", got)
	}
	for _, e := range all {
		again[e] = now.Add(time.Hour)
	}
	if got := shown(q, "w2", now); len(got) != n+1 {
		t.Errorf("%d shown under another key", len(got))
	}
	if got := shown(q, "w2", now); len(got) == 0 || len(got) > maxAgain {
		t.Errorf("%d shown again of those that asked for it", len(got))
	}
	if got := shown(q, "w2", now.Add(time.Hour)); len(got) != n+1 {
		t.Errorf("%d shown when due", len(got))
	}
	clear(again)
	if got := shown(q, "w2", now.Add(-time.Hour)); len(got) != n+1 {
		t.Errorf("%d shown after the clock was set back", len(got))
	}
	// Those that the caller puts back are gone from the figures too.
	if err := q.Search(t.Context(), code.OutOfWindow, "w3", now, nil, func(e Quarantined) time.Time {
		if e.Name == ids[0].String() {
			if _, err := q.Requeue(t.Context(), Selection{Names: []string{e.Name}}); err != nil {
				t.Error(err)
			}
		}
		return time.Time{}
	}); err != nil {
		t.Fatal(err)
	}
	if got := shown(q, "w3", now); len(got) != 0 {
		t.Errorf("%q", got)
	}
	if c, whole, err := q.QuickCounts(); err != nil || !whole || c.ByCode[code.OutOfWindow] != n || c.Total != n+11 {
		t.Errorf("%+v %v %v", c, whole, err)
	}
}

func TestEntriesAreInOrderAFewAtATime(t *testing.T) {
	q := locked(t, t.TempDir())
	day := history(t, q, 107, code.Conflict, time.Now())
	want := names(t, q.path(quarantineDir, day))
	for _, most := range []int{1, 2, 10, 53, 54, 106, 107, 108, 1000} {
		var got []string
		for n, err := range q.sorted(day, most) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d at once: %d of %d, sorted %v", most, len(got), len(want), slices.IsSorted(got))
		}
	}
}

// TestCleanupReadsNoDayThatItKnowsToBeYoung: not even the one that has passed in part.
func TestCleanupReadsNoDayThatItKnowsToBeYoung(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	now := time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)
	day := history(t, q, 20, code.Conflict, now.Add(-30*24*time.Hour+time.Hour))
	if _, err := q.Counts(); err != nil {
		t.Fatal(err)
	}
	steps := 0
	o := monthly
	o.Interval = 0
	o.Progress = func() { steps++ }
	if r := clean(t, q, now, o); r.Removed != 0 || steps != 0 {
		t.Errorf("%+v, %d steps", r, steps)
	}
	if r := clean(t, q, now.Add(time.Hour), o); r.Removed != 20 || steps < 20 {
		t.Errorf("%+v, %d steps", r, steps)
	}
	if _, err := os.Stat(q.path(quarantineDir, day)); err == nil {
		t.Error("the empty day stays")
	}
	if c, whole, err := q.QuickCounts(); err != nil || !whole || c.Total != 0 {
		t.Errorf("%+v %v %v", c, whole, err)
	}
}
