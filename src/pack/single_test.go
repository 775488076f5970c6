package pack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"cis490/src/code"
)

// A file of an archive reads like one on the disk, wherever one seeks.
func TestFileSeeks(t *testing.T) {
	files := tree{"a": []byte("1"), "large": mixed(1, 3*FrameSize+77), "none": nil, "z": telemetry(1, 9000)}
	c := makeContent(t, files)
	whole := archive(t, c, Fastest)
	for name, b := range map[string][]byte{"frames": whole, "one frame": oneFrame(t, c.tar(t))} {
		t.Run(name, func(t *testing.T) {
			a, err := OpenArchive(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range c.files {
				if len(want) > 1000 {
					continue // TestReader reads it many times over, byte by byte
				}
				f, err := a.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := iotest.TestReader(io.NewSectionReader(readerAt{f}, 0, f.Size), want); err != nil {
					t.Errorf("%s: %v", path, err)
				}
				f.Close()
			}
			f, err := a.Open("data/large")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			model := bytes.NewReader(c.files["data/large"])
			rapid.Check(t, func(t *rapid.T) {
				whence := rapid.IntRange(0, 2).Draw(t, "whence")
				offset := rapid.Int64Range(-4*FrameSize, 4*FrameSize).Draw(t, "offset")
				n := rapid.IntRange(0, 200_000).Draw(t, "n")
				want, werr := model.Seek(offset, whence)
				got, err := f.Seek(offset, whence)
				if (err == nil) != (werr == nil) || err == nil && got != want {
					t.Fatalf("Seek(%d, %d) = %d, %v; want %d, %v", offset, whence, got, err, want, werr)
				}
				b, w := make([]byte, n), make([]byte, n)
				gn, gerr := io.ReadFull(f, b)
				wn, werr := io.ReadFull(model, w)
				if gn != wn || gerr != werr || !bytes.Equal(b[:gn], w[:wn]) {
					t.Fatalf("read %d bytes, %v; want %d, %v", gn, gerr, wn, werr)
				}
			})
		})
	}
}

// readerAt reads a File by seeking in it.
type readerAt struct{ f *File }

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	if _, err := r.f.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.f, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

func TestExtractPath(t *testing.T) {
	ctx := context.Background()
	files := tree{"output/a.csv": []byte("a,b\n1,2\n"), "output/deep/er/b": mixed(3, 2*FrameSize), "output/none": nil, "output2/x": []byte("x"), "result": []byte("r")}
	c := makeContent(t, files)
	b := archive(t, c, Fastest)
	a, err := OpenArchive(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	one := filepath.Join(dest, "new", "one.csv")
	out, err := a.Extract(ctx, "data/output/a.csv", one)
	if err != nil || out != (Extracted{Files: 1, Bytes: 8}) {
		t.Fatalf("%+v, %v", out, err)
	}
	if got, err := os.ReadFile(one); err != nil || string(got) != "a,b\n1,2\n" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := a.Extract(ctx, "data/result", one); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over what was there: %v", err)
	}
	for i, path := range []string{"data/output", "data/output/"} {
		dir := filepath.Join(dest, "dir", string(rune('a'+i)))
		out, err = a.Extract(ctx, path, dir)
		if err != nil || out.Files != 3 || !out.Dir {
			t.Fatalf("%s: %+v, %v", path, out, err)
		}
		for _, p := range []string{"a.csv", "deep/er/b", "none"} {
			if got, err := os.ReadFile(filepath.Join(dir, p)); err != nil || !bytes.Equal(got, c.files["data/output/"+p]) {
				t.Errorf("%s: %d bytes, %v", p, len(got), err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "x")); err == nil {
			t.Error("a file of a directory whose name begins alike was taken")
		}
	}
	var missing *fs.PathError
	if _, err := a.Extract(ctx, "data/outpu", filepath.Join(dest, "no")); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &missing) || missing.Path != "data/outpu" {
		t.Error(err)
	}
	for path, want := range map[string]string{"a.csv": "data/output/a.csv", "data/output/a.cvs": "data/output/a.csv", "output/a.csv": "data/output/a.csv", "data/a.csv": "data/output/a.csv", "data/resul": "data/result"} {
		if near := a.Near(path, 3); len(near) == 0 || near[0] != want || len(near) > 3 {
			t.Errorf("near %s: %v, want %s", path, near, want)
		}
	}
	if near := a.Near("something/quite/different", 3); len(near) != 0 {
		t.Errorf("%v", near)
	}
	// What is not as the manifest says comes out neither as a file nor as the end of a stream.
	lying := makeContent(t, tree{"a": []byte("a"), "b": []byte("b")})
	lying.files["data/b"] = []byte("x")
	packed := packAll(t, lying.tar(t))
	if a, err = OpenArchive(bytes.NewReader(packed), int64(len(packed))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"data", "data/b"} {
		if _, err := a.Extract(ctx, path, filepath.Join(dest, "lie")); codeOf(err) != code.DigestMismatch {
			t.Errorf("%s: %v", path, err)
		}
	}
	f, err := a.Open("data/b")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); len(got) != 0 || codeOf(err) != code.DigestMismatch {
		t.Errorf("%q, %v", got, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.Extract(cancelled, "data/a", filepath.Join(dest, "lie")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	entries, err := os.ReadDir(dest)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"dir", "new"}) {
		t.Errorf("left: %v", names)
	}
}

// An archive is walked in one go, and each file can be left where one likes.
func TestWalk(t *testing.T) {
	files := tree{"a": []byte("1"), "b": mixed(1, 2*FrameSize), "c": nil, "d": mixed(2, FrameSize), "e": []byte("5")}
	c := makeContent(t, files)
	for name, b := range map[string][]byte{"frames": archive(t, c, Fastest), "one frame": oneFrame(t, c.tar(t))} {
		counted := &countingReaderAt{r: bytes.NewReader(b)}
		a, err := OpenArchive(counted, int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		for read := range 3 {
			counted.n = 0
			seen := 0
			err := a.Walk(func(p string) bool { return p != "data/c" }, func(f *File) error {
				want := c.files[f.Path]
				seen++
				if f.Size != int64(len(want)) {
					t.Errorf("%s has %d bytes, want %d", f.Path, f.Size, len(want))
				}
				n := []int{0, len(want) / 2, len(want)}[read]
				got := make([]byte, n)
				if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, want[:n]) {
					t.Errorf("%s: %v", f.Path, err)
				}
				return nil
			})
			if err != nil || seen != len(c.files)-1 {
				t.Errorf("%s: %d seen, %v", name, seen, err)
			}
			if counted.n > 2*int64(len(b)) {
				t.Errorf("%s: %d of %d bytes were read", name, counted.n, len(b))
			}
		}
	}
}
