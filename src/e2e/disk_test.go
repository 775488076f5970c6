package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/baddisk"
	"cis490/src/code"
	"cis490/src/episode"
)

// mountFaulty gives a disk that can be made to hang or fail, and the path of a data directory on it.
func mountFaulty(t *testing.T) (*baddisk.FS, string) {
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
	f, err := baddisk.Mount(below, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
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
	disk.Fail(baddisk.Read, "unreadable.bin", syscall.EIO)
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
	disk.Heal()
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
