package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"cis490/src/code"
	"cis490/src/episode"
)

func TestReadyComesOnceTheQueueIsBuiltAndDoesNotWaitForAnybody(t *testing.T) {
	t.Parallel()
	r := newReceiver(t) // it does not run
	h := newHost(t, "lab-01", "https://"+r.addr, r.ca())
	h.notify = newNotifySocket(t, 10*time.Second)
	h.make(episode.Spec{})
	began := time.Now()
	h.start()
	eventually(t, 10*time.Second, func() string {
		if h.notify.index("READY=1") < 0 {
			return "no READY=1"
		}
		return ""
	})
	t.Logf("READY=1 %s after the start, with no receiver", time.Since(began).Round(time.Millisecond))
	if status := h.stop(10 * time.Second); status != 0 {
		t.Errorf("exit status %d after SIGTERM", status)
	}
	if i := h.notify.index("STOPPING=1"); i < h.notify.index("READY=1") {
		t.Error("no STOPPING=1")
	}
	if n := h.notify.count("READY=1", began); n != 1 {
		t.Errorf("READY=1 came %d times", n)
	}
}

func TestNoReadyWithoutAQueue(t *testing.T) {
	t.Parallel()
	blocked := filepath.Join(tempDir(t), "file")
	writeFile(t, blocked, nil)
	for _, c := range []struct {
		name   string
		change string
		status []int
	}{
		{"a data_dir that can't be made", fmt.Sprintf("data_dir = %q", filepath.Join(blocked, "data")), []int{1, 78}},
		{"a configuration error", `shipper.scan_interval = "5 parsecs"`, []int{78}},
		{"a scan interval of more than half the watchdog's", `shipper.scan_interval = "6s"`, []int{78}},
	} {
		h := newHost(t, "lab-01", "https://127.0.0.1:1", filepath.Join(blocked, "ca.crt"))
		h.notify = newNotifySocket(t, 10*time.Second)
		h.conf.with(c.change)
		h.start()
		status := h.wait(10 * time.Second)
		if status != c.status[0] && status != c.status[len(c.status)-1] {
			t.Errorf("%s: exit status %d, want %v:\n%s", c.name, status, c.status, h.tail(20))
		}
		if h.notify.index("READY=1") >= 0 {
			t.Errorf("%s: READY=1", c.name)
		}
	}
}

func TestTheHeartbeatComesOncePerPassWhateverThePathDoes(t *testing.T) {
	for _, c := range []struct {
		name string
		on   func(*proxy)
	}{
		{"a healthy path", func(*proxy) {}},
		{"a receiver that drops packets", (*proxy).blackHole},
		{"a receiver that says nothing", (*proxy).silent},
		{"a receiver that refuses", (*proxy).refuse},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, p, h := pair(t, `shipper.scan_interval = "250ms"`)
			h.notify = newNotifySocket(t, 4*time.Second)
			c.on(p)
			h.start()
			eventually(t, 10*time.Second, func() string {
				if h.notify.index("WATCHDOG=1") < 0 {
					return "no WATCHDOG=1"
				}
				return ""
			})
			h.make(make([]episode.Spec, 5)...)
			time.Sleep(500 * time.Millisecond)
			since := time.Now()
			time.Sleep(6 * time.Second)
			n, passes := h.notify.count("WATCHDOG=1", since), int(6*time.Second/(250*time.Millisecond))
			t.Logf("%d heartbeats in 6 s of passes each 250 ms, longest gap %s", n, h.notify.longestGap(since).Round(time.Millisecond))
			// Passes that are woken come on top; none may be without its heartbeat.
			if n < passes*2/3 || n > passes*3/2 {
				t.Errorf("%d heartbeats, want about %d", n, passes)
			}
			if gap := h.notify.longestGap(since); gap > 2*time.Second {
				t.Errorf("no heartbeat for %s", gap)
			}
		})
	}
}

func TestAnUploadThatTricklesLivesAndTheWatchdogIsFed(t *testing.T) {
	t.Parallel()
	_, p, h := pair(t, `shipper.scan_interval = "500ms"`, `shipper.stall_timeout = "1s"`, `shipper.response_timeout = "2s"`)
	h.notify = newNotifySocket(t, 4*time.Second)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 8<<20)
	id := h.seal(src)
	// A frame takes over four minutes, and with buffers as small as they get each KiB counts as it passes.
	p.buffer = 1024
	p.refuse()
	p.pass()
	p.rate.Store(4 << 10)
	h.start()
	eventually(t, 10*time.Second, func() string {
		if p.up.Load() < 12<<10 {
			return "the upload has not begun"
		}
		return ""
	})
	since, sent, dialed := time.Now(), p.up.Load(), p.dialed.Load()
	time.Sleep(20 * time.Second)
	t.Logf("20 s of trickle: %d bytes, %d new connections, %d heartbeats, longest gap %s, STATUS=%s", p.up.Load()-sent, p.dialed.Load()-dialed,
		h.notify.count("WATCHDOG=1", since), h.notify.longestGap(since).Round(time.Millisecond), h.notify.status())
	if gap := h.notify.longestGap(since); gap > 2*time.Second {
		t.Errorf("no heartbeat for %s while the upload moved", gap)
	}
	// Polls for the window make connections of their own, and one each second would be an upload that is cut and begun again.
	if strings.Contains(h.output(), "stalled") {
		t.Errorf("an upload that moves was called stalled:\n%s", h.tail(20))
	}
	p.pass()
	eventually(t, 30*time.Second, h.drained)
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(id, msg)
	}
}

func TestAStalledUploadIsCutAndGoesOnAndTheWatchdogIsFed(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t, `shipper.scan_interval = "500ms"`, `shipper.stall_timeout = "1s"`, `shipper.response_timeout = "2s"`)
	h.notify = newNotifySocket(t, 4*time.Second)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 12<<20)
	id := h.seal(src)
	p.rate.Store(4 << 20)
	h.start()
	eventually(t, 20*time.Second, func() string {
		if p.up.Load() < 4<<20 {
			return "the upload has not begun"
		}
		return ""
	})
	since := time.Now()
	p.freeze.Store(true)
	eventually(t, 10*time.Second, func() string { return h.held(code.Stalled, code.TimedOut) })
	t.Logf("noticed %s after nothing moved", time.Since(since).Round(time.Millisecond))
	time.Sleep(4 * time.Second)
	if gap := h.notify.longestGap(since); gap > 2*time.Second {
		t.Errorf("no heartbeat for %s while the upload stalled", gap)
	}
	p.pass()
	healed := time.Now()
	eventually(t, 20*time.Second, h.drained)
	t.Logf("arrived %s after the path healed, %d bytes in all", time.Since(healed).Round(time.Millisecond), p.up.Load())
	storedOnce(t, r, h, id)
}

// hangingFS is a directory seen through FUSE whose reads of one file hang while it says so.
type hangingFS struct {
	mu   sync.Mutex
	name string        // reads of files of this name hang
	wait chan struct{} // until it is closed
	held int           // reads that hang
}

func (f *hangingFS) hang(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name, f.wait = name, make(chan struct{})
}

func (f *hangingFS) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wait != nil {
		close(f.wait)
	}
	f.name, f.wait = "", nil
}

func (f *hangingFS) holding() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *hangingFS) read(ctx context.Context, name string) syscall.Errno {
	f.mu.Lock()
	wait := f.wait
	if name != f.name || wait == nil {
		f.mu.Unlock()
		return 0
	}
	f.held++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.held--
		f.mu.Unlock()
	}()
	select {
	case <-wait:
		return 0
	case <-ctx.Done(): // the reader was killed
		return syscall.EINTR
	}
}

type hangingNode struct {
	fs.LoopbackNode
	f *hangingFS
}

type hangingFile struct {
	*fs.LoopbackFile
	f    *hangingFS
	name string
}

// PassthroughFd says that the kernel must come to us for each read, instead of going around to the file below.
func (f *hangingFile) PassthroughFd() (int, bool) { return 0, false }

func (f *hangingFile) Read(ctx context.Context, b []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if e := f.f.read(ctx, f.name); e != 0 {
		return nil, e
	}
	return f.LoopbackFile.Read(ctx, b, off)
}

func (n *hangingNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fl, e := n.LoopbackNode.Open(ctx, flags)
	if lf, ok := h.(*fs.LoopbackFile); ok && e == 0 {
		h = &hangingFile{lf, n.f, filepath.Base(n.Path(n.Root()))}
	}
	return h, fl | fuse.FOPEN_DIRECT_IO, e
}

func (n *hangingNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	i, h, fl, e := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if lf, ok := h.(*fs.LoopbackFile); ok && e == 0 {
		h = &hangingFile{lf, n.f, name}
	}
	return i, h, fl, e
}

func mountHanging(t *testing.T) (*hangingFS, string) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Getuid() != 0 {
		t.Skip("mounting by FUSE takes root and /dev/fuse")
	}
	dir := tempDir(t)
	below, at := filepath.Join(dir, "below"), filepath.Join(dir, "disk")
	for _, d := range []string{below, at} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(below, &st); err != nil {
		t.Fatal(err)
	}
	f := &hangingFS{}
	root := &fs.LoopbackRoot{Path: below, Dev: st.Dev}
	root.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &hangingNode{fs.LoopbackNode{RootData: r}, f}
	}
	root.RootNode = root.NewNode(root, nil, "", &st)
	none := time.Duration(0)
	srv, err := fs.Mount(at, root.RootNode, &fs.Options{AttrTimeout: &none, EntryTimeout: &none,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "hanging", Options: []string{"default_permissions"}, DisableXAttrs: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.release()
		if err := srv.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return f, filepath.Join(at, "data")
}

func TestAWorkerHungOnADiskIsNamedAndWithholdsTheWatchdogUntilItMoves(t *testing.T) {
	t.Parallel()
	disk, data := mountHanging(t)
	r := newReceiver(t, `limits.stall_timeout = "2s"`) // when it gives up on a body that does not come
	p := newProxy(t, r.addr)
	h := newHostIn(t, tempDir(t), data, "lab-01", p.url(), r.ca(),
		`shipper.scan_interval = "500ms"`, `shipper.connect_timeout = "1s"`, `shipper.stall_timeout = "1s"`, `shipper.response_timeout = "2s"`)
	r.allow(h)
	r.start()
	h.notify = newNotifySocket(t, 60*time.Second)
	h.make(episode.Spec{})
	h.start()
	eventually(t, 20*time.Second, h.drained) // it works through FUSE

	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "before.bin"), 2<<20)
	noise(t, filepath.Join(src, "hangs.bin"), 2<<20)
	disk.hang("hangs.bin")
	command(t, program("cis490-episode"), "seal", src, "--into", h.data, "--host", h.name)
	eventually(t, 20*time.Second, func() string {
		if disk.holding() == 0 {
			return "nothing reads hangs.bin"
		}
		return ""
	})
	hung := time.Now()
	var named string
	eventually(t, 60*time.Second, func() string {
		named = h.notify.status()
		if !strings.Contains(named, "upload") || !strings.Contains(named, "overdue") {
			return "STATUS= names no late worker: " + named
		}
		return ""
	})
	t.Logf("named %s after the read hung: STATUS=%s", time.Since(hung).Round(time.Millisecond), named)
	late := time.Now()
	time.Sleep(3 * time.Second)
	if n := h.notify.count("WATCHDOG=1", late); n > 0 {
		t.Errorf("%d heartbeats while a worker was late", n)
	}
	if !h.alive() {
		t.Fatal("the shipper ended by itself")
	}
	disk.release()
	released := time.Now()
	eventually(t, 20*time.Second, func() string {
		if h.notify.count("WATCHDOG=1", released) == 0 {
			return "no heartbeat"
		}
		return h.drained()
	})
	t.Logf("drained and beating %s after the disk came back; STATUS=%s", time.Since(released).Round(time.Millisecond), h.notify.status())
	if n := len(r.stored()); n != 2 {
		t.Errorf("%d are stored, want 2", n)
	}
	if msg := h.nothingQuarantined(); msg != "" {
		t.Error(msg)
	}
}

func TestReadyOfTheReceiverComesWhenItServes(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.notify = newNotifySocket(t, 0)
	r.launch()
	eventually(t, 10*time.Second, func() string {
		if r.notify.index("READY=1") < 0 {
			return "no READY=1"
		}
		return ""
	})
	command(t, "bash", "-c", `exec 3<>"/dev/tcp/${1%:*}/${1#*:}"`, "bash", r.addr)
	r.stop(20 * time.Second)
	if r.notify.index("STOPPING=1") < 0 {
		t.Error("no STOPPING=1")
	}
}
