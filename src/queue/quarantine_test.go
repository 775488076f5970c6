package queue

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
)

func aside(t testing.TB, q *Queue, id episode.ID, c code.Code, at time.Time) {
	t.Helper()
	if err := q.Quarantine(id.String(), Reason{Code: c, QuarantinedAt: at}); err != nil {
		t.Fatal(err)
	}
}

func TestQuarantineAndBack(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	id := episode.NewID()
	d := seal(t, dir, id)
	if err := q.SaveUpload(id, Upload{URL: "https://x"}); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 31, 23, 59, 59, 999999999, time.FixedZone("", -3600)) // April already, in UTC
	r := Reason{Code: code.OutOfWindow, Detail: "started too early", QuarantinedAt: at, Receiver: "https://r", Status: 412, Attempts: 2, WindowID: "w1"}
	r.Describe(episode.Facts{ID: id, Digest: d, Started: at, Ended: at.Add(time.Hour), Size: 9, Files: 2})
	if err := q.Quarantine(id.String(), r); err != nil {
		t.Fatal(err)
	}
	entry := filepath.Join(dir, "quarantine/2026-04-01", id.String())
	if err := whole(filepath.Join(entry, "bag"), id); err != nil {
		t.Error(err)
	}
	var onDisk map[string]any
	b, _ := os.ReadFile(filepath.Join(entry, "reason.json"))
	if err := json.Unmarshal(b, &onDisk); err != nil {
		t.Fatal(err)
	}
	started, ended := at.UTC().Format(time.RFC3339Nano), at.Add(time.Hour).UTC().Format(time.RFC3339Nano)
	want := map[string]any{"schema": 1.0, "name": id.String(), "code": "out-of-window", "detail": "started too early", "fix": code.OutOfWindow.Info().Fix,
		"quarantined_at": "2026-04-01T00:59:59.999999Z", "receiver": "https://r", "status": 412.0, "attempts": 2.0, "digest": d.String(),
		"size": 9.0, "files": 2.0, "started": started, "ended": ended, "window_id": "w1"}
	if diff := cmp.Diff(want, onDisk); diff != "" {
		t.Error(diff)
	}
	if _, ok := q.LoadUpload(id); ok {
		t.Error("the upload token was kept")
	}
	e, err := q.Show(id.String())
	if err != nil || e.ID != id || e.Day != "2026-04-01" || e.Reason.Code != code.OutOfWindow || e.Bag() != filepath.Join(entry, "bag") {
		t.Errorf("%+v %v", e, err)
	}
	if len(scanned(t, q)) != 0 {
		t.Error("it still waits")
	}
	if err := q.Quarantine(id.String(), r); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("quarantined twice: %v", err)
	}

	done, err := q.Requeue(t.Context(), Selection{Names: []string{id.String()}})
	if err != nil || len(done) != 1 || done[0].ID != id {
		t.Fatalf("%+v %v", done, err)
	}
	if err := whole(q.Dir(id), id); err != nil {
		t.Error(err)
	}
	if days, _ := q.quarantineDays(); len(days) != 0 {
		t.Errorf("empty days are left: %q", days)
	}
	if _, err := q.Requeue(t.Context(), Selection{Names: []string{id.String()}}); !errors.Is(err, ErrNotQuarantined) {
		t.Errorf("requeued twice: %v", err)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "../sealed", "/etc", "2026-04-01/..", "2026-04-01/../..", "x\x00"} {
		if err := q.Quarantine(bad, r); err == nil {
			t.Errorf("quarantined %q", bad)
		}
		if _, err := q.Show(bad); !errors.Is(err, ErrNotQuarantined) {
			t.Errorf("show %q: %v", bad, err)
		}
		if err := q.Discard(bad); !errors.Is(err, ErrNotQuarantined) {
			t.Errorf("discard %q: %v", bad, err)
		}
	}
}

func TestRequeueSelects(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	ids := sealMany(t, dir, 6)
	day := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	codes := []code.Code{code.OutOfWindow, code.Conflict, code.OutOfWindow, code.Malformed, code.Damaged, code.Conflict}
	for i, id := range ids {
		aside(t, q, id, codes[i], day.Add(-time.Duration(i)*30*time.Hour)) // the later id came first
	}
	list, err := q.List()
	if err != nil || !slices.EqualFunc(list, []episode.ID{ids[5], ids[4], ids[3], ids[2], ids[1], ids[0]}, func(e Quarantined, id episode.ID) bool { return e.ID == id }) {
		t.Errorf("not oldest first: %+v %v", list, err)
	}
	by, err := q.ListCode(code.OutOfWindow, code.Malformed)
	if err != nil || len(by) != 3 || by[0].ID != ids[3] || by[1].ID != ids[2] || by[2].ID != ids[0] {
		t.Errorf("by code: %+v %v", by, err)
	}
	seal(t, dir, ids[2]) // an id that waits already
	done, err := q.Requeue(t.Context(), Selection{Codes: []code.Code{code.OutOfWindow}, Names: []string{ids[4].String(), ids[0].String(), "nobody"}})
	var got []episode.ID
	for _, e := range done {
		got = append(got, e.ID)
	}
	if !slices.Equal(got, []episode.ID{ids[0], ids[4]}) {
		t.Errorf("done %v", got)
	}
	if !errors.Is(err, ErrWaiting) || !errors.Is(err, ErrNotQuarantined) || !strings.Contains(err.Error(), ids[2].String()) || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("%v", err)
	}
	if _, err := q.Show(ids[2].String()); err != nil {
		t.Errorf("what was refused must stay: %v", err)
	}
	// The same id a second time, on the same day and on another.
	for range 2 {
		aside(t, q, ids[2], code.Conflict, day.Add(-60*time.Hour))
		seal(t, dir, ids[2])
	}
	aside(t, q, ids[2], code.Conflict, day)
	if _, err := q.Show(ids[2].String()); err == nil || !strings.Contains(err.Error(), "2026-04-29/"+ids[2].String()+" or 2026-05-01/"+ids[2].String()) {
		t.Errorf("%v", err)
	}
	second := "2026-04-29/" + ids[2].String() + ".2"
	if e, err := q.Show(second); err != nil || e.ID != ids[2] {
		t.Errorf("%+v %v", e, err)
	}
	if done, err := q.Requeue(t.Context(), Selection{Names: []string{second}}); err != nil || len(done) != 1 {
		t.Errorf("%v %v", done, err)
	}
	if err := q.Discard(ids[2].String() + ".3"); err != nil {
		t.Error(err)
	}
	if err := q.Discard("2026-05-01/" + ids[2].String()); err != nil {
		t.Error(err)
	}
	done, err = q.Requeue(t.Context(), Selection{All: true})
	if len(done) != 3 || !errors.Is(err, ErrWaiting) {
		t.Errorf("all: %d, %v", len(done), err)
	}
	if got := names(t, filepath.Join(dir, removingDir)); len(got) != 0 {
		t.Errorf("left in .removing: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Requeue(ctx, Selection{All: true}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCounts(t *testing.T) {
	dir := t.TempDir()
	q, cli := open(t, dir), open(t, dir)
	ids := sealMany(t, dir, 5)
	day := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for i, id := range ids {
		aside(t, q, id, []code.Code{code.Conflict, code.OutOfWindow}[i%2], day.AddDate(0, 0, i%3))
	}
	check := func(want Counts) {
		t.Helper()
		got, err := q.Counts()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Error(diff, err)
		}
	}
	check(Counts{Total: 5, ByCode: map[code.Code]int{code.Conflict: 3, code.OutOfWindow: 2}, Oldest: day})
	read := q.index.read
	check(Counts{Total: 5, ByCode: map[code.Code]int{code.Conflict: 3, code.OutOfWindow: 2}, Oldest: day})
	if q.index.read != read {
		t.Errorf("read %d reasons that it knew", q.index.read-read)
	}
	// Another process puts two back, of which one is set aside again, for another reason.
	if _, err := cli.Requeue(t.Context(), Selection{Codes: []code.Code{code.OutOfWindow}}); err != nil {
		t.Fatal(err)
	}
	aside(t, q, ids[1], code.Damaged, day.AddDate(0, 0, 1))
	check(Counts{Total: 4, ByCode: map[code.Code]int{code.Conflict: 3, code.Damaged: 1}, Oldest: day})
	if q.index.read > read+3 { // small days that lost their oldest are read anew
		t.Errorf("read %d reasons anew", q.index.read-read)
	}
	// A reason that can't be read, and then can.
	e, err := q.Show(ids[1].String())
	if err != nil {
		t.Fatal(err)
	}
	reason := filepath.Join(e.Dir, reasonFile)
	sound, _ := os.ReadFile(reason)
	for _, broken := range []string{"", "{", "{}", `{"code":"damaged"}`, `{"code":"damaged","quarantined_at":"soon"}`, `{"quarantined_at":"2026-05-01T12:00:00Z"}`} {
		os.WriteFile(reason, []byte(broken), 0o644)
		os.Remove(filepath.Join(dir, countsFile))
		fresh := open(t, dir)
		got, err := fresh.Counts()
		if err != nil || got.Unreadable != 1 || got.Total != 4 {
			t.Errorf("%q: %+v %v", broken, got, err)
		}
		list, err := fresh.List()
		if err != nil || len(list) != 4 || list[0].Err == nil || list[0].ID != ids[1] {
			t.Errorf("%q: %+v %v", broken, list[0], err)
		}
		os.WriteFile(reason, sound, 0o644)
		if got, err := fresh.Counts(); err != nil || got.Unreadable != 0 {
			t.Errorf("mended after %q: %+v %v", broken, got, err)
		}
	}
	os.Remove(reason)
	unix.Mkfifo(reason, 0o644)
	os.Remove(filepath.Join(dir, countsFile))
	if got, err := open(t, dir).Counts(); err != nil || got.Unreadable != 1 {
		t.Errorf("a FIFO: %+v %v", got, err)
	}
}

func TestEntryNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 255), func(b []byte) string { return string(b) }))
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		ea, eb := entryName(a), entryName(b)
		if a != b && ea == eb {
			t.Fatalf("%q and %q are both %q", a, b, ea)
		}
		if len(ea) > 200 || strings.ContainsAny(ea, "/\x00") || strings.HasPrefix(ea, ".") {
			t.Fatalf("%q", ea)
		}
	})
	id := episode.NewID().String()
	if entryName(id) != id {
		t.Error("an id does not keep its name")
	}
}

func TestParseIDIsEpisodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := []byte(episode.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")).String())
		if rapid.Bool().Draw(t, "spoil") {
			s[rapid.IntRange(0, 35).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
			s = s[:rapid.IntRange(0, 36).Draw(t, "length")]
		}
		want, err := episode.ParseID(string(s))
		got, ok := parseID(s)
		if ok != (err == nil) || ok && got != want {
			t.Fatalf("%q: %v %v, want %v %v", s, got, ok, want, err)
		}
	})
}

func FuzzReason(f *testing.F) {
	f.Add([]byte(`{"schema":1,"code":"conflict","quarantined_at":"2026-05-01T12:00:00Z"}`))
	f.Add([]byte(`{"code":"x","started":"2026-05-01T12:00:00Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReason(b, func(err error) (Reason, error) { return Reason{}, err })
		if err == nil && (r.Code == "" || r.QuarantinedAt.IsZero()) {
			t.Errorf("%+v", r)
		}
	})
}

// TestCutQuarantine puts the tree into each state that a crash may leave, beside
// states that it may not.
func TestCutQuarantine(t *testing.T) {
	dir := t.TempDir()
	id := episode.NewID()
	reason := `{"schema":1,"name":"` + id.String() + `","code":"conflict","quarantined_at":"2026-05-01T12:00:00Z"}`
	for name, c := range map[string]struct {
		stage   string
		bag     bool
		reason  string
		waiting bool // something of that id is in sealed as well
		sealed  bool // where it is to be afterwards
	}{
		"before the reason":                  {settingAside, false, "", true, true},
		"half a reason":                      {settingAside, false, `{"sche`, true, true},
		"before the bag":                     {settingAside, false, reason, true, true},
		"before the place":                   {settingAside, true, reason, false, false},
		"the reason was lost":                {settingAside, true, "", false, true},
		"the reason was damaged":             {settingAside, true, "\x00\x00", false, true},
		"putting back, before the bag":       {puttingBack, true, reason, false, true},
		"putting back, after the bag":        {puttingBack, false, reason, true, true},
		"putting back, the reason gone":      {puttingBack, false, "", true, true},
		"putting back, without a reason":     {puttingBack, true, "", false, true},
		"putting back, but another waits":    {puttingBack, true, reason, true, false},
		"setting aside, no reason, another.": {settingAside, true, "", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			open(t, root)
			stage := filepath.Join(root, c.stage, id.String())
			os.Mkdir(stage, 0o755)
			if c.bag {
				seal(t, root, id)
				os.Rename(filepath.Join(root, sealedDir, id.String()), filepath.Join(stage, bagName))
			}
			if c.reason != "" {
				os.WriteFile(filepath.Join(stage, reasonFile), []byte(c.reason), 0o644)
			}
			if c.waiting {
				seal(t, root, id)
			}
			q := open(t, root) // this is what mends it
			if c.sealed {
				if err := whole(q.Dir(id), id); err != nil {
					t.Error(err)
				}
			} else if e, err := q.Show(id.String()); err != nil {
				t.Error(err)
			} else if err := whole(e.Bag(), id); err != nil {
				t.Error(err)
			}
			if got := append(names(t, filepath.Join(root, settingAside)), names(t, filepath.Join(root, puttingBack))...); len(got) != 0 {
				t.Errorf("left: %q", got)
			}
			if list, err := q.List(); err != nil || len(list) != map[bool]int{true: 0, false: 1}[c.sealed] {
				t.Errorf("%+v %v", list, err)
			}
		})
	}
}

func TestFsyncFailuresInTheQuarantine(t *testing.T) {
	dir := t.TempDir()
	id := episode.NewID()
	open(t, dir)
	seal(t, dir, id)
	boom := errors.New("disk on fire")
	// The n-th fsync of an operation fails, for all n.
	for _, op := range []string{"quarantine", "requeue"} {
		for n := 1; ; n++ {
			q := open(t, dir)
			calls := 0
			fail := func() error {
				if calls++; calls == n {
					return boom
				}
				return nil
			}
			q.syncFile = func(f *os.File) error { return errors.Join(fail(), f.Sync()) }
			q.syncDir = func(d string) error { return errors.Join(fail(), durable.SyncDir(d)) }
			var err error
			if op == "quarantine" {
				err = q.Quarantine(id.String(), Reason{Code: code.Conflict})
			} else {
				_, err = q.Requeue(t.Context(), Selection{All: true})
			}
			if calls >= n && !errors.Is(err, boom) {
				t.Errorf("%s: fsync %d failed and was not reported: %v", op, n, err)
			}
			sealed, aside, _, _ := conserved(t, dir, []episode.ID{id})
			if sealed+aside != 1 {
				t.Fatalf("%s: fsync %d failed: %d in sealed, %d in quarantine", op, n, sealed, aside)
			}
			if calls < n {
				if err != nil || (sealed == 1) != (op == "requeue") {
					t.Errorf("%s without a failure: %v, %d in sealed", op, err, sealed)
				}
				break
			}
			if sealed == 1 != (op == "quarantine") { // it had happened all the same: back to the start
				if op == "quarantine" {
					_, err = open(t, dir).Requeue(t.Context(), Selection{All: true})
				} else {
					err = open(t, dir).Quarantine(id.String(), Reason{Code: code.Conflict})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func TestQuarantineLockIsBetweenProcesses(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	id := episode.NewID()
	seal(t, dir, id)
	unlock, err := durable.Lock(filepath.Join(dir, quarantineLock))
	if err != nil {
		t.Fatal(err)
	}
	open(t, dir) // does not wait
	done := make(chan error)
	go func() { done <- q.Quarantine(id.String(), Reason{Code: code.Conflict}) }()
	select {
	case err := <-done:
		t.Fatalf("did not wait for the lock: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
