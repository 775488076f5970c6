package e2e

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var discardLog = log.New(io.Discard, "", 0)

// sameTrees compares two trees by programs that are not ours: bytes and names by diff, and sizes, modification times in
// nanoseconds, x bits and empty directories by find.
func sameTrees(t *testing.T, want, got string) {
	t.Helper()
	if out, _, status := try(t, "diff", "-r", "--no-dereference", want, got); status != 0 {
		t.Errorf("diff -r %s %s: status %d\n%.4000s", want, got, status, out)
	}
	for what, args := range map[string][]string{
		"files, sizes and times": {"-type", "f", "-printf", `%P\t%s\t%T@\0`},
		"executable files":       {"-type", "f", "-perm", "-u+x", "-printf", `%P\0`},
		"directories":            {"-type", "d", "-printf", `%P\0`},
		"empty directories":      {"-type", "d", "-empty", "-printf", `%P\0`},
	} {
		list := func(dir string) []string {
			l := strings.Split(command(t, "find", append([]string{dir}, args...)...), "\x00")
			slices.Sort(l)
			return l
		}
		w, g := list(want), list(got)
		if !slices.Equal(w, g) {
			for _, x := range w {
				if !slices.Contains(g, x) {
					t.Errorf("%s: lost %q", what, x)
				}
			}
			for _, x := range g {
				if !slices.Contains(w, x) {
					t.Errorf("%s: not in the source: %q", what, x)
				}
			}
		}
	}
}

// unpackByStockTools unpacks an archive by zstd and tar and verifies it by sha256sum. It returns the episode's directory.
func unpackByStockTools(t *testing.T, archive, id string) string {
	t.Helper()
	need(t, "zstd", "tar", "sha256sum")
	dir := tempDir(t)
	command(t, "bash", "-c", `set -o pipefail; zstd -q -dc -- "$1" | tar -x -C "$2"`, "bash", archive, dir)
	if got := names(t, dir); !slices.Equal(got, []string{id}) {
		t.Fatalf("the archive has %v at its top, want %s alone", got, id)
	}
	bag := filepath.Join(dir, id)
	for _, m := range []string{"tagmanifest-sha256.txt", "manifest-sha256.txt"} {
		command(t, "bash", "-c", `cd "$1" && sha256sum --quiet --strict -c "$2"`, "bash", bag, m)
	}
	// What the manifest does not name must not be there either.
	lines := strings.Count(readFile(t, filepath.Join(bag, "manifest-sha256.txt")), "\n")
	files := strings.Count(command(t, "find", filepath.Join(bag, "data"), "-type", "f", "-printf", "x\n"), "\n")
	if lines != files {
		t.Errorf("the manifest names %d files, the payload has %d", lines, files)
	}
	return bag
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func writeFile(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// noise makes a file that does not compress, without keeping it in memory.
func noise(t *testing.T, file string, size int64) {
	t.Helper()
	write(t, file, io.LimitReader(mrand.NewChaCha8(sha256.Sum256([]byte(file))), size))
}

// telemetry makes a file like those of experiments: numbers that drift, and compress about ten times.
func telemetry(t *testing.T, file string, size int64) {
	t.Helper()
	write(t, file, io.LimitReader(&repeat{b: samples()}, size))
}

var samples = sync.OnceValue(func() []byte {
	r := mrand.New(mrand.NewPCG(1, 2))
	var block bytes.Buffer
	at, v := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 1000
	block.WriteString("time,cpu_usage_us,memory_current_bytes\n")
	for block.Len() < 4<<20 {
		at, v = at.Add(10*time.Millisecond), v+r.IntN(9)-4
		fmt.Fprintf(&block, "%s,%d,1048576\n", at.Format(time.RFC3339Nano), v)
	}
	return block.Bytes()
})

type repeat struct {
	b  []byte
	at int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.b[r.at:])
	r.at = (r.at + n) % len(r.b)
	return n, nil
}

func write(t *testing.T, file string, from io.Reader) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(file)
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, from, make([]byte, 1<<20))
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// smallSource makes a directory of a few files.
func smallSource(t *testing.T, content string) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), "run")
	writeFile(t, filepath.Join(dir, "result.csv"), []byte("value\n"+content+"\n"))
	writeFile(t, filepath.Join(dir, "log", "out.txt"), []byte(strings.Repeat(content+"\n", 50)))
	return dir
}

// certificate makes a self-made certificate for an address, by a CA that nobody knows or, if given, by this one.
func certificate(t *testing.T, name string, ca *tls.Certificate, notAfter time.Time) tls.Certificate {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(name); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{name}
	}
	parent, signer := c, any(key)
	if ca != nil {
		if parent, err = x509.ParseCertificate(ca.Certificate[0]); err != nil {
			t.Fatal(err)
		}
		signer = ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// caPair is the receiver's CA, for certificates that it would not issue itself.
func (r *receiver) caPair() *tls.Certificate {
	r.t.Helper()
	c, err := tls.LoadX509KeyPair(r.ca(), filepath.Join(filepath.Dir(r.ca()), "ca.key"))
	if err != nil {
		r.t.Fatal(err)
	}
	return &c
}

// front is a certificate that the hosts of r accept for the proxy's address.
func (r *receiver) front() tls.Certificate {
	return certificate(r.t, "127.0.0.1", r.caPair(), time.Now().Add(time.Hour))
}
