package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/wire"
)

var start = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// item makes an episode that the store can't tell from a real one: it is up to
// its caller to have verified the archive.
func item(host string, started time.Time, size int) Item {
	id := episode.NewID()
	f := episode.Facts{ID: id, Host: host, Started: started, Ended: started.Add(time.Minute), Size: int64(size) * 3, Files: 8}
	r := rand.New(rand.NewPCG(uint64(id.Time().UnixNano()), uint64(id[15])<<8|uint64(id[14])))
	for i := range f.Digest {
		f.Digest[i] = byte(r.Uint32())
	}
	archive := make([]byte, size)
	for i := range archive {
		archive[i] = byte(r.Uint32())
	}
	run := fmt.Appendf(nil, `{"schema": 1, "id": %q, "host": %q, "workload": "w%d", "outcome": "complete", "note": "<&>"}`, id, host, id[15]%3)
	return Item{Facts: f, WindowID: "w1", Run: run, Archive: archive}
}

func openStore(t testing.TB, dir string, sys system) *Store {
	t.Helper()
	s, err := open(dir, Options{ReceiverVersion: "test", Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, sys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func mustCommit(t testing.TB, s *Store, it Item, want code.Code) wire.Receipt {
	t.Helper()
	r, c, err := s.Commit(context.Background(), it)
	if err != nil || c != want {
		t.Fatalf("Commit = %v, %v, want %v", c, err, want)
	}
	return r
}

func wantCode(t testing.TB, err error, want code.Code) {
	t.Helper()
	if c, ok := code.Of(err); !ok || c != want {
		t.Fatalf("error %v has code %q, want %q", err, c, want)
	}
}

// files lists the regular files below dir, by their path in it.
func files(t testing.TB, dir string) []string {
	t.Helper()
	out := []string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			p, err = filepath.Rel(dir, p)
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkWhole checks everything that must hold of a store at rest: archive and
// sidecar come in pairs, the catalogue lists exactly them and is sound, and
// nothing is left in incoming/.commit but intents and the log.
func checkWhole(t testing.TB, s *Store) (n int) {
	t.Helper()
	ctx := context.Background()
	pairs := map[string]int{}
	for _, f := range files(t, s.path(episodesName)) {
		switch {
		case strings.HasSuffix(f, ".tar.zst"):
			pairs[strings.TrimSuffix(f, ".tar.zst")] |= 1
		case strings.HasSuffix(f, ".json"):
			pairs[strings.TrimSuffix(f, ".json")] |= 2
		default:
			t.Errorf("a stray file in the store: %s", f)
		}
	}
	for p, have := range pairs {
		if have != 3 {
			t.Errorf("%s: has %d (1: only an archive, 2: only a sidecar)", p, have)
		}
	}
	for _, f := range files(t, filepath.Join(s.IncomingDir(), commitName)) {
		if !strings.HasPrefix(f, intentPrefix) && !strings.HasPrefix(f, walPrefix) {
			t.Errorf("a temporary file was left: %s", f)
		}
	}
	for row, err := range s.List(ctx, catalog.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		p := filepath.Join(day(row.Facts.Host, row.Facts.Started), row.Facts.ID.String())
		if pairs[p] != 3 {
			t.Errorf("%s is in the catalogue and not in the store", p)
		}
		fi, err := os.Stat(s.ArchivePath(row.Facts))
		if err != nil || fi.Size() != row.Receipt.ArchiveSize {
			t.Errorf("archive of %s: %v, want %d bytes: %v", p, fi, row.Receipt.ArchiveSize, err)
		}
	}
	if n != len(pairs) {
		t.Errorf("%d episodes in the catalogue, %d in the store", n, len(pairs))
	}
	if err := s.cat.Load().Check(ctx); err != nil {
		t.Error(err)
	}
	var sum int64
	hosts, err := s.Hosts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		sum += h.Episodes
	}
	if sum != int64(n) {
		t.Errorf("the hosts have %d episodes together, the catalogue %d", sum, n)
	}
	rep, err := s.Reindex(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (ReindexReport{Episodes: int64(n), Faults: []string{}}); !cmp.Equal(rep, want) {
		t.Errorf("reindexing finds the catalogue different: %s", cmp.Diff(want, rep))
	}
	return n
}

func TestCommitStores(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, systemCalls())
	ctx := context.Background()
	it := item("h1", start, 1000)
	archive, run := bytes.Clone(it.Archive), it.Run
	if _, found, err := s.Find(ctx, "h1", it.Facts.ID, start); found || err != nil {
		t.Fatal("found before it was stored", err)
	}
	r := mustCommit(t, s, it, code.Stored)
	want := wire.Receipt{Episode: it.Facts.ID, Host: "h1", BagDigest: it.Facts.Digest, ArchiveSize: 1000, StoredAt: r.StoredAt, ReceiverVersion: "test", WindowID: "w1"}
	if r != want || time.Since(r.StoredAt) > time.Minute {
		t.Errorf("receipt %+v, want %+v", r, want)
	}
	base := filepath.Join(dir, "episodes/h1/2026/07/01", it.Facts.ID.String())
	if got, err := os.ReadFile(base + ".tar.zst"); err != nil || !bytes.Equal(got, archive) {
		t.Error("the archive is not what was committed", err)
	}
	side, err := os.ReadFile(base + ".json")
	if err != nil || !json.Valid(side) || !bytes.Contains(side, run) {
		t.Errorf("sidecar %s: %v", side, err)
	}
	row, found, err := s.Lookup(ctx, it.Facts.ID)
	if err != nil || !found || row.Facts != it.Facts || row.Receipt != r || row.Outcome != "complete" || !strings.HasPrefix(row.Workload, "w") {
		t.Errorf("row %+v %v %v", row, found, err)
	}
	if sc, err := s.Sidecar(row); err != nil || sc.Receipt != r || !bytes.Equal(sc.Run, run) {
		t.Errorf("Sidecar = %+v, %v", sc, err)
	}
	if got, found, err := s.Find(ctx, "h1", it.Facts.ID, start); got != r || !found || err != nil {
		t.Errorf("Find = %v %v %v", got, found, err)
	}
	// A year later, after a restart.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left := files(t, filepath.Join(dir, "incoming")); len(left) > 0 {
		t.Errorf("left in incoming: %v", left)
	}
	s = openStore(t, dir, systemCalls())
	if got := mustCommit(t, s, it, code.AlreadyStored); got != r {
		t.Errorf("the second receipt %+v differs from the first %+v", got, r)
	}
	checkWhole(t, s)
}

func TestConflicts(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	ctx := context.Background()
	it := item("h1", start, 100)
	r := mustCommit(t, s, it, code.Stored)
	before, err := os.ReadFile(s.ArchivePath(it.Facts))
	if err != nil {
		t.Fatal(err)
	}
	other := it
	other.Facts.Digest[0] ^= 1
	other.Archive = []byte("other")
	_, _, err = s.Commit(ctx, other)
	wantCode(t, err, code.Conflict)
	stranger := it
	stranger.Facts.Host = "h2"
	_, _, err = s.Commit(ctx, stranger)
	wantCode(t, err, code.Conflict)
	if strings.Contains(err.Error(), "h1") {
		t.Errorf("one host learns of another: %v", err)
	}
	_, _, err = s.Find(ctx, "h2", it.Facts.ID, start)
	wantCode(t, err, code.Conflict)
	// Also when it claims another start, and so another place.
	moved := it
	moved.Facts.Started = start.AddDate(0, 0, 3)
	if got := mustCommit(t, s, moved, code.AlreadyStored); got != r {
		t.Errorf("receipt %+v, want %+v", got, r)
	}
	after, err := os.ReadFile(s.ArchivePath(it.Facts))
	if err != nil || !bytes.Equal(before, after) {
		t.Error("the first was touched", err)
	}
	if n := checkWhole(t, s); n != 1 {
		t.Errorf("%d stored, want 1", n)
	}
}

func TestRefusals(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	for name, c := range map[string]struct {
		change func(*Item)
		want   code.Code
	}{
		"host":        {func(it *Item) { it.Facts.Host = "../x" }, code.Malformed},
		"no id":       {func(it *Item) { it.Facts.ID = episode.ID{} }, code.Malformed},
		"run.json":    {func(it *Item) { it.Run = []byte(`{"outcome"`) }, code.Malformed},
		"two in one":  {func(it *Item) { it.Run = []byte(`{}{}`) }, code.Malformed},
		"far future":  {func(it *Item) { it.Facts.Started = time.Unix(1<<50, 0) }, code.Malformed},
		"no archive":  {func(it *Item) { it.Archive = nil }, code.ReceiverError},
		"two":         {func(it *Item) { it.ArchiveFile = "x" }, code.ReceiverError},
		"leaves":      {func(it *Item) { it.Archive, it.ArchiveFile = nil, "../x" }, code.ReceiverError},
		"ours":        {func(it *Item) { it.Archive, it.ArchiveFile = nil, ".commit/intent-1" }, code.ReceiverError},
		"not a file":  {func(it *Item) { it.Archive, it.ArchiveFile = nil, "nothing" }, code.ReceiverError},
		"a directory": {func(it *Item) { it.Archive, it.ArchiveFile = nil, "dir" }, code.ReceiverError},
	} {
		if err := os.MkdirAll(filepath.Join(s.IncomingDir(), "dir"), 0o755); err != nil {
			t.Fatal(err)
		}
		it := item("h1", start, 10)
		c.change(&it)
		if _, _, err := s.Commit(context.Background(), it); err == nil {
			t.Errorf("%s: no error", name)
		} else if got, _ := code.Of(err); got != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if n := checkWhole(t, s); n != 0 {
		t.Errorf("%d stored", n)
	}
}

func TestArchiveFile(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	it := item("h1", start, 70_000)
	content := it.Archive
	up := filepath.Join(s.IncomingDir(), "upload")
	put := func() {
		t.Helper()
		if err := os.WriteFile(up, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	it.Archive, it.ArchiveFile = nil, "upload"
	put()
	r := mustCommit(t, s, it, code.Stored)
	if r.ArchiveSize != int64(len(content)) {
		t.Errorf("archive size %d, want %d", r.ArchiveSize, len(content))
	}
	if _, err := os.Lstat(up); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the upload is still there: %v", err)
	}
	put() // the same once more: the caller keeps its file
	if got := mustCommit(t, s, it, code.AlreadyStored); got != r {
		t.Errorf("receipt %+v, want %+v", got, r)
	}
	if got, err := os.ReadFile(up); err != nil || !bytes.Equal(got, content) {
		t.Error("the caller's file was touched", err)
	}
	checkWhole(t, s)
}

// TestLargeArchiveFile goes through the flush by portions, with the descriptor
// of who wrote the file.
func TestLargeArchiveFile(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	const size = 70 << 20
	f, err := os.Create(filepath.Join(s.IncomingDir(), "upload"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, size / 2, size - 8} { // mostly a hole
		if _, err := f.WriteAt([]byte("12345678"), at); err != nil {
			t.Fatal(err)
		}
	}
	it := item("h1", start, 1)
	it.Archive, it.ArchiveFile, it.ArchiveFD, it.Frames = nil, "upload", f, oneFrame(size)
	r := mustCommit(t, s, it, code.Stored)
	if r.ArchiveSize <= size {
		t.Errorf("archive size %d: no seek table", r.ArchiveSize)
	}
	checkWhole(t, s)
}

func TestSameEpisodeAtOnce(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	for round := range 20 {
		it := item("h1", start.AddDate(0, 0, round), 3000)
		const callers = 8
		var stored, already int
		var receipts []wire.Receipt
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				mine := it
				mine.Archive = bytes.Clone(it.Archive)
				other := i%4 == 3
				if other {
					mine.Facts.Digest[3] ^= 0xff
				}
				r, c, err := s.Commit(context.Background(), mine)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					if got, _ := code.Of(err); got != code.Conflict {
						t.Errorf("Commit: %v", err)
					}
				case c == code.Stored:
					stored++
					receipts = append(receipts, r)
				default:
					already++
					receipts = append(receipts, r)
				}
			})
		}
		wg.Wait()
		if stored != 1 || already == 0 {
			t.Fatalf("%d times stored, %d times already stored", stored, already)
		}
		for _, r := range receipts {
			if r != receipts[0] {
				t.Fatalf("two receipts: %+v and %+v", r, receipts[0])
			}
		}
	}
	if n := checkWhole(t, s); n != 20 {
		t.Errorf("%d stored, want 20", n)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for i := range 30 {
				it := item(fmt.Sprintf("h%d", c%5), start.AddDate(0, i%3, i), 100+i)
				if _, c, err := s.Commit(context.Background(), it); err != nil || c != code.Stored {
					t.Errorf("Commit: %v %v", c, err)
				}
			}
		})
	}
	wg.Wait()
	if n := checkWhole(t, s); n != 480 {
		t.Errorf("%d stored, want 480", n)
	}
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	openStore(t, dir, systemCalls())
	if s, err := Open(dir, Options{}); !errors.Is(err, durable.ErrLocked) {
		t.Fatalf("Open of an open store: %v %v", s, err)
	}
}

func TestClosed(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Commit(context.Background(), item("h", start, 10)); err == nil {
		t.Error("a closed store takes an episode")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestReserve(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	free, err := s.Free()
	if err != nil {
		t.Fatal(err)
	}
	big := int64(free / 2)
	a, err := s.Reserve(big)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Reserve(int64(free/4) * 3)
	wantCode(t, err, code.ReceiverFull)
	a.Use(big - 10)
	if got := s.Reserved(); got != 10 {
		t.Errorf("%d reserved, want 10", got)
	}
	a.Use(1000)
	a.Release()
	a.Release()
	if got := s.Reserved(); got != 0 {
		t.Errorf("%d reserved after all, want 0", got)
	}
	s.opt.MinFree = int64(free) * 2
	_, err = s.Reserve(0)
	wantCode(t, err, code.ReceiverFull)
}

func TestKernelVersion(t *testing.T) {
	if !kernelAtLeast(3, 0) || kernelAtLeast(1000, 0) {
		t.Error("the kernel's version is misread")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(t.TempDir(), &st); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, callers := range []int{1, 8, 16, 100} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s, err := Open(b.TempDir(), Options{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			items := make(chan Item, 256)
			go func() {
				defer close(items)
				model := item("h1", start, 20_000)
				for range b.N {
					it := model
					it.Facts.ID = episode.NewID()
					items <- it
				}
			}()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for it := range items {
						if _, _, err := s.Commit(context.Background(), it); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "episodes/s")
			if err := s.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkReindex reads the sidecars of 2,000 episodes into an empty catalogue.
func BenchmarkReindex(b *testing.B) {
	ctx := context.Background()
	s := openStore(b, b.TempDir(), systemCalls())
	const n = 2000
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range n / 64 {
				mustCommit(b, s, item("h1", start, 200), code.Stored)
			}
		})
	}
	wg.Wait()
	var seen int64
	for b.Loop() {
		c, err := s.replaceCatalogue()
		if err != nil {
			b.Fatal(err)
		}
		old := s.cat.Swap(c)
		if err := old.Close(); err != nil {
			b.Fatal(err)
		}
		rep, err := s.Reindex(ctx, nil)
		if err != nil {
			b.Fatal(err)
		}
		seen += rep.Added
	}
	b.ReportMetric(float64(seen)/b.Elapsed().Seconds(), "episodes/s")
}
