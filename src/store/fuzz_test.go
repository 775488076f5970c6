package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cis490/src/episode"
	"cis490/src/pack"
)

// fuzzItem is the same on every run.
func fuzzItem() Item {
	it := item("h1", start, 100)
	id, err := episode.ParseID("0197f3c1-7a2b-7c3d-8e4f-0123456789ab")
	if err != nil {
		panic(err)
	}
	it.Facts.ID = id
	it.Facts.Digest = [32]byte{1, 2, 3}
	it.Run = []byte(`{"schema":1,"outcome":"complete","workload":"w"}`)
	return it
}

func fuzzSidecars(f *testing.F) {
	it := fuzzItem()
	for _, frames := range [][]pack.FrameInfo{nil, {{Compressed: 100, Content: 512}}, {{Compressed: 100, Content: -1}}} {
		it.Frames = frames
		e := &entry{Item: it}
		e.row.Facts, e.row.Receipt.Episode, e.row.Receipt.Host, e.row.Receipt.BagDigest = it.Facts, it.Facts.ID, it.Facts.Host, it.Facts.Digest
		e.row.Receipt.ArchiveSize, e.row.Receipt.StoredAt = 100, start
		b, err := encodeSidecar(e, frames != nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"schema":1,"receipt":{},"run":{}}`))
	f.Add([]byte(`{"schema":1,"receipt":{"episode":"0197f3c1-7a2b-7c3d-8e4f-0123456789ab","host":"h1","archive_size":-1},"run":{"outcome":5}}`))
}

// A sidecar that is taken is that of the episode in whose place it is, of the archive beside it.
func FuzzSidecar(f *testing.F) {
	fuzzSidecars(f)
	want := fuzzItem().Facts
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		for name, content := range map[string][]byte{sidecarName(want.ID): b, archiveName(want.ID): make([]byte, 100)} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		sc, row, err := readSidecar(fd, "h1", want.ID)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Fatal(err)
			}
			return
		}
		if row.Facts.ID != want.ID || row.Facts.Host != "h1" || row.Receipt.ArchiveSize != 100 || row.Facts.Digest != row.Receipt.BagDigest || row.Receipt != sc.Receipt {
			t.Fatalf("%q was taken as %+v", b, row)
		}
	})
}

// The catalogue can be rebuilt whatever stands in a sidecar: the episode is found as the sidecar has it, or told as damaged, and the
// one beside it is found in any case.
func FuzzRebuild(f *testing.F) {
	fuzzSidecars(f)
	dir := f.TempDir()
	s := openStore(f, dir, systemCalls())
	good := item("h1", start, 100)
	mustCommit(f, s, good, "stored")
	id := fuzzItem().Facts.ID
	day := filepath.Join(dir, episodesName, day("h1", start))
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx := context.Background()
		// What the catalogue knew is kept, so it must know nothing.
		for _, name := range []string{sidecarName(id), archiveName(id)} {
			if err := os.Remove(filepath.Join(day, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if rep, err := s.Reindex(ctx, nil); err != nil || rep.Episodes != 1 || rep.Damaged != 0 {
			t.Fatalf("%+v, %v", rep, err)
		}
		for name, content := range map[string][]byte{sidecarName(id): b, archiveName(id): make([]byte, 100)} {
			if err := os.WriteFile(filepath.Join(day, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		rep, err := s.Reindex(ctx, nil)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if rep.Episodes+rep.Damaged != 2 || rep.Damaged > 1 {
			t.Fatalf("%q: %+v", b, rep)
		}
		if _, found, err := s.Lookup(ctx, good.Facts.ID); err != nil || !found {
			t.Fatalf("%q: the other episode: %v, %v", b, found, err)
		}
		row, found, err := s.Lookup(ctx, id)
		if err != nil || found != (rep.Damaged == 0) {
			t.Fatalf("%q: found %v, %v, with %+v", b, found, err, rep)
		}
		if !found {
			return
		}
		if _, err := s.Sidecar(row); err != nil {
			t.Fatalf("%q: %+v is in the catalogue, and: %v", b, row, err)
		}
		again, err := s.Reindex(ctx, nil)
		if err != nil || again.Added+again.Changed+again.Missing != 0 {
			t.Fatalf("%q: a second reindex changes things: %+v, %v", b, again, err)
		}
	})
}

// An intent that is read is one that was written whole, and settling it touches nothing outside the store.
func FuzzIntent(f *testing.F) {
	for _, in := range []intent{{}, {Items: []intentItem{{Host: "h1", Episode: fuzzItem().Facts.ID, Day: day("h1", start), From: "upload", Size: 5}}}} {
		b, err := in.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "h1", "h1/2026/07/01", "upload", int64(5))
		f.Add(append(b, "the rest of a longer one"...), "h1", "/etc", "../x", int64(-1))
		f.Add(b[:len(b)-1], "..", "h1/../..", "", int64(1))
	}
	dir := f.TempDir()
	s := openStore(f, dir, systemCalls())
	outside := filepath.Join(filepath.Dir(dir), "outside")
	f.Fuzz(func(t *testing.T, b []byte, host, day, from string, size int64) {
		if in, err := decodeIntent(b); err == nil {
			again, err := in.encode()
			if err != nil || !bytes.Equal(again[:min(len(again), len(b))], b[:min(len(again), len(b))]) {
				// Spaces and unknown members may differ, but not what it says.
				back, berr := decodeIntent(again)
				if err != nil || berr != nil || len(back.Items) != len(in.Items) {
					t.Fatalf("%q was taken: %v, %v", b, err, berr)
				}
			}
		} else if !errors.Is(err, errTorn) {
			t.Fatal(err)
		}
		if err := os.WriteFile(outside, []byte("12345678"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, stored, err := s.settle(context.Background(), intentItem{Host: host, Episode: fuzzItem().Facts.ID, Day: day, From: from, Size: size}, true); err == nil && stored {
			t.Fatalf("%q %q %q: nothing is there, and it is stored", host, day, from)
		}
		if st, err := os.Stat(outside); err != nil || st.Size() != 8 {
			t.Fatalf("%q %q %q reach out of the store: %v", host, day, from, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, episodesName)); errors.Is(err, fs.ErrNotExist) {
			t.Fatal("the store is gone")
		}
	})
}

// A segment of the log may hold anything: what comes of it lies in the store, and is what the records say.
func FuzzLog(f *testing.F) {
	it := fuzzItem()
	e := entry{Item: it}
	parts, err := encodeRecord(e.intent(), []byte("{}"), []byte("archive"))
	if err != nil {
		f.Fatal(err)
	}
	number(parts[0], 7, 3)
	whole := bytes.Join(parts, nil)
	f.Add(whole, "h1", day("h1", start))
	f.Add(append(bytes.Clone(whole), whole...), "h1", "/etc")
	f.Add(whole[:len(whole)-1], "..", "../..")
	dir := f.TempDir()
	s := openStore(f, dir, systemCalls())
	f.Fuzz(func(t *testing.T, b []byte, host, day string) {
		at := 0
		for _, r := range decodeSegment(b) {
			again, size, err := decodeRecord(b[at:])
			if err != nil || again.number != r.number || !bytes.Equal(again.archive, r.archive) {
				t.Fatalf("%q at %d: %+v, %v; then %+v", b, at, r, err, again)
			}
			at += size
		}
		r := record{number: 1, item: intentItem{Host: host, Day: day, Episode: it.Facts.ID}, sidecar: b, archive: b}
		if row, err := s.restore(r); err == nil && row.Facts.ID != it.Facts.ID {
			t.Fatalf("%q is taken for the sidecar of %s", b, it.Facts.ID)
		}
		if outside, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(outside) != 1 {
			t.Fatalf("%q %q reach out of the store: %v, %v", host, day, outside, err)
		}
	})
}
