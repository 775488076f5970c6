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
	"crypto/tls"
	"crypto/x509"
	"time"

	"cis490/src/code"
)

// LoadOrMakeHostKey loads dir/host.key and dir/host.crt, and makes what is
// missing, dir included. key is the public key's hash (see KeyHash). The
// certificate is self-signed, carries no name that anybody checks, and never
// expires (RFC 5280, section 4.1.2.5: 99991231235959Z).
func LoadOrMakeHostKey(dir string) (cert tls.Certificate, key string, err error) {
	return tls.Certificate{}, "", nil
}

// KeyHash is sha256:<64 hex digits> of the certificate's DER
// SubjectPublicKeyInfo, as `openssl x509 -pubkey -noout | openssl pkey -pubin
// -outform der | sha256sum` gives it.
func KeyHash(cert *x509.Certificate) string { return "" }

// ValidKeyHash says whether s is written as KeyHash writes it.
func ValidKeyHash(s string) bool { return false }

// Fingerprint is the SHA-256 of the DER certificate in the same form; it is for
// people to compare.
func Fingerprint(cert *x509.Certificate) string { return "" }

// CA issues the receiver's certificate.
type CA struct {
	Cert *x509.Certificate
	PEM  []byte // the root's certificate, for ca_file on the hosts
}

// InitCA makes a CA and writes certFile and keyFile. Files that are there already
// and belong together are loaded instead (made is false); one without the other
// is an error.
func InitCA(certFile, keyFile string) (ca *CA, made bool, err error) { return nil, false, nil }

// LoadCA loads what InitCA wrote.
func LoadCA(certFile, keyFile string) (*CA, error) { return nil, nil }

// Issue makes a key and a certificate for names, DNS names or IP addresses.
func (ca *CA) Issue(names []string) (*tls.Certificate, error) { return nil, nil }

// Server gives the receiver's TLS configuration a certificate and keeps it fresh.
type Server struct{}

// NewServer issues certificates for names from ca; each is replaced, while
// running, well before it expires.
func NewServer(ca *CA, names []string) (*Server, error) { return nil, nil }

// NewServerFiles uses the certificate chain and key of these files, and reads
// them again when they change.
func NewServerFiles(certFile, keyFile string) (*Server, error) { return nil, nil }

// Config is TLS 1.3 only and asks for any client certificate without verifying
// it: the caller looks its KeyHash up. HTTP/1.1 only.
func (s *Server) Config() *tls.Config { return nil }

// NotAfter is when the certificate now in use expires.
func (s *Server) NotAfter() time.Time { return time.Time{} }

// Client is the host's side: whom it trusts and who it is.
type Client struct{}

// NewClient trusts the certificates in caFile ("": the system's roots) for
// serverName and presents cert.
func NewClient(cert tls.Certificate, caFile, serverName string) (*Client, error) { return nil, nil }

// Config is TLS 1.3 only, HTTP/1.1 only. caFile is read again when it changes.
func (c *Client) Config() *tls.Config { return nil }

// Explain returns a TLS failure in err's chain as tls-untrusted, tls-expired or
// tls-wrong-name with what was expected and what came, else nil.
func (c *Client) Explain(err error) *code.Error { return nil }
