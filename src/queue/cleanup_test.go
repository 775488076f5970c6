package queue

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
)

var monthly = CleanupOptions{KeepDays: 30, Interval: time.Hour, ClockAgreed: true}

// cleaned is a Report with what it was about.
type cleaned struct {
	Report
	removed []Removed
	failed  []Failed
}

func clean(t testing.TB, q *Queue, now time.Time, o CleanupOptions) (c cleaned) {
	t.Helper()
	o.Removed = func(r Removed) { c.removed = append(c.removed, r) }
	o.Failed = func(f Failed) { c.failed = append(c.failed, f) }
	var err error
	if c.Report, err = q.Cleanup(t.Context(), now, o); err != nil {
		t.Fatal(err)
	}
	if len(c.removed) != c.Removed || len(c.failed) != c.Failed {
		t.Errorf("%d removed and %d failed, told %d and %d", c.Removed, c.Failed, len(c.removed), len(c.failed))
	}
	slices.SortFunc(c.removed, func(a, b Removed) int { return strings.Compare(a.Name, b.Name) })
	return c
}

func removed(r cleaned) (n []string) {
	for _, x := range r.removed {
		n = append(n, x.Name)
	}
	return n
}

func TestCleanup(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	ids := sealMany(t, dir, 6)
	for i, age := range []time.Duration{40 * day, 30*day + time.Second, 30 * day, 30*day - time.Second, day, 0} {
		aside(t, q, ids[i], []code.Code{code.Conflict, code.OutOfWindow}[i%2], now.Add(-age))
	}
	// Old by mtime, young by its reason: stays. And the other way round: goes.
	young, _ := q.Show(ids[4].String())
	old := now.AddDate(-1, 0, 0)
	for _, p := range []string{young.Dir, young.Bag(), filepath.Join(young.Dir, reasonFile)} {
		os.Chtimes(p, old, old)
	}
	oldest, _ := q.Show(ids[0].String())
	os.Chtimes(oldest.Dir, now, now)
	// In an old day, young by its reason: stays. Without a reason: stays, and is named.
	strange := episode.NewID()
	seal(t, dir, strange)
	aside(t, q, strange, code.Malformed, now.Add(-39*day))
	e, _ := q.Show(strange.String())
	os.WriteFile(filepath.Join(e.Dir, reasonFile), []byte("?"), 0o644)
	moved := episode.NewID()
	seal(t, dir, moved)
	aside(t, q, moved, code.Malformed, now.Add(-35*day))
	e, _ = q.Show(moved.String())
	os.WriteFile(filepath.Join(e.Dir, reasonFile), []byte(`{"code":"malformed","quarantined_at":"`+now.Add(-day).Format(time.RFC3339)+`"}`), 0o644)
	// What is not ours is not touched.
	for _, n := range []string{"1999-01-01x", "1999-1-1", "notes"} {
		os.MkdirAll(filepath.Join(dir, quarantineDir, n, "x"), 0o755)
	}

	steps := 0
	o := monthly
	o.Progress = func() { steps++ }
	r := clean(t, q, now, o)
	if r.Outcome != CleanupRan || r.Failed != 0 {
		t.Errorf("%+v", r)
	}
	if got := removed(r); !slices.Equal(got, []string{ids[0].String(), ids[1].String(), ids[2].String()}) {
		t.Errorf("removed %q", got)
	}
	if x := r.removed[1]; x.Code != code.OutOfWindow || x.Age != 30*day+time.Second {
		t.Errorf("%+v", x)
	}
	if r.Unreadable != 1 || len(r.Strange) != 1 || r.Strange[0].Name != strange.String() || r.Strange[0].Err == nil {
		t.Errorf("unreadable %+v", r.Strange)
	}
	if steps < 5 {
		t.Errorf("%d steps told", steps)
	}
	list, err := q.List()
	if err != nil || len(list) != 5 {
		t.Errorf("%+v %v", list, err)
	}
	if left := names(t, filepath.Join(dir, removingDir)); len(left) != 0 {
		t.Errorf("left in .removing: %q", left)
	}
	if days, _ := q.quarantineDays(); len(days) != 5 { // of what is left: 39, 35, 30 days ago, yesterday, today
		t.Errorf("days %q", days)
	}
	for _, n := range []string{"1999-01-01x", "1999-1-1", "notes"} {
		if _, err := os.Stat(filepath.Join(dir, quarantineDir, n, "x")); err != nil {
			t.Error(err)
		}
	}
	if c, err := q.Counts(); err != nil || c.Total != 5 {
		t.Errorf("%+v %v", c, err)
	}
}

func TestCleanupGate(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	q := locked(t, dir)
	put := func(q *Queue) {
		id := episode.NewID()
		seal(t, dir, id)
		aside(t, q, id, code.Conflict, now.AddDate(0, 0, -60))
	}
	want := func(q *Queue, now time.Time, o CleanupOptions, out Outcome, n int) {
		t.Helper()
		if r := clean(t, q, now, o); r.Outcome != out || r.Removed != n {
			t.Errorf("%s, %d removed; want %s, %d", r.Outcome, r.Removed, out, n)
		}
	}
	put(q)
	want(q, now, monthly, CleanupRan, 1)
	put(q)
	for s := range 719 { // a scan every 5 s
		want(q, now.Add(time.Duration(s+1)*5*time.Second), monthly, CleanupNotDue, 0)
	}
	// Across restarts, cleanly and by a kill.
	q.Close()
	q = locked(t, dir)
	want(q, now.Add(time.Hour-time.Second), monthly, CleanupNotDue, 0)
	die(t, q)
	q = locked(t, dir)
	want(q, now.Add(time.Hour-time.Second), monthly, CleanupNotDue, 0)
	want(q, now.Add(time.Hour), monthly, CleanupRan, 1)
	// Off.
	put(q)
	off := monthly
	off.KeepDays = 0
	want(q, now.Add(1000*time.Hour), off, CleanupOff, 0)
	if l, _ := q.List(); len(l) != 1 {
		t.Errorf("%+v", l)
	}
	// The clock a year ahead, and nobody who agrees: nothing goes, and the gate is not used up.
	unsure := monthly
	unsure.ClockAgreed = false
	want(q, now.AddDate(1, 0, 0), unsure, CleanupClockUnknown, 0)
	want(q, now.AddDate(1, 0, 0), unsure, CleanupClockUnknown, 0)
	want(q, now.Add(1001*time.Hour), monthly, CleanupRan, 1)
	// A clock that was ahead for one run does not stop the runs after it.
	put(q)
	want(q, now.AddDate(1, 0, 0), monthly, CleanupRan, 1)
	put(q)
	want(q, now.Add(1002*time.Hour), monthly, CleanupRan, 1)
	want(q, now.Add(1002*time.Hour+time.Minute), monthly, CleanupNotDue, 0)
	// A note that can't be read is none.
	os.WriteFile(filepath.Join(dir, gateFile), []byte("\x00"), 0o644)
	q.Close()
	q = locked(t, dir)
	want(q, now.Add(1002*time.Hour+2*time.Minute), monthly, CleanupRan, 0)
	every := monthly
	every.Interval = 0
	want(q, now.Add(1002*time.Hour+2*time.Minute), every, CleanupRan, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	put(q)
	if r, err := q.Cleanup(ctx, now.Add(2000*time.Hour), monthly); !errors.Is(err, context.Canceled) || r.Removed != 0 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestCleanupOpensNoDayThatCannotHaveExpired(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	now := time.Date(2026, 8, 31, 0, 0, 0, 0, time.UTC)
	for d := range 60 {
		id := episode.NewID()
		seal(t, dir, id)
		aside(t, q, id, code.Conflict, now.AddDate(0, 0, -d))
	}
	days, _ := q.quarantineDays()
	opened, err := q.expirable(quarantineDir, now, 30*24*time.Hour)
	if err != nil || len(days) != 60 || len(opened) != 30 || opened[29] != "2026-08-01" {
		t.Errorf("%d of %d days: %q, %v", len(opened), len(days), opened, err)
	}
}

// TestCleanupGoesOnPastWhatCannotBeRemoved uses what even root can't remove.
func TestCleanupGoesOnPastWhatCannotBeRemoved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for chattr and mount")
	}
	dir := t.TempDir()
	q := locked(t, dir)
	now := time.Now()
	ids := sealMany(t, dir, 4)
	var es []Quarantined
	for i, id := range ids {
		aside(t, q, id, code.Conflict, now.AddDate(0, 0, -60+i))
		e, err := q.Show(id.String())
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, e)
	}
	// The first can't be moved. The second can be moved, but not all of it can be unlinked. The third has a mount point in it.
	chattr := func(flag, path string) {
		t.Helper()
		if out, err := exec.Command("chattr", flag, path).CombinedOutput(); err != nil {
			t.Fatalf("chattr: %v: %s", err, out)
		}
	}
	chattr("+i", es[0].Dir)
	t.Cleanup(func() { exec.Command("chattr", "-i", es[0].Dir).Run() })
	chattr("+i", filepath.Join(es[1].Bag(), "bagit.txt"))
	t.Cleanup(func() { exec.Command("chattr", "-R", "-i", dir).Run() })
	mnt := filepath.Join(es[2].Bag(), "data", "output")
	if err := unix.Mount("none", mnt, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Unmount(mnt, unix.MNT_DETACH)
		left, _ := filepath.Glob(filepath.Join(dir, removingDir, "*", "bag", "data", "output"))
		for _, m := range left {
			unix.Unmount(m, unix.MNT_DETACH)
		}
	})

	o := monthly
	o.Interval = 0
	r := clean(t, q, now, o)
	if got := removed(r); !slices.Equal(got, []string{ids[3].String()}) {
		t.Errorf("removed %q", got)
	}
	byName := func(r cleaned, part string) *Failed {
		for _, f := range r.failed {
			if strings.Contains(f.Name, part) {
				return &f
			}
		}
		t.Errorf("no failure of %s: %+v", part, r.failed)
		return &Failed{}
	}
	if f := byName(r, ids[0].String()); f.Err == nil || f.Code != code.Conflict || f.Age < 59*24*time.Hour {
		t.Errorf("%+v", f)
	}
	byName(r, ids[1].String())
	byName(r, ids[2].String())
	if e, err := q.Show(ids[0].String()); err != nil || whole(e.Bag(), ids[0]) != nil {
		t.Errorf("what can't be moved must stay whole: %v", err)
	}
	// The next time again, and then all goes once it can.
	if r := clean(t, q, now, o); r.Failed != 3 {
		t.Errorf("%+v", r.failed)
	}
	chattr("-i", es[0].Dir)
	left, _ := filepath.Glob(filepath.Join(dir, removingDir, "*", "bag"))
	for _, bag := range left {
		exec.Command("chattr", "-R", "-i", bag).Run()
		unix.Unmount(filepath.Join(bag, "data", "output"), unix.MNT_DETACH)
	}
	r = clean(t, q, now, o)
	if r.Failed != 0 || r.Removed != 1 {
		t.Errorf("%+v", r)
	}
	if got := names(t, filepath.Join(dir, removingDir)); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestCleanupOfShipped(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir, WithKeepShipped(48*time.Hour))
	now := time.Now()
	at := now
	q.now = func() time.Time { return at }
	put := func() episode.ID {
		id := episode.NewID()
		d := seal(t, dir, id)
		if err := q.Acknowledge(t.Context(), receipt(id, d)); err != nil {
			t.Fatal(err)
		}
		return id
	}
	at = now.AddDate(0, 0, -4)
	old := put()
	at = now
	fresh := put()
	day := func(d time.Time, id episode.ID) string {
		return filepath.Join(dir, shippedDir, d.UTC().Format(dayLayout), id.String())
	}
	if err := errors.Join(whole(day(now.AddDate(0, 0, -4), old), old), whole(day(now, fresh), fresh)); err != nil {
		t.Fatal(err)
	}
	o := monthly
	o.Interval = 0
	if r := clean(t, q, now, o); r.Shipped != 1 || r.Failed != 0 {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(filepath.Dir(day(now.AddDate(0, 0, -4), old))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old day: %v", err)
	}
	if err := whole(day(now, fresh), fresh); err != nil {
		t.Error(err)
	}
	// Within its last day an episode is judged by when it came.
	if r := clean(t, q, now.Add(47*time.Hour), o); r.Shipped != 0 {
		t.Errorf("%+v", r)
	}
	unsure := o
	unsure.ClockAgreed = false
	if r := clean(t, q, now.AddDate(1, 0, 0), unsure); r.Shipped != 0 {
		t.Errorf("%+v", r)
	}
	if r := clean(t, q, now.Add(48*time.Hour+time.Minute), o); r.Shipped != 1 {
		t.Errorf("%+v", r)
	}
	// Kept no longer: what is there goes with the next clean-up.
	put()
	q.SetKeepShipped(0)
	if r := clean(t, q, time.Now().Add(time.Second), o); r.Shipped != 1 {
		t.Errorf("%+v", r)
	}
}

func TestLeftoversAreSweptAtLock(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir) // not locked: else its own sweep may get there first
	id := episode.NewID()
	seal(t, dir, id)
	q.Close() // with it goes its own sweep
	if _, err := durable.MoveToTrash(q.Dir(id), filepath.Join(dir, removingDir)); err != nil {
		t.Fatal(err)
	}
	os.MkdirAll(filepath.Join(dir, removingDir, "acknowledged.1.x.1", "a", "b"), 0o755)
	var w counter
	locked(t, dir, WithWorker(&w))
	eventually(t, "all is unlinked", func() bool { return len(names(t, filepath.Join(dir, removingDir))) == 0 })
	eventually(t, "a step is told", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.n > 0
	})
}
