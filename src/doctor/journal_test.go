package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/health"
	"cis490/src/state"
)

// line is an entry as journalctl writes it.
func entryLine(ago time.Duration, fields map[string]any) string {
	fields["__REALTIME_TIMESTAMP"] = fmt.Sprint(noon.Add(-ago).UnixMicro())
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return string(b) + "\n"
}

func coded(ago time.Duration, c code.Code, episode string) string {
	return entryLine(ago, map[string]any{"MESSAGE": "quarantined: " + c.Info().Title, "CIS490_CODE": string(c), "CIS490_EPISODE": episode, "CIS490_DETAIL": "because"})
}

func plain(ago time.Duration, msg string) string {
	return entryLine(ago, map[string]any{"MESSAGE": msg})
}

// journalOf is what these entries are to the doctor.
func journalOf(structured, older string) log {
	l := log{unit: state.ShipperUnit, persistent: true, newest: noon, stored: map[string]time.Time{}}
	l.see(entries([]byte(structured)))
	l.guess(entries([]byte(older)))
	return l
}

const window = 10 * time.Minute

// rowsBy are rows by their ids below the check.
func rowsBy(rows []Finding) map[string]Finding {
	m := map[string]Finding{}
	for _, r := range rows {
		m[r.Sub] = r
	}
	return m
}

// holding is a state with episodes in quarantine, as refusals leave them.
func holding(codes ...code.Code) state.Shipper {
	return shipping(func(s *state.Shipper) {
		s.Quarantine.ByCode = map[code.Code]int{}
		for _, c := range codes {
			s.Quarantine.ByCode[c] = 1
		}
	})
}

// The cases that it began with.
func TestTwelveShipsRejectedAsOutOfWindow(t *testing.T) {
	var b strings.Builder
	for i := range 12 {
		b.WriteString(coded(time.Duration(i)*time.Second, code.OutOfWindow, fmt.Sprintf("episode-%d", i)))
	}
	rows := shippingRows(journalOf(b.String(), ""), holding(code.OutOfWindow), window, noon)
	if len(rows) != 1 || rows[0].Status != health.Red || rows[0].Title != "12 ship(s) rejected as out-of-window in the last 10 min" || !strings.Contains(rows[0].Fix, "timedatectl set-ntp true") ||
		!strings.Contains(rows[0].Fix, "services.cis490.receiver.settings.window") {
		t.Errorf("%+v", rows)
	}
}

func TestShippingRows(t *testing.T) {
	both := coded(2*time.Minute, code.Malformed, "a") + coded(3*time.Minute, code.OutOfWindow, "b") + coded(4*time.Minute, code.Unreachable, "")
	rows := shippingRows(journalOf(both, ""), holding(code.Malformed, code.OutOfWindow), window, noon)
	if len(rows) != 3 || rows[0].Sub != "out-of-window" || rows[1].Sub != "malformed" || rows[2].Sub != "unreachable" {
		t.Errorf("412 is not before 400, and that before what passes: %+v", rows)
	}
	success := func(s *state.Shipper, ago time.Duration) state.Shipper {
		s.Success = &state.Success{At: noon.Add(-ago)}
		return *s
	}
	none := shipping(nil)
	judge(t, []row{
		{"clean", shippingRows(journalOf(coded(time.Minute, code.Stored, "a"), ""), none, window, noon), health.Green, `nothing was refused.*last shipped 1 min ago`},
		{"empty", shippingRows(journalOf("", ""), none, window, noon), health.Green, `nothing shipped`},
		{"400", shippingRows(journalOf(coded(time.Minute, code.Malformed, "a"), ""), holding(code.Malformed), window, noon), health.Red, `1 ship\(s\) rejected as malformed in the last 10 min \| because \| cis490-episode verify`},
		{"refused, and stored since", shippingRows(journalOf(coded(5*time.Minute, code.OutOfWindow, "a")+coded(time.Minute, code.Stored, "a"), ""), holding(code.OutOfWindow), window, noon), health.Green, `nothing was refused`},
		{"refused, and taken away since", shippingRows(journalOf(coded(5*time.Minute, code.Malformed, "a"), ""), none, window, noon), health.Green, `none is held for it any more`},
		{"the same one three times", shippingRows(journalOf(strings.Repeat(coded(time.Minute, code.Malformed, "a"), 3), ""), holding(code.Malformed), window, noon), health.Red, `^1 ship`},
		{"transient, no success since", shippingRows(journalOf(coded(5*time.Minute, code.TimedOut, ""), ""), none, window, noon), health.Red, `1 time\(s\) in the last 10 min: no answer in time, the last 5 min ago`},
		{"transient, just now", shippingRows(journalOf(coded(5*time.Second, code.TimedOut, ""), ""), none, window, noon), health.Yellow, `no answer in time`},
		{"transient, success just now", shippingRows(journalOf(coded(40*time.Second, code.TimedOut, "")+coded(5*time.Second, code.Stored, "z"), ""), none, window, noon), health.Yellow, `it has passed`},
		{"transient, over", shippingRows(journalOf(coded(5*time.Minute, code.TimedOut, "")+coded(4*time.Minute, code.Stored, "z"), ""), none, window, noon), health.Green, `it has passed`},
		{"transient, over by the state file's success", shippingRows(journalOf(coded(5*time.Minute, code.TimedOut, ""), ""), success(&none, time.Minute), window, noon), health.Green, `it has passed`},
		{"unmarked", shippingRows(journalOf(coded(5*time.Minute, code.Unmarked4xx, ""), ""), shipping(nil), window, noon), health.Red, `refused, but not by the receiver.*pass /v1/`},
		{"offsets are dealt with at once", shippingRows(journalOf(coded(5*time.Minute, code.OffsetMismatch, "a"), ""), shipping(nil), window, noon), health.Green, ``},
		{"denied, by the state file", shippingRows(log{denied: true, err: errors.New("x")}, func() state.Shipper {
			s := holding(code.OutOfWindow)
			s.Problem = &state.Code{Code: code.OutOfWindow, At: noon.Add(-time.Minute), Detail: "ended 2020"}
			return s
		}(), window, noon), health.Red, `ship\(s\) rejected as out-of-window, the last 1 min ago \| ended 2020`},
		{"denied, and nothing known", shippingRows(log{denied: true, err: errors.New("x")}, shipping(nil), window, noon), health.Green, `by the state file`},
		{"denied, long ago", shippingRows(log{denied: true, err: errors.New("x")}, shipping(func(s *state.Shipper) {
			s.Problem = &state.Code{Code: code.OutOfWindow, At: noon.Add(-time.Hour)}
		}), window, noon), health.Green, ``},
	})
	cut := journalOf(coded(time.Minute, code.Malformed, "a"), "")
	cut.cut = true
	if f := shippingRows(cut, holding(code.Malformed), window, noon)[0]; !strings.HasPrefix(f.Title, "at least 1 ship") {
		t.Errorf("%+v", f)
	}
}

// Entries of a version before there were fields, and lines of a daemon whose entries could not go to the journal's socket.
func TestEntriesWithoutFields(t *testing.T) {
	const episode = "01a2271c-5b22-7ded-a293-6e0c56c371fb"
	for text, want := range map[string]code.Code{
		"upload of " + episode + " failed: HTTP 412 Precondition Failed": code.OutOfWindow,
		"POST https://r:8490/v1/episodes: 412":                           code.OutOfWindow,
		"rejected as out-of-window":                                      code.OutOfWindow,
		"server returned 400 Bad Request for " + episode:                 code.Malformed,
		"server returned 503, retrying":                                  code.ReceiverError,
		"dial tcp 192.0.2.1:8490: connect: connection refused":           code.Unreachable,
		"request timed out":                                              code.TimedOut,
		"context deadline exceeded":                                      code.TimedOut,
		"lookup receiver.example.org: no such host":                      code.DNSFailed,
		"read: connection reset by peer":                                 code.Cut,
		"server returned 403":                                            code.Unmarked4xx,
		`quarantined: rejected as too large host=lab-01 code=too-large episode=` + episode + ` status=413`: code.TooLarge,
		`queue held: receiver busy host=lab-01 code=receiver-busy queued=412`:                              code.ReceiverBusy,
	} {
		l := journalOf("", plain(time.Minute, text))
		if len(l.events) != 1 || l.events[0].code != want || !l.events[0].guessed {
			t.Errorf("%q: %+v, want %s", text, l.events, want)
		}
	}
	for _, text := range []string{
		"shipping host=lab-01 upload_workers=8", "queue moves again held=412s", "removed from quarantine age=400h", "412 MiB free", "at 2026-04-12T05:00:12Z all was well",
		"started " + strings.Replace(episode, "7ded", "7412", 1), "listening on 127.0.0.1:412", "took 500 ms",
		"crypto/tls/conn.go:588", "\truntime/proc.go:462 +0xce fp=0x24ec7d8e4d88 sp=0x24ec7d8e4d68 pc=0x489a6e", "goroutine 412 [IO wait, 5 minutes]:", "net/http.(*Server).Serve(0x400, 0x503)",
		"r12     0x412", "SIGABRT: abort", "code 500 of something else",
	} {
		if l := journalOf("", plain(time.Minute, text)); len(l.events) != 0 {
			t.Errorf("%q is taken for %+v", text, l.events)
		}
	}
	l := journalOf("", plain(time.Minute, "upload of "+episode+" failed: 412"))
	f := rowsBy(shippingRows(l, holding(code.OutOfWindow), window, noon))["out-of-window"]
	if f.Status != health.Red || !strings.Contains(f.Evidence, "by pattern") {
		t.Errorf("%+v", f)
	}
	// With a field the pattern is not asked.
	l = log{stored: map[string]time.Time{}}
	l.guess(entries([]byte(coded(time.Minute, code.Stored, "x"))))
	if len(l.events) != 0 || !l.success.IsZero() {
		t.Errorf("%+v", l)
	}
}

// journalctl's JSON has fields that are no strings.
func TestFieldsOfTheJournal(t *testing.T) {
	got := entries([]byte(`{"__REALTIME_TIMESTAMP":"1784548800000000","MESSAGE":[104,105,255],"CIS490_CODE":["conflict","other"],"CIS490_DETAIL":null}
{"__REALTIME_TIMESTAMP":"1784548800000001","CIS490_CODE":"stored"}
{"__REALTIME_TIM`))
	if len(got) != 2 || got[0].Message.String() != "hi\xff" || got[0].Code.String() != "conflict" || got[0].Detail.String() != "" || !got[0].at().Equal(noon) {
		t.Errorf("%+v", got)
	}
}

func TestJournalRow(t *testing.T) {
	u := unit{says: map[string]string{"LoadState": "loaded"}}
	of := func(l log, u unit) []Finding { l.unit = state.ShipperUnit; return one(l.row(u, window)) }
	judge(t, []row{
		{"well", of(log{persistent: true, newest: time.Now()}, u), health.Green, `last entry 0 s ago`},
		{"denied", of(log{denied: true, err: errors.New("No journal files were opened due to insufficient permissions.")}, u), health.Unknown, `insufficient permissions.*usermod -aG systemd-journal`},
		{"none", of(log{none: true, err: errors.New("x")}, u), health.Unknown, `no journal on this machine`},
		{"failed", of(log{err: errors.New("bad message")}, u), health.Unknown, `bad message.*--verify`},
		{"no such unit", of(log{nothing: true}, unit{says: map[string]string{"LoadState": "not-found"}}), health.Unknown, `no unit cis490-shipper`},
		{"empty", of(log{nothing: true}, u), health.Yellow, `no entry of cis490-shipper`},
		{"empty, and no systemd", of(log{nothing: true}, unit{err: errNoSystemd}), health.Unknown, ``},
		{"not persistent", of(log{newest: noon}, u), health.Yellow, `does not outlive a boot.*mkdir -p /var/log/journal`},
	})
	for text, want := range map[string]bool{
		"No journal files were opened due to insufficient permissions.": true,
		"Hint: You are currently not seeing messages from other users and the system.\n      Users in groups 'adm', 'systemd-journal' can see all messages. Pass -q to turn off this notice.": true,
		"": false, "-- No entries --": false,
	} {
		if isDenied(text) != want {
			t.Errorf("%q: denied %v", text, !want)
		}
	}
}
