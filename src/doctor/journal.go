package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cis490/src/code"
	"cis490/src/state"
)

// event is an entry of the journal with a code of ours.
type event struct {
	at      time.Time
	code    code.Code
	episode string
	detail  string
	guessed bool // by pattern, of a version before there were fields
}

// end is one of systemd's own entries: a run of the daemon that it did not ask
// to end.
type end struct {
	at     time.Time
	result string // systemd.service(5): watchdog, exit-code, signal, …
}

// log is what the journal has of a daemon.
type log struct {
	unit       string
	err        error // it could not be read
	denied     bool
	none       bool // there is no journal
	nothing    bool // no entry of the unit at all
	persistent bool
	newest     time.Time // the unit's last entry
	events     []event   // the troubles, oldest first
	stored     map[string]time.Time
	success    time.Time // the last success
	ends       []end
	cut        bool // there were more
}

// most entries of one question.
const mostEntries = 20_000

// fieldsWanted keeps journalctl's JSON short.
const fieldsWanted = "MESSAGE,CIS490_CODE,CIS490_EPISODE,CIS490_DETAIL,UNIT_RESULT"

// readLog asks journalctl a few questions at once. Each goes by indexed fields, so
// none reads more than its answer.
func readLog(ctx context.Context, name string, since time.Duration) (l log) {
	l = log{unit: name, stored: map[string]time.Time{}}
	if _, err := exec.LookPath("journalctl"); err != nil {
		l.err, l.none = errors.New("there is no journalctl on PATH"), true
		return l
	}
	_, err := os.Stat("/var/log/journal")
	l.persistent = err == nil
	if _, err := os.Stat("/run/log/journal"); errors.Is(err, fs.ErrNotExist) && !l.persistent {
		l.err, l.none = errors.New("neither /var/log/journal nor /run/log/journal is there"), true
		return l
	}
	from := "--since=@" + strconv.FormatInt(time.Now().Add(-since).Unix(), 10)
	unit := "_SYSTEMD_UNIT=" + name + ".service"
	question := func(args ...string) ([]byte, string, error) {
		out, errs, err := output(ctx, "journalctl", append([]string{"--no-pager", "--output=json", "--output-fields=" + fieldsWanted}, args...)...)
		return []byte(out), errs, err
	}
	var troubles, successes []string
	for _, i := range code.All() {
		if i.Class == code.Done {
			successes = append(successes, "CIS490_CODE="+string(i.Code))
		} else {
			troubles = append(troubles, "CIS490_CODE="+string(i.Code))
		}
	}
	limit := "--lines=" + strconv.Itoa(mostEntries)
	asks := [][]string{
		{"--lines=1", unit}, // anything at all, ever
		append([]string{from, limit, unit}, troubles...),
		append([]string{from, "--lines=1", unit}, successes...),
		{from, "--lines=1000", unit}, // for entries of a version before the fields
		{from, limit, "_PID=1", "UNIT=" + name + ".service", "MESSAGE_ID=" + messageFailed},
	}
	answers := make([][]byte, len(asks))
	complaints := make([]string, len(asks))
	failures := make([]error, len(asks))
	var wg sync.WaitGroup
	for i, args := range asks {
		wg.Go(func() { answers[i], complaints[i], failures[i] = question(args...) })
	}
	wg.Wait()
	for i := range asks {
		if isDenied(complaints[i]) {
			l.denied, l.err = true, errors.New(firstLine(complaints[i]))
			return l
		}
		if failures[i] != nil {
			l.err = fmt.Errorf("journalctl: %w", failures[i])
			if s := firstLine(complaints[i]); s != "" && ctx.Err() == nil {
				l.err = errors.New("journalctl: " + s)
			}
			return l
		}
	}
	first := entries(answers[0])
	if len(first) == 0 {
		l.nothing = true
		return l
	}
	l.newest = first[0].at()
	found := entries(answers[1])
	l.cut = len(found) >= mostEntries
	l.see(found)
	l.see(entries(answers[2]))
	l.guess(entries(answers[3]))
	for _, e := range entries(answers[4]) {
		l.ends = append(l.ends, end{e.at(), e.UnitResult.String()})
	}
	// What was refused and stored since is no trouble any more.
	ids := map[string]bool{}
	args := append([]string{from, limit, unit}, successes...)
	for _, e := range l.events {
		if e.episode != "" && !ids[e.episode] && len(ids) < mostAsked {
			ids[e.episode] = true
			args = append(args, "CIS490_EPISODE="+e.episode)
		}
	}
	if len(ids) > 0 {
		out, _, err := question(args...)
		if err == nil {
			l.see(entries(out))
		}
	}
	return l
}

// messageFailed is systemd's MESSAGE_ID of a unit that failed (SD_MESSAGE_UNIT_FAILURE_RESULT of sd-messages(3)).
const messageFailed = "d9b373ed55a64feb8242e02dbe79a49c"

// mostAsked bounds a command line.
const mostAsked = 500

// isDenied recognises what journalctl says to somebody who may not read all of it.
func isDenied(stderr string) bool {
	return strings.Contains(stderr, "not seeing messages from other users") || strings.Contains(stderr, "insufficient permissions") || strings.Contains(stderr, "Permission denied")
}

// entry is one line of journalctl --output=json.
type entry struct {
	Time       text `json:"__REALTIME_TIMESTAMP"` // µs
	Message    text `json:"MESSAGE"`
	Code       text `json:"CIS490_CODE"`
	Episode    text `json:"CIS490_EPISODE"`
	Detail     text `json:"CIS490_DETAIL"`
	UnitResult text `json:"UNIT_RESULT"`
}

func (e entry) at() time.Time {
	us, err := strconv.ParseInt(e.Time.String(), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMicro(us)
}

// text is a field: a string, an array of bytes where it is not UTF-8, an array of
// several, or null where it is very long (journalctl(1), --output=json).
type text struct{ s string }

func (t text) String() string { return t.s }

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		t.s = s
		return nil
	}
	var raw []byte
	var numbers []int
	if json.Unmarshal(b, &numbers) == nil {
		for _, n := range numbers {
			raw = append(raw, byte(n))
		}
		t.s = string(raw)
		return nil
	}
	var several []text
	if json.Unmarshal(b, &several) == nil && len(several) > 0 {
		*t = several[0]
	}
	return nil // null, or what no version writes: as if it were not there
}

// entries reads lines; one that is cut ends it.
func entries(out []byte) (all []entry) {
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var e entry
		if d.Decode(&e) != nil {
			return all
		}
		all = append(all, e)
	}
}

// see takes entries with a code.
func (l *log) see(all []entry) {
	for _, e := range all {
		c := code.Code(e.Code.String())
		if c == "" {
			continue
		}
		l.add(event{at: e.at(), code: c, episode: e.Episode.String(), detail: e.Detail.String()})
	}
}

func (l *log) add(e event) {
	if e.code.Class() == code.Done {
		if e.at.After(l.success) {
			l.success = e.at
		}
		if e.episode != "" && e.at.After(l.stored[e.episode]) {
			l.stored[e.episode] = e.at
		}
		return
	}
	l.events = append(l.events, e)
}

// Patterns for entries without a field: lines of a daemon whose entries could not
// go to the journal's socket, which have code=…, and those of versions before.
var (
	codeInText    = regexp.MustCompile(`(?:^|\s)code=([a-z0-9-]+)`)
	episodeInText = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	patterns      = []struct {
		is   *regexp.Regexp
		code code.Code
	}{
		{regexp.MustCompile(`(?i)\b412\b|out.of.window|precondition failed`), code.OutOfWindow},
		{regexp.MustCompile(`(?i)\b400\b|bad request|malformed`), code.Malformed},
		{regexp.MustCompile(`(?i)connection refused|no route to host|network is unreachable`), code.Unreachable},
		{regexp.MustCompile(`(?i)time(d )?.?out|deadline exceeded`), code.TimedOut},
		{regexp.MustCompile(`(?i)no such host|name resolution|temporary failure in name`), code.DNSFailed},
		{regexp.MustCompile(`(?i)connection reset|broken pipe|unexpected eof`), code.Cut},
		{regexp.MustCompile(`\b5\d\d\b`), code.ReceiverError},
		{regexp.MustCompile(`\b4\d\d\b`), code.Unmarked4xx},
		{regexp.MustCompile(`(?i)\b20[01]\b|\bshipped\b|\buploaded\b`), code.Stored},
	}
	// trace is a line of a stack, such as the watchdog leaves by the thousand.
	trace = regexp.MustCompile(`\.go:\d+|\+0x[0-9a-f]+|^goroutine \d+|^\s|\(0x[0-9a-f]+|^r[0-9a-z]{1,2} +0x`)
	// about is what a line that tells of a request has in it.
	about = regexp.MustCompile(`(?i)https?|status|server|receiver|request|response|returned|upload|ship|episode|reject|refus|retry|dial|lookup|read|write|connect|time.?out|timed|deadline`)
	// number finds what only looks like a status: parts of times, ids and sizes.
	number = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT\S+|\d+(\.\d+)?\s?([kMGT]i?B|ms|s|bytes)\b|\d[\d.,:]*:\d+`)
)

// guess finds codes in the text of entries that have no field for them.
func (l *log) guess(all []entry) {
	for _, e := range all {
		if e.Code.String() != "" {
			continue
		}
		msg := e.Message.String()
		id := episodeInText.FindString(msg)
		if m := codeInText.FindStringSubmatch(msg); m != nil {
			if i, ok := code.Lookup(code.Code(m[1])); ok {
				l.add(event{at: e.at(), code: i.Code, episode: id, detail: msg, guessed: true})
			}
			continue
		}
		if trace.MatchString(msg) || !about.MatchString(msg) {
			continue
		}
		plain := number.ReplaceAllString(msg, "")
		for _, p := range patterns {
			if p.is.MatchString(plain) {
				l.add(event{at: e.at(), code: p.code, episode: id, detail: msg, guessed: true})
				break
			}
		}
	}
}

// row judges the journal itself.
func (l log) row(u unit, since time.Duration) Finding {
	switch {
	case l.denied:
		who := "$USER"
		if x, err := user.Current(); err == nil {
			who = x.Username
		}
		return unknown("may not read the journal", l.err.Error(), "sudo usermod -aG systemd-journal "+quote(who)+", then log in anew; or: sudo cis490-doctor")
	case l.none:
		return unknown("there is no journal on this machine", l.err.Error(), "the daemons write to standard error where there is none")
	case l.err != nil:
		return unknown("the journal can't be read", l.err.Error(), "journalctl --verify")
	case l.nothing && u.says["LoadState"] == "not-found":
		return unknown("there is no unit "+l.unit+", so the journal has nothing of it", "", "cis490-doctor --only unit")
	case l.nothing && errors.Is(u.err, errNoSystemd):
		return unknown("the journal has nothing of "+l.unit, u.err.Error(), "the daemons write to standard error where they are no units")
	case l.nothing:
		return yellow("the journal has no entry of "+l.unit, "it never ran as a unit, or its entries are gone already", "systemctl status "+l.unit+"; journalctl --disk-usage")
	case !l.persistent:
		return yellow("the journal does not outlive a boot", "/var/log/journal is not there", "mkdir -p /var/log/journal && systemd-tmpfiles --create --prefix /var/log/journal && journalctl --flush; on NixOS: services.journald.storage = \"persistent\"")
	}
	return green("the journal can be read; last entry %s", ago(time.Now(), l.newest))
}

// settled is how long after a success what may pass is over.
const settled = time.Minute

// shippingRows judges what the last minutes brought: a row for each code that refused
// episodes or held the queue.
func shippingRows(l log, s state.Shipper, since time.Duration, now time.Time) (rows []Finding) {
	events, source := l.events, ""
	success := l.success
	if s.Success != nil && s.Success.At.After(success) {
		success = s.Success.At
	}
	open := s.Poll.LastSuccess
	if l.err != nil || l.nothing {
		// The state file has the last of each kind.
		source = "by the state file; the journal is not to be had"
		for _, p := range []*state.Code{s.Problem} {
			if p != nil && now.Sub(p.At) < since {
				events = append(events, event{at: p.At, code: p.Code, detail: p.Detail})
			}
		}
	}
	type class struct {
		n       int
		last    event
		guessed int
	}
	by := map[code.Code]*class{}
	counted := map[code.Code]map[string]bool{}
	for _, e := range events {
		if e.episode != "" {
			if at, ok := l.stored[e.episode]; ok && at.After(e.at) {
				continue
			}
			if e.code.Class() == code.OfEpisode {
				if counted[e.code][e.episode] {
					continue
				}
				if counted[e.code] == nil {
					counted[e.code] = map[string]bool{}
				}
				counted[e.code][e.episode] = true
			}
		}
		c := by[e.code]
		if c == nil {
			c = &class{}
			by[e.code] = c
		}
		c.n++
		if e.guessed {
			c.guessed++
		}
		if !e.at.Before(c.last.at) {
			c.last = e
		}
	}
	counts := map[code.Code]int{}
	for c, x := range by {
		counts[c] = x.n
	}
	for _, k := range sortedCodes(counts) {
		c := by[k]
		i := k.Info()
		if k.Class() == code.OfUpload || k == code.DigestMismatch {
			continue // dealt with at once, and told only for the record
		}
		evidence := c.last.detail
		if c.guessed > 0 {
			evidence = strings.TrimSpace(fmt.Sprintf("%s (%d by pattern: entries of an older version)", evidence, c.guessed))
		}
		many := ""
		if l.cut {
			many = "at least "
		}
		var f Finding
		if k.Class() == code.OfEpisode {
			f = red(fmt.Sprintf("%s%d ship(s) %s in the last %s", many, c.n, i.Title, minutes(since)), evidence, i.Fix)
			if k == code.OutOfWindow {
				f.Title = fmt.Sprintf("%s%d ship(s) rejected as %s in the last %s", many, c.n, k, minutes(since))
				f = f.after("window")
			}
			if source != "" {
				f.Title = fmt.Sprintf("ship(s) %s, the last %s", i.Title, ago(now, c.last.at))
			}
			// What somebody has dealt with since is not there any more.
			if s.Quarantine.ByCode[k] == 0 && !s.Quarantine.Counting && k != code.ReadFailed && k != code.AttemptDied {
				f = green("%d ship(s) %s in the last %s, and none is held for it any more", c.n, i.Title, minutes(since))
			} else if (k == code.ReadFailed || k == code.AttemptDied) && s.Queue.PostponedByCode[k] == 0 {
				f = green("%d ship(s) in trouble in the last %s: %s; none waits for it any more", c.n, minutes(since), k)
			}
			rows = append(rows, f.sub(string(k)))
			continue
		}
		title := fmt.Sprintf("%s%d time(s) in the last %s: %s, the last %s", many, c.n, minutes(since), i.Title, ago(now, c.last.at))
		over := success.After(c.last.at) || open != nil && open.After(c.last.at)
		held := s.Path.Held && s.Path.Code == k
		switch {
		case held || !over:
			f = red(title, evidence, i.Fix)
			if k.Class() == code.Transient && now.Sub(c.last.at) < state.HeldFor {
				f = yellow(title, evidence, i.Fix)
			}
		case now.Sub(c.last.at) < settled:
			f = yellow(title+"; it has passed", evidence, i.Fix)
		default:
			f = green("%s; it has passed", title)
		}
		rows = append(rows, f.sub(string(k)))
	}
	if len(rows) > 0 {
		slices.SortStableFunc(rows, func(a, b Finding) int { return severity(a) - severity(b) })
		return rows
	}
	quiet := "nothing was refused in the last " + minutes(since)
	switch {
	case !success.IsZero():
		quiet += ", last shipped " + ago(now, success)
	default:
		quiet += ", and nothing shipped"
	}
	if source != "" {
		quiet += " (" + source + ")"
	}
	return one(green("%s", quiet))
}

func severity(f Finding) int {
	return slices.Index([]string{"red", "yellow", "unknown", "green"}, string(f.Status))
}
