package main

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// contender moves sealed episodes into a fresh folder.
type contender struct {
	name    string
	durable bool     // it flushes each episode before it reports it; else a sync of the file system is timed
	linked  bool     // it goes over a network
	slow    bool     // minutes with many small files: in the first round only
	needs   []string // programs
	run     func(ctx context.Context, p place) (result, error)
}

// missing is the first program that it needs and this machine lacks.
func (c contender) missing() string {
	for _, program := range c.needs {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	return ""
}

// place is where one run happens.
type place struct {
	sealed string   // folder of the episodes
	ids    []string // what is in it
	work   string   // a fresh folder on the same file system
	net    network
}

// result is one run of one contender.
type result struct {
	wall           time.Duration // from sealed episodes to the last acknowledgement
	client, server usage
}

// transfer is a run of a peer: a server, then clients that are timed.
type transfer struct {
	env     []string
	address string       // where the server listens
	server  []string     // none: no server
	prepare []string     // run once before the clients, not timed
	before  func() error // called then, not timed either
	clients [][]string   // all at once
	sync    bool         // flush the file system afterwards, in the time
}

func (t transfer) run(ctx context.Context, p place) (r result, err error) {
	var srv *process
	if t.server != nil {
		if srv, err = serve(ctx, p.net, t.env, t.address, t.server...); err != nil {
			return r, err
		}
		defer func() {
			u, serr := srv.stop()
			r.server = u
			if err == nil {
				err = serr
			}
		}()
	}
	if t.prepare != nil {
		c, err := launch(ctx, t.env, p.net.atClient(t.prepare)...)
		if err != nil {
			return r, err
		}
		if _, err := c.wait(); err != nil {
			return r, err
		}
	}
	if t.before != nil {
		if err := t.before(); err != nil {
			return r, err
		}
	}
	if err := flush(p.work); err != nil {
		return r, err
	}
	began := time.Now()
	var clients []*process
	for _, argv := range t.clients {
		c, err := launch(ctx, t.env, p.net.atClient(argv)...)
		if err != nil {
			return r, err
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		u, cerr := c.wait()
		r.client = r.client.and(u)
		if err == nil {
			err = cerr
		}
	}
	if t.sync && err == nil {
		err = flush(p.work)
	}
	r.wall = time.Since(began)
	return r, err
}

// folder makes a folder in the run's own.
func (p place) folder(name string) (string, error) {
	dir := filepath.Join(p.work, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// stored is how many bytes lie in the run's own folder.
func (p place) stored() (n int64, err error) {
	return n, filepath.WalkDir(p.work, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
}
