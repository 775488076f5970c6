package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cis490/src/durable"
)

// lifetime of a certificate that the CA issues. It is replaced when a third is
// left. It reaches years into the past and the future, so that a host whose clock
// is wrong by less gets to hear by how much (clock-skew) instead of tls-expired.
const lifetime = 3 * 365 * 24 * time.Hour

// CA issues the receiver's certificate.
type CA struct {
	Cert *x509.Certificate
	PEM  []byte // Cert in PEM, for ca_file on the hosts

	key crypto.Signer
}

// InitCA makes a CA and writes certFile (0644) and keyFile (0600), and their
// directories. Files that are there already and belong together are loaded
// instead (made is false). A key alone, which is what a crash can leave, gets its
// certificate; a certificate whose key is missing is an error.
func InitCA(certFile, keyFile string) (ca *CA, made bool, err error) {
	fail := func(err error) (*CA, bool, error) { return nil, false, fmt.Errorf("CA: %w", err) }
	for _, f := range []string{certFile, keyFile} {
		if err := durable.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			return fail(err)
		}
	}
	if _, err := os.Stat(certFile); err == nil {
		ca, err := LoadCA(certFile, keyFile)
		return ca, false, err
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	signer, err := loadOrMakeKey(keyFile)
	if err != nil {
		return fail(err)
	}
	t := &x509.Certificate{
		// The key's hash in the name tells two CAs of one lab apart.
		Subject:   pkix.Name{CommonName: "cis490 receiver CA " + publicHash(signer)[len(hashPrefix):][:12]},
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: alwaysFrom, NotAfter: alwaysTo,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	cert, err := sign(t, t, signer.Public(), signer)
	if err != nil {
		return fail(err)
	}
	if err := durable.WriteNew(certFile, certPEM(cert), 0o644); err != nil && !errors.Is(err, fs.ErrExist) {
		return fail(err)
	} else if err == nil {
		made = true
	}
	ca, err = LoadCA(certFile, keyFile)
	return ca, made && err == nil, err
}

func publicHash(s crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(s.Public())
	if err != nil {
		panic(err) // readKey lets only keys through that have one
	}
	return hash(der)
}

// LoadCA loads what InitCA wrote, or another CA's certificate and key.
func LoadCA(certFile, keyFile string) (*CA, error) {
	cert, err := readCert(certFile)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if !samePublic(cert.PublicKey, key.Public()) {
		return nil, fmt.Errorf("CA: %s is not for the key in %s", certFile, keyFile)
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("CA: %s is not the certificate of a CA", certFile)
	}
	return &CA{Cert: cert, PEM: certPEM(cert), key: key}, nil
}

// Issue makes a key and a certificate for names, DNS names or IP addresses. The
// key stays in memory.
func (ca *CA) Issue(names []string) (*tls.Certificate, error) {
	if len(names) == 0 {
		return nil, errors.New("CA: no names to issue a certificate for")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	to := time.Now().Add(lifetime)
	if ca.Cert.NotAfter.Before(to) {
		to = ca.Cert.NotAfter
	}
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "cis490 receiver"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore:   ca.Cert.NotBefore, NotAfter: to,
		BasicConstraintsValid: true,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	leaf, err := sign(t, ca.Cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("CA: issue a certificate for %s: %w", strings.Join(names, ", "), err)
	}
	// The root goes along: a client that does not trust it can say which it was.
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Server gives the receiver's TLS configuration a certificate and keeps it fresh.
type Server struct {
	// Log hears of a renewal that fails; the certificate before it stays in use.
	// nil: nobody does.
	Log *slog.Logger

	stale func(*tls.Certificate) bool
	fresh func() (*tls.Certificate, error)

	mu     sync.Mutex
	cert   *tls.Certificate
	tried  time.Time
	failed bool
}

// NewServer issues certificates for names from ca; each is replaced, while
// running, well before it expires.
func NewServer(ca *CA, names []string) (*Server, error) {
	names = slices.Clone(names)
	s := &Server{
		stale: func(c *tls.Certificate) bool { return time.Until(c.Leaf.NotAfter) < lifetime/3 },
		fresh: func() (*tls.Certificate, error) { return ca.Issue(names) },
	}
	return s, s.first()
}

// NewServerFiles uses the certificate chain and key of these files, and reads
// them again when they change.
func NewServerFiles(certFile, keyFile string) (*Server, error) {
	type stamp struct {
		mtime time.Time
		size  int64
	}
	look := func() (now [2]stamp) {
		for i, f := range []string{certFile, keyFile} {
			if st, err := os.Stat(f); err == nil {
				now[i] = stamp{st.ModTime(), st.Size()}
			}
		}
		return now
	}
	var seen [2]stamp
	s := &Server{
		stale: func(*tls.Certificate) bool { return look() != seen },
		fresh: func() (*tls.Certificate, error) {
			before := look()
			c, err := tls.LoadX509KeyPair(certFile, keyFile)
			if err != nil {
				return nil, fmt.Errorf("certificate %s with key %s: %w", certFile, keyFile, err)
			}
			seen = before
			return &c, nil
		},
	}
	return s, s.first()
}

func (s *Server) first() (err error) {
	s.cert, err = s.fresh()
	return err
}

// Replace makes s give the certificates of with, which is not used otherwise. Log
// stays.
func (s *Server) Replace(with *Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale, s.fresh, s.cert = with.stale, with.fresh, with.cert
	s.tried, s.failed = time.Time{}, false
}

// current is the certificate to use now.
func (s *Server) current() *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A renewal that fails is not tried for every connection.
	if now := time.Now(); s.stale(s.cert) && now.Sub(s.tried) >= time.Second {
		s.tried = now
		if c, err := s.fresh(); err == nil {
			s.cert, s.failed = c, false
		} else if s.Log != nil && !s.failed {
			s.failed = true
			s.Log.Error("can't renew the receiver's certificate, the one before stays in use", "err", err, "expires", s.cert.Leaf.NotAfter)
		}
	}
	return s.cert
}

// Config is TLS 1.3 only and asks for any client certificate without verifying
// it: that the client holds the key is proved by the handshake (RFC 8446, section
// 4.4.3), and who the key is, the caller looks up by its KeyHash. HTTP/1.1 only.
func (s *Server) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.RequestClientCert,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current(), nil },
	}
}

// NotAfter is when the certificate now in use expires.
func (s *Server) NotAfter() time.Time { return s.current().Leaf.NotAfter }
