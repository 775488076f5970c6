package episode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cis490/src/powercut"
)

// What a power cut leaves, at any moment of a sealing, the next one finishes or does anew: afterwards there is one whole episode, each
// file of the source is in one place (of a copied one, in both), and nothing is left in open/.
func TestSealingOutlivesAPowerCut(t *testing.T) {
	for _, move := range []bool{false, true} {
		t.Run(fmt.Sprintf("move=%v", move), func(t *testing.T) {
			mnt := filepath.Join(fastDir(t), "disk")
			if err := os.Mkdir(mnt, 0o755); err != nil {
				t.Fatal(err)
			}
			disk, err := powercut.Mount(t.TempDir(), mnt)
			if err != nil {
				t.Skip("needs FUSE: ", err)
			}
			unmounted := false
			t.Cleanup(func() {
				if !unmounted {
					if err := disk.Unmount(); err != nil {
						t.Error(err)
					}
				}
			})
			// The run's own files have been on the disk for long. They are few: syncfs saves nothing on this one.
			src, data := filepath.Join(mnt, "src"), filepath.Join(mnt, "data")
			for _, f := range []string{"a", "sub/b"} {
				write(t, filepath.Join(src, f), "content of "+f)
			}
			for _, l := range []string{"link", "sub/link"} {
				if err := os.Symlink("x", filepath.Join(src, l)); err != nil {
					t.Fatal(err)
				}
			}
			flushAll(t, mnt)
			disk.Mark("written")
			began := disk.Ops()
			want := treeOf(t, src)
			sealed, err := SealDir(context.Background(), src, data, SealOptions{Host: "lab-1", Move: move})
			if err != nil {
				t.Fatal(err)
			}
			disk.Mark("sealed")
			if err := disk.Unmount(); err != nil {
				t.Fatal(err)
			}
			unmounted = true

			outcomes := map[string]int{}
			for n := began; n <= disk.Ops(); n++ {
				for seed := range uint64(4) {
					// In the place of the disk, for that is where the source is.
					promises, err := disk.Crash(n, rand.New(rand.NewPCG(uint64(n), seed)), mnt)
					if err != nil {
						t.Fatal(err)
					}
					outcome, err := afterThePowerCut(mnt, want, move, slices.Contains(promises, "sealed"), sealed.ID)
					if err != nil {
						t.Fatalf("power cut after %d of %d, seed %d: %v", n, disk.Ops(), seed, err)
					}
					outcomes[outcome]++
					if err := os.RemoveAll(mnt); err != nil {
						t.Fatal(err)
					}
					if err := os.Mkdir(mnt, 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			t.Log(outcomes)
			for _, o := range []string{"nothing was begun", "undone", "sealed before the cut"} {
				if outcomes[o] == 0 {
					t.Errorf("of all power cuts none ended with %q: %v", o, outcomes)
				}
			}
			if move && outcomes["finished"] == 0 {
				t.Errorf("of all power cuts none left a move to be finished: %v", outcomes)
			}
		})
	}
}

// afterThePowerCut does what cis490-episode seal does when it is run again.
func afterThePowerCut(dir string, want map[string]node, move, promised bool, first ID) (outcome string, err error) {
	src, data := filepath.Join(dir, "src"), filepath.Join(dir, "data")
	ctx := context.Background()
	// A sealing that was just being begun is left alone for an hour.
	if ents, err := os.ReadDir(filepath.Join(data, openDir)); err == nil {
		for _, e := range ents {
			old := time.Now().Add(-2 * time.Hour)
			if err := os.Chtimes(filepath.Join(data, openDir, e.Name()), old, old); err != nil {
				return "", err
			}
		}
	}
	left, err := FindLeftOvers(data, time.Now())
	if err != nil {
		return "", err
	}
	done, err := Recover(ctx, data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	switch _, err := os.Lstat(filepath.Join(data, sealedDir, first.String())); {
	case len(done) > 1 || left.Count > 1:
		return "", fmt.Errorf("%d left, recovered %v", left.Count, done)
	case len(done) == 1 && left.Count == 0:
		return "", fmt.Errorf("recovered %v, and nothing was found to be left", done)
	case err != nil && promised:
		return "", fmt.Errorf("what was sealed is gone: %w", err)
	case len(done) == 1 && done[0].Sealed != (err == nil):
		return "", fmt.Errorf("recovered %v, and the episode is there: %v", done, err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	case len(done) == 1 && done[0].Sealed:
		outcome = "finished"
	case err == nil:
		outcome = "sealed before the cut"
	case len(done) == 1:
		outcome = "undone"
	default:
		outcome = "nothing was begun"
	}
	if outcome == "undone" || outcome == "nothing was begun" {
		if _, err := SealDir(ctx, src, data, SealOptions{Host: "lab-1", Move: move}); err != nil {
			return "", fmt.Errorf("%s, and sealed again: %w", outcome, err)
		}
	}
	if left, err := FindLeftOvers(data, time.Now().Add(time.Hour)); err != nil || left.Count > 0 {
		return "", fmt.Errorf("%s: %d are left, %w", outcome, left.Count, err)
	}
	for _, d := range []string{openDir, ".removing"} {
		if ents, _ := os.ReadDir(filepath.Join(data, d)); len(ents) > 0 {
			return "", fmt.Errorf("%s: in %s: %v", outcome, d, ents)
		}
	}
	ents, err := os.ReadDir(filepath.Join(data, sealedDir))
	if err != nil || len(ents) != 1 {
		return "", fmt.Errorf("%s: sealed %v, %w", outcome, ents, err)
	}
	episode := filepath.Join(data, sealedDir, ents[0].Name())
	if _, err := Verify(ctx, episode, nil); err != nil {
		return "", fmt.Errorf("%s: %w", outcome, err)
	}
	for p, n := range want {
		in, out := contentAt(filepath.Join(episode, OutputPath, p)), contentAt(filepath.Join(src, p))
		wantIn, wantOut := n.Content, n.Content
		switch {
		case n.Kind == fs.ModeSymlink:
			wantIn = ""
		case n.Kind == fs.ModeDir:
			continue
		case move:
			wantOut = ""
		}
		if d := cmp.Diff([]string{wantIn, wantOut}, []string{in, out}); d != "" {
			return "", fmt.Errorf("%s: %s in the episode and at its source: %s", outcome, p, d)
		}
	}
	return outcome, nil
}

// contentAt is a file's content or a link's target, "" when there is none.
func contentAt(path string) string {
	if to, err := os.Readlink(path); err == nil {
		return to
	}
	b, _ := os.ReadFile(path)
	return string(b)
}

// flushAll has everything below dir on the disk.
func flushAll(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFindLeftOvers(t *testing.T) {
	dir := fastDir(t)
	src, data := filepath.Join(dir, "src"), filepath.Join(dir, "data")
	find := func(before time.Time, want int) {
		t.Helper()
		got, err := FindLeftOvers(data, before)
		if err != nil || got.Count != want || got.Oldest.IsZero() != (want == 0) {
			t.Errorf("%+v, %v; want %d", got, err, want)
		}
	}
	soon := time.Now().Add(time.Minute)
	find(soon, 0) // without a data directory
	write(t, filepath.Join(src, "a"), "a")
	s := until(t, "taken", src, data, false)
	// What others have there.
	write(t, filepath.Join(data, openDir, NewID().String(), "data/stdout.log"), "x")
	write(t, filepath.Join(data, openDir, "notes"+markerSuffix), "x")
	find(soon, 0) // its process lives
	s.die()
	find(soon, 1)
	find(time.Now().Add(-time.Minute), 0)
	if got, err := Recover(context.Background(), data); err != nil || len(got) != 1 {
		t.Errorf("%v %v: whoever looked still holds it", got, err)
	}
	find(soon, 0)
	if os.Geteuid() != 0 {
		return
	}
	// In a shared queue the others can tell whether a sealing lives, whatever the umask of the one who seals.
	if err := os.Chmod(filepath.Join(data, openDir), 0o770|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	s = until(t, "begun", src, data, false)
	defer s.die()
	if st, err := s.marker.Stat(); err != nil || st.Mode()&0o040 == 0 || strings.HasSuffix(st.Mode().String(), "rw-") {
		t.Errorf("the marker has mode %v, %v", st.Mode(), err)
	}
}
