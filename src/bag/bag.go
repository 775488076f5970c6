// Package bag reads, writes and validates BagIt bags (RFC 8493).
//
// It promises three things. A bag is judged by what is in its directory: no link is followed, and nothing outside is
// opened, whatever its manifests name. Validation goes on past the first fault and names each one. Reading is lenient
// where the bags of other makers differ without doubt about their content (BagIt 0.97 and 1.0; MD5, SHA-1, the SHA-2 and SHA-3
// families; tag files in the encoding that bagit.txt declares) and refuses everything else; writing gives one canonical
// form only: SHA-256, UTF-8, sorted, LF.
package bag

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// The names of the tag files that an episode has, and of the payload directory (RFC 8493, section 2).
const (
	Declaration = "bagit.txt"
	InfoFile    = "bag-info.txt"
	Manifest    = "manifest-sha256.txt"
	Files       = "files.jsonl"
	TagManifest = "tagmanifest-sha256.txt"
	FetchFile   = "fetch.txt"
	PayloadDir  = "data"
)

// DeclarationText is the whole bagit.txt of every bag that this package writes (RFC 8493, section 2.1.1).
const DeclarationText = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"

// Digest is the bag digest: the SHA-256 of the bytes of tagmanifest-sha256.txt. The tag manifest covers every tag
// file and, through the payload manifest, every payload file, so the digest identifies the whole content of a bag.
type Digest [sha256.Size]byte

// DigestOf is the bag digest of a bag whose tag manifest has these bytes.
func DigestOf(tagManifest []byte) Digest { return sha256.Sum256(tagManifest) }

// ParseDigest reads 64 lower-case hexadecimal digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) || !decodeHex(d[:], []byte(s), false) {
		return Digest{}, fmt.Errorf("bag digest %.80q is not 64 lower-case hexadecimal digits", s)
	}
	return d, nil
}

// String is the digest as 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero tells whether d was never set.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText writes the form of [Digest.String].
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads what [ParseDigest] reads.
func (d *Digest) UnmarshalText(b []byte) error {
	v, err := ParseDigest(string(b))
	if err == nil {
		*d = v
	}
	return err
}

// decodeHex decodes src into dst, which must be half as long. Upper-case digits count only when upper is set.
func decodeHex(dst, src []byte, upper bool) bool {
	if len(src) != 2*len(dst) {
		return false
	}
	for i := range dst {
		a, b := nibble(src[2*i], upper), nibble(src[2*i+1], upper)
		if a > 15 || b > 15 {
			return false
		}
		dst[i] = a<<4 | b
	}
	return true
}

func nibble(c byte, upper bool) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case upper && 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}
