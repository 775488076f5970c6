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
	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/episode"
)

// faultyFS is a directory seen through FUSE whose reads of one file, or way to it, hang or fail.
type faultyFS struct {
	mu    sync.Mutex
	name  string        // reads of files of this name are at fault
	errno syscall.Errno // 0: they hang
	wait  chan struct{} // until it is closed
	held  int           // reads that hang
}

// fail begins a fault: an error of reads, or with 0 that they hang.
func (f *faultyFS) fail(name string, errno syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name, f.errno, f.wait = name, errno, make(chan struct{})
}

func (f *faultyFS) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wait != nil {
		close(f.wait)
	}
	f.name, f.wait = "", nil
}

func (f *faultyFS) holding() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *faultyFS) read(ctx context.Context, name string) syscall.Errno {
	f.mu.Lock()
	wait, errno := f.wait, f.errno
	if name != f.name || wait == nil {
		f.mu.Unlock()
		return 0
	}
	if errno != 0 {
		f.mu.Unlock()
		return errno
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

type faultyNode struct {
	fs.LoopbackNode
	f *faultyFS
}

type faultyFile struct {
	*fs.LoopbackFile
	f    *faultyFS
	name string
}

// PassthroughFd says that the kernel must come to us for each read, instead of going around to the file below.
func (f *faultyFile) PassthroughFd() (int, bool) { return 0, false }

func (f *faultyFile) Read(ctx context.Context, b []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if e := f.f.read(ctx, f.name); e != 0 {
		return nil, e
	}
	return f.LoopbackFile.Read(ctx, b, off)
}

func (n *faultyNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fl, e := n.LoopbackNode.Open(ctx, flags)
	if lf, ok := h.(*fs.LoopbackFile); ok && e == 0 {
		h = &faultyFile{lf, n.f, filepath.Base(n.Path(n.Root()))}
	}
	return h, fl | fuse.FOPEN_DIRECT_IO, e
}

// Lookup makes a file or directory that cannot even be found: its name in a fault is "look up NAME".
func (n *faultyNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if e := n.f.read(ctx, "look up "+name); e != 0 {
		return nil, e
	}
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *faultyNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	i, h, fl, e := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if lf, ok := h.(*fs.LoopbackFile); ok && e == 0 {
		h = &faultyFile{lf, n.f, name}
	}
	return i, h, fl, e
}

func mountFaulty(t *testing.T) (*faultyFS, string) {
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
	f := &faultyFS{}
	root := &fs.LoopbackRoot{Path: below, Dev: st.Dev}
	//lint:ignore SA1019 a NodeWrapChilder is not told which inode it wraps
	root.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &faultyNode{fs.LoopbackNode{RootData: r}, f}
	}
	//lint:ignore SA1019 as above
	root.RootNode = root.NewNode(root, nil, "", &st)
	none := time.Duration(0)
	srv, err := fs.Mount(at, root.RootNode, &fs.Options{AttrTimeout: &none, EntryTimeout: &none,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faulty", Options: []string{"default_permissions"}, DisableXAttrs: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.heal()
		if err := srv.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return f, filepath.Join(at, "data")
}

// smallDisk mounts a file system of its own, of so many bytes.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting takes root")
	}
	dir := filepath.Join(tempDir(t), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// fill takes all the space that is left on a disk; removing the file gives it back.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "filler")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return file
}

func TestAnUnreadableEpisodeWaitsAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	disk, data := mountFaulty(t)
	r := newReceiver(t)
	h := newHostIn(t, tempDir(t), data, "lab-01", "https://"+r.addr, r.ca())
	r.allow(h)
	r.start()
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "a.bin"), 2<<20)
	noise(t, filepath.Join(src, "unreadable.bin"), 2<<20)
	disk.fail("unreadable.bin", syscall.EIO)
	id := h.seal(src)
	rest := h.make(make([]episode.Spec, 10)...)
	h.start()
	eventually(t, 20*time.Second, func() string {
		if n := len(r.stored()); n != len(rest) {
			return fmt.Sprintf("%d are stored, want %d", n, len(rest))
		}
		return ""
	})
	onlyIt := func() string {
		if got := h.sealed(); len(got) != 1 || got[0] != id {
			return fmt.Sprintf("sealed/ has %v, want %s", got, id)
		}
		return h.nothingQuarantined()
	}
	eventually(t, 10*time.Second, onlyIt)
	always(t, 2*time.Second, onlyIt)
	if s := h.cli("status"); !strings.Contains(s, string(code.ReadFailed)) {
		t.Errorf("status does not say %s:\n%s", code.ReadFailed, s)
	}
	disk.heal()
	healed := time.Now()
	eventually(t, 20*time.Second, h.drained)
	t.Logf("drained %s after the disk could be read again", time.Since(healed).Round(time.Millisecond))
	storedOnce(t, r, h, id)
}

func TestWhatIsDamagedOrStrayInTheQueueIsSetAsideAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 3<<20)
	flipped := h.seal(src)
	capture := filepath.Join(h.data, "sealed", flipped, "data", "output", "capture.bin")
	b := []byte(readFile(t, capture))
	b[2_000_000] ^= 1
	writeFile(t, capture, b)
	short := h.seal(src)
	if err := os.Truncate(filepath.Join(h.data, "sealed", short, "data", "output", "capture.bin"), 1<<20); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(h.data, "sealed", "notes.txt"), []byte("a stray"))
	writeFile(t, filepath.Join(h.data, "sealed", episode.NewID().String(), "what.bin"), []byte("no bag"))
	rest := h.make(make([]episode.Spec, 10)...)
	h.start()
	eventually(t, 20*time.Second, h.drained)
	if n := len(r.stored()); n != len(rest) {
		t.Errorf("%d are stored, want %d", n, len(rest))
	}
	eventually(t, 10*time.Second, func() string { return h.setAside(4) })
	q := h.quarantined()
	for name, why := range q {
		if why.Code != code.Damaged || why.Detail == "" || why.Fix == "" {
			t.Errorf("%s is in quarantine with %+v", name, why)
		}
		t.Logf("%s: %s", name, why.Detail)
	}
	if !strings.Contains(q[flipped].Detail, "capture.bin") {
		t.Errorf("the reason does not name the file that is damaged: %s", q[flipped].Detail)
	}
}

func TestAFullDiskOnTheHostHoldsTheQueueAndLosesNothing(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 16<<20)
	r := newReceiver(t)
	p := newProxy(t, r.addr)
	h := newHostIn(t, tempDir(t), filepath.Join(disk, "data"), "lab-01", p.url(), r.ca())
	r.allow(h)
	r.start()
	p.refuse()
	ids := h.make(make([]episode.Spec, 20)...)
	h.start()
	eventually(t, 20*time.Second, func() string { return h.held(code.Unreachable) })
	filler := fill(t, disk)
	p.pass()
	eventually(t, 20*time.Second, func() string { return h.held(code.DiskFull) })
	always(t, 2*time.Second, func() string {
		if n := len(h.sealed()); n != len(ids) {
			return fmt.Sprintf("%d wait, want %d: freed without a receipt on the disk", n, len(ids))
		}
		return h.nothingQuarantined()
	})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	freed := time.Now()
	eventually(t, 20*time.Second, h.drained)
	t.Logf("drained %s after space was freed", time.Since(freed).Round(time.Millisecond))
	for _, id := range ids {
		storedOnce(t, r, h, id)
	}
}

func TestAReceiverWhoseDiskFillsUpInMidUploadIsWaitedFor(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 64<<20)
	r := newReceiver(t, fmt.Sprintf("state_dir = %q", filepath.Join(disk, "state")))
	r.state = filepath.Join(disk, "state")
	p := newProxy(t, r.addr)
	h := newHost(t, "lab-01", p.url(), r.ca())
	r.allow(h)
	r.start()
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 16<<20)
	id := h.seal(src)
	p.rate.Store(8 << 20)
	h.start()
	eventually(t, 20*time.Second, p.passed(4<<20))
	filler := fill(t, disk)
	eventually(t, 20*time.Second, func() string { return h.held(code.ReceiverFull) })
	p.rate.Store(0)
	always(t, 2*time.Second, h.nothingQuarantined)
	if !r.alive() {
		t.Fatalf("the receiver died of a full disk:\n%s", r.tail(40))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	freed := time.Now()
	eventually(t, 20*time.Second, h.drained)
	t.Logf("arrived %s after space was freed, %d bytes sent for 16 MiB", time.Since(freed).Round(time.Millisecond), p.up.Load())
	storedOnce(t, r, h, id)
	unpackByStockTools(t, r.archives(id)[0], id)
}
