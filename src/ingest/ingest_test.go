package ingest

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"testing"

	"cis490/src/code"
	"cis490/src/journal"
	"cis490/src/wire"
)

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("CIS490_TEST_LOG") != "" {
		return journal.New(os.Stderr, journal.Options{Level: slog.LevelDebug})
	}
	return journal.Discard()
}

func TestSmallInOnePost(t *testing.T) {
	g := newRig(t)
	p := g.host.small(1)
	if len(p.frames) != 1 {
		t.Fatalf("%d frames; want 1", len(p.frames))
	}
	first := receipt(t, g.host.post(p), p, code.Stored)
	g.stored(p)
	again := receipt(t, g.host.post(p), p, code.AlreadyStored)
	if first != again {
		t.Errorf("receipts differ: %+v, %+v", first, again)
	}
}

func TestBigInOnePost(t *testing.T) {
	g := newRig(t)
	p := g.host.big(2, 3)
	a := g.host.post(p)
	receipt(t, a, p, code.Stored)
	g.stored(p)
	if len(a.interim) == 0 || a.interim[0].Get("Location") == "" || a.interim[0].Get(wire.HeaderInterop) != wire.InteropVersion || a.interim[0].Get(wire.HeaderUploadLimit) == "" {
		t.Errorf("interim answers: %v", a.interim)
	}
	// The resource is there still, for a host that lost the answer.
	h := g.host.head(a.interim[0].Get("Location"))
	want(t, h, http.StatusNoContent, code.Stored)
	if h.Header.Get(wire.HeaderUploadComplete) != "?1" || offset(t, h) != int64(len(p.bytes())) {
		t.Errorf("HEAD of the finished upload: %s", h)
	}
	// Without the interop version no 104 may be sent, and the upload works.
	q := g.host.big(3, 2)
	ann := q.announcement()
	a = g.host.do(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(q.bytes()),
		header: map[string]string{wire.HeaderUploadComplete: "?1", wire.HeaderInterop: ""}})
	receipt(t, a, q, code.Stored)
	if len(a.interim) != 0 {
		t.Errorf("104 to a client without the interop version: %v", a.interim)
	}
}

func TestCreateThenAppend(t *testing.T) {
	g := newRig(t)
	p := g.host.big(4, 3)
	all := p.bytes()
	path := g.host.begin(p)
	at := int64(0)
	for i, part := range [][]byte{all[:1000], all[1000 : 2<<20], all[2<<20:]} {
		h := g.host.head(path)
		want(t, h, http.StatusNoContent, "")
		if offset(t, h) != at || h.Header.Get(wire.HeaderUploadComplete) != "?0" || h.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("before part %d: %s", i, h)
		}
		a := g.host.do(patch(path, at, i == 2, part))
		at += int64(len(part))
		if i < 2 {
			want(t, a, http.StatusNoContent, "")
			if a.Header.Get(wire.HeaderUploadComplete) != "?0" || offset(t, a) != at {
				t.Fatalf("after part %d: %s", i, a)
			}
			continue
		}
		receipt(t, a, p, code.Stored)
	}
	g.stored(p)
}
