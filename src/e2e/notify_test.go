package e2e

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// notifySocket is systemd's side of sd_notify(3): a datagram socket, and what came through it.
type notifySocket struct {
	t    *testing.T
	path string
	usec time.Duration // WATCHDOG_USEC for those who are started with it

	mu   sync.Mutex
	said []notice
}

type notice struct {
	at   time.Time
	text string // one assignment, as in READY=1
}

func newNotifySocket(t *testing.T, watchdog time.Duration) *notifySocket {
	t.Helper()
	n := &notifySocket{t: t, path: filepath.Join(tempDir(t), "notify"), usec: watchdog}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			k, err := c.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			n.mu.Lock()
			for line := range strings.SplitSeq(string(buf[:k]), "\n") {
				n.said = append(n.said, notice{time.Now(), line})
			}
			n.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
		if t.Failed() {
			n.mu.Lock()
			defer n.mu.Unlock()
			t.Logf("the notify socket heard: %v", n.said)
		}
	})
	return n
}

func (n *notifySocket) watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.usec
}

// env is what systemd puts into the environment of a Type=notify unit.
func (n *notifySocket) env(watchdog time.Duration) []string {
	if n == nil {
		return nil
	}
	env := []string{"NOTIFY_SOCKET=" + n.path}
	if watchdog > 0 {
		env = append(env, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))
	}
	return env
}

// count is how often text came since t.
func (n *notifySocket) count(text string, since time.Time) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := 0
	for _, s := range n.said {
		if s.text == text && !s.at.Before(since) {
			k++
		}
	}
	return k
}

// index is the place of the first such text, -1 if it never came.
func (n *notifySocket) index(text string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, s := range n.said {
		if s.text == text {
			return i
		}
	}
	return -1
}

// status is the last STATUS=.
func (n *notifySocket) status() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := len(n.said) - 1; i >= 0; i-- {
		if s, ok := strings.CutPrefix(n.said[i].text, "STATUS="); ok {
			return s
		}
	}
	return ""
}

// gaps is the longest time between two WATCHDOG=1 from since on, up to now.
func (n *notifySocket) longestGap(since time.Time) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	last, longest := since, time.Duration(0)
	for _, s := range n.said {
		if s.text == "WATCHDOG=1" && s.at.After(since) {
			longest = max(longest, s.at.Sub(last))
			last = s.at
		}
	}
	return max(longest, time.Since(last))
}
