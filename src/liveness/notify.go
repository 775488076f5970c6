package liveness

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells systemd about this process: sd_notify(3). Its methods may be
// called from any goroutine. On a nil *Notifier, and in a process that systemd
// does not ask for notifications, they do nothing and return nil.
type Notifier struct {
	addr     *net.UnixAddr
	watchdog time.Duration

	mu     sync.Mutex
	conn   *net.UnixConn
	ready  bool
	status string // as the caller last said
	cover  string // shown instead of status while set
	shown  string // what systemd last heard
}

// NewNotifier reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (sd_notify(3),
// sd_watchdog_enabled(3)) and removes them from the environment, so that no
// child inherits them. It is called once, early in main.
func NewNotifier() *Notifier {
	n := &Notifier{}
	if s := os.Getenv("NOTIFY_SOCKET"); strings.HasPrefix(s, "/") || strings.HasPrefix(s, "@") {
		// A leading @ stands for the abstract namespace; package net reads it so too.
		n.addr = &net.UnixAddr{Name: s, Net: "unixgram"}
	}
	pid := os.Getenv("WATCHDOG_PID")
	if us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 && us < int64(1<<62)/1000 &&
		(pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	for _, k := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(k)
	}
	return n
}

// Enabled says whether systemd listens.
func (n *Notifier) Enabled() bool { return n != nil && n.addr != nil }

// WatchdogInterval is WatchdogSec= of the unit: systemd kills the process when
// WATCHDOG=1 does not come for that long. 0 means that no watchdog runs.
func (n *Notifier) WatchdogInterval() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready sends READY=1: once at the start, and once more after each Reloading.
// Further calls do nothing.
func (n *Notifier) Ready() error {
	if !n.Enabled() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ready {
		return nil
	}
	err := n.send("READY=1")
	n.ready = err == nil
	return err
}

// Watchdog sends WATCHDOG=1. Only Beat.Beat calls it.
func (n *Notifier) Watchdog() error {
	if !n.Enabled() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.send("WATCHDOG=1")
}

// Status sets the one line that systemctl status shows. The same text is sent
// once.
func (n *Notifier) Status(s string) error {
	if !n.Enabled() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status = s
	return n.show()
}

// covered shows s in place of the status until called with "".
func (n *Notifier) covered(s string) error {
	if !n.Enabled() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cover = s
	return n.show()
}

func (n *Notifier) show() error {
	s := n.status
	if n.cover != "" {
		s = n.cover
	}
	// A line feed would begin another assignment.
	s = strings.Join(strings.Fields(s), " ")
	if s == n.shown {
		return nil
	}
	err := n.send("STATUS=" + s)
	if err == nil {
		n.shown = s
	}
	return err
}

// Stopping sends STOPPING=1.
func (n *Notifier) Stopping() error {
	if !n.Enabled() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.send("STOPPING=1")
}

// Reloading sends RELOADING=1 with the MONOTONIC_USEC that goes with it; Ready
// ends it.
func (n *Notifier) Reloading() error {
	if !n.Enabled() {
		return nil
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return fmt.Errorf("notify systemd: clock_gettime: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = false
	return n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(ts.Nano()/1000, 10))
}

// ExtendTimeout asks for d more, from now, to finish starting or stopping
// (EXTEND_TIMEOUT_USEC=). It is called while that still moves.
func (n *Notifier) ExtendTimeout(d time.Duration) error {
	if !n.Enabled() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.send("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10))
}

// send sends one datagram. PID 1 reads its socket within microseconds; should it
// not, a second of waiting is all that this process gives it.
func (n *Notifier) send(state string) error {
	if n.conn == nil {
		c, err := net.DialUnix("unixgram", nil, n.addr)
		if err != nil {
			return fmt.Errorf("notify systemd: %w", err)
		}
		n.conn = c
	}
	n.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := n.conn.Write([]byte(state)); err != nil {
		// systemd makes the socket anew when it is re-executed.
		n.conn.Close()
		n.conn = nil
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
