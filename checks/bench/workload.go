package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"cis490/src/episode"
)

// w1Bytes is the payload of one episode of workload W1, in bytes, without run.json.
const w1Bytes = 8 * 8 << 10

// makeW1 seals n episodes of 8 files and 64 KiB below dir: telemetry-like, from
// a fixed seed, compressing about 3:1.
func makeW1(ctx context.Context, dir string, n int) error {
	r := rand.New(rand.NewPCG(1, 490))
	start := time.Now().Add(-time.Hour)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const batch = 250
	for done := 0; done < n; done += batch {
		var specs []episode.Spec
		for i := done; i < min(done+batch, n); i++ {
			run := episode.Run{Host: "bench", Workload: "w1"}
			run.Started.Realtime = start.Add(time.Duration(i) * time.Millisecond)
			run.Ended.Realtime = run.Started.Realtime.Add(time.Second)
			spec := episode.Spec{Run: run}
			for f := range 8 {
				var data []byte
				switch f {
				case 0, 1, 2:
					data = jsonLines(r, 8<<10)
				case 7:
					data = counters(r, 8<<10)
				default:
					data = csv(r, 8<<10)
				}
				spec.Files = append(spec.Files, episode.File{Path: fmt.Sprintf("output/part-%d.dat", f), Data: data})
			}
			specs = append(specs, spec)
		}
		if _, err := episode.Make(ctx, dir, specs...); err != nil {
			return err
		}
	}
	return nil
}

func jsonLines(r *rand.Rand, size int) []byte {
	var b bytes.Buffer
	for t := r.Int64N(1e12); b.Len() < size; t += 100 + r.Int64N(9) {
		fmt.Fprintf(&b, `{"t_us":%d,"cpu_usage_us":%d,"memory_current_bytes":%d,"io_rbytes":%d}`+"\n", t, r.IntN(100_000), 4096*r.IntN(100_000), 512*r.IntN(9999))
	}
	return b.Bytes()[:size]
}

func csv(r *rand.Rand, size int) []byte {
	var b bytes.Buffer
	b.WriteString("t_us,temperature_c,voltage_v,count\n")
	for t := r.Int64N(1e12); b.Len() < size; t += 1000 {
		fmt.Fprintf(&b, "%d,%.2f,%.3f,%d\n", t, 20+r.NormFloat64(), 3.3+r.NormFloat64()/100, r.IntN(1000))
	}
	return b.Bytes()[:size]
}

func counters(r *rand.Rand, size int) []byte {
	b := make([]byte, 0, size)
	for v := r.Uint64N(1 << 40); len(b) < size; v += r.Uint64N(4096) {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}
