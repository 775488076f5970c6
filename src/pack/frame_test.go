package pack

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"cis490/src/code"
)

func TestXXH64(t *testing.T) {
	// Vectors of the reference implementation, seed 0.
	for in, want := range map[string]uint64{
		"":    0xef46db3751d8e999,
		"a":   0xd24ec4f1a98c6e5b,
		"abc": 0x44bc2cf5ad770999,
		"Nobody inspects the spammish repetition": 0xfbcea83c8a378bf1,
	} {
		var h xxh64
		h.reset()
		h.write([]byte(in))
		if got := h.sum(); got != want {
			t.Errorf("xxh64(%q) = %x, want %x", in, got, want)
		}
	}
	b := noise(1, 1000)
	var whole xxh64
	whole.reset()
	whole.write(b)
	rapid.Check(t, func(t *rapid.T) {
		var h xxh64
		h.reset()
		for rest := b; len(rest) > 0; {
			n := rapid.IntRange(0, min(len(rest), 70)).Draw(t, "n")
			h.write(rest[:n])
			rest = rest[n:]
		}
		if h.sum() != whole.sum() {
			t.Fatal("the hash depends on how the bytes come")
		}
	})
}

// Every frame that is packed is read by another decoder, has its size in the header and a checksum, and keeps to the bounds.
func TestEncodedFrames(t *testing.T) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	contents := map[string][]byte{
		"text": telemetry(1, FrameSize), "noise": noise(1, FrameSize), "zeros": make([]byte, FrameSize), "mixed": mixed(1, FrameSize),
		"pattern": bytes.Repeat([]byte("a pattern of some length, "), FrameSize/26+1)[:FrameSize],
		"almost":  append(make([]byte, FrameSize-10), "0123456789"...),
	}
	for level := Raw; level <= Default; level++ {
		var e encoder
		for name, all := range contents {
			for _, n := range []int{1, 2, 511, 512, 6000, 70_000, maxBlock - 1, maxBlock, maxBlock + 1, 3*maxBlock + 5, FrameSize - 1, FrameSize} {
				src := all[:n]
				dst := make([]byte, n+bufferSlack)
				out, err := e.encode(level, src, dst)
				if err != nil {
					t.Fatal(err)
				}
				where := fmt.Sprintf("%s of %d at %v", name, n, level)
				if len(out) > rawFrameSize(n) || &out[0] != &dst[0] {
					t.Errorf("%s: %d bytes, want at most %d, in the same memory", where, len(out), rawFrameSize(n))
				}
				if len(out)*maxRatio < n {
					t.Errorf("%s: ratio %d is above %d", where, n/len(out), maxRatio)
				}
				var s FrameScanner
				if k, done, err := s.Scan(out); err != nil || !done || k != len(out) || s.Frame() != (FrameInfo{int64(len(out)), int64(n)}) || !s.checksum {
					t.Fatalf("%s: scanned %d, %v, %v, %+v", where, k, done, err, s.Frame())
				}
				if got, err := dec.DecodeAll(out, nil); err != nil || !bytes.Equal(got, src) {
					t.Fatalf("%s: another decoder reads it differently: %v", where, err)
				}
				if got, err := DecodeFrame([]byte("before"), out, n); err != nil || !bytes.Equal(got[6:], src) {
					t.Fatalf("%s: DecodeFrame reads it differently: %v", where, err)
				}
				if _, err := DecodeFrame(nil, out, n-1); codeOf(err) != code.TooLarge {
					t.Errorf("%s: DecodeFrame with room for less: %v", where, err)
				}
			}
		}
	}
}

func codeOf(err error) code.Code {
	c, _ := code.Of(err)
	return c
}

// stock makes archives as other programs make them.
func stock(t testing.TB, content []byte) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	for _, o := range []struct {
		name string
		opts []zstd.EOption
	}{
		{"klauspost", nil},
		{"no checksum", []zstd.EOption{zstd.WithEncoderCRC(false)}},
		{"small window", []zstd.EOption{zstd.WithWindowSize(1 << 10)}},
		{"padded with skippable frames", []zstd.EOption{zstd.WithEncoderPadding(4096)}},
		{"single segment", []zstd.EOption{zstd.WithSingleSegment(true), zstd.WithWindowSize(8 << 20)}},
	} {
		enc, err := zstd.NewWriter(nil, o.opts...)
		if err != nil {
			t.Fatal(err)
		}
		m[o.name+", all"] = enc.EncodeAll(content, nil)
		var b bytes.Buffer
		enc.Reset(&b)
		enc.Write(content[:len(content)/2])
		enc.Flush()
		enc.Write(content[len(content)/2:])
		enc.Close()
		m[o.name+", streamed"] = b.Bytes()
		enc.Reset(&b)
		enc.Write(content)
		enc.Close()
	}
	if path, err := exec.LookPath("zstd"); err == nil {
		for _, args := range [][]string{{"-1"}, {"-3", "--no-check"}, {"-19", "--check"}, {"--fast=5"}, {"-3", "--format=zstd", "-T2", "-B512KiB"}} {
			cmd := exec.Command(path, append(args, "-c")...)
			cmd.Stdin = bytes.NewReader(content)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("zstd %v: %v", args, err)
			}
			m["stock zstd "+strings.Join(args, " ")] = out
		}
	}
	return m
}

func TestScannerReadsWhatOthersWrite(t *testing.T) {
	content := mixed(3, 1_200_000)
	skippable := []byte("\x5A\x2A\x4D\x18\x05\x00\x00\x00hello")
	for name, archive := range stock(t, content) {
		t.Run(name, func(t *testing.T) {
			whole := slices.Concat(skippable, archive, skippable, archive)
			want, valid, err := ScanFrames(bytes.NewReader(whole))
			if err != nil || valid != int64(len(whole)) {
				t.Fatalf("valid %d of %d, %v", valid, len(whole), err)
			}
			// In pieces of any size, the same.
			r := rand.New(rand.NewPCG(1, 2))
			var s FrameScanner
			var got []FrameInfo
			for p := whole; len(p) > 0; {
				n := min(len(p), 1+r.IntN(1<<r.IntN(18)))
				for piece := p[:n]; len(piece) > 0; {
					k, done, err := s.Scan(piece)
					if err != nil || !done && k != len(piece) {
						t.Fatal(k, done, err)
					}
					piece = piece[k:]
					if done {
						got = append(got, s.Frame())
						if s.Partial() != 0 || s.Skippable() != (s.Frame().Compressed == int64(len(skippable)) || s.Frame().Content == 0) {
							t.Fatalf("at the end of a frame: partial %d, skippable %v", s.Partial(), s.Skippable())
						}
					}
				}
				p = p[n:]
			}
			if !slices.Equal(got, want) {
				t.Fatalf("frames %v in pieces, %v in one", got, want)
			}
			total, known := int64(0), true
			for _, f := range want {
				total += f.Content
				known = known && f.Content >= 0
			}
			if known && total != int64(2*len(content)) {
				t.Errorf("content %d, want %d", total, 2*len(content))
			}
			for _, r := range []io.Reader{bytes.NewReader(whole), iotest.HalfReader(bytes.NewReader(whole)), iotest.DataErrReader(bytes.NewReader(whole))} {
				d := NewDecoder(r)
				b, err := io.ReadAll(d)
				d.Close()
				if err != nil || !bytes.Equal(b, slices.Concat(content, content)) {
					t.Fatalf("decoded differently: %v", err)
				}
			}
			b, err := DecodeFrame(nil, whole, 2*len(content))
			if err != nil || !bytes.Equal(b, slices.Concat(content, content)) {
				t.Fatalf("DecodeFrame reads it differently: %v", err)
			}
			if _, err := DecodeFrame(nil, whole, 2*len(content)-1); codeOf(err) != code.TooLarge {
				t.Errorf("DecodeFrame of too much: %v", err)
			}
		})
	}
}

func TestScanFramesOfACutFile(t *testing.T) {
	var archive []byte
	var ends []int
	var e encoder
	for i := range 5 {
		src := mixed(uint64(i), 50_000*i+3)
		out, err := e.encode(Level(1+i%3), src, make([]byte, len(src)+bufferSlack))
		if err != nil {
			t.Fatal(err)
		}
		archive = append(archive, out...)
		ends = append(ends, len(archive))
	}
	for cut := 0; cut <= len(archive); cut += 1009 {
		frames, valid, err := ScanFrames(bytes.NewReader(archive[:cut]))
		n, _ := slices.BinarySearch(ends, cut+1)
		want := 0
		if n > 0 {
			want = ends[n-1]
		}
		if err != nil || len(frames) != n || valid != int64(want) {
			t.Fatalf("cut at %d: %d frames, valid %d, %v; want %d, %d", cut, len(frames), valid, err, n, want)
		}
		d := NewDecoder(bytes.NewReader(archive[:cut]))
		_, err = io.Copy(io.Discard, d)
		d.Close()
		if (cut == want) != (err == nil) || err != nil && codeOf(err) != code.Malformed {
			t.Fatalf("cut at %d, decoding: %v", cut, err)
		}
	}
	if _, _, err := ScanFrames(iotest.ErrReader(io.ErrClosedPipe)); err != io.ErrClosedPipe {
		t.Errorf("error %v, want the reader's", err)
	}
	d := NewDecoder(iotest.ErrReader(io.ErrClosedPipe))
	if _, err := d.Read(make([]byte, 1)); err != io.ErrClosedPipe {
		t.Errorf("error %v, want the reader's", err)
	}
	d.Close()
	if _, err := d.Read(make([]byte, 1)); err == nil {
		t.Error("a closed decoder reads")
	}
}

func TestScannerRefuses(t *testing.T) {
	frame := func(descriptor byte, rest string) string {
		return "\x28\xB5\x2F\xFD" + string([]byte{descriptor}) + rest
	}
	for name, test := range map[string]struct{ in, detail string }{
		"gzip":                   {"\x1f\x8b\x08\x00", "no zstd frame"},
		"legacy":                 {"\x27\xB5\x2F\xFD", "no zstd frame"},
		"reserved bit":           {frame(0x28, ""), "reserved bit"},
		"dictionary":             {frame(0x21, ""), "dictionary"},
		"window of 16 MiB":       {frame(0x00, "\x70"), "window of 16777216 bytes"},
		"window of 3.75 TiB":     {frame(0x00, "\xFF"), "window of 4123168604160 bytes"},
		"huge single segment":    {frame(0xE0, "\x00\x00\x00\x00\x00\x00\x00\x10"), "window of"},
		"negative content":       {frame(0xC0, "\x00\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), "claims"},
		"reserved block":         {frame(0x20, "\x05\x2F\x00\x00"), "reserved type"},
		"block above the window": {frame(0x20, "\x05\x30\x00\x00"), "fit the window"},
		"RLE above the content":  {frame(0x20, "\x05\x33\x00\x00x"), "fit the window"},
		"more than the content":  {frame(0x20, "\x05\x28\x00\x00hello"+"\x0B\x00\x00x"), "more content"},
		"less than the content":  {frame(0x20, "\x05\x11\x00\x00he"), "2 bytes of content, its header says 5"},
	} {
		t.Run(name, func(t *testing.T) {
			in := test.in
			for _, f := range []func() error{
				func() error { _, _, err := ScanFrames(strings.NewReader(in)); return err },
				func() error { _, _, err := ScanFrames(iotest.OneByteReader(strings.NewReader(in))); return err },
				func() error { _, err := DecodeFrame(nil, []byte(in), 1<<20); return err },
				func() error { _, err := io.ReadAll(NewDecoder(strings.NewReader(in))); return err },
			} {
				err := f()
				wantError(t, err, test.detail)
				if codeOf(err) != code.Malformed {
					t.Errorf("code %q: %v", codeOf(err), err)
				}
			}
			var s FrameScanner
			s.Scan([]byte(in))
			if n, done, err := s.Scan([]byte("more")); n != 0 || done || err == nil {
				t.Error("the scanner goes on after an error")
			}
		})
	}
}

// No bit of a frame can change without the frame being refused, or its content staying the same.
func TestDecodeFrameNoticesEveryBit(t *testing.T) {
	for level := Raw; level <= Default; level++ {
		var e encoder
		src := telemetry(4, 3000)
		frame, err := e.encode(level, src, make([]byte, len(src)+bufferSlack))
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(frame) {
			frame[bit/8] ^= 1 << (bit % 8)
			if got, err := DecodeFrame(nil, frame, FrameSize); err == nil && len(got) > 0 && !bytes.Equal(got, src) {
				t.Fatalf("level %v, bit %d of %d: %d other bytes are accepted", level, bit, 8*len(frame), len(got))
			} else if err != nil && codeOf(err) != code.Malformed && codeOf(err) != code.TooLarge {
				t.Fatalf("level %v, bit %d: %v", level, bit, err)
			}
			frame[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// A frame that says nothing of its size gets no more memory than is allowed.
func TestDecodeFrameBoundsMemory(t *testing.T) {
	bomb := []byte("\x28\xB5\x2F\xFD\x00\x50") // window 1 MiB, no content size
	for range 2_000 {
		bomb = append(bomb, "\x02\x00\x10x"...) // an RLE block of 128 KiB
	}
	bomb = append(bomb, "\x03\x00\x10x"...)
	var s FrameScanner
	if _, done, err := s.Scan(bomb); !done || err != nil || s.Frame().Content != 2_001*maxBlock {
		t.Fatalf("%v %v %+v", done, err, s.Frame())
	}
	out, err := DecodeFrame(nil, bomb, FrameSize)
	if codeOf(err) != code.TooLarge || cap(out) > 2*FrameSize {
		t.Errorf("%d bytes of memory, %v", cap(out), err)
	}
	d := NewDecoder(bytes.NewReader(bomb))
	defer d.Close()
	n, err := io.Copy(io.Discard, d)
	if n != 2_001*maxBlock || err != nil {
		t.Errorf("decoded %d, %v", n, err)
	}
}
