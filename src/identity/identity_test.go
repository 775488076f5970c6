package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cis490/src/code"
)

func TestHostKeyIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	first, key, err := LoadOrMakeHostKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !ValidKeyHash(key) {
		t.Errorf("key is %q", key)
	}
	second, again, err := LoadOrMakeHostKey(dir)
	if err != nil || again != key || !bytes.Equal(second.Certificate[0], first.Certificate[0]) {
		t.Errorf("the second time it is %s, not %s (%v)", again, key, err)
	}
	for name, want := range map[string]os.FileMode{HostKeyFile: 0o600, HostCertFile: 0o600, ".": os.ModeDir | 0o700} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if l := first.Leaf; l.NotAfter.Year() != 9999 || l.IsCA || l.Subject.CommonName == "" {
		t.Errorf("certificate: %+v", l.Subject)
	}
	if ents, _ := os.ReadDir(dir); len(ents) != 2 {
		t.Errorf("left over: %v", ents)
	}
}

// The README's way to compute a key's hash gives the same.
func TestKeyHashIsWhatOpenSSLSays(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("needs openssl")
	}
	dir := t.TempDir()
	cert, key, err := LoadOrMakeHostKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]string{
		"openssl pkey -in host.key -pubout -outform der | sha256sum":                                     key,
		"openssl x509 -in host.crt -pubkey -noout | openssl pkey -pubin -outform der | sha256sum":        key,
		"openssl x509 -in host.crt -outform der | sha256sum":                                             Fingerprint(cert.Leaf),
		"openssl verify -CAfile host.crt host.crt >/dev/null && openssl pkey -in host.key -check -noout": "",
	} {
		c := exec.Command("sh", "-c", script)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if got := "sha256:" + strings.Fields(string(out) + " ")[0]; err != nil || want != "" && got != want {
			t.Errorf("%s: %s %v, want %s", script, out, err, want)
		}
	}
}

// Whatever a crash or a hand left of the key, it is neither used nor replaced.
func TestBrokenKeyIsNeitherUsedNorReplaced(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := LoadOrMakeHostKey(dir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, HostKeyFile)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(filepath.Join(dir, HostCertFile))
	if err != nil {
		t.Fatal(err)
	}
	broken := [][]byte{nil, []byte("\n"), cert, bytes.Repeat([]byte{0}, len(whole)), bytes.Replace(whole, []byte("M"), []byte("N"), 1)}
	for n := 1; n < len(whole)-1; n += 7 {
		broken = append(broken, whole[:n])
	}
	for _, b := range broken {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadOrMakeHostKey(dir); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%q is taken for a key, or its file is not named: %v", b, err)
		}
		if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, b) {
			t.Errorf("%q became %q (%v)", b, now, err)
		}
	}
}

// A process killed while it writes leaves a temporary file; the next one makes
// the key and does not mind.
func TestHalfWrittenKeyOfACrash(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "."+HostKeyFile+".tmp-123"), []byte("-----BEGIN PRIVATE K"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, key, err := LoadOrMakeHostKey(dir); err != nil || !ValidKeyHash(key) {
		t.Error(key, err)
	}
}

func TestOneKeyForAllWhoComeAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	keys := make([]string, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			_, key, err := LoadOrMakeHostKey(dir)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] {
			t.Fatalf("hosts with two keys: %v", keys)
		}
	}
}

func TestCertificateFollowsTheKey(t *testing.T) {
	dir := t.TempDir()
	_, key, err := LoadOrMakeHostKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if _, _, err := LoadOrMakeHostKey(other); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(filepath.Join(other, HostCertFile))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, HostCertFile)
	for _, b := range [][]byte{foreign, []byte("junk"), nil} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		cert, again, err := LoadOrMakeHostKey(dir)
		if err != nil || again != key || KeyHash(cert.Leaf) != key {
			t.Errorf("key is %s, not %s (%v)", again, key, err)
		}
		if onDisk, err := readCert(file); err != nil || KeyHash(onDisk) != key {
			t.Errorf("the certificate on disk is not renewed: %v", err)
		}
	}
	// It can't be written: the host is who it is all the same.
	os.Remove(file)
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, again, err := LoadOrMakeHostKey(dir); err != nil || again != key {
		t.Error(again, err)
	}
}

func TestValidKeyHash(t *testing.T) {
	good := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	for s, want := range map[string]bool{good: true, good[7:]: false, strings.ToUpper(good): false, good + "0": false, good[:70]: false, "": false,
		"sha256:" + strings.Repeat("g", 64): false, "md5:" + good[7:]: false, good + "\n": false} {
		if ValidKeyHash(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestCAInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	crt, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	ca, made, err := InitCA(crt, key)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	if st, err := os.Stat(key); err != nil || st.Mode() != 0o600 {
		t.Error(st.Mode(), err)
	}
	if st, err := os.Stat(crt); err != nil || st.Mode() != 0o644 {
		t.Error(st.Mode(), err)
	}
	again, made, err := InitCA(crt, key)
	if err != nil || made || Fingerprint(again.Cert) != Fingerprint(ca.Cert) {
		t.Error("made twice", made, err)
	}
	// A key alone is what a crash leaves: it gets its certificate, and hosts that
	// hold the old one go on trusting.
	old, err := ca.Issue([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(crt)
	renewed, made, err := InitCA(crt, key)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(renewed.Cert)
	if _, err := old.Leaf.Verify(x509.VerifyOptions{Roots: pool}); err != nil {
		t.Error(err)
	}
	// A certificate alone can't be completed, and is not replaced.
	os.Rename(key, key+".away")
	before, _ := os.ReadFile(crt)
	if _, _, err := InitCA(crt, key); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if after, _ := os.ReadFile(crt); !bytes.Equal(before, after) {
		t.Error("the certificate was replaced")
	}
	// Files that don't belong together.
	if _, _, err := InitCA(filepath.Join(dir, "b.crt"), filepath.Join(dir, "b.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(crt, filepath.Join(dir, "b.key")); err == nil {
		t.Error("a CA of two halves")
	}
	hostDir := t.TempDir()
	if _, _, err := LoadOrMakeHostKey(hostDir); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(filepath.Join(hostDir, HostCertFile), filepath.Join(hostDir, HostKeyFile)); err == nil || !strings.Contains(err.Error(), "not the certificate of a CA") {
		t.Error(err)
	}
	if _, err := renewed.Issue(nil); err == nil {
		t.Error("a certificate for nobody")
	}
}

func TestServerCertificateIsRenewedWhileRunning(t *testing.T) {
	dir := t.TempDir()
	ca, _, err := InitCA(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(ca, []string{"localhost"})
		if err != nil {
			t.Fatal(err)
		}
		get := func() *x509.Certificate {
			c, err := s.Config().GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return c.Leaf
		}
		last, changes := get(), 0
		for range 20 * 365 {
			time.Sleep(24 * time.Hour)
			now := get()
			if now.SerialNumber.Cmp(last.SerialNumber) != 0 {
				changes++
			}
			if left := time.Until(now.NotAfter); left < lifetime/3 {
				t.Fatalf("only %s left", left)
			}
			if now.NotBefore.After(time.Now()) {
				t.Fatal("not valid yet")
			}
			last = now
		}
		if changes < 8 || changes > 11 {
			t.Errorf("renewed %d times in 20 years", changes)
		}
	})
}

func TestServerFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	crt, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	if _, _, err := InitCA(crt, key); err != nil {
		t.Fatal(err)
	}
	if _, err := NewServerFiles(crt, filepath.Join(dir, "absent")); err == nil {
		t.Error("started without a key")
	}
	s, err := NewServerFiles(crt, key)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	first := s.NotAfter()
	serial := s.current().Leaf.SerialNumber
	os.WriteFile(crt, []byte("half a certif"), 0o644)
	for range 3 {
		s.tried = time.Time{}
		if s.current().Leaf.SerialNumber.Cmp(serial) != 0 || s.NotAfter() != first {
			t.Error("the certificate in use is gone")
		}
	}
	if n := strings.Count(log.String(), "can't renew"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	os.Remove(crt)
	os.Remove(key)
	if _, _, err := InitCA(crt, key); err != nil {
		t.Fatal(err)
	}
	s.tried = time.Time{}
	if s.current().Leaf.SerialNumber.Cmp(serial) == 0 {
		t.Error("the new certificate is not used")
	}
}

// lab is a receiver and a host that trust each other.
type lab struct {
	dir, caFile string
	ca          *CA
	host        tls.Certificate
	key         string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir()}
	l.caFile = filepath.Join(l.dir, "ca.crt")
	var err error
	if l.ca, _, err = InitCA(l.caFile, filepath.Join(l.dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if l.host, l.key, err = LoadOrMakeHostKey(filepath.Join(l.dir, "identity")); err != nil {
		t.Fatal(err)
	}
	return l
}

// serve answers each request with the hash of the key that made it.
func serve(t *testing.T, conf *tls.Config) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			fmt.Fprint(w, "nobody")
			return
		}
		fmt.Fprint(w, KeyHash(r.TLS.PeerCertificates[0]), " ", r.Proto, " ", tls.VersionName(r.TLS.Version))
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	if conf == nil {
		s.Start()
	} else {
		s.Listener = tls.NewListener(s.Listener, conf)
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func get(t *testing.T, c *Client, addr string) (string, error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: c.Config()}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://" + addr + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	return b.String(), err
}

func TestHandshake(t *testing.T) {
	l := newLab(t)
	s, err := NewServer(l.ca, []string{"receiver.example.org", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, s.Config())
	for _, name := range []string{"receiver.example.org", "127.0.0.1"} {
		c, err := NewClient(l.host, l.caFile, name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := get(t, c, addr); err != nil || got != l.key+" HTTP/1.1 TLS 1.3" {
			t.Errorf("%q, %v", got, err)
		}
	}
	// TLS 1.2 is not spoken.
	if _, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is accepted")
	}
	// Somebody without a key gets through the handshake and is nobody.
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	// A resumed connection still says who it is, and is checked again.
	c, err := NewClient(l.host, l.caFile, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	conf := c.Config()
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		tr := &http.Transport{TLSClientConfig: conf}
		resp, err := (&http.Client{Transport: tr}).Get("https://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		b.ReadFrom(resp.Body)
		if !strings.HasPrefix(b.String(), l.key) || resp.TLS.DidResume != (i == 1) {
			t.Errorf("%d: %q, resumed %v", i, b.String(), resp.TLS.DidResume)
		}
		tr.CloseIdleConnections()
	}
	os.WriteFile(l.caFile, []byte("no longer trusted"), 0o644)
	tr := &http.Transport{TLSClientConfig: conf}
	if _, err := (&http.Client{Transport: tr}).Get("https://" + addr); c.Explain(err) == nil {
		t.Errorf("a root taken away is still trusted: %v", err)
	}
}

func TestNewClientNeedsAllOfIt(t *testing.T) {
	l := newLab(t)
	if _, err := NewClient(l.host, l.caFile, ""); err == nil {
		t.Error("a client without a name to expect")
	}
	if _, err := NewClient(tls.Certificate{}, l.caFile, "x"); err == nil {
		t.Error("a client without a key")
	}
}

// issue makes a certificate with dates of its own.
func (ca *CA) issue(t *testing.T, name string, from, to time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := sign(&x509.Certificate{Subject: pkix.Name{CommonName: "test " + name}, DNSNames: []string{name}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca.Cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Cert.Raw}, PrivateKey: key, Leaf: leaf}
}

// Each way in which trust can fail is named, through a real handshake and all
// that net/http wraps around it, with what was expected and what came.
func TestFailedHandshakesAreExplained(t *testing.T) {
	l := newLab(t)
	other := newLab(t)
	now := time.Now()
	hour := time.Hour
	const name = "receiver.example.org"
	static := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	good := l.ca.issue(t, name, now.Add(-hour), now.Add(hour))
	stale := l.ca.issue(t, name, now.Add(-2*hour), now.Add(-hour))
	early := l.ca.issue(t, name, now.Add(hour), now.Add(2*hour))
	stranger := other.ca.issue(t, "elsewhere.example.org", now.Add(-2*hour), now.Add(-hour))
	alone := other.ca.issue(t, name, now.Add(-hour), now.Add(hour))
	alone.Certificate = alone.Certificate[:1]

	// A CA whose own certificate has expired.
	oldKey, err := readKey(filepath.Join(l.dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	oldT := &x509.Certificate{Subject: pkix.Name{CommonName: "old CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: now.Add(-3 * hour), NotAfter: now.Add(-2 * hour)}
	oldCert, err := sign(oldT, oldT, oldKey.Public(), oldKey)
	if err != nil {
		t.Fatal(err)
	}
	old := &CA{Cert: oldCert, key: oldKey}
	oldFile := filepath.Join(l.dir, "old.crt")
	os.WriteFile(oldFile, certPEM(oldCert), 0o644)
	junk := filepath.Join(l.dir, "junk")
	os.WriteFile(junk, []byte("junk"), 0o644)

	// A certificate that is trusted but is one of a client.
	var clientOnly tls.Certificate
	{
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		leaf, err := sign(&x509.Certificate{DNSNames: []string{name}, NotBefore: now.Add(-hour), NotAfter: now.Add(hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, l.ca.Cert, key.Public(), l.ca.key)
		if err != nil {
			t.Fatal(err)
		}
		clientOnly = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	}

	for _, c := range []struct {
		what   string
		conf   *tls.Config
		caFile string
		want   code.Code
		says   []string
	}{
		{"all is well", static(good), l.caFile, "", nil},
		{"issued by another CA", static(other.ca.issue(t, name, now.Add(-hour), now.Add(hour))), l.caFile, code.TLSUntrusted,
			[]string{"expected", Fingerprint(l.ca.Cert), l.caFile, "got", Fingerprint(other.ca.Cert)}},
		{"issued by another CA, sent alone", static(alone), l.caFile, code.TLSUntrusted, []string{Fingerprint(alone.Leaf), "issued by \"CN=cis490 receiver CA"}},
		{"a stranger's, expired and with another name", static(stranger), l.caFile, code.TLSUntrusted, []string{Fingerprint(stranger.Leaf)}},
		{"for clients only", static(clientOnly), l.caFile, code.TLSUntrusted, []string{"incompatible key usage"}},
		{"expired", static(stale), l.caFile, code.TLSExpired, []string{"the receiver's certificate", "expired on " + stale.Leaf.NotAfter.UTC().Format(time.RFC3339), "clock says"}},
		{"not valid yet", static(early), l.caFile, code.TLSExpired, []string{"not valid before " + early.Leaf.NotBefore.UTC().Format(time.RFC3339)}},
		{"CA expired", static(old.issue(t, name, now.Add(-hour), now.Add(hour))), oldFile, code.TLSExpired, []string{"the CA certificate", "old CA", "expired on"}},
		{"another name", static(l.ca.issue(t, "proxy.example.org", now.Add(-hour), now.Add(hour))), l.caFile, code.TLSWrongName,
			[]string{"expected a certificate for receiver.example.org", "got one for proxy.example.org"}},
		{"ca_file missing", static(good), filepath.Join(l.dir, "absent"), code.TLSUntrusted, []string{"ca_file", "no such file"}},
		{"ca_file junk", static(good), junk, code.TLSUntrusted, []string{"ca_file", "no PEM block"}},
		{"the system's roots", static(good), "", code.TLSUntrusted, []string{"a CA that this machine trusts", Fingerprint(good.Leaf)}},
		{"plain HTTP", nil, l.caFile, code.TLSUntrusted, []string{"plain HTTP"}},
		{"TLS 1.2 only", &tls.Config{Certificates: []tls.Certificate{good}, MaxVersion: tls.VersionTLS12}, l.caFile, code.TLSUntrusted, []string{"refused", "protocol version"}},
		{"no such name there", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}, l.caFile, code.TLSUntrusted, []string{"refused", "unrecognized name"}},
		{"insists on a certificate of its CA", &tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}, l.caFile, code.TLSUntrusted, []string{"refused"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			client, err := NewClient(l.host, c.caFile, name)
			if err != nil {
				t.Fatal(err)
			}
			_, err = get(t, client, serve(t, c.conf))
			got := client.Explain(err)
			if c.want == "" {
				if err != nil || got != nil {
					t.Fatal(err, got)
				}
				return
			}
			if got == nil || got.Code != c.want {
				t.Fatalf("explained as %v; want %s (%v)", got, c.want, err)
			}
			for _, s := range c.says {
				if !strings.Contains(got.Error(), s) {
					t.Errorf("does not say %q: %v", s, got)
				}
			}
			if strings.Contains(got.Detail, "\n") {
				t.Errorf("more than one line: %v", got)
			}
		})
	}
}

// What is not about trust is not taken for it.
func TestOtherFailuresAreNotExplained(t *testing.T) {
	l := newLab(t)
	c, err := NewClient(l.host, l.caFile, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	if _, err := get(t, c, ln.Addr().String()); err == nil || c.Explain(err) != nil {
		t.Errorf("cut in the handshake: %v explained as %v", err, c.Explain(err))
	}
	ln.Close()
	if _, err := get(t, c, ln.Addr().String()); err == nil || c.Explain(err) != nil {
		t.Errorf("refused: %v explained as %v", err, c.Explain(err))
	}
	for _, err := range []error{nil, errors.New("x"), code.New(code.Cut, "x"), tls.AlertError(20),
		&net.OpError{Op: "remote error", Err: tls.AlertError(20)}, &net.OpError{Op: "local error", Err: tls.AlertError(48)},
		tls.RecordHeaderError{Msg: "oversized record received with length 20000"}} {
		if e := c.Explain(err); e != nil {
			t.Errorf("%v explained as %v", err, e)
		}
	}
}

func TestExplainKeepsAStrangersTextShort(t *testing.T) {
	l := newLab(t)
	other := newLab(t)
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("host-%d.example.org", i))
	}
	cert, err := l.ca.Issue(names)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(l.host, l.caFile, "x")
	if err != nil {
		t.Fatal(err)
	}
	e := c.Explain(c.verify([]*x509.Certificate{cert.Leaf}, time.Now()))
	if e == nil || e.Code != code.TLSWrongName || len(e.Error()) > 500 || !strings.Contains(e.Error(), "and 92 more") {
		t.Error(e)
	}
	loud := other.ca.issue(t, "x", alwaysFrom, alwaysTo).Leaf
	loud.Subject.CommonName, loud.Issuer.CommonName = strings.Repeat("\x1b[31mshout\n", 50), strings.Repeat("é\n", 500)
	e = c.Explain(c.verify([]*x509.Certificate{loud}, time.Now()))
	if e == nil || len(e.Error()) > 1000 || strings.ContainsAny(e.Error(), "\n\x1b") {
		t.Error(e)
	}
	if e := c.Explain(c.verify(nil, time.Now())); e == nil || e.Code != code.TLSUntrusted {
		t.Error(e)
	}
}
