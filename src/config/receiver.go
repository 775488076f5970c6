package config

import (
	"crypto/tls"
	"fmt"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"cis490/src/identity"
)

// receiverSchema is bound to c, but for the host blocks, which it collects in
// hosts.
func receiverSchema(c *Receiver, hosts *[]*Host) *block {
	t, w, l, scrub := &c.TLS, &c.Window, &c.Limits, &c.Scrub
	return &block{
		doc: "receiver.hcl: what cis490-receiver needs to know.",
		attrs: []attr{
			{name: "state_dir", kind: path(&c.StateDir, false), def: `"/var/lib/cis490-receiver"`,
				doc: "Directory of the stored episodes, unfinished uploads, the catalogue and the CA. All of it has to be on one file system."},
			{name: "run_dir", kind: path(&c.RunDir, false), def: `"/run/cis490-receiver"`,
				doc: "Directory of the state file and the operator's socket. It may be emptied at each boot."},
			{name: "listen", kind: listen(&c.Listen, false), def: `":8490"`,
				doc: "Where hosts connect, over TLS."},
			{name: "metrics_listen", kind: listen(&c.MetricsListen, true), def: `""`, example: `"127.0.0.1:9491"`,
				doc: "Where Prometheus metrics are served, over plain HTTP. Empty: nowhere."},
			{name: "max_skew", kind: duration(&c.MaxSkew, "1s", "1d"), def: `"5m"`,
				doc: "Furthest that a host's clock may be from the receiver's. Beyond it the host keeps its episodes until its clock is right."},
			{name: "upload_max_age", kind: duration(&c.UploadMaxAge, "1s", "365d"), def: `"7d"`,
				doc: "How long an unfinished upload is kept after its last byte. The host begins it anew after that."},
			{name: "operator_group", kind: group(&c.OperatorGroup), defWords: "only the receiver's own user and root", example: `"cis490-operators"`,
				doc: "Group whose members may use the operator's socket: list and read episodes, allow and revoke hosts."},
		},
		blocks: []*block{
			{
				name: "tls",
				doc:  "The receiver's certificate: issued by its own CA, or given as files.",
				attrs: []attr{
					{name: "names", kind: names(&t.Names), defWords: `this machine's host name, and "localhost"`, example: `["receiver.example.org"]`,
						doc: "Names and addresses by which hosts reach the receiver; the certificate is issued for them."},
					{name: "ca_cert_file", kind: path(&t.CACertFile, true), defWords: "ca/ca.crt in state_dir", example: `"/var/lib/cis490-receiver/ca/ca.crt"`,
						doc: "Certificate of the receiver's own CA. Hosts need a copy of it (ca_file in lab-host.hcl)."},
					{name: "ca_key_file", kind: path(&t.CAKeyFile, true), defWords: "ca/ca.key in state_dir", example: `"/var/lib/cis490-receiver/ca/ca.key"`,
						doc: "Private key of that CA."},
					{name: "cert_file", kind: path(&t.CertFile, true), defWords: "a certificate of the receiver's own CA", example: `"/etc/cis490/receiver.crt"`,
						doc: "Certificate chain from elsewhere, PEM. Read again when it changes. Needs key_file."},
					{name: "key_file", kind: path(&t.KeyFile, true), defWords: "a key that the receiver makes for itself", example: `"/etc/cis490/receiver.key"`,
						doc: "Private key for cert_file, PEM."},
				},
			},
			{
				name: "window",
				doc:  "Which episodes are let in, by the time at which they ran. Others are refused as out-of-window, stay in quarantine on their host, and come by themselves once the window is widened.",
				attrs: []attr{
					{name: "max_age", kind: duration(&w.MaxAge, "0s", "36500d"), def: `"0s"`, example: `"90d"`,
						doc: "Oldest that an episode may be, counted from its end. 0s: no bound."},
					{name: "max_ahead", kind: duration(&w.MaxAhead, "0s", "36500d"), def: `"10m"`,
						doc: "Furthest that an episode may end in the future, by the receiver's clock."},
					{name: "not_before", kind: instant(&w.NotBefore), defWords: "no bound", example: `"2026-01-01T00:00:00Z"`,
						doc: "Earliest start of an episode."},
					{name: "not_after", kind: instant(&w.NotAfter), defWords: "no bound", example: `"2027-01-01T00:00:00Z"`,
						doc: "Latest end of an episode."},
				},
			},
			{
				name: "limits",
				doc:  "What one episode or one host may use.",
				attrs: []attr{
					{name: "episode_size", kind: size(&l.EpisodeSize, 1, 1<<50), def: `"64GiB"`,
						doc: "Most bytes that the files of one episode may have."},
					{name: "episode_files", kind: integer(&l.EpisodeFiles, " of files", int64(1), 100_000_000), def: "2000000",
						doc: "Most files in one episode."},
					{name: "ratio", kind: integer(&l.Ratio, "", int64(1), 1_000_000), def: "1000",
						doc: "Most bytes that one received byte may decompress to."},
					{name: "uploads", kind: integer(&l.Uploads, " of uploads", 1, 100_000), def: "256",
						doc: "Most uploads at once."},
					{name: "uploads_per_host", kind: integer(&l.UploadsPerHost, " of uploads", 1, 100_000), def: "32",
						doc: "Most uploads at once from one host."},
					{name: "partial_bytes_per_host", kind: size(&l.PartialBytesPerHost, 1, 1<<50), def: `"256GiB"`,
						doc: "Most bytes of unfinished uploads that are kept for one host."},
					{name: "min_free", kind: size(&l.MinFree, 0, 1<<50), def: `"1GiB"`,
						doc: "Free space on state_dir's file system that no upload may eat into."},
					{name: "memory", kind: size(&l.Memory, 96<<20, 1<<40), def: `"128MiB"`,
						doc: "What the receiver's memory is kept below, whatever arrives. With more of it, more uploads are verified at a time."},
					{name: "connections", kind: integer(&l.Connections, " of connections", 16, 1_000_000), def: "512",
						doc: "Most connections at once, and a quarter of them for one host. Beyond it, those that wait longest for a request are closed."},
					{name: "header_bytes", kind: size(&l.HeaderBytes, 4<<10, 1<<20), def: `"16KiB"`,
						doc: "Most bytes in the header of a request."},
					{name: "stall_timeout", kind: duration(&l.StallTimeout, "100ms", "10m"), def: `"30s"`,
						doc: "Longest time in which not one byte of a request's body arrives."},
				},
			},
			{
				name: "scrub",
				doc:  "All that is stored is read again from time to time and compared with its digests, at the lowest priority: a disk that forgets is to be noticed while the host, or a backup, still has what it forgot. \"cis490-receiver scrub\" does it at once.",
				attrs: []attr{
					{name: "every", kind: duration(&scrub.Every, "0s", "3650d"), def: `"30d"`,
						doc: "How long after it was last read and found right each episode is read again. 0s: never."},
					{name: "rate", kind: rate(&scrub.Rate), def: `"20MB/s"`,
						doc: "Most bytes of archives that are read per second. It has to be enough for the whole store within every: 20MB/s is 50 TB in 30 days."},
				},
			},
			{
				name: "host", label: "name",
				doc:   "A host that may send episodes; one block for each. Others can be let in with \"cis490-receiver hosts allow\".",
				attrs: hostAttrs(new(Host)), example: "lab-01",
				checkLabel: func(label string) error {
					if err := checkHost(label); err != nil {
						return fmt.Errorf("%w. Allowed: %s", err, hostAllowed)
					}
					return nil
				},
				each: func(label string) *block {
					h := &Host{Name: label}
					*hosts = append(*hosts, h)
					return &block{name: "host", attrs: hostAttrs(h)}
				},
			},
		},
	}
}

func hostAttrs(h *Host) []attr {
	return []attr{
		{name: "key", kind: key(&h.Key), required: true, example: `"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"`,
			doc: "SHA-256 of the host's public key, as \"cis490-shipper status\" shows it on that host."},
	}
}

func checkReceiver(c *Receiver, hosts []*Host, d *decoder, o *options) {
	byKey := map[string]string{}
	for _, h := range hosts {
		c.Hosts = append(c.Hosts, *h)
		path := join("host", h.Name) + ".key"
		if h.Key == "" || !d.good(path) {
			continue
		}
		if other, ok := byKey[h.Key]; ok {
			d.fail("Two hosts with one key", fmt.Sprintf("host %q has the key of host %q already, on line %d. A host is known by its key, so each needs its own.", h.Name, other, d.at[join("host", other)+".key"].Start.Line), path)
		}
		byKey[h.Key] = h.Name
	}
	checkTLS(c, d, o)
	checkWindow(c, d, o)
	l := &c.Limits
	if d.good("limits.uploads", "limits.uploads_per_host") && l.UploadsPerHost > l.Uploads {
		path := "limits.uploads_per_host"
		if !d.given(path) {
			path = "limits.uploads"
		}
		d.fail("uploads_per_host is more than uploads", fmt.Sprintf("One host may have %d uploads at once and all hosts together only %d. Allowed: uploads of %d or more.", l.UploadsPerHost, l.Uploads, l.UploadsPerHost), path)
	}
	if d.good("limits.episode_size", "limits.partial_bytes_per_host") && l.PartialBytesPerHost < l.EpisodeSize {
		path := "limits.partial_bytes_per_host"
		if !d.given(path) {
			path = "limits.episode_size"
		}
		d.warn("partial_bytes_per_host is less than episode_size", fmt.Sprintf("An episode that does not compress, of more than %s, would be let in (episode_size is %s) and then never completed.", l.PartialBytesPerHost, l.EpisodeSize), path)
	}
	if d.good("listen", "metrics_listen") && c.MetricsListen != "" && port(c.Listen) != 0 && port(c.Listen) == port(c.MetricsListen) {
		d.fail("listen and metrics_listen have the same port", fmt.Sprintf("Hosts connect to port %d. Give the metrics another one.", port(c.Listen)), "metrics_listen")
	}
	if d.good("state_dir", "run_dir") && c.StateDir == c.RunDir {
		path := "run_dir"
		if !d.given(path) {
			path = "state_dir"
		}
		d.fail("state_dir and run_dir are the same", "Both are "+c.StateDir+", but run_dir may be emptied at each boot. Give each a directory of its own.", path)
	}
	if o.files && c.OperatorGroup != "" && d.good("operator_group") {
		if _, err := user.LookupGroup(c.OperatorGroup); err != nil {
			d.fail("No such operator_group", fmt.Sprintf("There is no group %s on this machine. To make it: groupadd --system %s", c.OperatorGroup, c.OperatorGroup), "operator_group")
		}
	}
}

func checkTLS(c *Receiver, d *decoder, o *options) {
	t := &c.TLS
	if !d.good("tls.names", "tls.ca_cert_file", "tls.ca_key_file", "tls.cert_file", "tls.key_file") {
		return
	}
	for _, pair := range [][2][2]string{
		{{"cert_file", t.CertFile}, {"key_file", t.KeyFile}},
		{{"ca_cert_file", t.CACertFile}, {"ca_key_file", t.CAKeyFile}},
	} {
		for i, one := range pair {
			if other := pair[1-i]; one[1] != "" && other[1] == "" {
				d.fail(one[0]+" without "+other[0], "A certificate is of no use without its private key. Set both, or neither.", "tls."+one[0])
			}
		}
	}
	if t.CertFile != "" && t.CACertFile != "" {
		d.fail("cert_file and ca_cert_file", "The receiver's certificate either comes from a file or is issued by its own CA. Take out one of the two pairs.", "tls.ca_cert_file")
	}
	if o.files && t.CertFile != "" && t.KeyFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			d.fail("Can't use cert_file with key_file", sentence(err.Error())+" Both have to be PEM, readable for the receiver, and belong together.", "tls.cert_file")
		} else {
			d.checkCertFile("tls.cert_file", t.CertFile, o.now(), "Renew it; the receiver reads it again by itself.")
		}
	}
	if o.files && t.CACertFile != "" && t.CAKeyFile != "" {
		if _, err := identity.LoadCA(t.CACertFile, t.CAKeyFile); err != nil {
			d.fail("Can't use ca_cert_file with ca_key_file", sentence(err.Error())+" \"cis490-receiver ca init\" makes both.", "tls.ca_cert_file")
		}
	}
	if t.CACertFile == "" && t.CAKeyFile == "" {
		t.CACertFile = filepath.Join(c.StateDir, "ca", "ca.crt")
		t.CAKeyFile = filepath.Join(c.StateDir, "ca", "ca.key")
	}
	if len(t.Names) == 0 {
		t.Names = []string{"localhost"}
		if name, err := o.hostname(); err == nil && dnsName.MatchString(name) && name != "localhost" {
			t.Names = []string{strings.ToLower(name), "localhost"}
		}
	}
}

func checkWindow(c *Receiver, d *decoder, o *options) {
	w := &c.Window
	if !d.good("window.not_before", "window.not_after", "window.max_age", "window.max_ahead") {
		return
	}
	now := o.now()
	rfc := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case w.NotBefore != nil && w.NotAfter != nil && !w.NotBefore.Before(*w.NotAfter):
		d.fail("Empty window", fmt.Sprintf("not_after, %s, is not later than not_before, %s: no episode can run between them. Allowed: a not_after later than not_before.", rfc(*w.NotAfter), rfc(*w.NotBefore)), "window.not_after")
	case w.NotBefore != nil && w.NotBefore.After(now.Add(w.MaxAhead)):
		d.warn("The window has not opened yet", fmt.Sprintf("It is %s. Until not_before, %s, every episode is refused.", rfc(now), rfc(*w.NotBefore)), "window.not_before")
	case w.NotAfter != nil && w.MaxAge > 0 && w.NotAfter.Before(now.Add(-w.MaxAge)):
		d.warn("The window has closed", fmt.Sprintf("It is %s. not_after, %s, is longer ago than max_age, %s: every episode is refused.", rfc(now), rfc(*w.NotAfter), FormatDuration(w.MaxAge)), "window.not_after")
	}
}
