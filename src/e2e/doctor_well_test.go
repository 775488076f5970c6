package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cis490/src/baddisk"
	"cis490/src/episode"
	"cis490/src/health"
)

// No false alarm: a host and its receiver that are well are all green, idle and while episodes are made without a pause.
func TestTheDoctorSeesNothingWrongWithAHealthySystem(t *testing.T) {
	t.Parallel()
	runs := number(t, "CIS490_DOCTOR_RUNS", 50)
	r, _, h := pair(t)
	h.start()
	healthy(t, h.config)
	healthy(t, r.config)
	var longest time.Duration
	look := func(n int, when string) {
		t.Helper()
		for i := range n {
			for _, c := range []string{h.config, r.config} {
				got := examined(t, c)
				if bad := unwell(got); len(bad) > 0 {
					t.Fatalf("run %d of %d, %s, of %s:\n%s", i+1, n, when, filepath.Base(c), show(bad))
				}
				longest = max(longest, time.Duration(got.Took*float64(time.Second)))
			}
		}
	}
	look(runs/5, "idle")
	stop, done := make(chan struct{}), make(chan error, 1)
	var made atomic.Int64
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			specs := make([]episode.Spec, 20)
			for i := range specs {
				specs[i].Run = episode.Run{Host: h.name, Workload: "load"}
				specs[i].Files = []episode.File{{Path: "output/result.bin", Data: noiseBytes(byte(i), 100_000)}}
			}
			if _, err := episode.Make(context.Background(), h.data, specs...); err != nil {
				done <- err
				return
			}
			made.Add(int64(len(specs)))
			time.Sleep(20 * time.Millisecond)
		}
	}()
	look(runs-runs/5, "under load")
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d runs on each side, all green, the longest %s, while %d episodes were made", runs, longest.Round(time.Millisecond), made.Load())
	if made.Load() == 0 {
		t.Error("there was no load")
	}
	eventually(t, 2*time.Minute, h.drained)
}

// Without a privilege nothing is red that is well: what can't be seen is unknown and says how it could be.
func TestTheDoctorNeedsNoRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	t.Parallel()
	r, _, h := pair(t)
	h.start()
	healthy(t, h.config)
	const nobody = 65534
	for _, d := range []string{h.dir, r.dir, filepath.Join(r.dir, "run"), bin} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ca := filepath.Join(h.dir, "ca.crt")
	writeFile(t, ca, []byte(readFile(t, r.ca())))
	h.reload(fmt.Sprintf("receiver.ca_file = %q", ca))
	healthy(t, h.config)
	if err := os.Chmod(h.data, 0o750); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		config string
		unseen []string
	}{{h.config, []string{"host-key", "open"}}, {r.config, []string{"catalogue", "hosts-silent"}}} {
		eventually(t, 10*time.Second, func() string { // what the shipper was told since its reload
			cmd := exec.Command(program("cis490-doctor"), "--config", c.config)
			cmd.Env = []string{"PATH=" + bin, "HOME=/"}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Sprintf("%v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				f := strings.Fields(line)
				if len(f) > 1 && (f[0] == "unknown" || f[0] == "skipped") && !slices.Contains(unseen, f[1]) && !slices.Contains(c.unseen, f[1]) {
					return line
				}
			}
			for _, id := range c.unseen {
				if !strings.Contains(string(out), "unknown  "+id) {
					return id + " was seen:\n" + string(out)
				}
			}
			if strings.Contains(string(out), "\x1b") {
				return "colours where there is no terminal"
			}
			return ""
		})
	}
	// Nor is it a refusal at the receiver that somebody without the host's key has asked.
	if strings.Contains(r.output(), "host-unknown") {
		t.Errorf("the receiver took the doctor for a stranger:\n%s", r.tail(10))
	}
}

// A disk that hangs hides nothing else and keeps the doctor from nothing.
func TestTheDoctorNamesAWorkerThatHangsOnItsDisk(t *testing.T) {
	t.Parallel()
	disk, data := mountFaulty(t)
	r := newReceiver(t, `limits.stall_timeout = "2s"`)
	h := newHostIn(t, tempDir(t), data, "lab-01", "https://"+r.addr, r.ca(), `shipper.connect_timeout = "1s"`, `shipper.stall_timeout = "1s"`, `shipper.response_timeout = "2s"`)
	r.allow(h)
	r.start()
	h.start()
	healthy(t, h.config)
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "hangs.bin"), 2<<20)
	disk.Fail(baddisk.Read, "hangs.bin", baddisk.Hang)
	command(t, program("cis490-episode"), "seal", src, "--into", h.data, "--host", h.name)
	p := &patient{t: t, r: r, h: h}
	eventually(t, 60*time.Second, func() string {
		if s := h.cli("status"); !strings.Contains(s, "STUCK") {
			return "no worker is late"
		}
		return ""
	})
	p.suffer(ailment{name: "worker hung on its disk", row: "workers", status: health.Red, says: `hangs: upload \d+ \(.*overdue by`, cure: func(*patient, string) { disk.Heal() }}, h.config)

	// All of the disk: whatever the doctor looks up there hangs.
	for _, name := range []string{"host.key", "sealed", "quarantine", "open"} {
		disk.Fail(baddisk.Lookup, name, baddisk.Hang)
		began := time.Now()
		got := examined(t, h.config)
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("with %s hanging it took %s", name, took)
		}
		for _, x := range got.Results {
			if x.Status == health.Red && x.ID != "shipper" && x.ID != "workers" {
				t.Errorf("with %s hanging:\n%s", name, show([]health.Result{x}))
			}
		}
		if name == "host.key" {
			for _, id := range []string{"receiver", "certificate", "answer"} {
				if i := slices.IndexFunc(got.Results, func(x health.Result) bool { return x.ID == id }); got.Results[i].Status != health.Green {
					t.Errorf("with the host key hanging:\n%s", show(got.Results[i:i+1]))
				}
			}
		}
		disk.Heal()
	}
}
