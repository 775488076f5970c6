package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/wire"
)

// The crash tests run this test binary again as a child that commits and says
// what was acknowledged, and that dies.
const (
	envDir    = "STORE_TEST_DIR"    // the child's store
	envPoint  = "STORE_TEST_POINT"  // "rename 3 before": it kills itself before its third rename
	envScript = "STORE_TEST_SCRIPT" // a fixed short sequence instead of an endless one
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// ack is one line of the child's output.
type ack struct {
	Facts   episode.Facts
	Receipt wire.Receipt
	Code    code.Code
	Archive string // hex SHA-256
}

func child(dir string) error {
	sys := systemCalls()
	if p := os.Getenv(envPoint); p != "" {
		sys = dieAt(sys, p)
	}
	s, err := open(dir, Options{ReceiverVersion: "test", Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}, sys)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	commit := func(it Item, upload bool) error {
		sum := sha256.Sum256(it.Archive)
		if upload {
			name := fmt.Sprintf("up-%d-%s", len(it.Archive), it.Facts.ID)
			if err := durable.WriteFile(filepath.Join(s.IncomingDir(), name), it.Archive, 0o600); err != nil {
				return err
			}
			it.Frames = oneFrame(len(it.Archive))
			it.Archive, it.ArchiveFile = nil, name
		}
		r, c, err := s.Commit(context.Background(), it)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		return json.NewEncoder(os.Stdout).Encode(ack{it.Facts, r, c, hex.EncodeToString(sum[:])})
	}
	if os.Getenv(envScript) != "" {
		for i := range 4 {
			if err := commit(item("h1", start.AddDate(0, 0, i/2), 5000), i%2 == 1); err != nil {
				return err
			}
		}
		return s.Close()
	}
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				it := item(fmt.Sprintf("h%d", c%3), start.AddDate(0, 0, (c+i/50)%4), 500+rand.IntN(20_000))
				err := commit(it, i%5 == 4)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				if i%7 == 0 { // a retry
					if err := commit(it, false); err != nil {
						fmt.Fprintln(os.Stderr, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// dieAt kills this process at the n-th call of a kind.
func dieAt(sys system, point string) system {
	f := strings.Fields(point)
	n, err := strconv.Atoi(f[1])
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	at := func(kind string, call func() error) error {
		if kind != f[0] {
			return call()
		}
		mu.Lock()
		n--
		now := n == 0
		mu.Unlock()
		if now && f[2] == "before" {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		err := call()
		if now {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		return err
	}
	old := sys
	sys.write = func(fd int, p []byte, o int64) (n int, err error) {
		err = at("write", func() error { n, err = old.write(fd, p, o); return err })
		return n, err
	}
	sys.fsync = func(fd int) error { return at("fsync", func() error { return old.fsync(fd) }) }
	sys.fdatasync = func(fd int) error { return at("fdatasync", func() error { return old.fdatasync(fd) }) }
	if old.syncfs != nil {
		sys.syncfs = func(fd int) error { return at("syncfs", func() error { return old.syncfs(fd) }) }
	}
	sys.rename = func(od int, on string, nd int, nn string) error {
		return at("rename", func() error { return old.rename(od, on, nd, nn) })
	}
	sys.unlink = func(d int, n string) error { return at("unlink", func() error { return old.unlink(d, n) }) }
	sys.mkdir = func(d int, n string) error { return at("mkdir", func() error { return old.mkdir(d, n) }) }
	return sys
}

// startChild starts the child and collects what it acknowledges until it ends.
func startChild(t *testing.T, dir string, env ...string) *victim {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), envDir+"="+dir), env...)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v := &victim{t: t, cmd: cmd, log: &log, first: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(v.done)
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadBytes('\n')
			if err != nil { // a cut line was not acknowledged
				if err != io.EOF {
					v.bad = err
				}
				return
			}
			var a ack
			if err := json.Unmarshal(line, &a); err != nil {
				v.bad = fmt.Errorf("%q: %w", line, err)
				return
			}
			if v.acks = append(v.acks, a); len(v.acks) == 1 {
				close(v.first)
			}
		}
	}()
	return v
}

type victim struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   *bytes.Buffer
	first chan struct{} // closed at the first acknowledgement
	done  chan struct{} // closed when acks and bad are as they stay
	acks  []ack
	bad   error
}

// live lets the child go on for a random time, most often from its first
// acknowledgement on, now and then from its start.
func (v *victim) live(max time.Duration) {
	if rand.IntN(5) > 0 {
		select {
		case <-v.first:
		case <-v.done:
		}
	}
	time.Sleep(rand.N(max))
}

func (v *victim) kill() []ack {
	if err := v.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		v.t.Error(err)
	}
	<-v.done
	_ = v.cmd.Wait() // killed
	if v.bad != nil {
		v.t.Errorf("the child: %v\n%s", v.bad, v.log.Bytes())
	}
	return v.acks
}

// wait is for a child that ends by itself, or kills itself.
func (v *victim) wait() []ack {
	<-v.done
	err := v.cmd.Wait()
	if v.bad != nil || err != nil && v.cmd.ProcessState.ExitCode() != -1 {
		v.t.Errorf("the child: %v, %v\n%s", v.bad, err, v.log.Bytes())
	}
	return v.acks
}

// checkAcks checks that everything acknowledged is there, byte for byte, and
// that whatever was not is there whole or not at all; uploads that were not
// stored are as their sender left them.
func checkAcks(t *testing.T, dir string, acks []ack) (stored int) {
	t.Helper()
	s := openStore(t, dir, systemCalls())
	first := map[episode.ID]wire.Receipt{}
	for _, a := range acks {
		if r, again := first[a.Facts.ID]; again && r != a.Receipt {
			t.Errorf("episode %s has two receipts: %+v and %+v", a.Facts.ID, r, a.Receipt)
		}
		first[a.Facts.ID] = a.Receipt
		r, found, err := s.Find(context.Background(), a.Facts.Host, a.Facts.ID, a.Facts.Started)
		if err != nil || !found || r != a.Receipt {
			t.Errorf("acknowledged episode %s: Find = %+v, %v, %v, want %+v", a.Facts.ID, r, found, err, a.Receipt)
			continue
		}
		b, err := os.ReadFile(s.ArchivePath(a.Facts))
		if err != nil {
			t.Error(err)
			continue
		}
		if n := archiveLength(b); n >= 0 {
			b = b[:n]
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != a.Archive {
			t.Errorf("the archive of acknowledged episode %s is not what was sent", a.Facts.ID)
		}
	}
	stored = checkWhole(t, s)
	if stored < len(first) {
		t.Errorf("%d stored, %d acknowledged", stored, len(first))
	}
	for _, f := range files(t, s.IncomingDir()) {
		var size int64
		var id string
		if n, _ := fmt.Sscanf(f, "up-%d-%s", &size, &id); n != 2 {
			continue
		}
		fi, err := os.Stat(filepath.Join(s.IncomingDir(), f))
		if err != nil || fi.Size() != size {
			t.Errorf("upload %s has %v bytes: %v", f, fi.Size(), err)
		}
		if err := os.Remove(filepath.Join(s.IncomingDir(), f)); err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return stored
}

func TestKilledAtRandom(t *testing.T) {
	dir := t.TempDir()
	var all []ack
	stored := 0
	for range 20 {
		v := startChild(t, dir)
		v.live(100 * time.Millisecond)
		all = append(all, v.kill()...)
		stored = checkAcks(t, dir, all)
		if t.Failed() {
			return
		}
	}
	t.Logf("20 kills: %d acknowledgements, %d episodes stored", len(all), stored)
	if len(all) < 100 {
		t.Errorf("only %d acknowledgements: the kills came too early to prove anything", len(all))
	}
}

// TestKilledAtEachStep kills the child before and after every single system
// call by which four commits change the disk.
func TestKilledAtEachStep(t *testing.T) {
	runs, undone := 0, 0
	for _, kind := range []string{"write", "fsync", "fdatasync", "syncfs", "rename", "unlink", "mkdir"} {
		for _, when := range []string{"before", "after"} {
			for n := 1; ; n++ {
				dir := scratch(t)
				v := startChild(t, dir, envScript+"=1", fmt.Sprintf("%s=%s %d %s", envPoint, kind, n, when))
				got := v.wait()
				stored := checkAcks(t, dir, got)
				if t.Failed() {
					t.Fatalf("killed %s %s %d", when, kind, n)
				}
				if v.cmd.ProcessState.Success() {
					if len(got) != 4 || stored != 4 {
						t.Fatalf("%d acknowledged and %d stored, want 4", len(got), stored)
					}
					break
				}
				runs++
				if stored == len(got) {
					undone++
				}
			}
		}
	}
	t.Logf("%d deaths; after %d of them what was not acknowledged was undone, else finished", runs, undone)
	if runs < 40 {
		t.Errorf("only %d deaths: the child doesn't go through the steps", runs)
	}
}

// TestPowerCut shuts a file system down under the store: what was not flushed
// is lost, as when the power goes. It needs root and a loop device.
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a file system of its own")
	}
	tmp, err := os.MkdirTemp(memory(), "store-power-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	img, mnt := filepath.Join(tmp, "img"), filepath.Join(tmp, "mnt")
	run := func(name string, args ...string) error {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
		}
		return nil
	}
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run("mkfs.ext4", "-q", "-F", img); err != nil {
		t.Skip("no ext4 to cut the power of: ", err)
	}
	if err := run("mount", "-o", "loop", img, mnt); err != nil {
		t.Skip("no loop device: ", err)
	}
	mounted := true
	defer func() {
		if mounted {
			_ = run("umount", "-l", mnt)
		}
	}()
	dir := filepath.Join(mnt, "store")
	var all []ack
	stored := 0
	for round := range 8 {
		v := startChild(t, dir)
		v.live(150 * time.Millisecond)
		fd, err := unix.Open(mnt, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		const shutdown, noLogFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
		err = unix.IoctlSetPointerInt(fd, shutdown, noLogFlush)
		unix.Close(fd)
		if err != nil {
			v.kill()
			t.Skip("this kernel can't shut an ext4 down: ", err)
		}
		all = append(all, v.kill()...)
		for i := 0; ; i++ {
			if err = run("umount", mnt); err == nil || i == 50 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
		mounted = false
		if err := run("mount", "-o", "loop", img, mnt); err != nil {
			t.Fatal(err)
		}
		mounted = true
		stored = checkAcks(t, dir, all)
		if t.Failed() {
			t.Fatalf("after power cut %d", round+1)
		}
	}
	if err := run("umount", mnt); err != nil {
		t.Error(err)
	} else {
		mounted = false
	}
	t.Logf("8 power cuts: %d acknowledgements, %d episodes stored", len(all), stored)
	if len(all) < 50 {
		t.Errorf("only %d acknowledgements: the cuts came too early to prove anything", len(all))
	}
}

// oneFrame pretends that an upload is one zstd frame.
func oneFrame(size int) []pack.FrameInfo {
	return []pack.FrameInfo{{Compressed: int64(size), Content: int64(size)}}
}

// archiveLength is the length of an archive without its seek table; -1: it has none.
func archiveLength(b []byte) (n int64) {
	frames, err := pack.ReadSeekTable(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return -1
	}
	for _, f := range frames {
		n += f.Compressed
	}
	return n
}
