package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program under measurement, with its children.
type process struct {
	cmd  *exec.Cmd
	out  bytes.Buffer // standard output, which only some want
	log  bytes.Buffer
	end  chan struct{}
	once sync.WaitGroup
	rss  int64
}

// launch starts argv and watches its memory until it is waited for.
func launch(ctx context.Context, env []string, argv ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), end: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	p.cmd.Env = append(os.Environ(), env...)
	// A server must not outlive a bench that is killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.once.Go(p.watch)
	return p, nil
}

// watch keeps the largest peak RSS of the process and its descendants. (The
// maxrss that getrusage(2) gives of a child is never below what its parent had.)
func (p *process) watch() {
	for {
		for todo := []string{strconv.Itoa(p.cmd.Process.Pid)}; len(todo) > 0; {
			pid := todo[0]
			todo = append(todo[1:], children(pid)...)
			p.rss = max(p.rss, highWater(pid))
		}
		select {
		case <-p.end:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// wait waits for the end, and says what was used. An exit status that is not 0
// is an error.
func (p *process) wait() (usage, error) {
	err := p.cmd.Wait()
	close(p.end)
	p.once.Wait()
	u := usage{rss: p.rss}
	if s := p.cmd.ProcessState; s != nil {
		u.cpu = s.UserTime() + s.SystemTime() // with the children that it has waited for
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(p.cmd.Args, " "), err, p.out.String(), p.log.String())
	}
	return u, err
}

// stop ends a server.
func (p *process) stop() (usage, error) {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return usage{}, err
	}
	u, err := p.wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = nil // rsync's daemon ends with 20 on SIGTERM, others by the signal
	}
	return u, err
}

// usage is what one side used: CPU of user and system, and the largest peak RSS
// of any of its processes in bytes.
type usage struct {
	cpu time.Duration
	rss int64
}

func (u usage) and(o usage) usage { return usage{u.cpu + o.cpu, max(u.rss, o.rss)} }

func children(pid string) []string {
	b, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children") // gone: no children
	return strings.Fields(string(b))
}

// highWater is VmHWM of proc(5), in bytes; 0 when the process is gone.
func highWater(pid string) int64 {
	b, _ := os.ReadFile("/proc/" + pid + "/status")
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	_, _ = fmt.Sscan(rest, &kib) // gone: 0
	return kib << 10
}

// serve starts a server at the far end of n and waits until it listens.
func serve(ctx context.Context, n network, env []string, address string, argv ...string) (*process, error) {
	p, err := launch(ctx, env, n.atServer(argv)...)
	if err != nil {
		return nil, err
	}
	for range 400 {
		if c, err := n.dialServer(address); err == nil {
			return p, c.Close()
		}
		if p.cmd.Process.Signal(syscall.Signal(0)) != nil {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	_, err = p.stop()
	return nil, errors.Join(fmt.Errorf("%s does not listen on %s\n%s", argv[0], address, p.log.String()), err)
}

// network is how clients reach servers.
type network interface {
	atClient(argv []string) []string
	atServer(argv []string) []string
	address() (string, error) // where a server is to listen
	dialServer(address string) (net.Conn, error)
}

// loopback is the network when nothing is to be between.
type loopback struct{}

func (loopback) atClient(argv []string) []string             { return argv }
func (loopback) atServer(argv []string) []string             { return argv }
func (loopback) dialServer(address string) (net.Conn, error) { return net.Dial("tcp", address) }
func (loopback) address() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// flush is syncfs(2) of the file system that path is on.
func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
