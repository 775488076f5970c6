package ingest

import (
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cis490/src/code"
)

// Whatever happens to an upload (appends of any size, cuts anywhere, wrong offsets,
// restarts of the receiver), its offset never goes back below what was told, every
// told offset can be gone on from, and what is stored in the end is what was sent.
func TestAnyCourseOfAnUpload(t *testing.T) {
	g := newRig(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		if n++; n > 12 {
			return // each takes a while
		}
		q := g.host.big(uint64(1000+n), 3)
		all := q.bytes()
		path := g.host.begin(q)
		told, proper := int64(0), int64(0)
		ends, at := map[int64]bool{0: true}, int64(0)
		for _, f := range q.frames {
			at += int64(len(f))
			ends[at] = true
		}
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"append", "cut", "wrong", "restart"}).Draw(rt, "step") {
			case "append":
				k := rapid.Int64Range(0, int64(len(all))-told).Draw(rt, "bytes")
				a := g.host.do(patch(path, told, false, all[told:told+k]))
				if a.StatusCode != http.StatusNoContent || offset(t, a) != told+k {
					rt.Fatalf("append %d at %d: %s", k, told, a)
				}
				told += k
				proper = told
			case "cut":
				k := rapid.Int64Range(0, int64(len(all))-told).Draw(rt, "bytes")
				r := patch(path, told, true, nil)
				r.body, r.length = &cutBody{b: all[told : told+k]}, -1
				if _, err := g.host.try(r); err == nil {
					rt.Fatal("the cut was not felt")
				}
				waitFor(t, "the cut request to end", func() bool { return g.r.slots.inUse() == 0 })
			case "wrong":
				a := g.host.do(patch(path, int64(len(all))+1, false, []byte("x")))
				if a.code() != code.OffsetMismatch {
					rt.Fatal(a)
				}
			case "restart":
				g.restart()
			}
			h := g.host.head(path)
			if h.StatusCode != http.StatusNoContent {
				rt.Fatal(h)
			}
			now := offset(t, h)
			if now < told || (!ends[now] && now != proper) {
				rt.Fatalf("offset %d after %d was told; the last proper end was %d", now, told, proper)
			}
			told = now
		}
		a := g.host.do(patch(path, told, true, all[told:]))
		receipt(t, a, q, code.Stored)
		g.stored(q)
	})
	for _, name := range incoming(t, g) {
		if strings.HasSuffix(name, dataSuffix) {
			t.Errorf("left in incoming/: %s", name)
		}
	}
}
