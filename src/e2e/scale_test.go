package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/episode"
	"cis490/src/ship"
)

// scaled says whether to run the tests of this file in full.
func scaled() bool { return os.Getenv("CIS490_SCALE") != "" }

func pick[T any](small, full T) T {
	if scaled() {
		return full
	}
	return small
}

// ownDisk is a directory on a file system of its own, so that the test can empty its caches and others do not feel how many files it
// has; in the small run it is a temporary directory.
func ownDisk(t *testing.T, size int64) (dir string, forget func()) {
	t.Helper()
	if !scaled() {
		return tempDir(t), func() {}
	}
	if os.Getuid() != 0 {
		t.Skip("mounting takes root")
	}
	need(t, "mke2fs", "mount", "umount")
	image, at := filepath.Join(tempDir(t), "disk.ext4"), tempDir(t)
	writeFile(t, image, nil)
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	// Small directories in their inodes: three million blocks would only make the test slow.
	command(t, "mke2fs", "-q", "-t", "ext4", "-I", "512", "-N", "4000000", "-O", "inline_data,^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,nodiscard", "-F", image)
	command(t, "mount", "-o", "loop,noatime", image, at)
	t.Cleanup(func() { command(t, "umount", "-l", at) })
	return at, func() {
		unix.Sync()
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// past fills shipped/ and quarantine/ with n entries each, of the last 25 days, and sealed/ with waiting ids. They are hollow: what
// the tests are about is that nobody looks into them. Reasons are links of a few files.
func past(t *testing.T, data string, n, waiting int) {
	t.Helper()
	const days = 25
	made := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for d := range days {
		at := time.Now().UTC().AddDate(0, 0, d-days)
		shipped, quarantine := filepath.Join(data, "shipped", at.Format("2006-01-02")), filepath.Join(data, "quarantine", at.Format("2006-01-02"))
		made(os.MkdirAll(shipped, 0o755))
		made(os.MkdirAll(quarantine, 0o755))
		reason := ""
		for i := range n / days {
			id := episode.NewID().String()
			made(os.Mkdir(filepath.Join(shipped, id), 0o755))
			made(os.Mkdir(filepath.Join(quarantine, id), 0o755))
			made(os.Mkdir(filepath.Join(quarantine, id, "bag"), 0o755))
			file := filepath.Join(quarantine, id, "reason.json")
			if i%20000 != 0 {
				made(os.Link(reason, file))
				continue
			}
			reason = file
			c := []string{"out-of-window", "conflict", "damaged"}[(d+i/20000)%3]
			made(os.WriteFile(file, fmt.Appendf(nil, `{"schema":1,"code":%q,"detail":"started in 2019","quarantined_at":%q,"started":"2019-01-01T00:00:00Z","ended":"2019-01-01T00:00:00Z"}`,
				c, at.Format(time.RFC3339)), 0o644))
		}
	}
	for range waiting {
		made(os.MkdirAll(filepath.Join(data, "sealed", episode.NewID().String()), 0o755))
	}
}

// cpu is the processor time that a process has taken (proc_pid_stat(5): utime and stime, in ticks of 10 ms).
func (p *process) cpu() time.Duration {
	p.t.Helper()
	_, rest, _ := strings.Cut(readFile(p.t, fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid)), ") ")
	f := strings.Fields(rest)
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return time.Duration(u+s) * 10 * time.Millisecond
}

const shipperMemory = 64 << 20

// ready waits for READY=1 and says how long after began it came.
func (h *host) ready(began time.Time) time.Duration {
	h.t.Helper()
	eventually(h.t, time.Minute, func() string {
		if h.notify.count("READY=1", began) == 0 {
			return "no READY=1"
		}
		return ""
	})
	h.notify.mu.Lock()
	defer h.notify.mu.Unlock()
	for _, n := range h.notify.said {
		if n.text == "READY=1" && !n.at.Before(began) {
			return n.at.Sub(began)
		}
	}
	return 0
}

// TestScale is a queue with many that wait beside a long history: CIS490_SCALE=1 makes that 100,000 and twice 1,000,000.
func TestScale(t *testing.T) {
	if !scaled() { // in full it measures, and is alone
		t.Parallel()
	}
	n, waiting, real := pick(50_000, 1_000_000), pick(5_000, 100_000), pick(100, 2_000)
	disk, forget := ownDisk(t, 6<<30)
	r := newReceiver(t, `window.not_before = "2025-01-01T00:00:00Z"`)
	p := newProxy(t, r.addr)
	// The history is older than the shipper's own notes about it, as after an update. Its scan is the real one, of 5 s.
	h := newHostIn(t, tempDir(t), filepath.Join(disk, "data"), "lab-01", p.url(), r.ca(), `shipper.scan_interval = "5s"`, `shipper.poll_interval = "60s"`,
		`shipper.keep_shipped = "60d"`, `shipper.quarantine_keep_days = 60`)
	r.allow(h)
	r.start()
	h.notify = newNotifySocket(t, 180*time.Second)
	h.make(make([]episode.Spec, real)...) // the oldest
	began := time.Now()
	past(t, h.data, n, waiting-real)
	t.Logf("made %d entries in shipped/ and in quarantine/ and %d in sealed/ in %s", n/25*25, waiting, time.Since(began).Round(time.Second))
	p.refuse()

	watch := func(what string) {
		t.Helper()
		peak := h.peak()
		t.Logf("%s: %d MiB at most, %s of CPU so far", what, peak>>20, h.cpu())
		if peak > shipperMemory {
			t.Errorf("%s: the shipper took %d bytes of memory, more than %d", what, peak, shipperMemory)
		}
	}
	start := func(what string) {
		t.Helper()
		began := time.Now()
		h.start()
		took := h.ready(began)
		t.Logf("%s: READY=1 after %s", what, took.Round(time.Millisecond))
		if took > 2*time.Second {
			t.Errorf("%s: READY=1 after %s", what, took)
		}
	}
	forget()
	start("cold, the history never seen before")
	counted := time.Now()
	eventually(t, 10*time.Minute, func() string {
		if q := h.state().Quarantine; q.Total != n/25*25 || q.Counting {
			return fmt.Sprintf("%+v in quarantine, want %d", q, n/25*25)
		}
		return ""
	})
	t.Logf("counted what is in quarantine in %s", time.Since(counted).Round(time.Millisecond))
	watch("counted")
	if s := h.cli("status"); !strings.Contains(s, fmt.Sprint(n/25*25)) {
		t.Errorf("status:\n%s", s)
	}
	if status := h.stop(time.Minute); status != 0 {
		t.Fatalf("exit status %d\n%s", status, h.tail(20))
	}

	forget()
	start("cold")
	ctl := ship.NewControl(h.run)
	pass := func() time.Duration {
		began := time.Now()
		if _, err := ctl.Push(context.Background()); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	// READY=1 does not wait for the control socket, whose name a former process may just be giving up.
	eventually(t, 10*time.Second, func() string {
		if _, err := ctl.Push(context.Background()); err != nil {
			return err.Error()
		}
		return ""
	})
	time.Sleep(pick(3*time.Second, 6*time.Second)) // what has just changed is read twice
	var took []time.Duration
	before := h.cpu()
	for range 50 {
		took = append(took, pass())
	}
	slices.Sort(took)
	t.Logf("a pass beside %d that wait: median %s, worst %s, over the control socket; 50 took %s of CPU", waiting, took[25].Round(10*time.Microsecond), took[49].Round(10*time.Microsecond), h.cpu()-before)
	if took[25] > 150*time.Millisecond {
		t.Errorf("a pass takes %s when nothing changed", took[25])
	}
	watch("held")

	p.pass()
	began = time.Now()
	eventually(t, 5*time.Minute, func() string {
		if n := len(r.stored()); n < real {
			return fmt.Sprintf("%d of %d stored", n, real)
		}
		return ""
	})
	p.refuse() // the rest is hollow
	t.Logf("shipped %d of the backlog in %s", real, time.Since(began).Round(time.Millisecond))
	watch("shipping from the backlog")
	h.stop(time.Minute)

	// The queue empty, the history there.
	if err := os.Rename(filepath.Join(h.data, "sealed"), filepath.Join(disk, "sealed")); err != nil {
		t.Fatal(err)
	}
	p.pass()
	start("empty queue")
	eventually(t, time.Minute, func() string {
		if s := h.state(); !s.Queue.Scanned || s.Quarantine.Counting || s.Path.Held {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	idle := duration(t, "CIS490_E2E_IDLE", pick(5*time.Second, 10*time.Minute))
	// The receiver's window is new to it: once, it looks for what fits.
	began, before = time.Now(), h.cpu()
	eventually(t, 5*time.Minute, func() string {
		was := h.cpu()
		time.Sleep(time.Second)
		if used := h.cpu() - was; used > 20*time.Millisecond {
			return fmt.Sprintf("%s of CPU in a second", used)
		}
		return ""
	})
	t.Logf("at rest %s later, after %s of CPU", time.Since(began).Round(time.Second), h.cpu()-before)
	before, began = h.cpu(), time.Now()
	time.Sleep(idle)
	used, passed := h.cpu()-before, time.Since(began)
	t.Logf("idle for %s: %s of CPU, %.3f %% of a core", passed.Round(time.Second), used, 100*used.Seconds()/passed.Seconds())
	if most := max(passed/1000, 50*time.Millisecond); used > most {
		t.Errorf("idle for %s took %s of CPU, want less than %s", passed, used, most)
	}
	watch("idle")

	// All of the quarantine listed, in little memory.
	cmd := exec.Command(program("cis490-shipper"), "quarantine", "list", "--config", h.config)
	began = time.Now()
	out, peak, err := measured(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("quarantine list: %d lines in %s, %d MiB", strings.Count(string(out), "\n"), time.Since(began).Round(time.Millisecond), peak>>20)
	if peak > shipperMemory {
		t.Errorf("quarantine list took %d bytes of memory", peak)
	}

	// A fifth of it expires.
	total := h.state().Quarantine.Total
	h.stop(time.Minute)
	if err := os.Remove(filepath.Join(h.data, "quarantine", ".cleanup.json")); err != nil {
		t.Fatal(err)
	}
	h.conf.with(`shipper.quarantine_keep_days = 20`, `shipper.keep_shipped = "20d"`)
	start("much expires")
	began = time.Now()
	worst := time.Duration(0)
	eventually(t, 20*time.Minute, func() string {
		time.Sleep(100 * time.Millisecond)
		worst = max(worst, pass())
		s := h.state().Quarantine
		if kept := len(names(t, filepath.Join(h.data, "shipped"))); s.Total > n/25*20 || s.Counting || kept > 21 {
			return fmt.Sprintf("%+v in quarantine, %d days in shipped/", s, kept)
		}
		return ""
	})
	t.Logf("the clean-up removed %d of %d, and as many in shipped/, in %s with %s of CPU; the longest pass meanwhile took %s",
		total-h.state().Quarantine.Total, total, time.Since(began).Round(time.Millisecond), h.cpu(), worst.Round(time.Millisecond))
	watch("cleaned up")
}
