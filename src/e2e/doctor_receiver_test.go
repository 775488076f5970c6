package e2e

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/episode"
	"cis490/src/health"
)

// storeAilments are faults of a receiver. Their row is looked for in what the doctor says of the receiver.
var storeAilments = []ailment{
	{name: "syntax error", make: func(p *patient) { writeFile(p.t, p.r.config, []byte("max_skew = = 3\n"+readFile(p.t, p.r.config))) },
		row: "receiver-configuration", status: health.Red, says: `receiver.hcl, line 1: `, cure: func(p *patient, f string) { p.dropLine(f) }},
	{name: "killed", make: func(p *patient) { p.r.kill() }, row: "receiver-process", status: health.Red, says: `does not run.*no process`,
		cure: func(p *patient, f string) {
			if f != "systemctl start cis490-receiver" {
				p.t.Errorf("the fix is %q", f)
			}
			p.r.start()
		}},
	{name: "never started", make: func(p *patient) {
		p.r.stop(30 * time.Second)
		os.RemoveAll(filepath.Join(p.r.dir, "run"))
	}, row: "receiver-process", status: health.Red, says: `no receiver has run since the last boot`, cure: func(p *patient, _ string) { p.r.start() }},
	{name: "SIGSTOP", make: func(p *patient) { p.r.cmd.Process.Signal(syscall.SIGSTOP) }, row: "receiver-process", status: health.Red, says: `stopped by a signal.*state T`,
		cure: func(p *patient, f string) { p.pasted(f, "", "") }},
	{name: "store full", data: func(t *testing.T) string { return smallDisk(t, 64<<20) }, make: func(p *patient) { p.note = fill(p.t, p.r.state) },
		row: "store-space", status: health.Red, says: `state_dir is full`, cure: func(p *patient, _ string) { os.Remove(p.note) }},
	{name: "store nearly full", data: func(t *testing.T) string { return smallDisk(t, 64<<20) }, make: func(p *patient) {
		p.note = filepath.Join(p.r.state, "filler")
		noise(p.t, p.note, 58<<20)
	}, row: "store-space", status: health.Yellow, says: `nearly full`, cure: func(p *patient, _ string) { os.Remove(p.note) }},
	{name: "store read-only", data: func(t *testing.T) string { return smallDisk(t, 64<<20) }, make: func(p *patient) {
		p.r.stop(30 * time.Second) // what has files open for writing keeps it from being read-only
		if err := unix.Mount("", p.r.state, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			p.t.Fatal(err)
		}
		p.r.launch()
		p.r.wait(20 * time.Second)
	}, row: "state-dir", status: health.Red, says: `is read-only`, cure: func(p *patient, f string) {
		p.pasted(f, "if the disk is sound: ", "")
		p.r.start()
	}},
	{name: "catalogue behind the store", make: func(p *patient) {
		p.h.make(make([]episode.Spec, 3)...)
		eventually(p.t, 20*time.Second, p.h.drained)
		// A start would find it by itself.
		file := filepath.Join(p.r.state, "catalogue.sqlite")
		if _, err := os.Stat(file); err != nil {
			p.t.Fatal(err)
		}
		c, err := catalog.Open(file)
		if err != nil {
			p.t.Fatal(err)
		}
		id, err := episode.ParseID(p.r.stored()[0])
		if err != nil {
			p.t.Fatal(err)
		}
		if err := c.Remove(context.Background(), id); err != nil {
			p.t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			p.t.Fatal(err)
		}
	}, row: "catalogue", status: health.Red, says: `is behind the store: 1 of the 3 newest`, cure: func(p *patient, f string) { p.pasted(f, "", "--config "+p.r.config) }},
	{name: "certificate expires soon", make: func(p *patient) {
		c := certificate(p.t, "127.0.0.1", p.r.caPair(), time.Now().Add(72*time.Hour))
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			p.t.Fatal(err)
		}
		p.note = filepath.Join(p.r.dir, "own.crt")
		writeFile(p.t, p.note, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
		writeFile(p.t, p.note+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		p.r.reload(fmt.Sprintf("tls.cert_file = %q", p.note), fmt.Sprintf("tls.key_file = %q", p.note+".key"))
	}, row: "receiver-certificate", status: health.Yellow, says: `expires in (2|3) d`, cure: func(p *patient, f string) {
		if !strings.Contains(f, "renew "+p.note) {
			p.t.Errorf("the fix is %q", f)
		}
		c := certificate(p.t, "127.0.0.1", p.r.caPair(), time.Now().Add(720*time.Hour))
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			p.t.Fatal(err)
		}
		writeFile(p.t, p.note+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		writeFile(p.t, p.note, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	}},
	{name: "a host that the receiver does not know", make: func(p *patient) {
		other := newHost(p.t, "lab-99", "https://"+p.r.addr, p.r.ca())
		other.start()
		p.note = other.key
	}, row: "hosts-held/host-unknown", status: health.Yellow, says: `1 host\(s\) hold their queue: host-unknown: sha256:`, cure: func(p *patient, f string) {
		line := strings.Replace(f, "NAME KEY", "lab-99 "+p.note, 1)
		p.pasted(line, "if it may ship: ", "--config "+p.r.config)
	}},
	{name: "unfinished uploads pile up", rec: []string{`limits.uploads = 2`, `limits.uploads_per_host = 2`}, make: func(p *patient) {
		a := newAttacker(p.t, p.r, "lab-50")
		p.r.cli("hosts", "allow", "lab-50", a.key)
		for range 5 {
			ann, _ := soundly("lab-50")
			if path, r := a.begin(ann); path == "" {
				p.t.Fatalf("no upload: %s", r)
			}
		}
	}, row: "partial-uploads", status: health.Yellow, says: `pile up: 5, and 2 may go on at once`, cure: func(p *patient, f string) {
		if !strings.Contains(f, "upload_max_age") {
			p.t.Errorf("the fix is %q", f)
		}
		p.r.reload(`upload_max_age = "1s"`)
	}},
	{name: "rot", host: []string{`shipper.keep_shipped = "1h"`}, make: func(p *patient) {
		id := p.h.seal(randomDir(p.t, 100_000))
		eventually(p.t, 20*time.Second, p.h.drained)
		b := []byte(readFile(p.t, p.r.archives(id)[0]))
		b[len(b)/2] ^= 4
		writeFile(p.t, p.r.archives(id)[0], b)
		try(p.t, program("cis490-receiver"), "scrub", "--config", p.r.config)
	}, row: "scrub", status: health.Red, says: `1 stored episodes are damaged`, cure: func(p *patient, f string) {
		if !strings.Contains(f, "cis490-shipper audit") {
			p.t.Errorf("the fix is %q", f)
		}
		try(p.t, program("cis490-shipper"), "audit", "--requeue", "--config", p.h.config)
	}},
	{name: "window lets nothing in", make: func(p *patient) { p.r.reload(`window.not_after = "2020-01-01T00:00:00Z"`) }, row: "receiver-window", status: health.Red, says: `lets nothing in that ends now.*not_after`,
		cure: func(p *patient, _ string) { p.r.reload(`window.not_after = "2220-01-01T00:00:00Z"`) }},
	{name: "no host may ship", make: func(p *patient) { p.r.cli("hosts", "revoke", "lab-01") }, row: "hosts-silent", status: health.Yellow, says: `no host may ship yet`,
		also: []string{"hosts-held/host-revoked"},
		cure: func(p *patient, f string) {
			p.pasted(strings.Replace(strings.Replace(f, "NAME KEY", "lab-01 "+p.h.key, 1), ", with the key", "; with the key", 1), "", "--config "+p.r.config)
		}},
}

func TestTheDoctorNamesEachFaultOfAReceiverAndItsFixMendsIt(t *testing.T) {
	for _, a := range storeAilments {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			rec := a.rec
			disk := ""
			if a.data != nil {
				disk = a.data(t)
				rec = append(slices.Clone(rec), fmt.Sprintf("state_dir = %q", disk))
			}
			r := newReceiver(t, rec...)
			if disk != "" {
				r.state = disk
			}
			px := newProxy(t, r.addr)
			h := newHost(t, "lab-01", px.url(), r.ca(), a.host...)
			r.allow(h)
			p := &patient{t: t, r: r, p: px, h: h}
			r.start()
			h.start()
			healthy(t, r.config)
			a.make(p)
			p.suffer(a, r.config)
		})
	}
}

// suffer waits until the doctor says what it should of a fault, applies the fix and waits until all is well.
func (p *patient) suffer(a ailment, config string) {
	t := p.t
	t.Helper()
	made := time.Now()
	var row health.Result
	eventually(t, 25*time.Second, func() string {
		got := unwell(examined(t, config))
		i := slices.IndexFunc(got, func(x health.Result) bool { return x.ID == a.row })
		if i < 0 || got[i].Status != a.status {
			return "the row " + a.row + " is not " + string(a.status) + ":\n" + show(got)
		}
		row = got[i]
		for _, x := range got {
			// Causes before symptoms: nothing but the cause is red, and nothing else is yellow but what the fault is too.
			if x.ID != a.row && x.Status != health.Skipped && !slices.Contains(a.also, x.ID) {
				return "beside " + a.row + ":\n" + show([]health.Result{x})
			}
		}
		return ""
	})
	knew := time.Since(made)
	if !regexp.MustCompile(`(?s)` + a.says).MatchString(row.Title + " " + row.Evidence) {
		t.Errorf("it says %q (%q), want %s", row.Title, row.Evidence, a.says)
	}
	if row.Fix == "" {
		t.Fatal("no fix")
	}
	a.cure(p, row.Fix)
	cured := time.Now()
	eventually(t, 30*time.Second, func() string {
		return show(slices.DeleteFunc(unwell(examined(t, config)), func(x health.Result) bool {
			// What passed by itself is told for a minute after.
			return strings.HasPrefix(x.ID, "shipping/") && x.Status == health.Yellow && strings.Contains(x.Title, "it has passed")
		}))
	})
	t.Logf("FAULT %s | %s | %s | %.1f s | %s | green after %.1f s", a.name, a.row, a.status, knew.Seconds(), row.Fix, time.Since(cured).Seconds())
}
