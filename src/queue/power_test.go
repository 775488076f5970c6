package queue

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/episode"
)

// TestPowerCut takes the disk away under a process at work: what was fsynced is
// there when it comes back, the rest is not (ext4's FS_IOC_SHUTDOWN without a
// flush of the journal).
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a disk of its own")
	}
	dir := t.TempDir()
	img, mnt := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	os.Mkdir(mnt, 0o755)
	if f, err := os.Create(img); err != nil {
		t.Fatal(err)
	} else if err := f.Truncate(96 << 20); err != nil {
		t.Fatal(err)
	} else {
		f.Close()
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", img).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.ext4: %v: %s", err, out)
	}
	mount := func() error {
		out, err := exec.Command("mount", "-o", "loop", img, mnt).CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
		}
		return err
	}
	if err := mount(); err != nil {
		t.Skipf("needs loop devices: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(mnt, unix.MNT_DETACH) })
	root := filepath.Join(mnt, "data")
	var ids []episode.ID
	for round := range 8 {
		ids = append(ids, sealMany(t, root, 40)...)
		d, err := os.Open(mnt)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Syncfs(int(d.Fd())); err != nil { // sealing would have fsynced
			t.Fatal(err)
		}
		c := churnFor(t, root, time.Duration(10+rand.IntN(150))*time.Millisecond)
		const shutdown, noLogFlush = 0x8004587d, 2 // FS_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
		if err := unix.IoctlSetPointerInt(int(d.Fd()), shutdown, noLogFlush); err != nil {
			t.Fatal(err)
		}
		c.Process.Kill()
		c.Wait()
		d.Close()
		for try := 0; ; try++ {
			err := unix.Unmount(mnt, 0)
			if err == nil {
				break
			}
			if try > 200 {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if err := mount(); err != nil {
			t.Fatal(err)
		}
		s, q, k, l := conserved(t, root, ids)
		if t.Failed() {
			t.Fatalf("round %d: %d sealed, %d in quarantine, %d kept, %d in the ledger", round, s, q, k, l)
		}
		if round == 7 {
			t.Logf("of %d: %d sealed, %d in quarantine, %d kept, %d in the ledger", len(ids), s, q, k, l)
		}
	}
}
