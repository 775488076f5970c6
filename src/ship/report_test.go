package ship

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/health"
	"cis490/src/wire"
)

const putReport = "PUT v1/hosts/self/report"

func reporting(every time.Duration) func(*config.LabHost) {
	return func(c *config.LabHost) { c.Shipper.ReportInterval = every }
}

// A host tells at its start, when its verdict changes, and once per interval.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, reporting(5*time.Minute))
		s := newStandin()
		s.skew.Store(int64(2 * time.Second))
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		eventually(t, 5*time.Second, "the first report", func() bool { return len(s.told()) == 1 })
		r := s.told()[0]
		if r.Host != "lab-01" || r.Version == "" || r.Interval != 300 || r.Verdict != health.Green || len(r.Rows) != 0 || r.Skew == nil || *r.Skew < 1.9 || *r.Skew > 2.1 || r.Disk.Free == 0 || r.Path.Held {
			t.Errorf("%+v", r)
		}
		time.Sleep(time.Hour)
		if n := len(s.told()); n < 11 || n > 13 {
			t.Errorf("%d reports in an hour, one is due every 5 min", n)
		}
		if st := l.ship.State().Report; st.Failure != nil || st.Verdict != health.Green || time.Since(*st.SentAt) > 5*time.Minute+time.Second {
			t.Errorf("%+v", st)
		}
		// Something is set aside, just after a report: told within seconds.
		n := len(s.told())
		eventually(t, 6*time.Minute, "one that is due", func() bool { return len(s.told()) > n })
		n++
		writeFile(t, filepath.Join(l.cfg.DataDir, "sealed", "stray"), "no episode")
		took := eventually(t, time.Minute, "the change", func() bool { return len(s.told()) > n })
		r = s.told()[n]
		if took > reportGap+2*l.cfg.Shipper.ScanInterval || r.Verdict != health.Yellow || r.Quarantine.Total != 1 || r.Quarantine.ByCode[code.Damaged] != 1 || len(r.Rows) != 1 || r.Rows[0].ID != "quarantine" || r.Rows[0].Fix == "" {
			t.Errorf("%s later: %+v", took, r)
		}
		time.Sleep(time.Minute)
		if m := len(s.told()); m != n+1 {
			t.Errorf("%d reports of one change", m-n)
		}
	})
}

func TestNoReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t) // 0: off
		s := newStandin()
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		l.make(1, 100)
		eventually(t, 10*time.Second, "shipped", func() bool { return s.count() == 1 })
		time.Sleep(2 * time.Hour)
		if n := s.seen(putReport); n != 0 {
			t.Errorf("%d reports", n)
		}
	})
}

// While the path is held no report goes out, and none keeps it open; the first
// poll after that is followed by one.
func TestNoReportWhileThePathIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, reporting(time.Minute))
		s := newStandin()
		s.setFault(status(http.StatusServiceUnavailable))
		l.make(3, 100)
		l.start(Deps{Transport: &direct{h: s}})
		defer l.stop()
		eventually(t, time.Minute, "held", func() bool { return l.ship.State().Path.Held })
		n := s.seen(putReport) // as it began
		time.Sleep(3 * time.Hour)
		if m := s.seen(putReport); m != n || n > 1 {
			t.Errorf("%d reports before the path was held, %d while it was", n, m-n)
		}
		s.setFault(nil)
		eventually(t, time.Minute, "the report after it", func() bool { return len(s.told()) > 0 && s.count() == 3 })
	})
}

// What is wrong with reports is said once and does nothing else: episodes go out, nothing is held, no worker is late.
func TestAReportThatFailsFailsNothing(t *testing.T) {
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"an old receiver": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set(wire.HeaderWindow, `"w1"`)
			http.NotFound(w, r)
			return true
		},
		"an error":   status(http.StatusInternalServerError),
		"no answer":  func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true },
		"a refusal":  status(http.StatusForbidden),
		"a redirect": status(http.StatusFound),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, reporting(2*time.Minute))
				s := newStandin()
				s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
					return r.URL.Path == wire.PathReport && fault(w, r)
				})
				l.start(Deps{Transport: &direct{h: s}})
				defer l.stop()
				for i := range 20 {
					l.make(1, 100)
					eventually(t, time.Second, "shipped", func() bool { return s.count() == i+1 })
					time.Sleep(time.Minute)
					if late := l.ship.tracker.Late(time.Now()); len(late) > 0 {
						t.Fatalf("late: %+v", late)
					}
				}
				st := l.ship.State()
				if st.Path.Since != nil || st.Report.Failure == nil || st.Report.SentAt != nil {
					t.Errorf("path %+v, report %+v", st.Path, st.Report)
				}
				if n := strings.Count(l.log.String(), "tell the receiver how this host is"); n != 1 {
					t.Errorf("said %d times:\n%s", n, l.log)
				}
				if n := s.seen(putReport); n < 6 || n > 25 {
					t.Errorf("%d tries in 20 min, one is due every 2 min", n)
				}
				s.setFault(nil)
				eventually(t, 5*time.Minute, "a report", func() bool { return len(s.told()) > 0 })
				if st := l.ship.State().Report; st.Failure != nil || st.SentAt == nil {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}
