package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bigTree finds a real directory with many files: the Go tree where there is
// one, else documentation or configuration that every system has.
func bigTree() string {
	if out, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		if root := strings.TrimSpace(string(out)); root != "" {
			return root
		}
	}
	for _, d := range []string{"/usr/share/doc", "/etc"} {
		if _, err := os.Stat(d); err == nil {
			return d
		}
	}
	return "."
}

// growLog appends telemetry to a log file for as long as ctx lives, and hands
// over a snapshot of it n times: what a run that writes one log looks like.
func growLog(ctx context.Context, dir string, n int, every time.Duration, snapshot func(dir string) error) error {
	var log []byte
	r := rand.New(rand.NewPCG(1, 490))
	for i := range n {
		for range 2000 {
			log = fmt.Appendf(log, "%s level=info sensor=%d temperature_c=%.2f count=%d\n",
				time.Now().UTC().Format(time.RFC3339Nano), r.IntN(8), 20+r.NormFloat64(), r.IntN(1000))
		}
		d := filepath.Join(dir, fmt.Sprintf("log-%d", i+1))
		if err := os.MkdirAll(filepath.Join(d, "empty"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d, "run.log"), log, 0o644); err != nil {
			return err
		}
		if err := snapshot(d); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
	return nil
}

// bigFile writes size bytes of samples as an instrument would: 16-bit values
// around a slow wave, which compress a little.
func bigFile(ctx context.Context, path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	r := rand.New(rand.NewPCG(2, 490))
	block := make([]byte, 0, 1<<16)
	for written := int64(0); written < size; written += int64(len(block)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		block = block[:0]
		base := uint16(written >> 16)
		for len(block) < 1<<16 {
			v := r.Uint64()
			for range 4 {
				block = binary.LittleEndian.AppendUint16(block, base+uint16(v&0x3ff))
				v >>= 16
			}
		}
		block = block[:min(int64(len(block)), size-written)]
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}
