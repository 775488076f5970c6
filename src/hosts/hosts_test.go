package hosts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cis490/src/code"
	"cis490/src/config"
)

func key(b byte) Key {
	var k Key
	for i := range k {
		k[i] = b
	}
	return k
}

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, path string, declared ...config.Host) *Registry {
	t.Helper()
	r, err := Open(path, declared)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLookup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts.json")
	declared := config.Host{Name: "lab-1", Key: key(1).String()}
	r := open(t, path, declared)
	if err := r.Allow("lab-2", key(2), noon); err != nil {
		t.Fatal(err)
	}
	check := func(k Key, name string, want code.Code) {
		t.Helper()
		got, err := r.Lookup(k)
		c, _ := code.Of(err)
		if got != name || c != want {
			t.Errorf("Lookup(%s) = %q, %v; want %q, %s", k, got, err, name, want)
		}
	}
	check(key(1), "lab-1", "")
	check(key(2), "lab-2", "")
	check(key(3), "", code.HostUnknown)

	for _, name := range []string{"lab-1", "lab-2"} {
		if n, err := r.Revoke(name, noon); n != 1 || err != nil {
			t.Fatalf("Revoke(%s) = %d, %v", name, n, err)
		}
	}
	check(key(1), "lab-1", code.HostRevoked)
	check(key(2), "lab-2", code.HostRevoked)

	// A restart forgets nothing, and the declaration does not undo the revocation.
	r = open(t, path, declared)
	check(key(1), "lab-1", code.HostRevoked)
	check(key(2), "lab-2", code.HostRevoked)

	if err := r.Allow("lab-1", key(1), noon); err != nil {
		t.Fatal(err)
	}
	check(key(1), "lab-1", "")
	want := []Host{
		{Name: "lab-1", Key: key(1), Source: Declared, At: noon},
		{Name: "lab-2", Key: key(2), Source: Allowed, Revoked: true, At: noon},
	}
	if d := cmp.Diff(want, r.List()); d != "" {
		t.Error(d)
	}

	// Reload without the declaration: what the operator allowed stays, the rest goes.
	if err := r.Declare(nil); err != nil {
		t.Fatal(err)
	}
	check(key(1), "lab-1", "") // the operator's own word
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	r := open(t, filepath.Join(dir, "hosts.json"), config.Host{Name: "lab-1", Key: key(1).String()})
	for what, err := range map[string]error{
		"another host's key": r.Allow("lab-2", key(1), noon),
		"bad name":           r.Allow("Lab 2", key(2), noon),
		"bad declared key":   r.Declare([]config.Host{{Name: "a", Key: "sha256:00"}}),
		"bad declared name":  r.Declare([]config.Host{{Name: "A", Key: key(1).String()}}),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := r.Revoke("lab-9", noon); err == nil || !strings.Contains(err.Error(), "hosts list") {
		t.Errorf("Revoke of an unknown host: %v; want the next command in it", err)
	}
	if _, err := r.Revoke("../x", noon); err == nil {
		t.Error("Revoke of a bad name: no error")
	}
	if name, err := r.Lookup(key(1)); name != "lab-1" || err != nil {
		t.Errorf("after refused changes: %q, %v", name, err)
	}
	for what, content := range map[string]string{
		"damaged":    `{"schema":1,`,
		"new schema": `{"schema":2}`,
		"bad name":   `{"schema":1,"keys":[{"name":"../x","key":"` + key(1).String() + `"}]}`,
		"bad key":    `{"schema":1,"keys":[{"name":"x","key":"sha256:1"}]}`,
	} {
		path := filepath.Join(dir, "bad.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, nil); err == nil {
			t.Errorf("%s registry file was taken", what)
		}
	}
}

func TestKeyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k Key
		copy(k[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		if got, err := ParseKey(k.String()); err != nil || got != k {
			t.Fatalf("%v, %v", got, err)
		}
	})
	for _, s := range []string{"", "sha256:", strings.ToUpper(key(0xab).String()), "sha1:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("g", 64)} {
		if _, err := ParseKey(s); err == nil {
			t.Errorf("ParseKey(%q): no error", s)
		}
	}
}

// What the registry says after any sequence of changes is what it says after a restart.
func TestRestartSaysTheSame(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "hosts.json")
		os.Remove(path)
		declared := []config.Host{{Name: "d1", Key: key(1).String()}, {Name: "d2", Key: key(2).String()}}
		r, err := Open(path, declared)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 6).Draw(t, "changes") {
			name := rapid.SampledFrom([]string{"d1", "d2", "a1", "a2"}).Draw(t, "name")
			if rapid.Bool().Draw(t, "allow") {
				_ = r.Allow(name, key(byte(rapid.IntRange(1, 4).Draw(t, "key"))), noon) // may be refused
			} else {
				_, _ = r.Revoke(name, noon) // may be unknown
			}
		}
		again, err := Open(path, declared)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r.List(), again.List()); d != "" {
			t.Fatal(d)
		}
	})
}
