package ship

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/metrics"
	"cis490/src/state"
)

// ControlPath is the socket on which a shipper with that run_dir is spoken to:
// HTTP, GET /status (with ?watch for a stream of states, one JSON document a
// line), POST /push and GET /debug/pprof/.
func ControlPath(runDir string) string {
	return filepath.Join(runDir, state.ShipperUnit, "control.sock")
}

// watchEvery is how often a stream of states has another one.
const watchEvery = 250 * time.Millisecond

// ErrNotRunning is what Control's methods return (wrapped) when no shipper
// answers on the socket.
var ErrNotRunning = errors.New("no shipper is running")

// control serves the control socket until ctx ends. Failing to is no reason to
// stop shipping.
func (s *Shipper) control(ctx context.Context) {
	path := ControlPath(s.cfg.RunDir)
	ln, err := listenUnix(path)
	if err != nil {
		s.log.Error("open the control socket; status and push do without", "err", err.Error())
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.serveStatus)
	mux.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		// Without an end of the scan the state is an old one: better than none.
		_ = s.Push(ctx)
		answer(w, s.State())
	})
	metrics.HandleProfiles(mux)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // those who watch see the end of the stream
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("serve the control socket", "err", err.Error())
	}
}

// listenUnix listens on a socket for this user and its group. A socket that is
// left over is replaced: the caller holds the queue's lock.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = ln.Close() // the other error counts
		return nil, err
	}
	return ln, nil
}

func answer(w http.ResponseWriter, st state.Shipper) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(st) // a client that has gone needs no answer
}

func (s *Shipper) serveStatus(w http.ResponseWriter, r *http.Request) {
	if !r.URL.Query().Has("watch") {
		answer(w, s.State())
		return
	}
	rc := http.NewResponseController(w)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		_ = rc.SetWriteDeadline(time.Now().Add(10 * time.Second)) // a unix socket can
		answer(w, s.State())
		if rc.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// Control speaks to the shipper that runs with a run_dir.
type Control struct {
	path   string
	client http.Client
}

// NewControl makes a Control; nothing is opened.
func NewControl(runDir string) *Control {
	c := &Control{path: ControlPath(runDir)}
	c.client.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.path)
		},
	}
	return c
}

func (c *Control) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://shipper"+path, nil)
	if err != nil {
		return nil, err
	}
	r, err := c.client.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nothing answers on %s", ErrNotRunning, c.path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s may be opened by its owner and group only: %w", c.path, fs.ErrPermission)
	case err != nil:
		return nil, fmt.Errorf("ask the shipper: %w", err)
	case r.StatusCode != http.StatusOK:
		_ = r.Body.Close() // not read
		return nil, fmt.Errorf("ask the shipper: %s", r.Status)
	}
	return r, nil
}

func (c *Control) state(ctx context.Context, method, path string) (st state.Shipper, err error) {
	r, err := c.do(ctx, method, path)
	if err != nil {
		return st, err
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&st); err != nil {
		return st, fmt.Errorf("ask the shipper: %w", err)
	}
	return st, nil
}

// Status is the shipper's state now.
func (c *Control) Status(ctx context.Context) (state.Shipper, error) {
	return c.state(ctx, http.MethodGet, "/status")
}

// Push makes the shipper scan and try now, and gives its state after the scan.
func (c *Control) Push(ctx context.Context) (state.Shipper, error) {
	return c.state(ctx, http.MethodPost, "/push")
}

// Watch hands one state after the other, several a second, to see, until that
// returns false, ctx ends or the shipper does.
func (c *Control) Watch(ctx context.Context, see func(state.Shipper) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := c.do(ctx, http.MethodGet, "/status?watch")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	d := json.NewDecoder(bufio.NewReader(r.Body))
	for {
		var st state.Shipper
		if err := d.Decode(&st); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w any more", ErrNotRunning)
		}
		if !see(st) {
			return nil
		}
	}
}

// showForever writes the state file and STATUS= when there is something new, at
// most once a second.
func (s *Shipper) showForever(ctx context.Context) {
	var told time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		st := s.State()
		s.writeState(st)
		_ = s.notifier.Status(st.Summary) // READY=1 said whether that works
		if now := time.Now(); now.Sub(told) >= reportGap && s.news(st, now) {
			told = now
			poke(s.pollNow) // which is followed by a report
		}
		if !s.pause(ctx, time.Second, nil) {
			return
		}
	}
}
