package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"cis490/src/config"
	"cis490/src/state"
)

// daemon is what the checks of a daemon with configuration C and state S share.
type daemon[C, S any] struct {
	names
	file  string
	since time.Duration

	cfg     *lazy[loaded[C]]
	unit    *lazy[unit]
	state   *lazy[read[S]]
	process *lazy[process]
	log     *lazy[log]
	disk    *lazy[disk]

	statePath func(C) string
}

// names is what a daemon and what belongs to it are called.
type names struct {
	daemon  string // "shipper"
	unit    string // its service, and its program
	prefix  string // of the ids of its rows
	process string // the row of its process
	nixos   string // the module's options
	hcl     string // its configuration file
}

// read is a state file.
type read[T any] struct {
	v   T
	err error
}

// sources is what makes one daemon's configuration and state differ from another's.
type sources[C, S any] struct {
	load      func(string, ...config.Option) (C, error)
	statePath func(C) string
	readState func(C) (S, error)
	pid       func(S) int
	data      func(C) string // the directory that it keeps its data in
}

func newDaemon[C, S any](n names, file string, since time.Duration, p sources[C, S]) daemon[C, S] {
	d := daemon[C, S]{names: n, file: file, since: since, statePath: p.statePath}
	cfg := later(func(context.Context) loaded[C] { return load(file, p.load) })
	d.cfg = cfg
	d.unit = later(func(ctx context.Context) unit { return lookAtUnit(ctx, n.unit) })
	st := later(func(ctx context.Context) read[S] {
		c, ok := cfg.get(ctx)
		if !ok || c.err != nil {
			return read[S]{err: errNoConfiguration}
		}
		s, err := p.readState(c.v)
		return read[S]{s, err}
	})
	d.state = st
	d.process = later(func(ctx context.Context) process {
		s, _ := st.get(ctx)
		return lookAtProcess(p.pid(s.v), n.unit)
	})
	d.log = later(func(ctx context.Context) log { return readLog(ctx, n.unit, since) })
	d.disk = later(func(ctx context.Context) disk {
		c, ok := cfg.get(ctx)
		if !ok || c.err != nil {
			return disk{err: errNoConfiguration}
		}
		return lookAtDisk(p.data(c.v))
	})
	return d
}

// with makes a check of what a function finds in the configuration. Without one
// there is nothing to say: the row of the configuration is red then, and this one
// skipped.
func (d *daemon[C, S]) with(f func(context.Context, C) []Finding) func(context.Context) []Finding {
	return func(ctx context.Context) []Finding {
		c, ok := d.cfg.get(ctx)
		if !ok {
			return timedOut(d.file)
		}
		if c.err != nil {
			return one(unknown("no configuration", "", ""))
		}
		return f(ctx, c.v)
	}
}

// told makes a check of what the daemon says of itself. Where it has said nothing
// its own row is red.
func (d *daemon[C, S]) told(f func(context.Context, C, S) []Finding) func(context.Context) []Finding {
	return d.with(func(ctx context.Context, cfg C) []Finding {
		s, ok := d.state.get(ctx)
		if !ok {
			return timedOut(d.statePath(cfg))
		}
		if s.err != nil {
			return one(unknown("the "+d.daemon+" has left no state that can be read", s.err.Error(), "cis490-doctor --only "+d.names.process).after(d.names.process))
		}
		return f(ctx, cfg, s.v)
	})
}

// running makes a check of state file, process and unit.
func (d *daemon[C, S]) running(f func(C, read[S], process, unit) Finding) func(context.Context) []Finding {
	return d.with(func(ctx context.Context, cfg C) []Finding {
		s, ok := d.state.get(ctx)
		if !ok {
			return timedOut(d.statePath(cfg))
		}
		p, ok := d.process.get(ctx)
		if !ok {
			return timedOut("/proc")
		}
		u, _ := d.unit.get(ctx) // without it, no unit is said to run
		return one(f(cfg, s, p, u))
	})
}

func (d *daemon[C, S]) configurationCheck() Check {
	return Check{ID: d.prefix + "configuration",
		Looks: d.hcl + ": there, readable, no syntax error, no unknown attribute, no bad value",
		Fix:   "the line that the row names; all mistakes: `" + d.names.unit + " check-config`; on NixOS: `" + d.nixos + ".settings`",
		Run: func(ctx context.Context) []Finding {
			c, ok := d.cfg.get(ctx)
			if !ok {
				return timedOut(d.file)
			}
			return one(configurationRow(d.file, d.names.unit, d.nixos+".settings", c.err))
		}}
}

func (d *daemon[C, S]) unitCheck(after ...string) Check {
	return Check{ID: d.prefix + "unit", DependsOn: after,
		Looks: "`systemctl show " + d.names.unit + "`: installed, enabled, not masked, running, not failed, not given up",
		Fix:   "`systemctl enable --now " + d.names.unit + "`, or what the row says; on NixOS: `" + d.nixos + ".enable = true`",
		Run: func(ctx context.Context) []Finding {
			u, ok := d.unit.get(ctx)
			if !ok {
				return timedOut("systemctl show " + d.names.unit)
			}
			return one(u.row(d.nixos + ".enable"))
		}}
}

func (d *daemon[C, S]) restartsCheck() Check {
	return Check{ID: d.prefix + "restarts", DependsOn: []string{d.prefix + "workers"},
		Looks: "how often systemd restarted the " + d.daemon + ", and for what: yellow for one restart lately, red for several",
		Fix:   "`journalctl -u " + d.names.unit + " -p warning` has why",
		Run: func(ctx context.Context) []Finding {
			u, ok := d.unit.get(ctx)
			if !ok {
				return timedOut("systemctl show " + d.names.unit)
			}
			l, ok := d.log.get(ctx)
			if !ok {
				return timedOut("journalctl -u " + d.names.unit)
			}
			return one(restartsRow(u, l, d.since, time.Now()))
		}}
}

func (d *daemon[C, S]) journalCheck() Check {
	return Check{ID: d.prefix + "journal",
		Looks: "whether the journal of " + d.names.unit + " can be read, is kept over a reboot, and has something in it",
		Fix:   "`usermod -aG systemd-journal USER`; `mkdir -p /var/log/journal && journalctl --flush`",
		Run: func(ctx context.Context) []Finding {
			l, ok := d.log.get(ctx)
			if !ok {
				return timedOut("journalctl -u " + d.names.unit)
			}
			u, _ := d.unit.get(ctx)
			return one(l.row(u, d.since))
		}}
}

// stateless judges a daemon of which no state could be read. justStarted is what to do
// where its unit runs all the same.
func (n names) stateless(path string, err error, u unit, justStarted string) Finding {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return unknown("may not read "+path, err.Error(), "sudo cis490-doctor")
	case errors.Is(err, fs.ErrNotExist) && u.running():
		return yellow("the "+n.daemon+" has just started, or has another run_dir", path+" is not there", justStarted)
	case errors.Is(err, fs.ErrNotExist):
		return red("no "+n.daemon+" has run since the last boot", path+" is not there", "systemctl start "+n.unit)
	}
	return red("the state file can't be read", err.Error(), "systemctl restart "+n.unit)
}

// lifeless judges a process that was there when the daemon last said something; ok is false when it lives.
func (n names) lifeless(p process, pid int, since string) (f Finding, ok bool) {
	switch {
	case p.known && !p.alive:
		return red("the "+n.daemon+" does not run", fmt.Sprintf("there is no process %d any more; %s", pid, since), "systemctl start "+n.unit), true
	case p.state == 'T' || p.state == 't':
		return red("the "+n.daemon+" is stopped by a signal", fmt.Sprintf("process %d is in state %c; %s", pid, p.state, since), fmt.Sprintf("kill -CONT %d", pid)), true
	}
	return Finding{}, false
}

var (
	shipperNames  = names{daemon: "shipper", unit: state.ShipperUnit, process: "shipper", nixos: "services.cis490.labHost", hcl: "lab-host.hcl"}
	receiverNames = names{daemon: "receiver", unit: state.ReceiverUnit, prefix: "receiver-", process: "receiver-process", nixos: "services.cis490.receiver", hcl: "receiver.hcl"}
)
