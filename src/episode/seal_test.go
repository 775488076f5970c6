package episode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"cis490/src/bag"
	"cis490/src/code"
)

// tb is what helpers need of a test or a property.
type tb interface {
	Helper()
	Errorf(format string, a ...any)
	Fatal(a ...any)
}

// node is one thing of a tree as plain system calls show it.
type node struct {
	Kind    fs.FileMode // type and the owner's x bit of a file
	ModTime string
	Content string
}

// treeOf reads a tree without this project's own walker.
func treeOf(t tb, dir string) map[string]node {
	t.Helper()
	out := map[string]node{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		n := node{Kind: st.Mode().Type(), ModTime: st.ModTime().UTC().Format(time.RFC3339Nano)}
		switch {
		case st.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			n.Kind |= st.Mode() & 0o100
			n.Content = string(b)
		case st.Mode().Type() == fs.ModeSymlink:
			n.Content, _ = os.Readlink(p)
		}
		rel, _ := filepath.Rel(dir, p)
		out[rel] = n
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t testing.TB, path, s string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
}

// check looks at a sealed episode in every way there is.
func check(t tb, s Sealed) {
	t.Helper()
	got, err := Verify(context.Background(), s.Dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got != s.Facts {
		t.Errorf("read %+v, sealed %+v", got, s.Facts)
	}
	if filepath.Base(s.Dir) != s.ID.String() || filepath.Base(filepath.Dir(s.Dir)) != "sealed" {
		t.Errorf("sealed in %s", s.Dir)
	}
	open, err := os.ReadDir(filepath.Join(s.Dir, "../../open"))
	if err != nil || len(open) > 0 {
		t.Errorf("left under open/: %v, %v", open, err)
	}
}

// fastDir is a temporary directory in memory where there is one: these tests fsync a lot.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cis490-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// growTree draws a tree with all that is hard in names, times and modes.
func growTree(t *rapid.T, dir string) {
	elem := rapid.OneOf(
		rapid.StringMatching(`[a-c.~ %\r\n\t\\*"-]{1,3}`),
		rapid.SampledFrom([]string{"a", "a.b", "é", "e\u0301", "…", "%0A", "bag-info.txt", "data", "run.json", "-", "~", strings.Repeat("x", 255), "\U0001f600"}),
	).Filter(func(s string) bool { return s != "." && s != ".." })
	var made []string
	must := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EISDIR) {
			t.Fatal(err)
		}
	}
	for range rapid.IntRange(0, 12).Draw(t, "n") {
		p := filepath.Join(dir, filepath.Join(rapid.SliceOfN(elem, 1, 4).Draw(t, "path")...))
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			must(os.MkdirAll(p, 0o755))
		default:
			must(os.MkdirAll(filepath.Dir(p), 0o755))
			size := rapid.SampledFrom([]int{0, 1, 4096, 5000}).Draw(t, "size")
			mode := rapid.SampledFrom([]os.FileMode{0o644, 0o755, 0o400, 0o611}).Draw(t, "mode")
			if _, err := os.Lstat(p); err == nil {
				continue
			}
			must(os.WriteFile(p, bytes.Repeat([]byte{'x'}, size), mode))
		}
		made = append(made, p)
	}
	for _, p := range made {
		sec := rapid.Int64Range(-3e9, 9e9).Draw(t, "sec")
		ts := unix.Timespec{Sec: sec, Nsec: rapid.Int64Range(0, 999999999).Draw(t, "nsec")}
		must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, 0))
	}
}

func TestSealedTreesAreEqual(t *testing.T) {
	base := fastDir(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		src, data := filepath.Join(base, fmt.Sprint(n), "src"), filepath.Join(base, fmt.Sprint(n), "data")
		defer os.RemoveAll(filepath.Join(base, fmt.Sprint(n)))
		if err := os.MkdirAll(src, 0o755); err != nil {
			t.Fatal(err)
		}
		growTree(t, src)
		want := treeOf(t, src)
		move := rapid.Bool().Draw(t, "move")
		s, err := SealDir(context.Background(), src, data, SealOptions{Host: "lab-1", Move: move})
		if err != nil {
			t.Fatal(err)
		}
		check(t, s)
		if d := cmp.Diff(want, treeOf(t, filepath.Join(s.Dir, "data/output"))); d != "" || len(s.Skipped) > 0 {
			t.Fatalf("%v %s", s.Skipped, d)
		}
		if _, err := os.Lstat(src); errors.Is(err, fs.ErrNotExist) != move {
			t.Fatalf("moved %v: %v", move, err)
		}
		// files.jsonl says what the file system says.
		b, err := os.ReadFile(filepath.Join(s.Dir, bag.Files))
		if err != nil {
			t.Fatal(err)
		}
		files, err := bag.ParseFiles(b)
		if err != nil {
			t.Fatal(err)
		}
		said := map[string]node{}
		for _, m := range files {
			rel, ok := strings.CutPrefix(m.Path+"/", OutputPath+"/")
			if !ok {
				continue
			}
			n := node{ModTime: m.ModTime.Format(time.RFC3339Nano)}
			switch {
			case m.Dir:
				n.Kind = fs.ModeDir
			case m.Exec:
				n.Kind = 0o100
			}
			said[filepath.Clean(rel)] = n
		}
		for p, n := range want {
			n.Content = ""
			want[p] = n
		}
		if d := cmp.Diff(want, said); d != "" {
			t.Fatal(d)
		}
	})
}

func TestStockToolsAcceptASealedEpisode(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	for _, p := range []string{"a", "sub/b c", `back\slash`, "-", "~x", "é/…", " lead", "*star"} {
		write(t, filepath.Join(src, p), "content of "+p)
	}
	s, err := SealDir(context.Background(), src, filepath.Join(dir, "data"), SealOptions{Host: "lab-1", Organization: "The lab"})
	if err != nil {
		t.Fatal(err)
	}
	check(t, s)
	for _, m := range []string{bag.Manifest, bag.TagManifest} {
		cmd := exec.Command("sha256sum", "-c", "--strict", "--quiet", m)
		cmd.Dir = s.Dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("sha256sum -c %s: %v\n%s", m, err, out)
		}
	}
	// The Library of Congress' own validator, where it is installed (Debian: bagit).
	for _, tool := range []string{"bagit", "bagit.py"} {
		if path, err := exec.LookPath(tool); err == nil {
			if out, err := exec.Command(path, "--validate", s.Dir).CombinedOutput(); err != nil {
				t.Errorf("%s --validate: %v\n%s", tool, err, out)
			}
		}
	}
	info, err := os.ReadFile(filepath.Join(s.Dir, bag.InfoFile))
	if err != nil || !strings.Contains(string(info), "\nCis490-Host: lab-1\n") || !strings.HasPrefix(string(info), "Source-Organization: The lab\n") {
		t.Errorf("%s %v", info, err)
	}
}

func TestWhatCantTravelIsLeftOutByName(t *testing.T) {
	for _, move := range []bool{false, true} {
		t.Run(fmt.Sprintf("move=%v", move), func(t *testing.T) {
			dir := t.TempDir()
			src := filepath.Join(dir, "src")
			write(t, filepath.Join(src, "keep/file"), "k")
			write(t, filepath.Join(src, "only-links/x"), "")
			if err := os.Remove(filepath.Join(src, "only-links/x")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(src, "bad\xff/inside/file"), "data that must not be lost")
			write(t, filepath.Join(src, "keep/bad\xfe"), "nor this")
			for p, target := range map[string]string{"keep/link": "file", "out": "/etc/passwd", "dangling": "n\xffone", "only-links/dir": "../keep"} {
				if err := os.Symlink(target, filepath.Join(src, p)); err != nil {
					t.Fatal(err)
				}
			}
			if err := unix.Mkfifo(filepath.Join(src, "pipe"), 0o644); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(src, "s"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			want := map[string]string{
				"bad\xff": "name-not-utf-8", "keep/bad\xfe": "name-not-utf-8", "keep/link": "symlink file", "out": "symlink /etc/passwd",
				"dangling": "symlink n\xffone", "only-links/dir": "symlink ../keep", "pipe": "fifo", "s": "socket",
			}
			if os.Geteuid() == 0 && unix.Mknod(filepath.Join(src, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) == nil {
				want["null"] = "character-device"
			}
			before := treeOf(t, src)
			s, err := SealDir(context.Background(), src, filepath.Join(dir, "data"), SealOptions{Host: "lab-1", Move: move})
			if err != nil {
				t.Fatal(err)
			}
			check(t, s)
			got := map[string]string{}
			for _, m := range s.Skipped {
				got[strings.TrimPrefix(m.Path, "data/output/")] = strings.TrimSpace(m.Skipped + " " + m.Target)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			inside := treeOf(t, filepath.Join(s.Dir, "data/output"))
			for _, p := range []string{"keep", "keep/file", "only-links"} {
				if _, ok := inside[p]; !ok {
					t.Errorf("%s did not travel", p)
				}
			}
			if len(inside) != 4 {
				t.Errorf("the episode has %v", inside)
			}
			if !move {
				if d := cmp.Diff(before, treeOf(t, src)); d != "" {
					t.Errorf("the source changed: %s", d)
				}
				return
			}
			// What was left out is where it was, whole; what travelled is gone from there.
			after := treeOf(t, src)
			for p := range want {
				if before[p].Content != after[p].Content || before[p].Kind != after[p].Kind {
					t.Errorf("%q was %v and is %v", p, before[p], after[p])
				}
			}
			if after["bad\xff/inside/file"].Content != "data that must not be lost" {
				t.Error("what is below a directory that can't travel is lost")
			}
			if _, ok := after["keep/file"]; ok {
				t.Error("keep/file is in both places")
			}
		})
	}
}

func TestPathsThatAreTooLong(t *testing.T) {
	for _, move := range []bool{false, true} {
		dir := t.TempDir()
		src := filepath.Join(dir, "src")
		if err := os.Mkdir(src, 0o755); err != nil {
			t.Fatal(err)
		}
		// Directories of 200 bytes each, beyond what a path can name; files in each of them.
		fd, err := unix.Open(src, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Repeat("d", 200)
		for range 25 {
			for _, f := range []string{"f", strings.Repeat("g", 250)} {
				h, err := unix.Openat(fd, f, unix.O_CREAT|unix.O_WRONLY, 0o644)
				if err != nil {
					t.Fatal(err)
				}
				unix.Close(h)
			}
			if err := unix.Mkdirat(fd, name, 0o755); err != nil {
				t.Fatal(err)
			}
			next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			fd = next
		}
		unix.Close(fd)
		s, err := SealDir(context.Background(), src, filepath.Join(dir, "d"), SealOptions{Host: "lab-1", Move: move})
		if err != nil {
			t.Fatal(err)
		}
		check(t, s)
		if len(s.Skipped) == 0 {
			t.Error("nothing was left out")
		}
		for _, m := range s.Skipped {
			if m.Skipped != bag.SkippedLong || len(m.Path) <= bag.MaxPath {
				t.Errorf("%s: %d bytes", m.Skipped, len(m.Path))
			}
		}
		if move {
			// 25 files of each name, in one place or the other.
			n := 0
			for _, root := range []string{src, s.Dir} {
				out, err := exec.Command("find", root, "-type", "f", "-name", "f", "-o", "-type", "f", "-name", "ggg*").Output()
				if err != nil {
					t.Fatal(err)
				}
				n += bytes.Count(out, []byte("\n"))
			}
			if n != 50 {
				t.Errorf("%d of 50 files are left", n)
			}
		}
	}
}

// onceOn calls fn at the first progress.
func onceOn(fn func()) func(int64) {
	var once sync.Once
	return func(int64) { once.Do(fn) }
}

func TestSourceThatChanges(t *testing.T) {
	grow := func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("more"); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, src string)
		path   string // that is named
	}{
		{"a file grows", func(t *testing.T, src string) { grow(t, filepath.Join(src, "a")) }, "a"},
		{"another file grows", func(t *testing.T, src string) { grow(t, filepath.Join(src, "b")) }, "b"},
		{"a file comes", func(t *testing.T, src string) { grow(t, filepath.Join(src, "new")) }, "new"},
		{"a file becomes executable", func(t *testing.T, src string) {
			if err := os.Chmod(filepath.Join(src, "b"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "b"},
	} {
		for _, mode := range []string{"copy", "move", "lenient"} {
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				dir := fastDir(t)
				src, data := filepath.Join(dir, "src"), filepath.Join(dir, "data")
				write(t, filepath.Join(src, "a"), strings.Repeat("a", 3*copyBuffer))
				write(t, filepath.Join(src, "b"), strings.Repeat("b", 3*copyBuffer))
				// Every time that anything is read: a file that is copied again changes again.
				opt := SealOptions{Host: "lab-1", Workers: 1, Move: mode == "move", AllowChanged: mode == "lenient"}
				n := 0
				opt.Progress = func(int64) {
					// One worker: b is read in the end, when n is 4 to 6 for a first pass.
					if n++; n == 2 || n == 6 || c.path == "a" || c.path == "b" {
						c.change(t, src)
					}
				}
				s, err := SealDir(context.Background(), src, data, opt)
				if mode == "lenient" {
					if err != nil {
						t.Fatal(err)
					}
					check(t, s)
					if c.path != "new" && !slices.Contains(s.Changed, c.path) {
						t.Errorf("changed: %v", s.Changed)
					}
					return
				}
				if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), c.path) {
					t.Fatalf("got %v", err)
				}
				if left, err := os.ReadDir(filepath.Join(data, "open")); err != nil || len(left) > 0 {
					t.Errorf("left under open/: %v, %v", left, err)
				}
				if left, err := os.ReadDir(filepath.Join(data, "sealed")); err != nil || len(left) > 0 {
					t.Errorf("sealed: %v, %v", left, err)
				}
				if b, err := os.ReadFile(filepath.Join(src, "a")); err != nil || len(b) < 3*copyBuffer {
					t.Errorf("the source is damaged: %v", err)
				}
			})
		}
	}
}

func TestAFileBecomesALink(t *testing.T) {
	dir := fastDir(t)
	src := filepath.Join(dir, "src")
	write(t, filepath.Join(dir, "secret"), "secret")
	for i := range 300 { // more than the queue to the workers holds
		write(t, filepath.Join(src, fmt.Sprintf("f%03d", i)), "x")
	}
	write(t, filepath.Join(src, "z/f"), "x")
	s, err := SealDir(context.Background(), src, filepath.Join(dir, "data"), SealOptions{Host: "lab-1", Workers: 1, Progress: onceOn(func() {
		for _, p := range []string{"f299", "z"} {
			if err := os.RemoveAll(filepath.Join(src, p)); err != nil {
				t.Error(err)
			}
		}
		if err := os.Symlink("../secret", filepath.Join(src, "f299")); err != nil {
			t.Error(err)
		}
		if err := os.Symlink("..", filepath.Join(src, "z")); err != nil {
			t.Error(err)
		}
	})})
	// The walk may have been there before or after; in neither case is the link followed.
	if err == nil {
		check(t, s)
		for p, n := range treeOf(t, s.Dir) {
			if n.Content == "secret" {
				t.Errorf("%s was reached through a link", p)
			}
		}
	} else if !errors.Is(err, ErrChanged) {
		t.Error(err)
	}
}

func TestSealRefuses(t *testing.T) {
	dir := t.TempDir()
	src, data := filepath.Join(dir, "src"), filepath.Join(dir, "data")
	write(t, filepath.Join(src, "a"), "a")
	write(t, filepath.Join(data, "mine/b"), "b")
	inside := filepath.Join(src, "sub/data")
	for name, c := range map[string]struct {
		src, data string
		opt       SealOptions
	}{
		"nothing there":            {filepath.Join(dir, "none"), data, SealOptions{Host: "lab-1"}},
		"a file":                   {filepath.Join(src, "a"), data, SealOptions{Host: "lab-1"}},
		"no host":                  {src, data, SealOptions{}},
		"bad host":                 {src, data, SealOptions{Host: "Lab One"}},
		"bad outcome":              {src, data, SealOptions{Host: "lab-1", Outcome: "good"}},
		"bad organization":         {src, data, SealOptions{Host: "lab-1", Organization: "a\nPayload-Oxum: 1.1"}},
		"into itself":              {src, src, SealOptions{Host: "lab-1"}},
		"into what is inside":      {src, inside, SealOptions{Host: "lab-1"}},
		"move from data":           {filepath.Join(data, "mine"), data, SealOptions{Host: "lab-1", Move: true}},
		"move of data":             {data, data, SealOptions{Host: "lab-1", Move: true}},
		"move into what is inside": {src, inside, SealOptions{Host: "lab-1", Move: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := SealDir(context.Background(), c.src, c.data, c.opt); err == nil {
				t.Errorf("sealed as %s", s.Dir)
			}
			for _, d := range []string{data, inside, src} {
				for _, sub := range []string{"open", "sealed"} {
					if left, _ := os.ReadDir(filepath.Join(d, sub)); len(left) > 0 {
						t.Errorf("left in %s/%s: %v", d, sub, left)
					}
				}
			}
			if b, err := os.ReadFile(filepath.Join(src, "a")); err != nil || string(b) != "a" {
				t.Fatalf("the source is damaged: %v", err)
			}
		})
	}
}

func TestSealTwiceUnderOneID(t *testing.T) {
	dir := t.TempDir()
	src, data := filepath.Join(dir, "src"), filepath.Join(dir, "data")
	write(t, filepath.Join(src, "a"), "a")
	s, err := SealDir(context.Background(), src, data, SealOptions{Host: "lab-1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := SealDir(context.Background(), src, data, SealOptions{Host: "lab-1", ID: s.ID}); err == nil {
		t.Error("a second episode was sealed under the id of the first")
	}
	check(t, s)
}

func TestSealStopsWithItsContext(t *testing.T) {
	for _, move := range []bool{false, true} {
		dir := fastDir(t)
		src, data := filepath.Join(dir, "src"), filepath.Join(dir, "data")
		for i := range 200 {
			write(t, filepath.Join(src, fmt.Sprint(i)), "x")
		}
		before := treeOf(t, src)
		ctx, cancel := context.WithCancel(context.Background())
		_, err := SealDir(ctx, src, data, SealOptions{Host: "lab-1", Move: move, Progress: onceOn(cancel)})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if left, err := os.ReadDir(filepath.Join(data, "open")); err != nil || len(left) > 0 {
			t.Errorf("left under open/: %v, %v", left, err)
		}
		if d := cmp.Diff(before, treeOf(t, src)); d != "" {
			t.Error(d)
		}
	}
}

func TestSparseFilesStaySparse(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	write(t, filepath.Join(src, "s"), "begin")
	f, err := os.OpenFile(filepath.Join(src, "s"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at, s := range map[int64]string{10 << 20: "middle", 20<<20 - 3: "end"} {
		if _, err := f.WriteAt([]byte(s), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(30<<20 + 7); err != nil { // and ends in a hole
		t.Fatal(err)
	}
	f.Close()
	s, err := SealDir(context.Background(), src, filepath.Join(dir, "data"), SealOptions{Host: "lab-1"})
	if err != nil {
		t.Fatal(err)
	}
	check(t, s)
	if out, err := exec.Command("cmp", filepath.Join(src, "s"), filepath.Join(s.Dir, "data/output/s")).CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(s.Dir, "data/output/s"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the copy takes %d bytes on the disk: %v", st.Blocks*512, err)
	}
}

func TestOptionsReachTheEpisode(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "src/a"), "a")
	id := NewID()
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	s, err := SealDir(context.Background(), filepath.Join(dir, "src"), filepath.Join(dir, "data"), SealOptions{
		ID: id, Host: "lab-9", Workload: "w", Description: "d", Started: at, Ended: at.Add(time.Hour), Outcome: Truncated, Reason: "power cut", Agent: "t 1",
	})
	if err != nil {
		t.Fatal(err)
	}
	check(t, s)
	e, err := Open(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	r := e.Run
	if s.ID != id || s.Host != "lab-9" || r.Workload != "w" || r.Description != "d" || r.Outcome != Truncated || r.Reason != "power cut" ||
		!r.Started.Realtime.Equal(at) || s.Started != Seconds(at) || s.Ended != Seconds(at.Add(time.Hour)) || e.Info.Get("Bag-Software-Agent") != "t 1" {
		t.Errorf("%+v %+v", s, r)
	}
	if _, err := Open(filepath.Join(s.Dir, "..")); err == nil {
		t.Error("a directory of another name was opened")
	}
	if _, err := OpenCopy(s.Dir); err != nil {
		t.Error(err)
	}
}

func TestReadFactsTellsDamageFromFailure(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "src/a"), "a")
	fresh := func(t *testing.T) string {
		s, err := SealDir(context.Background(), filepath.Join(dir, "src"), t.TempDir(), SealOptions{Host: "lab-1"})
		if err != nil {
			t.Fatal(err)
		}
		return s.Dir
	}
	appendTo := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("x"); err != nil {
				t.Fatal(err)
			}
		}
	}
	without := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, damage := range map[string]func(t *testing.T, dir string){
		"tagmanifest changed": appendTo(bag.TagManifest), "bagit.txt changed": appendTo(bag.Declaration), "bag-info.txt changed": appendTo(bag.InfoFile),
		"manifest changed": appendTo(bag.Manifest), "files.jsonl changed": appendTo(bag.Files), "run.json changed": appendTo(RunPath),
		"no tagmanifest": without(bag.TagManifest), "no bagit.txt": without(bag.Declaration), "no manifest": without(bag.Manifest),
		"no files.jsonl": without(bag.Files), "no run.json": without(RunPath), "no data": without("data"),
		"a sixth tag file": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "notes.txt"), "") },
		"run.json is a link": func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, RunPath), filepath.Join(dir, "../run.json")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("../../run.json", filepath.Join(dir, RunPath)); err != nil {
				t.Fatal(err)
			}
		},
		"bag-info.txt is a FIFO": func(t *testing.T, dir string) {
			without(bag.InfoFile)(t, dir)
			if err := unix.Mkfifo(filepath.Join(dir, bag.InfoFile), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"manifest is a directory": func(t *testing.T, dir string) {
			without(bag.Manifest)(t, dir)
			if err := os.Mkdir(filepath.Join(dir, bag.Manifest), 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"tagmanifest is huge": func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, bag.TagManifest), 1<<40); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ep := fresh(t)
			damage(t, ep)
			_, err := ReadFacts(ep)
			if c, ok := code.Of(err); !ok || c != code.Damaged {
				t.Errorf("got %v, want damaged", err)
			}
			if _, err := Verify(context.Background(), ep, nil); err == nil {
				t.Error("Verify found nothing")
			}
		})
	}
	t.Run("payload changed", func(t *testing.T) {
		ep := fresh(t)
		if _, err := ReadFacts(ep); err != nil {
			t.Error(err)
		}
		appendTo("data/output/a")(t, ep)
		if _, err := ReadFacts(ep); err != nil {
			t.Errorf("reading the facts looks at the payload: %v", err)
		}
		_, err := Verify(context.Background(), ep, nil)
		if c, _ := code.Of(err); c != code.Damaged {
			t.Errorf("got %v, want damaged", err)
		}
	})
	t.Run("another name", func(t *testing.T) {
		ep := fresh(t)
		for _, name := range []string{NewID().String(), "x"} {
			other := filepath.Join(filepath.Dir(ep), name)
			if err := os.Rename(ep, other); err != nil {
				t.Fatal(err)
			}
			if c, _ := code.Of(second(ReadFacts(other))); c != code.Damaged {
				t.Errorf("under %s: %s", name, c)
			}
			ep = other
		}
	})
	t.Run("gone", func(t *testing.T) {
		_, err := ReadFacts(filepath.Join(dir, NewID().String()))
		if c, _ := code.Of(err); c != code.ReadFailed || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want read-failed and that it is not there", err)
		}
	})
	t.Run("a file of that name", func(t *testing.T) {
		p := filepath.Join(dir, NewID().String())
		write(t, p, "")
		if c, _ := code.Of(second(ReadFacts(p))); c != code.Damaged {
			t.Errorf("got %s, want damaged", c)
		}
	})
}

func second[A any](_ A, err error) error { return err }

// files.jsonl is a tag file like others to BagIt; Faults looks at what it says.
func TestFaultsOfFilesJSONL(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(lines []string) []string
		want string
	}{
		"a line less":  {func(l []string) []string { return l[:len(l)-1] }, "data/run.json: is in the payload and has no line"},
		"no lines":     {func(l []string) []string { return nil }, "data/output/a: is in the payload and has no line"},
		"a line more":  {func(l []string) []string { return append(l, `{"path":"data/x"}`+"\n") }, "data/x: is not in the payload"},
		"not sorted":   {func(l []string) []string { slices.Reverse(l); return l }, "not sorted"},
		"line twice":   {func(l []string) []string { return slices.Insert(l, 1, l[1]) }, "not sorted"},
		"no JSON":      {func(l []string) []string { return append(l, "x\n") }, "invalid character"},
		"no final end": {func(l []string) []string { l[len(l)-1] = strings.TrimSuffix(l[len(l)-1], "\n"); return l }, "does not end in LF"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "src/a"), "a")
			s, err := SealDir(context.Background(), filepath.Join(dir, "src"), filepath.Join(dir, "data"), SealOptions{Host: "lab-1"})
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(s.Dir, bag.Files))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.SplitAfter(string(b), "\n")
			write(t, filepath.Join(s.Dir, bag.Files), strings.Join(c.edit(lines[:len(lines)-1]), ""))
			out, err := exec.Command("sh", "-c", "cd '"+s.Dir+"' && sha256sum bag-info.txt bagit.txt files.jsonl manifest-sha256.txt > tagmanifest-sha256.txt").CombinedOutput()
			if err != nil {
				t.Fatalf("%v %s", err, out)
			}
			if _, err := ReadFacts(s.Dir); err != nil {
				t.Fatal(err)
			}
			bg, err := bag.Open(s.Dir)
			if err != nil {
				t.Fatal(err)
			}
			defer bg.Close()
			faults, err := Faults(context.Background(), bg, nil)
			named := func(f bag.Fault) bool { return f.Kind == bag.ProfileBreach && strings.Contains(f.String(), c.want) }
			if err != nil || !slices.ContainsFunc(faults, named) {
				t.Errorf("got %v, %v", faults, err)
			}
		})
	}
}

func TestMake(t *testing.T) {
	data := filepath.Join(fastDir(t), "data")
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	specs := []Spec{
		{Run: Run{Host: "lab-1", Workload: "empty"}},
		{Run: Run{ID: NewID(), Host: "lab-2", Workload: "w", Outcome: Failed, Started: Moment{Realtime: at}, Ended: Moment{Realtime: at.Add(time.Second)}},
			Organization: "o", Files: []File{
				{Path: "output/a/b.csv", Data: []byte("1,2\n"), Exec: true, ModTime: at},
				{Path: "output/a/c%\n", Data: nil},
				{Path: "stdout.log", Data: []byte("hello\n")},
			}},
	}
	for range 100 {
		specs = append(specs, Spec{Run: Run{Host: "lab-1", Workload: "w"}, Files: []File{{Path: "output/x", Data: make([]byte, 1000)}}})
	}
	made, err := Make(context.Background(), data, specs...)
	if err != nil || len(made) != len(specs) {
		t.Fatal(len(made), err)
	}
	for _, s := range made {
		check(t, s)
	}
	two := made[1]
	if two.ID != specs[1].Run.ID || two.Host != "lab-2" || two.Started != at || two.Ended != at.Add(time.Second) || two.Files != 5 {
		t.Errorf("%+v", two)
	}
	st, err := os.Stat(filepath.Join(two.Dir, "data/output/a/b.csv"))
	if err != nil || st.Mode()&0o100 == 0 || !st.ModTime().Equal(at) {
		t.Error(st, err)
	}
	one, err := Make(context.Background(), data, Spec{Run: Run{Host: "lab-1", Workload: "w"}})
	if err != nil {
		t.Fatal(err)
	}
	check(t, one[0])
	if none, err := Make(context.Background(), data); err != nil || len(none) != 0 {
		t.Error(none, err)
	}
}

func TestMakeRefuses(t *testing.T) {
	data := filepath.Join(fastDir(t), "data")
	good := Spec{Run: Run{Host: "lab-1", Workload: "w"}}
	first, err := Make(context.Background(), data, good)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]Spec{
		"no host":      {Run: Run{Workload: "w"}},
		"leaves":       {Run: Run{Host: "lab-1", Workload: "w"}, Files: []File{{Path: "../x"}}},
		"file twice":   {Run: Run{Host: "lab-1", Workload: "w"}, Files: []File{{Path: "x"}, {Path: "x"}}},
		"its run.json": {Run: Run{Host: "lab-1", Workload: "w"}, Files: []File{{Path: "run.json"}}},
		"file as dir":  {Run: Run{Host: "lab-1", Workload: "w"}, Files: []File{{Path: "x"}, {Path: "x/y"}}},
		"id there":     {Run: Run{ID: first[0].ID, Host: "lab-1", Workload: "w"}},
		"bad outcome":  {Run: Run{Host: "lab-1", Workload: "w", Outcome: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := Make(context.Background(), data, good, bad, good); err == nil {
				t.Errorf("made %v", out)
			}
			for _, d := range []struct {
				name string
				n    int
			}{{"open", 0}, {"sealed", 1}} {
				if got, err := os.ReadDir(filepath.Join(data, d.name)); err != nil || len(got) != d.n {
					t.Errorf("%s has %v, %v", d.name, got, err)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Make(ctx, data, good); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
