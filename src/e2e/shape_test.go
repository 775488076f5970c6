package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	receiverMemory = 128 << 20
	sealerMemory   = 128 << 20 // it holds a name and a digest of each file
)

// TestExtremeEpisodesComeBackEqual is about episodes that are extreme in one way: CIS490_SCALE=1 makes that 100,000 files, 5 GiB that
// do not compress, and 10 GiB of hole.
func TestExtremeEpisodesComeBackEqual(t *testing.T) {
	for name, fill := range map[string]func(t *testing.T, dir string){
		"many files": manyFiles,
		"incompressible": func(t *testing.T, dir string) {
			noise(t, filepath.Join(dir, "capture.bin"), pick[int64](200<<20, 5<<30))
		},
		"sparse":           func(t *testing.T, dir string) { sparse(t, filepath.Join(dir, "disk.img"), pick[int64](1<<30, 10<<30)) },
		"every legal name": everyName,
		"empty":            func(t *testing.T, dir string) {},
	} {
		t.Run(name, func(t *testing.T) {
			if !scaled() {
				t.Parallel()
			}
			r, _, h := pair(t)
			src := filepath.Join(tempDir(t), "run")
			if err := os.Mkdir(src, 0o755); err != nil {
				t.Fatal(err)
			}
			fill(t, src)
			old := time.Date(2026, 2, 3, 4, 5, 6, 789012345, time.UTC)
			if err := os.Chtimes(src, old, old); err != nil {
				t.Fatal(err)
			}

			began := time.Now()
			cmd := exec.Command(program("cis490-episode"), "seal", src, "--into", h.data, "--host", h.name)
			out, peak, err := measured(cmd)
			if err != nil {
				t.Fatalf("seal: %v\n%.4000s", err, out)
			}
			t.Logf("sealed in %s, %s of CPU, %d MiB", time.Since(began).Round(time.Millisecond),
				(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(time.Millisecond), peak>>20)
			if peak > sealerMemory {
				t.Errorf("sealing took %d bytes of memory", peak)
			}
			id := h.sealed()[0]

			began = time.Now()
			theirs := r.cpu()
			h.start()
			eventually(t, 30*time.Minute, h.drained)
			t.Logf("shipped in %s; CPU: shipper %s, receiver %s; memory at most: %d and %d MiB", time.Since(began).Round(time.Millisecond),
				h.cpu(), r.cpu()-theirs, h.peak()>>20, r.peak()>>20)
			if h.peak() > shipperMemory || r.peak() > receiverMemory {
				t.Errorf("the shipper took %d bytes of memory and the receiver %d; the goals are %d and %d", h.peak(), r.peak(), shipperMemory, receiverMemory)
			}
			storedOnce(t, r, h, id)
			if msg := h.nothingQuarantined(); msg != "" {
				t.Error(msg)
			}
			into := tempDir(t)
			r.cli("episodes", "extract", id, "--into", into)
			sameTrees(t, src, filepath.Join(into, id, "data", "output"))
		})
	}
}

func manyFiles(t *testing.T, dir string) {
	for i := range pick(10_000, 100_000) {
		sub := filepath.Join(dir, fmt.Sprint(i/1000))
		if i%1000 == 0 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("sample-%06d.txt", i)), fmt.Appendln(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// sparse is a hole with a little data at both ends and in the middle.
func sparse(t *testing.T, file string, size int64) {
	writeFile(t, file, []byte("head"))
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{size / 2, size - 4} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
}

// everyName has each byte in a name that may stand in one, and what is known to be trouble to somebody.
func everyName(t *testing.T, dir string) {
	var all []string
	for r := rune(1); r < 0x300; r++ {
		all = append(all, "c"+string(r)+"c")
		if r != '.' {
			all = append(all, string(r))
		}
	}
	// Runes that together have every lead and continuation byte of UTF-8.
	for r := rune(0x300); r <= utf8.MaxRune; r += 0x3f1 {
		if utf8.ValidRune(r) {
			all = append(all, "u"+string(r))
		}
	}
	all = append(all, "...", ".hidden", "..a", " lead", "trail ", "trail.", "-rf", "--", "~root", "~", "a\\b", `\n`, "%2F", "%25", "%", "a%0Ab", "\n", "\r\n", "\xef\xbb\xbfbom", "con", "nul.txt",
		"e\u0301", "\u00e9", "\ufffd", "\u202egnp.exe", "\U0001F469\u200d\U0001F4BB", "manifest-sha256.txt  ", "*  data/x", "\t", "a  b", strings.Repeat("a", 255), strings.Repeat("\u00e9", 127)+"x", strings.Repeat("\U0001F600", 63)+"xyz",
		strings.Repeat("%", 255), strings.Repeat("\n", 255))
	for i, n := range all {
		if n == "/" || strings.Contains(n, "/") {
			continue
		}
		// The root of the tree by descriptor: with names like these the path would be too long below some TMPDIR.
		if err := os.WriteFile(filepath.Join(dir, n), fmt.Appendln(nil, i), 0o644); err != nil {
			t.Fatalf("%q: %v", n, err)
		}
	}
	// As deep as a path may be: 4,096 bytes (PATH_MAX), less what stands before it where it is sealed and where it is compared.
	deep := dir
	for len(deep) < 3600 {
		deep = filepath.Join(deep, strings.Repeat("d", 100))
	}
	writeFile(t, filepath.Join(deep, "deep"), []byte("deep"))
}

// TestNamesThatABagCannotHoldAreNamedAtSealing: those that are not UTF-8 (RFC 8493, section 2.2.1: the manifest is).
func TestNamesThatABagCannotHoldAreNamedAtSealing(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	src := filepath.Join(tempDir(t), "run")
	for _, n := range []string{"sound", "lead-\xff", "cut-\xe2\x82", "surrogate-\xed\xa0\x80", "overlong-\xc0\xaf", "latin-\xe9/inside"} {
		writeFile(t, filepath.Join(src, n), []byte("x"))
	}
	out, stderr, status := try(t, program("cis490-episode"), "seal", src, "--into", h.data, "--host", h.name)
	if status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	for _, says := range []string{`lead-\xff`, `cut-\xe2\x82`, `surrogate-\xed\xa0\x80`, `overlong-\xc0\xaf`, `latin-\xe9`} {
		if !strings.Contains(out+stderr, says) {
			t.Errorf("sealing does not name %s:\n%s%s", says, out, stderr)
		}
	}
	h.start()
	eventually(t, 20*time.Second, h.drained)
	id := r.stored()[0]
	into := tempDir(t)
	r.cli("episodes", "extract", id, "--into", into)
	if got := names(t, filepath.Join(into, id, "data", "output")); len(got) != 1 || got[0] != "sound" {
		t.Errorf("%q arrived", got)
	}
}

// TestAPathThatIsTooLongIsNamedAtSealing: by descriptors a tree can be made that no path reaches.
func TestAPathThatIsTooLongIsNamedAtSealing(t *testing.T) {
	t.Parallel()
	_, _, h := pair(t)
	src := filepath.Join(tempDir(t), "run")
	writeFile(t, filepath.Join(src, "beside"), []byte("x"))
	fd, err := unix.Open(src, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 60 { // 6,000 bytes
		name := strings.Repeat("d", 100)
		err := unix.Mkdirat(fd, name, 0o755)
		next := -1
		if err == nil {
			next, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		}
		unix.Close(fd)
		if fd = next; err != nil {
			t.Fatal(err)
		}
	}
	f, err := unix.Openat(fd, "deep", unix.O_WRONLY|unix.O_CREAT, 0o644)
	unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(f)
	out, stderr, status := try(t, program("cis490-episode"), "seal", src, "--into", h.data, "--host", h.name)
	if status != 1 || !strings.Contains(out+stderr, "left out: ddd") {
		t.Errorf("exit status %d, want 1 and the path that was left out:\n%.600s%.600s", status, out, stderr)
	}
}
