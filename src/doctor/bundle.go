package doctor

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"cis490/src/config"
	"cis490/src/health"
	"cis490/src/state"
)

// redactor takes out of a text what names people and machines, and what could be a
// secret.
type redactor struct{ names *strings.Replacer }

var (
	secrets = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]+-----.*?-----END [A-Z0-9 ]+-----`)
	hashes  = regexp.MustCompile(`sha256:([0-9a-f]{8})[0-9a-f]{56}`)
	tokens  = regexp.MustCompile(`(?i)((?:token|secret|password|authorization|api[-_]?key)"?\s*[=:]\s*)("[^"]*"|\S+)`)
	userOf  = regexp.MustCompile(`(://)[^/@\s]+@`)
	ips     = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}\b`)
	uploads = regexp.MustCompile(`(/v1/uploads/)[^\s"]+`)
)

func newRedactor(names map[string]string) redactor {
	var pairs []string
	for name, as := range names {
		if len(name) > 2 && name != "localhost" {
			pairs = append(pairs, name, as)
		}
	}
	return redactor{strings.NewReplacer(pairs...)}
}

func (r redactor) text(s string) string {
	s = secrets.ReplaceAllString(s, "[redacted PEM]")
	s = tokens.ReplaceAllString(s, "$1[redacted]")
	s = userOf.ReplaceAllString(s, "$1[redacted]@")
	s = uploads.ReplaceAllString(s, "$1[redacted]")
	s = hashes.ReplaceAllString(s, "sha256:$1…")
	s = ips.ReplaceAllStringFunc(s, func(a string) string {
		if ip := net.ParseIP(a); ip == nil || ip.IsLoopback() || ip.IsUnspecified() {
			return a
		}
		return "[address]"
	})
	return r.names.Replace(s)
}

// Bundle writes a tar.gz file for somebody who is to help: the report, the
// configuration, the state files, the units and the last warnings of the journal,
// each redacted. It sends nothing. The file must not be there yet.
func Bundle(ctx context.Context, o Options, r health.Report, file string) (err error) {
	names := map[string]string{r.Host: "[host]"}
	type piece struct{ name, text string }
	var pieces []piece
	add := func(name, text string) { pieces = append(pieces, piece{name, text}) }
	addFile := func(name, path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			b = []byte(err.Error() + "\n") // that it can't be read says something too
		}
		add(name, string(b))
	}
	doc, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	add("report.json", string(doc)+"\n")
	var units []string
	if o.Host != "" {
		units = append(units, state.ShipperUnit)
		addFile("lab-host.hcl", o.Host)
		if cfg, err := config.LoadLabHost(o.Host); err == nil {
			names[cfg.Host], names[cfg.Receiver.URL.Hostname()], names[cfg.Organization] = "[host]", "[receiver]", "[organization]"
			addFile("shipper-state.json", state.ShipperPath(cfg.RunDir))
		}
	}
	if o.Receiver != "" {
		units = append(units, state.ReceiverUnit)
		addFile("receiver.hcl", o.Receiver)
		if cfg, err := config.LoadReceiver(o.Receiver); err == nil {
			for _, n := range cfg.TLS.Names {
				names[n] = "[receiver]"
			}
			for i, h := range cfg.Hosts {
				names[h.Name] = fmt.Sprintf("[host %d]", i+1)
			}
			addFile("receiver-state.json", state.ReceiverPath(cfg.RunDir))
		}
	}
	for _, u := range units {
		for name, args := range map[string][]string{
			u + ".service": {"systemctl", "cat", "--no-pager", u + ".service"},
			u + ".status":  {"systemctl", "status", "--no-pager", "--full", "--lines=0", u + ".service"},
			u + ".journal": {"journalctl", "--no-pager", "--output=short-iso", "--priority=notice", "--lines=500", "--unit=" + u + ".service"},
		} {
			each, cancel := context.WithTimeout(ctx, each)
			out, errs, err := output(each, args[0], args[1:]...)
			cancel()
			if err != nil {
				out += errs + err.Error() + "\n"
			}
			add(name, out)
		}
	}
	clean := newRedactor(names)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(f)
	t := tar.NewWriter(z)
	defer func() {
		if err = errors.Join(err, t.Close(), z.Close(), f.Close()); err != nil {
			_ = os.Remove(file) // half of it is of no use
		}
	}()
	for _, p := range pieces {
		text := clean.text(p.text)
		if err := t.WriteHeader(&tar.Header{Name: "cis490-doctor/" + p.name, Mode: 0o600, Size: int64(len(text)), ModTime: time.Now(), Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := io.WriteString(t, text); err != nil {
			return err
		}
	}
	return nil
}
