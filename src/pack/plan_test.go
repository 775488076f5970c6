package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
)

func TestPlanGivesTheTarStreamFromEveryOffset(t *testing.T) {
	files := tree{
		"a":                                  nil,
		"b":                                  []byte("b"),
		"block":                              bytes.Repeat([]byte("x"), blockSize),
		"large":                              mixed(1, 300_000),
		"output/" + strings.Repeat("n", 150): []byte("a name for PAX"),
		"output/ünï/cödé":                    []byte("another"),
		"output/with\r\n%lines":              []byte("percent-encoded in the manifest"),
		"output/back\\slash \x01":            []byte("control"),
		strings.Repeat("d/", 500) + "deep":   []byte("deep"),
	}
	for i := range 600 { // several marks, and a manifest that is not kept
		files[fmt.Sprintf("many/%03d", i)] = bytes.Repeat([]byte{byte(i)}, i*7%1500)
	}
	c := makeContent(t, files)
	want := c.tar(t)
	p := plan(t, c.write(t))
	if p.TarSize() != int64(len(want)) {
		t.Fatalf("TarSize %d, want %d", p.TarSize(), len(want))
	}
	if p.Facts() != c.facts(t) {
		t.Fatalf("facts %+v, want %+v", p.Facts(), c.facts(t))
	}
	if p.kept[manifestTag] != nil {
		t.Fatal("the manifest is short enough to be kept: the test is to read it again")
	}
	all := make([]byte, len(want))
	// Every offset near a boundary of blocks would be too slow; a step prime to 512 meets all residues.
	for from := 0; from <= len(want); from += 997 {
		cur, err := p.cursor(int64(from))
		if err != nil {
			t.Fatal(err)
		}
		n := min(len(want)-from, 5000)
		if from%(997*50) == 0 {
			n = len(want) - from
		}
		got := all[:n]
		if err := cur.fill(got); err != nil {
			t.Fatal(err)
		}
		cur.close()
		if !bytes.Equal(got, want[from:from+n]) {
			t.Fatalf("the stream from offset %d differs", from)
		}
	}
	for _, from := range []int64{-1, p.TarSize() + 1} {
		if _, err := p.cursor(from); err == nil {
			t.Errorf("offset %d is accepted", from)
		}
	}
	// And archive/tar sees the same files.
	r := tar.NewReader(bytes.NewReader(want))
	n := 0
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(h.Name, c.id.String()+"/")
		b, _ := io.ReadAll(r)
		if data, ok := c.files[name]; n >= len(tagFiles) && (!ok || !bytes.Equal(b, data)) {
			t.Errorf("archive/tar reads %q differently", name)
		}
		n++
	}
	if n != len(c.files)+len(tagFiles) {
		t.Errorf("archive/tar sees %d files", n)
	}
}

// A sparse file of more than 8 GiB needs a PAX header; what is behind it is read without reading it.
func TestPlanOfMoreThan8GiB(t *testing.T) {
	c := makeContent(t, tree{"huge": nil, "z": []byte("behind")})
	const huge = 9 << 30
	size := int64(huge)
	for _, b := range c.files {
		size += int64(len(b))
	}
	info := strings.Replace(string(c.tags[bag.InfoFile]), bag.LabelOxum+": ", bag.LabelOxum+": "+fmt.Sprint(size)+".3\nOld: ", 1)
	c.tags[bag.InfoFile] = []byte(info)
	c.sealTags()
	dir := c.write(t)
	if err := os.Truncate(filepath.Join(dir, "data/huge"), huge); err != nil {
		t.Fatal(err)
	}
	p := plan(t, dir)
	tail := make([]byte, endSize+blockSize*2)
	cur, err := p.cursor(p.TarSize() - int64(len(tail)))
	if err != nil {
		t.Fatal(err)
	}
	defer cur.close()
	if err := cur.fill(tail); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(tail), c.id.String()+"/data/z\x00") || string(tail[blockSize:blockSize+6]) != "behind" {
		t.Errorf("the stream behind the huge file is %q", tail[:600])
	}
	// The headers: one block more for the file itself, one for its records, one for their header.
	h, err := appendHeader(nil, c.id.String(), "data/huge", huge)
	if err != nil || len(h) != 3*blockSize {
		t.Fatalf("header of %d bytes, %v", len(h), err)
	}
	hdr, err := tar.NewReader(bytes.NewReader(h)).Next()
	if err != nil || hdr.Size != huge {
		t.Errorf("archive/tar reads %+v, %v", hdr, err)
	}
}

func TestPlanNoticesWhatChanged(t *testing.T) {
	type change func(t *testing.T, dir string)
	set := func(name, content string) change {
		return func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, name))
			writeFile(t, filepath.Join(dir, name), []byte(content))
		}
	}
	link := func(name, target string) change {
		return func(t *testing.T, dir string) {
			old := filepath.Join(dir, name)
			if err := os.Rename(old, filepath.Join(filepath.Dir(dir), "moved")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		change    change
		want      code.Code
		planned   bool // NewPlan may succeed
		afterPlan bool
		detail    string
	}{
		"shorter":             {set("data/out/f", "123456"), code.Damaged, false, false, "does not add up"},
		"longer":              {set("data/out/f", "12345678901"), code.Damaged, false, false, "does not add up"},
		"missing":             {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "data/out/f")) }, code.Damaged, false, false, "no such file"},
		"shorter later":       {set("data/out/f", "123456"), code.Damaged, true, true, "has 6 bytes, not the 10"},
		"longer later":        {set("data/out/f", "12345678901"), code.Damaged, true, true, "has 11 bytes, not the 10"},
		"empty no longer":     {set("data/out/empty", "x"), code.Damaged, true, true, "has 1 bytes, not the 0"},
		"missing later":       {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "data/out/f")) }, code.Damaged, true, true, "no such file"},
		"empty missing later": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "data/out/empty")) }, code.Damaged, true, true, "no such file"},
		"a link":              {link("data/out/f", "../../../moved"), code.Damaged, false, false, "not a regular file"},
		"a link later":        {link("data/out/f", "../../../moved"), code.Damaged, true, true, "not a regular file"},
		"a linked directory":  {link("data/out", "../../moved"), code.Damaged, false, false, "not a directory"},
		"linked dir later":    {link("data/out", "../../moved"), code.Damaged, true, true, "not a regular file"},
		"a FIFO":              {fifo("data/out/f"), code.Damaged, false, false, "not a regular file"},
		"a FIFO later":        {fifo("data/out/f"), code.Damaged, true, true, "not a regular file"},
		"a directory": {func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "data/out/f"))
			os.Mkdir(filepath.Join(dir, "data/out/f"), 0o755)
		}, code.Damaged, false, false, "not a regular file"},
		"tag file":       {set(bag.Files, "x"), code.Damaged, false, false, "files.jsonl"},
		"tag file later": {set(bag.Files, "x"), code.Damaged, true, true, "files.jsonl has 1 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			c := makeContent(t, tree{"out/f": []byte("1234567890"), "out/empty": nil, "out/g": []byte("g")})
			dir := c.write(t)
			if !test.afterPlan {
				test.change(t, dir)
			}
			p, err := NewPlan(dir)
			if err == nil {
				defer p.Close()
				if !test.planned {
					t.Fatal("the plan was made")
				}
				test.change(t, dir)
				_, err = NewPacker(Options{Workers: 1}).Small(p)
				s := NewPacker(Options{Workers: 1}).Stream(context.Background(), p, 0)
				defer s.Close()
				_, serr := s.Next()
				if fmt.Sprint(err) != fmt.Sprint(serr) {
					t.Errorf("Small says %v, Stream says %v", err, serr)
				}
			}
			wantError(t, err, test.detail, c.id.String())
			if got, _ := code.Of(err); got != test.want {
				t.Errorf("code %q, want %q: %v", got, test.want, err)
			}
		})
	}
}

func fifo(name string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		name := filepath.Join(dir, name)
		os.Remove(name)
		if err := unix.Mkfifo(name, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadErrorCodes(t *testing.T) {
	for _, test := range []struct {
		err  error
		want code.Code
	}{
		{&os.PathError{Op: "read", Path: "x", Err: unix.EIO}, code.ReadFailed},
		{&os.PathError{Op: "open", Path: "x", Err: unix.EACCES}, code.ReadFailed},
		{&os.PathError{Op: "open", Path: "x", Err: unix.ENOENT}, code.Damaged},
		{&os.PathError{Op: "open", Path: "x", Err: unix.ENAMETOOLONG}, code.Damaged},
		{errors.New("x is shorter than it was"), code.Damaged},
		{code.New(code.ReadFailed, "inner"), code.ReadFailed},
	} {
		if got, _ := code.Of(readError("e", test.err)); got != test.want {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
}

func TestOpenPlanStopsAndReports(t *testing.T) {
	files := tree{}
	for i := range 200 {
		files[fmt.Sprint(i)] = nil
	}
	dir := makeContent(t, files).write(t)
	calls := 0
	p, err := OpenPlan(context.Background(), dir, func(int64) { calls++ })
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	p.Close() // twice is harmless
	if calls != 4 {
		t.Errorf("progress was called %d times, want 4", calls)
	}
	if _, err := p.cursor(0); err == nil {
		t.Error("a closed plan can be read")
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := OpenPlan(ctx, dir, func(int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}

func TestTagFilesAreThoseOfEpisodes(t *testing.T) {
	if got := fmt.Sprint(episode.TagFiles()); got != fmt.Sprint(tagFiles) || tagFiles[manifestTag] != bag.Manifest {
		t.Errorf("tag files %v, those of episodes are %s", tagFiles, got)
	}
}
