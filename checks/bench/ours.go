package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cis490/src/identity"
)

// build makes the programs as README.md says.
func build(ctx context.Context, bin string) error {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin+"/", "./src/cmd/cis490-receiver", "./src/cmd/cis490-shipper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// ours is the shipper pushing a queue to the receiver.
func ours(bin string) contender {
	return contender{name: oursName, durable: true, linked: true, run: func(ctx context.Context, p place) (r result, err error) {
		lab := lab{bin: bin, net: p.net, dir: filepath.Join(p.work, "lab-host"), work: p.work}
		if err := os.MkdirAll(lab.dir, 0o755); err != nil {
			return r, err
		}
		// A copy by hard links: shipping frees it, and the source serves the next round.
		if out, err := exec.CommandContext(ctx, "cp", "-al", p.sealed, filepath.Join(lab.dir, "sealed")).CombinedOutput(); err != nil {
			return r, fmt.Errorf("cp: %w: %s", err, out)
		}
		if err := lab.receive(ctx); err != nil {
			return r, err
		}
		defer func() {
			u, serr := lab.receiver.stop()
			r.server = u
			err = errors.Join(err, serr)
		}()
		if err := flush(p.work); err != nil {
			return r, err
		}
		began := time.Now()
		push, err := launch(ctx, nil, p.net.atClient(lab.shipper("push", "--wait"))...)
		if err != nil {
			return r, err
		}
		acknowledged := make(chan time.Duration, 1)
		watching, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			l := ledger{dir: filepath.Join(lab.dir, "receipts")}
			l.wait(watching, len(p.ids))
			acknowledged <- time.Since(began)
		}()
		if r.client, err = push.wait(); err != nil {
			return r, err
		}
		// The last receipt came before the end; freeing the sources, which follows it, is not timed.
		r.wall = <-acknowledged
		return r, nil
	}}
}

const oursName = "cis490 (mTLS, verified, durable)"

// lab is a receiver and the configuration of one lab host.
type lab struct {
	bin      string
	net      network
	dir      string // the host's data_dir
	keep     string // its keep_shipped; "": the default
	work     string
	url      string
	receiver *process
}

// receive configures both sides and starts the receiver.
func (l *lab) receive(ctx context.Context) error {
	_, key, err := identity.LoadOrMakeHostKey(filepath.Join(l.dir, "identity"))
	if err != nil {
		return err
	}
	if err := l.receiveFrom(ctx, map[string]string{"bench": key}); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.work, "lab-host.hcl"), labHost("bench", l.dir, l.work+"/run", l.url, l.ca(), l.keep), 0o644)
}

func (l *lab) ca() string { return filepath.Join(l.work, "receiver/ca/ca.crt") }

// receiveFrom starts a receiver for hosts with those keys.
func (l *lab) receiveFrom(ctx context.Context, keys map[string]string) error {
	address, err := l.net.address()
	if err != nil {
		return err
	}
	l.url = "https://" + address
	host, _, _ := strings.Cut(address, ":")
	conf := fmt.Appendf(nil, "state_dir = %q\nrun_dir = %q\nlisten = %q\ntls {\n  names = [%q]\n}\n", l.work+"/receiver", l.work+"/run-receiver", address, host)
	for name, key := range keys {
		conf = fmt.Appendf(conf, "host %q {\n  key = %q\n}\n", name, key)
	}
	file := filepath.Join(l.work, "receiver.hcl")
	if err := os.WriteFile(file, conf, 0o644); err != nil {
		return err
	}
	program := filepath.Join(l.bin, "cis490-receiver")
	if out, err := exec.CommandContext(ctx, program, "ca", "init", "--config", file).CombinedOutput(); err != nil {
		return fmt.Errorf("ca init: %w\n%s", err, out)
	}
	l.receiver, err = serve(ctx, l.net, nil, address, program, "serve", "--config", file)
	return err
}

// labHost is a lab-host.hcl.
func labHost(name, data, run, url, ca, keep string) []byte {
	conf := fmt.Appendf(nil, "host = %q\ndata_dir = %q\nrun_dir = %q\nreceiver {\n  url = %q\n  ca_file = %q\n}\n", name, data, run, url, ca)
	if keep != "" {
		conf = fmt.Appendf(conf, "shipper {\n  keep_shipped = %q\n}\n", keep)
	}
	return conf
}

// shipper is the command line of the host's shipper.
func (l *lab) shipper(args ...string) []string {
	return append([]string{filepath.Join(l.bin, "cis490-shipper"), "--config", filepath.Join(l.work, "lab-host.hcl")}, args...)
}

// ledger counts the receipts in a host's ledger.
type ledger struct {
	dir  string
	n    int
	read map[string]int64
}

// count looks at what was added since it last looked.
func (l *ledger) count() int {
	files, _ := filepath.Glob(filepath.Join(l.dir, "*.jsonl")) // the pattern is a good one
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		b := make([]byte, 64<<10)
		for {
			k, err := f.ReadAt(b, l.read[name])
			l.n += bytes.Count(b[:k], []byte{'\n'})
			if l.read == nil {
				l.read = map[string]int64{}
			}
			l.read[name] += int64(k)
			if err != nil {
				break
			}
		}
		f.Close()
	}
	return l.n
}

// wait returns when n receipts are there: the last acknowledgement.
func (l *ledger) wait(ctx context.Context, n int) {
	for l.count() < n && ctx.Err() == nil {
		time.Sleep(2 * time.Millisecond)
	}
}
