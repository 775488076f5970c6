package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/wire"
)

func ack(t testing.TB, q *Queue, id episode.ID, d bag.Digest) {
	t.Helper()
	if err := q.Acknowledge(t.Context(), receipt(id, d)); err != nil {
		t.Fatal(err)
	}
}

func TestAcknowledge(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	id := episode.NewID()
	d := seal(t, dir, id)
	other := d
	other[0]++
	if err := q.Acknowledge(t.Context(), receipt(id, other)); !errors.Is(err, ErrOtherDigest) {
		t.Errorf("another digest: %v", err)
	}
	if err := whole(q.Dir(id), id); err != nil {
		t.Fatal(err)
	}
	if got, _ := receipts(t, q); len(got) != 0 {
		t.Errorf("recorded: %+v", got)
	}
	ack(t, q, id, d)
	if len(scanned(t, q)) != 0 {
		t.Error("it still waits")
	}
	got, _ := receipts(t, q)
	if diff := cmp.Diff([]wire.Receipt{receipt(id, d)}, got); diff != "" {
		t.Error(diff)
	}
	month := time.Now().UTC().Format(monthLayout)
	b, _ := os.ReadFile(filepath.Join(dir, receiptsDir, month+".jsonl"))
	want, _ := json.Marshal(receipt(id, d))
	if string(b) != string(want)+"\n" {
		t.Errorf("the line is %s", b)
	}
	eventually(t, "it is unlinked", func() bool { return len(names(t, filepath.Join(dir, removingDir))) == 0 })

	// What is not here is recorded only.
	gone := episode.NewID()
	ack(t, q, gone, d)
	if r, ok, err := q.LedgerHas(gone); !ok || err != nil || r.Episode != gone {
		t.Errorf("%+v %v %v", r, ok, err)
	}
	if _, ok, err := q.LedgerHas(episode.NewID()); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	// Without a tag manifest there is nothing to compare: it stays.
	hollow := episode.NewID()
	os.Mkdir(q.Dir(hollow), 0o755)
	if err := q.Acknowledge(t.Context(), receipt(hollow, d)); !errors.Is(err, ErrOtherDigest) {
		t.Errorf("a hollow episode: %v", err)
	}
	if ids := scanned(t, q); !slices.Equal(ids, []episode.ID{hollow}) {
		t.Errorf("%v", ids)
	}
	// A context that is over bounds the waiting, not the work.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	late := episode.NewID()
	d = seal(t, dir, late)
	if err := q.Acknowledge(ctx, receipt(late, d)); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	q.Close()
	if r, ok, err := q.LedgerHas(late); !ok || err != nil || r.Episode != late {
		t.Errorf("%+v %v %v", r, ok, err)
	}
	if _, err := os.Stat(q.Dir(late)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestAcknowledgeGroupsItsFsyncs(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	var flushes atomic.Int64
	q.syncFile = func(f *os.File) error {
		flushes.Add(1)
		time.Sleep(2 * time.Millisecond) // a slow disk
		return f.Sync()
	}
	ids := sealMany(t, dir, 64)
	if err := acknowledgeAll(t.Context(), q, 16); err != nil {
		t.Fatal(err)
	}
	if n := flushes.Load(); n > 20 {
		t.Errorf("%d fsyncs for 64 receipts of 16 callers", n)
	}
	if got, bad := receipts(t, q); len(got) != len(ids) || bad != 0 {
		t.Errorf("%d receipts, %d bad", len(got), bad)
	}
}

func TestTornLedger(t *testing.T) {
	for name, tail := range map[string]string{
		"half a line":  `{"episode":"019f`,
		"zeros":        strings.Repeat("\x00", 5000),
		"no line feed": `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			q := locked(t, dir)
			ids := sealMany(t, dir, 3)
			for _, id := range ids[:2] {
				d, _ := digestOf(q.Dir(id))
				ack(t, q, id, d)
			}
			q.Close()
			path := filepath.Join(dir, receiptsDir, time.Now().UTC().Format(monthLayout)+".jsonl")
			f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			f.WriteString(tail)
			f.Close()
			q = locked(t, dir)
			if got, bad := receipts(t, q); len(got) != 2 || bad != 0 {
				t.Errorf("before it is mended: %d, %d bad", len(got), bad)
			}
			d, _ := digestOf(q.Dir(ids[2]))
			ack(t, q, ids[2], d)
			got, bad := receipts(t, q)
			if len(got) != 3 || bad != 0 {
				t.Errorf("%d receipts, %d bad", len(got), bad)
			}
		})
	}
}

func TestReceiptsGoOnPastWhatIsNone(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	a, b := episode.NewID(), episode.NewID()
	line := func(id episode.ID) string {
		l, _ := json.Marshal(receipt(id, bag.Digest{}))
		return string(l) + "\n"
	}
	write := func(name, text string) {
		os.WriteFile(filepath.Join(dir, receiptsDir, name), []byte(text), 0o644)
	}
	write("2026-06.jsonl", line(a)+"rubbish\n\n"+strings.Repeat("x", 3*maxLine)+"\n{}\n"+line(b)+`{"cut`)
	write("2026-06.2.jsonl", line(b))
	write("2026-05.jsonl", line(b))
	write("2026-06.10.jsonl", line(a))
	write("2026-06.01.jsonl", "not ours\n")
	write("notes.jsonl", "not ours\n")
	var got []string
	for r, err := range q.Receipts(time.Time{}) {
		if err != nil {
			if !strings.Contains(err.Error(), "2026-06.jsonl: line ") {
				t.Error(err)
			}
			got = append(got, "bad")
		} else {
			got = append(got, map[episode.ID]string{a: "a", b: "b"}[r.Episode])
		}
	}
	if want := strings.Fields("b a bad bad bad bad b b a"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	n := 0
	for range q.Receipts(time.Time{}) {
		if n++; n == 3 {
			break
		}
	}
}

// A process that is killed between the receipt and the rename leaves a source
// that has a receipt: the next Lock frees it, without any scan in between.
func TestResumeFreesWhatWasAcknowledged(t *testing.T) {
	for _, mark := range []string{"with the mark", "without the mark", "with a mark that is no mark"} {
		t.Run(mark, func(t *testing.T) {
			dir := t.TempDir()
			q := locked(t, dir)
			done := sealMany(t, dir, 3)
			if err := acknowledgeAll(t.Context(), q, 1); err != nil {
				t.Fatal(err)
			}
			q.Close()
			freed, other, waits := episode.NewID(), episode.NewID(), episode.NewID()
			d := seal(t, dir, freed)
			seal(t, dir, other)
			seal(t, dir, waits)
			path := filepath.Join(dir, receiptsDir, time.Now().UTC().Format(monthLayout)+".jsonl")
			f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			for _, r := range []wire.Receipt{receipt(freed, d), receipt(other, bag.Digest{1}), receipt(freed, d)} {
				l, _ := json.Marshal(r)
				fmt.Fprintf(f, "%s\n", l)
			}
			f.Close()
			switch mark {
			case "without the mark":
				os.Remove(filepath.Join(dir, freedFile))
			case "with a mark that is no mark":
				os.WriteFile(filepath.Join(dir, freedFile), make([]byte, 64), 0o644)
			default:
				if p, ok := q.loadFreed(); !ok || p.offset == 0 {
					t.Errorf("%+v %v", p, ok)
				}
				// What lies before the mark is not looked at.
				seal(t, dir, done[0])
			}
			q = locked(t, dir)
			want := []episode.ID{other, waits}
			if mark == "with the mark" {
				want = []episode.ID{done[0], other, waits}
			}
			slices.SortFunc(want, episode.ID.Compare)
			if got := scanned(t, q); !slices.Equal(got, want) {
				t.Errorf("%v wait, want %v", got, want)
			}
			q.Close()
			// Nothing is left to look for.
			p, ok := q.loadFreed()
			if st, err := os.Stat(path); err != nil || !ok || p.offset != st.Size() {
				t.Errorf("the mark is at %+v, the ledger has %v", p, st.Size())
			}
		})
	}
}

// marked waits until the remover has written its mark, which it does after the
// acknowledgement.
func marked(t *testing.T, q *Queue) {
	t.Helper()
	eventually(t, "the mark is there", func() bool {
		_, ok := q.loadFreed()
		return ok
	})
}

func TestResumeLooksAtLaterFiles(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	at := time.Date(2026, 7, 31, 23, 59, 59, 0, time.UTC)
	q.now = func() time.Time { return at }
	first := episode.NewID()
	ack(t, q, first, seal(t, dir, first))
	marked(t, q)
	at = at.Add(time.Second)
	second := episode.NewID()
	ack(t, q, second, bag.Digest{})
	die(t, q)
	d := seal(t, dir, second)
	l, _ := json.Marshal(receipt(second, d))
	os.WriteFile(filepath.Join(dir, receiptsDir, "2026-08.2.jsonl"), append(l, '\n'), 0o644)
	if got := names(t, filepath.Join(dir, receiptsDir)); !slices.Equal(got, []string{".freed", "2026-07.jsonl", "2026-08.2.jsonl", "2026-08.jsonl"}) {
		t.Errorf("%q", got)
	}
	// The mark is still in July: both files of August count.
	st, err := os.Stat(filepath.Join(dir, receiptsDir, "2026-07.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := q.saveFreed(position{"2026-07.jsonl", st.Size()}); err != nil {
		t.Fatal(err)
	}
	q = locked(t, dir)
	if got := scanned(t, q); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestFsyncFailureOfTheLedger(t *testing.T) {
	dir := t.TempDir()
	q := locked(t, dir)
	var sick atomic.Int64 // how many more fsyncs fail
	flushed := map[string]int{}
	failed := map[string]bool{}
	var mu sync.Mutex
	q.syncFile = func(f *os.File) error {
		mu.Lock()
		defer mu.Unlock()
		name := filepath.Base(f.Name())
		if failed[name] {
			t.Errorf("%s was fsynced again after a failure", name)
		}
		if sick.Add(-1) >= 0 {
			failed[name] = true
			return unix.EIO
		}
		flushed[name]++
		return f.Sync()
	}
	ids := sealMany(t, dir, 4)
	next := func() (episode.ID, bag.Digest) {
		id := ids[0]
		d, err := digestOf(q.Dir(id))
		if err != nil {
			t.Fatal(err)
		}
		return id, d
	}
	id, d := next()
	ack(t, q, id, d)
	ids = ids[1:]
	// One failure: the same receipt goes into another file.
	sick.Store(1)
	id, d = next()
	ack(t, q, id, d)
	ids = ids[1:]
	// The disk is sick for good: nothing is acknowledged, nothing freed, no file left behind for each try.
	sick.Store(1 << 40)
	id, d = next()
	for range 5 {
		if err := q.Acknowledge(t.Context(), receipt(id, d)); !errors.Is(err, unix.EIO) {
			t.Errorf("%v", err)
		}
	}
	if err := whole(q.Dir(id), id); err != nil {
		t.Error(err)
	}
	if got, bad := receipts(t, q); len(got) != 2 || bad != 0 {
		t.Errorf("%d receipts, %d bad", len(got), bad)
	}
	if got, err := q.ledgerFiles(); err != nil || len(got) != 2 { // those with something in them
		t.Errorf("%v %v", got, err)
	}
	// And well again.
	sick.Store(0)
	ack(t, q, id, d)
	q.Close()
	q = locked(t, dir)
	if got, bad := receipts(t, q); len(got) != 3 || bad != 0 {
		t.Errorf("%d receipts, %d bad", len(got), bad)
	}
	if got := scanned(t, q); !slices.Equal(got, ids[1:]) {
		t.Errorf("%v wait", got)
	}
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	q := locked(t, dir)
	ids := sealMany(t, dir, 2)
	d, _ := digestOf(q.Dir(ids[0]))
	ack(t, q, ids[0], d)
	eventually(t, "it is unlinked", func() bool { return len(names(t, filepath.Join(dir, removingDir))) == 0 })
	// The ledger's page has room for another line or two; a long one needs a new page.
	f, _ := os.Create(filepath.Join(dir, "ballast"))
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	f.Close()
	d, _ = digestOf(q.Dir(ids[1]))
	r := receipt(ids[1], d)
	r.ReceiverVersion = strings.Repeat("v", 20000)
	err := q.Acknowledge(t.Context(), r)
	if c, ok := code.Of(err); !ok || c != code.DiskFull {
		t.Errorf("%v", err)
	}
	if err := q.Quarantine(ids[1].String(), Reason{Code: code.Conflict, Detail: strings.Repeat("x", 20000)}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("quarantine: %v", err)
	}
	if err := whole(q.Dir(ids[1]), ids[1]); err != nil {
		t.Error(err)
	}
	// Space comes back, and the ledger has no half line in it.
	os.Remove(filepath.Join(dir, "ballast"))
	ack(t, q, ids[1], d)
	if got, bad := receipts(t, q); len(got) != 2 || bad != 0 {
		t.Errorf("%d receipts, %d bad", len(got), bad)
	}
}

func TestSourceThatCannotBeMoved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for chattr")
	}
	dir := t.TempDir()
	q := locked(t, dir)
	ids := sealMany(t, dir, 2)
	for _, id := range ids {
		if out, err := exec.Command("chattr", "+i", q.Dir(id)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { exec.Command("chattr", "-i", q.Dir(id)).Run() })
		d, err := digestOf(q.Dir(id))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ack(t, q, id, d)
		}
	}
	// Acknowledged is acknowledged: it does not wait, and is not recorded at each try.
	if got := scanned(t, q); len(got) != 0 {
		t.Errorf("%v wait", got)
	}
	if got, _ := receipts(t, q); len(got) != 2 {
		t.Errorf("%d receipts", len(got))
	}
	o := monthly
	o.Interval = 0
	if r := clean(t, q, time.Now(), o); r.Failed != 2 || r.failed[0].Name != q.Dir(ids[0]) {
		t.Errorf("%+v", r)
	}
	// It goes once it can.
	exec.Command("chattr", "-i", q.Dir(ids[0])).Run()
	q.commit.mu.Lock()
	q.commit.tried = time.Now().Add(-2 * retryStuck)
	q.commit.mu.Unlock()
	scanned(t, q)
	if _, err := os.Stat(q.Dir(ids[0])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if got := scanned(t, q); len(got) != 0 {
		t.Errorf("%v wait", got)
	}
}

func FuzzLedger(f *testing.F) {
	l, _ := json.Marshal(receipt(episode.ID{1}, bag.Digest{2}))
	f.Add(append(l, '\n'))
	f.Add([]byte("\n\n{}\n\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		q := open(t, dir)
		path := filepath.Join(dir, receiptsDir, "2026-06.jsonl")
		os.WriteFile(path, b, 0o644)
		before, bad := receipts(t, q)
		file, err := q.openLedger("2026-06", ledgerName{})
		if err != nil {
			return
		}
		defer file.f.Close()
		if err := file.append(q, append(l, '\n')); err != nil {
			t.Fatal(err)
		}
		after, bad2 := receipts(t, q)
		if len(after) != len(before)+1 || bad2 != bad {
			t.Errorf("%d and %d bad became %d and %d bad", len(before), bad, len(after), bad2)
		}
	})
}

// BenchmarkAcknowledge is acknowledgements per second of 8 and 16 callers, of
// episodes of 13 small files that are removed in the background meanwhile. The
// processor time of the process is told as well, for a machine that is shared.
func BenchmarkAcknowledge(b *testing.B) {
	for _, callers := range []int{8, 16} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			dir := b.TempDir()
			q := locked(b, dir)
			todo := make([]wire.Receipt, b.N)
			for i := range todo {
				id := episode.NewID()
				d := seal(b, dir, id)
				for j := range 9 { // and 4 that seal makes
					os.WriteFile(filepath.Join(q.Dir(id), fmt.Sprint(j)), []byte("small"), 0o644)
				}
				todo[i] = receipt(id, d)
			}
			unix.Sync()
			var next atomic.Int64
			b.ResetTimer()
			began, cpu := time.Now(), processorTime()
			per := func(what string) {
				b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), what+"/s")
				b.ReportMetric(float64((processorTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/"+what)
			}
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						if err := q.Acknowledge(context.Background(), todo[i]); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			per("ack")
			for len(names(b, filepath.Join(dir, removingDir))) > 0 {
				time.Sleep(time.Millisecond)
			}
			per("removal")
		})
	}
}

func processorTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkScan(b *testing.B) {
	dir := b.TempDir()
	q := open(b, dir)
	fill(b, dir, 20_000)
	b.ReportAllocs()
	for b.Loop() {
		if got := scanned(b, q); len(got) != 20_000 {
			b.Fatal(len(got))
		}
	}
}

// BenchmarkQuarantine is one episode set aside and put back again.
func BenchmarkQuarantine(b *testing.B) {
	dir := b.TempDir()
	q := open(b, dir)
	id := episode.NewID()
	seal(b, dir, id)
	for b.Loop() {
		if err := q.Quarantine(id.String(), Reason{Code: code.OutOfWindow}); err != nil {
			b.Fatal(err)
		}
		if _, err := q.Requeue(b.Context(), Selection{Names: []string{id.String()}}); err != nil {
			b.Fatal(err)
		}
	}
}
