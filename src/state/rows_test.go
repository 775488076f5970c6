package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/health"
	"cis490/src/wire"
)

func TestRows(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	waits := func(d time.Duration) func(*Shipper) {
		return func(s *Shipper) { s.Queue.Waiting, s.Queue.Oldest = 3, &Oldest{SealedAt: now.Add(-d)} }
	}
	held := func(d time.Duration) func(*Shipper) {
		return func(s *Shipper) { s.Path = Path{Held: true, Code: code.Stalled, Fix: "look", Since: ago(d)} }
	}
	skewed := func(by float64) func(*Shipper) {
		return func(s *Shipper) { s.Poll = Poll{LastSuccess: ago(0), SkewSeconds: by, MaxSkewSeconds: 300} }
	}
	quarantined := func(s *Shipper) {
		s.Quarantine = Quarantine{Total: 3, ByCode: map[code.Code]int{code.OutOfWindow: 2, code.Damaged: 1}, Oldest: ago(50 * time.Hour)}
	}
	for _, c := range []struct {
		name  string
		is    []func(*Shipper)
		worst health.Status
		rows  string // id, status and a part of the title
	}{
		{"well", nil, health.Green, ""},
		{"busy", []func(*Shipper){waits(59 * time.Minute), skewed(-299), func(s *Shipper) { s.Workers = []Worker{{Name: "upload 0", Doing: "send"}} }}, health.Green, ""},
		{"a backlog", []func(*Shipper){waits(2 * time.Hour)}, health.Yellow, "backlog yellow 3 wait, the first for 2 h"},
		{"an old backlog", []func(*Shipper){waits(72 * time.Hour)}, health.Red, "backlog red 3 wait, the first for 3 d"},
		{"just held", []func(*Shipper){held(5 * time.Second)}, health.Yellow, "path yellow held for 5 s: stalled"},
		{"held, with what is yellow after it", []func(*Shipper){held(time.Hour), quarantined}, health.Red, "path red held for 1 h: stalled|quarantine yellow 3 held (damaged 1, out-of-window 2), oldest 2 d"},
		{"full at once", []func(*Shipper){held(time.Second), func(s *Shipper) { s.Path.Code = code.ReceiverFull }}, health.Red, "path red held for 1 s: receiver-full"},
		{"a host's matter at once", []func(*Shipper){held(time.Second), func(s *Shipper) { s.Path.Code = code.HostRevoked }}, health.Red, "path red held for 1 s: host-revoked"},
		{"clock ahead", []func(*Shipper){skewed(301)}, health.Red, "clock red +301.0 s"},
		{"clock behind", []func(*Shipper){skewed(-3600)}, health.Red, "clock red -3600.0 s"},
		{"never asked", []func(*Shipper){func(s *Shipper) { s.Poll.SkewSeconds, s.Poll.MaxSkewSeconds = 400, 300 }}, health.Green, ""},
		{"the rest", []func(*Shipper){func(s *Shipper) {
			s.Disk = Disk{Low: true, FreeBytes: 5 << 20, MinFreeBytes: 9 << 20}
			s.Open = Open{LeftOver: 2}
			s.Queue.PostponedByCode = map[code.Code]int{code.ReadFailed: 1}
		}}, health.Red, "trouble red read-failed|disk red 5 MiB are free|open yellow 2 sealings"},
		{"broken", []func(*Shipper){func(s *Shipper) {
			s.Workers = []Worker{{Name: "upload 1", Doing: "read", Late: "9s"}}
			s.Scan.Error = "permission denied"
			s.Poll.Damaged = &wire.Damaged{Count: 4}
		}}, health.Red, "workers red upload 1 of the shipper hangs (read), overdue by 9s|scan red permission denied|stored red 4 acknowledged"},
	} {
		var s Shipper
		for _, is := range c.is {
			is(&s)
		}
		rows, worst := s.Rows(now)
		var want []string
		if c.rows != "" {
			want = strings.Split(c.rows, "|")
		}
		if worst != c.worst || len(rows) != len(want) {
			t.Errorf("%s: %s, %+v; want %s, %q", c.name, worst, rows, c.worst, want)
			continue
		}
		for i, r := range rows {
			head, title, _ := strings.Cut(want[i], " ")
			status, title, _ := strings.Cut(title, " ")
			if r.ID != head || string(r.Status) != status || !strings.Contains(r.Title, title) || r.Fix == "" {
				t.Errorf("%s: %+v, want %q and a fix", c.name, r, want[i])
			}
			if one := fmt.Sprint(r); strings.Contains(one, "%!") {
				t.Errorf("%s: %s", c.name, one)
			}
		}
	}
}
