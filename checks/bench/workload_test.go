package main

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestTelemetryIsTheSameForASeedAndCompresses(t *testing.T) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	const size = 256 << 10
	var all, packed int
	for f := range 8 {
		data := telemetry(rand.New(rand.NewPCG(1, 2)), f, size)
		if len(data) != size || !bytes.Equal(data, telemetry(rand.New(rand.NewPCG(1, 2)), f, size)) {
			t.Errorf("file %d: %d bytes, want the same %d each time", f, len(data), size)
		}
		n := len(e.EncodeAll(data, nil))
		t.Logf("file %d: %.2f:1", f, float64(size)/float64(n))
		all, packed = all+size, packed+n
	}
	if ratio := float64(all) / float64(packed); ratio < 2.7 || ratio > 3.4 {
		t.Errorf("compresses %.2f:1, want about 3:1", ratio)
	}
}
