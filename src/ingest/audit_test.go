package ingest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/wire"
)

func auditBody(t testing.TB, asked ...wire.Acknowledged) []byte {
	t.Helper()
	b, err := json.Marshal(wire.Audit{Receipts: asked})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *client) audit(asked ...wire.Acknowledged) []wire.AuditedEpisode {
	c.t.Helper()
	a := c.do(request{method: "POST", path: wire.PathAudit, body: bytes.NewReader(auditBody(c.t, asked...))})
	want(c.t, a, 200, "")
	all, err := wire.ReadAudited(bytes.NewReader(a.body), asked)
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}

func TestAudit(t *testing.T) {
	g := newRig(t)
	p, q := g.host.small(1), g.host.small(2)
	stored := receipt(t, g.host.post(p), p, code.Stored)
	receipt(t, g.host.post(q), q, code.Stored)
	other := g.newHost("lab-2")
	o := other.small(3)
	receipt(t, other.post(o), o, code.Stored)

	never := episode.NewID()
	got := g.host.audit(
		wire.Acknowledged{Episode: p.facts.ID, BagDigest: p.facts.Digest},
		wire.Acknowledged{Episode: never, BagDigest: p.facts.Digest},
		wire.Acknowledged{Episode: q.facts.ID, BagDigest: p.facts.Digest},
		wire.Acknowledged{Episode: o.facts.ID, BagDigest: o.facts.Digest},
		wire.Acknowledged{Episode: p.facts.ID, BagDigest: p.facts.Digest},
	)
	for i, v := range []wire.Verdict{wire.VerdictStored, wire.VerdictMissing, wire.VerdictDiffers, wire.VerdictMissing, wire.VerdictStored} {
		if got[i].Verdict != v {
			t.Errorf("episode %d: %s, want %s", i, got[i].Verdict, v)
		}
		if (got[i].Receipt != nil) != (v != wire.VerdictMissing) {
			t.Errorf("episode %d, %s: receipt %v", i, v, got[i].Receipt)
		}
	}
	if *got[0].Receipt != stored || got[2].Receipt.BagDigest != q.facts.Digest {
		t.Errorf("receipts %+v and %+v", got[0].Receipt, got[2].Receipt)
	}
	// Whoever may not ship may not ask.
	a := g.stranger("lab-3").do(request{method: "POST", path: wire.PathAudit, body: bytes.NewReader(auditBody(t, wire.Acknowledged{Episode: p.facts.ID, BagDigest: p.facts.Digest}))})
	want(t, a, 403, code.HostUnknown)
}

func TestAuditOfMany(t *testing.T) {
	g := newRig(t)
	p := g.host.small(1)
	receipt(t, g.host.post(p), p, code.Stored)
	asked := make([]wire.Acknowledged, wire.MaxAudit)
	for i := range asked {
		asked[i] = wire.Acknowledged{Episode: episode.NewID(), BagDigest: bag.DigestOf([]byte{byte(i)})}
	}
	asked[777] = wire.Acknowledged{Episode: p.facts.ID, BagDigest: p.facts.Digest}
	if n := len(auditBody(t, asked...)); n > wire.MaxAuditBody {
		t.Fatalf("an audit as large as is allowed has %d bytes", n)
	}
	for i, e := range g.host.audit(asked...) {
		if (e.Verdict == wire.VerdictStored) != (i == 777) {
			t.Fatalf("episode %d is %s", i, e.Verdict)
		}
	}
}

func TestBadAudits(t *testing.T) {
	g := newRig(t)
	one := wire.Acknowledged{Episode: episode.NewID(), BagDigest: bag.DigestOf(nil)}
	many := make([]wire.Acknowledged, wire.MaxAudit+1)
	for i := range many {
		many[i] = one
	}
	long := bytes.Repeat([]byte{' '}, wire.MaxAuditBody+1)
	for name, c := range map[string]struct {
		body   io.Reader
		status int
	}{
		"empty":            {strings.NewReader(""), 400},
		"nothing":          {bytes.NewReader(auditBody(t)), 400},
		"no digest":        {strings.NewReader(`{"receipts":[{"episode":"` + one.Episode.String() + `"}]}`), 400},
		"no id":            {strings.NewReader(`{"receipts":[{"episode":"../../etc/passwd","bag_digest":"00"}]}`), 400},
		"no JSON":          {strings.NewReader("receipts"), 400},
		"deep":             {strings.NewReader(strings.Repeat("[", 200_000)), 400},
		"too many":         {bytes.NewReader(auditBody(t, many...)), 400},
		"too long":         {bytes.NewReader(long), 413},
		"too long, unsaid": {io.MultiReader(bytes.NewReader(long), bytes.NewReader(long)), 400},
	} {
		a := g.host.do(request{method: "POST", path: wire.PathAudit, body: c.body})
		if a.StatusCode != c.status || a.code() != "" {
			t.Errorf("%s: %s; want %d", name, a, c.status)
		}
	}
	if a := g.host.do(request{method: "GET", path: wire.PathAudit}); a.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", a)
	}
	g.host.audit(one) // it serves on
}

// A body that crawls holds up nobody but its own host.
func TestOneAuditOfAHostAtATime(t *testing.T) {
	g := newRig(t)
	one := wire.Acknowledged{Episode: episode.NewID(), BagDigest: bag.DigestOf(nil)}
	slow := &cutBody{b: []byte(`{"receipts":[`), wait: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = g.host.try(request{method: "POST", path: wire.PathAudit, body: slow})
	}()
	for end := time.Now().Add(5 * time.Second); g.r.audits.inUse() == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	a := g.host.do(request{method: "POST", path: wire.PathAudit, body: bytes.NewReader(auditBody(t, one))})
	want(t, a, 503, code.ReceiverBusy)
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	g.newHost("lab-2").audit(one)
	close(slow.wait)
	<-done
	for end := time.Now().Add(5 * time.Second); g.r.audits.inUse() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	g.host.audit(one)
}
