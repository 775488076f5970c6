package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/wire"
)

func open(t testing.TB, dir string, opts ...Option) *Queue {
	t.Helper()
	q, err := Open(dir, append([]Option{WithLog(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func locked(t testing.TB, dir string, opts ...Option) *Queue {
	t.Helper()
	q := open(t, dir, opts...)
	if err := q.Lock(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// seal puts something like an episode into sealed/ as sealing does, by rename.
// Of the content only the tag manifest matters to the queue.
func seal(t testing.TB, root string, id episode.ID) bag.Digest {
	t.Helper()
	d, err := sealAt(root, id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func sealAt(root string, id episode.ID) (bag.Digest, error) {
	dir := filepath.Join(root, "making-"+id.String())
	if err := os.MkdirAll(filepath.Join(dir, "data", "output"), 0o755); err != nil {
		return bag.Digest{}, err
	}
	sum := sha256.Sum256([]byte(id.String()))
	tag := []byte(hex.EncodeToString(sum[:]) + "  bagit.txt\n")
	for name, text := range map[string]string{bag.TagManifest: string(tag), "bagit.txt": bag.DeclarationText, "data/stdout.log": id.String(), "data/output/a": "a"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return bag.Digest{}, err
		}
	}
	return bag.DigestOf(tag), os.Rename(dir, filepath.Join(root, sealedDir, id.String()))
}

// whole checks that dir has what seal made.
func whole(dir string, id episode.ID) error {
	sum := sha256.Sum256([]byte(id.String()))
	d, err := digestOf(dir)
	if err != nil {
		return err
	}
	if want := bag.DigestOf([]byte(hex.EncodeToString(sum[:]) + "  bagit.txt\n")); d != want {
		return fmt.Errorf("digest %s, want %s", d, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "data/stdout.log")); err != nil || string(b) != id.String() {
		return fmt.Errorf("payload %q, %v", b, err)
	}
	_, err = os.Stat(filepath.Join(dir, "data/output/a"))
	return err
}

func receipt(id episode.ID, d bag.Digest) wire.Receipt {
	return wire.Receipt{Episode: id, Host: "lab-1", BagDigest: d, ArchiveSize: 1234,
		StoredAt: time.Date(2026, 7, 1, 12, 0, 0, 123456000, time.UTC), ReceiverVersion: "1.0", WindowID: "w1"}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	n, err := readNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func receipts(t testing.TB, q *Queue) (all []wire.Receipt, bad int) {
	t.Helper()
	for r, err := range q.Receipts(time.Time{}) {
		if err != nil {
			bad++
			continue
		}
		all = append(all, r)
	}
	return all, bad
}

func scanned(t testing.TB, q *Queue) []episode.ID {
	t.Helper()
	ids, _, err := q.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

func TestOpenMakesTheTreeAndLockIsForOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	q := locked(t, dir)
	for _, d := range []string{"sealed", "shipped", "quarantine", "receipts", "uploads"} {
		if st, err := os.Stat(filepath.Join(dir, d)); err != nil || !st.IsDir() {
			t.Errorf("%s: %v", d, err)
		}
	}
	other := open(t, dir)
	if err := other.Lock(); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("second Lock: %v", err)
	}
	if err := q.Lock(); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("Lock again: %v", err)
	}
	if err := other.Acknowledge(t.Context(), receipt(episode.NewID(), bag.Digest{})); !errors.Is(err, ErrNotLocked) {
		t.Errorf("Acknowledge without the lock: %v", err)
	}
	if err := other.Begin(0, episode.NewID()); !errors.Is(err, ErrNotLocked) {
		t.Errorf("Begin without the lock: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	if err := other.Lock(); err != nil {
		t.Errorf("Lock after Close: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if err := other.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestOpenForReadingOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	dir := t.TempDir()
	q := open(t, dir)
	id := episode.NewID()
	seal(t, dir, id)
	if err := q.Quarantine(id.String(), Reason{Code: code.Conflict}); err != nil {
		t.Fatal(err)
	}
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		os.Chmod(p, 0o755)
	}
	out, err := child(t, dir, "list-as-nobody").CombinedOutput()
	if err != nil || !strings.Contains(string(out), id.String()+" conflict") || !strings.Contains(string(out), "requeue: denied") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestScan(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	var want []episode.ID
	for range 50 {
		id := episode.NewID()
		want = append(want, id)
	}
	slices.SortFunc(want, episode.ID.Compare) // two of a quarter of a microsecond may come in either order
	for _, i := range []int{3, 0, 49, 20} {
		seal(t, dir, want[i])
	}
	want = []episode.ID{want[0], want[3], want[20], want[49]}
	if got := scanned(t, q); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}

	s := func(n string) string { return filepath.Join(dir, sealedDir, n) }
	file := episode.NewID().String()
	upper := strings.ToUpper(episode.NewID().String())
	os.WriteFile(s(file), nil, 0o644)
	os.Mkdir(s(upper), 0o755)
	os.Symlink("/", s("link"))
	os.Symlink(want[0].String(), s(episode.NewID().String()))
	os.Mkdir(s("a\xffb\n"), 0o755)
	os.Mkdir(s(".hidden"), 0o755)
	unix.Mkfifo(s("fifo"), 0o600)
	ids, strays, err := q.Scan(t.Context())
	if err != nil || !slices.Equal(ids, want) {
		t.Fatalf("%v %v", ids, err)
	}
	var got []string
	for _, x := range strays {
		got = append(got, x.Name)
		if x.Why == "" {
			t.Errorf("%q: no word why", x.Name)
		}
	}
	if len(got) != 7 || !slices.IsSorted(got) {
		t.Errorf("strays %q", got)
	}
	for _, x := range strays {
		if err := q.Quarantine(x.Name, Reason{Code: code.Damaged, Detail: x.Why}); err != nil {
			t.Error(err)
		}
	}
	if _, strays, _ := q.Scan(t.Context()); len(strays) != 0 {
		t.Errorf("still there: %v", strays)
	}
	list, err := q.List()
	if err != nil || len(list) != 7 {
		t.Fatalf("%d entries, %v", len(list), err)
	}
	for _, e := range list {
		if e.Err != nil || e.Reason.Code != code.Damaged {
			t.Errorf("%s: %+v", e.Name, e)
		}
		if _, err := os.Lstat(e.Bag()); err != nil {
			t.Error(err)
		}
		if _, err := q.Requeue(t.Context(), Selection{Names: []string{e.Name}}); !errors.Is(err, ErrNotEpisode) {
			t.Errorf("requeue %s: %v", e.Name, err)
		}
	}
	// By the name that it had in sealed/, too.
	if e, err := q.Show("a\xffb\n"); err != nil || e.Name != "a%FFb%0A" {
		t.Errorf("%+v, %v", e, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	seal(t, dir, episode.NewID())
	if _, _, err := q.Scan(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled scan: %v", err)
	}
	os.RemoveAll(filepath.Join(dir, sealedDir))
	if _, _, err := q.Scan(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no sealed/: %v", err)
	}
}

func TestScanCostsNothingWhileNothingChanges(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	seal(t, dir, episode.NewID())
	scanned(t, q)
	scanned(t, q)
	if q.scan.listed != 2 {
		t.Errorf("listed %d times: a change of the last 2 s must not be taken for the last one", q.scan.listed)
	}
	q.now = func() time.Time { return time.Now().Add(time.Minute) }
	for range 5 {
		scanned(t, q)
	}
	if q.scan.listed != 3 {
		t.Errorf("listed %d times, want 3", q.scan.listed)
	}
	id := episode.NewID()
	seal(t, dir, id)
	if got := scanned(t, q); len(got) != 2 {
		t.Errorf("%d ids after a change", len(got))
	}
	// A clock that was set back trusts nothing.
	q.now = func() time.Time { return time.Now().Add(-time.Hour) }
	seal(t, dir, episode.NewID())
	n := q.scan.listed
	for range 3 {
		if got := scanned(t, q); len(got) != 3 {
			t.Errorf("%d ids", len(got))
		}
	}
	if q.scan.listed != n+3 {
		t.Errorf("listed %d times, want %d", q.scan.listed, n+3)
	}
}

// inMemory makes a directory in memory, where there is one, for tests that make
// many files and no claim about disks.
func inMemory() (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "queue"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "queue")
}

func fill(t testing.TB, dir string, n int) {
	t.Helper()
	fd, err := unix.Open(filepath.Join(dir, sealedDir), unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range n {
		if err := unix.Mkdirat(fd, episode.NewID().String(), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestScanOfAHundredThousand(t *testing.T) {
	// In memory: on a disk the making of as many directories takes half a minute.
	// BenchmarkScan is for disks.
	dir, err := inMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	q := open(t, dir)
	const n = 100_000
	fill(t, dir, n)
	// Processor time, since the machine may be busy with other tests.
	best, limit := time.Hour, 150*time.Millisecond
	if raceDetector {
		limit *= 10
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const runs = 5
	for range runs {
		began := processorTime()
		if got := scanned(t, q); len(got) != n || !slices.IsSortedFunc(got, episode.ID.Compare) {
			t.Fatalf("%d ids", len(got))
		}
		best = min(best, processorTime()-began)
	}
	runtime.ReadMemStats(&after)
	bytes := (after.TotalAlloc - before.TotalAlloc) / runs
	t.Logf("best of %d: %s, %d bytes allocated", runs, best, bytes)
	if best > limit || bytes > 4<<20 {
		t.Errorf("a scan of %d took %s and %d bytes; at most %s and 4 MiB", n, best, bytes, limit)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	c, err := q.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	woken := func(what string) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(5 * time.Second):
			t.Fatalf("not woken by %s", what)
		}
	}
	quiet := func(what string) {
		t.Helper()
		time.Sleep(20 * time.Millisecond)
		select {
		case <-c:
			t.Fatalf("woken by %s", what)
		default:
		}
	}
	id := episode.NewID()
	began := time.Now()
	seal(t, dir, id)
	woken("a new episode")
	if d := time.Since(began); d > time.Second {
		t.Errorf("woken after %s", d)
	}
	if err := q.Quarantine(id.String(), Reason{Code: code.Conflict}); err != nil {
		t.Fatal(err)
	}
	quiet("a departure")
	if _, err := q.Requeue(ctx, Selection{All: true}); err != nil {
		t.Fatal(err)
	}
	woken("a requeue")

	var values int
	burst := make([]string, 500)
	for i := range burst {
		burst[i] = episode.NewID().String()
		if err := os.Mkdir(filepath.Join(dir, burst[i]), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range burst {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, sealedDir, name)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-c:
			values++
		default:
		}
	}
	woken("the last of 500")
	if values > 100 {
		t.Errorf("500 arrivals made %d values", values+1)
	}

	// sealed/ is replaced in two steps, with a gap.
	if err := os.Rename(filepath.Join(dir, sealedDir), filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(filepath.Join(dir, sealedDir), 0o755)
	woken("the new sealed/")
	for time.Sleep(30 * time.Millisecond); len(c) > 0; {
		<-c
	}
	seal(t, dir, episode.NewID())
	woken("an episode in the new sealed/")

	cancel()
	eventually(t, "the channel is closed", func() bool {
		select {
		case _, ok := <-c:
			return !ok
		default:
			return false
		}
	})
}

func TestWatchPollsWhereItCannotWatch(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	os.Remove(filepath.Join(dir, sealedDir))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := q.Watch(ctx)
	if err == nil || !strings.Contains(err.Error(), "polling") {
		t.Fatalf("error %v", err)
	}
	os.Mkdir(filepath.Join(dir, sealedDir), 0o755)
	seal(t, dir, episode.NewID())
	select {
	case <-c:
	case <-time.After(5 * time.Second):
		t.Fatal("not woken")
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00sealed\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) { parseEvents(b, 1, 2) })
}

func TestUploads(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	id, gone := episode.NewID(), episode.NewID()
	d := seal(t, dir, id)
	u := Upload{URL: "https://r.example/v1/uploads/x", Digest: d, Created: time.Now().UTC().Truncate(time.Second), Sent: 5, Size: 10}
	for _, i := range []episode.ID{id, gone} {
		if err := q.SaveUpload(i, u); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := q.LoadUpload(id); !ok || got != u {
		t.Errorf("%+v %v", got, ok)
	}
	os.WriteFile(filepath.Join(dir, uploadsDir, ".tmp-x"), nil, 0o644)
	q.Close()
	q = locked(t, dir)
	if _, ok := q.LoadUpload(gone); ok {
		t.Error("the token of an episode that does not wait was kept")
	}
	if got, ok := q.LoadUpload(id); !ok || got != u {
		t.Errorf("after a restart: %+v %v", got, ok)
	}
	if got := names(t, filepath.Join(dir, uploadsDir)); !slices.Equal(got, []string{".in-flight", id.String() + ".json"}) {
		t.Errorf("%q", got)
	}
	for _, garbage := range []string{"", "{}", "\x00\x00", `{"url":"https://x","digest":"12"}`, strings.Repeat(" ", 70<<10)} {
		os.WriteFile(filepath.Join(dir, uploadsDir, id.String()+".json"), []byte(garbage), 0o644)
		if _, ok := q.LoadUpload(id); ok {
			t.Errorf("%.20q counts as a token", garbage)
		}
	}
	if err := q.Acknowledge(t.Context(), receipt(id, d)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(q.uploadFile(id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the token outlives the acknowledgement: %v", err)
	}
	if err := q.DropUpload(id); err != nil {
		t.Errorf("dropping what is not there: %v", err)
	}
}

// die ends a queue as a killed process does: nothing is said to it.
func die(t *testing.T, q *Queue) {
	t.Helper()
	q.state.Lock()
	defer q.state.Unlock()
	q.locked.Store(false)
	q.commit.close(q)
	close(q.remover.quit)
	q.remover.done.Wait()
	q.slots.f.Close()
	q.unlock()
	q.unlock = nil
}

func TestDeaths(t *testing.T) {
	dir := t.TempDir()
	a, b, c := episode.NewID(), episode.NewID(), episode.NewID()
	q := locked(t, dir)
	for _, id := range []episode.ID{a, b, c} {
		seal(t, dir, id)
	}
	want := func(id episode.ID, n int) {
		t.Helper()
		if got := q.Deaths(id); got != n {
			t.Errorf("%d deaths, want %d", got, n)
		}
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range DeathsToIsolate {
		want(a, n)
		ok(q.Begin(0, a))
		ok(q.Begin(7, b))
		ok(q.End(7))
		ok(q.Begin(1, c))
		ok(q.Advanced(c))
		ok(q.Advanced(c))
		die(t, q)
		q = locked(t, dir)
	}
	want(a, DeathsToIsolate)
	want(b, 0)
	want(c, 0)
	// A graceful stop in the middle of an attempt is no death.
	ok(q.Begin(0, a))
	ok(q.Close())
	q = locked(t, dir)
	want(a, DeathsToIsolate)
	// Nor does one count twice.
	die(t, q)
	q = locked(t, dir)
	want(a, DeathsToIsolate)
	// Bytes that got through wipe the slate, for good.
	ok(q.Begin(0, a))
	ok(q.Advanced(a))
	want(a, 0)
	die(t, q)
	q = locked(t, dir)
	want(a, 0)
	// What no longer waits is forgotten.
	ok(q.Begin(2, a))
	die(t, q)
	q = locked(t, dir)
	want(a, 1)
	ok(q.Quarantine(a.String(), Reason{Code: code.Conflict}))
	ok(q.Close())
	q = locked(t, dir)
	want(a, 0)
	if err := q.Begin(MaxSlots, a); err == nil {
		t.Error("a slot too many")
	}
	if err := q.Begin(-1, a); err == nil {
		t.Error("slot -1")
	}
	// Garbage in both files stops nothing.
	ok(q.Close())
	os.WriteFile(filepath.Join(dir, slotsFile), []byte(strings.Repeat("\x01garbage", 999)), 0o644)
	os.WriteFile(filepath.Join(dir, deathsFile), []byte("{]"), 0o644)
	q = locked(t, dir)
	want(b, 0)
}

// The shipper is tested for weeks of simulated time with a real queue in the bubble.
func TestInABubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		q := open(t, dir)
		if err := q.Lock(); err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		o := CleanupOptions{KeepDays: 30, Interval: time.Hour, ClockAgreed: true}
		began, runs, removed := time.Now(), 0, 0
		for time.Since(began) < 40*24*time.Hour {
			id, bad := episode.NewID(), episode.NewID()
			d := seal(t, dir, id)
			seal(t, dir, bad)
			if got := scanned(t, q); len(got) != 2 {
				t.Fatalf("%v wait", got)
			}
			if err := errors.Join(q.Acknowledge(t.Context(), receipt(id, d)), q.Quarantine(bad.String(), Reason{Code: code.Malformed})); err != nil {
				t.Fatal(err)
			}
			time.Sleep(8 * time.Hour)
			r, err := q.Cleanup(t.Context(), time.Now(), o)
			if err != nil {
				t.Fatal(err)
			}
			removed += r.Removed
			runs++
		}
		synctest.Wait()
		if c, err := q.Counts(); err != nil || c.Total+removed != runs || c.Total > 91 {
			t.Errorf("%d of %d left, %d removed, %v", c.Total, runs, removed, err)
		}
	})
}

func TestRemoveTree(t *testing.T) {
	dir := t.TempDir()
	top := filepath.Join(dir, "top")
	for i := range 30 {
		p := filepath.Join(top, fmt.Sprint(i%3), fmt.Sprint(i))
		os.MkdirAll(p, 0o755)
		for j := range 60 {
			os.WriteFile(filepath.Join(p, fmt.Sprint(j)), nil, 0o644)
		}
	}
	os.WriteFile(filepath.Join(dir, "outside"), []byte("x"), 0o644)
	os.Symlink("../outside", filepath.Join(top, "link"))
	os.Symlink("..", filepath.Join(top, "0", "up"))
	var n counter
	if err := removeTree(top, &n); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"outside"}) {
		t.Errorf("%q", got)
	}
	if n.n < 1800 {
		t.Errorf("%d steps told", n.n)
	}
	if err := removeTree(top, nobody{}); err != nil {
		t.Errorf("what is gone: %v", err)
	}
}

// A sweep may meet the process whose work it takes for a dead one's.
func TestRemoveTreeByTwo(t *testing.T) {
	dir, err := inMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for range 20 {
		top := filepath.Join(dir, "top")
		for i := range 30 {
			os.MkdirAll(filepath.Join(top, fmt.Sprint(i), "a", "b"), 0o755)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := removeTree(top, nobody{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Within(time.Duration) {}
func (c *counter) Idle()                {}
func (c *counter) Progress()            { c.mu.Lock(); c.n++; c.mu.Unlock() }
