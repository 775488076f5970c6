package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
)

// sealed makes a real episode of a few files and packs it.
func sealed(t *testing.T) (it Item, files map[string]string) {
	t.Helper()
	files = map[string]string{"a.csv": "t_us,cpu_usage_us\n1,2\n", "deep/er/b.log": "hello\n", "empty": ""}
	src := t.TempDir()
	for name, content := range files {
		p := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := episode.SealDir(context.Background(), src, t.TempDir(), episode.SealOptions{Host: "h1", Workload: "sorting"})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pack.NewPlan(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	f, err := pack.NewPacker(pack.Options{Workers: 1}).Small(plan)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	run, err := os.ReadFile(filepath.Join(s.Dir, episode.RunPath))
	if err != nil {
		t.Fatal(err)
	}
	frames, n, err := pack.ScanFrames(bytes.NewReader(f.Data))
	if err != nil || n != int64(len(f.Data)) {
		t.Fatal(n, err)
	}
	return Item{Facts: plan.Facts(), WindowID: "w1", Run: run, Archive: bytes.Clone(f.Data), Frames: frames}, files
}

func TestVerifyAndExtract(t *testing.T) {
	ctx := context.Background()
	s := openStore(t, t.TempDir(), systemCalls())
	it, want := sealed(t)
	size := len(it.Archive)
	r := mustCommit(t, s, it, code.Stored)
	if r.ArchiveSize <= int64(size) {
		t.Errorf("archive of %d bytes stored as %d: no seek table", size, r.ArchiveSize)
	}
	f, row, found, err := s.OpenArchive(ctx, it.Facts.ID)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	defer f.Close()
	if row.Workload != "sorting" || row.Outcome != string(episode.Complete) || row.Facts != it.Facts {
		t.Errorf("row %+v", row)
	}
	frames, err := pack.ReadSeekTable(f, r.ArchiveSize)
	if err != nil || len(frames) != len(it.Frames) || frames[0] != it.Frames[0] {
		t.Errorf("seek table %v, want %v: %v", frames, it.Frames, err)
	}

	var told int64
	v, found, err := s.Verify(ctx, it.Facts.ID, func(n int64) { told = n })
	if err != nil || !found || v.Facts != it.Facts || told == 0 {
		t.Errorf("Verify = %+v, %v, %v; told of %d bytes", v, found, err, told)
	}
	dest := t.TempDir()
	dir, found, err := s.Extract(ctx, it.Facts.ID, dest)
	if err != nil || !found || dir != filepath.Join(dest, it.Facts.ID.String()) {
		t.Fatal(dir, found, err)
	}
	for name, content := range want {
		if b, err := os.ReadFile(filepath.Join(dir, episode.OutputPath, name)); err != nil || string(b) != content {
			t.Errorf("%s came out as %q: %v", name, b, err)
		}
	}
	if facts, err := episode.ReadFacts(dir); err != nil || facts != it.Facts {
		t.Errorf("what came out is %+v: %v", facts, err)
	}
	if _, _, err := s.Extract(ctx, it.Facts.ID, dest); !errors.Is(err, fs.ErrExist) {
		t.Errorf("extracted over what was there: %v", err)
	}

	// Rot is found, and named.
	overwrite(t, s.ArchivePath(it.Facts), int64(size/2), []byte{0xff, 0x00, 0xff})
	_, _, err = s.Verify(ctx, it.Facts.ID, nil)
	wantCode(t, err, code.Damaged)
	if err := os.Truncate(s.ArchivePath(it.Facts), int64(size/2)); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Verify(ctx, it.Facts.ID, nil)
	wantCode(t, err, code.Damaged)

	if _, found, err := s.Verify(ctx, episode.NewID(), nil); found || err != nil {
		t.Errorf("Verify of what isn't there: %v %v", found, err)
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	it2, _ := sealed(t)
	mustCommit(t, s, it2, code.Stored)
	if _, _, err := s.Verify(stopped, it2.Facts.ID, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify after the end: %v", err)
	}
}
