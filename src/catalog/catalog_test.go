package catalog

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cis490/src/episode"
	"cis490/src/wire"
)

var ctx = context.Background()

func open(t testing.TB, path string) *Catalog {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func row(host string, started time.Time) Row {
	f := episode.Facts{ID: episode.NewID(), Host: host, Started: started, Ended: started.Add(time.Hour), Size: rand.Int64N(1 << 40), Files: rand.Int64N(1000)}
	for i := range f.Digest {
		f.Digest[i] = byte(rand.Uint32())
	}
	now := time.UnixMicro(time.Now().UnixMicro()).UTC()
	return Row{Facts: f, Outcome: "complete", Workload: "w", CheckedAt: now, Receipt: wire.Receipt{
		Episode: f.ID, Host: host, BagDigest: f.Digest, ArchiveSize: rand.Int64N(1 << 40),
		StoredAt: now, ReceiverVersion: "1.2", WindowID: "w-1",
	}}
}

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func collect(t testing.TB, seq iter.Seq2[Row, error]) []Row {
	t.Helper()
	out := []Row{}
	for r, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestRowsComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a dir with ?#% in it", "c.sqlite")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	c := open(t, path)
	want := row("h1", noon)
	if err := c.Insert(ctx, []Row{want, row("h2", noon)}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, path)
	got, found, err := c.Lookup(ctx, want.Facts.ID)
	if err != nil || !found || got != want {
		t.Errorf("%v %v: %s", found, err, cmp.Diff(want, got))
	}
	if _, found, err := c.Lookup(ctx, episode.NewID()); found || err != nil {
		t.Errorf("found what was never inserted: %v", err)
	}
	// The first one stands.
	other := want
	other.Facts.Digest[0]++
	other.Receipt.ArchiveSize++
	if err := c.Insert(ctx, []Row{other}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := c.Lookup(ctx, want.Facts.ID); got != want {
		t.Errorf("an insertion changed a row: %+v", got)
	}
	for _, f := range Files(path)[2:] {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
}

func TestComplete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sqlite")
	c := open(t, path)
	for _, want := range []bool{false, true, false} {
		if want {
			if err := c.SetComplete(ctx, true); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := c.Complete(ctx); got != want || err != nil {
			t.Errorf("Complete = %v %v, want %v", got, err, want)
		}
		if want {
			if err := c.SetComplete(ctx, false); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// memory is a file system without a disk, if there is one: hundreds of
// transactions are to be compared, not flushed.
func memory() string {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// TestModel compares the catalogue with a map under random changes and queries.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(memory(), "catalog-")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		c, err := Open(filepath.Join(dir, "c.sqlite"))
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		model := map[episode.ID]Row{}
		var ids []episode.ID
		draw := func() Row {
			r := row(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "host"), noon.Add(time.Duration(rapid.IntRange(0, 5).Draw(rt, "hour"))*time.Hour))
			r.Outcome = rapid.SampledFrom([]string{"complete", "failed"}).Draw(rt, "outcome")
			r.Workload = rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "workload")
			if len(ids) > 0 && rapid.IntRange(0, 3).Draw(rt, "known") == 0 {
				r.Facts.ID = rapid.SampledFrom(ids).Draw(rt, "id")
				r.Receipt.Episode = r.Facts.ID
			}
			return r
		}
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			var rows []Row
			for range rapid.IntRange(0, 8).Draw(rt, "rows") {
				rows = append(rows, draw())
				ids = append(ids, rows[len(rows)-1].Facts.ID)
			}
			switch rapid.SampledFrom([]string{"insert", "replace", "remove"}).Draw(rt, "step") {
			case "insert":
				if err := c.Insert(ctx, rows); err != nil {
					rt.Fatal(err)
				}
				for _, r := range rows {
					if _, known := model[r.Facts.ID]; !known {
						model[r.Facts.ID] = r
					}
				}
			case "replace":
				added, changed, err := c.Replace(ctx, rows)
				if err != nil {
					rt.Fatal(err)
				}
				wantAdded, wantChanged := 0, 0
				for _, r := range rows {
					if old, known := model[r.Facts.ID]; !known {
						wantAdded++
					} else if old != r {
						wantChanged++
					}
					model[r.Facts.ID] = r
				}
				if added != wantAdded || changed != wantChanged {
					rt.Errorf("Replace = %d added, %d changed, want %d, %d", added, changed, wantAdded, wantChanged)
				}
			case "remove":
				for _, r := range rows {
					if err := c.Remove(ctx, r.Facts.ID); err != nil {
						rt.Fatal(err)
					}
					delete(model, r.Facts.ID)
				}
			}
		}
		var all []Row
		hosts := map[string]*Host{}
		for _, r := range model {
			all = append(all, r)
			h := hosts[r.Facts.Host]
			if h == nil {
				h = &Host{Name: r.Facts.Host}
				hosts[r.Facts.Host] = h
			}
			h.Episodes++
			h.Bytes += r.Receipt.ArchiveSize
		}
		got, err := c.Hosts(ctx)
		if err != nil || len(got) != len(hosts) {
			rt.Fatalf("Hosts = %+v, %v, want %+v", got, err, hosts)
		}
		for _, h := range got {
			if w := hosts[h.Name]; w == nil || h.Episodes != w.Episodes || h.Bytes != w.Bytes || h.LastStored.IsZero() {
				rt.Errorf("host %+v, want %+v", h, w)
			}
		}
		slices.SortFunc(all, func(a, b Row) int {
			if d := b.Facts.Started.Compare(a.Facts.Started); d != 0 {
				return d
			}
			return b.Facts.ID.Compare(a.Facts.ID)
		})
		f := Filter{
			Host:     rapid.SampledFrom([]string{"", "a", "z"}).Draw(rt, "f.host"),
			Outcome:  rapid.SampledFrom([]string{"", "failed"}).Draw(rt, "f.outcome"),
			Workload: rapid.SampledFrom([]string{"", "x"}).Draw(rt, "f.workload"),
			Limit:    rapid.IntRange(0, 5).Draw(rt, "f.limit"),
		}
		if rapid.Bool().Draw(rt, "f.bounded") {
			f.From = noon.Add(time.Duration(rapid.IntRange(0, 240).Draw(rt, "f.from")) * time.Minute)
			f.To = f.From.Add(time.Duration(rapid.IntRange(0, 240).Draw(rt, "f.to"))*time.Minute + time.Duration(rapid.IntRange(0, 1).Draw(rt, "ns")))
		}
		want := []Row{}
		for _, r := range all {
			if (f.Host == "" || r.Facts.Host == f.Host) && (f.Outcome == "" || r.Outcome == f.Outcome) && (f.Workload == "" || r.Workload == f.Workload) &&
				(f.From.IsZero() || !r.Facts.Started.Before(f.From)) && (f.To.IsZero() || r.Facts.Started.Before(f.To)) && (f.Limit == 0 || len(want) < f.Limit) {
				want = append(want, r)
			}
		}
		if diff := cmp.Diff(want, collect(t, c.List(ctx, f))); diff != "" {
			rt.Errorf("List(%+v): %s", f, diff)
		}
		slices.SortFunc(all, func(a, b Row) int { return a.Facts.ID.Compare(b.Facts.ID) })
		if diff := cmp.Diff(append([]Row{}, all...), collect(t, c.Each(ctx))); diff != "" {
			rt.Errorf("Each: %s", diff)
		}
		if err := c.Check(ctx); err != nil {
			rt.Error(err)
		}
	})
}

// TestPortions: a listing of more than one portion has every row once.
func TestPortions(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "c.sqlite"))
	var rows []Row
	for i := range 2*portion + 7 {
		rows = append(rows, row("h", noon.Add(time.Duration(i/3)*time.Second)))
	}
	if err := c.Insert(ctx, rows); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{0, 1, portion - 1, portion, portion + 1, 2 * portion, 10 * portion} {
		got := collect(t, c.List(ctx, Filter{Limit: limit}))
		want := len(rows)
		if limit > 0 {
			want = min(want, limit)
		}
		seen := map[episode.ID]bool{}
		for _, r := range got {
			seen[r.Facts.ID] = true
		}
		if len(got) != want || len(seen) != want {
			t.Errorf("limit %d: %d rows, %d different, want %d", limit, len(got), len(seen), want)
		}
	}
	if got := collect(t, c.Each(ctx)); len(got) != len(rows) {
		t.Errorf("Each yields %d rows, want %d", len(got), len(rows))
	}
	for range c.List(ctx, Filter{}) { // stopping early is fine
		break
	}
	for range c.Each(ctx) {
		break
	}
}

// TestReadersDontWait: a slow listing holds up neither writers nor the log's end.
func TestReadersDontWait(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "c.sqlite"))
	if err := c.Insert(ctx, []Row{row("h", noon), row("h", noon)}); err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(c.List(ctx, Filter{}))
	defer stop()
	if _, err, ok := next(); err != nil || !ok {
		t.Fatal(err, ok)
	}
	if err := c.Insert(ctx, []Row{row("h", noon)}); err != nil {
		t.Fatal(err)
	}
	var busy, log, moved int
	if err := c.write.QueryRow(`PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &moved); err != nil || busy != 0 {
		t.Errorf("a listing under way keeps the log from being folded in: busy %d, %v", busy, err)
	}
}

// TestForeignFiles: what is not a catalogue is recognised as such.
func TestForeignFiles(t *testing.T) {
	for name, content := range map[string]string{
		"text": "this is not a database, and it is long enough to have a header", "zeroes": string(make([]byte, 8192)),
		"header only": "SQLite format 3\x00",
	} {
		path := filepath.Join(t.TempDir(), "c.sqlite")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := Open(path); err == nil {
			complete, err := c.Complete(ctx) // what SQLite takes for empty must not pass for whole
			if complete || err != nil {
				t.Errorf("%s: opened as a whole catalogue: %v", name, err)
			}
			c.Close()
		} else if !IsCorrupt(err) {
			t.Errorf("%s: %v is not taken for damage", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "c.sqlite")
	db, err := connect(path, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE TABLE x (y); PRAGMA user_version = 7`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if c, err := Open(path); !IsCorrupt(err) {
		t.Errorf("another program's database: %v %v", c, err)
	}
	if c, err := Open(filepath.Join(t.TempDir(), "none", "c.sqlite")); err == nil || IsCorrupt(err) {
		t.Errorf("in a directory that isn't there: %v %v", c, err)
	}
}

func BenchmarkInsert(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			c := open(b, filepath.Join(b.TempDir(), "c.sqlite"))
			rows := make([]Row, n)
			for b.Loop() {
				for i := range rows {
					rows[i] = row("h1", noon)
				}
				if err := c.Insert(ctx, rows); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	c := open(b, filepath.Join(b.TempDir(), "c.sqlite"))
	for b.Loop() {
		if _, found, err := c.Lookup(ctx, episode.NewID()); found || err != nil {
			b.Fatal(found, err)
		}
	}
}
