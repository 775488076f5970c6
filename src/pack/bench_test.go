package pack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"
)

// cpu reports what a benchmark cost in CPU time of all threads, which other work on the machine does not change much: MB of tar stream, or
// operations, for each second of it.
func cpu(b *testing.B, bytesPerOp int64, f func()) {
	used := func() float64 {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
	}
	b.ReportAllocs()
	start := used()
	f()
	spent := used() - start
	if bytesPerOp > 0 {
		b.SetBytes(bytesPerOp)
		b.ReportMetric(float64(bytesPerOp)*float64(b.N)/1e6/spent, "MB/cpu-s")
	}
	b.ReportMetric(float64(b.N)/spent, "op/cpu-s")
}

// smallEpisode is W1's: 8 files, 64 KiB.
func smallEpisode(b *testing.B) *content {
	files := tree{}
	for i := range 7 {
		files[fmt.Sprintf("output/f%d", i)] = telemetry(uint64(i), 9200)
	}
	return makeContent(b, files)
}

func BenchmarkStream(b *testing.B) {
	c := makeContent(b, tree{"telemetry": telemetry(1, 32<<20)})
	dir := c.write(b)
	for level := Raw; level <= Default; level++ {
		b.Run(level.String(), func(b *testing.B) {
			pl := plan(b, dir)
			p := NewPacker(Options{Level: level})
			packed := 0
			cpu(b, pl.TarSize(), func() {
				for b.Loop() {
					s := p.Stream(context.Background(), pl, 0)
					for {
						f, err := s.Next()
						if err == io.EOF {
							break
						}
						if err != nil {
							b.Fatal(err)
						}
						packed += len(f.Data)
						f.Release()
					}
					s.Close()
				}
			})
			b.ReportMetric(float64(pl.TarSize())*float64(b.N)/float64(packed), "ratio")
		})
	}
}

func BenchmarkSmall(b *testing.B) {
	dir := smallEpisode(b).write(b)
	for level := Raw; level <= Default; level++ {
		b.Run(level.String(), func(b *testing.B) {
			p := NewPacker(Options{Level: level})
			cpu(b, 0, func() {
				for b.Loop() {
					pl, err := NewPlan(dir)
					if err != nil {
						b.Fatal(err)
					}
					f, err := p.Small(pl)
					if err != nil {
						b.Fatal(err)
					}
					f.Release()
					pl.Close()
				}
			})
		})
	}
	b.Run("plan", func(b *testing.B) {
		cpu(b, 0, func() {
			for b.Loop() {
				pl, err := NewPlan(dir)
				if err != nil {
					b.Fatal(err)
				}
				pl.Close()
			}
		})
	})
}

func BenchmarkVerifySmall(b *testing.B) {
	c := smallEpisode(b)
	want, stream := c.facts(b), c.tar(b)
	for level := Raw; level <= Default; level++ {
		b.Run(level.String(), func(b *testing.B) {
			var e encoder
			frame, err := e.encode(level, stream, make([]byte, len(stream)+bufferSlack))
			if err != nil {
				b.Fatal(err)
			}
			var dst []byte
			cpu(b, 0, func() {
				for b.Loop() {
					if dst, err = DecodeFrame(dst[:0], frame, FrameSize); err != nil {
						b.Fatal(err)
					}
					if _, err := Verify(bytes.NewReader(dst), want, Limits{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	c := makeContent(b, tree{"telemetry": telemetry(1, 32<<20)})
	want, stream := c.facts(b), c.tar(b)
	b.Run("tar", func(b *testing.B) {
		cpu(b, int64(len(stream)), func() {
			for b.Loop() {
				if _, err := Verify(bytes.NewReader(stream), want, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	for level := Raw; level <= Default; level++ {
		b.Run(level.String(), func(b *testing.B) {
			var packed []byte
			var e encoder
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), FrameSize)
				out, err := e.encode(level, rest[:n], make([]byte, n+bufferSlack))
				if err != nil {
					b.Fatal(err)
				}
				packed, rest = append(packed, out...), rest[n:]
			}
			cpu(b, int64(len(stream)), func() {
				for b.Loop() {
					d := NewDecoder(bytes.NewReader(packed))
					if _, err := Verify(d, want, Limits{}); err != nil {
						b.Fatal(err)
					}
					d.Close()
				}
			})
		})
	}
}

func BenchmarkDecodeFrame(b *testing.B) {
	src := telemetry(1, FrameSize)
	for level := Raw; level <= Default; level++ {
		b.Run(level.String(), func(b *testing.B) {
			var e encoder
			frame, err := e.encode(level, src, make([]byte, len(src)+bufferSlack))
			if err != nil {
				b.Fatal(err)
			}
			var dst []byte
			cpu(b, FrameSize, func() {
				for b.Loop() {
					if dst, err = DecodeFrame(dst[:0], frame, FrameSize); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkPlan plans an episode of 20,000 files, and says what a plan and what verifying keep in memory.
func BenchmarkPlan(b *testing.B) {
	const n = 20_000
	files := tree{}
	for i := range n {
		files[fmt.Sprintf("output/directory-%03d/some-longer-file-name-%06d.json", i/100, i)] = fmt.Append(nil, i)
	}
	c := makeContent(b, files)
	dir := c.write(b)
	var pl *Plan
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	before := heap()
	cpu(b, 0, func() {
		for b.Loop() {
			if pl != nil {
				pl.Close()
			}
			var err error
			if pl, err = NewPlan(dir); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric((heap()-before)/n, "B/file")
	pl.Close()
}
