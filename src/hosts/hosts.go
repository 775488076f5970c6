// Package hosts knows which lab hosts may speak to the receiver.
//
// A host is a name and the keys that speak for it: the SHA-256 of a key's
// SubjectPublicKeyInfo, as an operator can compute it with openssl. Keys come
// from the host blocks of receiver.hcl and from the operator's allow; a revoked
// key is remembered as revoked, so that its owner is told so, and stays revoked
// although receiver.hcl still declares it.
//
// What it promises: a change is on the disk before it is reported as made, and
// the very next Lookup sees it. A registry file that can't be read is an error,
// never an empty registry: losing a revocation would let a host back in.
package hosts

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/health"
	"cis490/src/wire"
)

// Key is the SHA-256 of a public key's DER SubjectPublicKeyInfo (RFC 5280,
// section 4.1.2.7): openssl pkey -pubin -outform der | sha256sum.
type Key [32]byte

const keyPrefix = "sha256:"

// ParseKey reads sha256:<64 lower-case hex digits>.
func ParseKey(s string) (Key, error) {
	var k Key
	digits, ok := strings.CutPrefix(s, keyPrefix)
	if !ok || len(digits) != 2*len(k) || strings.ToLower(digits) != digits {
		return k, fmt.Errorf("%q is not a key: it must be sha256: and 64 lower-case hex digits", s)
	}
	if _, err := hex.Decode(k[:], []byte(digits)); err != nil {
		return k, fmt.Errorf("%q is not a key: it must be sha256: and 64 lower-case hex digits", s)
	}
	return k, nil
}

func (k Key) String() string { return keyPrefix + hex.EncodeToString(k[:]) }

// MarshalText is String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is ParseKey.
func (k *Key) UnmarshalText(b []byte) (err error) {
	*k, err = ParseKey(string(b))
	return err
}

// Where a host's key comes from.
const (
	Declared = "declared" // a host block of receiver.hcl
	Allowed  = "allowed"  // the operator's allow
)

// Host is one name with one of its keys.
type Host struct {
	Name    string    `json:"name"`
	Key     Key       `json:"key"`
	Source  string    `json:"source"`      // Declared or Allowed
	Revoked bool      `json:"revoked"`     // the key is refused
	At      time.Time `json:"at,omitzero"` // of the operator's last allow or revoke; zero if there was none
}

// Summary is a host with what it has stored, and how it is.
type Summary struct {
	Host
	Episodes   int64     `json:"episodes"`
	Bytes      int64     `json:"bytes"`
	LastStored time.Time `json:"last_stored,omitzero"`
	Seen
}

// Seen is what the receiver was told by a host, by any of its keys.
type Seen struct {
	SeenAt     time.Time     `json:"seen_at,omitzero"`  // of its last request; zero: none yet
	Verdict    health.Status `json:"verdict,omitempty"` // its own word, Unknown or Silent
	ReportedAt time.Time     `json:"reported_at,omitzero"`
	Report     *wire.Report  `json:"report,omitempty"` // its own word; nil: none yet
}

// Silent is the verdict on a host that was not heard of for much longer than it
// had said.
const Silent health.Status = "silent"

// entry is one record of the registry file: what the operator said of a key.
type entry struct {
	Name    string    `json:"name"`
	Key     Key       `json:"key"`
	Revoked bool      `json:"revoked"`
	At      time.Time `json:"at"`
}

type registryFile struct {
	Schema int     `json:"schema"`
	Keys   []entry `json:"keys"`
}

const schema = 1

// Registry is the set of hosts. Its methods may be called at the same time.
type Registry struct {
	path string

	mu       sync.Mutex // guards the two below and the file
	declared []Host
	said     map[Key]entry

	now atomic.Pointer[map[Key]Host] // what Lookup reads
}

// Open reads the registry file path, which may be absent, and adds the declared
// hosts of the configuration.
func Open(path string, declared []config.Host) (*Registry, error) {
	r := &Registry{path: path, said: map[Key]entry{}}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the host registry: %w", err)
	}
	if err == nil {
		var f registryFile
		if err := json.Unmarshal(b, &f); err != nil {
			return nil, fmt.Errorf("host registry %s is damaged: %w; restore it from a backup, or move it away and allow and revoke anew", path, err)
		}
		if f.Schema != schema {
			return nil, fmt.Errorf("host registry %s has schema %d; this version reads %d", path, f.Schema, schema)
		}
		for _, e := range f.Keys {
			if !episode.ValidHost(e.Name) {
				return nil, fmt.Errorf("host registry %s: %q is not a host name", path, e.Name)
			}
			r.said[e.Key] = e
		}
	}
	return r, r.Declare(declared)
}

// Declare replaces the hosts that the configuration declares. On an error the
// former ones stay.
func (r *Registry) Declare(declared []config.Host) error {
	hosts := make([]Host, 0, len(declared))
	for _, d := range declared {
		k, err := ParseKey(d.Key)
		if err != nil {
			return fmt.Errorf("host %q: %w", d.Name, err)
		}
		if !episode.ValidHost(d.Name) {
			return fmt.Errorf("%q is not a host name: it must match [a-z0-9-]{1,63}", d.Name)
		}
		hosts = append(hosts, Host{Name: d.Name, Key: k, Source: Declared})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.declared = hosts
	r.publish()
	return nil
}

// publish makes what is known visible to Lookup. The caller holds mu.
func (r *Registry) publish() {
	m := make(map[Key]Host, len(r.declared)+len(r.said))
	for k, e := range r.said {
		m[k] = Host{Name: e.Name, Key: k, Source: Allowed, Revoked: e.Revoked, At: e.At}
	}
	for _, h := range r.declared {
		// The configuration gives the name, the operator's word of revocation stands.
		if e, ok := r.said[h.Key]; ok {
			h.Revoked, h.At = e.Revoked, e.At
		}
		m[h.Key] = h
	}
	r.now.Store(&m)
}

// Lookup finds the host whose key spoke. Its error is a *code.Error: host-unknown
// or host-revoked, the latter with the name. It takes no lock.
func (r *Registry) Lookup(k Key) (name string, err error) {
	h, ok := (*r.now.Load())[k]
	switch {
	case !ok:
		return "", code.New(code.HostUnknown, "no host has the key %s; on the receiver: cis490-receiver hosts allow NAME %s", k, k)
	case h.Revoked:
		return h.Name, code.New(code.HostRevoked, "the key %s of host %s was revoked at %s", k, h.Name, h.At.UTC().Format(time.RFC3339))
	}
	return h.Name, nil
}

// List returns every host, by name, then key.
func (r *Registry) List() []Host {
	m := *r.now.Load()
	list := make([]Host, 0, len(m))
	for _, h := range m {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b Host) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.Key[:]), string(b.Key[:]))
	})
	return list
}

// Allow lets key speak for name from the next request on. A host may have
// several keys: one for each time its disk was replaced. A key that speaks for
// another name already is refused.
func (r *Registry) Allow(name string, key Key, now time.Time) error {
	if !episode.ValidHost(name) {
		return fmt.Errorf("%q is not a host name: it must match [a-z0-9-]{1,63}", name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if h, ok := (*r.now.Load())[key]; ok && h.Name != name && !(h.Revoked && h.Source == Allowed) {
		return fmt.Errorf("the key %s belongs to host %s: a key can't speak for two hosts", key, h.Name)
	}
	return r.say(entry{Name: name, Key: key, At: now.UTC().Truncate(time.Second)})
}

// Revoke refuses every key of name from the next request on. It returns how
// many keys that changed.
func (r *Registry) Revoke(name string, now time.Time) (int, error) {
	if !episode.ValidHost(name) {
		return 0, fmt.Errorf("%q is not a host name: it must match [a-z0-9-]{1,63}", name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var revoke []entry
	known := false
	for k, h := range *r.now.Load() {
		if h.Name != name {
			continue
		}
		known = true
		if !h.Revoked {
			revoke = append(revoke, entry{Name: name, Key: k, Revoked: true, At: now.UTC().Truncate(time.Second)})
		}
	}
	if !known {
		return 0, fmt.Errorf("no host is called %q; see: cis490-receiver hosts list", name)
	}
	if len(revoke) == 0 {
		return 0, nil
	}
	return len(revoke), r.say(revoke...)
}

// say records what the operator said, on disk first. The caller holds mu.
func (r *Registry) say(es ...entry) error {
	next := make(map[Key]entry, len(r.said)+len(es))
	for k, e := range r.said {
		next[k] = e
	}
	for _, e := range es {
		next[e.Key] = e
	}
	f := registryFile{Schema: schema}
	for _, e := range next {
		f.Keys = append(f.Keys, e)
	}
	slices.SortFunc(f.Keys, func(a, b entry) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.Key[:]), string(b.Key[:]))
	})
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(r.path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the host registry: %w", err)
	}
	r.said = next
	r.publish()
	return nil
}
