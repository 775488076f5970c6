package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/health"
)

// A clock that is an hour wrong is the one red row, and what the receiver would refuse for it is a symptom.
func TestTheDoctorNamesAClockThatIsWrong(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t)
			h := newHost(t, "lab-01", "https://"+r.addr, r.ca())
			r.allow(h)
			var by atomic.Int64
			defer skewed(t, r, &by)()
			h.start()
			healthy(t, h.config)
			by.Store(int64(off)) // the receiver's, which comes to the same
			h.make(episode.Spec{})
			says := `this host's clock is (59 min|60 min|1 h) (behind|ahead of) the receiver's.*max_skew is 5m`
			p := &patient{t: t, r: r, h: h}
			p.suffer(ailment{name: "clock " + off.String(), row: "clock", status: health.Red, says: says, cure: func(_ *patient, f string) {
				if !strings.Contains(f, "timedatectl set-ntp true") {
					t.Errorf("the fix is %q", f)
				}
				by.Store(0)
			}}, h.config)
		})
	}
}

// What does not belong to the shipper's user is named, with the line that gives it back.
func TestTheDoctorNamesAWrongOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	t.Parallel()
	r, _, h := pair(t)
	const nobody = 65534
	h.user = &syscall.Credential{Uid: nobody, Gid: nobody}
	ca := filepath.Join(h.dir, "ca.crt")
	writeFile(t, ca, []byte(readFile(t, r.ca())))
	h.conf.with(fmt.Sprintf("receiver.ca_file = %q", ca))
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "chown", "-R", "nobody", h.dir)
	h.start()
	healthy(t, h.config)
	sealed := filepath.Join(h.data, "sealed")
	if err := os.Chown(sealed, 0, 0); err != nil {
		t.Fatal(err)
	}
	p := &patient{t: t, r: r, h: h}
	p.suffer(ailment{name: "wrong owner", row: "data-dir", status: health.Red, says: `wrong owner: .*sealed does not belong to nobody`,
		cure: func(p *patient, f string) { p.pasted(f, "", "") }}, h.config)
}

// Two episodes of one id: the second one is set aside, and sealing it anew, as the fix says, keeps both.
func TestTheDoctorsFixForAConflictKeepsBoth(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	h.start()
	first := h.make(episode.Spec{})[0]
	eventually(t, 20*time.Second, h.drained)
	id, err := episode.ParseID(first)
	if err != nil {
		t.Fatal(err)
	}
	p := &patient{t: t, r: r, h: h}
	setAsideAs(code.Conflict, func() episode.Spec {
		return episode.Spec{Run: episode.Run{ID: id}, Files: []episode.File{{Path: "output/result.txt", Data: []byte("43\n")}}}
	})(p)
	p.suffer(ailment{name: "conflict", row: "quarantine/conflict", status: health.Yellow, says: `1 held: conflict`, also: []string{"shipping/conflict"}, cure: func(_ *patient, f string) {
		if !strings.Contains(f, "cis490-episode seal BAG/data/output") || !strings.Contains(f, "cis490-shipper quarantine rm ID") {
			t.Errorf("the fix is %q", f)
		}
		h.cli("quarantine", "show", first)
		r.cli("episodes", "show", first)
		found, err := filepath.Glob(filepath.Join(h.data, "quarantine", "*-*-*", first, "bag", "data", "output"))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		h.seal(found[0])
		h.cli("quarantine", "rm", first)
		eventually(t, 20*time.Second, h.drained)
	}}, h.config)
	if n := len(r.stored()); n != 2 {
		t.Errorf("%d are stored, want both", n)
	}
}

// A broken link between both: with the receiver gone there is one red row, at the receiver's own doctor another.
func TestTheDoctorWhereBothAreConfigured(t *testing.T) {
	t.Parallel()
	r, _, h := pair(t)
	h.start()
	healthy(t, h.config)
	// Which of the two a file is for, it says itself.
	for config, role := range map[string]string{h.config: "lab-host", r.config: "receiver"} {
		if got := examined(t, config); got.Role != role {
			t.Errorf("%s is taken for a %s", config, got.Role)
		}
	}
	if got := examined(t, h.config, "--only", "shipping,backlog"); len(got.Results) != 2 {
		t.Errorf("--only gives\n%s", show(got.Results))
	}
}
