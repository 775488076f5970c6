package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the machine need not have it

	"pgregory.net/rapid"
)

func TestRates(t *testing.T) {
	for in, want := range map[string]string{
		"unlimited": "unlimited", "off": "off", "20MB/s": "20MB/s", "20 MB/s": "20MB/s", "10kB/s": "10kB/s", "1.5MiB/s": "1536KiB/s",
		"0": "does not end in /s", "0B/s": `write "off" or "unlimited"`, "20MB": "does not end in /s", "100Mbit/s": "in bits", "100 Mbps": "in bits",
		"9kB/s": "too slow", "2TiB/s": "too much", "Off": "does not end in /s", "": "does not end in /s", "-5MB/s": "does not begin with a number",
	} {
		r, err := ParseRate(in)
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", in, err, want)
			}
		} else if r.String() != want {
			t.Errorf("%q is %s, want %s", in, r, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		r := Rate(rapid.Int64Range(int64(minRate), int64(maxRate)).Draw(t, "rate"))
		if got, err := ParseRate(r.String()); err != nil || got != r {
			t.Fatalf("%s: %v, %v", r, got, err)
		}
	})
}

func limitOf(t *testing.T, src string) RateLimit {
	t.Helper()
	c, err := ParseLabHost("lab-host.hcl", []byte("receiver { url = \"https://h\" }\nshipper {\n"+src+"\n}"), atLab)
	if err != nil {
		t.Fatal(err)
	}
	return c.Shipper.RateLimit
}

const office = `
rate_limit = "20MB/s"
rate_window "office" {
  days       = ["mon-fri"]
  from       = "08:00"
  to         = "18:00"
  rate_limit = "2MB/s"
}
rate_window "backup" {
  days       = ["sat", "sun-mon"]
  from       = "23:00"
  to         = "01:30"
  rate_limit = "off"
}
rate_window "holiday" {
  days       = ["fri"]
  rate_limit = "unlimited"
}
`

func TestRateWindows(t *testing.T) {
	l := limitOf(t, office)
	for at, want := range map[string]string{
		"Mon 07:59": "20MB/s until Mon 08:00", "Mon 08:00": "2MB/s until Mon 18:00", "Mon 17:59": "2MB/s until Mon 18:00", "Mon 18:00": "20MB/s until Mon 23:00",
		"Mon 00:10": "off until Mon 01:30", "Tue 01:29": "off until Tue 01:30", "Wed 00:10": "20MB/s until Wed 08:00",
		// The lowest of two counts, and a window outweighs the default.
		"Fri 12:00": "2MB/s until Fri 18:00", "Fri 20:00": "unlimited until Sat 00:00", "Sat 00:00": "20MB/s until Sat 23:00", "Sun 00:30": "off until Sun 01:30",
	} {
		now, err := time.Parse("Mon 15:04 2006-01-02", at+" 2026-03-02")
		if err != nil {
			t.Fatal(err)
		}
		for now.Format("Mon") != at[:3] {
			now = now.AddDate(0, 0, 1)
		}
		r, _ := l.At(now.Add(59 * time.Second))
		if got := fmt.Sprintf("%s until %s", r, l.Next(now).Format("Mon 15:04")); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
	if l := limitOf(t, ""); !l.Next(time.Now()).IsZero() {
		t.Error("a limit from nowhere")
	}
	all := limitOf(t, "rate_window \"all\" {\n rate_limit = \"1MB/s\"\n}")
	if r, w := all.At(time.Now()); r != 1e6 || w != "all" || !all.Next(time.Now()).IsZero() {
		t.Error(r, w, all.Next(time.Now()))
	}
}

// Windows go by the clock on the wall, whatever it does in between.
func TestRateWindowsWhenClocksChange(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	night := limitOf(t, `rate_window "night" {
  from = "22:00"
  to = "06:00"
  rate_limit = "off"
}`)
	early := limitOf(t, `rate_window "early" {
  from = "02:15"
  to = "02:45"
  rate_limit = "off"
}`)
	for _, c := range []struct {
		l       RateLimit
		from    time.Time
		changes []string // with how long the limit before held
	}{
		// Spring: the night of eight hours has seven.
		{night, time.Date(2026, 3, 28, 21, 0, 0, 0, berlin), []string{"28 22:00 1h0m0s", "29 06:00 7h0m0s", "29 22:00 16h0m0s"}},
		// Autumn: nine.
		{night, time.Date(2026, 10, 24, 21, 0, 0, 0, berlin), []string{"24 22:00 1h0m0s", "25 06:00 9h0m0s"}},
		// A time that there is not that night, and one that there is twice.
		{early, time.Date(2026, 3, 29, 0, 0, 0, 0, berlin), []string{"30 02:15 25h15m0s"}},
		{early, time.Date(2026, 10, 25, 0, 0, 0, 0, berlin), []string{"25 02:15 2h15m0s", "25 02:45 30m0s", "25 02:15 30m0s", "25 02:45 30m0s", "26 02:15 23h30m0s"}},
	} {
		at := c.from
		for _, want := range c.changes {
			next := c.l.Next(at)
			if got := next.Format("02 15:04 ") + next.Sub(at).String(); got != want {
				t.Errorf("after %s: %s, want %s", at, got, want)
			}
			at = next
		}
	}
}

func TestBadRates(t *testing.T) {
	for src, want := range map[string]string{
		`rate_limit = 20`:                                 `"20B/s" if bytes per second are meant`,
		`rate_limit = "20 MB"`:                            "does not end in /s",
		`rate_limit = "0B/s"`:                             `write "off" or "unlimited"`,
		"rate_window \"a\" {\n}":                          "Missing rate_limit",
		"rate_window {\n}":                                "Each rate_window block has a name",
		w(`days = ["monday"]`):                            `did you mean "mon"?`,
		w(`days = ["mon-"]`):                              `"" is not a day`,
		w(`days = []`):                                    "The list is empty",
		w(`days = "mon"`):                                 "is not a list",
		w(`from = "8:00"`):                                `"8:00" is not a time of day`,
		w(`to = "24:01"`):                                 "is not a time of day",
		w(`from = "24:00"`):                               "Empty rate_window",
		w("from = \"08:00\"\nto = \"08:00\""):             "Leave both out for the whole day",
		w(`rate = "1MB/s"`):                               "Did you mean rate_limit?",
		"rate_window \"a b\" {\n rate_limit = \"off\"\n}": "Invalid name of rate_window",
		w("") + "\n" + w(""):                              "Second rate_window",
	} {
		err := loadString(t, "lab-host.hcl", "receiver { url = \"https://h\" }\nshipper {\n"+src+"\n}")
		wantErrors(t, err, want, "lab-host.hcl line")
	}
	var warned string
	src := "receiver { url = \"https://h\" }\nshipper {\n rate_limit = \"off\"\n}"
	if err := loadString(t, "lab-host.hcl", src, Warn(func(s string) { warned += s })); err != nil || !strings.Contains(warned, "Nothing is ever uploaded") {
		t.Error(err, warned)
	}
}

func w(attr string) string { return "rate_window \"a\" {\n rate_limit = \"1MB/s\"\n" + attr + "\n}" }
