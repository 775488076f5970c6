package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// hostListed is what cis490-receiver hosts list --json says of one host, as somebody else's program reads it.
type hostListed struct {
	Name    string    `json:"name"`
	Verdict string    `json:"verdict"`
	SeenAt  time.Time `json:"seen_at"`
	Report  *struct {
		Version string `json:"version"`
		Queue   struct {
			Waiting int `json:"waiting"`
		} `json:"queue"`
		Quarantine struct {
			Total int `json:"total"`
		} `json:"quarantine"`
		Path struct {
			Held bool `json:"held"`
		} `json:"path"`
		Skew *float64 `json:"clock_skew_seconds"`
	} `json:"report"`
}

func (r *receiver) hostListed(name string) hostListed {
	r.t.Helper()
	var all []hostListed
	if err := json.Unmarshal([]byte(r.cli("hosts", "list", "--json")), &all); err != nil {
		r.t.Fatal(err)
	}
	for _, l := range all {
		if l.Name == name {
			return l
		}
	}
	r.t.Fatalf("hosts list has no %s", name)
	return hostListed{}
}

func TestTheReceiverListsHowItsHostsAre(t *testing.T) {
	t.Parallel()
	r, p, h := pair(t)
	quiet := newHost(t, "lab-02", p.url(), r.ca(), `shipper.report_interval = "0s"`)
	r.allow(quiet)
	r.reload()
	h.start()
	quiet.start()
	is := func(name, verdict string) func() string {
		return func() string {
			if l := r.hostListed(name); l.Verdict != verdict || time.Since(l.SeenAt) > time.Minute {
				return fmt.Sprintf("%s is listed as %+v, want %s", name, l, verdict)
			}
			return ""
		}
	}
	eventually(t, 20*time.Second, is("lab-01", "green"))
	eventually(t, 20*time.Second, is("lab-02", "unknown")) // it is seen, and says nothing
	l := r.hostListed("lab-01")
	if l.Report == nil || l.Report.Version == "" || l.Report.Queue.Waiting != 0 || l.Report.Skew == nil || *l.Report.Skew > 1 || *l.Report.Skew < -1 {
		t.Errorf("%+v", l.Report)
	}
	for _, s := range r.hostLines("lab-01") {
		if !strings.Contains(s, "green") || !strings.Contains(s, " s ago") {
			t.Errorf("for people: %s", s)
		}
	}

	// The verdict changes with what lies in quarantine, long before the next report is due.
	writeFile(t, h.data+"/sealed/notes.txt", []byte("a stray"))
	changed := time.Now()
	eventually(t, 30*time.Second, is("lab-01", "yellow"))
	t.Logf("known to the receiver after %s", time.Since(changed).Round(time.Millisecond))
	if l := r.hostListed("lab-01"); l.Report.Quarantine.Total != 1 {
		t.Errorf("%+v", l.Report)
	}
	if s := r.cli("hosts", "list"); !strings.Contains(s, "\nlab-01  yellow  quarantine  1 held (damaged 1)") || !strings.Contains(s, "fix, on lab-01: cis490-shipper quarantine list") {
		t.Errorf("for people:\n%s", s)
	}

	// It outlives the receiver, and is there also while none runs.
	if status := r.stop(20 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if l := r.hostListed("lab-01"); l.Verdict != "yellow" || l.Report == nil {
		t.Errorf("without a receiver: %+v", l)
	}
	r.start()
	if l := r.hostListed("lab-01"); l.Verdict != "yellow" || l.Report == nil {
		t.Errorf("after a restart: %+v", l)
	}
	h.cli("quarantine", "rm", "notes.txt")
	eventually(t, 30*time.Second, is("lab-01", "green"))
}

// hostLines are the lines of a host in the list for people.
func (r *receiver) hostLines(name string) (lines []string) {
	r.t.Helper()
	for line := range strings.Lines(r.cli("hosts", "list")) {
		if strings.HasPrefix(line, name+" ") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		r.t.Fatalf("no line of %s", name)
	}
	return lines
}
