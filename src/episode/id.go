// Package episode makes and reads sealed episodes: BagIt bags of a stricter profile, one per run of an experiment, that never
// change again.
//
// It promises that what is under sealed/ is whole: an episode gets there by one rename after every byte of it was flushed to the
// disk, and a crash at any point leaves it either there or still under open/. A source is never changed, but by a move, which
// takes it only once everything else is done. No link is followed while a source is read. What can't travel is left
// out by name, never silently.
package episode

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// ID names one episode: a UUID of version 7 (RFC 9562, section 5.7) when it is made here, any UUID when it is read.
type ID [16]byte

// NewID makes an id that sorts behind those made before it, as far as the clock is read finely enough (a quarter of a
// microsecond) and goes forward.
func NewID() ID { return newID(time.Now()) }

// newID puts the milliseconds into the first 48 bits and the fraction of the millisecond into the 12 bits of rand_a, as
// RFC 9562, section 6.2, method 3 allows: ids made within one millisecond sort by time without any state.
func newID(now time.Time) ID {
	var id ID
	if _, err := rand.Read(id[6:]); err != nil {
		panic(err) // crypto/rand.Read never returns an error
	}
	ns := now.UnixNano()
	ms, rest := ns/1e6, ns%1e6
	binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16|0x7000|uint64(rest<<12/1e6))
	id[8] = id[8]&0x3f | 0x80
	return id
}

// ParseID reads the canonical form only: 36 characters, lower case. What differs in form would differ as a name of a file.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		h := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
		if _, err := hex.Decode(id[:], []byte(h)); err == nil && id.String() == s {
			return id, nil
		}
	}
	return ID{}, fmt.Errorf("%.80q is not a lower-case UUID", s)
}

// String is the canonical form.
func (id ID) String() string {
	b, _ := id.AppendText(make([]byte, 0, 36))
	return string(b)
}

// AppendText appends the canonical form.
func (id ID) AppendText(b []byte) ([]byte, error) {
	for i, n := range [...]int{4, 6, 8, 10, 16} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, id[[...]int{0, 4, 6, 8, 10}[i]:n])
	}
	return b, nil
}

// MarshalText writes the canonical form.
func (id ID) MarshalText() ([]byte, error) { return id.AppendText(nil) }

// UnmarshalText reads what [ParseID] reads.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err == nil {
		*id = v
	}
	return err
}

// Compare orders by bytes, and so ids of version 7 by time.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// IsZero tells whether id was never set.
func (id ID) IsZero() bool { return id == ID{} }

// Time is when an id of version 7 was made, to the millisecond; the zero time for other versions.
func (id ID) Time() time.Time {
	if id[6]>>4 != 7 {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)).UTC()
}

// ValidHost tells whether name may name a lab host: 1 to 63 of a-z, 0-9 and "-". It is a directory in the receiver's store.
func ValidHost(name string) bool {
	if len(name) < 1 || len(name) > 63 {
		return false
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
