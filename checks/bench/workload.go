package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"cis490/src/episode"
)

// shape is what the episodes of a workload look like.
type shape struct {
	episodes, files int
	fileSize        int // bytes
}

func (s shape) bytes() int64 { return int64(s.episodes) * int64(s.files) * int64(s.fileSize) }

func (s shape) String() string {
	return fmt.Sprintf("%d episodes of %d files, %d KiB each", s.episodes, s.files, s.files*s.fileSize>>10)
}

// make seals the episodes in dir/sealed and returns their names. The content is
// telemetry-like, the same for the same seed, and compresses about 3:1.
func (s shape) make(ctx context.Context, dir string, seed uint64) ([]string, error) {
	if s.files*s.fileSize > 256<<20 {
		return s.makeBig(ctx, dir, seed)
	}
	var ids []string
	batch := max(1, 64<<20/(s.files*s.fileSize))
	start := time.Now().Add(-time.Hour)
	for done := 0; done < s.episodes; done += batch {
		var specs []episode.Spec
		for i := done; i < min(done+batch, s.episodes); i++ {
			run := episode.Run{Host: "bench", Workload: "bench"}
			run.Started.Realtime = start.Add(time.Duration(i) * time.Millisecond)
			run.Ended.Realtime = run.Started.Realtime.Add(time.Second)
			spec := episode.Spec{Run: run}
			for f := range s.files {
				data := telemetry(rand.New(rand.NewPCG(seed, uint64(i*s.files+f))), f, s.fileSize)
				spec.Files = append(spec.Files, episode.File{Path: partName(f), Data: data})
			}
			specs = append(specs, spec)
		}
		made, err := episode.Make(ctx, dir, specs...)
		if err != nil {
			return nil, err
		}
		for _, m := range made {
			ids = append(ids, m.ID.String())
		}
	}
	return ids, nil
}

// makeBig is make for episodes that are not to be held in memory.
func (s shape) makeBig(ctx context.Context, dir string, seed uint64) (ids []string, err error) {
	recorded := filepath.Join(filepath.Dir(dir), "recorded") // only what is outside of the data directory can be moved into it
	for i := range s.episodes {
		src := filepath.Join(recorded, strconv.Itoa(i))
		if err := os.MkdirAll(filepath.Join(src, "output"), 0o755); err != nil {
			return nil, err
		}
		var writers sync.WaitGroup
		failed := make([]error, 2)
		for w := range failed {
			writers.Go(func() {
				for f := w; f < s.files && failed[w] == nil; f += len(failed) {
					data := telemetry(rand.New(rand.NewPCG(seed, uint64(i*s.files+f))), f, s.fileSize)
					failed[w] = os.WriteFile(filepath.Join(src, partName(f)), data, 0o644)
				}
			})
		}
		writers.Wait()
		for _, err := range failed {
			if err != nil {
				return nil, err
			}
		}
		made, err := episode.SealDir(ctx, src, dir, episode.SealOptions{Host: "bench", Workload: "bench", Move: true})
		if err != nil {
			return nil, err
		}
		ids = append(ids, made.ID.String())
	}
	return ids, nil
}

func partName(f int) string { return fmt.Sprintf("output/part-%02d.dat", f) }

// telemetry is the content of the f-th file of an episode: JSON lines, CSV, and
// one in eight of binary counters.
func telemetry(r *rand.Rand, f, size int) []byte {
	switch f % 8 {
	case 0, 1, 2:
		return jsonLines(r, size)
	case 7:
		return counters(r, size)
	}
	return csv(r, size)
}

func jsonLines(r *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+256)
	for t := r.Int64N(1e12); len(b) < size; t += 100 + r.Int64N(9) {
		b = append(b, `{"t_us":`...)
		b = strconv.AppendInt(b, t, 10)
		b = append(b, `,"cycles":[`...)
		for cpu := range 8 {
			if cpu > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, r.Int64N(1_000_000_000_000), 10)
		}
		b = append(b, "]}\n"...)
	}
	return slices.Clip(b[:size])
}

func csv(r *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+256)
	b = append(b, "t_us,temperature_c,voltage_v,count\n"...)
	for t := r.Int64N(1e12); len(b) < size; t += 1000 {
		b = strconv.AppendInt(b, t, 10)
		b = append(b, ',')
		b = thousandths(b, 20_000+int64(r.NormFloat64()*100)*10)
		b = append(b, ',')
		b = thousandths(b, 3300+int64(r.NormFloat64()*10))
		b = append(b, ',')
		b = strconv.AppendInt(b, r.Int64N(1000), 10)
		b = append(b, '\n')
	}
	return slices.Clip(b[:size])
}

// thousandths appends v/1000 with its three decimals.
func thousandths(b []byte, v int64) []byte {
	b = strconv.AppendInt(b, v/1000, 10)
	b = append(b, '.')
	v %= 1000
	return append(b, byte('0'+v/100), byte('0'+v/10%10), byte('0'+v%10))
}

func counters(r *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+8)
	for v := r.Uint64N(1 << 40); len(b) < size; v += r.Uint64N(4096) {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b[:size]
}
