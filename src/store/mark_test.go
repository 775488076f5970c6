package store

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cis490/src/catalog"
	"cis490/src/code"
)

// A mark outlives the catalogue, and so does the episode if its sidecar is gone.
func TestMarkOutlivesTheCatalogue(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := openStore(t, dir, systemCalls())
	rotten, lost, sound := item("h1", start, 100), item("h1", start, 200), item("h2", start, 300)
	for _, it := range []Item{rotten, lost, sound} {
		mustCommit(t, s, it, code.Stored)
	}
	if err := s.catchUp(ctx); err != nil {
		t.Fatal(err)
	}
	want := map[string]catalog.Row{}
	for it, what := range map[*Item]string{&rotten: "rot", &lost: "the sidecar is missing"} {
		row, found, err := s.Lookup(ctx, it.Facts.ID)
		if err != nil || !found {
			t.Fatal(found, err)
		}
		if row, err = s.mark(row, "p", what); err != nil || !strings.HasSuffix(row.Damaged, ": "+what) {
			t.Fatal(row.Damaged, err)
		}
		again, err := s.mark(row, "p", "something else")
		if err != nil || again.Damaged != row.Damaged {
			t.Errorf("the first mark did not stand: %q, %v", again.Damaged, err)
		}
		row, _, err = s.Lookup(ctx, it.Facts.ID)
		if err != nil {
			t.Fatal(err)
		}
		want[row.Facts.ID.String()] = row
	}
	if err := os.Remove(strings.TrimSuffix(s.ArchivePath(lost.Facts), ".tar.zst") + ".json"); err != nil {
		t.Fatal(err)
	}
	check := func(s *Store, when string) {
		t.Helper()
		for id, w := range want {
			got, found, err := s.Lookup(ctx, w.Facts.ID)
			if when == "after a rebuild" {
				w.CheckedAt = got.Receipt.StoredAt // of what was sound, only the catalogue knows when it was
			}
			if err != nil || !found || got != w {
				t.Errorf("%s, %s: found %v\n%+v, want\n%+v: %v", when, id, found, got, w, err)
			}
		}
		if row, found, err := s.Lookup(ctx, sound.Facts.ID); err != nil || !found || row.Damaged != "" {
			t.Errorf("%s: the sound one is %+v, %v %v", when, row, found, err)
		}
		if d, err := s.Damaged(ctx, "h1"); err != nil || d.Count != 2 || len(d.Episodes) != 2 {
			t.Errorf("%s: %+v, %v", when, d, err)
		}
		if d, err := s.Damaged(ctx, "h2"); err != nil || d.Count != 0 {
			t.Errorf("%s: %+v, %v", when, d, err)
		}
	}
	check(s, "at first")
	rep, err := s.Reindex(ctx, nil)
	if err != nil || rep.Episodes != 3 || rep.Damaged != 2 || rep.Missing != 0 || len(rep.Faults) != 2 {
		t.Errorf("reindex: %+v, %v", rep, err)
	}
	check(s, "after a reindex")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range catalog.Files(filepath.Join(dir, catalogueName)) {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	s = openStore(t, dir, systemCalls())
	<-s.rebuild.done()
	check(s, "after a rebuild")
	// Who takes all of it away wants it forgotten.
	for _, name := range []string{".tar.zst", markSuffix} {
		if err := os.Remove(strings.TrimSuffix(s.ArchivePath(lost.Facts), ".tar.zst") + name); err != nil {
			t.Fatal(err)
		}
	}
	if rep, err := s.Reindex(ctx, nil); err != nil || rep.Episodes != 2 || rep.Missing != 1 {
		t.Errorf("reindex: %+v, %v", rep, err)
	}
}
