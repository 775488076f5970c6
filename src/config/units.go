package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is an amount of bytes.
type Size int64

// sizeUnits are in the order in which String tries them.
var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"TB", 1e12}, {"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"kB", 1e3}, {"B", 1},
}

// String writes s so that ParseSize gives it back exactly: 64GiB, 500MB, 1025B.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// ParseSize reads a number and a unit: B, KiB, MiB, GiB and TiB (powers of
// 1024), kB, MB, GB and TB (powers of 1000). A space may stand between the two.
func ParseSize(s string) (Size, error) {
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		return 0, fmt.Errorf("%q has no unit", s)
	}
	if i == 0 {
		return 0, fmt.Errorf("%q does not begin with a number", s)
	}
	number, unit := s[:i], strings.TrimLeft(s[i:], " ")
	for _, u := range sizeUnits {
		if u.name != unit {
			continue
		}
		if n, err := strconv.ParseInt(number, 10, 64); err == nil {
			if n > math.MaxInt64/u.bytes {
				return 0, fmt.Errorf("%q is too much", s)
			}
			return Size(n * u.bytes), nil
		}
		f, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsInf(f, 0) {
			return 0, fmt.Errorf("%q does not begin with a number", s)
		}
		if f *= float64(u.bytes); f >= math.MaxInt64 {
			return 0, fmt.Errorf("%q is too much", s)
		}
		return Size(math.Round(f)), nil
	}
	if unit == "K" || unit == "KB" || unit == "k" {
		return 0, fmt.Errorf("the unit %q can mean 1000 or 1024: write kB or KiB", unit)
	}
	return 0, fmt.Errorf("%q is not a unit of sizes", unit)
}

// FormatDuration writes d so that ParseDuration gives it back exactly, in weeks
// and days where it is whole ones: 2w, 30d, 36h, 1m30s.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "0s"
	case d > 0 && d%(7*day) == 0:
		return strconv.FormatInt(int64(d/(7*day)), 10) + "w"
	case d > 0 && d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// ParseDuration reads what time.ParseDuration does, and weeks (w, seven days)
// and days (d, 24 hours): 1w, 30d, 1d12h, 1.5h, 90s, 250ms. There are no
// negative ones.
func ParseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if s == "" {
		return 0, fmt.Errorf("%q is not a duration", s)
	}
	var sum time.Duration
	for rest := s; rest != ""; {
		i := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if i < 0 {
			return 0, fmt.Errorf("%q has no unit", s)
		}
		if i == 0 {
			return 0, fmt.Errorf("%q is not a duration", s)
		}
		j := strings.IndexFunc(rest[i:], func(r rune) bool { return (r >= '0' && r <= '9') || r == '.' })
		if j < 0 {
			j = len(rest) - i
		}
		number, unit := rest[:i], rest[i:i+j]
		rest = rest[i+j:]
		var d time.Duration
		if days := map[string]int64{"d": 1, "w": 7}[unit]; days > 0 {
			h, err := time.ParseDuration(number + "h")
			if err != nil {
				return 0, fmt.Errorf("%q is not a duration", s)
			}
			if int64(h) > math.MaxInt64/(24*days) {
				return 0, fmt.Errorf("%q is too long", s)
			}
			d = h * time.Duration(24*days)
		} else {
			var err error
			if d, err = time.ParseDuration(number + unit); err != nil {
				if strings.Contains(err.Error(), "unknown unit") {
					return 0, fmt.Errorf("%q is not a unit of durations", unit)
				}
				return 0, fmt.Errorf("%q is not a duration, or is too long", s)
			}
		}
		if sum += d; sum < 0 {
			return 0, fmt.Errorf("%q is too long", s)
		}
	}
	return sum, nil
}
