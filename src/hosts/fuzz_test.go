package hosts

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"cis490/src/code"
	"cis490/src/episode"
)

// A registry that is read keeps every revocation: in what Lookup says, and when it is written and read again.
func FuzzRegistry(f *testing.F) {
	f.Add([]byte(`{"schema":1,"keys":[{"name":"lab-1","key":"` + key(1).String() + `","revoked":true,"at":"2026-07-01T12:00:00Z"},{"name":"lab-2","key":"` + key(2).String() + `"}]}`))
	f.Add([]byte(`{"schema":1,"keys":[{"name":"lab-1","key":"` + key(1).String() + `","revoked":true},{"name":"lab-1","key":"` + key(1).String() + `"}]}`))
	f.Add([]byte(`{"schema":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "hosts.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path, nil)
		if err != nil {
			return
		}
		for _, h := range r.List() {
			name, err := r.Lookup(h.Key)
			if c, _ := code.Of(err); name != h.Name || h.Revoked != (c == code.HostRevoked) || !h.Revoked && err != nil || !episode.ValidHost(name) {
				t.Fatalf("%+v: Lookup gives %q, %v", h, name, err)
			}
		}
		if revoked := bytes.Count(b, []byte(`"revoked":true`)); revoked == 1 && len(r.List()) == 1 && !r.List()[0].Revoked && bytes.Count(b, []byte(`"key"`)) == 1 {
			t.Fatalf("a revocation in %q is lost", b)
		}
		// What was read and is written with one word more says the same, and that word.
		before := r.List()
		if err := r.Allow("fuzz-new", key(0xfe), noon); err != nil {
			return // the key is another's
		}
		again, err := Open(path, nil)
		if err != nil {
			t.Fatalf("%q was read, what was made of it is not: %v", b, err)
		}
		for _, h := range before {
			if name, err := again.Lookup(h.Key); h.Key != key(0xfe) && (name != h.Name || h.Revoked != (err != nil)) {
				t.Fatalf("%+v became %q, %v", h, name, err)
			}
		}
		if _, err := again.Lookup(key(0xfe)); err != nil {
			t.Fatal(err)
		}
	})
}

// A key that is read is written as it was.
func FuzzKey(f *testing.F) {
	f.Add(key(7).String())
	f.Add("sha256:")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Fatalf("%q was read as %s", s, k)
		}
	})
}
