package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// Rate is a number of bytes per second, or one of the two below.
type Rate int64

const (
	// RateUnlimited is no limit.
	RateUnlimited Rate = 0
	// RateOff is nothing at all.
	RateOff Rate = -1
)

// The bounds of a limit. Below the lower one, what TLS sends at once takes longer
// than a receiver waits for a sign of life.
const (
	minRate Size = 10_000
	maxRate Size = 1 << 40
)

// String writes r so that ParseRate gives it back exactly.
func (r Rate) String() string {
	switch r {
	case RateUnlimited:
		return "unlimited"
	case RateOff:
		return "off"
	}
	return Size(r).String() + "/s"
}

// ParseRate reads a size per second, or "unlimited" or "off".
func ParseRate(s string) (Rate, error) {
	switch s {
	case "unlimited":
		return RateUnlimited, nil
	case "off":
		return RateOff, nil
	}
	amount, ok := strings.CutSuffix(s, "/s")
	if !ok {
		for _, bits := range []string{"bit/s", "bps", "bits/s", "bit"} {
			if strings.HasSuffix(s, bits) {
				return 0, fmt.Errorf("%q is in bits: write bytes per second, an eighth of that", s)
			}
		}
		return 0, fmt.Errorf("%q does not end in /s", s)
	}
	n, err := ParseSize(amount)
	switch {
	case err != nil && strings.Contains(amount, "bit"):
		return 0, fmt.Errorf("%q is in bits: write bytes per second, an eighth of that", s)
	case err != nil:
		return 0, err
	case n == 0:
		return 0, fmt.Errorf(`%q can mean none or any: write "off" or "unlimited"`, s)
	case n < minRate:
		return 0, fmt.Errorf("%q is too slow", s)
	case n > maxRate:
		return 0, fmt.Errorf("%q is too much", s)
	}
	return Rate(n), nil
}

// less orders rates from off to unlimited.
func (r Rate) less(than Rate) bool {
	switch {
	case r == than, r == RateUnlimited:
		return false
	case than == RateUnlimited:
		return true
	}
	return r < than
}

// Weekdays is a set of days, bit time.Weekday.
type Weekdays uint8

const everyDay Weekdays = 1<<7 - 1

func (w Weekdays) has(d time.Weekday) bool { return w&(1<<d) != 0 }

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseDays reads a day, or a range of days that may go past Saturday.
func parseDays(s string) (w Weekdays, err error) {
	day := func(name string) (int, error) {
		for i, n := range dayNames {
			if n == name {
				return i, nil
			}
		}
		for i, n := range dayNames {
			if len(name) > 3 && strings.HasPrefix(strings.ToLower(name), n) || strings.EqualFold(name, n) {
				return i, fmt.Errorf("%q is not a day; did you mean %q?", name, n)
			}
		}
		return 0, fmt.Errorf("%q is not a day", name)
	}
	first, last, isRange := strings.Cut(s, "-")
	from, err := day(first)
	if err != nil {
		return 0, err
	}
	to := from
	if isRange {
		if to, err = day(last); err != nil {
			return 0, err
		}
	}
	for d := from; ; d = (d + 1) % 7 {
		w |= 1 << d
		if d == to {
			return w, nil
		}
	}
}

// TimeOfDay is minutes since midnight by the clock on the wall.
type TimeOfDay int

// String is HH:MM.
func (t TimeOfDay) String() string { return fmt.Sprintf("%02d:%02d", t/60, t%60) }

func parseTimeOfDay(s string) (TimeOfDay, error) {
	h, m, ok := strings.Cut(s, ":")
	hours, err1 := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err1 != nil || err2 != nil || len(h) != 2 || len(m) != 2 || minutes > 59 || hours > 24 || hours == 24 && minutes > 0 {
		return 0, fmt.Errorf("%q is not a time of day", s)
	}
	return TimeOfDay(hours*60 + minutes), nil
}

// RateWindow is a rate_window block: another limit at some times of the week.
type RateWindow struct {
	Name     string
	Days     Weekdays // on which it begins
	From, To TimeOfDay
	Rate     Rate
}

// covers says whether the window is open at t, by the clock and the calendar of
// t's location. A window that ends before it begins goes on past midnight.
func (w *RateWindow) covers(t time.Time) bool {
	day, now := t.Weekday(), TimeOfDay(t.Hour()*60+t.Minute())
	if w.From < w.To {
		return w.Days.has(day) && w.From <= now && now < w.To
	}
	return w.Days.has(day) && now >= w.From || w.Days.has((day+6)%7) && now < w.To
}

// RateLimit is how fast uploads may go, and when.
type RateLimit struct {
	Default Rate          // outside of all windows
	Windows []*RateWindow // the lowest of those that are open counts
}

// At is the limit at t, and the name of the window that it comes from, "" for
// the default.
func (l RateLimit) At(t time.Time) (r Rate, window string) {
	open := false
	r = l.Default
	for _, w := range l.Windows {
		if w.covers(t) && (!open || w.Rate.less(r)) {
			r, window, open = w.Rate, w.Name, true
		}
	}
	return r, window
}

// Next is the beginning of the first minute after t in which another limit holds
// than at t, the zero time if that is not within eight days. It goes through the
// minutes: what the clocks do in between is then nothing special.
func (l RateLimit) Next(t time.Time) time.Time {
	if len(l.Windows) == 0 {
		return time.Time{}
	}
	r, window := l.At(t)
	for m, end := t.Truncate(time.Minute).Add(time.Minute), t.Add(8*24*time.Hour); m.Before(end); m = m.Add(time.Minute) {
		if r2, w2 := l.At(m); r2 != r || w2 != window {
			return m
		}
	}
	return time.Time{}
}

func rate(p *Rate) kind {
	k := text(nil, fmt.Sprintf(`bytes per second from %s/s to %s/s, such as "20MB/s", or "unlimited", or "off"`, minRate, maxRate), nil)
	k.form.Pattern = sizePattern + "/s|unlimited|off"
	k.bounds = fmt.Sprintf(`%s/s to %s/s, "unlimited", or "off" for none at all`, minRate, maxRate)
	k.set = func(v cty.Value) error {
		if v.Type() == cty.Number {
			return fmt.Errorf("%s has no unit; write it as \"%sB/s\" if bytes per second are meant", show(v), show(v))
		}
		var s string
		if err := text(&s, "", nil).set(v); err != nil {
			return err
		}
		r, err := ParseRate(s)
		if err == nil {
			*p = r
		}
		return err
	}
	return k
}

func timeOfDay(p *TimeOfDay) kind {
	return kind{`a time of day from "00:00" to "24:00"`, func(v cty.Value) error {
		var s string
		if err := text(&s, "", nil).set(v); err != nil {
			return err
		}
		t, err := parseTimeOfDay(s)
		if err == nil {
			*p = t
		}
		return err
	}, "", form{Type: "string", Pattern: "([01][0-9]|2[0-3]):[0-5][0-9]|24:00"}}
}

func weekdays(p *Weekdays) kind {
	return kind{`a list of days "mon", "tue", "wed", "thu", "fri", "sat", "sun" and ranges such as "mon-fri"`, func(v cty.Value) error {
		if t := v.Type(); !v.IsKnown() || !(t.IsTupleType() || t.IsListType() || t.IsSetType()) {
			return fmt.Errorf("%s is not a list", show(v))
		}
		var all Weekdays
		for it := v.ElementIterator(); it.Next(); {
			_, e := it.Element()
			if e.IsNull() || !e.IsKnown() || e.Type() != cty.String {
				return fmt.Errorf("%s in it is not a string", show(e))
			}
			w, err := parseDays(e.AsString())
			if err != nil {
				return err
			}
			all |= w
		}
		if all == 0 {
			return fmt.Errorf("the list is empty")
		}
		*p = all
		return nil
	}, "", form{Type: "strings"}}
}

func rateWindowAttrs(w *RateWindow) []attr {
	return []attr{
		{name: "days", kind: weekdays(&w.Days), defWords: "every day", example: `["mon-fri"]`,
			doc: "Days on which the window begins."},
		{name: "from", kind: timeOfDay(&w.From), def: `"00:00"`, example: `"08:00"`,
			doc: "When it begins, by this machine's local time."},
		{name: "to", kind: timeOfDay(&w.To), def: `"24:00"`, example: `"18:00"`,
			doc: "When it ends. A time before from is one on the next day."},
		{name: "rate_limit", kind: rate(&w.Rate), required: true, example: `"2MB/s"`,
			doc: "What holds then instead of the rate_limit outside."},
	}
}

func checkRates(l *RateLimit, d *decoder) {
	path := "shipper.rate_window"
	for _, w := range l.Windows {
		p := join(path, w.Name)
		if w.Days == 0 {
			w.Days = everyDay
		}
		if d.good(p+".from", p+".to") && (w.From == w.To || w.From == 24*60) {
			at := p + ".from"
			if !d.given(at) {
				at = p + ".to"
			}
			d.fail("Empty rate_window", fmt.Sprintf("It begins at %s and ends at %s. Leave both out for the whole day; a window past midnight has a from later than its to.", w.From, w.To), at)
		}
	}
	if len(l.Windows) == 0 && l.Default == RateOff && d.good("shipper.rate_limit", path) {
		d.warn("Nothing is ever uploaded", `rate_limit is "off", and there is no rate_window in which it is anything else.`, "shipper.rate_limit")
	}
}
