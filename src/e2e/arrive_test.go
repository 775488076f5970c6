package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listed is the ids of the catalogue, as the operator's command gives them.
func listed(r *receiver) []string {
	r.t.Helper()
	out := r.cli("episodes", "list", "--json")
	var ids []string
	for line := range strings.Lines(out) {
		var row struct{ Receipt struct{ Episode string } }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			r.t.Fatalf("episodes list --json: %v\n%s", err, out)
		}
		ids = append(ids, row.Receipt.Episode)
	}
	slices.Sort(ids)
	return ids
}

// oddSource makes a tree with everything that travels, in its extremes. Without newlines sha256sum can check its manifest:
// BagIt writes CR, LF and % in percent-encoding (RFC 8493, section 2.1.3).
func oddSource(t *testing.T, percent bool) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), "run")
	put := func(name, content string, mode os.FileMode, at time.Time) {
		t.Helper()
		file := filepath.Join(dir, name)
		writeFile(t, file, []byte(content))
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, file, ts, 0); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC)
	put("run.sh", "#!/bin/sh\n", 0o755, at)
	put("data.bin", "x", 0o600, at.Add(1))
	put("empty", "", 0o644, at.Add(time.Hour))
	put("read-only", "ro", 0o444, at)
	put("with space", " ", 0o644, at)
	put("~tilde", "~", 0o644, at)
	put("-dash", "-", 0o644, at)
	put("back\\slash", `\`, 0o644, at)
	put("ünïcödé/日本語/😀", "u", 0o644, at)
	put("before-1970", "old", 0o644, time.Date(1965, 1, 2, 3, 4, 5, 6, time.UTC))
	put("far-ahead", "new", 0o644, time.Date(2200, 1, 2, 3, 4, 5, 999999999, time.UTC))
	put(strings.Repeat("n", 255), "the longest name", 0o644, at)
	put(strings.Repeat(strings.Repeat("d", 99)+"/", 12)+"deep", "longer than ustar can say", 0o644, at)
	for _, like := range []string{"bagit.txt", "manifest-sha256.txt", "run.json", "data/run.json", "files.jsonl"} {
		put(like, "looks like ours", 0o644, at)
	}
	if percent {
		put("100%", "%", 0o644, at)
		put("%0A", "not a newline", 0o644, at)
		put("two\nlines", "a newline", 0o644, at)
		put("carriage\rreturn", "CR", 0o644, at)
	}
	// The last block of a sparse file, and sizes around the frame's.
	sparse := filepath.Join(dir, "sparse")
	writeFile(t, sparse, []byte("head"))
	if err := os.Truncate(sparse, 3<<20+17); err != nil {
		t.Fatal(err)
	}
	for i, n := range []int64{511, 512, 513, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
		noise(t, filepath.Join(dir, "sizes", fmt.Sprint(i)), n)
	}
	for _, d := range []string{"void", "void/void/void", "beside/nothing"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWhatArrivedIsVerifiedByStockToolsAndUnpacksEqualToItsSource(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	sources := map[string]string{}
	nothing := filepath.Join(tempDir(t), "run")
	if err := os.Mkdir(nothing, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, src := range []string{oddSource(t, false), goTree(t), nothing} {
		sources[h.seal(src)] = src
	}
	h.start()
	eventually(t, 60*time.Second, h.drained)
	for id, src := range sources {
		archives := r.archives(id)
		if len(archives) != 1 {
			t.Fatalf("%s: stored %d times", id, len(archives))
		}
		bag := unpackByStockTools(t, archives[0], id)
		if out, _, status := try(t, "diff", "-r", src, filepath.Join(bag, "data", "output")); status != 0 && strings.Contains(out, "differ") {
			t.Errorf("%s: by tar alone the bytes are not the source's:\n%.2000s", src, out)
		}
		into := tempDir(t)
		command(t, program("cis490-episode"), "unpack", archives[0], "--into", into)
		command(t, program("cis490-episode"), "verify", filepath.Join(into, id))
		sameTrees(t, src, filepath.Join(into, id, "data", "output"))

		into = tempDir(t)
		r.cli("episodes", "extract", id, "--into", into)
		sameTrees(t, src, filepath.Join(into, id, "data", "output"))
		r.cli("episodes", "verify", id)
	}
}

// goTree is a part of the Go tree: some 700 real files.
func goTree(t *testing.T) string {
	t.Helper()
	root := strings.TrimSpace(command(t, "go", "env", "GOROOT"))
	src := filepath.Join(root, "src", "net")
	if resolved, err := filepath.EvalSymlinks(src); err == nil {
		src = resolved
	}
	return src
}

func TestNamesThatBagItEncodesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	src := oddSource(t, true)
	id := h.seal(src)
	h.start()
	eventually(t, 60*time.Second, h.drained)
	into := tempDir(t)
	command(t, program("cis490-episode"), "unpack", r.archives(id)[0], "--into", into)
	sameTrees(t, src, filepath.Join(into, id, "data", "output"))
}

func TestWhatCannotTravelIsNamedAndTheRestArrives(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	src := smallSource(t, "beside a link")
	if err := os.Symlink("/etc/passwd", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(src, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, status := try(t, program("cis490-episode"), "seal", src, "--into", h.data, "--host", h.name)
	if status != 1 || !strings.Contains(out+stderr, "link") || !strings.Contains(out+stderr, "pipe") {
		t.Errorf("status %d, want 1 with both names in:\n%s%s", status, out, stderr)
	}
	if n := len(h.sealed()); n != 1 {
		t.Errorf("%d are sealed, want the rest of it", n)
	}
	id := h.seal(src, "--allow-skipped")
	h.start()
	eventually(t, 20*time.Second, h.drained)
	bag := unpackByStockTools(t, r.archives(id)[0], id)
	for _, f := range []string{"link", "pipe"} {
		if err := os.Remove(filepath.Join(src, f)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(readFile(t, filepath.Join(bag, "files.jsonl")), f) {
			t.Errorf("files.jsonl does not say that %s was left out", f)
		}
	}
	into := tempDir(t)
	command(t, program("cis490-episode"), "unpack", r.archives(id)[0], "--into", into)
	sameTrees(t, src, filepath.Join(into, id, "data", "output"))
}
