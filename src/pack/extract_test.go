package pack

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
)

// node is what must not change of a file or directory.
type node struct {
	dir  bool
	exec bool
	time time.Time
	data string
}

// nodes reads a tree. The times of directories count only if their owner set them.
func nodes(t testing.TB, dir string) map[string]node {
	t.Helper()
	m := map[string]node{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		n := node{dir: d.IsDir(), time: st.ModTime()}
		if !n.dir {
			n.exec = st.Mode()&0o100 != 0
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			n.data = string(b)
		}
		m[rel] = n
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A random tree comes back as it was: sealed, packed, verified and unpacked.
func TestTreesComeBack(t *testing.T) {
	// Each flushes the disk a few times.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		flag.Set(f.Name, "25")
		defer flag.Set(f.Name, f.DefValue)
	}
	base := t.TempDir()
	name := rapid.StringMatching(`[a-zA-Z0-9 %~\r\n"'\\äé.-]{1,20}`).Filter(func(s string) bool { return s != "." && s != ".." })
	try := 0
	rapid.Check(t, func(rt *rapid.T) {
		try++
		work := filepath.Join(base, fmt.Sprint(try))
		defer os.RemoveAll(work)
		src := filepath.Join(work, "src")
		dirs := []string{src}
		if err := os.MkdirAll(src, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range rapid.IntRange(0, 12).Draw(rt, "entries") {
			p := filepath.Join(rapid.SampledFrom(dirs).Draw(rt, "in"), name.Draw(rt, "name"))
			if _, err := os.Lstat(p); err == nil {
				continue
			}
			if rapid.Bool().Draw(rt, "dir") {
				if err := os.Mkdir(p, 0o755); err != nil {
					t.Fatal(err)
				}
				dirs = append(dirs, p)
				continue
			}
			size := rapid.OneOf(rapid.IntRange(0, 2000), rapid.SampledFrom([]int{0, 1, blockSize, maxBlock, FrameSize + 1})).Draw(rt, "size")
			mode := rapid.SampledFrom([]fs.FileMode{0o644, 0o755, 0o600}).Draw(rt, "mode")
			if err := os.WriteFile(p, mixed(uint64(i), size), mode); err != nil {
				t.Fatal(err)
			}
		}
		for p := range nodes(t, src) {
			at := time.Unix(rapid.Int64Range(-1<<33, 1<<34).Draw(rt, "s"), rapid.Int64Range(0, 999_999_999).Draw(rt, "ns"))
			if err := os.Chtimes(filepath.Join(src, p), at, at); err != nil {
				t.Fatal(err)
			}
		}
		want := nodes(t, src)
		sealed, err := episode.SealDir(context.Background(), src, filepath.Join(work, "data"), episode.SealOptions{Host: "lab-1"})
		if err != nil {
			rt.Fatal(err)
		}
		pl, err := NewPlan(sealed.Dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer pl.Close()
		var archive bytes.Buffer
		p := NewPacker(Options{Workers: 1, Level: Level(rapid.IntRange(0, 3).Draw(rt, "level"))})
		if err := Write(context.Background(), &archive, pl, p); err != nil {
			rt.Fatal(err)
		}
		if pl.TarSize() <= FrameSize {
			f, err := p.Small(pl)
			if err != nil {
				rt.Fatal(err)
			}
			if !bytes.HasPrefix(archive.Bytes(), f.Data) && p.level != Auto {
				rt.Fatal("Small and Stream pack differently")
			}
			f.Release()
		}
		v, err := Verify(NewDecoder(bytes.NewReader(archive.Bytes())), sealed.Facts, Limits{})
		if err != nil || v.Facts != sealed.Facts {
			rt.Fatal(err)
		}
		dir, err := Extract(context.Background(), &archive, filepath.Join(work, "out"))
		if err != nil {
			rt.Fatal(err)
		}
		if dir != filepath.Join(work, "out", sealed.Facts.ID.String()) {
			rt.Fatalf("unpacked to %s", dir)
		}
		got := nodes(t, filepath.Join(dir, episode.OutputPath))
		if d := cmp.Diff(want, got, cmp.AllowUnexported(node{})); d != "" {
			rt.Fatalf("the tree came back changed:\n%s", d)
		}
		if faults := verifyBag(t, dir); len(faults) > 0 {
			rt.Fatal(faults)
		}
	})
}

func verifyBag(t testing.TB, dir string) []bag.Fault {
	t.Helper()
	b, err := bag.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	faults, err := b.Verify(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return faults
}

func archive(t testing.TB, c *content, level Level) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(context.Background(), &b, plan(t, c.write(t)), NewPacker(Options{Workers: 2, Level: level})); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Stock zstd and tar read an archive, its seek table included, and sha256sum finds it right.
func TestStockToolsReadArchives(t *testing.T) {
	for _, tool := range []string{"zstd", "tar", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	c := makeContent(t, tree{"a": mixed(1, 2*FrameSize), "zeros": make([]byte, 3*FrameSize), "näme": nil, strings.Repeat("d/", 100) + "f": []byte("deep"), "x y": telemetry(1, 1000)})
	for level := Auto; level <= Default; level++ {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "a.tar.zst"), archive(t, c, level))
		cmd := exec.Command("sh", "-ec", `
			zstd -t a.tar.zst
			zstd -d -c a.tar.zst | tar x
			cd "$1"
			sha256sum --quiet -c tagmanifest-sha256.txt manifest-sha256.txt
			test "$(find data -type f | wc -l)" = "$(wc -l < manifest-sha256.txt)"`, "sh", c.id.String())
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", level, err, out)
		}
		for _, f := range c.paths() {
			b, err := os.ReadFile(filepath.Join(dir, c.id.String(), f))
			if err != nil || !bytes.Equal(b, c.files[f]) {
				t.Errorf("%v: %s differs, %v", level, f, err)
			}
		}
	}
}

func TestExtract(t *testing.T) {
	at := time.Date(1999, 12, 31, 23, 59, 59, 123456789, time.UTC)
	far := time.Unix(9_000_000_000, 5) // beyond what nanoseconds in an int64 can tell
	c := makeContent(t, tree{"bin/tool": []byte("#!"), "plain": nil},
		bag.FileMeta{Path: "data/bin", Dir: true, ModTime: at.Add(time.Hour)},
		bag.FileMeta{Path: "data/bin/tool", Exec: true, ModTime: at},
		bag.FileMeta{Path: "data/empty/dir", Dir: true, ModTime: at},
		bag.FileMeta{Path: "data/empty", Dir: true, ModTime: far},
		bag.FileMeta{Path: "data/plain", ModTime: at},
		bag.FileMeta{Path: "data/link", Skipped: bag.SkippedSymlink, Target: "/etc"},
	)
	for name, r := range map[string]io.Reader{
		"archive":   bytes.NewReader(archive(t, c, Auto)),
		"tar":       bytes.NewReader(c.tar(t)),
		"in pieces": iotest.OneByteReader(bytes.NewReader(archive(t, c, Raw))),
		"skippable": io.MultiReader(strings.NewReader("\x50\x2A\x4D\x18\x01\x00\x00\x00x"), bytes.NewReader(archive(t, c, Fastest))),
	} {
		dest := filepath.Join(t.TempDir(), "new", "dest")
		dir, err := Extract(context.Background(), r, dest)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := nodes(t, dir)
		for p, want := range map[string]node{
			"data/bin":       {dir: true, time: at.Add(time.Hour)},
			"data/bin/tool":  {exec: true, time: at, data: "#!"},
			"data/plain":     {time: at},
			"data/empty":     {dir: true, time: far},
			"data/empty/dir": {dir: true, time: at},
		} {
			if g := got[p]; g.dir != want.dir || g.exec != want.exec || !g.time.Equal(want.time) || g.data != want.data {
				t.Errorf("%s: %s is %+v, want %+v", name, p, g, want)
			}
		}
		if _, ok := got["data/link"]; ok {
			t.Errorf("%s: what was left out is there", name)
		}
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm()&0o055 == 0 {
			t.Errorf("%s: the bag's mode is %v", name, st.Mode())
		}
		onlyEntry(t, dest, c.id.String())
		// A second time: the first stays.
		if _, err := Extract(context.Background(), bytes.NewReader(c.tar(t)), dest); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: over an existing one: %v", name, err)
		}
		onlyEntry(t, dest, c.id.String())
	}
}

func onlyEntry(t *testing.T, dir string, want ...string) {
	t.Helper()
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range ents {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func TestExtractLeavesNothingBehind(t *testing.T) {
	c := sample(t)
	good := archive(t, c, Fastest)
	damaged := slices.Clone(c.tar(t))
	damaged[bytes.Index(damaged, c.files["data/a/text"])+50] ^= 1
	missing := makeContent(t, tree{"a": nil}, bag.FileMeta{Path: "data/not-there", Exec: true})
	badMeta := makeContent(t, tree{"a": nil})
	badMeta.tags[bag.Files] = []byte("{]\n")
	badMeta.sealTags()
	for name, test := range map[string]struct {
		in   []byte
		want code.Code
	}{
		"cut":           {good[:len(good)/2], code.Malformed},
		"damaged":       {damaged, code.DigestMismatch},
		"no archive":    {[]byte("hello"), code.Malformed},
		"nothing":       {nil, code.Malformed},
		"missing meta":  {missing.tar(t), code.Malformed},
		"bad meta":      {badMeta.tar(t), code.Malformed},
		"damaged frame": {append(slices.Clone(good[:len(good)/2]), noise(1, 1000)...), code.Malformed},
	} {
		dest := t.TempDir()
		_, err := Extract(context.Background(), bytes.NewReader(test.in), dest)
		if codeOf(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
		onlyEntry(t, dest)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dest := t.TempDir()
	if _, err := Extract(ctx, bytes.NewReader(good), dest); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	onlyEntry(t, dest)
}

func TestArchive(t *testing.T) {
	files := tree{"first": []byte("1"), "large": mixed(1, 3*FrameSize), "larger": mixed(2, 5*FrameSize+1), "näme": telemetry(1, 5000), "z/last": []byte("z"), "z/none": nil}
	for i := range 100 {
		files[fmt.Sprintf("many/%d", i)] = telemetry(uint64(i), i*100)
	}
	c := makeContent(t, files)
	whole := archive(t, c, Raw)
	frames, err := ReadSeekTable(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	table := 8 + seekEntry*len(frames) + seekFooter
	for name, b := range map[string][]byte{
		"with a seek table": whole,
		"without":           whole[:len(whole)-table],
		"one frame":         oneFrame(t, c.tar(t)),
	} {
		t.Run(name, func(t *testing.T) {
			counted := &countingReaderAt{r: bytes.NewReader(b)}
			a, err := OpenArchive(counted, int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if a.Digest() != c.facts(t).Digest || a.Info().Get(episode.LabelHost) != "lab-1" {
				t.Errorf("digest %v, info %v", a.Digest(), a.Info())
			}
			var listed []string
			for e, err := range a.Files() {
				if err != nil {
					t.Fatal(err)
				}
				listed = append(listed, e.Path)
			}
			if !slices.Equal(listed, c.paths()) {
				t.Errorf("files %v", listed)
			}
			for i, p := range c.paths() {
				if i%10 > 0 && name != "with a seek table" { // finding one takes long without
					continue
				}
				want := c.files[p]
				f, err := a.Open(p)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(f)
				if err != nil || !bytes.Equal(got, want) || f.Size != int64(len(want)) {
					t.Errorf("%s: %d bytes of %d, %v", p, len(got), len(want), err)
				}
				f.Close()
				if _, err := f.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("%s: read after Close: %v", p, err)
				}
			}
			if _, err := a.Open("data/none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a file that is not there: %v", err)
			}
			if name == "with a seek table" {
				counted.n = 0
				f, err := a.Open("data/z/last")
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, f)
				f.Close()
				// The frames within the two large files are not read.
				if counted.n > int64(len(b))*2/3 {
					t.Errorf("%d of %d bytes were read for the last file", counted.n, len(b))
				}
			}
		})
	}
	// Damage is noticed when what it is in is read, and only then.
	cut := whole[:len(whole)/2]
	a, err := OpenArchive(bytes.NewReader(cut), int64(len(cut)))
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]code.Code{"data/first": "", "data/larger": code.Malformed, "data/z/last": code.Malformed} {
		f, err := a.Open(p)
		if err == nil {
			_, err = io.ReadAll(f)
			f.Close()
		}
		if codeOf(err) != want || want == "" && err != nil {
			t.Errorf("%s of a cut archive: %v, want %q", p, err, want)
		}
	}
	lying := makeContent(t, tree{"a": []byte("a")})
	lying.files["data/a"] = []byte("b")
	b := lying.tar(t)
	packed := packAll(t, b)
	a, err = OpenArchive(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		t.Fatal(err)
	}
	f, err := a.Open("data/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(f); codeOf(err) != code.DigestMismatch {
		t.Errorf("a file of other content: %v", err)
	}
}

// oneFrame is how most programs would compress it.
func oneFrame(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type countingReaderAt struct {
	r io.ReaderAt
	n int64
}

func (c *countingReaderAt) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(b, off)
	c.n += int64(n)
	return n, err
}

func TestSeekTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frames := rapid.SliceOf(rapid.Custom(func(t *rapid.T) FrameInfo {
			return FrameInfo{rapid.Int64Range(0, 50).Draw(t, "c"), rapid.Int64Range(0, 1<<32-1).Draw(t, "d")}
		})).Draw(t, "frames")
		var b bytes.Buffer
		for _, f := range frames {
			b.Write(make([]byte, f.Compressed))
		}
		if err := AppendSeekTable(&b, frames); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSeekTable(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil || !slices.Equal(got, frames) {
			t.Fatalf("%v comes back as %v, %v", frames, got, err)
		}
		// It is one skippable frame.
		table := b.Bytes()[b.Len()-8-seekEntry*len(frames)-seekFooter:]
		if f, n, err := ScanFrames(bytes.NewReader(table)); err != nil || n != int64(len(table)) || len(f) != 1 || f[0].Content != 0 {
			t.Fatalf("the table scans as %v, %v", f, err)
		}
		for i := range table {
			damaged := slices.Clone(b.Bytes())
			damaged[len(damaged)-1-i] ^= 0x80
			if got, err := ReadSeekTable(bytes.NewReader(damaged), int64(len(damaged))); err == nil && len(got) != len(frames) {
				t.Fatal("a damaged table is read")
			}
		}
	})
	for _, f := range []FrameInfo{{1, -1}, {1, 1 << 32}, {1 << 32, 1}, {-1, 1}} {
		var b bytes.Buffer
		if err := AppendSeekTable(&b, []FrameInfo{f}); !errors.Is(err, ErrNoSeekTable) || b.Len() > 0 {
			t.Errorf("%v: %v, %d bytes were written", f, err, b.Len())
		}
	}
	// As the format's description has it, with checksums.
	with := "frames" + "\x5E\x2A\x4D\x18\x15\x00\x00\x00" + "\x06\x00\x00\x00\x09\x00\x00\x00sum!" + "\x01\x00\x00\x00\x80\xB1\xEA\x92\x8F"
	if got, err := ReadSeekTable(strings.NewReader(with), int64(len(with))); err != nil || !slices.Equal(got, []FrameInfo{{6, 9}}) {
		t.Errorf("a table with checksums: %v, %v", got, err)
	}
	if _, err := ReadSeekTable(strings.NewReader("short"), 5); !errors.Is(err, ErrNoSeekTable) {
		t.Error(err)
	}
}
