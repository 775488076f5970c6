package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cis490-episode": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"odd":     odd,
			"episode": oneEpisode,
			"damage":  damage,
			"undo":    undo,
		},
	})
}

// odd DIR puts things into DIR that an archive of text can't hold: modes, times, links, names.
func odd(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	for name, mode := range map[string]os.FileMode{"run.sh": 0o755, "two\nlines 100%": 0o644, "sub/old": 0o600, "sub/deeper/empty-file": 0o644} {
		p := filepath.Join(dir, name)
		ts.Check(os.MkdirAll(filepath.Dir(p), 0o755))
		content := name
		if name == "sub/deeper/empty-file" {
			content = ""
		}
		ts.Check(os.WriteFile(p, []byte(content), mode))
		at := unix.Timespec{Sec: -int64(len(name)) * 1e7, Nsec: 123456789}
		ts.Check(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{at, at}, 0))
	}
	ts.Check(os.MkdirAll(filepath.Join(dir, "empty/dir"), 0o755))
	if len(args) > 1 { // and what can't travel
		ts.Check(os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
		ts.Check(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
		ts.Check(os.WriteFile(filepath.Join(dir, "bad\xff"), []byte("x"), 0o644))
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
		ts.Check(err)
		l.SetUnlinkOnClose(false)
		ts.Check(l.Close())
	}
}

// episode DATA_DIR sets EP to the only sealed episode there, and ID to its id.
func oneEpisode(ts *testscript.TestScript, neg bool, args []string) {
	ents, err := os.ReadDir(ts.MkAbs(filepath.Join(args[0], "sealed")))
	ts.Check(err)
	if len(ents) != 1 {
		ts.Fatalf("%d episodes are sealed in %s", len(ents), args[0])
	}
	ts.Setenv("ID", ents[0].Name())
	ts.Setenv("EP", filepath.Join(ts.MkAbs(args[0]), "sealed", ents[0].Name()))
}

// damage FILE... appends one byte to each file.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	for _, a := range args {
		f, err := os.OpenFile(ts.MkAbs(a), os.O_APPEND|os.O_WRONLY, 0)
		ts.Check(err)
		_, err = fmt.Fprint(f, "x")
		ts.Check(err)
		ts.Check(f.Close())
	}
}

// undo DATA_DIR SOURCE copy|move puts the only sealed episode back to where a sealing that was killed right before the end leaves it.
func undo(ts *testscript.TestScript, neg bool, args []string) {
	oneEpisode(ts, neg, args)
	data, id := ts.MkAbs(args[0]), ts.Getenv("ID")
	ts.Check(os.Rename(filepath.Join(data, "sealed", id), filepath.Join(data, "open", id)))
	marker := fmt.Sprintf(`{"source":%q,"move":%v}`, ts.MkAbs(args[1]), args[2] == "move")
	ts.Check(os.WriteFile(filepath.Join(data, "open", id+".sealing"), []byte(marker), 0o644))
}
