package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/identity"
)

// served is the certificate that a receiver shows to a new connection.
func (r *receiver) served() *x509.Certificate {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// SIGHUP makes the receiver take another CA, other names or another certificate, and the shipper another key; its CA it
// reads for each connection. What can't be used is refused, and the old stays.
func TestCertificatesAndKeysAreReloaded(t *testing.T) {
	r := newReceiver(t)
	ca := filepath.Join(tempDir(t), "ca.crt") // the host's copy
	trust := func(file string) {
		t.Helper()
		if err := os.WriteFile(ca, []byte(readFile(t, file)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	trust(r.ca())
	h := newHost(t, "lab-01", "https://"+r.addr, ca)
	r.allow(h)
	r.start()
	h.start()
	src := randomDir(t, 1000)
	ships := func() {
		t.Helper()
		h.seal(src)
		eventually(t, 15*time.Second, h.drained)
	}
	ships()

	// Another CA: the host notices, and trusts it once its file is there.
	other := filepath.Join(r.dir, "other")
	if _, _, err := identity.InitCA(filepath.Join(other, "ca.crt"), filepath.Join(other, "ca.key")); err != nil {
		t.Fatal(err)
	}
	before := r.served()
	r.reload(fmt.Sprintf("tls.ca_cert_file = %q", filepath.Join(other, "ca.crt")), fmt.Sprintf("tls.ca_key_file = %q", filepath.Join(other, "ca.key")),
		`tls.names = ["127.0.0.1", "receiver.example.org"]`)
	eventually(t, 10*time.Second, func() string {
		if c := r.served(); c.Issuer.String() == before.Issuer.String() || c.VerifyHostname("receiver.example.org") != nil {
			return fmt.Sprintf("the receiver shows a certificate by %s for %v", c.Issuer, c.DNSNames)
		}
		return ""
	})
	h.reload() // its connections are kept else
	h.seal(src)
	eventually(t, 10*time.Second, func() string { return h.held(code.TLSUntrusted) })
	trust(filepath.Join(other, "ca.crt"))
	eventually(t, 15*time.Second, h.drained)

	// A certificate from elsewhere, and one that does not belong to its key.
	issued := func(name string) (certFile, keyFile string) {
		t.Helper()
		authority, err := identity.LoadCA(filepath.Join(other, "ca.crt"), filepath.Join(other, "ca.key"))
		if err != nil {
			t.Fatal(err)
		}
		certFile, keyFile = filepath.Join(r.dir, name+".crt"), filepath.Join(r.dir, name+".key")
		writePair(t, authority, certFile, keyFile)
		return certFile, keyFile
	}
	certA, keyA := issued("a")
	_, keyB := issued("b")
	delete(r.conf["tls"], "ca_cert_file")
	delete(r.conf["tls"], "ca_key_file")
	before = r.served()
	r.reload(fmt.Sprintf("tls.cert_file = %q", certA), fmt.Sprintf("tls.key_file = %q", keyB))
	eventually(t, 10*time.Second, func() string {
		if out := r.output(); !strings.Contains(out, "reload refused") || !strings.Contains(out, "b.key") {
			return r.tail(3)
		}
		return ""
	})
	if !r.served().Equal(before) {
		t.Error("a reload that was refused took the certificate away")
	}
	r.reload(fmt.Sprintf("tls.key_file = %q", keyA))
	eventually(t, 10*time.Second, func() string {
		if r.served().Equal(before) {
			return "the old certificate is still served: " + r.tail(3)
		}
		return ""
	})
	h.reload()
	ships()

	// Another key of the host's.
	for _, f := range names(t, filepath.Join(h.data, "identity")) {
		if err := os.Remove(filepath.Join(h.data, "identity", f)); err != nil {
			t.Fatal(err)
		}
	}
	_, key, err := identity.LoadOrMakeHostKey(filepath.Join(h.data, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	h.reload()
	h.seal(src)
	eventually(t, 10*time.Second, func() string { return h.held(code.HostUnknown) })
	if s := h.cli("status"); !strings.Contains(s, key) {
		t.Errorf("status does not show the new key, %s:\n%s", key, s)
	}
	r.conf.set(`host "lab-01"`, "key", fmt.Sprintf("%q", key))
	r.reload()
	eventually(t, 15*time.Second, h.drained)
	if strings.Contains(r.output(), "takes a restart") {
		t.Error("the receiver asks for a restart:\n" + r.tail(10))
	}
}

// writePair issues a certificate for 127.0.0.1 and writes it and its key.
func writePair(t *testing.T, ca *identity.CA, certFile, keyFile string) {
	t.Helper()
	c, err := ca.Issue([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := os.WriteFile(certFile, chain, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600); err != nil {
		t.Fatal(err)
	}
}
