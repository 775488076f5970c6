package ingest

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cis490/src/code"
	"cis490/src/wire"
)

// curl runs the stock client as the host and returns the answer's header and body.
func (c *client) curl(ca string, args ...string) (header, body string) {
	c.t.Helper()
	exe, err := exec.LookPath("curl")
	if err != nil {
		c.t.Skip("curl is not installed")
	}
	dir := c.t.TempDir()
	base := []string{"--silent", "--show-error", "--max-time", "30", "--cacert", ca, "--cert", filepath.Join(c.dir, "identity", "host.crt"),
		"--key", filepath.Join(c.dir, "identity", "host.key"), "--dump-header", filepath.Join(dir, "header"), "--output", filepath.Join(dir, "body")}
	if out, err := exec.CommandContext(c.t.Context(), exe, append(base, args...)...).CombinedOutput(); err != nil {
		c.t.Fatalf("curl %v: %v\n%s", args, err, out)
	}
	h, err := os.ReadFile(filepath.Join(dir, "header"))
	if err != nil {
		c.t.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(dir, "body")) // there is none without a body
	return string(h), string(b)
}

// final is the status of the last answer in a dumped header.
func final(header string) int {
	all := regexp.MustCompile(`(?m)^HTTP/1\.1 (\d{3})`).FindAllStringSubmatch(header, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1][1]) // three digits
	return n
}

func field(header, name string) string {
	all := regexp.MustCompile(`(?mi)^`+name+`:\s*(.*?)\s*$`).FindAllStringSubmatch(header, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

func TestCurl(t *testing.T) {
	g := newRig(t)
	write := func(b []byte) string {
		f := filepath.Join(t.TempDir(), "body")
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return "@" + f
	}
	url := g.host.base + wire.PathEpisodes
	for _, p := range []*packed{g.host.small(1), g.host.big(2, 3)} {
		// In one POST.
		announce := "Cis490-Episode: " + wire.FormatAnnouncement(p.announcement())
		h, b := g.host.curl(g.cfg.TLS.CACertFile, "-H", announce, "-H", "Upload-Complete: ?1", "-H", "Upload-Draft-Interop-Version: 8",
			"-H", "Content-Type: application/zstd", "--data-binary", write(p.bytes()), url)
		if final(h) != http.StatusCreated || !strings.Contains(b, p.facts.Digest.String()) {
			t.Fatalf("%s%s", h, b)
		}
		g.stored(p)
		// Again, with a body that nobody wants to read.
		h, b = g.host.curl(g.cfg.TLS.CACertFile, "-H", announce, "-H", "Upload-Complete: ?1", "--data-binary", write(p.bytes()), url)
		if final(h) != http.StatusOK || !strings.Contains(b, p.facts.Digest.String()) {
			t.Fatalf("%s%s", h, b)
		}
	}

	// In three pieces, each from where the receiver says that the upload ends.
	p := g.host.big(3, 3)
	all := p.bytes()
	h, _ := g.host.curl(g.cfg.TLS.CACertFile, "-X", "POST", "-H", "Cis490-Episode: "+wire.FormatAnnouncement(p.announcement()), "-H", "Upload-Complete: ?0", url)
	if final(h) != http.StatusCreated {
		t.Fatal(h)
	}
	upload := g.host.base + field(h, "Location")
	for i, end := range []int{1_000_000, 2_500_000, len(all)} {
		h, _ := g.host.curl(g.cfg.TLS.CACertFile, "--head", upload)
		if final(h) != http.StatusNoContent {
			t.Fatal(h)
		}
		at, err := strconv.Atoi(field(h, "Upload-Offset"))
		if err != nil {
			t.Fatal(err)
		}
		complete := wire.FormatBool(end == len(all))
		h, b := g.host.curl(g.cfg.TLS.CACertFile, "-X", "PATCH", "-H", "Upload-Offset: "+strconv.Itoa(at), "-H", "Upload-Complete: "+complete,
			"-H", "Content-Type: application/partial-upload", "--data-binary", write(all[at:end]), upload)
		switch {
		case i < 2 && final(h) != http.StatusNoContent:
			t.Fatalf("%s%s", h, b)
		case i == 2 && (final(h) != http.StatusCreated || !strings.Contains(b, p.facts.Digest.String())):
			t.Fatalf("%s%s", h, b)
		}
	}
	g.stored(p)

	// A refusal of a long body is seen as what it is, with its fix.
	q := g.host.big(4, 6)
	ann := q.announcement()
	ann.Sent = ann.Sent.Add(-2 * g.cfg.MaxSkew)
	for _, expect := range []string{"Expect:", "Expect: 100-continue"} {
		h, b := g.host.curl(g.cfg.TLS.CACertFile, "-H", expect, "-H", "Cis490-Episode: "+wire.FormatAnnouncement(ann), "-H", "Upload-Complete: ?1", "--data-binary", write(q.bytes()), url)
		if final(h) != http.StatusPreconditionFailed || !strings.Contains(b, string(code.ClockSkew)) || !strings.Contains(b, "timedatectl") {
			t.Fatalf("%s%s", h, b)
		}
	}
}
