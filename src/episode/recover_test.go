package episode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// die ends a sealing as the death of its process does: nothing is taken back, the lock is gone.
func (s *sealing) die() { s.close() }

// until seals src up to a step and dies there.
func until(t *testing.T, step, src, data string, move bool) *sealing {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(data, openDir), 0o755); err != nil {
		t.Fatal(err)
	}
	fl, err := newFlusher(filepath.Join(data, openDir))
	if err != nil {
		t.Fatal(err)
	}
	defer fl.close()
	root, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s, err := begin(data, NewID(), fl, &marker{Source: src, Move: move})
	if err != nil {
		t.Fatal(err)
	}
	in := &intake{sealing: s, src: root, copy: !move}
	steps := []struct {
		name string
		do   func() error
	}{
		{"begun", func() error { return nil }},
		{"taken", func() error { return in.take(context.Background(), 1) }},
		{"finished", func() error {
			run := &Run{Schema: 1, ID: s.id, Host: "lab-1", Workload: "w", Outcome: Complete, Started: Now(), Ended: Now()}
			if _, err := s.finish(run, "", ""); err != nil {
				return err
			}
			return s.flushAll()
		}},
		{"moved", func() error {
			if !move {
				return nil
			}
			return os.Rename(src, filepath.Join(s.dir, OutputPath))
		}},
		{"half given back", func() error {
			if !move {
				return nil
			}
			whole := s.items
			defer func() { s.items = whole }()
			for i, it := range whole {
				if it.meta.Skipped != "" {
					s.items = whole[:i+1]
					break
				}
			}
			return in.giveBack(src)
		}},
		{"given back", func() error {
			if !move {
				return nil
			}
			return in.giveBack(src)
		}},
		{"renamed", func() error { _, err := s.rename(); return err }},
	}
	for _, st := range steps {
		if err := st.do(); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		if st.name == step {
			return s
		}
	}
	t.Fatalf("no step %s", step)
	return nil
}

func TestRecover(t *testing.T) {
	for _, move := range []bool{false, true} {
		for _, step := range []string{"begun", "taken", "finished", "moved", "half given back", "given back", "renamed"} {
			t.Run(fmt.Sprintf("%s/move=%v", step, move), func(t *testing.T) {
				dir := fastDir(t)
				src, data := filepath.Join(dir, "src"), filepath.Join(dir, "data")
				write(t, filepath.Join(src, "a"), "a")
				write(t, filepath.Join(src, "sub/b"), "b")
				for _, l := range []string{"l1", "sub/l2"} {
					if err := os.Symlink("x", filepath.Join(src, l)); err != nil {
						t.Fatal(err)
					}
				}
				before := treeOf(t, src)
				s := until(t, step, src, data, move)

				// As long as its process lives, it is left alone.
				if got, err := Recover(context.Background(), data); err != nil || len(got) > 0 {
					t.Fatal(got, err)
				}
				s.die()
				got, err := Recover(context.Background(), data)
				if err != nil {
					t.Fatal(err)
				}
				if again, err := Recover(context.Background(), data); err != nil || len(again) > 0 {
					t.Error(again, err)
				}
				for _, d := range []string{openDir, ".removing"} {
					if left, err := os.ReadDir(filepath.Join(data, d)); len(left) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("left in %s: %v, %v", d, left, err)
					}
				}
				sealedDir := filepath.Join(data, sealedDir, s.id.String())
				_, err = os.Stat(sealedDir)
				sealed := err == nil
				movedIn := move && step != "begun" && step != "taken" && step != "finished"
				if sealed != (movedIn || step == "renamed") {
					t.Fatalf("sealed: %v", sealed)
				}
				if step == "renamed" {
					if len(got) > 0 {
						t.Errorf("recovered %v, and all was done", got)
					}
				} else if want := (Recovered{ID: s.id, Source: src, Sealed: movedIn, Dir: sealedDir}); len(got) != 1 || got[0].ID != want.ID || got[0].Source != want.Source || got[0].Sealed != want.Sealed || movedIn && got[0].Dir != want.Dir {
					t.Errorf("recovered %+v, want %+v", got, want)
				}
				if sealed {
					if _, err := Verify(context.Background(), sealedDir, nil); err != nil {
						t.Error(err)
					}
				}
				// Every file is in one of the two places, and in the right one.
				now := treeOf(t, src)
				if !movedIn {
					if d := cmp.Diff(before, now); d != "" {
						t.Error(d)
					}
					return
				}
				inside := treeOf(t, filepath.Join(sealedDir, "data/output"))
				for p, n := range before {
					if n.Kind == fs.ModeDir {
						continue
					}
					in, out := inside[p].Content == n.Content, now[p].Content == n.Content
					if link := n.Kind == fs.ModeSymlink; in == link || out != link {
						t.Errorf("%s: in the episode %v, at the source %v", p, in, out)
					}
				}
			})
		}
	}
}

func TestRecoverLeavesAlone(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	if _, err := Recover(context.Background(), data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a data directory: %v", err)
	}
	// What an orchestrator records, a marker that is just being made, and files of others.
	recording := filepath.Join(data, openDir, NewID().String())
	write(t, filepath.Join(recording, "data/stdout.log"), "x")
	write(t, filepath.Join(data, openDir, NewID().String()+markerSuffix), "")
	write(t, filepath.Join(data, openDir, "notes"+markerSuffix), "x")
	before := treeOf(t, data)
	if got, err := Recover(context.Background(), data); err != nil || len(got) > 0 {
		t.Error(got, err)
	}
	if d := cmp.Diff(before, treeOf(t, data)); d != "" {
		t.Error(d)
	}
	// One that has been just being made for long.
	old := filepath.Join(data, openDir, NewID().String()+markerSuffix)
	write(t, old, "")
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(context.Background(), data); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Error("an old empty marker stays")
	}
	// A move whose files were changed meanwhile is not sealed, and not thrown away.
	src := filepath.Join(filepath.Dir(data), "src")
	write(t, filepath.Join(src, "a"), "a")
	s := until(t, "moved", src, data, true)
	s.die()
	write(t, filepath.Join(s.dir, OutputPath, "a"), "changed")
	if got, err := Recover(context.Background(), data); err == nil || len(got) > 0 || !strings.Contains(err.Error(), filepath.Join(s.dir, OutputPath)) {
		t.Error(got, err)
	}
	if b, err := os.ReadFile(filepath.Join(s.dir, OutputPath, "a")); err != nil || string(b) != "changed" {
		t.Errorf("%q %v", b, err)
	}
}

const killedVar = "CIS490_TEST_SEAL_UNTIL_KILLED"

func TestMain(m *testing.M) {
	if spec := os.Getenv(killedVar); spec != "" {
		dir, mode, _ := strings.Cut(spec, "|")
		_, err := SealDir(context.Background(), filepath.Join(dir, "src"), filepath.Join(dir, "data"), SealOptions{Host: "lab-1", Move: mode == "move"})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A process that is killed at any moment leaves every file in exactly one place (or, copying, at its source), and an episode that is
// whole or none.
func TestSealingKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for i := range 16 {
		mode := []string{"copy", "move"}[i%2]
		dir := t.TempDir()
		src, data := filepath.Join(dir, "src"), filepath.Join(dir, "data")
		want := map[string]bool{}
		for j := range 60 {
			name := fmt.Sprintf("d%d/f%02d", j%5, j)
			write(t, filepath.Join(src, name), name)
			want[name] = true
		}
		if err := os.Symlink("x", filepath.Join(src, "d0/link")); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^$")
		cmd.Env = append(os.Environ(), killedVar+"="+dir+"|"+mode)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// From when it has begun: the start of the process takes longer than the rest.
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			if ents, _ := os.ReadDir(filepath.Join(data, openDir)); len(ents) > 0 {
				break
			}
			if ents, _ := os.ReadDir(filepath.Join(data, sealedDir)); len(ents) > 0 {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
		_ = cmd.Process.Kill() // it may have ended
		if err := cmd.Wait(); err != nil {
			killed++
		}
		if _, err := Recover(context.Background(), data); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(filepath.Join(data, openDir)); len(left) > 0 {
			t.Errorf("left under open/: %v", left)
		}
		sealed, _ := os.ReadDir(filepath.Join(data, sealedDir))
		if len(sealed) > 1 {
			t.Fatalf("sealed %v", sealed)
		}
		inside := map[string]node{}
		for _, e := range sealed {
			ep := filepath.Join(data, sealedDir, e.Name())
			if _, err := Verify(context.Background(), ep, nil); err != nil {
				t.Error(err)
			}
			inside = treeOf(t, filepath.Join(ep, "data/output"))
		}
		outside := map[string]node{}
		if _, err := os.Stat(src); err == nil {
			outside = treeOf(t, src)
		}
		for name := range want {
			in, out := inside[name].Content == name, outside[name].Content == name
			if in != (len(sealed) == 1) || out != (mode == "copy" || len(sealed) == 0) {
				t.Errorf("%s, %d sealed: %s is in the episode %v, at its source %v", mode, len(sealed), name, in, out)
			}
		}
		if outside["d0/link"].Content != "x" {
			t.Errorf("%s: the link is lost", mode)
		}
	}
	t.Logf("killed %d of 16", killed)
}
