package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/state"
	"cis490/src/wire"
)

// What is too long, or too much, at a receiver.
const (
	silentAfter  = 24 * time.Hour
	statePatient = time.Minute      // for the state file to be written anew: a pass is due every few seconds
	settling     = 10 * time.Second // from the store to the catalogue, under load
	newest       = 20               // stored episodes that the catalogue is asked about
)

// receiver is what the checks of a receiver share.
type receiver struct {
	daemon[config.Receiver, state.Receiver]
	hosts *lazy[read[[]hosts.Summary]]
}

func newReceiver(file string, since time.Duration) *receiver {
	r := &receiver{daemon: newDaemon(receiverNames, file, since, sources[config.Receiver, state.Receiver]{
		load:      config.LoadReceiver,
		statePath: func(c config.Receiver) string { return state.ReceiverPath(c.RunDir) },
		readState: func(c config.Receiver) (state.Receiver, error) { return state.ReadReceiver(c.RunDir) },
		pid:       func(s state.Receiver) int { return s.PID },
		data:      func(c config.Receiver) string { return c.StateDir },
	})}
	r.hosts = later(func(ctx context.Context) (list read[[]hosts.Summary]) {
		c, ok := r.cfg.get(ctx)
		if !ok || c.err != nil {
			return read[[]hosts.Summary]{err: errNoConfiguration}
		}
		list.err = operate(ctx, c.v.RunDir, "/v1/hosts", &list.v)
		return list
	})
	return r
}

// operate asks the running receiver on its operator's socket.
func operate(ctx context.Context, runDir, path string, into any) error {
	socket := state.OperatorPath(runDir)
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://receiver"+path, nil)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s: %w", socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e struct {
			Error string `json:"error"`
		}
		_ = wire.ReadJSON(resp.Body, &e) // the status says enough where there is no text
		return &operatorAnswer{resp.StatusCode, e.Error}
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// operatorAnswer is an answer on the operator's socket that is no success.
type operatorAnswer struct {
	status int
	text   string
}

func (e *operatorAnswer) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("the receiver answered %d: %s", e.status, e.text), ": ")
}

// receiverChecks are those of a receiver.
func receiverChecks(r *receiver) []Check {
	cs := []Check{
		r.configurationCheck(),
		r.unitCheck("receiver-configuration", "state-dir"),
		{ID: "receiver-process", DependsOn: []string{"receiver-unit"},
			Looks: "the receiver's state file and process: it runs, is not stopped by a signal, and its regular work came round lately",
			Fix:   "`systemctl start cis490-receiver`; for one that is stopped `kill -CONT PID`",
			Run: r.running(func(cfg config.Receiver, s read[state.Receiver], p process, u unit) Finding {
				return receiverRow(cfg, s, p, u, time.Now())
			})},
		{ID: "receiver-workers", DependsOn: []string{"receiver-process"},
			Looks: "whether each worker of the receiver reported in time: one that hangs on a dead disk does not",
			Fix:   "mend the disk; the watchdog restarts the receiver",
			Run: r.told(func(_ context.Context, _ config.Receiver, s state.Receiver) []Finding {
				return one(receiverWorkersRow(s))
			})},
		r.restartsCheck(),
		{ID: "listen", DependsOn: []string{"receiver-process"},
			Looks: "whether a connection to the receiver's own address can be made on this machine",
			Fix:   "`listen` in receiver.hcl; `systemctl restart cis490-receiver`",
			Run: r.told(func(ctx context.Context, cfg config.Receiver, s state.Receiver) []Finding {
				return one(listenRow(s.Listen, dial(ctx, s.Listen)))
			})},
		{ID: "state-dir", DependsOn: []string{"receiver-configuration"},
			Looks: "state_dir: there, not mounted read-only, it and its parts owned by the receiver's user",
			Fix:   "`mount -o remount,rw`, or `systemd-tmpfiles --create`",
			Run: r.with(func(ctx context.Context, cfg config.Receiver) []Finding {
				d, ok := r.disk.get(ctx)
				if !ok {
					return timedOut(cfg.StateDir)
				}
				p, _ := r.process.get(ctx)
				u, _ := r.unit.get(ctx) // who it runs as, where that can be told
				return one(dataDirRow(cfg.StateDir, d, p, u))
			})},
		{ID: "store-space", DependsOn: []string{"state-dir"},
			Looks: "space and inodes of state_dir's file system: red below limits.min_free or without inodes, yellow near it",
			Fix:   "free or add space: `du -xhd1 STATE_DIR`",
			Run: r.with(func(ctx context.Context, cfg config.Receiver) []Finding {
				d, ok := r.disk.get(ctx)
				if !ok {
					return timedOut(cfg.StateDir)
				}
				return one(spaceRow("state_dir", d, int64(cfg.Limits.MinFree), "limits.min_free of receiver.hcl"))
			})},
		{ID: "clock-sync",
			Looks: "whether the kernel's clock is synchronised (adjtimex(2))",
			Fix:   "`timedatectl set-ntp true`; on NixOS: `services.timesyncd.enable = true`",
			Run:   func(context.Context) []Finding { return one(syncRow(clockSynchronised())) }},
		{ID: "receiver-certificate", DependsOn: []string{"receiver-process"},
			Looks: "when the certificate that the receiver shows expires: yellow in its last two weeks, red after",
			Fix:   "`systemctl restart cis490-receiver`, or renew the file that it is from",
			Run: r.told(func(_ context.Context, cfg config.Receiver, s state.Receiver) []Finding {
				return one(receiverCertificateRow(cfg, s, time.Now()))
			})},
		{ID: "catalogue", DependsOn: []string{"receiver-process", "state-dir", "store-space"},
			Looks: "whether the catalogue answers, is not being rebuilt, and knows the newest stored episodes",
			Fix:   "`cis490-receiver reindex`",
			Run: r.told(func(ctx context.Context, cfg config.Receiver, s state.Receiver) []Finding {
				h, ok := r.hosts.get(ctx)
				if !ok {
					return timedOut(state.OperatorPath(cfg.RunDir))
				}
				return one(catalogueRow(s, h.err, unlisted(ctx, cfg, time.Now())))
			})},
		{ID: "scrub", DependsOn: []string{"receiver-process"},
			Looks: "damage that reading the store again found, and whether all of it was read again within twice scrub.every",
			Fix:   "`cis490-receiver scrub` names each file; `cis490-shipper audit --requeue` on its host sends it again",
			Run: r.told(func(_ context.Context, cfg config.Receiver, s state.Receiver) []Finding {
				return one(scrubRow(cfg, s, time.Now()))
			})},
		{ID: "partial-uploads", DependsOn: []string{"receiver-process"},
			Looks: "unfinished uploads: yellow when there are more than can go on at once, or when they take a fifth of the space",
			Fix:   "`upload_max_age` in receiver.hcl; find out which hosts are cut off",
			Run: r.told(func(_ context.Context, cfg config.Receiver, s state.Receiver) []Finding {
				return one(partialRow(cfg, s))
			})},
		{ID: "hosts-held", DependsOn: []string{"receiver-process"},
			Looks: "hosts that hold their queue because the receiver refuses them: clocks that differ, unknown or revoked keys; a row for each code",
			Fix:   "on that host `timedatectl set-ntp true`; here `cis490-receiver hosts allow NAME KEY`",
			Run: r.told(func(_ context.Context, _ config.Receiver, s state.Receiver) []Finding {
				return heldRows(s)
			})},
		{ID: "hosts-silent", DependsOn: []string{"receiver-process", "listen"},
			Looks: "hosts that may ship and have not spoken for a day",
			Fix:   "`cis490-doctor` on that host; `cis490-receiver hosts revoke NAME` for one that is gone",
			Run: r.told(func(ctx context.Context, cfg config.Receiver, s state.Receiver) []Finding {
				h, ok := r.hosts.get(ctx)
				if !ok {
					return timedOut(state.OperatorPath(cfg.RunDir))
				}
				return one(silentRow(cfg, s, h, time.Now()))
			})},
		{ID: "receiver-window", DependsOn: []string{"receiver-configuration"},
			Looks: "whether the window lets in an episode that ends now",
			Fix:   "the window block of receiver.hcl; on NixOS: `services.cis490.receiver.settings.window`",
			Run: r.with(func(_ context.Context, cfg config.Receiver) []Finding {
				return one(receiverWindowRow(cfg, time.Now()))
			})},
		r.journalCheck(),
	}
	for i := range cs {
		cs[i].Role = Receiver
	}
	return cs
}

// receiverRow judges whether the receiver runs and its regular work goes on.
func receiverRow(cfg config.Receiver, s read[state.Receiver], p process, u unit, now time.Time) Finding {
	path := state.ReceiverPath(cfg.RunDir)
	if s.err != nil {
		return receiverNames.stateless(path, s.err, u, "systemctl cat cis490-receiver shows its --config; systemctl restart cis490-receiver")
	}
	st := s.v
	since := "it last said something " + ago(now, st.UpdatedAt)
	if f, ok := receiverNames.lifeless(p, st.PID, since); ok {
		return f
	}
	if now.Sub(st.UpdatedAt) > statePatient {
		return red("the receiver's regular work has not come round for "+state.Span(now.Sub(st.UpdatedAt)), fmt.Sprintf("process %d; %s", st.PID, since), "systemctl restart cis490-receiver")
	}
	return green("the receiver runs since %s, and last progressed %s", st.StartedAt.Format(time.RFC3339), ago(now, st.UpdatedAt))
}

func receiverWorkersRow(s state.Receiver) Finding {
	var late []string
	for _, w := range s.Workers {
		if w.Late != "" {
			late = append(late, strings.TrimSpace(w.Name+" "+w.Doing)+", overdue by "+w.Late)
		}
	}
	if len(late) > 0 {
		return red("a worker of the receiver hangs: "+late[0], strings.Join(late, "; "), "look at the disk of state_dir: journalctl -k -p err -n 20; if it is sound: systemctl restart cis490-receiver")
	}
	return green("all %d workers report in time", len(s.Workers))
}

// dial makes a connection to a listening address of this machine.
func dial(ctx context.Context, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	return c.Close()
}

func listenRow(listen string, err error) Finding {
	if err != nil {
		return red("nothing answers at "+listen+", where the receiver says that it listens", err.Error(), "ss -ltnp | grep ':"+listen[strings.LastIndexByte(listen, ':')+1:]+"'; systemctl restart cis490-receiver")
	}
	return green("connections to %s are taken", listen)
}

func receiverCertificateRow(cfg config.Receiver, s state.Receiver, now time.Time) Finding {
	left := s.CertificateNotAfter.Sub(now)
	until := "until " + s.CertificateNotAfter.UTC().Format(time.RFC3339)
	fix := "systemctl restart cis490-receiver issues a new one"
	if cfg.TLS.CertFile != "" {
		fix = "renew " + cfg.TLS.CertFile + " (NixOS: services.cis490.receiver.certFile); it is read again by itself"
	}
	switch {
	case left < 0:
		return red("the receiver's certificate has expired", until, fix)
	case left < soon:
		return yellow("the receiver's certificate expires in "+state.Span(left), until, fix)
	}
	return green("the receiver's certificate is valid for %s", state.Span(left))
}

// behind is what the catalogue lacks.
type behind struct {
	asked   int
	missing []string
	err     error // of looking into the store, or of asking
}

// stored are the records of the episodes in a store that came on some days.
func stored(ctx context.Context, store string, days ...time.Time) (records []string, err error) {
	// Not by filepath.Glob, which leaves out what it can't read.
	list := func(dir string) ([]fs.DirEntry, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // nothing came then
		}
		return entries, err
	}
	known, err := list(store)
	if err != nil {
		return nil, err
	}
	for _, host := range known {
		if host.Type().IsRegular() {
			continue // a stray file, and no host's
		}
		for _, day := range days {
			dir := filepath.Join(store, host.Name(), day.UTC().Format("2006/01/02"))
			files, err := list(dir)
			if err != nil {
				return nil, err
			}
			for _, f := range files {
				if strings.HasSuffix(f.Name(), ".json") {
					records = append(records, filepath.Join(dir, f.Name()))
				}
			}
		}
	}
	return records, nil
}

// unlisted asks the catalogue about the newest stored episodes.
func unlisted(ctx context.Context, cfg config.Receiver, now time.Time) (b behind) {
	all, err := stored(ctx, filepath.Join(cfg.StateDir, "episodes"), now, now.Add(-24*time.Hour))
	if err != nil {
		return behind{err: err}
	}
	// Ids sort by time.
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(filepath.Base(b), filepath.Base(a)) })
	for _, f := range all[:min(len(all), newest)] {
		id, err := episode.ParseID(strings.TrimSuffix(filepath.Base(f), ".json"))
		if err != nil {
			continue
		}
		var row json.RawMessage
		err = operate(ctx, cfg.RunDir, "/v1/episodes/"+id.String(), &row)
		var answer *operatorAnswer
		switch {
		case errors.As(err, &answer) && answer.status == http.StatusNotFound:
			// One that is just being stored is on disk a moment before.
			if st, err := os.Stat(f); err == nil && now.Sub(st.ModTime()) > settling {
				b.missing = append(b.missing, id.String())
			}
		case err != nil:
			b.err = err
			return b
		}
		b.asked++
	}
	return b
}

func catalogueRow(s state.Receiver, asked error, b behind) Finding {
	const reindex = "cis490-receiver reindex"
	var answer *operatorAnswer
	switch {
	case s.Rebuilding:
		return yellow("the catalogue is being rebuilt from the store", "hosts are told receiver-busy until it is done", "wait for it: systemctl status cis490-receiver says how far it is")
	case s.CatalogueError != "":
		return red("the catalogue can't be asked", s.CatalogueError, reindex)
	case errors.As(asked, &answer):
		return red("the catalogue can't be asked", answer.Error(), reindex)
	case len(b.missing) > 0:
		return red(fmt.Sprintf("the catalogue is behind the store: %d of the %d newest episodes are not in it", len(b.missing), b.asked), strings.Join(b.missing, " "), reindex)
	case errors.Is(asked, fs.ErrPermission):
		return unknown("may not ask the receiver", asked.Error(), "join the group in operator_group of receiver.hcl, or: sudo cis490-doctor")
	case asked != nil:
		return unknown("the receiver can't be asked", asked.Error(), "systemctl restart cis490-receiver")
	case b.err != nil:
		return unknown("whether the catalogue is behind the store can't be seen", b.err.Error(), "sudo cis490-doctor")
	}
	return green("the catalogue answers, and knows the %d newest episodes", b.asked)
}

func scrubRow(cfg config.Receiver, s state.Receiver, now time.Time) Finding {
	if s.DamagedEpisodes > 0 {
		return red(fmt.Sprintf("%d stored episodes are damaged", s.DamagedEpisodes), code.StoreDamaged.Info().Meaning, code.StoreDamaged.Info().Fix)
	}
	if cfg.Scrub.Every > 0 && cfg.Scrub.Rate != config.RateOff && !s.OldestCheck.IsZero() && now.Sub(s.OldestCheck) > 2*cfg.Scrub.Every {
		return yellow("some of the store was not read again for "+state.Span(now.Sub(s.OldestCheck)), "scrub.every is "+config.FormatDuration(cfg.Scrub.Every),
			"raise scrub.rate in receiver.hcl (NixOS: services.cis490.receiver.settings.scrub.rate); at once: cis490-receiver scrub")
	}
	return green("no stored episode is known to be damaged")
}

func partialRow(cfg config.Receiver, s state.Receiver) Finding {
	have := fmt.Sprintf("%d unfinished uploads, %s, %d under way", s.PartialUploads, size(s.PartialBytes), s.UploadsUnderWay)
	fix := "hosts that are cut off leave them: cis490-receiver hosts list; they go after upload_max_age (" + config.FormatDuration(cfg.UploadMaxAge) + "): lower it in receiver.hcl (NixOS: services.cis490.receiver.settings.upload_max_age), then: systemctl reload cis490-receiver"
	total := int64(s.FreeBytes) + s.PartialBytes
	switch {
	case s.PartialUploads > cfg.Limits.Uploads:
		return yellow(fmt.Sprintf("unfinished uploads pile up: %d, and %d may go on at once", s.PartialUploads, cfg.Limits.Uploads), have, fix)
	case s.PartialBytes > total/5 && s.PartialBytes > 64<<20:
		return yellow("unfinished uploads take "+size(s.PartialBytes), have, fix)
	}
	return green("%s", have)
}

// heldRows has a row for each code that hosts hold their queue for.
func heldRows(s state.Receiver) (rows []Finding) {
	by := map[code.Code][]state.Happened{}
	counts := map[code.Code]int{}
	for _, h := range s.Held {
		by[h.Code] = append(by[h.Code], h)
		counts[h.Code]++
	}
	for _, c := range sortedCodes(counts) {
		var names []string
		for _, h := range by[c] {
			names = append(names, h.Host)
		}
		fix := "if it may ship: cis490-receiver hosts allow NAME KEY; else stop it there: systemctl disable --now cis490-shipper"
		if c == code.ClockSkew {
			fix = "on that host: timedatectl set-ntp true; if it is most of the hosts, on this one"
		}
		rows = append(rows, yellow(fmt.Sprintf("%d host(s) hold their queue: %s: %s", len(names), c, strings.Join(names[:min(len(names), 3)], ", ")), by[c][0].Detail, fix).sub(string(c)))
	}
	if len(rows) == 0 {
		return one(green("no host holds its queue for what it is"))
	}
	return rows
}

func silentRow(cfg config.Receiver, s state.Receiver, h read[[]hosts.Summary], now time.Time) Finding {
	switch {
	case errors.Is(h.err, fs.ErrPermission):
		return unknown("may not ask the receiver for its hosts", h.err.Error(), "join the group in operator_group of receiver.hcl, or: sudo cis490-doctor")
	case h.err != nil:
		return unknown("the receiver can't be asked for its hosts", h.err.Error(), "cis490-doctor --only catalogue")
	}
	last := map[string]time.Time{}
	for _, x := range h.v {
		if x.Revoked {
			continue
		}
		at := x.SeenAt
		for _, t := range []time.Time{x.LastStored, s.StartedAt} { // before the start nobody counted
			if t.After(at) {
				at = t
			}
		}
		if at.After(last[x.Name]) {
			last[x.Name] = at
		}
	}
	var silent []string
	for name, at := range last {
		if now.Sub(at) > silentAfter {
			silent = append(silent, name)
		}
	}
	slices.Sort(silent)
	switch {
	case len(last) == 0:
		return yellow("no host may ship yet", "neither a host block in receiver.hcl nor an allowed key", "cis490-receiver hosts allow NAME KEY, with the key that cis490-shipper status shows on that host")
	case len(silent) > 0:
		return yellow(fmt.Sprintf("%d of %d hosts have not spoken for a day: %s", len(silent), len(last), strings.Join(silent[:min(len(silent), 3)], ", ")), strings.Join(silent[:min(len(silent), 50)], " "),
			"on that host: cis490-doctor; one that is gone for good: cis490-receiver hosts revoke NAME")
	}
	return green("all %d hosts have spoken lately", len(last))
}

func receiverWindowRow(cfg config.Receiver, now time.Time) Finding {
	w := wire.Window{NotBefore: cfg.Window.NotBefore, NotAfter: cfg.Window.NotAfter, MaxAge: cfg.Window.MaxAge, MaxAhead: cfg.Window.MaxAhead}
	if why, ok := w.Admits(now.Add(-time.Minute), now, now); !ok {
		return red("the window lets nothing in that ends now", "an episode that "+why, "mend the window block of "+cfg.File+" (NixOS: services.cis490.receiver.settings.window), then: systemctl reload cis490-receiver")
	}
	return green("the window lets in what ends now")
}
