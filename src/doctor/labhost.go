package doctor

import (
	"context"
	"time"

	"cis490/src/config"
	"cis490/src/state"
)

// labHost is what the checks of a lab host share.
type labHost struct {
	file    string
	since   time.Duration
	cfg     *lazy[loaded[config.LabHost]]
	unit    *lazy[unit]
	state   *lazy[read[state.Shipper]]
	process *lazy[process]
	probe   *lazy[probe]
	log     *lazy[log]
	disk    *lazy[disk]
}

// read is a state file.
type read[T any] struct {
	v   T
	err error
}

func newLabHost(file string, since time.Duration) *labHost {
	h := &labHost{file: file, since: since}
	h.cfg = later(func(context.Context) loaded[config.LabHost] { return load(file, config.LoadLabHost) })
	h.unit = later(func(ctx context.Context) unit { return lookAtUnit(ctx, state.ShipperUnit) })
	h.state = later(func(ctx context.Context) read[state.Shipper] {
		c, ok := h.cfg.get(ctx)
		if !ok || c.err != nil {
			return read[state.Shipper]{err: errNoConfiguration}
		}
		s, err := state.ReadShipper(c.v.RunDir)
		return read[state.Shipper]{s, err}
	})
	h.process = later(func(ctx context.Context) process {
		s, _ := h.state.get(ctx)
		return lookAtProcess(s.v.PID, state.ShipperUnit)
	})
	h.probe = later(func(ctx context.Context) probe {
		c, ok := h.cfg.get(ctx)
		if !ok || c.err != nil {
			return probe{}
		}
		return ask(ctx, c.v)
	})
	h.log = later(func(ctx context.Context) log { return readLog(ctx, state.ShipperUnit, h.since) })
	h.disk = later(func(ctx context.Context) disk {
		c, ok := h.cfg.get(ctx)
		if !ok || c.err != nil {
			return disk{err: errNoConfiguration}
		}
		return lookAtDisk(c.v.DataDir)
	})
	return h
}

// with makes a check of what a function finds in the configuration. Without one
// there is nothing to say: the row of the configuration is red then, and this one
// skipped.
func (h *labHost) with(f func(context.Context, config.LabHost) []Finding) func(context.Context) []Finding {
	return func(ctx context.Context) []Finding {
		c, ok := h.cfg.get(ctx)
		if !ok {
			return timedOut(h.file)
		}
		if c.err != nil {
			return []Finding{unknown("no configuration", "", "")}
		}
		return f(ctx, c.v)
	}
}

// told makes a check of what the shipper says of itself. Where it has said nothing
// its own row is red.
func (h *labHost) told(f func(context.Context, config.LabHost, state.Shipper) []Finding) func(context.Context) []Finding {
	return h.with(func(ctx context.Context, cfg config.LabHost) []Finding {
		s, ok := h.state.get(ctx)
		if !ok {
			return timedOut(state.ShipperPath(cfg.RunDir))
		}
		if s.err != nil {
			return []Finding{unknown("the shipper has left no state that can be read", s.err.Error(), "cis490-doctor --only shipper").after("shipper")}
		}
		return f(ctx, cfg, s.v)
	})
}

// asked makes a check of what came of asking the receiver.
func (h *labHost) asked(f func(context.Context, config.LabHost, probe) []Finding) func(context.Context) []Finding {
	return h.with(func(ctx context.Context, cfg config.LabHost) []Finding {
		p, ok := h.probe.get(ctx)
		if !ok {
			return timedOut("the receiver, " + cfg.Receiver.URL.Host)
		}
		return f(ctx, cfg, p)
	})
}

func one(f Finding) []Finding { return []Finding{f} }

// path are the checks whose red keeps episodes from leaving.
var pathChecks = []string{"shipper", "workers", "dns", "receiver", "clock", "ca", "certificate", "answer", "registration", "data-dir", "disk"}

func hostChecks(h *labHost) []Check {
	cs := []Check{
		{ID: "configuration",
			Looks: "lab-host.hcl: there, readable, no syntax error, no unknown attribute, no bad value",
			Fix:   "the line that the row names; all mistakes: `cis490-shipper check-config`; on NixOS: `services.cis490.labHost.settings`",
			Run: func(ctx context.Context) []Finding {
				c, ok := h.cfg.get(ctx)
				if !ok {
					return timedOut(h.file)
				}
				return one(configurationRow(h.file, "cis490-shipper", "services.cis490.labHost.settings", c.err))
			}},
		{ID: "unit", DependsOn: []string{"configuration", "data-dir"},
			Looks: "`systemctl show cis490-shipper`: installed, enabled, not masked, running, not failed, not given up",
			Fix:   "`systemctl enable --now cis490-shipper`, or what the row says; on NixOS: `services.cis490.labHost.enable = true`",
			Run: func(ctx context.Context) []Finding {
				u, ok := h.unit.get(ctx)
				if !ok {
					return timedOut("systemctl show " + state.ShipperUnit)
				}
				return one(u.row("services.cis490.labHost.enable"))
			}},
		{ID: "shipper", DependsOn: []string{"unit"},
			Looks: "the shipper's state file and process: it runs, is not stopped by a signal, and its scan loop came round lately",
			Fix:   "`systemctl start cis490-shipper`; for one that is stopped `kill -CONT PID`",
			Run: h.with(func(ctx context.Context, cfg config.LabHost) []Finding {
				s, ok := h.state.get(ctx)
				if !ok {
					return timedOut(state.ShipperPath(cfg.RunDir))
				}
				p, ok := h.process.get(ctx)
				if !ok {
					return timedOut("/proc")
				}
				u, _ := h.unit.get(ctx) // without it, no unit is said to run
				return one(shipperRow(cfg, s, p, u, time.Now()))
			})},
		{ID: "workers", DependsOn: []string{"shipper"},
			Looks: "whether each worker of the shipper reported in time: one that hangs on a dead disk does not",
			Fix:   "mend the disk; the watchdog restarts the shipper",
			Run: h.told(func(_ context.Context, cfg config.LabHost, s state.Shipper) []Finding {
				return one(workersRow(s, cfg.Shipper.Watchdog))
			})},
		{ID: "restarts", DependsOn: []string{"workers"},
			Looks: "how often systemd restarted the shipper, and for what: yellow for one restart lately, red for several",
			Fix:   "`journalctl -u cis490-shipper -p warning` has why",
			Run: func(ctx context.Context) []Finding {
				u, ok := h.unit.get(ctx)
				if !ok {
					return timedOut("systemctl show " + state.ShipperUnit)
				}
				l, ok := h.log.get(ctx)
				if !ok {
					return timedOut("journalctl -u " + state.ShipperUnit)
				}
				return one(restartsRow(u, l, h.since, time.Now()))
			}},
		{ID: "loaded", DependsOn: []string{"shipper"},
			Looks: "whether the running shipper has read the configuration that is there",
			Fix:   "`systemctl reload cis490-shipper`",
			Run: h.told(func(_ context.Context, cfg config.LabHost, s state.Shipper) []Finding {
				return one(loadedRow(cfg, s))
			})},
		{ID: "scan", DependsOn: []string{"shipper", "data-dir", "disk"},
			Looks: "whether the shipper's last scan of sealed/ succeeded",
			Fix:   "what the error names: mostly the owner or the mode of a directory",
			Run: h.told(func(_ context.Context, cfg config.LabHost, s state.Shipper) []Finding {
				return one(scanRow(cfg, s))
			})},
		{ID: "data-dir", DependsOn: []string{"configuration"},
			Looks: "data_dir: there, writable, not mounted read-only, it and its parts owned by the shipper's user",
			Fix:   "`mount -o remount,rw`, or `systemd-tmpfiles --create`",
			Run: h.with(func(ctx context.Context, cfg config.LabHost) []Finding {
				d, ok := h.disk.get(ctx)
				if !ok {
					return timedOut(cfg.DataDir)
				}
				p, _ := h.process.get(ctx)
				u, _ := h.unit.get(ctx) // who it runs as, where that can be told
				return one(dataDirRow(cfg.DataDir, d, p, u))
			})},
		{ID: "disk", DependsOn: []string{"data-dir"},
			Looks: "space and inodes of data_dir's file system: red below min_free or without inodes, yellow near it",
			Fix:   "free or add space: `du -xhd1 DATA_DIR`",
			Run: h.with(func(ctx context.Context, cfg config.LabHost) []Finding {
				d, ok := h.disk.get(ctx)
				if !ok {
					return timedOut(cfg.DataDir)
				}
				return one(spaceRow("data_dir", d, int64(cfg.MinFree), "min_free of lab-host.hcl"))
			})},
		{ID: "clock-sync",
			Looks: "whether the kernel's clock is synchronised (adjtimex(2))",
			Fix:   "`timedatectl set-ntp true`; on NixOS: `services.timesyncd.enable = true`",
			Run:   func(context.Context) []Finding { return one(syncRow(clockSynchronised())) }},
		{ID: "ca", DependsOn: []string{"configuration"},
			Looks: "ca_file: there, readable, a certificate, not expired and not about to",
			Fix:   "copy ca/ca.crt from the receiver's state_dir to ca_file; on NixOS: `services.cis490.labHost.caFile`",
			Run: h.with(func(_ context.Context, cfg config.LabHost) []Finding {
				return one(caRow(cfg.Receiver.CAFile, cfg.Receiver.URL.Scheme, time.Now()))
			})},
		{ID: "host-key", DependsOn: []string{"shipper"},
			Looks: "identity/host.key: there, whole, for its owner alone",
			Fix:   "`chmod 600`; restore one that is gone from a backup, or let the receiver know the new one",
			Run: h.told(func(_ context.Context, cfg config.LabHost, s state.Shipper) []Finding {
				return one(hostKeyRow(cfg, lookAtKey(cfg.DataDir), s.Key))
			})},
		{ID: "dns", DependsOn: []string{"configuration"},
			Looks: "whether the receiver's name resolves",
			Fix:   "`getent hosts NAME`; the name in `receiver.url`, or the resolver",
			Run:   h.asked(func(_ context.Context, cfg config.LabHost, p probe) []Finding { return one(p.dnsRow(cfg)) })},
		{ID: "receiver", DependsOn: []string{"dns"},
			Looks: "whether a connection to the receiver can be made: red when refused, dropped or silent, yellow when slow",
			Fix:   "on the receiver: `systemctl start cis490-receiver`; else `receiver.url`, routes and firewalls",
			Run:   h.asked(func(_ context.Context, cfg config.LabHost, p probe) []Finding { return one(p.receiverRow(cfg)) })},
		{ID: "clock", DependsOn: []string{"receiver"},
			Looks: "this host's clock beside the receiver's: red beyond the receiver's max_skew, yellow beyond half of it",
			Fix:   "`timedatectl set-ntp true` where the clock is wrong",
			Run: h.asked(func(ctx context.Context, cfg config.LabHost, p probe) []Finding {
				s, _ := h.state.get(ctx)
				return one(p.clockRow(s.v.Poll.MaxSkewSeconds))
			})},
		{ID: "certificate", DependsOn: []string{"receiver", "ca", "clock"},
			Looks: "the receiver's certificate: issued by the CA in ca_file, for the name in receiver.url, not expired and not about to",
			Fix:   "copy the receiver's CA into ca_file, or use a name of the certificate",
			Run: h.asked(func(_ context.Context, cfg config.LabHost, p probe) []Finding {
				return one(p.certificateRow(cfg, time.Now()))
			})},
		{ID: "answer", DependsOn: []string{"certificate"},
			Looks: "whether the receiver itself answers at receiver.url, not a proxy or another server",
			Fix:   "`receiver.url`, and the proxy's configuration",
			Run:   h.asked(func(_ context.Context, cfg config.LabHost, p probe) []Finding { return one(p.answerRow(cfg)) })},
		{ID: "registration", DependsOn: []string{"answer", "host-key"},
			Looks: "whether the receiver knows this host's key, under this host's name",
			Fix:   "on the receiver: `cis490-receiver hosts allow NAME KEY`",
			Run: h.asked(func(ctx context.Context, cfg config.LabHost, p probe) []Finding {
				s, _ := h.state.get(ctx)
				return one(p.registrationRow(cfg, s))
			})},
		{ID: "window", DependsOn: []string{"registration", "clock"},
			Looks: "whether the receiver's window lets in an episode that ends now",
			Fix:   "on the receiver: the window block of receiver.hcl; on NixOS: `services.cis490.receiver.settings.window`",
			Run: h.asked(func(ctx context.Context, _ config.LabHost, p probe) []Finding {
				s, _ := h.state.get(ctx)
				return one(p.windowRow(s.v.Poll))
			})},
		{ID: "versions", DependsOn: []string{"answer"},
			Looks: "how far the versions of this host and the receiver are apart: yellow from half a year on",
			Fix:   "`nixos-rebuild switch` of the older one",
			Run: h.asked(func(ctx context.Context, _ config.LabHost, p probe) []Finding {
				s, _ := h.state.get(ctx)
				return one(p.versionsRow(s.v))
			})},
		{ID: "path", DependsOn: pathChecks,
			Looks: "whether the shipper holds its queue, and for what: yellow in the first minute of what may pass, else red",
			Fix:   "the fix of the code",
			Run: h.told(func(ctx context.Context, cfg config.LabHost, s state.Shipper) []Finding {
				p, _ := h.probe.get(ctx)
				return one(pathRow(s, p, time.Now()))
			})},
		{ID: "backlog", DependsOn: append([]string{"path"}, pathChecks...),
			Looks: "how long the first episode has waited, and whether the queue grows: yellow from an hour on, or when it grows, red from a day on",
			Fix:   "`cis490-shipper status --watch` shows what is slow",
			Run: h.told(func(_ context.Context, _ config.LabHost, s state.Shipper) []Finding {
				return one(backlogRow(s, time.Now()))
			})},
		{ID: "trouble", DependsOn: []string{"shipper", "data-dir"},
			Looks: "episodes that wait at the end of the queue for a reason of their own: one row for each code",
			Fix:   "the fix of the code",
			Run: h.told(func(_ context.Context, _ config.LabHost, s state.Shipper) []Finding {
				return troubleRows(s)
			})},
		{ID: "stored", DependsOn: []string{"shipper"},
			Looks: "whether the receiver still holds all that it acknowledged of this host sound",
			Fix:   "`cis490-shipper audit --requeue`",
			Run: h.told(func(_ context.Context, _ config.LabHost, s state.Shipper) []Finding {
				return one(storedRow(s))
			})},
		{ID: "quarantine", DependsOn: []string{"data-dir"},
			Looks: "what was set aside, a row for each code: yellow; red when some of it will be removed within three days",
			Fix:   "`cis490-shipper quarantine requeue --code CODE` once its cause is mended",
			Run: h.told(func(ctx context.Context, cfg config.LabHost, s state.Shipper) []Finding {
				return quarantineRows(s, expiring(ctx, cfg, time.Now()), cfg, time.Now())
			})},
		{ID: "journal",
			Looks: "whether the journal of cis490-shipper can be read, is kept over a reboot, and has something in it",
			Fix:   "`usermod -aG systemd-journal USER`; `mkdir -p /var/log/journal && journalctl --flush`",
			Run: func(ctx context.Context) []Finding {
				l, ok := h.log.get(ctx)
				if !ok {
					return timedOut("journalctl -u " + state.ShipperUnit)
				}
				u, _ := h.unit.get(ctx)
				return one(l.row(u, h.since))
			}},
		{ID: "shipping", DependsOn: append([]string{"path"}, pathChecks...),
			Looks: "what the last 10 minutes brought, from the journal's CIS490_CODE or, without it, the state file: a row for each code that refused an episode or held the queue, 412 before 400",
			Fix:   "the fix of the code",
			Run: h.told(func(ctx context.Context, cfg config.LabHost, s state.Shipper) []Finding {
				l, ok := h.log.get(ctx)
				if !ok {
					return timedOut("journalctl -u " + state.ShipperUnit)
				}
				return shippingRows(l, s, h.since, time.Now())
			})},
		{ID: "open", DependsOn: []string{"data-dir"},
			Looks: "sealings that were cut off a day ago, and what else lies in open/ without a change for a day",
			Fix:   "`cis490-episode recover` finishes or undoes what was cut off; seal or remove the rest",
			Run: h.with(func(ctx context.Context, cfg config.LabHost) []Finding {
				s, _ := h.state.get(ctx)
				return one(openRow(cfg.DataDir, s.v.Open, time.Now()))
			})},
	}
	for i := range cs {
		cs[i].Role = LabHost
	}
	return cs
}
