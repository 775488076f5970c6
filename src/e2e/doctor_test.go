package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/health"
	"cis490/src/identity"
	"cis490/src/version"
	"cis490/src/wire"
)

// examined is what the doctor says about a configuration; extra are more arguments. It is asked where there is no systemd: the rows
// about units and the journal can't be looked at then, and say so.
func examined(t *testing.T, config string, extra ...string) health.Report {
	t.Helper()
	cmd := exec.Command(program("cis490-doctor"), append([]string{"--json", "--config", config}, extra...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = []string{"PATH=" + bin, "HOME=/"}
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r health.Report
	d := json.NewDecoder(&out)
	if err := d.Decode(&r); err != nil || d.More() || r.Schema != 1 {
		t.Fatalf("not one document: %v, %+v\n%s", err, r, errs.String())
	}
	if want := r.Exit(slices.Contains(extra, "--strict")); cmd.ProcessState.ExitCode() != want || want == health.ExitFailed {
		t.Fatalf("exit status %d, want %d: %s%s", cmd.ProcessState.ExitCode(), want, r.Error, errs.String())
	}
	return r
}

// unseen are the rows of what is not there without systemd.
var unseen = []string{"unit", "restarts", "journal", "receiver-unit", "receiver-restarts", "receiver-journal"}

// unwell are the rows that are not as they are on a healthy machine.
func unwell(r health.Report) (rows []health.Result) {
	for _, x := range r.Results {
		want := health.Green
		if slices.Contains(unseen, x.ID) {
			want = health.Unknown
		}
		if x.ID == "clock-sync" && !synchronised() {
			want = health.Yellow
		}
		if x.Status != want {
			rows = append(rows, x)
		}
	}
	return rows
}

var synchronised = sync.OnceValue(func() bool {
	var x unix.Timex
	_, err := unix.Adjtimex(&x)
	return err == nil && x.Status&unix.STA_UNSYNC == 0
})

func show(rows []health.Result) string {
	var b strings.Builder
	for _, x := range rows {
		fmt.Fprintf(&b, "%s %s: %s (%s) fix: %s\n", x.Status, x.ID, x.Title, x.Evidence, x.Fix)
	}
	return b.String()
}

// healthy waits until all is well.
func healthy(t *testing.T, config string) {
	t.Helper()
	eventually(t, 20*time.Second, func() string { return show(unwell(examined(t, config))) })
}

// patient is a receiver with a host, and what a test knows of its illness.
type patient struct {
	t *testing.T
	r *receiver
	p *proxy
	h *host
	// where tests keep something for the cure
	note string
}

// pasted runs the command of a fix, from what on it stands behind, as a shell does. with is appended: the configuration, which is
// where the fix expects it on a real machine.
func (p *patient) pasted(fix, after, with string) {
	p.t.Helper()
	_, line, ok := strings.Cut(fix, after)
	if !ok {
		p.t.Fatalf("the fix %q has no %q", fix, after)
	}
	line, _, _ = strings.Cut(line, "; ")
	first, rest, _ := strings.Cut(line+" && true", " && ")
	cmd := exec.Command("sh", "-c", first+" "+with+" && "+rest)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%s %s: %v\n%s", line, with, err, out)
	}
}

// ailment is one fault of a lab host, really made.
type ailment struct {
	name   string
	adjust func(*patient)             // before anything is started
	host   []string                   // settings of the host
	rec    []string                   // and of the receiver
	data   func(*testing.T) string    // makes the disk of data_dir; nil: a directory
	make   func(*patient)             // the fault
	row    string                     // whose row it is
	status health.Status              // and what that is then
	says   string                     // regular expression over title and evidence
	also   []string                   // rows that may be yellow beside it
	cure   func(p *patient, f string) // does what the fix f says
}

// edit replaces text in the host's configuration, as a person would.
func (p *patient) edit(old, new string) {
	p.t.Helper()
	b := readFile(p.t, p.h.config)
	if !strings.Contains(b, old) {
		p.t.Fatalf("%s has no %q", p.h.config, old)
	}
	writeFile(p.t, p.h.config, []byte(strings.Replace(b, old, new, 1)))
}

var lineOf = regexp.MustCompile(`mend line (\d+) of (\S+);`)

// dropLine takes the line that a fix names out of the file that it names.
func (p *patient) dropLine(fix string) {
	p.t.Helper()
	m := lineOf.FindStringSubmatch(fix)
	if m == nil {
		p.t.Fatalf("the fix %q names no line", fix)
	}
	var n int
	fmt.Sscan(m[1], &n)
	lines := strings.Split(readFile(p.t, m[2]), "\n")
	writeFile(p.t, m[2], []byte(strings.Join(slices.Delete(lines, n-1, n), "\n")))
}

func (p *patient) hup() {
	p.t.Helper()
	if err := p.h.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		p.t.Fatal(err)
	}
}

// trust gives the host the CA of a file.
func (p *patient) trust(file string) {
	p.t.Helper()
	if err := os.WriteFile(p.note, []byte(readFile(p.t, file)), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// ownCA lets the host have its own copy of the CA, which can be damaged.
func ownCA(p *patient) {
	p.note = filepath.Join(p.h.dir, "ca.crt")
	p.trust(p.r.ca())
	p.h.conf.with(fmt.Sprintf("receiver.ca_file = %q", p.note))
}

func direct(p *patient) { p.h.conf.with(fmt.Sprintf("receiver.url = %q", "https://"+p.r.addr)) }

// old makes it look as if nothing in dir had changed since days ago.
func old(t *testing.T, days int, paths ...string) {
	t.Helper()
	at := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
	for _, p := range paths {
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func setAsideAs(c code.Code, spec func() episode.Spec) func(*patient) {
	return func(p *patient) {
		p.note = p.h.make(spec())[0]
		eventually(p.t, 20*time.Second, func() string {
			if q := p.h.quarantined()[p.note]; q.Code != c {
				return fmt.Sprintf("%s is not in quarantine as %s", p.note, c)
			}
			return ""
		})
	}
}

func many(n int) (f []episode.File) {
	for i := range n {
		f = append(f, episode.File{Path: fmt.Sprintf("output/%d", i), Data: []byte("x")})
	}
	return f
}

var ailments = []ailment{
	{name: "syntax error", make: func(p *patient) { writeFile(p.t, p.h.config, []byte("\nhost = = 3\n"+readFile(p.t, p.h.config))) },
		row: "configuration", status: health.Red, says: `lab-host.hcl, line 2: Invalid expression`, cure: func(p *patient, f string) { p.dropLine(f) }},
	{name: "unknown attribute", make: func(p *patient) { p.edit("shipper {", "shipper {\n  scan_intervall = \"5s\"") },
		row: "configuration", status: health.Red, says: `line \d+: Unknown attribute.*Did you mean scan_interval`, cure: func(p *patient, f string) { p.dropLine(f) }},
	{name: "bad value", make: func(p *patient) { p.edit("shipper {", "shipper {\n  upload_workers = 100000") },
		row: "configuration", status: health.Red, says: `line \d+: .*upload_workers`, cure: func(p *patient, f string) { p.dropLine(f) }},
	{name: "older configuration in use", make: func(p *patient) { p.h.conf.with(`host = "lab-02"`); p.h.conf.write(p.t, p.h.config) },
		row: "loaded", status: health.Yellow, says: `it is host lab-01, lab-host.hcl says lab-02`,
		also: []string{"registration"}, // by the new name, the receiver does not know it
		cure: func(p *patient, _ string) { p.h.conf.with(`host = "lab-01"`); p.h.conf.write(p.t, p.h.config) }},
	{name: "shipper killed", make: func(p *patient) { p.h.kill() }, row: "shipper", status: health.Red, says: `does not run .*no process \d+`,
		cure: func(p *patient, f string) {
			if f != "systemctl start cis490-shipper" {
				p.t.Errorf("the fix is %q", f)
			}
			p.h.start()
		}},
	{name: "shipper never started", adjust: func(p *patient) { p.note = "not started" }, make: func(*patient) {}, row: "shipper", status: health.Red, says: `no shipper has run since the last boot`,
		cure: func(p *patient, _ string) { p.h.start() }},
	{name: "SIGSTOP", make: func(p *patient) { p.h.cmd.Process.Signal(syscall.SIGSTOP) }, row: "shipper", status: health.Red, says: `stopped by a signal.*state T`,
		cure: func(p *patient, f string) { p.pasted(f, "", "") }},
	{name: "receiver down", adjust: direct, make: func(p *patient) { p.r.stop(30 * time.Second) }, row: "receiver", status: health.Red, says: `can't be reached: receiver unreachable.*connection refused`,
		cure: func(p *patient, f string) {
			if !strings.Contains(f, "on the receiver: systemctl start cis490-receiver") {
				p.t.Errorf("the fix is %q", f)
			}
			p.r.start()
		}},
	{name: "black hole", make: func(p *patient) { p.p.blackHole() }, row: "receiver", status: health.Red, says: `no answer in time.*packets are dropped`, cure: func(p *patient, _ string) { p.p.pass() }},
	{name: "accepts and is silent", make: func(p *patient) { p.p.silent() }, row: "receiver", status: health.Red, says: `accepts connections and says nothing`, cure: func(p *patient, _ string) { p.p.pass() }},
	{name: "slow link", make: func(p *patient) {
		p.p.set(func(c net.Conn) { time.Sleep(1500 * time.Millisecond); p.p.forward(c) }, nil)
	}, row: "receiver", status: health.Yellow, says: `is slow`,
		also: []string{"path", "shipping/timed-out"}, cure: func(p *patient, _ string) { p.p.pass() }},
	{name: "name does not resolve", make: func(p *patient) {
		p.note = p.h.conf["receiver"]["url"]
		p.h.reload(`receiver.url = "https://no-such-host.invalid:8490"`)
	}, row: "dns", status: health.Red, says: `no-such-host.invalid does not resolve`, cure: func(p *patient, _ string) { p.h.reload("receiver.url = " + p.note) }},
	{name: "CA missing", adjust: ownCA, make: func(p *patient) { os.Remove(p.note) }, row: "ca", status: health.Red, says: `ca.crt, is not there`, cure: func(p *patient, _ string) { p.trust(p.r.ca()) }},
	{name: "CA is no certificate", adjust: ownCA, make: func(p *patient) { writeFile(p.t, p.note, []byte("hello")) }, row: "ca", status: health.Red, says: `holds no certificate`,
		cure: func(p *patient, _ string) { p.trust(p.r.ca()) }},
	{name: "CA wrong", adjust: ownCA, make: func(p *patient) {
		other := filepath.Join(p.h.dir, "other")
		if _, _, err := identity.InitCA(other+".crt", other+".key"); err != nil {
			p.t.Fatal(err)
		}
		p.trust(other + ".crt")
		p.hup()
	}, row: "certificate", status: health.Red, says: `is not trusted.*expected a certificate issued by.*got the certificate`, cure: func(p *patient, _ string) { p.trust(p.r.ca()) }},
	{name: "server name wrong", adjust: func(p *patient) {}, make: func(p *patient) { p.h.reload(`receiver.server_name = "receiver.example.org"`) },
		row: "certificate", status: health.Red, says: `another name than receiver.example.org.*got one for localhost, 127.0.0.1`,
		cure: func(p *patient, f string) {
			if !strings.Contains(f, "set receiver.server_name there to one of them") {
				p.t.Errorf("the fix is %q", f)
			}
			p.h.reload(`receiver.server_name = "127.0.0.1"`)
		}},
	{name: "certificate expired", make: func(p *patient) {
		p.p.status(certificate(p.t, "127.0.0.1", p.r.caPair(), time.Now().Add(-time.Hour)), 200)
	}, row: "certificate", status: health.Red, says: `not valid at this time.*expired on`, cure: func(p *patient, _ string) { p.p.pass() }},
	{name: "certificate expires soon", make: func(p *patient) {
		p.p.answer(certificate(p.t, "127.0.0.1", p.r.caPair(), time.Now().Add(48*time.Hour)), greets(p.h))
	}, row: "certificate", status: health.Yellow, says: `expires in (1|2) (d|h)|expires in 4\d h`, cure: func(p *patient, _ string) { p.p.pass() }},
	{name: "a proxy's 404", make: func(p *patient) { p.p.status(p.r.front(), 404) }, row: "answer", status: health.Red, says: `status 404.*without a code`, cure: func(p *patient, _ string) { p.p.pass() }},
	{name: "a proxy's 502", make: func(p *patient) { p.p.status(p.r.front(), 502) }, row: "answer", status: health.Red, says: `status 502`, cure: func(p *patient, _ string) { p.p.pass() }},
	{name: "another server", make: func(p *patient) { p.p.status(p.r.front(), 200) }, row: "answer", status: health.Red, says: `something else than the receiver`, cure: func(p *patient, _ string) { p.p.pass() }},
	{name: "host unknown", adjust: func(p *patient) { delete(p.r.conf, `host "lab-01"`) }, make: func(p *patient) {}, row: "registration", status: health.Red, says: `does not know this host`,
		cure: func(p *patient, f string) { p.pasted(f, "on the receiver: ", "--config "+p.r.config) }},
	{name: "host revoked", make: func(p *patient) { p.r.cli("hosts", "revoke", "lab-01") }, row: "registration", status: health.Red, says: `revoked`,
		cure: func(p *patient, f string) { p.pasted(f, "on the receiver: ", "--config "+p.r.config) }},
	{name: "known by another name", adjust: func(p *patient) {
		delete(p.r.conf, `host "lab-01"`)
		p.r.conf.set(`host "lab-77"`, "key", fmt.Sprintf("%q", p.h.key))
	}, make: func(p *patient) {}, row: "registration", status: health.Red, says: `as lab-77, and here it is lab-01`,
		cure: func(p *patient, _ string) { p.h.reload(`host = "lab-77"`) }},
	{name: "window lets nothing in", make: func(p *patient) { p.r.reload(`window.not_after = "2020-01-01T00:00:00Z"`) }, row: "window", status: health.Red, says: `lets nothing in that ends now.*not_after`,
		cure: func(p *patient, _ string) { p.r.reload(`window.not_after = "2220-01-01T00:00:00Z"`) }},
	{name: "host key readable by others", make: func(p *patient) { os.Chmod(filepath.Join(p.h.data, "identity", identity.HostKeyFile), 0o644) },
		row: "host-key", status: health.Red, says: `mode is 0644`, cure: func(p *patient, f string) { p.pasted(f, "", "") }},
	{name: "host key gone", make: func(p *patient) {
		k := filepath.Join(p.h.data, "identity", identity.HostKeyFile)
		os.Rename(k, k+".backup")
	}, row: "host-key", status: health.Red, says: `is gone`, cure: func(p *patient, _ string) {
		k := filepath.Join(p.h.data, "identity", identity.HostKeyFile)
		os.Rename(k+".backup", k)
	}},
	{name: "host key cut", make: func(p *patient) {
		k := filepath.Join(p.h.data, "identity", identity.HostKeyFile)
		p.note = readFile(p.t, k)
		os.Truncate(k, 40)
	}, row: "host-key", status: health.Red, says: `can't be used`, cure: func(p *patient, f string) {
		if !strings.Contains(f, "from a backup") {
			p.t.Errorf("the fix is %q", f)
		}
		os.WriteFile(filepath.Join(p.h.data, "identity", identity.HostKeyFile), []byte(p.note), 0o600)
	}},
	{name: "disk full", data: func(t *testing.T) string { return smallDisk(t, 64<<20) }, make: func(p *patient) { p.note = fill(p.t, p.h.data) }, row: "disk", status: health.Red, says: `is full`,
		cure: func(p *patient, _ string) { os.Remove(p.note) }},
	{name: "disk nearly full", data: func(t *testing.T) string { return smallDisk(t, 64<<20) }, make: func(p *patient) {
		p.note = filepath.Join(p.h.data, "filler")
		noise(p.t, p.note, 58<<20)
	}, row: "disk", status: health.Yellow, says: `nearly full`, cure: func(p *patient, _ string) { os.Remove(p.note) }},
	{name: "no inodes", data: func(t *testing.T) string {
		dir := smallDisk(t, 64<<20)
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "nr_inodes=2000"); err != nil {
			t.Fatal(err)
		}
		return dir
	}, make: func(p *patient) {
		p.note = filepath.Join(p.h.data, "many")
		os.Mkdir(p.note, 0o755)
		for i := 0; ; i++ {
			f, err := os.Create(filepath.Join(p.note, fmt.Sprint(i)))
			if err != nil {
				return
			}
			f.Close()
		}
	}, row: "disk", status: health.Red, says: `no inodes left`, cure: func(p *patient, _ string) { os.RemoveAll(p.note) }},
	{name: "read-only", data: func(t *testing.T) string { return smallDisk(t, 64<<20) }, make: func(p *patient) {
		p.h.stop(30 * time.Second) // what has files open for writing keeps it from being read-only
		if err := unix.Mount("", p.h.data, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			p.t.Fatal(err)
		}
		p.h.start()
		p.h.wait(20 * time.Second)
	}, row: "data-dir", status: health.Red, says: `is read-only`, cure: func(p *patient, f string) {
		p.pasted(f, "if the disk is sound: ", "")
		p.h.start()
	}},
	{name: "queue is a file", make: func(p *patient) {
		s := filepath.Join(p.h.data, "sealed")
		os.Rename(s, s+".aside")
		writeFile(p.t, s, nil)
	}, row: "scan", status: health.Red, says: `can't scan`, cure: func(p *patient, _ string) {
		s := filepath.Join(p.h.data, "sealed")
		os.Remove(s)
		os.Rename(s+".aside", s)
	}},
	{name: "receiver full", make: func(p *patient) { p.r.restart(`limits.min_free = "1024TiB"`); p.h.make(episode.Spec{}) }, row: "path", status: health.Red, says: `receiver-full`,
		cure: func(p *patient, f string) {
			if !strings.Contains(f, "limits.min_free") {
				p.t.Errorf("the fix is %q", f)
			}
			p.r.restart(`limits.min_free = "0B"`)
		}},
	{name: "backlog too old", host: []string{`shipper.rate_limit = "10kB/s"`}, make: func(p *patient) {
		id := p.h.seal(randomDir(p.t, 3_000_000))
		old(p.t, 3, filepath.Join(p.h.data, "sealed", id))
	}, row: "backlog", status: health.Red, says: `has waited 3 d`, cure: func(p *patient, f string) {
		if !strings.Contains(f, "rate_limit") {
			p.t.Errorf("the fix is %q", f)
		}
		p.h.reload(`shipper.rate_limit = "unlimited"`)
	}},
	{name: "out-of-window", rec: []string{`window.not_before = "2025-01-01T00:00:00Z"`}, make: setAsideAs(code.OutOfWindow, func() episode.Spec { return ran(year(2020)) }),
		row: "quarantine/out-of-window", status: health.Yellow, says: `1 held: out-of-window.*none expires within 3 d`, also: []string{"shipping/out-of-window"},
		cure: func(p *patient, _ string) { p.r.reload(`window.not_before = "2015-01-01T00:00:00Z"`) }},
	{name: "too-large", rec: []string{`limits.episode_files = 20`}, make: setAsideAs(code.TooLarge, func() episode.Spec { return episode.Spec{Files: many(30)} }),
		row: "quarantine/too-large", status: health.Yellow, says: `1 held: too-large`, also: []string{"shipping/too-large"},
		cure: func(p *patient, f string) {
			p.r.reload(`limits.episode_files = 200`)
			p.pasted(f, "then: ", "--config "+p.h.config)
		}},
	{name: "malformed", make: setAsideAs(code.Malformed, func() episode.Spec { return episode.Spec{Run: episode.Run{Host: "somebody-else"}} }),
		row: "quarantine/malformed", status: health.Yellow, says: `1 held: malformed`, also: []string{"shipping/malformed"},
		cure: func(p *patient, f string) {
			p.h.cli("quarantine", "show", p.note)
			p.h.cli("quarantine", "rm", p.note)
		}},
	{name: "damaged", make: func(p *patient) {
		made := filepath.Join(p.h.data, "open", "no-episode")
		writeFile(p.t, filepath.Join(made, "x"), []byte("x"))
		if err := os.Rename(made, filepath.Join(p.h.data, "sealed", "no-episode")); err != nil {
			p.t.Fatal(err)
		}
		eventually(p.t, 20*time.Second, func() string { return p.h.setAside(1) })
	}, row: "quarantine/damaged", status: health.Yellow, says: `1 held: damaged`, also: []string{"shipping/damaged"},
		cure: func(p *patient, f string) { p.h.cli("quarantine", "rm", "no-episode") }},
	{name: "quarantine about to expire", rec: []string{`window.not_before = "2025-01-01T00:00:00Z"`}, make: func(p *patient) {
		setAsideAs(code.OutOfWindow, func() episode.Spec { return ran(year(2020)) })(p)
		found, err := filepath.Glob(filepath.Join(p.h.data, "quarantine", "*-*-*", p.note))
		if err != nil || len(found) != 1 {
			p.t.Fatal(found, err)
		}
		at := time.Now().UTC().Add(-29 * 24 * time.Hour)
		var r map[string]any
		if err := json.Unmarshal([]byte(readFile(p.t, filepath.Join(found[0], "reason.json"))), &r); err != nil {
			p.t.Fatal(err)
		}
		r["quarantined_at"] = at.Format(time.RFC3339)
		b, _ := json.Marshal(r)
		writeFile(p.t, filepath.Join(found[0], "reason.json"), b)
		day := filepath.Join(p.h.data, "quarantine", at.Format("2006-01-02"))
		os.Mkdir(day, 0o755)
		if err := os.Rename(found[0], filepath.Join(day, p.note)); err != nil {
			p.t.Fatal(err)
		}
	}, row: "quarantine/out-of-window", status: health.Red, says: `1 of them will be removed within 3 days`, also: []string{"shipping/out-of-window"},
		cure: func(p *patient, f string) {
			p.r.reload(`window.not_before = "2015-01-01T00:00:00Z"`)
			p.pasted(f, "now: ", "--config "+p.h.config)
		}},
	{name: "open episode left over", make: func(p *patient) {
		dir := filepath.Join(p.h.data, "open", "run-17")
		writeFile(p.t, filepath.Join(dir, "telemetry.csv"), []byte("t\n1\n"))
		old(p.t, 4, filepath.Join(dir, "telemetry.csv"), dir)
	}, row: "open", status: health.Yellow, says: `1 open episodes left over, the oldest without a change for 4 d`,
		cure: func(p *patient, f string) { p.pasted(f, "keep it: ", "--host lab-01") }},
	{name: "acknowledged and damaged at the receiver", host: []string{`shipper.keep_shipped = "1h"`}, make: func(p *patient) {
		id := p.h.seal(randomDir(p.t, 100_000))
		eventually(p.t, 20*time.Second, p.h.drained)
		b := []byte(readFile(p.t, p.r.archives(id)[0]))
		b[len(b)/2] ^= 4
		writeFile(p.t, p.r.archives(id)[0], b)
		try(p.t, program("cis490-receiver"), "scrub", "--config", p.r.config)
	}, row: "stored", status: health.Red, says: `1 acknowledged episodes are damaged at the receiver`, also: []string{"shipping/copy-damaged"},
		cure: func(p *patient, f string) {
			p.pasted(strings.Replace(f, ": sends", "; sends", 1), "", "--config "+p.h.config+" || true")
		}},
}

// greets answers GET /v1/hosts/self as a receiver does that knows the host.
func greets(h *host) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", wire.MediaJSON)
		json.NewEncoder(w).Encode(wire.Self{Host: h.name, Key: h.key, MaxSkew: 5 * time.Minute, ServerTime: time.Now(), ReceiverVersion: version.String()})
	}
}

func TestTheDoctorNamesEachFaultOfALabHostAndItsFixMendsIt(t *testing.T) {
	for _, a := range ailments {
		if a.cure == nil {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, a.rec...)
			px := newProxy(t, r.addr)
			dir := tempDir(t)
			data := filepath.Join(dir, "data")
			if a.data != nil {
				data = a.data(t)
			}
			h := newHostIn(t, dir, data, "lab-01", px.url(), r.ca(), a.host...)
			r.allow(h)
			p := &patient{t: t, r: r, p: px, h: h}
			if a.adjust != nil {
				a.adjust(p)
			}
			r.start()
			if p.note != "not started" {
				h.start()
			} else {
				h.conf.write(t, h.config)
			}
			if !slices.Contains([]string{"host unknown", "known by another name", "shipper never started"}, a.name) {
				healthy(t, h.config)
			}
			a.make(p)
			p.suffer(a, h.config)
		})
	}
}
