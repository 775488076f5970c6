package doctor

import (
	"context"
	"time"

	"cis490/src/config"
	"cis490/src/state"
)

// labHost is what the checks of a lab host share.
type labHost struct {
	daemon[config.LabHost, state.Shipper]
	probe *lazy[probe]
}

func newLabHost(file string, since time.Duration) *labHost {
	h := &labHost{daemon: newDaemon(shipperNames, file, since, sources[config.LabHost, state.Shipper]{
		load:      config.LoadLabHost,
		statePath: func(c config.LabHost) string { return state.ShipperPath(c.RunDir) },
		readState: func(c config.LabHost) (state.Shipper, error) { return state.ReadShipper(c.RunDir) },
		pid:       func(s state.Shipper) int { return s.PID },
		data:      func(c config.LabHost) string { return c.DataDir },
	})}
	h.probe = later(func(ctx context.Context) probe {
		c, ok := h.cfg.get(ctx)
		if !ok || c.err != nil {
			return probe{}
		}
		return ask(ctx, c.v)
	})
	return h
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
		h.configurationCheck(),
		h.unitCheck("configuration", "data-dir"),
		{ID: "shipper", DependsOn: []string{"unit"},
			Looks: "the shipper's state file and process: it runs, is not stopped by a signal, and its scan loop came round lately",
			Fix:   "`systemctl start cis490-shipper`; for one that is stopped `kill -CONT PID`",
			Run: h.running(func(cfg config.LabHost, s read[state.Shipper], p process, u unit) Finding {
				return shipperRow(cfg, s, p, u, time.Now())
			})},
		{ID: "workers", DependsOn: []string{"shipper"},
			Looks: "whether each worker of the shipper reported in time: one that hangs on a dead disk does not",
			Fix:   "mend the disk; the watchdog restarts the shipper",
			Run: h.told(func(_ context.Context, cfg config.LabHost, s state.Shipper) []Finding {
				return one(workersRow(s, cfg.Shipper.Watchdog))
			})},
		h.restartsCheck(),
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
		h.journalCheck(),
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
