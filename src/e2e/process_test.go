package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// process is one run of a daemon. It is stopped by its own pid and never outlives its test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string // file with everything that it wrote
	done chan struct{}
	err  error // of Wait, after done
}

var logs atomic.Int64

// start runs a program until it ends or the test does.
func start(t *testing.T, dir string, env []string, name string, args ...string) *process {
	t.Helper()
	return startAs(t, nil, dir, env, name, args...)
}

// startAs is start as another user.
func startAs(t *testing.T, user *syscall.Credential, dir string, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.log = filepath.Join(dir, fmt.Sprintf("%s-%d.log", filepath.Base(name), logs.Add(1)))
	f, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: user}
	began := make(chan error)
	starts() <- func() { began <- p.cmd.Start() }
	if err := <-began; err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %s wrote:\n%s", filepath.Base(name), strings.Join(args, " "), p.tail(40))
		}
	})
	return p
}

// starts runs what starts a process on one thread that stays: Pdeathsig is about the thread (prctl(2)), and a receiver in this process
// ends threads that may have been anybody's before.
var starts = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

func TestAProcessOutlivesTheThreadThatAskedForIt(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	type asked struct {
		p      *process
		thread int
	}
	all := make(chan asked)
	const n = 2 // one may be on the first thread, which never ends
	for range n {
		go func() {
			runtime.LockOSThread() // and not unlocked: the thread ends with this
			all <- asked{start(t, dir, nil, "sleep", "60"), unix.Gettid()}
		}()
	}
	for range n {
		a := <-all
		if a.thread == os.Getpid() {
			continue
		}
		eventually(t, 10*time.Second, func() string {
			if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", a.thread)); err == nil {
				return "the thread is still there"
			}
			return ""
		})
		time.Sleep(100 * time.Millisecond) // for a signal to be told of
		if !a.p.alive() {
			t.Error("it ended with the thread")
		}
	}
}

// kill is SIGKILL, and returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// stop is SIGTERM; it returns the exit status.
func (p *process) stop(within time.Duration) int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait(within)
}

// wait returns the exit status, -1 for death by a signal.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		p.t.Fatalf("%s did not end within %s:\n%s", filepath.Base(p.cmd.Path), within, p.tail(40))
	}
	return p.cmd.ProcessState.ExitCode()
}

// alive says that it has not ended.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// peak is the most memory that it has had, in bytes.
func (p *process) peak() int64 {
	p.t.Helper()
	return highWater([]byte(readFile(p.t, fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))))
}

// highWater is VmHWM of proc_pid_status(5), in bytes.
func highWater(status []byte) (n int64) {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Sscan(rest, &n)
		}
	}
	return n << 10
}

// measured runs a command and gives what it wrote, its standard error too, and
// the most memory that it was seen to have, in bytes. What getrusage(2) says of a
// child is never below what its parent had.
func measured(cmd *exec.Cmd) (out []byte, peak int64, err error) {
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)) // empty once it has ended
			if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid)); exe == cmd.Path {
				peak = max(peak, highWater(status))
			}
			select {
			case <-ended:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-done
	return b.Bytes(), peak, err
}

func (p *process) output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

func (p *process) tail(n int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// command runs a program to its end and returns standard output.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, stderr, status := try(t, name, args...)
	if status != 0 {
		t.Fatalf("%s %s: exit status %d\n%s%s", filepath.Base(name), strings.Join(args, " "), status, out, stderr)
	}
	return out
}

// try is command for one that may fail.
func try(t *testing.T, name string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// need says, by skipping, what this machine lacks.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// eventually waits until ok returns "", and fails with what it said last.
func eventually(t *testing.T, within time.Duration, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		why := ok()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, why)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// always looks for d that ok goes on to return "".
func always(t *testing.T, d time.Duration, ok func() string) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if why := ok(); why != "" {
			t.Fatal(why)
		}
	}
}

// duration is a parameter of the environment.
func duration(t *testing.T, name string, def time.Duration) time.Duration {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		t.Fatalf("%s=%s: give a duration from 1s on", name, s)
	}
	return d
}
