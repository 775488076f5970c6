package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"cis490/src/ship"
	"cis490/src/state"
)

// profiles takes CPU profiles of both our programs during a workload of that
// shape, and prints where the time went.
func (b *bench) profiles(ctx context.Context, workload string, s shape) (err error) {
	if b.profile == "" {
		return nil
	}
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return err
	}
	dir, done, err := b.disk.fresh(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	l := lab{bin: b.bin, net: loopback{}, dir: filepath.Join(dir, "lab-host"), work: dir}
	if _, err := s.make(ctx, l.dir, 491); err != nil {
		return err
	}
	if err := l.receive(ctx); err != nil {
		return err
	}
	shipper, err := launch(ctx, nil, l.shipper("run")...)
	if err != nil {
		return err
	}
	// As long as it takes by the rounds before, and a second more.
	pace := b.records.of(workload, "", oursName)
	seconds := 1 + int(math.Ceil(pace.median(func(r record) float64 { return r.Wall / float64(r.Bytes) })*float64(s.bytes())))
	got := make(chan error, 2)
	for program, socket := range map[string]string{"shipper": ship.ControlPath(dir + "/run"), "receiver": state.OperatorPath(dir + "/run-receiver")} {
		go func() {
			got <- fetchProfile(ctx, socket, seconds, filepath.Join(b.profile, workload+"-"+program+".pprof"))
		}()
	}
	err = errors.Join(<-got, <-got)
	_, serr := shipper.stop()
	_, rerr := l.receiver.stop()
	if err = errors.Join(err, serr, rerr); err != nil {
		return err
	}
	for _, program := range []string{"shipper", "receiver"} {
		out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=10", filepath.Join(b.bin, "cis490-"+program), filepath.Join(b.profile, workload+"-"+program+".pprof")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("go tool pprof: %w: %s", err, out)
		}
		fmt.Printf("\n%s, where the %s's CPU went:\n\n%s", workload, program, out)
	}
	return nil
}

// fetchProfile asks a daemon on its socket, as `curl --unix-socket` would.
func fetchProfile(ctx context.Context, socket string, seconds int, file string) error {
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		for { // it may just be starting
			conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err == nil || ctx.Err() != nil {
				return conn, err
			}
			time.Sleep(5 * time.Millisecond)
		}
	}}}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://daemon/debug/pprof/profile?seconds=%d", seconds), nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", socket, resp.Status, data)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}
