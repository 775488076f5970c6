package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/journal"
	"cis490/src/metrics"
	"cis490/src/state"
	"cis490/src/store"
	"cis490/src/wire"
)

// Operator is what an operator's request works on: a running [Receiver], or one
// that was only opened (see [OpenOffline]).
type Operator interface {
	Hosts() *hosts.Registry
	Store() *store.Store
	Seen(host string) hosts.Seen
}

func listenOperator(cfg config.Receiver) (net.Listener, error) {
	path := state.OperatorPath(cfg.RunDir)
	// The store's lock is held, so a socket that is there is a dead process's.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("operator socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("operator socket: %w", err)
	}
	// Until here only this user may connect: that takes write permission (unix(7)).
	if cfg.OperatorGroup != "" {
		g, err := user.LookupGroup(cfg.OperatorGroup)
		if err == nil {
			var gid int
			if gid, err = strconv.Atoi(g.Gid); err == nil && !ofGroup(path, gid) {
				err = os.Chown(path, -1, gid)
			}
		}
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("operator_group = %q of receiver.hcl: %w", cfg.OperatorGroup, err)
		}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("operator socket: %w", err)
	}
	return l, nil
}

// ofGroup says whether a file belongs to the group already: a unit may be forbidden
// chown(2) altogether.
func ofGroup(path string, gid int) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && int(st.Gid) == gid
}

// OperatorEpisode is one stored episode.
type OperatorEpisode struct {
	Receipt  wire.Receipt    `json:"receipt"`
	Started  time.Time       `json:"started"`
	Ended    time.Time       `json:"ended"`
	Size     int64           `json:"size_bytes"`
	Files    int64           `json:"files"`
	Outcome  string          `json:"outcome"`
	Workload string          `json:"workload,omitempty"`
	Checked  time.Time       `json:"checked_at"`        // when all of the stored copy was last found right
	Damaged  string          `json:"damaged,omitempty"` // when the copy was found damaged, and how
	Archive  string          `json:"archive,omitempty"` // path at the receiver
	Run      json.RawMessage `json:"run,omitempty"`
}

func operatorEpisode(r catalog.Row) OperatorEpisode {
	return OperatorEpisode{Receipt: r.Receipt, Started: r.Facts.Started, Ended: r.Facts.Ended, Size: r.Facts.Size, Files: r.Facts.Files, Outcome: r.Outcome, Workload: r.Workload, Checked: r.CheckedAt, Damaged: r.Damaged}
}

// OperatorStep is one line of the answer to a long request: how far it is, or
// how it ended.
type OperatorStep struct {
	Bytes    int64                `json:"bytes,omitempty"`
	Episodes int64                `json:"episodes,omitempty"`
	Done     bool                 `json:"done,omitempty"`
	Error    string               `json:"error,omitempty"`
	Report   *store.ReindexReport `json:"report,omitempty"`
	Files    int64                `json:"files,omitempty"`

	Scrub    *store.ScrubProgress `json:"scrub,omitempty"`
	Found    *store.Finding       `json:"found,omitempty"`
	Scrubbed *store.ScrubReport   `json:"scrubbed,omitempty"` // the last line's
}

type operatorError struct {
	Error string `json:"error"`
}

const operatorPrefix = "/v1"

// OperatorHandler serves the operator socket. Everyone who can reach it may do
// everything that it does.
func OperatorHandler(o Operator) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, req *http.Request) error) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+operatorPrefix+path, func(w http.ResponseWriter, req *http.Request) {
			if err := f(w, req); err != nil {
				status := http.StatusInternalServerError
				var s *operatorStatus
				if errors.As(err, &s) {
					status = s.status
				}
				w.Header().Set("Content-Type", wire.MediaJSON)
				w.WriteHeader(status)
				_ = json.NewEncoder(w).Encode(operatorError{Error: err.Error()}) // the client may be gone
			}
		})
	}
	handle("GET /hosts", func(w http.ResponseWriter, req *http.Request) error {
		sums, err := o.Store().Hosts(req.Context())
		if err != nil {
			return err
		}
		byName := map[string]catalog.Host{}
		for _, h := range sums {
			byName[h.Name] = h
		}
		list := []hosts.Summary{}
		for _, h := range o.Hosts().List() {
			s := byName[h.Name]
			list = append(list, hosts.Summary{Host: h, Episodes: s.Episodes, Bytes: s.Bytes, LastStored: s.LastStored, Seen: o.Seen(h.Name)})
		}
		return reply(w, list)
	})
	handle("POST /hosts/{name}/allow", func(w http.ResponseWriter, req *http.Request) error {
		key, err := hosts.ParseKey(req.URL.Query().Get("key"))
		if err != nil {
			return bad(err)
		}
		if err := o.Hosts().Allow(req.PathValue("name"), key, time.Now()); err != nil {
			return bad(err)
		}
		return reply(w, struct{}{})
	})
	handle("POST /hosts/{name}/revoke", func(w http.ResponseWriter, req *http.Request) error {
		n, err := o.Hosts().Revoke(req.PathValue("name"), time.Now())
		if err != nil {
			return bad(err)
		}
		return reply(w, map[string]int{"keys": n})
	})
	handle("GET /episodes", func(w http.ResponseWriter, req *http.Request) error {
		f, err := parseFilter(req.URL.Query())
		if err != nil {
			return bad(err)
		}
		enc := json.NewEncoder(w)
		begun := false
		for row, err := range o.Store().List(req.Context(), f) {
			if err != nil && !begun {
				return err
			}
			if err != nil {
				panic(http.ErrAbortHandler) // the list must not look whole
			}
			begun = true
			if err := enc.Encode(operatorEpisode(row)); err != nil {
				return nil
			}
		}
		return nil
	})
	handle("GET /episodes/{id}", func(w http.ResponseWriter, req *http.Request) error {
		row, err := lookup(o, req)
		if err != nil {
			return err
		}
		e := operatorEpisode(row)
		e.Archive = o.Store().ArchivePath(row.Facts)
		side, err := o.Store().Sidecar(row)
		switch {
		case err == nil:
			e.Run = side.Run
		case row.Damaged == "":
			return err
		}
		return reply(w, e)
	})
	handle("GET /episodes/{id}/archive", func(w http.ResponseWriter, req *http.Request) error { return serveArchive(o, w, req) })
	handle("GET /episodes/{id}/files/{path...}", func(w http.ResponseWriter, req *http.Request) error { return serveFile(o, w, req) })
	handle("POST /episodes/{id}/verify", func(w http.ResponseWriter, req *http.Request) error {
		row, err := lookup(o, req)
		if err != nil {
			return err
		}
		step := steps(w)
		v, _, err := o.Store().Verify(req.Context(), row.Facts.ID, func(bytes int64) { step(OperatorStep{Bytes: bytes}, false) })
		last := OperatorStep{Done: true}
		if err != nil {
			last.Error = err.Error()
		} else {
			last.Bytes, last.Files = v.Bytes, v.Files
		}
		step(last, true)
		return nil
	})
	handle("POST /reindex", func(w http.ResponseWriter, req *http.Request) error {
		step := steps(w)
		report, err := o.Store().Reindex(req.Context(), func(n int64) { step(OperatorStep{Episodes: n}, false) })
		last := OperatorStep{Done: true, Report: &report}
		if err != nil {
			last.Error = err.Error()
		}
		step(last, true)
		return nil
	})
	handle("POST /scrub", func(w http.ResponseWriter, req *http.Request) error { return serveScrub(o, w, req) })
	handle("GET /state", func(w http.ResponseWriter, req *http.Request) error {
		if r, ok := o.(*Receiver); ok {
			return reply(w, r.State())
		}
		return &operatorStatus{http.StatusServiceUnavailable, errors.New("the receiver does not run")}
	})
	metrics.HandleProfiles(mux)
	return mux
}

type operatorStatus struct {
	status int
	error
}

func (e *operatorStatus) Unwrap() error { return e.error }

func bad(err error) error { return &operatorStatus{http.StatusBadRequest, err} }

func reply(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", wire.MediaJSON)
	return json.NewEncoder(w).Encode(v)
}

func lookup(o Operator, req *http.Request) (catalog.Row, error) {
	id, err := episode.ParseID(req.PathValue("id"))
	if err != nil {
		return catalog.Row{}, bad(err)
	}
	row, found, err := o.Store().Lookup(req.Context(), id)
	if err != nil {
		return row, err
	}
	if !found {
		return row, &operatorStatus{http.StatusNotFound, fmt.Errorf("no episode %s is stored here", id)}
	}
	return row, nil
}

func parseFilter(q url.Values) (f catalog.Filter, err error) {
	f.Host, f.Outcome, f.Workload = q.Get("host"), q.Get("outcome"), q.Get("workload")
	for name, into := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if v := q.Get(name); v != "" {
			if *into, err = time.Parse(time.RFC3339, v); err != nil {
				return f, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if v := q.Get("limit"); v != "" {
		if f.Limit, err = strconv.Atoi(v); err != nil || f.Limit < 0 {
			return f, fmt.Errorf("limit: %q is not a count", v)
		}
	}
	return f, nil
}

// FormatFilter is what parseFilter reads.
func formatFilter(f catalog.Filter) url.Values {
	q := url.Values{}
	set := func(name, v string) {
		if v != "" {
			q.Set(name, v)
		}
	}
	set("host", f.Host)
	set("outcome", f.Outcome)
	set("workload", f.Workload)
	if !f.From.IsZero() {
		q.Set("from", f.From.Format(time.RFC3339))
	}
	if !f.To.IsZero() {
		q.Set("to", f.To.Format(time.RFC3339))
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return q
}

// OperatorClient speaks to an operator socket, or to the store itself when no
// receiver runs.
type OperatorClient struct {
	http  *http.Client
	close func() error
	// Offline says that no receiver runs: the store was opened for this client.
	Offline bool
}

// Close frees what the client holds; a store that it opened can then be served again.
func (c *OperatorClient) Close() error { return c.close() }

// offline is a store without a server.
type offline struct {
	hosts *hosts.Registry
	store *store.Store
	fleet *fleet
}

func (o offline) Hosts() *hosts.Registry { return o.hosts }
func (o offline) Store() *store.Store    { return o.store }

func (o offline) Seen(host string) hosts.Seen { return o.fleet.seen(host, time.Now()) }

// DialOperator connects to the receiver of that configuration. When none runs, it
// opens the receiver's store itself, which then can't be served until Close.
func DialOperator(ctx context.Context, cfg config.Receiver) (*OperatorClient, error) {
	path := state.OperatorPath(cfg.RunDir)
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
		t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }}
		return &OperatorClient{http: &http.Client{Transport: t}, close: func() error { t.CloseIdleConnections(); return nil }}, nil
	}
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("the operator socket %s is for its group only (operator_group of receiver.hcl): %w", path, err)
	}
	if _, serr := os.Stat(cfg.StateDir); serr != nil {
		return nil, fmt.Errorf("no receiver runs here, and there is no store: %w", serr)
	}
	// Offline: the same handler, on a connection within this process.
	h, err := hosts.Open(filepath.Join(cfg.StateDir, hostsFile), cfg.Hosts)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(cfg.StateDir, store.Options{MinFree: int64(cfg.Limits.MinFree)})
	if err != nil {
		return nil, err
	}
	l := newPipeListener()
	srv := &http.Server{Handler: OperatorHandler(offline{h, s, openFleet(cfg.StateDir, journal.Discard())}), ReadHeaderTimeout: headerTimeout}
	go func() { _ = srv.Serve(l) }()
	t := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return l.dial() }}
	return &OperatorClient{http: &http.Client{Transport: t}, Offline: true, close: func() error {
		t.CloseIdleConnections()
		return errors.Join(srv.Close(), s.Close())
	}}, nil
}

// pipeListener hands out connections within the process.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "operator", Net: "unix"} }

func (c *OperatorClient) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, operatorURL(path), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, answerError(resp)
	}
	return resp, nil
}

// answerError is what an answer says that is not what was asked for.
func answerError(resp *http.Response) error {
	var e operatorError
	if err := wire.ReadJSON(resp.Body, &e); err != nil || e.Error == "" {
		return fmt.Errorf("the receiver answered %s", resp.Status)
	}
	return errors.New(e.Error)
}

func (c *OperatorClient) get(ctx context.Context, method, path string, into any) error {
	resp, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// Hosts lists the hosts.
func (c *OperatorClient) Hosts(ctx context.Context) (list []hosts.Summary, err error) {
	return list, c.get(ctx, http.MethodGet, "/hosts", &list)
}

// Allow lets key speak for the host name.
func (c *OperatorClient) Allow(ctx context.Context, name string, key hosts.Key) error {
	var none struct{}
	return c.get(ctx, http.MethodPost, "/hosts/"+url.PathEscape(name)+"/allow?key="+url.QueryEscape(key.String()), &none)
}

// Revoke refuses all keys of the host name, and says how many.
func (c *OperatorClient) Revoke(ctx context.Context, name string) (int, error) {
	var n map[string]int
	err := c.get(ctx, http.MethodPost, "/hosts/"+url.PathEscape(name)+"/revoke", &n)
	return n["keys"], err
}

// Episodes calls each for every stored episode that f selects, the latest first.
func (c *OperatorClient) Episodes(ctx context.Context, f catalog.Filter, each func(OperatorEpisode) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/episodes?"+formatFilter(f).Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var e OperatorEpisode
		if err := d.Decode(&e); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("the list broke off: %w", err)
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

// Episode is one stored episode with its run.json.
func (c *OperatorClient) Episode(ctx context.Context, id episode.ID) (e OperatorEpisode, err error) {
	return e, c.get(ctx, http.MethodGet, "/episodes/"+id.String(), &e)
}

// Archive is the archive of a stored episode.
func (c *OperatorClient) Archive(ctx context.Context, id episode.ID) (io.ReadCloser, int64, error) {
	resp, err := c.do(ctx, http.MethodGet, "/episodes/"+id.String()+"/archive")
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// Verify has a stored episode read and checked anew. progress is told of the
// archive's bytes as they are read. The last step says how many payload bytes and
// files were found sound.
func (c *OperatorClient) Verify(ctx context.Context, id episode.ID, progress func(bytes int64)) (OperatorStep, error) {
	return c.steps(ctx, "/episodes/"+id.String()+"/verify", func(s OperatorStep) { progress(s.Bytes) })
}

// Reindex rebuilds the catalogue from the store.
func (c *OperatorClient) Reindex(ctx context.Context, progress func(episodes int64)) (store.ReindexReport, error) {
	s, err := c.steps(ctx, "/reindex", func(s OperatorStep) { progress(s.Episodes) })
	if s.Report == nil {
		return store.ReindexReport{}, err
	}
	return *s.Report, err
}

// State is how the receiver is right now.
func (c *OperatorClient) State(ctx context.Context) (s state.Receiver, err error) {
	return s, c.get(ctx, http.MethodGet, "/state", &s)
}

func (c *OperatorClient) steps(ctx context.Context, path string, each func(OperatorStep)) (OperatorStep, error) {
	resp, err := c.do(ctx, http.MethodPost, path)
	if err != nil {
		return OperatorStep{}, err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var s OperatorStep
		if err := d.Decode(&s); err != nil {
			return s, fmt.Errorf("the receiver's answer broke off: %w", err)
		}
		switch {
		case !s.Done:
			each(s)
		case s.Error != "":
			return s, errors.New(s.Error)
		default:
			return s, nil
		}
	}
}
