package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/identity"
	"cis490/src/wire"
)

// settings is a configuration file: by block ("" is the top level), then attribute, a value as it stands in the file.
type settings map[string]map[string]string

func (s settings) set(block, attr, value string) {
	if s[block] == nil {
		s[block] = map[string]string{}
	}
	s[block][attr] = value
}

// with lays changes, "block.attr = value" or "attr = value", over s.
func (s settings) with(changes ...string) {
	for _, c := range changes {
		name, value, ok := strings.Cut(c, " = ")
		if !ok {
			panic("not an assignment: " + c)
		}
		block, attr, ok := strings.Cut(name, ".")
		if !ok {
			block, attr = "", name
		}
		s.set(block, attr, value)
	}
}

func (s settings) write(t *testing.T, file string) {
	t.Helper()
	var b strings.Builder
	attrs := func(indent string, m map[string]string) {
		for _, k := range slices.Sorted(func(yield func(string) bool) {
			for k := range m {
				if !yield(k) {
					return
				}
			}
		}) {
			fmt.Fprintf(&b, "%s%s = %s\n", indent, k, m[k])
		}
	}
	attrs("", s[""])
	for block, m := range s {
		if block != "" {
			fmt.Fprintf(&b, "%s {\n", block)
			attrs("  ", m)
			b.WriteString("}\n")
		}
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tempDir is a temporary directory with a path short enough for sockets in it (unix(7): 107 bytes), which that of
// t.TempDir with the name of the test in it is not.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the temporary directory: %v", err)
		}
	})
	return dir
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// freePort is a port of 127.0.0.1 that nobody listens on, below those that the kernel gives to outgoing connections
// (ip_local_port_range), so that it can be listened on, closed and listened on again.
func freePort(t *testing.T) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		p := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil || ports.given[p] {
			continue
		}
		l.Close()
		if ports.given == nil {
			ports.given = map[int]bool{}
		}
		ports.given[p] = true
		return p
	}
	t.Fatal("no free port")
	return 0
}

// receiver is a cis490-receiver with its directories.
type receiver struct {
	*process
	t      *testing.T
	dir    string
	state  string
	config string
	addr   string
	conf   settings
	notify *notifySocket // nil: none
}

// newReceiver makes one with a CA and a host block for each host; it does not start it.
func newReceiver(t *testing.T, changes ...string) *receiver {
	t.Helper()
	dir := tempDir(t)
	r := &receiver{t: t, dir: dir, state: filepath.Join(dir, "state"), config: filepath.Join(dir, "receiver.hcl"),
		addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), conf: settings{}}
	r.conf.with(
		fmt.Sprintf("state_dir = %q", r.state), fmt.Sprintf("run_dir = %q", filepath.Join(dir, "run")), fmt.Sprintf("listen = %q", r.addr),
		`tls.names = ["127.0.0.1", "localhost"]`, `limits.min_free = "0B"`)
	r.conf.with(changes...)
	r.conf.write(t, r.config)
	command(t, program("cis490-receiver"), "ca", "init", "--config", r.config)
	return r
}

func (r *receiver) ca() string { return filepath.Join(r.state, "ca", "ca.crt") }

// start starts it and waits until it serves.
func (r *receiver) start() {
	r.t.Helper()
	r.launch()
	eventually(r.t, 20*time.Second, func() string {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			if !r.alive() {
				r.t.Fatalf("the receiver ended:\n%s", r.tail(40))
			}
			return err.Error()
		}
		c.Close()
		return ""
	})
}

// launch starts it and does not wait.
func (r *receiver) launch() {
	r.t.Helper()
	r.conf.write(r.t, r.config)
	r.process = start(r.t, r.dir, r.notify.env(0), program("cis490-receiver"), "serve", "--config", r.config)
}

// cli runs a command of the receiver's operator.
func (r *receiver) cli(args ...string) string {
	r.t.Helper()
	return command(r.t, program("cis490-receiver"), append(args, "--config", r.config)...)
}

// archives lists the stored archives of one episode by their paths.
func (r *receiver) archives(id string) []string {
	r.t.Helper()
	found, err := filepath.Glob(filepath.Join(r.state, "episodes", "*", "*", "*", "*", id+".tar.zst"))
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// stored lists the ids of everything that is in the store, sorted.
func (r *receiver) stored() []string {
	r.t.Helper()
	found := r.archives("*")
	ids := make([]string, len(found))
	for i, f := range found {
		ids[i] = strings.TrimSuffix(filepath.Base(f), ".tar.zst")
	}
	slices.Sort(ids)
	return ids
}

// incoming is the bytes of partial uploads.
func (r *receiver) incoming() int64 {
	var n int64
	filepath.WalkDir(filepath.Join(r.state, "incoming"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == ".commit" { // the store's own
			return fs.SkipDir
		}
		if err == nil && d.Type().IsRegular() {
			if i, err := d.Info(); err == nil {
				n += i.Size()
			}
		}
		return nil // files come and go while it walks
	})
	return n
}

// host is a lab host: its directories and its shipper.
type host struct {
	*process
	t      *testing.T
	name   string
	dir    string
	data   string
	run    string
	config string
	key    string
	conf   settings
	notify *notifySocket // nil: none
	env    []string
	user   *syscall.Credential // who the shipper runs as; nil: who the test does
}

// newHost makes a lab host that ships to url, with quick back-off; it does not start the shipper. The receiver does not
// know its key yet.
func newHost(t *testing.T, name, url, ca string, changes ...string) *host {
	t.Helper()
	dir := tempDir(t)
	return newHostIn(t, dir, filepath.Join(dir, "data"), name, url, ca, changes...)
}

func newHostIn(t *testing.T, dir, data, name, url, ca string, changes ...string) *host {
	t.Helper()
	h := &host{t: t, name: name, dir: dir, data: data, run: filepath.Join(dir, "run"), config: filepath.Join(dir, "lab-host.hcl"), conf: settings{}}
	h.conf.with(
		fmt.Sprintf("host = %q", name), fmt.Sprintf("data_dir = %q", h.data), fmt.Sprintf("run_dir = %q", h.run), `min_free = "0B"`,
		fmt.Sprintf("receiver.url = %q", url), fmt.Sprintf("receiver.ca_file = %q", ca),
		`shipper.backoff_min = "50ms"`, `shipper.backoff_max = "400ms"`, `shipper.poll_interval = "300ms"`,
		`shipper.connect_timeout = "1s"`, `shipper.stall_timeout = "2s"`, `shipper.response_timeout = "5s"`,
		`shipper.scan_interval = "1s"`)
	h.conf.with(changes...)
	h.conf.write(t, h.config)
	// The shipper makes its key at its first start, where the owner of a lab would read it from its status. A key that is
	// there already lets a receiver know the host before that.
	_, key, err := identity.LoadOrMakeHostKey(filepath.Join(h.data, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	h.key = key
	return h
}

// allow declares hosts in the receiver's configuration, before it starts.
func (r *receiver) allow(hosts ...*host) {
	for _, h := range hosts {
		r.conf.set(fmt.Sprintf("host %q", h.name), "key", fmt.Sprintf("%q", h.key))
	}
	r.conf.write(r.t, r.config)
}

// start starts the shipper.
func (h *host) start() {
	h.t.Helper()
	h.conf.write(h.t, h.config)
	h.process = startAs(h.t, h.user, h.dir, append(h.notify.env(h.notify.watchdog()), h.env...), program("cis490-shipper"), "run", "--config", h.config)
}

func (h *host) cli(args ...string) string {
	h.t.Helper()
	return command(h.t, program("cis490-shipper"), append(args, "--config", h.config)...)
}

// seal makes an episode of a directory, by the researcher's tool, and returns its id.
func (h *host) seal(src string, args ...string) string {
	h.t.Helper()
	out := command(h.t, program("cis490-episode"), append([]string{"seal", src, "--into", h.data, "--host", h.name, "--json"}, args...)...)
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.ID == "" {
		h.t.Fatalf("seal --json says %q (%v)", out, err)
	}
	return made.ID
}

// sealed lists what waits.
func (h *host) sealed() []string { return names(h.t, filepath.Join(h.data, "sealed")) }

// names lists a directory, which may be absent.
func names(t *testing.T, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out
}

// reason is reason.json as somebody else's program reads it.
type reason struct {
	Code     code.Code `json:"code"`
	Detail   string    `json:"detail"`
	Fix      string    `json:"fix"`
	Status   int       `json:"status"`
	At       time.Time `json:"quarantined_at"`
	Receiver string    `json:"receiver"`
	Attempts int       `json:"attempts"`
}

// quarantined reads the quarantine by id.
func (h *host) quarantined() map[string]reason {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.data, "quarantine", "*-*-*", "*", "reason.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	out := map[string]reason{}
	for _, f := range found {
		b, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // put back meanwhile
		}
		var r reason
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err != nil {
			h.t.Fatal(err)
		}
		out[filepath.Base(filepath.Dir(f))] = r
	}
	return out
}

// setAside says how many are in quarantine when it is not n: an episode is in neither place for a moment.
func (h *host) setAside(n int) string {
	h.t.Helper()
	if got := h.quarantined(); len(got) != n {
		return fmt.Sprintf("%d are in quarantine, want %d: %v", len(got), n, got)
	}
	return ""
}

// receipts reads the ledger.
func (h *host) receipts() []wire.Receipt {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.data, "receipts", "*.jsonl"))
	if err != nil {
		h.t.Fatal(err)
	}
	var out []wire.Receipt
	for _, file := range found {
		f, err := os.Open(file)
		if err != nil {
			h.t.Fatal(err)
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			var r wire.Receipt
			if err := json.Unmarshal(s.Bytes(), &r); err == nil { // the last line may be half written
				out = append(out, r)
			}
		}
		f.Close()
	}
	return out
}

// drained says why the queue is not empty, "" when it is.
func (h *host) drained() string {
	if n := h.sealed(); len(n) > 0 {
		return fmt.Sprintf("%d episodes still in sealed/, %s first", len(n), n[0])
	}
	return ""
}

// nothingQuarantined says what is in quarantine, "" when nothing is.
func (h *host) nothingQuarantined() string {
	for id, r := range h.quarantined() {
		return fmt.Sprintf("%s is in quarantine: %s: %s", id, r.Code, r.Detail)
	}
	return ""
}

// state is state.json as somebody else's program reads it.
type state struct {
	PID  int `json:"pid"`
	Path struct {
		Held   bool      `json:"held"`
		Code   code.Code `json:"code"`
		Detail string    `json:"detail"`
		Fix    string    `json:"fix"`
		Probes int       `json:"probes"`
	} `json:"path"`
	Queue struct {
		Scanned  bool `json:"scanned"`
		Waiting  int  `json:"waiting"`
		InFlight int  `json:"in_flight"`
	} `json:"queue"`
	Quarantine struct {
		Total    int  `json:"total"`
		Counting bool `json:"counting"`
	} `json:"quarantine"`
	Workers []struct {
		Episode   string `json:"episode"`
		SentBytes int64  `json:"sent_bytes"`
	} `json:"workers"`
}

// state is what the shipper says of itself in state.json.
func (h *host) state() (s state) {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.run, "cis490-shipper", "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		h.t.Fatalf("state.json: %v", err)
	}
	return s
}

// held says that the shipper holds its queue for one of these codes, "" when it does.
func (h *host) held(codes ...code.Code) string {
	h.t.Helper()
	s := h.state()
	if s.Path.Held && slices.Contains(codes, s.Path.Code) {
		return ""
	}
	return fmt.Sprintf("state.json has path %+v, want held for %v", s.Path, codes)
}

// pair is a receiver that runs, a proxy before it, and a host that it knows, whose shipper does not run yet.
func pair(t *testing.T, changes ...string) (*receiver, *proxy, *host) {
	t.Helper()
	r := newReceiver(t)
	p := newProxy(t, r.addr)
	h := newHost(t, "lab-01", p.url(), r.ca(), changes...)
	r.allow(h)
	r.start()
	return r, p, h
}

// reload sends SIGHUP with a changed configuration.
func (p *process) reload(file string, conf settings, changes ...string) {
	p.t.Helper()
	conf.with(changes...)
	conf.write(p.t, file)
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		p.t.Fatal(err)
	}
}

func (r *receiver) reload(changes ...string) { r.process.reload(r.config, r.conf, changes...) }

func (h *host) reload(changes ...string) { h.process.reload(h.config, h.conf, changes...) }
