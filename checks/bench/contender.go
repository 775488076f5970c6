package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cis490/src/identity"
)

// contender moves the sealed episodes below source into a fresh folder.
type contender interface {
	name() string
	run(ctx context.Context, source, work string, episodes int) (result, error)
}

func build(ctx context.Context, bin string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin+"/", "./src/cmd/cis490-receiver", "./src/cmd/cis490-shipper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// server is a program that runs while the client is timed.
type server struct {
	cmd *exec.Cmd
	log bytes.Buffer
}

func start(ctx context.Context, address, program string, args ...string) (*server, error) {
	s := &server{cmd: exec.CommandContext(ctx, program, args...)}
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			return s, c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	_, err := s.stop()
	return nil, fmt.Errorf("%s does not listen on %s: %w\n%s", program, address, err, s.log.String())
}

func (s *server) stop() (*os.ProcessState, error) {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return nil, err
	}
	err := s.cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = nil // rsync's daemon ends with 20 on SIGTERM
	}
	return s.cmd.ProcessState, err
}

func (r *result) use(s *os.ProcessState) { r.cpu += s.UserTime() + s.SystemTime() }

// peak watches a process and its children and returns the largest peak RSS of
// any of them, in bytes, as sampled until stop is called. (The maxrss that
// getrusage(2) gives of a child is never below what its parent had.)
func peak(pid int) (stop func() int64) {
	var most int64
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			for _, p := range append([]string{strconv.Itoa(pid)}, children(pid)...) {
				most = max(most, highWater(p))
			}
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 { close(end); <-done; return most }
}

func children(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // gone: no children
	return strings.Fields(string(b))
}

// highWater is VmHWM of proc(5), in bytes; 0 when the process is gone.
func highWater(pid string) int64 {
	b, _ := os.ReadFile("/proc/" + pid + "/status")
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	fmt.Sscan(rest, &kib)
	return kib << 10
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// ours is the shipper pushing a queue to the receiver.
type ours struct{ bin string }

func (ours) name() string { return "cis490 (mTLS, verified, durable)" }

func (o ours) run(ctx context.Context, source, work string, episodes int) (r result, err error) {
	// The queue is a copy by hard links: shipping frees it, and the source serves the next round.
	data := filepath.Join(work, "lab-host")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return r, err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-al", filepath.Join(source, "sealed"), data+"/").CombinedOutput(); err != nil {
		return r, fmt.Errorf("cp: %w: %s", err, out)
	}
	_, key, err := identity.LoadOrMakeHostKey(filepath.Join(data, "identity"))
	if err != nil {
		return r, err
	}
	address, err := freeAddress()
	if err != nil {
		return r, err
	}
	receiverHCL, labHCL := filepath.Join(work, "receiver.hcl"), filepath.Join(work, "lab-host.hcl")
	if err := errors.Join(
		os.WriteFile(receiverHCL, fmt.Appendf(nil, "state_dir = %q\nrun_dir = %q\nlisten = %q\ntls {\n  names = [\"127.0.0.1\"]\n}\nhost \"bench\" {\n  key = %q\n}\n",
			work+"/receiver", work+"/run-receiver", address, key), 0o644),
		os.WriteFile(labHCL, fmt.Appendf(nil, "host = \"bench\"\ndata_dir = %q\nrun_dir = %q\nreceiver {\n  url = \"https://%s\"\n  ca_file = %q\n}\n",
			data, work+"/run", address, work+"/receiver/ca/ca.crt"), 0o644)); err != nil {
		return r, err
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(o.bin, "cis490-receiver"), "ca", "init", "--config", receiverHCL).CombinedOutput(); err != nil {
		return r, fmt.Errorf("ca init: %w\n%s", err, out)
	}
	srv, err := start(ctx, address, filepath.Join(o.bin, "cis490-receiver"), "serve", "--config", receiverHCL)
	if err != nil {
		return r, err
	}
	syscall.Sync()
	push := exec.CommandContext(ctx, filepath.Join(o.bin, "cis490-shipper"), "push", "--wait", "--config", labHCL)
	var log bytes.Buffer
	push.Stdout, push.Stderr = &log, &log
	began := time.Now()
	if err := push.Start(); err != nil {
		return r, err
	}
	clientPeak, serverPeak := peak(push.Process.Pid), peak(srv.cmd.Process.Pid)
	acknowledged := make(chan time.Duration, 1)
	go func() { acknowledged <- watchLedger(ctx, filepath.Join(data, "receipts"), episodes, began) }()
	if err := push.Wait(); err != nil {
		return r, fmt.Errorf("push: %w\n%s", err, log.String())
	}
	r.wall = <-acknowledged
	r.clientRSS, r.serverRSS = clientPeak(), serverPeak()
	r.use(push.ProcessState)
	state, err := srv.stop()
	if err != nil {
		return r, err
	}
	r.use(state)
	return r, os.RemoveAll(work)
}

// watchLedger says when the n-th receipt was in the ledger: the last
// acknowledgement. Freeing the sources, which follows, is not timed.
func watchLedger(ctx context.Context, dir string, n int, began time.Time) time.Duration {
	for ctx.Err() == nil {
		lines := 0
		files, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			lines += bytes.Count(b, []byte{'\n'})
		}
		if lines >= n {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(began)
}

// rsync is rsync to an rsync daemon, without TLS; fsync makes the daemon flush
// every file, else a sync of the file system at the end is timed.
type rsync struct{ fsync bool }

func (r rsync) name() string {
	if r.fsync {
		return "rsync -a --fsync, daemon"
	}
	return "rsync -a, daemon, then sync"
}

func (p rsync) run(ctx context.Context, source, work string, _ int) (r result, err error) {
	store := filepath.Join(work, "store")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return r, err
	}
	address, err := freeAddress()
	if err != nil {
		return r, err
	}
	conf := filepath.Join(work, "rsyncd.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "use chroot = no\nuid = %d\ngid = %d\n[store]\npath = %s\nread only = no\n", os.Getuid(), os.Getgid(), store), 0o644); err != nil {
		return r, err
	}
	host, port, _ := strings.Cut(address, ":")
	srv, err := start(ctx, address, "rsync", "--daemon", "--no-detach", "--config="+conf, "--address="+host, "--port="+port)
	if err != nil {
		return r, err
	}
	args := []string{"-a"}
	if p.fsync {
		args = append(args, "--fsync")
	}
	client := exec.CommandContext(ctx, "rsync", append(args, source+"/sealed/", "rsync://"+address+"/store/")...)
	syscall.Sync()
	var log bytes.Buffer
	client.Stdout, client.Stderr = &log, &log
	began := time.Now()
	if err := client.Start(); err != nil {
		return r, err
	}
	clientPeak, serverPeak := peak(client.Process.Pid), peak(srv.cmd.Process.Pid)
	if err := client.Wait(); err != nil {
		return r, fmt.Errorf("%w: %s", err, log.String())
	}
	if !p.fsync {
		syscall.Sync()
	}
	r.wall = time.Since(began)
	r.clientRSS, r.serverRSS = clientPeak(), serverPeak()
	r.use(client.ProcessState)
	state, err := srv.stop()
	if err != nil {
		return r, err
	}
	r.use(state)
	return r, os.RemoveAll(work)
}
