// Package identity is who a host is to the receiver and the receiver to a host:
// keys, not bearer secrets.
//
// A host is the SHA-256 of its public key. A receiver is its name, in a
// certificate issued by the CA whose root every host holds. The package promises
// that a key once made is never overwritten, that a key half-written by a crash
// is never used, and that a failed handshake is explained: what was expected
// and what came instead.
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cis490/src/durable"
)

// Files of a host's identity, in the directory given to LoadOrMakeHostKey.
const (
	HostKeyFile  = "host.key"
	HostCertFile = "host.crt"
)

// always is the validity of what must not expire at an awkward hour: it began
// before any clock of a lab host may be wrong to, and has no well-defined end
// (RFC 5280, section 4.1.2.5).
var (
	alwaysFrom = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	alwaysTo   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// LoadOrMakeHostKey loads dir/host.key and dir/host.crt, and makes what is
// missing, dir included. key is the public key's hash (see KeyHash). The
// certificate is self-signed, carries no name that anybody checks, and never
// expires. It is derived from the key: without a fitting one a new one is made,
// and who the host is does not change by that.
//
// A host.key that can't be read or used is an error. It is never replaced: the
// receiver knows the host by it.
func LoadOrMakeHostKey(dir string) (cert tls.Certificate, key string, err error) {
	fail := func(err error) (tls.Certificate, string, error) {
		return tls.Certificate{}, "", fmt.Errorf("host key: %w", err)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	signer, err := loadOrMakeKey(filepath.Join(dir, HostKeyFile))
	if err != nil {
		return fail(err)
	}
	certFile := filepath.Join(dir, HostCertFile)
	leaf, err := readCert(certFile)
	if err != nil || !samePublic(leaf.PublicKey, signer.Public()) {
		t := &x509.Certificate{
			Subject:     pkix.Name{CommonName: "cis490 lab host"},
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			NotBefore:   alwaysFrom, NotAfter: alwaysTo,
			BasicConstraintsValid: true,
		}
		if leaf, err = sign(t, t, signer.Public(), signer); err != nil {
			return fail(err)
		}
		// On a full or read-only disk the host is who it is all the same, and the
		// next start tries again.
		_ = durable.WriteFile(certFile, certPEM(leaf), 0o600)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: signer, Leaf: leaf}, KeyHash(leaf), nil
}

// LoadHostKey loads what LoadOrMakeHostKey made, and makes nothing. Without a key
// the error is fs.ErrNotExist.
func LoadHostKey(dir string) (cert tls.Certificate, key string, err error) {
	fail := func(err error) (tls.Certificate, string, error) {
		return tls.Certificate{}, "", fmt.Errorf("host key: %w", err)
	}
	signer, err := readKey(filepath.Join(dir, HostKeyFile))
	if err != nil {
		return fail(err)
	}
	leaf, err := readCert(filepath.Join(dir, HostCertFile))
	if err != nil {
		return fail(err)
	}
	if !samePublic(leaf.PublicKey, signer.Public()) {
		return fail(fmt.Errorf("%s is not for the key in %s; the shipper mends that when it starts", HostCertFile, HostKeyFile))
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: signer, Leaf: leaf}, KeyHash(leaf), nil
}

// LoadCerts loads all certificates of a PEM file; none is an error.
func LoadCerts(file string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	certs, err := parseCerts(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return certs, nil
}

// KeyHash is sha256:<64 hex digits> of the certificate's DER
// SubjectPublicKeyInfo, as `openssl x509 -pubkey -noout | openssl pkey -pubin
// -outform der | sha256sum` gives it.
func KeyHash(cert *x509.Certificate) string { return hash(cert.RawSubjectPublicKeyInfo) }

// Fingerprint is sha256:<64 hex digits> of the DER certificate, as `openssl x509
// -outform der | sha256sum` gives it. It is for people to compare.
func Fingerprint(cert *x509.Certificate) string { return hash(cert.Raw) }

const hashPrefix = "sha256:"

func hash(der []byte) string {
	sum := sha256.Sum256(der)
	return hashPrefix + hex.EncodeToString(sum[:])
}

// ValidKeyHash says whether s is written as KeyHash writes it.
func ValidKeyHash(s string) bool {
	digits, ok := strings.CutPrefix(s, hashPrefix)
	if !ok || len(digits) != 2*sha256.Size {
		return false
	}
	for _, c := range []byte(digits) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// loadOrMakeKey reads a private key, or makes one where there is none (ECDSA on
// P-256, which every TLS stack takes).
func loadOrMakeKey(file string) (crypto.Signer, error) {
	signer, err := readKey(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return signer, err
	}
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	// Whoever comes first makes it; it shows up whole or not at all.
	if err := durable.WriteNew(file, b, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readKey(file)
}

func readKey(file string) (crypto.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for rest := b; ; {
		var p *pem.Block
		if p, rest = pem.Decode(rest); p == nil {
			return nil, fmt.Errorf("%s holds no private key in PEM; it is not replaced, because the other side knows the one that was there: restore it, or move it away to have a new one made", file)
		}
		if !strings.HasSuffix(p.Type, "PRIVATE KEY") {
			continue // EC PARAMETERS, a certificate
		}
		var key any
		switch p.Type {
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(p.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(p.Bytes)
		default:
			key, err = x509.ParsePKCS8PrivateKey(p.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%s: a %T can't sign", file, key)
		}
		return signer, nil
	}
}

func readCert(file string) (*x509.Certificate, error) {
	certs, err := LoadCerts(file)
	if err != nil {
		return nil, err
	}
	return certs[0], nil
}

// parseCerts reads all certificates of a PEM file; none is an error.
func parseCerts(b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil {
			break
		}
		if p.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM block of type CERTIFICATE in it")
	}
	return certs, nil
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// sign makes a certificate with a random serial number of 127 bits.
func sign(t, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
