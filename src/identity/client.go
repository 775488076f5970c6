package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"cis490/src/code"
)

// Client is the host's side: whom it trusts and who it is.
type Client struct {
	cert   tls.Certificate
	caFile string
	name   string
}

// NewClient trusts the certificates in caFile ("": the system's roots) for
// serverName, a DNS name or an IP address, and presents cert. caFile is read
// for each connection: one that is missing or wrong now is a reason to hold the
// queue, not to stop.
func NewClient(cert tls.Certificate, caFile, serverName string) (*Client, error) {
	if serverName == "" {
		return nil, errors.New("TLS client: no name to expect in the receiver's certificate")
	}
	if cert.PrivateKey == nil {
		return nil, errors.New("TLS client: no host key")
	}
	return &Client{cert: cert, caFile: caFile, name: serverName}, nil
}

// NewAnonymous is NewClient for one who has no key to show: the receiver answers
// it as a stranger.
func NewAnonymous(caFile, serverName string) *Client {
	return &Client{caFile: caFile, name: serverName}
}

// Config is TLS 1.3 only, HTTP/1.1 only. Its handshake fails with a *code.Error
// when the receiver's certificate won't do.
func (c *Client) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: c.name,
		NextProtos: []string{"http/1.1"},
		// Whatever CAs the other side may list: this host has one key.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.cert, nil },
		// verify does all of the checking, with roots read just now and errors
		// that say what was expected; VerifyConnection is called for each
		// connection, a resumed one too.
		InsecureSkipVerify: true,
		VerifyConnection:   func(s tls.ConnectionState) error { return c.verify(s.PeerCertificates, time.Now()) },
	}
}

// TimelessConfig is Config for asking the receiver what time it is when this
// host's clock may be wrong: the certificate is judged as of a moment at which it
// was valid. Nothing may be sent over it that matters.
func (c *Client) TimelessConfig() *tls.Config {
	t := c.Config()
	t.VerifyConnection = func(s tls.ConnectionState) error {
		at := time.Now()
		if len(s.PeerCertificates) > 0 {
			at = s.PeerCertificates[0].NotAfter
		}
		return c.verify(s.PeerCertificates, at)
	}
	return t
}

// verify checks the certificate against the roots, then its name. In this order:
// a stranger's certificate is untrusted, whatever its dates and names are.
func (c *Client) verify(chain []*x509.Certificate, now time.Time) error {
	if len(chain) == 0 {
		return code.New(code.TLSUntrusted, "the receiver showed no certificate")
	}
	roots, expected, err := c.roots()
	if err != nil {
		return code.Wrap(code.TLSUntrusted, err, "can't load the receiver's CA (ca_file)")
	}
	leaf := chain[0]
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, i := range chain[1:] {
		opts.Intermediates.AddCert(i)
	}
	_, err = leaf.Verify(opts)
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		opts.CurrentTime = invalid.Cert.NotAfter
		if _, again := leaf.Verify(opts); !errors.As(again, new(x509.UnknownAuthorityError)) {
			return expired(invalid.Cert, leaf, now)
		}
		err = x509.UnknownAuthorityError{Cert: leaf}
	}
	if err != nil {
		got := fmt.Sprintf("got the certificate %s, issued by %s", describe(leaf), name(leaf.Issuer.String()))
		if top := chain[len(chain)-1]; len(chain) > 1 {
			got += ", with the CA certificate " + describe(top)
		}
		if !errors.As(err, new(x509.UnknownAuthorityError)) {
			got += " (" + strings.TrimPrefix(err.Error(), "x509: ") + ")"
		}
		return code.New(code.TLSUntrusted, "expected a certificate issued by %s; %s", expected, got)
	}
	if err := leaf.VerifyHostname(c.name); err != nil {
		return code.New(code.TLSWrongName, "expected a certificate for %s; got one for %s (%s)", c.name, namesOf(leaf), Fingerprint(leaf))
	}
	return nil
}

// roots are the trusted certificates, and in words who they are.
func (c *Client) roots() (*x509.CertPool, string, error) {
	if c.caFile == "" {
		pool, err := x509.SystemCertPool()
		return pool, "a CA that this machine trusts (ca_file is not set)", err
	}
	b, err := os.ReadFile(c.caFile)
	if err != nil {
		return nil, "", err
	}
	certs, err := parseCerts(b)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", c.caFile, err)
	}
	pool := x509.NewCertPool()
	var who []string
	for i, cert := range certs {
		pool.AddCert(cert)
		if i < 3 {
			who = append(who, describe(cert))
		}
	}
	if len(certs) > 3 {
		who = append(who, fmt.Sprintf("%d more", len(certs)-3))
	}
	return pool, strings.Join(who, " or ") + " in " + c.caFile, nil
}

func expired(cert, leaf *x509.Certificate, now time.Time) *code.Error {
	what := "the receiver's certificate"
	if !cert.Equal(leaf) {
		what = "the CA certificate"
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	if now.Before(cert.NotBefore) {
		return code.New(code.TLSExpired, "%s %s is not valid before %s; this host's clock says %s", what, describe(cert), at(cert.NotBefore), at(now))
	}
	return code.New(code.TLSExpired, "%s %s expired on %s; this host's clock says %s", what, describe(cert), at(cert.NotAfter), at(now))
}

func describe(c *x509.Certificate) string {
	return name(c.Subject.String()) + " (" + Fingerprint(c) + ")"
}

// name keeps a stranger's text short and on one line.
func name(s string) string {
	if s == "" {
		return "without a name"
	}
	if r := []rune(s); len(r) > 100 {
		s = string(r[:100]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

func namesOf(c *x509.Certificate) string {
	all := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return "no name at all"
	}
	more := ""
	if len(all) > 8 {
		more = fmt.Sprintf(" and %d more", len(all)-8)
		all = all[:8]
	}
	for i, n := range all {
		if len(n) > 253 {
			all[i] = n[:253]
		}
	}
	return strings.ToValidUTF8(strings.Join(all, ", "), "?") + more
}

// refusals are the alerts (RFC 8446, section 6.2) by which the other side says
// that it does not get along with this one, in the words of crypto/tls, whose
// type for them is not exported. Other alerts come from damage on the way and
// pass.
var refusals = func() map[string]bool {
	m := map[string]bool{}
	for _, a := range []tls.AlertError{40, 42, 43, 44, 45, 46, 48, 49, 70, 71, 109, 112, 116, 120} {
		m[a.Error()] = true
	}
	return m
}()

// mismatches begin the errors by which crypto/tls says that a handshake can't
// succeed with this server.
var mismatches = []string{"tls: server ", "tls: server's ", "tls: failed to parse certificate", "tls: invalid signature by the server", "tls: peer doesn't support", "tls: downgrade attempt"}

// Explain returns a TLS failure in err's chain as tls-untrusted, tls-expired or
// tls-wrong-name with what was expected and what came. It returns nil for what is
// not about trust: a cut, a time-out, a damaged record.
func (c *Client) Explain(err error) *code.Error {
	if err == nil {
		return nil
	}
	var known *code.Error
	if errors.As(err, &known) {
		switch known.Code {
		case code.TLSUntrusted, code.TLSExpired, code.TLSWrongName:
			return known
		}
		return nil
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		if strings.HasPrefix(string(record.RecordHeader[:]), "HTTP/") {
			return code.Wrap(code.TLSUntrusted, err, "expected TLS for %s; what answers speaks plain HTTP", c.name)
		}
		if record.Conn == nil {
			return nil // in mid-stream: damage
		}
		return code.Wrap(code.TLSUntrusted, err, "expected TLS for %s; what answers speaks something else", c.name)
	}
	if strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		// net/http replaces the error above by one without a type.
		return code.Wrap(code.TLSUntrusted, err, "expected TLS for %s; what answers speaks plain HTTP", c.name)
	}
	inner := err
	for e := errors.Unwrap(err); e != nil; e = errors.Unwrap(e) {
		inner = e
	}
	text := inner.Error()
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && refusals[text] {
		return code.Wrap(code.TLSUntrusted, err, "the TLS handshake for %s was refused", c.name)
	}
	for _, m := range mismatches {
		if strings.HasPrefix(text, m) {
			return code.Wrap(code.TLSUntrusted, err, "the TLS handshake for %s failed", c.name)
		}
	}
	return nil
}
