package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/identity"
	"cis490/src/ingest"
	"cis490/src/pack"
	"cis490/src/state"
	"cis490/src/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cis490-receiver": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("CONF", filepath.Join(env.WorkDir, "receiver.hcl"))
			l := "state_dir = \"" + env.WorkDir + "/state\"\nrun_dir = \"" + env.WorkDir + "/run\"\nlisten = \"127.0.0.1:0\"\ntls { names = [\"127.0.0.1\"] }\nlimits { min_free = \"1MiB\" }\n"
			return os.WriteFile(env.Getenv("CONF"), []byte(l), 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":  await,
			"key":    hostKey,
			"send":   send,
			"report": report,
			"rot":    rot,
		},
	})
}

// await waits until the receiver serves, and sets URL.
func await(ts *testscript.TestScript, neg bool, args []string) {
	cfg, err := config.LoadReceiver(ts.Getenv("CONF"))
	ts.Check(err)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(state.OperatorPath(cfg.RunDir)); err != nil {
			continue // without it the client would open the store itself
		}
		c, err := ingest.DialOperator(context.Background(), cfg)
		if err != nil {
			continue
		}
		s, err := c.State(context.Background())
		ts.Check(c.Close())
		if err == nil {
			ts.Setenv("URL", "https://"+s.Listen)
			return
		}
	}
	ts.Fatalf("the receiver does not serve")
}

// key DIR makes a host's identity in DIR and sets KEY.
func hostKey(ts *testscript.TestScript, neg bool, args []string) {
	_, key, err := identity.LoadOrMakeHostKey(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Setenv("KEY", key)
}

// send DIR HOST WORKLOAD [STATUS] sends an episode as the host with the identity in
// DIR, and sets ID if it is stored.
func send(ts *testscript.TestScript, neg bool, args []string) {
	run := episode.Run{Host: args[1], Workload: args[2], Outcome: episode.Failed, Reason: "test", Started: episode.Moment{Realtime: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)},
		Ended: episode.Moment{Realtime: time.Date(2026, 3, 4, 5, 7, 7, 0, time.UTC)}}
	sealed, err := episode.Make(context.Background(), ts.MkAbs("data"), episode.Spec{Run: run, Files: []episode.File{{Path: "output/result.csv", Data: []byte("a,b\n1,2\n")}}})
	ts.Check(err)
	var body bytes.Buffer
	plan, err := pack.NewPlan(ts.MkAbs("data/sealed/" + sealed[0].Facts.ID.String()))
	ts.Check(err)
	defer plan.Close()
	ts.Check(pack.Write(context.Background(), &body, plan, pack.NewPacker(pack.Options{Workers: 1})))
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, ts.Getenv("URL")+wire.PathEpisodes, &body)
	ts.Check(err)
	req.Header.Set(wire.HeaderEpisode, wire.FormatAnnouncement(wire.Announcement{Facts: plan.Facts(), Sent: time.Now()}))
	want := append(args, "201")[3]
	speak(ts, args[0], req, want)
	if want == "201" {
		ts.Setenv("ID", plan.Facts().ID.String())
	}
}

// report DIR FILE sends FILE as the report of the host with the identity in DIR.
func report(ts *testscript.TestScript, neg bool, args []string) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPut, ts.Getenv("URL")+wire.PathReport, strings.NewReader(ts.ReadFile(args[1])))
	ts.Check(err)
	speak(ts, args[0], req, "204")
}

// speak sends a request as the host with the identity in DIR, and wants that status.
func speak(ts *testscript.TestScript, dir string, req *http.Request, want string) {
	cfg, err := config.LoadReceiver(ts.Getenv("CONF"))
	ts.Check(err)
	cert, _, err := identity.LoadOrMakeHostKey(ts.MkAbs(dir))
	ts.Check(err)
	id, err := identity.NewClient(cert, cfg.TLS.CACertFile, "127.0.0.1")
	ts.Check(err)
	tr := &http.Transport{TLSClientConfig: id.Config()}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if !strings.HasPrefix(resp.Status, want) {
		ts.Fatalf("%s %s; want %s", resp.Status, b, want)
	}
}

// rot changes a byte in the middle of the only archive below DIR.
func rot(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(p string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".tar.zst") {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		if err := os.Remove(p); err != nil {
			return err
		}
		return os.WriteFile(p, b, 0o600)
	}))
}
