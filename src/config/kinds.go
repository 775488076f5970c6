package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"

	"cis490/src/episode"
	"cis490/src/identity"
)

// show writes a value as it stands in a file, shortened.
func show(v cty.Value) string {
	switch {
	case v.IsNull():
		return "null"
	case !v.IsKnown():
		return "unknown"
	case v.Type() == cty.String:
		s := v.AsString()
		if r := []rune(s); len(r) > 60 {
			s = string(r[:60]) + "…"
		}
		return strconv.Quote(s)
	case v.Type() == cty.Number:
		return v.AsBigFloat().Text('g', 20)
	case v.Type() == cty.Bool:
		return strconv.FormatBool(v.True())
	}
	if t := v.Type(); t.IsTupleType() || t.IsListType() || t.IsSetType() {
		return "a list"
	}
	return "an object"
}

func text(p *string, allowed string, check func(string) error) kind {
	return kind{allowed, func(v cty.Value) error {
		if v.Type() != cty.String || !v.IsKnown() {
			return fmt.Errorf("%s is not a string in double quotes", show(v))
		}
		s := v.AsString()
		if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
			return fmt.Errorf("%s has a control character in it", show(v))
		}
		if check != nil {
			if err := check(s); err != nil {
				return err
			}
		}
		*p = s
		return nil
	}, "", form{Type: "string"}}
}

// like gives k the form of strings that match pattern, an extended regular
// expression of POSIX, as a whole.
func (k kind) like(pattern string) kind {
	k.form.Pattern = pattern
	return k
}

func oneOf(p *string, names ...string) kind {
	k := text(p, strings.Join(quoted(names), ", "), func(s string) error {
		for _, n := range names {
			if s == n {
				return nil
			}
		}
		if near := closest(s, names); near != "" {
			return fmt.Errorf("%q is not known, did you mean %q?", s, near)
		}
		return fmt.Errorf("%q is not known", s)
	})
	k.form = form{Type: "enum", Values: names}
	return k
}

func quoted(names []string) []string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = strconv.Quote(n)
	}
	return q
}

// path accepts an absolute path; orNone also the empty string.
func path(p *string, orNone bool) kind {
	k := text(p, "an absolute path", func(s string) error {
		switch {
		case s == "" && orNone:
			return nil
		case s == "":
			return fmt.Errorf("it is empty")
		case !filepath.IsAbs(s):
			return fmt.Errorf("%q is relative: a service has no directory of its own to start from", s)
		case filepath.Clean(s) != s:
			return fmt.Errorf("%q is not in its shortest form, %q", s, filepath.Clean(s))
		case s == "/":
			return fmt.Errorf("%q is the root of the file system", s)
		}
		return nil
	})
	k.form.Type = "path"
	return k
}

func duration(p *time.Duration, min, max string) kind {
	lo, hi := mustDuration(min), mustDuration(max)
	return kind{fmt.Sprintf("a duration from %s to %s, in ms, s, m, h, d or w", min, max), func(v cty.Value) error {
		if v.Type() == cty.Number {
			return fmt.Errorf("%s has no unit; write it as \"%ss\" if seconds are meant", show(v), show(v))
		}
		if v.Type() != cty.String || !v.IsKnown() {
			return fmt.Errorf("%s is not a string with a number and a unit", show(v))
		}
		d, err := ParseDuration(v.AsString())
		if err != nil {
			return err
		}
		if d < lo {
			return fmt.Errorf("%s is too short", show(v))
		}
		if d > hi {
			return fmt.Errorf("%s is too long", show(v))
		}
		*p = d
		return nil
	}, min + " to " + max, form{Type: "string", Pattern: durationPattern}}
}

func mustDuration(s string) time.Duration {
	d, err := ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

func size[T ~int | ~int64](p *T, min, max Size) kind {
	return kind{fmt.Sprintf("a size from %s to %s, in B, KiB, MiB, GiB, TiB or kB, MB, GB, TB", min, max), func(v cty.Value) error {
		if v.Type() == cty.Number {
			return fmt.Errorf("%s has no unit; write it as \"%sB\" if bytes are meant", show(v), show(v))
		}
		if v.Type() != cty.String || !v.IsKnown() {
			return fmt.Errorf("%s is not a string with a number and a unit", show(v))
		}
		n, err := ParseSize(v.AsString())
		if err != nil {
			return err
		}
		if n < min {
			return fmt.Errorf("%s is too little", show(v))
		}
		if n > max {
			return fmt.Errorf("%s is too much", show(v))
		}
		*p = T(n)
		return nil
	}, fmt.Sprintf("%s to %s", min, max), form{Type: "string", Pattern: sizePattern}}
}

func integer[T int | int64](p *T, unit string, min, max T) kind {
	return kind{fmt.Sprintf("a whole number%s from %d to %d", unit, min, max), func(v cty.Value) error {
		if v.Type() != cty.Number || !v.IsKnown() {
			return fmt.Errorf("%s is not a number", show(v))
		}
		f := v.AsBigFloat()
		n, acc := f.Int64()
		if acc != 0 || T(n) < min || T(n) > max || int64(T(n)) != n {
			return fmt.Errorf("%s is not such a number", show(v))
		}
		*p = T(n)
		return nil
	}, fmt.Sprintf("%d to %d", min, max), form{Type: "integer", Min: int64(min), Max: int64(max)}}
}

// seconds is for attributes whose name ends in the unit, as systemd's do.
func seconds(p *time.Duration, min, max int) kind {
	n := 0
	k := integer(&n, " of seconds", min, max)
	set := k.set
	k.set = func(v cty.Value) error {
		if err := set(v); err != nil {
			return err
		}
		*p = time.Duration(n) * time.Second
		return nil
	}
	return k
}

func instant(p **time.Time) kind {
	return kind{`a time as RFC 3339 has it, with its zone: "2026-01-31T00:00:00Z"`, func(v cty.Value) error {
		if v.Type() != cty.String || !v.IsKnown() {
			return fmt.Errorf("%s is not a string in double quotes", show(v))
		}
		t, err := time.Parse(time.RFC3339, v.AsString())
		if err != nil {
			return fmt.Errorf("%s is not such a time", show(v))
		}
		*p = &t
		return nil
	}, "", form{Type: "string"}}
}

// listen accepts where a server listens; orNone also the empty string.
func listen(p *string, orNone bool) kind {
	allowed := `host:port or :port, the port a number, such as ":8490" or "127.0.0.1:9490"`
	if orNone {
		allowed += `, or "" for none`
	}
	return text(p, allowed, func(s string) error {
		if s == "" && orNone {
			return nil
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return fmt.Errorf("%q is not a host and a port", s)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return fmt.Errorf("%q is not a port number", port)
		}
		if host == "" {
			return nil
		}
		if _, err := netip.ParseAddr(host); err != nil && !dnsName.MatchString(host) {
			return fmt.Errorf("%q is neither an IP address nor a host name", host)
		}
		return nil
	})
}

var dnsName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// names accepts a list of DNS names and IP addresses.
func names(p *[]string) kind {
	return kind{`a list of DNS names and IP addresses, such as ["receiver.example.org", "192.0.2.7"]`, func(v cty.Value) error {
		if t := v.Type(); !v.IsKnown() || !(t.IsTupleType() || t.IsListType() || t.IsSetType()) {
			return fmt.Errorf("%s is not a list", show(v))
		}
		list := []string{}
		for it := v.ElementIterator(); it.Next(); {
			_, e := it.Element()
			if e.IsNull() || !e.IsKnown() || e.Type() != cty.String {
				return fmt.Errorf("%s in it is not a string", show(e))
			}
			s := e.AsString()
			if _, err := netip.ParseAddr(s); err != nil && (len(s) > 253 || !dnsName.MatchString(s)) {
				return fmt.Errorf("%s in it is neither a DNS name nor an IP address", show(e))
			}
			list = append(list, s)
		}
		if len(list) == 0 {
			return fmt.Errorf("the list is empty")
		}
		*p = list
		return nil
	}, "", form{Type: "strings"}}
}

func serverName(p *string) kind {
	return text(p, "a DNS name or an IP address", func(s string) error {
		if _, err := netip.ParseAddr(s); err == nil || s == "" || len(s) <= 253 && dnsName.MatchString(s) && s[0] != '*' {
			return nil
		}
		return fmt.Errorf("%q is neither", s)
	})
}

func receiverURL(p **url.URL) kind {
	const allowed = `https://host or https://host:port without a path; http:// only to this machine itself`
	var s string
	k := text(&s, allowed, nil)
	set := k.set
	k.set = func(v cty.Value) error {
		if err := set(v); err != nil {
			return err
		}
		u, err := url.Parse(s)
		if err != nil {
			return fmt.Errorf("%s is not a URL", show(v))
		}
		host := u.Hostname()
		if u.Scheme == "" || host == "" || u.Opaque != "" {
			return fmt.Errorf("%s has no scheme or no host", show(v))
		}
		if addr, err := netip.ParseAddr(host); err != nil {
			if len(host) > 253 || !dnsName.MatchString(host) || host[0] == '*' {
				return fmt.Errorf("%q in it is neither a DNS name nor an IP address", host)
			}
		} else if addr.Zone() != "" {
			return fmt.Errorf("%q in it has a zone", host)
		}
		switch u.Scheme {
		case "https":
		case "http":
			if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.IsLoopback()) {
				return fmt.Errorf("%s is not encrypted, and does not stay on this machine", show(v))
			}
		default:
			return fmt.Errorf("the scheme %q is not https", u.Scheme)
		}
		if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return fmt.Errorf("%q in it is not a port number", port)
			}
		}
		if u.User != nil {
			return fmt.Errorf("it has a user name in it: a host is known by its key")
		}
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
			return fmt.Errorf("%s has more in it than scheme, host and port", show(v))
		}
		u.Path, u.RawPath = "", ""
		*p = u
		return nil
	}
	return k
}

func key(p *string) kind {
	return text(p, `sha256: and 64 lower-case hexadecimal digits, as "cis490-shipper status" shows it on the host`, func(s string) error {
		switch {
		case identity.ValidKeyHash(s):
			return nil
		case identity.ValidKeyHash("sha256:" + strings.ToLower(s)):
			return fmt.Errorf("%q lacks its sha256: in front, or is not in lower case", s)
		case identity.ValidKeyHash(strings.ToLower(s)):
			return fmt.Errorf("%q is not in lower case", s)
		case strings.Contains(s, "PUBLIC KEY") || strings.Contains(s, "CERTIFICATE"):
			return fmt.Errorf("it is a key or a certificate itself, not its hash")
		}
		return fmt.Errorf("%q is not the hash of a key", s)
	}).like("sha256:[0-9a-f]{64}")
}

var groupName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

func group(p *string) kind {
	return text(p, "the name of a group", func(s string) error {
		if s != "" && !groupName.MatchString(s) {
			return fmt.Errorf("%q is not such a name", s)
		}
		return nil
	})
}

// hostAllowed is episode.ValidHost in words.
const (
	hostAllowed = "1 to 63 of the characters a to z, 0 to 9 and -"
	hostPattern = "[a-z0-9-]{1,63}"
)

func checkHost(s string) error {
	if episode.ValidHost(s) {
		return nil
	}
	if low := strings.ToLower(s); episode.ValidHost(low) {
		return fmt.Errorf("%q has capital letters; did you mean %q?", s, low)
	}
	if first, _, ok := strings.Cut(s, "."); ok && episode.ValidHost(first) {
		return fmt.Errorf("%q has a dot in it; did you mean %q?", s, first)
	}
	return fmt.Errorf("%q is not such a name", s)
}

func host(p *string) kind { return text(p, hostAllowed, checkHost).like(hostPattern) }
