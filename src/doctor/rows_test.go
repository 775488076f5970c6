package doctor

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/health"
	"cis490/src/hosts"
	"cis490/src/liveness"
	"cis490/src/state"
	"cis490/src/wire"
)

var noon = time.Date(2026, 7, 20, 12, 0, 0, 0, time.UTC)

func hostConfig() config.LabHost {
	u, _ := url.Parse("https://receiver.example.org:8490") // a good one
	c := config.LabHost{File: "/etc/cis490/lab-host.hcl", Host: "lab-01", DataDir: "/data", RunDir: "/run/cis490"}
	c.Receiver.URL, c.Receiver.CAFile = u, "/etc/cis490/ca.crt"
	c.Shipper.ScanInterval, c.Shipper.Watchdog, c.Shipper.QuarantineKeepDays = 5*time.Second, 180*time.Second, 30
	return c
}

// shipping is the state of a shipper that is well, changed by change.
func shipping(change func(*state.Shipper)) state.Shipper {
	s := state.Shipper{Schema: 1, PID: 42, Host: "lab-01", Receiver: "https://receiver.example.org:8490", Version: "20260601.abc", StartedAt: noon.Add(-time.Hour),
		WrittenAt: noon.Add(-time.Second), Scan: state.Scan{At: noon.Add(-time.Second)}, Queue: state.Queue{Scanned: true}, Workers: []state.Worker{{Name: "upload 0"}}}
	if change != nil {
		change(&s)
	}
	return s
}

func at(d time.Duration) *time.Time { t := noon.Add(d); return &t }

var id = episode.NewID()

// row is what one row has to be.
type row struct {
	name   string
	got    []Finding
	status health.Status
	says   string // regular expression over title, evidence and fix
}

func judge(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		if len(r.got) != 1 {
			t.Errorf("%s: %d rows: %+v", r.name, len(r.got), r.got)
			continue
		}
		f := r.got[0]
		text := f.Title + " | " + f.Evidence + " | " + f.Fix
		if f.Status != r.status || !regexp.MustCompile(r.says).MatchString(text) {
			t.Errorf("%s: %s %s; want %s %s", r.name, f.Status, text, r.status, r.says)
		}
		if f.Status != health.Green && f.Fix == "" {
			t.Errorf("%s: no fix", r.name)
		}
		if strings.Contains(f.Title, "\n") {
			t.Errorf("%s: the title has several lines", r.name)
		}
	}
}

func TestUnit(t *testing.T) {
	says := func(show string) []Finding {
		u := unit{name: "cis490-shipper"}
		u.parse(show)
		return one(u.row("services.cis490.labHost.enable"))
	}
	const well = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nSubState=running\nResult=success\nExecMainStatus=0\nNRestarts=0\nActiveEnterTimestamp=@1784548800\nNeedDaemonReload=no\n"
	with := func(changes ...string) []Finding { return says(well + strings.Join(changes, "\n") + "\n") } // the last one counts
	judge(t, []row{
		{"well", with(), health.Green, `runs since 2026-07-20T12:00:00Z`},
		{"not installed", with("LoadState=not-found", "ActiveState=inactive"), health.Red, `there is no unit.*services\.cis490\.labHost\.enable = true`},
		{"masked", with("LoadState=masked", "ActiveState=inactive"), health.Red, `systemctl unmask cis490-shipper`},
		{"not usable", with("LoadState=bad-setting", "ActiveState=inactive"), health.Red, `LoadState=bad-setting`},
		{"not enabled", with("UnitFileState=disabled"), health.Yellow, `not after the next boot.*systemctl enable cis490-shipper`},
		{"neither enabled nor started", with("UnitFileState=disabled", "ActiveState=inactive", "SubState=dead"), health.Red, `does not run.*systemctl enable --now cis490-shipper`},
		{"not started", with("ActiveState=inactive", "SubState=dead"), health.Red, `does not run.*systemctl start cis490-shipper`},
		{"failed", with("ActiveState=failed", "SubState=failed", "Result=exit-code", "ExecMainStatus=1"), health.Red, `has failed: exit-code.*systemctl reset-failed`},
		{"refused its configuration", with("ActiveState=failed", "Result=exit-code", "ExecMainStatus=78"), health.Red, `refused its configuration`},
		{"start-limited", with("ActiveState=failed", "Result=start-limit-hit"), health.Red, `given up.*systemctl reset-failed cis490-shipper && systemctl start cis490-shipper`},
		{"restarting by watchdog", with("ActiveState=activating", "SubState=auto-restart", "Result=watchdog"), health.Red, `killed by the watchdog`},
		{"restarting", with("ActiveState=activating", "SubState=auto-restart", "Result=signal"), health.Red, `ends each time it is started: signal`},
		{"starting", with("ActiveState=activating", "SubState=start"), health.Yellow, `is activating`},
		{"unit file changed", with("NeedDaemonReload=yes"), health.Yellow, `systemctl daemon-reload`},
		{"no systemd", one(unit{name: "cis490-shipper", err: errNoSystemd}.row("x")), health.Unknown, `systemd does not run this machine`},
		{"systemctl denied", one(unit{name: "cis490-shipper", err: errors.New("Access denied")}.row("x")), health.Unknown, `Access denied.*sudo`},
	})
}

func TestRestarts(t *testing.T) {
	u := unit{name: "cis490-shipper", says: map[string]string{"ActiveState": "active"}, active: noon.Add(-time.Hour)}
	lately := u
	lately.restarts, lately.active = 3, noon.Add(-time.Minute)
	long := u
	long.restarts = 7
	ends := func(n int, result string) (l log) {
		for range n {
			l.ends = append(l.ends, end{at: noon, result: result})
		}
		return l
	}
	judge(t, []row{
		{"none", one(restartsRow(u, log{}, 10*time.Minute, noon)), health.Green, `0 restarts`},
		{"long ago", one(restartsRow(long, log{}, 10*time.Minute, noon)), health.Green, `7 restarts.*none in the last 10 min`},
		{"lately, for a reason that the journal does not tell", one(restartsRow(lately, log{}, 10*time.Minute, noon)), health.Yellow, `restarted in the last 10 min`},
		{"once by watchdog", one(restartsRow(lately, ends(1, "watchdog"), 10*time.Minute, noon)), health.Yellow, `: watchdog.*all goroutines`},
		{"ended, and started by hand", one(restartsRow(u, ends(2, "exit-code"), 10*time.Minute, noon)), health.Green, ``},
		{"once, after it was started by hand", one(restartsRow(func() unit { u := lately; u.restarts = 1; return u }(), ends(2, "watchdog"), 10*time.Minute, noon)), health.Yellow, `watchdog`},
		{"again and again", one(restartsRow(lately, ends(4, "signal"), 10*time.Minute, noon)), health.Red, `restarted 3 times in the last 10 min: signal`},
		{"no systemd", one(restartsRow(unit{err: errNoSystemd}, log{}, 10*time.Minute, noon)), health.Unknown, `systemd`},
	})
}

func TestConfigurationRow(t *testing.T) {
	dir := t.TempDir()
	read := func(name, text string) []Finding {
		f := filepath.Join(dir, name)
		if text != "" {
			if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return one(configurationRow(f, "cis490-shipper", "services.cis490.labHost.settings", load(f, config.LoadLabHost).err))
	}
	judge(t, []row{
		{"well", read("a.hcl", "host = \"lab-01\"\nreceiver {\n  url = \"https://r:1\"\n}\n"), health.Green, `can be used`},
		{"missing", read("b.hcl", ""), health.Red, `there is no configuration.*check-config --example`},
		{"syntax", read("c.hcl", "host = = 1\n"), health.Red, `c\.hcl, line 1: .*mend line 1 of .*c\.hcl; then: cis490-shipper check-config --config`},
		{"unknown attribute", read("d.hcl", "host = \"lab-01\"\nreceiver {\n  url = \"https://r:1\"\n  ur = 1\n}\n"), health.Red, `d\.hcl, line 4: Unknown attribute.*Did you mean url`},
		{"bad value, and more", read("e.hcl", "host = \"Lab 01\"\nreceiver {\n  url = \"https://r:1\"\n}\nshipper {\n  upload_workers = 0\n}\n"), health.Red, `e\.hcl, line 1: .*\(and 1 more mistakes\)`},
		{"by NixOS", read("f.hcl.json", `{"host": "lab-01", "receiver": {"url": "https://r:1", "x": 1}}`), health.Red, `on NixOS it is made from services\.cis490\.labHost\.settings`},
		{"denied", one(configurationRow("/etc/x.hcl", "cis490-shipper", "o.settings", &fs.PathError{Op: "open", Path: "/etc/x.hcl", Err: fs.ErrPermission})), health.Unknown, `may not read.*sudo`},
	})
}

func TestShipperRow(t *testing.T) {
	cfg := hostConfig()
	lives := process{pid: 42, alive: true, known: true, state: 'S', uid: 100}
	of := func(change func(*state.Shipper), p process, u unit) []Finding {
		return one(shipperRow(cfg, read[state.Shipper]{v: shipping(change)}, p, u, noon))
	}
	lost := func(err error, u unit) []Finding {
		return one(shipperRow(cfg, read[state.Shipper]{err: err}, process{}, u, noon))
	}
	stopped := lives
	stopped.state = 'T'
	runs := unit{says: map[string]string{"ActiveState": "active"}}
	judge(t, []row{
		{"well", of(nil, lives, unit{}), health.Green, `last progressed 1 s ago`},
		{"hidden", of(nil, process{pid: 42}, unit{}), health.Green, `runs`},
		{"never", lost(fs.ErrNotExist, unit{}), health.Red, `no shipper has run since the last boot.*systemctl start`},
		{"just started", lost(fs.ErrNotExist, runs), health.Yellow, `just started`},
		{"denied", lost(fs.ErrPermission, unit{}), health.Unknown, `sudo`},
		{"damaged", lost(errors.New("schema 3, this program reads 1"), unit{}), health.Red, `schema 3`},
		{"dead", of(nil, process{pid: 42, known: true}, unit{}), health.Red, `does not run.*no process 42 any more.*systemctl start`},
		{"SIGSTOP", of(nil, stopped, unit{}), health.Red, `stopped by a signal.*kill -CONT 42`},
		{"loop stopped", of(func(s *state.Shipper) { s.Scan.At = noon.Add(-2 * time.Minute) }, lives, unit{}), health.Red, `has not come round for 2 min`},
		{"slow pass", of(func(s *state.Shipper) { s.Scan.At = noon.Add(-30 * time.Second) }, lives, unit{}), health.Green, ``},
		{"first scan of a long queue", of(func(s *state.Shipper) {
			s.Scan.At, s.StartedAt, s.Queue.Scanned = time.Time{}, noon.Add(-10*time.Second), false
		}, lives, unit{}), health.Green, `for the first time`},
		{"clock set back", of(func(s *state.Shipper) { s.Scan.At = noon.Add(time.Hour) }, lives, unit{}), health.Yellow, `set back`},
		{"being stopped", of(func(s *state.Shipper) { s.Stopping = true }, lives, unit{}), health.Yellow, `being stopped`},
	})
}

func TestRowsOfTheState(t *testing.T) {
	cfg := hostConfig()
	well := probe{answered: true}
	path := func(change func(*state.Shipper), p probe) []Finding { return one(pathRow(shipping(change), p, noon)) }
	held := func(c code.Code, d time.Duration) func(*state.Shipper) {
		return func(s *state.Shipper) {
			s.Path = state.Path{Held: true, Code: c, Since: at(-d), Detail: "as it said", Fix: c.Info().Fix}
		}
	}
	backlog := func(change func(*state.Shipper)) []Finding { return one(backlogRow(shipping(change), noon)) }
	waits := func(n int, d time.Duration) func(*state.Shipper) {
		return func(s *state.Shipper) {
			s.Queue.Waiting = n
			s.Queue.Oldest = &state.Oldest{Episode: id, SealedAt: noon.Add(-d)}
		}
	}
	trouble := func(c code.Code) []Finding {
		return troubleRows(shipping(func(s *state.Shipper) { s.Queue.PostponedByCode = map[code.Code]int{c: 2} }))
	}
	judge(t, []row{
		{"workers on time", one(workersRow(shipping(nil), time.Minute)), health.Green, `all 1 workers`},
		{"worker hung", one(workersRow(shipping(func(s *state.Shipper) {
			s.Workers = append(s.Workers, state.Worker{Name: "upload 1", Doing: "read", Episode: &id, Late: "12s"})
		}), time.Minute)), health.Red, `hangs: upload 1 \(read ` + id.String() + `\), overdue by 12s`},
		{"configuration in use", one(loadedRow(cfg, shipping(nil))), health.Green, ``},
		{"another receiver in use", one(loadedRow(cfg, shipping(func(s *state.Shipper) { s.Receiver = "https://old:1" }))), health.Yellow, `it ships to https://old:1.*systemctl reload`},
		{"another name in use", one(loadedRow(cfg, shipping(func(s *state.Shipper) { s.Host = "old" }))), health.Yellow, `it is host old`},
		{"scanned", one(scanRow(cfg, shipping(nil))), health.Green, ``},
		{"not scanned", one(scanRow(cfg, shipping(func(s *state.Shipper) { s.Scan.Error = "permission denied" }))), health.Red, `can't scan /data/sealed \| permission denied`},
		{"open", path(nil, well), health.Green, `is open`},
		{"poll failed", path(func(s *state.Shipper) { s.Poll.Failure = &state.Code{Code: code.ReceiverError, Detail: "500"} }, well), health.Yellow, `receiver-error`},
		{"busy for a moment", path(held(code.ReceiverBusy, 5*time.Second), well), health.Yellow, `held for 5 s: receiver-busy`},
		{"busy for long", path(held(code.ReceiverBusy, 5*time.Minute), well), health.Red, `held for 5 min: receiver-busy \| as it said \| .*uploads_per_host`},
		{"cut by a proxy", path(held(code.Cut, 2*time.Minute), well), health.Red, `body limit`},
		{"full", path(held(code.ReceiverFull, time.Second), well), health.Red, `receiver-full`},
		{"disk full", path(held(code.DiskFull, time.Second), well), health.Red, `disk-full`},
		{"unreachable, and the receiver answers again", path(held(code.Unreachable, time.Hour), well), health.Yellow, `the receiver answers now.*cis490-shipper push`},
		{"unreachable", path(held(code.Unreachable, time.Hour), probe{}), health.Red, `unreachable`},
		{"nothing waits", backlog(nil), health.Green, `nothing waits`},
		{"some wait", backlog(waits(12, time.Minute)), health.Green, `12 wait`},
		{"waits for long", backlog(waits(12, 3*time.Hour)), health.Yellow, `has waited 3 h`},
		{"waits too long", backlog(waits(12, 50*time.Hour)), health.Red, `has waited 2 d.*` + id.String()},
		{"grows", backlog(func(s *state.Shipper) {
			waits(130, 20*time.Minute)(s)
			s.Queue.Before = &state.Sample{At: noon.Add(-10 * time.Minute), Left: 100}
		}), health.Yellow, `grows: 130, 100 10 min ago`},
		{"shrinks", backlog(func(s *state.Shipper) {
			waits(90, 20*time.Minute)(s)
			s.Queue.Before = &state.Sample{At: noon.Add(-10 * time.Minute), Left: 100}
		}), health.Green, ``},
		{"off by a rate window", backlog(func(s *state.Shipper) { waits(90, 20*time.Hour)(s); s.Rate.Off, s.Rate.Limit = true, "off" }), health.Green, `uploads are off`},
		{"off for too long", backlog(func(s *state.Shipper) { waits(90, 72*time.Hour)(s); s.Rate.Off, s.Rate.Limit = true, "off" }), health.Yellow, `rate_window`},
		{"only trouble left", backlog(func(s *state.Shipper) { waits(2, 72*time.Hour)(s); s.Queue.Postponed = 2 }), health.Green, `trouble`},
		{"no trouble", troubleRows(shipping(nil)), health.Green, ``},
		{"read errors", trouble(code.ReadFailed), health.Red, `2 episodes.*read error.*smartctl`},
		{"deaths", trouble(code.AttemptDied), health.Red, `died`},
		{"mismatch", trouble(code.DigestMismatch), health.Yellow, `digest mismatch`},
		{"stored well", one(storedRow(shipping(nil))), health.Green, ``},
		{"stored damaged", one(storedRow(shipping(func(s *state.Shipper) {
			s.Poll.Damaged = &wire.Damaged{Count: 3, Episodes: []episode.ID{id}}
		}))), health.Red, `3 acknowledged.*` + id.String() + `.*audit --requeue`},
		{"a code that this version does not know", trouble("new-one"), health.Yellow, `same version`},
	})
}

// What a shipper says of itself to the receiver and what the doctor says are the same rows with the same status.
func TestTheShippersWordIsTheDoctors(t *testing.T) {
	cfg, n := hostConfig(), 0
	for _, change := range []func(*state.Shipper){
		func(s *state.Shipper) { s.Workers[0].Late = "9s" },
		func(s *state.Shipper) { s.Scan.Error = "x" },
		func(s *state.Shipper) { s.Path = state.Path{Held: true, Code: code.Stalled, Since: at(-time.Second)} },
		func(s *state.Shipper) { s.Path = state.Path{Held: true, Code: code.Stalled, Since: at(-time.Hour)} },
		func(s *state.Shipper) {
			s.Path = state.Path{Held: true, Code: code.ReceiverFull, Since: at(-time.Second)}
		},
		func(s *state.Shipper) {
			s.Path = state.Path{Held: true, Code: code.HostUnknown, Since: at(-time.Second)}
		},
		func(s *state.Shipper) {
			s.Queue.Waiting, s.Queue.Oldest = 1, &state.Oldest{SealedAt: noon.Add(-2 * time.Hour)}
		},
		func(s *state.Shipper) {
			s.Queue.Waiting, s.Queue.Oldest = 1, &state.Oldest{SealedAt: noon.Add(-48 * time.Hour)}
		},
		func(s *state.Shipper) { s.Queue.PostponedByCode = map[code.Code]int{code.ReadFailed: 1} },
		func(s *state.Shipper) { s.Queue.PostponedByCode = map[code.Code]int{code.DigestMismatch: 1} },
		func(s *state.Shipper) { s.Poll.Damaged = &wire.Damaged{Count: 1} },
		func(s *state.Shipper) {
			s.Quarantine.Total, s.Quarantine.ByCode = 1, map[code.Code]int{code.Conflict: 1}
		},
		func(s *state.Shipper) { s.Open.LeftOver = 1 },
	} {
		st := shipping(change)
		rows, _ := st.Rows(noon)
		if len(rows) != 1 {
			t.Fatalf("%+v", rows)
		}
		f := map[string]func() []Finding{
			"workers":    func() []Finding { return one(workersRow(st, time.Minute)) },
			"scan":       func() []Finding { return one(scanRow(cfg, st)) },
			"path":       func() []Finding { return one(pathRow(st, probe{}, noon)) },
			"backlog":    func() []Finding { return one(backlogRow(st, noon)) },
			"trouble":    func() []Finding { return troubleRows(st) },
			"stored":     func() []Finding { return one(storedRow(st)) },
			"quarantine": func() []Finding { return quarantineRows(st, expiry{whole: true}, cfg, noon) },
			"open":       func() []Finding { return one(openRow("/data", st.Open, noon)) },
		}[rows[0].ID]()
		if len(f) != 1 || string(f[0].Status) != string(rows[0].Status) {
			t.Errorf("the shipper says %+v, the doctor %+v", rows[0], f)
		}
		n++
	}
	if n != 13 {
		t.Errorf("%d cases", n)
	}
}

func TestQuarantineRows(t *testing.T) {
	cfg := hostConfig()
	held := func(by map[code.Code]int) state.Shipper {
		return shipping(func(s *state.Shipper) {
			s.Quarantine = state.Quarantine{ByCode: by, Oldest: at(-48 * time.Hour)}
			for _, n := range by {
				s.Quarantine.Total += n
			}
		})
	}
	rows := []row{
		{"none", quarantineRows(held(nil), expiry{whole: true}, cfg, noon), health.Green, `nothing`},
		{"counting", quarantineRows(shipping(func(s *state.Shipper) { s.Quarantine.Counting = true }), expiry{whole: true}, cfg, noon), health.Green, `being counted`},
		{"unreadable", quarantineRows(shipping(func(s *state.Shipper) { s.Quarantine.Unreadable = 4 }), expiry{whole: true}, cfg, noon), health.Yellow, `4 entries`},
		{"expires", quarantineRows(held(map[code.Code]int{code.Malformed: 5}), expiry{n: map[code.Code]int{code.Malformed: 2}, whole: true}, cfg, noon), health.Red, `5 held: malformed, oldest 2 d, 2 of them will be removed within 3 days`},
		{"can't see", quarantineRows(held(map[code.Code]int{code.Malformed: 5}), expiry{err: fs.ErrPermission}, cfg, noon), health.Yellow, `can't be seen`},
		{"too many to see", quarantineRows(held(map[code.Code]int{code.Malformed: 5}), expiry{}, cfg, noon), health.Yellow, `too many`},
		{"kept for good", quarantineRows(held(map[code.Code]int{code.Malformed: 5}), expiry{whole: true}, func() config.LabHost { c := cfg; c.Shipper.QuarantineKeepDays = 0; return c }(), noon), health.Yellow, `kept for good`},
	}
	for _, c := range []code.Code{code.OutOfWindow, code.Malformed, code.TooLarge, code.Conflict, code.Damaged, code.DigestMismatch} {
		rows = append(rows, row{string(c), quarantineRows(held(map[code.Code]int{c: 12}), expiry{whole: true}, cfg, noon), health.Yellow,
			`12 held: ` + string(c) + `, oldest 2 d, none expires within 3 d.*cis490-shipper quarantine (requeue --code ` + string(c) + `|rm ID)`})
	}
	judge(t, rows)
	several := quarantineRows(held(map[code.Code]int{code.Conflict: 1, code.Malformed: 2, code.OutOfWindow: 3}), expiry{whole: true}, cfg, noon)
	if len(several) != 3 || several[0].Sub != "out-of-window" {
		t.Errorf("412 is not first: %+v", several)
	}
}

func TestRowsOfTheProbe(t *testing.T) {
	cfg := hostConfig()
	self := &wire.Self{Host: "lab-01", Key: "sha256:aa", MaxSkew: 5 * time.Minute, ReceiverVersion: "20260701.def", Window: wire.Window{MaxAhead: 10 * time.Minute}}
	told := func(change func(*probe)) probe {
		p := probe{name: "receiver.example.org", addr: "receiver.example.org:8490", answered: true, self: self, server: noon, peer: &x509.Certificate{NotAfter: noon.Add(1000 * time.Hour)}, connected: time.Millisecond, round: time.Millisecond}
		if change != nil {
			change(&p)
		}
		return p
	}
	dns := func(change func(*probe)) []Finding { return one(told(change).dnsRow(cfg)) }
	reach := func(change func(*probe)) []Finding { return one(told(change).receiverRow(cfg)) }
	clock := func(most float64, change func(*probe)) []Finding { return one(told(change).clockRow(most)) }
	cert := func(change func(*probe)) []Finding { return one(told(change).certificateRow(cfg, noon)) }
	bad := func(c code.Code, text string) func(*probe) {
		return func(p *probe) { p.tls = code.New(c, "%s", text); p.self, p.answered = nil, false }
	}
	no := func(c code.Code, text string) func(*probe) {
		return func(p *probe) { p.conn = code.New(c, "%s", text); p.self, p.answered = nil, false }
	}
	answer := func(change func(*probe)) []Finding { return one(told(change).answerRow(cfg)) }
	says := func(c code.Code, text string) func(*probe) {
		return func(p *probe) { p.http = code.New(c, "%s", text); p.self, p.answered = nil, false }
	}
	known := func(change func(*probe), s read[state.Shipper]) []Finding {
		return one(told(change).registrationRow(cfg, s))
	}
	nobody := read[state.Shipper]{err: fs.ErrNotExist}
	blind := func(p *probe) { p.self, p.anonymous = nil, true }
	runs := func(change func(*state.Shipper)) read[state.Shipper] { return read[state.Shipper]{v: shipping(change)} }
	window := func(w wire.Window) []Finding {
		return one(told(func(p *probe) { s := *self; s.Window = w; p.self = &s }).windowRow(state.Poll{}))
	}
	versions := func(theirs, ours string) []Finding {
		return one(told(func(p *probe) { s := *self; s.ReceiverVersion = theirs; p.self = &s }).versionsRow(state.Shipper{Version: ours}))
	}
	judge(t, []row{
		{"resolves", dns(nil), health.Green, ``},
		{"address", dns(func(p *probe) { p.literal = true }), health.Green, `an address`},
		{"no such name", dns(func(p *probe) { p.dns = code.New(code.DNSFailed, "no such host") }), health.Red, `receiver\.example\.org does not resolve \| no such host \| getent hosts receiver\.example\.org`},
		{"slow resolver", dns(func(p *probe) { p.looked = 2 * time.Second }), health.Yellow, `2s to resolve`},
		{"by proxy", dns(func(p *probe) { p.proxy = "proxy:3128" }), health.Green, `proxy:3128`},
		{"reached", reach(nil), health.Green, ``},
		{"refused", reach(no(code.Unreachable, "connection refused")), health.Red, `connection refused \| on the receiver: systemctl start cis490-receiver`},
		{"black hole", reach(no(code.TimedOut, "packets")), health.Red, `ip route get`},
		{"cut", reach(no(code.Cut, "reset")), health.Red, `closes connections`},
		{"slow", reach(func(p *probe) { p.round = 1500 * time.Millisecond }), health.Yellow, `slow.*answered in 1.5s`},
		{"slow handshake", reach(func(p *probe) { p.shaken = 1500 * time.Millisecond }), health.Yellow, `TLS in 1.5s`},
		{"clocks agree", clock(0, nil), health.Green, ``},
		{"an hour behind", clock(0, func(p *probe) { p.skew = time.Hour }), health.Red, `clock is 60 min|clock is 1 h behind the receiver's.*timedatectl set-ntp true`},
		{"an hour ahead", clock(0, func(p *probe) { p.skew = -time.Hour }), health.Red, `1 h ahead of the receiver's.*the receiver says 2026-07-20T12:00:00Z, this host 2026-07-20T13:00:00Z`},
		{"half of it", clock(0, func(p *probe) { p.skew = 3 * time.Minute }), health.Yellow, `more than half`},
		{"by what the shipper was told", clock(7200, func(p *probe) { p.skew, p.self = 3*time.Minute, nil }), health.Green, ``},
		{"no time", clock(0, func(p *probe) { p.server = time.Time{} }), health.Unknown, ``},
		{"trusted", cert(nil), health.Green, `trusted`},
		{"soon", cert(func(p *probe) { p.peer = &x509.Certificate{NotAfter: noon.Add(72 * time.Hour)} }), health.Yellow, `expires in 3 d`},
		{"untrusted", cert(bad(code.TLSUntrusted, "expected A, got B")), health.Red, `not of the CA in /etc/cis490/ca\.crt \| expected A, got B \| .*services\.cis490\.labHost\.caFile`},
		{"expired", cert(bad(code.TLSExpired, "expired on")), health.Red, `systemctl restart cis490-receiver`},
		{"wrong name", cert(bad(code.TLSWrongName, "got one for b")), health.Red, `another name than receiver\.example\.org \| got one for b \| .*tls\.names`},
		{"unseen", cert(func(p *probe) { p.peer = nil }), health.Unknown, ``},
		{"answers", answer(nil), health.Green, ``},
		{"404", answer(says(code.Unmarked4xx, "status 404")), health.Red, `status 404.*pass /v1/`},
		{"502", answer(says(code.ReceiverError, "status 502")), health.Red, `status 502.*the proxy`},
		{"not asked", answer(func(p *probe) { p.answered = false }), health.Unknown, ``},
		{"known", known(nil, runs(nil)), health.Green, `as lab-01`},
		{"unknown", known(func(p *probe) { p.self, p.stranger = nil, code.New(code.HostUnknown, "no host") }, runs(func(s *state.Shipper) { s.Key = "sha256:aa" })), health.Red, `does not know this host \| no host \| on the receiver: cis490-receiver hosts allow lab-01 sha256:aa`},
		{"revoked", known(func(p *probe) { p.self, p.stranger = nil, code.New(code.HostRevoked, "x") }, runs(func(s *state.Shipper) { s.Key = "sha256:aa" })), health.Red, `revoked.*hosts allow lab-01 sha256:aa`},
		{"another name", known(func(p *probe) { s := *self; s.Host = "lab-02"; p.self = &s }, runs(nil)), health.Red, `as lab-02, and here it is lab-01`},
		{"not root, by the shipper's word", known(blind, runs(func(s *state.Shipper) { s.Poll.LastSuccess, s.Poll.KnownAs = at(-time.Minute), "lab-01" })), health.Green, `as lab-01`},
		{"not root, held as unknown", known(blind, runs(func(s *state.Shipper) { s.Path = state.Path{Held: true, Code: code.HostUnknown} })), health.Red, `does not know`},
		{"not root, nothing known", known(blind, nobody), health.Unknown, `sudo`},
		{"window open", window(wire.Window{MaxAhead: time.Minute}), health.Green, ``},
		{"window closed", window(wire.Window{NotAfter: at(-time.Hour)}), health.Red, `lets nothing in.*not_after`},
		{"window not open yet", window(wire.Window{NotBefore: at(time.Hour)}), health.Red, `not_before`},
		{"window not known", one(told(blind).windowRow(state.Poll{})), health.Unknown, ``},
		{"same version", versions("20260601.abc", "20260601.abc"), health.Green, ``},
		{"host much older", versions("20260701.abc", "20250601.abc"), health.Yellow, `395 d apart; this host's is the older`},
		{"receiver much older", versions("20250601.abc", "20260701.abc"), health.Yellow, `the receiver's is the older`},
		{"versions without a date", versions("devel", "0f3a"), health.Green, ``},
		{"version not known", one(told(blind).versionsRow(state.Shipper{})), health.Unknown, ``},
	})
}

func TestHostKeyRow(t *testing.T) {
	cfg := hostConfig()
	judge(t, []row{
		{"well", one(hostKeyRow(cfg, hostKey{file: "/k", mode: 0o600, key: "a"}, "a")), health.Green, ``},
		{"denied", one(hostKeyRow(cfg, hostKey{stat: fs.ErrPermission}, "a")), health.Unknown, `as it should be`},
		{"gone", one(hostKeyRow(cfg, hostKey{file: "/k", stat: fs.ErrNotExist}, "a")), health.Red, `/k is gone`},
		{"for all", one(hostKeyRow(cfg, hostKey{file: "/k", mode: 0o640, key: "a"}, "a")), health.Red, `mode is 0640.*chmod 600 /k`},
		{"damaged", one(hostKeyRow(cfg, hostKey{file: "/k", mode: 0o600, err: errors.New("no PEM")}, "a")), health.Red, `no PEM`},
		{"replaced", one(hostKeyRow(cfg, hostKey{file: "/k", mode: 0o600, key: "b"}, "a")), health.Red, `replaced.*hosts allow lab-01 b`},
		{"disk error", one(hostKeyRow(cfg, hostKey{file: "/k", stat: errors.New("input/output error")}, "a")), health.Red, `input/output`},
	})
}

func TestDiskRows(t *testing.T) {
	well := disk{path: "/data", dir: true, free: 100 << 30, size: 200 << 30, inodes: 1 << 20, all: 2 << 20, owners: map[string]int{"/data": 4242}, mount: "/data"}
	space := func(min int64, change func(*disk)) []Finding {
		d := well
		change(&d)
		return one(spaceRow("data_dir", d, min, "min_free of lab-host.hcl"))
	}
	dir := func(p process, change func(*disk)) []Finding {
		d := well
		change(&d)
		return one(dataDirRow("/data", d, p, unit{}))
	}
	us := process{uid: 4242}
	judge(t, []row{
		{"room", space(1<<30, func(*disk) {}), health.Green, `100 GiB of 200 GiB free`},
		{"below min_free", space(1<<30, func(d *disk) { d.free = 900 << 20 }), health.Red, `nothing is begun below 1.0 GiB.*du -xhd1 /data.*min_free of lab-host\.hcl`},
		{"full without min_free", space(0, func(d *disk) { d.free = 1 << 20 }), health.Red, `is full: 1.0 MiB free`},
		{"near min_free", space(1<<30, func(d *disk) { d.free = 1500 << 20 }), health.Yellow, `nearly full`},
		{"2 % of a large disk is no matter", space(1<<30, func(d *disk) { d.free, d.size = 20<<30, 4<<40 }), health.Green, ``},
		{"no inodes", space(1<<30, func(d *disk) { d.inodes = 0 }), health.Red, `no inodes.*du --inodes`},
		{"few inodes", space(1<<30, func(d *disk) { d.inodes = 900 }), health.Yellow, `few inodes`},
		{"a file system without inodes", space(1<<30, func(d *disk) { d.inodes, d.all = 0, 0 }), health.Green, ``},
		{"there", dir(us, func(*disk) {}), health.Green, ``},
		{"not there", dir(us, func(d *disk) { d.err = fs.ErrNotExist }), health.Red, `is not there.*systemd-tmpfiles --create`},
		{"denied", dir(us, func(d *disk) { d.err = fs.ErrPermission }), health.Unknown, `sudo`},
		{"dead", dir(us, func(d *disk) { d.err = errors.New("input/output error") }), health.Red, `input/output error.*journalctl -k`},
		{"a file", dir(us, func(d *disk) { d.dir = false }), health.Red, `not a directory`},
		{"read-only", dir(us, func(d *disk) { d.readOnly = true }), health.Red, `read-only.*mount -o remount,rw /data`},
		{"wrong owner", dir(us, func(d *disk) { d.owners = map[string]int{"/data": 4242, "/data/sealed": 0} }), health.Red, `/data/sealed does not belong to 4242.*chown 4242 /data/sealed`},
		{"by root", dir(process{uid: 0}, func(d *disk) { d.owners = map[string]int{"/data": 5} }), health.Green, ``},
		{"owner not known", dir(process{uid: -1}, func(d *disk) { d.owners = map[string]int{"/data": 5} }), health.Green, ``},
		{"synchronised", one(syncRow(true, nil)), health.Green, ``},
		{"not synchronised", one(syncRow(false, nil)), health.Yellow, `timedatectl set-ntp true`},
		{"clock denied", one(syncRow(false, errors.New("EPERM"))), health.Unknown, `EPERM`},
	})
}

// What could not be looked at is not well: neither a store, nor one host's day in it.
func TestAStoreThatCannotBeReadIsUnknown(t *testing.T) {
	for _, c := range []struct {
		name, file string // where a file stands instead of a directory
		want       health.Status
	}{
		{"nothing stored yet", "", health.Green},
		{"the store", "episodes", health.Unknown},
		{"a stray file", "episodes/README", health.Green},
		{"a host's month", "episodes/lab-01/" + noon.Format("2006/01"), health.Unknown},
		{"its day", "episodes/lab-01/" + noon.Format("2006/01/02"), health.Unknown},
	} {
		cfg := config.Receiver{StateDir: t.TempDir(), RunDir: t.TempDir()}
		if c.file != "" {
			at := filepath.Join(cfg.StateDir, c.file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if got := catalogueRow(state.Receiver{}, nil, unlisted(t.Context(), cfg, noon)); got.Status != c.want {
			t.Errorf("%s: %+v, want %s", c.name, got, c.want)
		}
	}
}

func TestReceiverRows(t *testing.T) {
	cfg := config.Receiver{File: "/etc/cis490/receiver.hcl", StateDir: "/store", RunDir: "/run/r", UploadMaxAge: 7 * 24 * time.Hour}
	cfg.Limits.Uploads, cfg.Scrub.Every, cfg.Scrub.Rate = 256, 30*24*time.Hour, 20e6
	st := func(change func(*state.Receiver)) state.Receiver {
		s := state.Receiver{Schema: 1, PID: 42, StartedAt: noon.Add(-1000 * time.Hour), UpdatedAt: noon.Add(-time.Second), CertificateNotAfter: noon.Add(9000 * time.Hour), FreeBytes: 100 << 30, Workers: []liveness.State{{Name: "a"}}}
		if change != nil {
			change(&s)
		}
		return s
	}
	lives := process{pid: 42, alive: true, known: true, state: 'S'}
	stopped := lives
	stopped.state = 'T'
	runs := func(change func(*state.Receiver), p process) []Finding {
		return one(receiverRow(cfg, read[state.Receiver]{v: st(change)}, p, unit{}, noon))
	}
	lost := func(err error) []Finding {
		return one(receiverRow(cfg, read[state.Receiver]{err: err}, process{}, unit{}, noon))
	}
	cat := func(change func(*state.Receiver), asked error, b behind) []Finding {
		return one(catalogueRow(st(change), asked, b))
	}
	silent := func(list ...hosts.Summary) []Finding {
		return one(silentRow(cfg, st(nil), read[[]hosts.Summary]{v: list}, noon))
	}
	host := func(name string, seen time.Duration) hosts.Summary {
		return hosts.Summary{Host: hosts.Host{Name: name}, Seen: hosts.Seen{SeenAt: noon.Add(-seen)}}
	}
	gone := host("lab-09", 900*time.Hour)
	gone.Revoked = true
	window := func(w config.Window) []Finding {
		c := cfg
		c.Window = w
		return one(receiverWindowRow(c, noon))
	}
	judge(t, []row{
		{"runs", runs(nil, lives), health.Green, ``},
		{"never", lost(fs.ErrNotExist), health.Red, `no receiver has run.*systemctl start cis490-receiver`},
		{"denied", lost(fs.ErrPermission), health.Unknown, `sudo`},
		{"other schema", lost(errors.New("schema 0")), health.Red, `schema 0`},
		{"dead", runs(nil, process{pid: 42, known: true}), health.Red, `no process 42`},
		{"stopped", runs(nil, stopped), health.Red, `kill -CONT 42`},
		{"stuck", runs(func(s *state.Receiver) { s.UpdatedAt = noon.Add(-5 * time.Minute) }, lives), health.Red, `has not come round for 5 min`},
		{"workers", one(receiverWorkersRow(st(nil))), health.Green, ``},
		{"worker hung", one(receiverWorkersRow(st(func(s *state.Receiver) { s.Workers[0].Late, s.Workers[0].Doing = "9s", "fsync" }))), health.Red, `a fsync, overdue by 9s`},
		{"listens", one(listenRow(":8490", nil)), health.Green, ``},
		{"does not listen", one(listenRow(":8490", errors.New("refused"))), health.Red, `ss -ltnp \| grep ':8490'`},
		{"certificate", one(receiverCertificateRow(cfg, st(nil), noon)), health.Green, ``},
		{"certificate soon", one(receiverCertificateRow(cfg, st(func(s *state.Receiver) { s.CertificateNotAfter = noon.Add(72 * time.Hour) }), noon)), health.Yellow, `in 3 d`},
		{"certificate expired", one(receiverCertificateRow(cfg, st(func(s *state.Receiver) { s.CertificateNotAfter = noon.Add(-time.Hour) }), noon)), health.Red, `has expired`},
		{"catalogue", cat(nil, nil, behind{asked: 20}), health.Green, `20 newest`},
		{"rebuilding", cat(func(s *state.Receiver) { s.Rebuilding = true }, nil, behind{}), health.Yellow, `rebuilt`},
		{"catalogue error", cat(func(s *state.Receiver) { s.CatalogueError = "malformed" }, nil, behind{}), health.Red, `malformed.*cis490-receiver reindex`},
		{"catalogue answers 500", cat(nil, &operatorAnswer{500, "disk I/O error"}, behind{}), health.Red, `500: disk I/O error`},
		{"behind", cat(nil, nil, behind{asked: 20, missing: []string{"x", "y"}}), health.Red, `2 of the 20 newest.*x y.*reindex`},
		{"may not ask", cat(nil, fs.ErrPermission, behind{err: fs.ErrPermission}), health.Unknown, `operator_group`},
		{"can't ask", cat(nil, errors.New("refused"), behind{}), health.Unknown, `refused`},
		{"can't look", cat(nil, nil, behind{err: errors.New("hangs")}), health.Unknown, `hangs`},
		{"sound", one(scrubRow(cfg, st(nil), noon)), health.Green, ``},
		{"rot", one(scrubRow(cfg, st(func(s *state.Receiver) { s.DamagedEpisodes = 2 }), noon)), health.Red, `2 stored episodes are damaged.*scrub`},
		{"scrub does not keep up", one(scrubRow(cfg, st(func(s *state.Receiver) { s.OldestCheck = noon.Add(-100 * 24 * time.Hour) }), noon)), health.Yellow, `scrub\.rate`},
		{"few partial", one(partialRow(cfg, st(func(s *state.Receiver) { s.PartialUploads = 20 }))), health.Green, ``},
		{"many partial", one(partialRow(cfg, st(func(s *state.Receiver) { s.PartialUploads = 2000 }))), health.Yellow, `pile up: 2000.*upload_max_age`},
		{"large partial", one(partialRow(cfg, st(func(s *state.Receiver) { s.PartialUploads, s.PartialBytes = 20, 60<<30 }))), health.Yellow, `take 60 GiB`},
		{"none held", heldRows(st(nil)), health.Green, ``},
		{"held by skew", heldRows(st(func(s *state.Receiver) {
			s.Held, s.HeldCount = []state.Happened{{Code: code.ClockSkew, Host: "lab-03", Detail: "3600 s"}}, 1
		})), health.Yellow, `1 host\(s\) hold their queue: clock-skew: lab-03 \| 3600 s \| on that host: timedatectl`},
		{"held as unknown", heldRows(st(func(s *state.Receiver) {
			s.Held, s.HeldCount = []state.Happened{{Code: code.HostUnknown, Host: "sha256:aa"}}, 1
		})), health.Yellow, `hosts allow`},
		{"all speak", silent(host("lab-01", time.Minute), gone), health.Green, `all 1 hosts`},
		{"one silent", silent(host("lab-01", time.Minute), host("lab-02", 80*time.Hour)), health.Yellow, `1 of 2 hosts have not spoken for a day: lab-02`},
		{"one silent key of a host that speaks", silent(host("lab-01", time.Minute), host("lab-01", 80*time.Hour)), health.Green, ``},
		{"no host", silent(), health.Yellow, `no host may ship yet`},
		{"hosts denied", one(silentRow(cfg, st(nil), read[[]hosts.Summary]{err: fs.ErrPermission}, noon)), health.Unknown, `operator_group`},
		{"hosts not to be had", one(silentRow(cfg, st(nil), read[[]hosts.Summary]{err: errors.New("x")}, noon)), health.Unknown, ``},
		{"window", window(config.Window{MaxAhead: time.Minute}), health.Green, ``},
		{"window closed", window(config.Window{NotAfter: at(-time.Hour)}), health.Red, `lets nothing in.*systemctl reload cis490-receiver`},
	})
}
