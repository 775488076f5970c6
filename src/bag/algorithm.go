package bag

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"hash"
	"strings"
)

// Algorithm is a checksum algorithm by its normalised BagIt name (RFC 8493, section 2.4): lower case, no punctuation.
type Algorithm string

// The algorithms whose manifests are read. Bags are written with SHA256 only; MD5 and SHA1 no longer protect against
// anyone who means harm, and are here because old bags have nothing better.
const (
	MD5     Algorithm = "md5"
	SHA1    Algorithm = "sha1"
	SHA224  Algorithm = "sha224"
	SHA256  Algorithm = "sha256"
	SHA384  Algorithm = "sha384"
	SHA512  Algorithm = "sha512"
	SHA3224 Algorithm = "sha3224"
	SHA3256 Algorithm = "sha3256"
	SHA3384 Algorithm = "sha3384"
	SHA3512 Algorithm = "sha3512"
)

// ParseAlgorithm normalises a name as RFC 8493, section 2.4 asks ("SHA-256", "sha3_512"), and says whether it is known.
func ParseAlgorithm(name string) (Algorithm, bool) {
	a := Algorithm(strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, name))
	return a, a.Size() > 0
}

// Size is the length of a checksum in bytes, 0 for an algorithm that is not known.
func (a Algorithm) Size() int {
	switch a {
	case MD5:
		return md5.Size
	case SHA1:
		return sha1.Size
	case SHA224, SHA3224:
		return sha256.Size224
	case SHA256, SHA3256:
		return sha256.Size
	case SHA384, SHA3384:
		return sha512.Size384
	case SHA512, SHA3512:
		return sha512.Size
	}
	return 0
}

// New makes a hash, nil for an algorithm that is not known.
func (a Algorithm) New() hash.Hash {
	switch a {
	case MD5:
		return md5.New()
	case SHA1:
		return sha1.New()
	case SHA224:
		return sha256.New224()
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	case SHA3224:
		return sha3.New224()
	case SHA3256:
		return sha3.New256()
	case SHA3384:
		return sha3.New384()
	case SHA3512:
		return sha3.New512()
	}
	return nil
}
