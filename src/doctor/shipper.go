package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/health"
	"cis490/src/queue"
	"cis490/src/state"
)

// What is too long.
const (
	passPatience  = 20 * time.Second // for a scan to come round, beside three of its intervals
	expiresWithin = 3 * 24 * time.Hour
	openFor       = 24 * time.Hour
)

// shipperRow judges whether the shipper runs and its scan loop turns.
func shipperRow(cfg config.LabHost, s read[state.Shipper], p process, u unit, now time.Time) Finding {
	path := state.ShipperPath(cfg.RunDir)
	if s.err != nil {
		return shipperNames.stateless(path, s.err, u, "systemctl reload cis490-shipper; if that changes nothing: systemctl cat cis490-shipper shows its --config")
	}
	st := s.v
	since := "it last said something " + ago(now, st.WrittenAt)
	most := 3*cfg.Shipper.ScanInterval + passPatience
	pass := now.Sub(st.Scan.At)
	if f, ok := shipperNames.lifeless(p, st.PID, since); ok {
		return f
	}
	switch {
	case st.Stopping:
		return yellow("the shipper is being stopped", since, "systemctl start cis490-shipper")
	case pass > most && now.Sub(st.StartedAt) > most:
		return red("the shipper's scan loop has not come round for "+state.Span(pass), fmt.Sprintf("process %d; %s; a pass is due every %s", st.PID, since, cfg.Shipper.ScanInterval), "systemctl restart cis490-shipper")
	case pass < -most:
		return yellow("this host's clock was set back", "the last scan is "+state.Span(-pass)+" ahead of now", "systemctl restart cis490-shipper")
	case !st.Queue.Scanned:
		return green("the shipper runs, and scans for the first time")
	}
	return green("the shipper runs, and last progressed %s", ago(now, st.Scan.At))
}

// workersRow judges whether a worker is overdue.
func workersRow(s state.Shipper, watchdog time.Duration) Finding {
	var late []string
	for _, w := range s.Workers {
		if w.Late != "" {
			t := w.Name
			if w.Doing != "" {
				t += " (" + w.Doing
				if w.Episode != nil {
					t += " " + w.Episode.String()
				}
				t += ")"
			}
			late = append(late, t+", overdue by "+w.Late)
		}
	}
	if len(late) > 0 {
		return red("a worker of the shipper hangs: "+late[0], strings.Join(late, "; ")+fmt.Sprintf("; the watchdog ends the shipper after %s", watchdog),
			"look at the disk of data_dir: journalctl -k -p err -n 20; if it is sound: systemctl restart cis490-shipper")
	}
	return green("all %d workers report in time", len(s.Workers))
}

// loadedRow judges whether the shipper has the configuration that is there.
func loadedRow(cfg config.LabHost, s state.Shipper) Finding {
	const reload = "systemctl reload cis490-shipper"
	want := *cfg.Receiver.URL
	want.Path, want.RawPath = "", ""
	switch {
	case s.Receiver != want.String():
		return yellow("the shipper runs with an older configuration", fmt.Sprintf("it ships to %s, %s says %s", s.Receiver, filepath.Base(cfg.File), &want), reload)
	case s.Host != cfg.Host:
		return yellow("the shipper runs with an older configuration", fmt.Sprintf("it is host %s, %s says %s", s.Host, filepath.Base(cfg.File), cfg.Host), reload)
	}
	return green("the shipper has the configuration that is there")
}

func scanRow(cfg config.LabHost, s state.Shipper) Finding {
	if s.Scan.Error == "" {
		return green("the last scan of sealed/ succeeded")
	}
	return red("the shipper can't scan "+filepath.Join(cfg.DataDir, "sealed"), s.Scan.Error, "ls -ld "+quote(cfg.DataDir)+" "+quote(filepath.Join(cfg.DataDir, "sealed"))+"; systemd-tmpfiles --create makes owner and mode right")
}

// seen are the codes whose cause asking the receiver shows.
var seen = []code.Code{code.DNSFailed, code.Unreachable, code.TimedOut, code.TLSUntrusted, code.TLSExpired, code.TLSWrongName,
	code.HostUnknown, code.HostRevoked, code.ClockSkew, code.Unmarked4xx}

// pathRow judges whether the queue is held. p is what asking the receiver gave.
func pathRow(s state.Shipper, p probe, now time.Time) Finding {
	if !s.Path.Held {
		if f := s.Poll.Failure; f != nil {
			return yellow("the receiver could not be asked for its window: "+string(f.Code), f.Detail, f.Code.Info().Fix)
		}
		if s.Rate.Off {
			return green("uploads are %s", s.Rate)
		}
		return green("the way to the receiver is open")
	}
	since := now
	if s.Path.Since != nil {
		since = *s.Path.Since
	}
	title := fmt.Sprintf("the queue is held for %s: %s", state.Span(now.Sub(since)), s.Path.Code)
	switch {
	case p.well() && slices.Contains(seen, s.Path.Code):
		return yellow(title+"; the receiver answers now, and the shipper will see it at its next try", s.Path.Detail, "cis490-shipper push tries at once")
	case s.Path.Status(now) == health.Yellow:
		return yellow(title, s.Path.Detail, s.Path.Fix)
	}
	return red(title, s.Path.Detail, s.Path.Fix)
}

// backlogRow judges the queue's age and growth.
func backlogRow(s state.Shipper, now time.Time) Finding {
	q := s.Queue
	if !q.Scanned {
		return green("the queue is being scanned for the first time")
	}
	if q.Left() == 0 {
		return green("nothing waits")
	}
	have := fmt.Sprintf("%d wait, %d under way", q.Waiting, q.InFlight)
	age := time.Duration(0)
	if q.Oldest != nil {
		age = now.Sub(q.Oldest.SealedAt)
		have += ", the first of them, " + q.Oldest.Episode.String() + ", sealed " + ago(now, q.Oldest.SealedAt)
	}
	fix := "cis490-shipper status --watch shows what is slow: the link, shipper.rate_limit of lab-host.hcl, or one episode"
	grows := q.Before != nil && now.Sub(q.Before.At) >= 5*time.Minute && q.Left() > q.Before.Left+max(20, q.Before.Left/5)
	if q.Postponed > 0 && q.Postponed == q.Left() {
		return green("%d wait, all of them in trouble of their own: see the row trouble", q.Left())
	}
	if s.Rate.Off {
		if age > state.StaleAfter {
			return yellow("the backlog is "+state.Span(age)+" old; uploads are "+s.Rate.String(), have, "shipper.rate_limit and the rate_window blocks of lab-host.hcl; on NixOS: services.cis490.shipper.settings")
		}
		return green("%d wait; uploads are %s", q.Left(), s.Rate)
	}
	switch {
	case age > state.StaleAfter:
		return red("the first episode in the queue has waited "+state.Span(age), have, fix)
	case age > state.AgedAfter:
		return yellow("the first episode in the queue has waited "+state.Span(age), have, fix)
	case grows:
		return yellow(fmt.Sprintf("the backlog grows: %d, %d %s", q.Left(), q.Before.Left, ago(now, q.Before.At)), have, fix)
	}
	return green("%s", have)
}

// troubleRows has a row for each code that episodes wait with at the end of the queue.
func troubleRows(s state.Shipper) (rows []Finding) {
	for _, c := range slices.Sorted(maps.Keys(s.Queue.PostponedByCode)) {
		n := s.Queue.PostponedByCode[c]
		title, evidence := fmt.Sprintf("%d episodes at the end of the queue: %s", n, c.Info().Title), ""
		if s.Problem != nil && s.Problem.Code == c {
			evidence = s.Problem.Detail
		}
		f := yellow(title, evidence, c.Info().Fix)
		if state.TroubleStatus(c) == health.Red {
			f = red(title, evidence, c.Info().Fix)
		}
		rows = append(rows, f.sub(string(c)))
	}
	if len(rows) == 0 {
		rows = one(green("no episode is in trouble of its own"))
	}
	return rows
}

func storedRow(s state.Shipper) Finding {
	d := s.Poll.Damaged
	if d == nil || d.Count == 0 {
		return green("the receiver reports no damage to what it acknowledged")
	}
	var ids []string
	for _, id := range d.Episodes {
		ids = append(ids, id.String())
	}
	return red(fmt.Sprintf("%d acknowledged episodes are damaged at the receiver", d.Count), strings.Join(ids, " "), code.CopyDamaged.Info().Fix)
}

// expiry is what the clean-up will take soon.
type expiry struct {
	n     map[code.Code]int
	whole bool
	err   error
}

// mostLooked bounds how many reasons are read.
const mostLooked = 20_000

func expiring(ctx context.Context, cfg config.LabHost, now time.Time) expiry {
	if cfg.Shipper.QuarantineKeepDays == 0 {
		return expiry{whole: true}
	}
	n, whole, err := queue.Expiring(ctx, cfg.DataDir, time.Duration(cfg.Shipper.QuarantineKeepDays)*24*time.Hour, now.Add(expiresWithin), mostLooked)
	return expiry{n, whole, err}
}

// quarantineFix says how to get the episodes of one code out of quarantine.
func quarantineFix(c code.Code) string {
	requeue := "cis490-shipper quarantine requeue --code " + string(c)
	switch c {
	case code.OutOfWindow:
		return "once the receiver's window fits (services.cis490.receiver.settings.window) they go out by themselves; now: " + requeue
	case code.TooLarge:
		return "on the receiver raise episode_size or episode_files in the limits block of receiver.hcl; then: " + requeue
	case code.Malformed:
		return "cis490-shipper quarantine show ID says what the receiver did not accept, and where the bag is; once host and receiver agree: " + requeue
	case code.Conflict:
		return "cis490-shipper quarantine show ID, and on the receiver: cis490-receiver episodes show ID; to keep both seal this one anew: cis490-episode seal BAG/data/output; then: cis490-shipper quarantine rm ID"
	case code.Damaged:
		return "cis490-shipper quarantine list --code damaged, then cis490-episode verify BAG for each; once repaired: " + requeue + "; else: cis490-shipper quarantine rm ID"
	}
	return requeue
}

// quarantineRows has a row for each code in quarantine.
func quarantineRows(s state.Shipper, e expiry, cfg config.LabHost, now time.Time) (rows []Finding) {
	q := s.Quarantine
	days := cfg.Shipper.QuarantineKeepDays
	for _, c := range sortedCodes(q.ByCode) {
		n := q.ByCode[c]
		if n == 0 {
			continue
		}
		title := fmt.Sprintf("%d held: %s", n, c)
		var goes string
		switch {
		case days == 0:
			goes = "kept for good (quarantine_keep_days = 0)"
		case e.err != nil:
			goes = "which of them expire soon can't be seen: " + e.err.Error()
		case e.n[c] > 0:
			goes = fmt.Sprintf("%d of them will be removed within 3 days (quarantine_keep_days = %d)", e.n[c], days)
		case !e.whole:
			goes = "too many to see which of them expire soon"
		default:
			goes = "none expires within 3 d"
		}
		evidence := c.Info().Meaning
		if len(q.ByCode) == 1 && q.Oldest != nil {
			title += ", oldest " + state.Span(now.Sub(*q.Oldest))
		}
		f := yellow(title+", "+goes, evidence, quarantineFix(c))
		if days > 0 && e.n[c] > 0 {
			f = red(title+", "+goes, evidence, quarantineFix(c))
		}
		if c == code.OutOfWindow {
			f = f.after("window") // one that lets nothing in is the cause
		}
		rows = append(rows, f.sub(string(c)))
	}
	if q.Unreadable > 0 {
		rows = append(rows, yellow(fmt.Sprintf("%d entries of the quarantine have no readable reason.json", q.Unreadable), "they are kept, and never removed by age",
			"ls -l "+quote(filepath.Join(cfg.DataDir, "quarantine"))+"/*/*/reason.json").sub("unreadable"))
	}
	if len(rows) == 0 {
		if q.Counting {
			return one(green("the quarantine is being counted"))
		}
		return one(green("nothing is in quarantine"))
	}
	return rows
}

// sortedCodes are the codes of m with the most actionable first: 412 before 400.
func sortedCodes(m map[code.Code]int) []code.Code {
	return slices.SortedFunc(maps.Keys(m), func(a, b code.Code) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(string(a), string(b))
	})
}

func rank(c code.Code) int {
	switch {
	case c == code.OutOfWindow || c == code.ClockSkew:
		return 0
	case c.Class() == code.OfEpisode:
		return 1
	case c.Class() == code.OfHost:
		return 2
	}
	return 3
}

// openRow judges what lies in open/; cutOff is what the shipper says of sealings
// that died.
func openRow(dataDir string, cutOff state.Open, now time.Time) Finding {
	dir := filepath.Join(dataDir, "open")
	if n := cutOff.LeftOver; n > 0 {
		since := ""
		if cutOff.Oldest != nil {
			since = "the first of them began " + ago(now, *cutOff.Oldest)
		}
		return yellow(fmt.Sprintf("%d sealings were cut off and left in %s", n, dir), since, cutOff.Fix())
	}
	ents, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return green("no episode is open")
	case errors.Is(err, fs.ErrPermission):
		return unknown("may not look into "+dir, err.Error(), "sudo cis490-doctor")
	case err != nil:
		return unknown("can't look into "+dir, err.Error(), "ls "+quote(dir))
	}
	var old []string
	n := 0
	oldest := now
	for _, e := range ents {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		n++
		if at := changed(filepath.Join(dir, e.Name())); !at.IsZero() && now.Sub(at) > openFor {
			old = append(old, e.Name())
			if at.Before(oldest) {
				oldest = at
			}
		}
	}
	if len(old) == 0 {
		return green("%d episodes are open, none of them idle for a day", n)
	}
	return yellow(fmt.Sprintf("%d open episodes left over, the oldest without a change for %s", len(old), state.Span(now.Sub(oldest))), strings.Join(old[:min(len(old), 5)], " "),
		"look what it is: ls -lR "+quote(filepath.Join(dir, old[0]))+"; keep it: cis490-episode seal "+quote(filepath.Join(dir, old[0]))+" --into "+quote(dataDir)+" && rm -r "+quote(filepath.Join(dir, old[0]))+"; or remove it: rm -r "+quote(filepath.Join(dir, old[0])))
}

// changed is when something directly in dir, or one level below it, last changed.
func changed(dir string) (at time.Time) {
	for _, pattern := range []string{"", "*", "data/*"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is a good one
		for _, f := range found[:min(len(found), 1000)] {
			if st, err := os.Lstat(f); err == nil && st.ModTime().After(at) {
				at = st.ModTime()
			}
		}
	}
	return at
}
