package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cis490/src/bag"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/identity"
	"cis490/src/ingest"
	"cis490/src/journal"
	"cis490/src/queue"
	"cis490/src/ship"
	"cis490/src/state"
	"cis490/src/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cis490-shipper": main})
}

// TestScripts runs the command beside a real receiver in this process. $CONF
// points at it, $DEAD at a port where nobody listens.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			r, err := receive(env)
			if err != nil {
				return err
			}
			gone, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			dead := gone.Addr().String()
			if err := gone.Close(); err != nil {
				return err
			}
			for name, addr := range map[string]string{"CONF": r.Addr().String(), "DEAD": dead} {
				file := filepath.Join(env.WorkDir, strings.ToLower(name)+".hcl")
				env.Setenv(name, file)
				if err := os.WriteFile(file, fmt.Appendf(nil, `
host = "lab-01"
data_dir = "%[1]s/data"
run_dir = "%[1]s/run"
receiver {
  url = "https://%[2]s"
  ca_file = "%[1]s/receiver/ca/ca.crt"
}
shipper {
  backoff_min = "20ms"
  backoff_max = "100ms"
  poll_interval = "200ms"
}
`, env.WorkDir, addr), 0o644); err != nil {
					return err
				}
			}
			env.Values["receiver"] = r
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"allow": allow,
			"seal":  seal,
			"await": await,
			"rot":   rot,

			"acknowledge": acknowledge,
		},
	})
}

// receive runs a receiver whose window begins in 2020.
func receive(env *testscript.Env) (*ingest.Receiver, error) {
	cfg, err := config.ParseReceiver("receiver.hcl", fmt.Appendf(nil, `
state_dir = "%[1]s/receiver"
run_dir = "%[1]s/receiver-run"
listen = "127.0.0.1:0"
tls { names = ["127.0.0.1"] }
limits { min_free = "1MiB" }
window { not_before = "2020-01-01T00:00:00Z" }
`, env.WorkDir))
	if err != nil {
		return nil, err
	}
	if _, _, err := identity.InitCA(cfg.TLS.CACertFile, cfg.TLS.CAKeyFile); err != nil {
		return nil, err
	}
	r, err := ingest.New(cfg, ingest.Deps{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	env.Defer(func() {
		cancel()
		<-done
	})
	return r, nil
}

// allow makes the host known to the receiver: a host key is made if there is
// none yet.
func allow(ts *testscript.TestScript, neg bool, args []string) {
	_, key, err := identity.LoadOrMakeHostKey(ts.MkAbs("data/identity"))
	ts.Check(err)
	k, err := hosts.ParseKey(key)
	ts.Check(err)
	ts.Check(ts.Value("receiver").(*ingest.Receiver).Hosts().Allow("lab-01", k, time.Now()))
	ts.Setenv("KEY", key)
}

// seal N [YEAR] seals N episodes that ran in that year; the id of the last one is
// $ID.
func seal(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	at := time.Now()
	if len(args) > 1 {
		year, err := strconv.Atoi(args[1])
		ts.Check(err)
		at = time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)
	}
	for range n {
		run := episode.Run{Host: "lab-01", Workload: "test"}
		run.Started.Realtime = at
		made, err := episode.Make(context.Background(), ts.MkAbs("data"), episode.Spec{Run: run, Files: []episode.File{{Path: "output/x", Data: []byte("data")}}})
		ts.Check(err)
		ts.Setenv("ID", made[0].ID.String())
	}
}

// acknowledge ID records a receipt for what waits under that id, or for some
// other content if nothing does, that no receiver has given, and keeps the source.
func acknowledge(ts *testscript.TestScript, neg bool, args []string) {
	q, err := queue.Open(ts.MkAbs("data"), queue.WithKeepShipped(time.Hour), queue.WithLog(journal.Discard()))
	ts.Check(err)
	ts.Check(q.Lock())
	id, err := episode.ParseID(args[0])
	ts.Check(err)
	b, err := os.ReadFile(filepath.Join(q.Dir(id), bag.TagManifest))
	if err != nil {
		b = []byte("other")
	}
	ts.Check(q.Acknowledge(context.Background(), wire.Receipt{Episode: id, Host: "lab-01", BagDigest: bag.DigestOf(b), ArchiveSize: 1, StoredAt: time.Now().UTC()}))
	ts.Check(q.Close())
}

// await TEXT waits until the shipper's state, as JSON, has it in it.
func await(ts *testscript.TestScript, neg bool, args []string) {
	cfg, err := config.LoadLabHost(ts.Getenv("CONF"))
	ts.Check(err)
	ctl := ship.NewControl(cfg.RunDir)
	last := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		st, err := ctl.Status(context.Background())
		if err != nil {
			last = err.Error()
			continue
		}
		b, err := json.Marshal(st)
		ts.Check(err)
		if last = string(b); strings.Contains(last, args[0]) {
			return
		}
	}
	ts.Fatalf("never %q; last: %s", args[0], last)
}

// rot changes a byte of the payload of the waiting episode ID.
func rot(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(filepath.Join(ts.MkAbs("data/sealed"), args[0], "data/output/x"), []byte("dota"), 0o644))
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// What a stranger named a file in sealed/ must not reach a terminal as it is.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{"notes.txt": "notes.txt", "a\x1b[2Jb": `"a\x1b[2Jb"`, "naïve": "naïve", "\xff": `"\xff"`} {
		if got := printable(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// Bars, and lines, over the life of a queue.
func TestProgress(t *testing.T) {
	id := episode.NewID()
	state := func(left, shipped int, sent int64) state.Shipper {
		return state.Shipper{Queue: state.Queue{Scanned: true, Waiting: left}, Totals: state.Totals{Shipped: uint64(shipped)},
			Workers: []state.Worker{{Name: "upload 0", Episode: &id, SizeBytes: 1 << 30, SentBytes: sent}}}
	}
	var out bytes.Buffer
	e := emptying{progress: newProgress(&out, true)}
	for i := range 4 {
		if more := e.see(state(3-i, i, int64(i)<<28)); more != (i < 3) {
			t.Errorf("step %d: go on: %v", i, more)
		}
	}
	if err := e.verdict(); err != nil {
		t.Error(err)
	}
	if want := "3 episodes to ship\nThe queue is empty: 3 shipped.\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}

	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := newBars(f, &lines{reports: true})
	e = emptying{progress: b}
	for i := range 4 {
		e.see(state(3-i, i, int64(i)<<28))
	}
	if err := e.verdict(); err != nil {
		t.Error(err)
	}
	b.end()
	b.end()
}
