package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
)

func mustScrub(t *testing.T, s *Store, o ScrubOptions) (rep ScrubReport, found []Finding) {
	t.Helper()
	o.Found = func(f Finding) { found = append(found, f) }
	rep, err := s.Scrub(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return rep, found
}

// sidecarPath is where the sidecar of an episode is.
func (s *Store) sidecarPath(f episode.Facts) string {
	return strings.TrimSuffix(s.ArchivePath(f), ".tar.zst") + ".json"
}

// damage is a way to hurt an episode in the store.
type damage struct {
	name  string
	do    func(t *testing.T, archive, sidecar string)
	finds string // in Finding.What
	path  string // ends so
}

func flipBit(t *testing.T, path string, at int64, bit int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, at, []byte{b[at] ^ 1<<bit})
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
}

var damages = []damage{
	{"flip in the archive", func(t *testing.T, a, _ string) { flipBit(t, a, 300, 3) }, "the archive: ", ".tar.zst"},
	{"flip in the seek table", func(t *testing.T, a, _ string) {
		fi, err := os.Stat(a)
		if err != nil {
			t.Fatal(err)
		}
		flipBit(t, a, fi.Size()-10, 0)
	}, "seek table", ".tar.zst"},
	{"flip in the sidecar", func(t *testing.T, _, j string) { flipBit(t, j, 30, 1) }, ".json", ".json"},
	{"cut archive", func(t *testing.T, a, _ string) {
		if err := os.Truncate(a, 100); err != nil {
			t.Fatal(err)
		}
	}, "the archive: it has 100 bytes, its receipt says", ".tar.zst"},
	{"cut sidecar", func(t *testing.T, _, j string) {
		if err := os.Truncate(j, 100); err != nil {
			t.Fatal(err)
		}
	}, ".json", ".json"},
	{"no archive", func(t *testing.T, a, _ string) { remove(t, a) }, "the archive is missing", ".tar.zst"},
	{"no sidecar", func(t *testing.T, _, j string) { remove(t, j) }, "the sidecar is missing", ".json"},
	{"neither", func(t *testing.T, a, j string) { remove(t, a, j) }, "archive and sidecar are missing", ".tar.zst"},
	{"no directory", func(t *testing.T, a, j string) { remove(t, a, j, filepath.Dir(a)) }, "with the directory", ".tar.zst"},
	{"a link", func(t *testing.T, a, _ string) {
		if err := os.Rename(a, a+"x"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(a+"x", a); err != nil {
			t.Fatal(err)
		}
	}, "a symbolic link", ".tar.zst"},
}

// Whatever happens to a stored episode, a scrub names it and marks it, and the
// same episode sent again takes the damaged one's place; its receipt stays, but for
// what is true of the new copy only. All of it survives a restart at each step.
func TestDamageIsFoundAndMended(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			ctx := context.Background()
			dir := t.TempDir()
			s := openStore(t, dir, systemCalls())
			reopen := func() {
				t.Helper()
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = openStore(t, dir, systemCalls())
			}
			it, _ := sealed(t)
			r := mustCommit(t, s, it, code.Stored)
			rep, found := mustScrub(t, s, ScrubOptions{})
			if rep.Sound != 1 || rep.Episodes != 1 || rep.Faults() != 0 || len(found) != 0 || !rep.Walked || rep.Bytes != r.ArchiveSize {
				t.Fatalf("of a sound one: %+v %+v", rep, found)
			}
			d.do(t, s.ArchivePath(it.Facts), s.sidecarPath(it.Facts))
			rep, found = mustScrub(t, s, ScrubOptions{})
			for _, f := range found {
				if f.Kind == FoundStray && d.name == "a link" {
					rep.Strays--
					found = found[:1]
				}
			}
			if rep.Damaged != 1 || rep.Sound != 0 || rep.Faults() != 1 || len(found) != 1 {
				t.Fatalf("of a damaged one: %+v %+v", rep, found)
			}
			f := found[0]
			if f.Kind != FoundDamaged || f.Host != "h1" || f.Episode != it.Facts.ID || f.Fix == "" || f.Since != "" ||
				!strings.Contains(f.What, d.finds) || !strings.HasSuffix(f.Path, d.path) || strings.Contains(f.What, "\n") {
				t.Errorf("found %+v", f)
			}
			reopen()
			if w, err := s.Damaged(ctx, "h1"); err != nil || w.Count != 1 || w.Episodes[0] != it.Facts.ID {
				t.Errorf("the host is told %+v: %v", w, err)
			}
			if lacks, err := s.Lacks(ctx, it.Facts); err != nil || !lacks {
				t.Errorf("Lacks = %v, %v", lacks, err)
			}
			if _, found = mustScrub(t, s, ScrubOptions{}); len(found) == 0 || found[0].Since == "" {
				t.Errorf("the second time: %+v", found)
			}
			// Another content is refused as before.
			other := it
			other.Facts.Digest[0]++
			_, _, err := s.Commit(ctx, other)
			wantCode(t, err, code.Conflict)

			again := mustCommit(t, s, it, code.Stored)
			if again.WindowID != r.WindowID || again.BagDigest != r.BagDigest || again.StoredAt.Before(r.StoredAt) {
				t.Errorf("receipt %+v, the first %+v", again, r)
			}
			check := func() {
				t.Helper()
				if got := mustCommit(t, s, it, code.AlreadyStored); got != again {
					t.Errorf("receipt %+v, want %+v", got, again)
				}
				if rep, found := mustScrub(t, s, ScrubOptions{}); rep.Sound != 1 || rep.Mended != 0 || rep.Damaged+rep.Unlisted+rep.Unread != 0 {
					t.Errorf("after mending: %+v %+v", rep, found)
				}
				if w, err := s.Damaged(ctx, "h1"); err != nil || w.Count != 0 {
					t.Errorf("the host is told %+v: %v", w, err)
				}
				if h, err := s.Hosts(ctx); err != nil || len(h) != 1 || h[0].Episodes != 1 || h[0].Bytes != again.ArchiveSize {
					t.Errorf("%+v, %v", h, err)
				}
			}
			check()
			reopen()
			check()
			if rep, err := s.Reindex(ctx, nil); err != nil || rep.Episodes != 1 || rep.Damaged+rep.Missing+int64(rep.Changed) != 0 {
				t.Errorf("reindex: %+v, %v", rep, err)
			}
		})
	}
}

// A file that is put back sound lifts the mark.
func TestMarkIsLifted(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	it, _ := sealed(t)
	mustCommit(t, s, it, code.Stored)
	flipBit(t, s.ArchivePath(it.Facts), 200, 1)
	if rep, _ := mustScrub(t, s, ScrubOptions{}); rep.Damaged != 1 {
		t.Fatalf("%+v", rep)
	}
	flipBit(t, s.ArchivePath(it.Facts), 200, 1)
	if rep, found := mustScrub(t, s, ScrubOptions{}); len(found) != 1 || found[0].Kind != FoundMended || rep.Damaged != 0 || rep.Mended != 1 || rep.Sound != 1 {
		t.Errorf("%+v", rep)
	}
	if rep, _ := mustScrub(t, s, ScrubOptions{}); rep.Mended != 0 || rep.Sound != 1 {
		t.Errorf("%+v", rep)
	}
	mustCommit(t, s, it, code.AlreadyStored)
}

// A missing file needs no scrub to be noticed when the host sends the episode again.
func TestMissingIsMendedWithoutAScrub(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	it, _ := sealed(t)
	mustCommit(t, s, it, code.Stored)
	if err := s.catchUp(context.Background()); err != nil {
		t.Fatal(err)
	}
	remove(t, s.ArchivePath(it.Facts))
	mustCommit(t, s, it, code.Stored)
	if rep, found := mustScrub(t, s, ScrubOptions{}); rep.Sound != 1 || rep.Faults() != 0 {
		t.Errorf("%+v %+v", rep, found)
	}
}

// content is all that an archive holds; "" if it can't be had.
func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := pack.NewDecoder(bytes.NewReader(b))
	defer d.Close()
	tar, err := io.ReadAll(d)
	if err != nil {
		return ""
	}
	return string(tar)
}

// A bit that flips anywhere in the store is found: at 200 random places, the
// sidecar's and the archive's, and each heals when the episode comes again. What
// zstd doesn't read is no damage: the content is the same to the last bit, and every
// digest was compared.
func TestRandomBitFlips(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	it, _ := sealed(t)
	mustCommit(t, s, it, code.Stored)
	archive, sidecar := s.ArchivePath(it.Facts), s.sidecarPath(it.Facts)
	want := content(t, archive)
	unread := 0
	for i := range 200 {
		path := archive
		if i%4 == 3 {
			path = sidecar
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		at, bit := rand.Int64N(fi.Size()), rand.IntN(8)
		where := fmt.Sprintf("bit %d of byte %d of %d of %s", bit, at, fi.Size(), filepath.Base(path))
		flipBit(t, path, at, bit)
		rep, found := mustScrub(t, s, ScrubOptions{})
		if rep.Damaged == 0 && path == archive && content(t, archive) == want {
			unread++
			flipBit(t, path, at, bit)
			continue
		}
		if rep.Damaged != 1 || len(found) != 1 || found[0].Episode != it.Facts.ID || !strings.Contains(path, found[0].Path) {
			t.Fatalf("%s: %+v %+v", where, rep, found)
		}
		mustCommit(t, s, it, code.Stored)
		mustCommit(t, s, it, code.AlreadyStored)
		if rep, found := mustScrub(t, s, ScrubOptions{}); rep.Sound != 1 || rep.Faults() != 0 {
			t.Fatalf("%s, mended: %+v %+v", where, rep, found)
		}
	}
	if unread > 20 {
		t.Errorf("%d of 200 flips changed nothing that is read", unread)
	}
	t.Logf("%d of 200 flips changed nothing that is read", unread)
}

// What belongs to nobody is named, and left where it is.
func TestStrays(t *testing.T) {
	ctx := context.Background()
	s := openStore(t, t.TempDir(), systemCalls())
	it, _ := sealed(t)
	other, _ := sealed(t)
	lone, _ := sealed(t)
	for _, it := range []Item{it, other, lone} {
		mustCommit(t, s, it, code.Stored)
	}
	if err := s.catchUp(ctx); err != nil {
		t.Fatal(err)
	}
	for _, it := range []Item{other, lone} {
		if err := s.cat.Load().Remove(ctx, it.Facts.ID); err != nil {
			t.Fatal(err)
		}
	}
	remove(t, s.sidecarPath(lone.Facts))
	day := filepath.Dir(s.ArchivePath(it.Facts))
	elsewhere := filepath.Join(s.path(episodesName), "h1", "2001", "02", "03")
	if err := os.MkdirAll(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	strays := map[string]string{
		filepath.Join(day, "notes.txt"): "no episode's archive",
		filepath.Join(day, it.Facts.ID.String()+".json.damaged-20260101T000000.000000Z"): "set aside",
		filepath.Join(day, "x.tar.zst"):                           "no episode's archive",
		filepath.Join(elsewhere, it.Facts.ID.String()+".tar.zst"): "is stored in episodes/h1/",
		filepath.Join(s.path(episodesName), "lost+found"):         "under such a name",
		filepath.Join(s.path(episodesName), "h1", "202a"):         "under such a name",
		s.ArchivePath(lone.Facts):                                 "without a sidecar",
	}
	for p := range strays {
		if p == s.ArchivePath(lone.Facts) {
			continue
		}
		if err := os.WriteFile(p, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rep, found := mustScrub(t, s, ScrubOptions{})
	if rep.Sound != 1 || rep.Damaged != 0 || rep.Strays != int64(len(strays)) || rep.Unlisted != 1 {
		t.Errorf("%+v", rep)
	}
	for _, f := range found {
		p := s.path(f.Path)
		if f.Kind == FoundUnlisted && f.Episode == other.Facts.ID {
			continue
		}
		if what, is := strays[p]; !is || f.Kind != FoundStray || !strings.Contains(f.What, what) {
			t.Errorf("found %+v", f)
		}
		if _, err := os.Lstat(p); err != nil {
			t.Error(err)
		}
		delete(strays, p)
	}
	if len(strays) != 0 {
		t.Errorf("not found: %v", strays)
	}
	// As the fix says.
	if _, err := s.Reindex(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if rep, _ := mustScrub(t, s, ScrubOptions{Host: "h1"}); rep.Sound != 2 || rep.Unlisted != 0 {
		t.Errorf("%+v", rep)
	}
	if rep, found := mustScrub(t, s, ScrubOptions{Host: "h9"}); rep.Episodes != 0 || rep.Faults() != 0 {
		t.Errorf("%+v %+v", rep, found)
	}
	// A catalogue that says something else is not the episode's damage.
	row, _, err := s.Lookup(ctx, it.Facts.ID)
	if err != nil {
		t.Fatal(err)
	}
	row.Workload = "another"
	if _, _, err := s.cat.Load().Replace(ctx, []catalog.Row{row}); err != nil {
		t.Fatal(err)
	}
	if rep, found := mustScrub(t, s, ScrubOptions{NoWalk: true}); rep.Unlisted != 1 || rep.Damaged != 0 || found[0].Fix != "cis490-receiver reindex" {
		t.Errorf("%+v %+v", rep, found)
	}
}

// A scrub that was cut goes on where it was, with the longest unread first.
func TestScrubGoesOn(t *testing.T) {
	s := openStore(t, t.TempDir(), systemCalls())
	for range 5 {
		it, _ := sealed(t)
		mustCommit(t, s, it, code.Stored)
	}
	ctx, cancel := context.WithCancel(context.Background())
	rep, err := s.Scrub(ctx, ScrubOptions{Progress: func(p ScrubProgress) {
		if p.OfEpisodes != 5 || p.OfBytes == 0 {
			t.Errorf("%+v", p)
		}
		if p.Episodes == 2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || rep.Walked || rep.Episodes != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	cut, first := rep.Sound, rep.Begun
	rep, _ = mustScrub(t, s, ScrubOptions{Since: first})
	if rep.Sound+cut != 5 || cut == 0 {
		t.Errorf("%d before the cut, %d after", cut, rep.Sound)
	}
	if rep, _ := mustScrub(t, s, ScrubOptions{Since: first}); rep.Episodes != 0 || !rep.Walked {
		t.Errorf("%+v", rep)
	}
	// At so many bytes a second it takes its time.
	begin := time.Now()
	rep, _ = mustScrub(t, s, ScrubOptions{Rate: 1 << 20})
	if rep.Episodes != 5 || time.Since(begin) > 5*time.Second {
		t.Errorf("%+v in %s", rep, time.Since(begin))
	}
}

// One that works all the time reads what is due, and makes way for one that somebody asks for.
func TestKeepScrubbing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var mu sync.Mutex
		var all []Finding
		found := func() []Finding {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		s, err := open(dir, Options{Found: func(f Finding) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, f)
		}}, systemCalls())
		if err != nil {
			t.Fatal(err)
		}
		good, _ := sealed(t)
		bad, _ := sealed(t)
		for _, it := range []Item{good, bad} {
			mustCommit(t, s, it, code.Stored)
		}
		flipBit(t, s.ArchivePath(bad.Facts), 300, 0)
		if err := os.WriteFile(filepath.Join(dir, "episodes", "stray"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.KeepScrubbing(ctx, func() ScrubPlan { return ScrubPlan{Every: 30 * 24 * time.Hour} })
		}()
		time.Sleep(29 * 24 * time.Hour)
		if len(found()) != 0 {
			t.Errorf("found %+v before it was due", found())
		}
		time.Sleep(2 * 24 * time.Hour)
		kinds := map[Kind]int{}
		for _, f := range found() {
			kinds[f.Kind]++
		}
		if diff := cmp.Diff(map[Kind]int{FoundDamaged: 1, FoundStray: 1}, kinds); diff != "" {
			t.Error(diff)
		}
		// What is damaged is looked at daily, and told of once.
		flipBit(t, s.ArchivePath(bad.Facts), 300, 0)
		time.Sleep(25 * time.Hour)
		if d, err := s.Damaged(ctx, "h1"); err != nil || d.Count != 0 || len(found()) != 3 || found()[2].Kind != FoundMended {
			t.Errorf("%+v %v; %d found", d, err, len(found()))
		}
		if rep, err := s.Scrub(ctx, ScrubOptions{}); err != nil || rep.Sound != 2 {
			t.Errorf("%+v, %v", rep, err)
		}
		cancel()
		<-done
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Scrub(t.Context(), ScrubOptions{}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}
