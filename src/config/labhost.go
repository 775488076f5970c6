package config

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"cis490/src/episode"
)

func labHostSchema(c *LabHost) *block {
	r, s := &c.Receiver, &c.Shipper
	return &block{
		doc: "lab-host.hcl: what the programs of cis490 on a lab host need to know.",
		attrs: []attr{
			{name: "host", kind: host(&c.Host), defWords: "this machine's host name, without its domain", example: `"lab-01"`,
				doc: "Name of this host. The receiver files its episodes under it."},
			{name: "data_dir", kind: path(&c.DataDir, false), def: `"/var/lib/cis490"`,
				doc: "Directory of the episodes, the receipts and the host's key. All of it has to be on one file system."},
			{name: "run_dir", kind: path(&c.RunDir, false), def: `"/run/cis490"`,
				doc: "Directory of the state files and control sockets. It may be emptied at each boot."},
			{name: "organization", kind: text(&c.Organization, "any text of one line", nil), defWords: "not stated", example: `"Operating Systems Lab, Example University"`,
				doc: "Who runs this lab; stands in each episode's bag-info.txt as Source-Organization."},
			{name: "min_free", kind: size(&c.MinFree, 0, 1<<50), def: `"1GiB"`,
				doc: "Free space on data_dir's file system below which no new episode is begun. Shipping goes on."},
		},
		blocks: []*block{
			{
				name: "receiver", required: true,
				doc: "Where episodes are sent.",
				attrs: []attr{
					{name: "url", kind: receiverURL(&r.URL), required: true, example: `"https://receiver.example.org:8490"`,
						doc: "Address of the receiver."},
					{name: "ca_file", kind: path(&r.CAFile, true), defWords: "the certificate authorities that this machine trusts", example: `"/etc/cis490/ca.crt"`,
						doc: "PEM file with the certificate of the CA that issued the receiver's, as \"cis490-receiver ca init\" makes it."},
					{name: "server_name", kind: serverName(&r.ServerName), defWords: "the host in url", example: `"receiver.example.org"`,
						doc: "Name that the receiver's certificate has to be for. Only needed when that differs from the host in url."},
				},
			},
			{
				name: "shipper",
				doc:  "How cis490-shipper works. The defaults suit most hosts.",
				attrs: []attr{
					{name: "scan_interval", kind: duration(&s.ScanInterval, "100ms", "10m"), def: `"5s"`,
						doc: "Time between two scans for sealed episodes, each of which also feeds the watchdog. New episodes are noticed at once all the same."},
					{name: "watchdog_sec", kind: seconds(&s.Watchdog, 1, 86400), def: "180",
						doc: "WatchdogSec= of the unit, for checking scan_interval, which may be at most half of it. Under systemd the unit's own value counts."},
					{name: "upload_workers", kind: integer(&s.UploadWorkers, " of uploads", 1, 256), def: "16",
						doc: "How many episodes are uploaded at once."},
					{name: "pack_workers", kind: integer(&s.PackWorkers, " of threads, 0 for one per core,", 0, 256), def: "0",
						doc: "How many threads pack and compress, for all uploads together."},
					{name: "compression", kind: oneOf(&s.Compression, "auto", "raw", "fastest", "default"), def: `"auto"`,
						doc: "auto chooses for each frame what gets data across soonest, by the speed of the link and of the CPU."},
					{name: "connect_timeout", kind: duration(&s.ConnectTimeout, "100ms", "10m"), def: `"10s"`,
						doc: "Longest wait for a connection, its TLS handshake included."},
					{name: "stall_timeout", kind: duration(&s.StallTimeout, "100ms", "10m"), def: `"30s"`,
						doc: "Longest time in which not one byte of an upload moves. Slow is not stalled."},
					{name: "response_timeout", kind: duration(&s.ResponseTimeout, "100ms", "10m"), def: `"60s"`,
						doc: "Longest wait for an answer, or for a sign of life before it, once everything is sent."},
					{name: "backoff_min", kind: duration(&s.BackoffMin, "10ms", "1h"), def: `"1s"`,
						doc: "Wait after the first failure of the path to the receiver; it doubles with each further one."},
					{name: "backoff_max", kind: duration(&s.BackoffMax, "10ms", "1d"), def: `"15s"`,
						doc: "Longest such wait: how long after the path has healed a host may take to notice. There is no last try."},
					{name: "poll_interval", kind: duration(&s.PollInterval, "100ms", "1d"), def: `"60s"`,
						doc: "How often the receiver is asked for its window and its clock."},
					{name: "report_interval", kind: duration(&s.ReportInterval, "0s", "1d"), def: `"5m"`,
						doc: "How often the receiver is told how this host is, for \"cis490-receiver hosts list\"; sooner when that changes. 0s: never."},
					{name: "stop_timeout", kind: duration(&s.StopTimeout, "0s", "1h"), def: `"30s"`,
						doc: "How long a stop waits for uploads to end. What is cut then goes on from there after the next start."},
					{name: "keep_shipped", kind: duration(&s.KeepShipped, "0s", "3650d"), def: `"0s"`,
						doc: "How long an episode is kept here after the receiver acknowledged it. 0s: removed at once."},
					{name: "rate_limit", kind: rate(&s.RateLimit.Default), def: `"unlimited"`, example: `"20MB/s"`,
						doc: "Most bytes per second that all uploads together send, TLS included."},
					{name: "quarantine_keep_days", kind: integer(&s.QuarantineKeepDays, " of days", 0, 36500), def: "30",
						doc: "Age in days at which an episode in quarantine is removed for good. 0: never."},
					{name: "quarantine_cleanup_interval_s", kind: seconds(&s.QuarantineCleanupInterval, 1, 30*86400), def: "3600",
						doc: "Seconds between two such clean-ups."},
					{name: "metrics_listen", kind: listen(&s.MetricsListen, true), def: `""`, example: `"127.0.0.1:9490"`,
						doc: "Where Prometheus metrics are served, over plain HTTP. Empty: nowhere."},
				},
				blocks: []*block{{
					name: "rate_window", label: "name", example: "office",
					doc:   "Another rate_limit at some times of the week; any number of blocks. Where windows overlap the lowest counts.",
					attrs: rateWindowAttrs(new(RateWindow)),
					checkLabel: func(label string) error {
						if !episode.ValidHost(label) {
							return fmt.Errorf("%q is not such a name. Allowed: %s", label, hostAllowed)
						}
						return nil
					},
					each: func(label string) *block {
						w := &RateWindow{Name: label}
						s.RateLimit.Windows = append(s.RateLimit.Windows, w)
						return &block{name: "rate_window", attrs: rateWindowAttrs(w)}
					},
				}},
			},
		},
	}
}

// checkLabHost looks at what takes more than one value to judge, and fills in
// the defaults that are computed.
func checkLabHost(c *LabHost, d *decoder, o *options) {
	if c.Host == "" && d.good("host") {
		name, err := o.hostname()
		short, _, _ := strings.Cut(strings.ToLower(name), ".")
		if err == nil && episode.ValidHost(short) {
			c.Host = short
		} else {
			d.fail("Missing host", fmt.Sprintf("This machine's host name, %q, can't serve as the name of the lab host. Set one: %s. For example:\n\n    %s", name, hostAllowed, d.line(attr{name: "host", example: `"lab-01"`})), "host")
		}
	}
	s := &c.Shipper
	checkRates(&s.RateLimit, d)
	if s.PackWorkers == 0 {
		s.PackWorkers = o.cores
	}
	if o.watchdog > 0 {
		s.Watchdog = o.watchdog
	}
	if d.good("shipper.scan_interval", "shipper.watchdog_sec") && s.Watchdog > 0 && s.ScanInterval > s.Watchdog/2 {
		of := "watchdog_sec"
		if o.watchdog > 0 {
			of = "WatchdogSec= of the unit"
		}
		d.fail("scan_interval is too long for the watchdog", fmt.Sprintf("The watchdog is fed once per scan, and systemd kills the shipper when that does not come for %s (%s). scan_interval is %s; at most half the watchdog's, %s, is allowed.",
			FormatDuration(s.Watchdog), of, FormatDuration(s.ScanInterval), FormatDuration(s.Watchdog/2)), "shipper.scan_interval")
	}
	if d.good("shipper.backoff_min", "shipper.backoff_max") && s.BackoffMin > s.BackoffMax {
		path := "shipper.backoff_min"
		if d.given("shipper.backoff_max") {
			path = "shipper.backoff_max"
		}
		d.fail("backoff_max is less than backoff_min", fmt.Sprintf("backoff_min is %s and backoff_max is %s. Allowed: backoff_max of %s or more.",
			FormatDuration(s.BackoffMin), FormatDuration(s.BackoffMax), FormatDuration(s.BackoffMin)), path)
	}
	if d.good("data_dir", "run_dir") && c.DataDir == c.RunDir {
		path := "run_dir"
		if !d.given(path) {
			path = "data_dir"
		}
		d.fail("data_dir and run_dir are the same", "Both are "+c.DataDir+", but run_dir may be emptied at each boot. Give each a directory of its own.", path)
	}
	if d.good("receiver.url", "receiver.ca_file") && c.Receiver.URL != nil && c.Receiver.URL.Scheme == "http" && c.Receiver.CAFile != "" {
		d.fail("ca_file without TLS", "url begins with http://, so there is no certificate to check. Write https:// there, or leave ca_file out.", "receiver.ca_file")
	}
	if o.files && c.Receiver.CAFile != "" && d.good("receiver.ca_file") {
		d.checkCertFile("receiver.ca_file", c.Receiver.CAFile, o.now(), "Copy it from the receiver; \"cis490-receiver ca init\" says where it is there.")
	}
}

// checkCertFile looks into a PEM file of certificates.
func (d *decoder) checkCertFile(path, file string, now time.Time, fix string) {
	name := path[strings.LastIndexByte(path, '.')+1:]
	b, err := os.ReadFile(file)
	if err != nil {
		d.fail("Can't read "+name, sentence(err.Error())+" "+fix, path)
		return
	}
	n := 0
	for len(b) > 0 {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil {
			break
		}
		if p.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			d.fail("Bad certificate in "+name, file+": "+err.Error()+". "+fix, path)
			return
		}
		if now.After(cert.NotAfter) {
			d.warn("Expired certificate in "+name, fmt.Sprintf("%s: the certificate of %q expired on %s. %s", file, cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339), fix), path)
		}
		n++
	}
	if n == 0 {
		d.fail("No certificate in "+name, file+" has no PEM block of type CERTIFICATE in it. "+fix, path)
	}
}

// port is the port of a listen address, 0 if it has none.
func port(listen string) int {
	_, p, err := net.SplitHostPort(listen)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(p)
	return n
}
