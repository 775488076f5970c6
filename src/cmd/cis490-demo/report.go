package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"cis490/src/code"
	"cis490/src/pack"
)

// report compares what was stored with its source and prints the table. failed
// says which episodes did not end as they should.
func (d *demo) report(ctx context.Context, took time.Duration) (failed, err error) {
	out := d.o.out
	fmt.Fprintf(out, "\nUnpacking what was stored and comparing it with its source …\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "episode\twhat\tfiles\tsize\tsealed\tacknowledged\tstored\tequal")
	var sealed, acknowledged, stored, equal, refused int
	var bytes int64
	for _, it := range d.items {
		sealed++
		bytes += it.sealed.Size
		ack, archive, eq := it.state, "–", "–"
		switch {
		case it.state == string(code.Stored):
			acknowledged++
			ack = "yes"
			path, err := d.archive(it)
			if err != nil {
				return nil, err
			}
			if path != "" {
				stored++
				archive = "yes"
				diff, err := d.equal(ctx, path, it)
				if err != nil {
					return nil, err
				}
				if eq = "yes"; diff != "" {
					eq = "NO: " + diff
				} else {
					equal++
				}
			}
		default:
			refused++
		}
		if it.state != string(it.expect) || (it.state == string(code.Stored) && eq != "yes") {
			failed = errors.Join(failed, fmt.Errorf("%s (%s): %s, expected %s; equal: %s", it.what, it.sealed.ID, it.state, it.expect, eq))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\tyes\t%s\t%s\t%s\n", it.sealed.ID, it.what, humanize.Comma(it.sealed.Files), bytesText(it.sealed.Size), ack, archive, eq)
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	fmt.Fprintln(out, "\nIn quarantine on the lab host, as they should be:")
	for _, it := range d.items {
		if it.state != string(code.Stored) {
			fmt.Fprintf(out, "  %s  %s: %s\n    why: %s\n    fix: %s\n", it.sealed.ID, it.what, it.state, it.detail, it.fix)
		}
	}
	fmt.Fprintf(out, "\n%d sealed = %d acknowledged + %d in quarantine; %d stored, %d equal. %s in %s.\n",
		sealed, acknowledged, refused, stored, equal, bytesText(bytes), took.Round(10*time.Millisecond))
	return failed, nil
}

// archive finds the episode in the receiver's store; "" when it is not there.
func (d *demo) archive(it *item) (string, error) {
	found, err := filepath.Glob(filepath.Join(d.lab.rcfg.StateDir, "episodes", hostName, "*", "*", "*", it.sealed.ID.String()+".tar.zst"))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

// equal unpacks the archive and says how it differs from the source.
func (d *demo) equal(ctx context.Context, archive string, it *item) (diff string, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	into := filepath.Join(d.dir, "unpacked")
	dir, err := pack.Extract(ctx, f, into)
	if err != nil {
		return "", fmt.Errorf("unpacking %s: %w", archive, err)
	}
	if diff, err = compare(it.source, filepath.Join(dir, "data", "output")); err != nil {
		return "", err
	}
	return diff, os.RemoveAll(into)
}

// tryNext prints what to do with the system that --keep left up.
func (d *demo) tryNext() {
	first := d.items[0].sealed.ID
	lab, receiver := filepath.Join(d.dir, "lab-host.hcl"), filepath.Join(d.dir, "receiver.hcl")
	fmt.Fprintf(d.o.out, `
Both are still up. In another terminal, try:

  go run ./src/cmd/cis490-shipper status --config %[1]s
  go run ./src/cmd/cis490-shipper quarantine list --config %[1]s
  go run ./src/cmd/cis490-receiver episodes list --config %[2]s
  go run ./src/cmd/cis490-receiver episodes extract %[3]s --into %[4]s/out --config %[2]s
  go run ./src/cmd/cis490-episode seal /etc/default --config %[1]s --host %[5]s
  (cd %[4]s/out/%[3]s && sha256sum -c manifest-sha256.txt tagmanifest-sha256.txt)

Ctrl-C ends it; everything stays in %[4]s.
`, lab, receiver, first, d.dir, hostName)
}
