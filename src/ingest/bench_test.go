package ingest

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/wire"
)

// BenchmarkSmall sends episodes of 64 KiB over loopback with mutual TLS; each is
// verified and on the disk when it is answered.
func BenchmarkSmall(b *testing.B) {
	const workers = 16
	g := newRig(b, func(c *config.Receiver) { c.Limits.UploadsPerHost = workers })
	specs := make([]episode.Spec, b.N)
	for i := range specs {
		specs[i] = episode.Spec{Run: episode.Run{Host: "lab-1", Workload: "bench"}, Files: []episode.File{{Path: "output/a.bin", Data: noise(uint64(i), 64<<10)}}}
	}
	sealed, err := episode.Make(b.Context(), g.host.data, specs...)
	if err != nil {
		b.Fatal(err)
	}
	packs := make(chan *packed, len(sealed))
	for _, s := range sealed {
		packs <- packDir(b, filepath.Join(g.host.data, "sealed", s.Facts.ID.String()))
	}
	close(packs)
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for p := range packs {
				ann := p.announcement()
				a, err := g.host.try(request{method: "POST", path: wire.PathEpisodes, ann: &ann, body: bytes.NewReader(p.frames[0]), header: map[string]string{wire.HeaderUploadComplete: "?1"}})
				if err != nil || a.code() != code.Stored {
					b.Error(a, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "episodes/s")
}

// BenchmarkBig sends episodes of 64 MiB, each in an upload of its own.
func BenchmarkBig(b *testing.B) {
	g := newRig(b)
	var packs []*packed
	for i := range b.N {
		packs = append(packs, g.host.episode(episode.File{Path: "output/a.bin", Data: noise(uint64(i), 64<<20)}))
	}
	b.SetBytes(64 << 20)
	b.ResetTimer()
	for _, p := range packs {
		path := g.host.begin(p)
		if a := g.host.do(patch(path, 0, true, p.bytes())); a.StatusCode != http.StatusCreated {
			b.Fatal(a)
		}
	}
	b.StopTimer()
	if n := len(incoming(b, g)); n != 0 {
		b.Error(fmt.Sprint(n, " files left in incoming/"))
	}
}
