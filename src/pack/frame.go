package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// The parts of the zstd format (RFC 8878, section 3.1) that are read and written here.
const (
	zstdMagic       = 0xFD2FB528
	skippableMagic  = 0x184D2A50 // to 0x184D2A5F
	skippableMask   = 0xFFFFFFF0
	maxBlock        = 128 << 10 // Block_Maximum_Size
	blockHeaderSize = 3
	frameHeaderSize = 4 + 1 + 4 // of the frames written here: magic, descriptor, 4 bytes of content size
	checksumSize    = 4

	// maxWindow is the largest window that is decoded. RFC 8878, section 3.1.1.1.2 asks for 8 MiB; stock zstd needs more
	// only with --ultra or --long.
	maxWindow = 8 << 20

	blockRaw        = 0
	blockRLE        = 1
	blockCompressed = 2
)

// maxRatio is the most that a frame shrinks its content by. A file of zeros would come to 1 : 10,000, which to a receiver that bounds
// the ratio looks like an attack.
const maxRatio = 512

// frameBufSize is the room that any frame of FrameSize needs: the content and what a frame of raw blocks adds to it.
const frameBufSize = FrameSize + 4096

// rawFrameSize is the size of a raw frame of n bytes of content.
func rawFrameSize(n int) int {
	return frameHeaderSize + n + blockHeaderSize*max(1, (n+maxBlock-1)/maxBlock) + checksumSize
}

// putFrameHeader writes the header of a single-segment frame of n bytes of content with a checksum.
func putFrameHeader(b []byte, n int) {
	binary.LittleEndian.PutUint32(b, zstdMagic)
	b[4] = 2<<6 | 1<<5 | 1<<2 // Frame_Content_Size_flag 2: 4 bytes; Single_Segment_flag; Content_Checksum_flag
	binary.LittleEndian.PutUint32(b[5:], uint32(n))
}

func putBlockHeader(b []byte, last bool, kind, size int) {
	h := uint32(size)<<3 | uint32(kind)<<1
	if last {
		h |= 1
	}
	b[0], b[1], b[2] = byte(h), byte(h>>8), byte(h>>16)
}

// fillRawFrame makes a raw frame of n bytes of content in buf, which must have room for rawFrameSize(n). The content is read by
// fill straight to where it belongs, so that it is never copied.
func fillRawFrame(buf []byte, n int, fill func([]byte) error) ([]byte, error) {
	buf = buf[:rawFrameSize(n)]
	putFrameHeader(buf, n)
	at := frameHeaderSize
	var h xxh64
	h.reset()
	for {
		size := min(n, maxBlock)
		n -= size
		putBlockHeader(buf[at:], n == 0, blockRaw, size)
		at += blockHeaderSize
		if err := fill(buf[at : at+size]); err != nil {
			return nil, err
		}
		h.write(buf[at : at+size])
		at += size
		if n == 0 {
			break
		}
	}
	binary.LittleEndian.PutUint32(buf[at:], uint32(h.sum()))
	return buf, nil
}

func rawFrame(src, dst []byte) ([]byte, error) {
	return fillRawFrame(dst, len(src), func(b []byte) error { src = src[copy(b, src):]; return nil })
}

// encoder compresses frames at one level at a time.
type encoder struct {
	level Level
	enc   *zstd.Encoder
}

// encode makes one frame of src at level in dst's memory, which must have room for bufferSlack more than src. A frame that compression would
// make larger is a raw one. An encoder of another level is dropped first: keeping one for each level would double the memory.
func (e *encoder) encode(level Level, src, dst []byte) ([]byte, error) {
	if level == Raw {
		return rawFrame(src, dst)
	}
	if e.enc == nil || e.level != level {
		speed := zstd.SpeedFastest
		if level == Default {
			speed = zstd.SpeedDefault
		}
		e.enc = nil
		// The largest window, a power of two, that a frame can fill.
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(speed), zstd.WithWindowSize(1<<20),
			zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
		if err != nil {
			return nil, fmt.Errorf("make a zstd encoder: %w", err)
		}
		e.enc, e.level = enc, level
	}
	out := e.enc.EncodeAll(src, dst[:0])
	switch {
	case len(out) > rawFrameSize(len(src)):
		return rawFrame(src, dst)
	case len(out)*maxRatio >= len(src):
		return out, nil
	}
	// Put the first bytes into a raw block, and behind it the blocks of a frame of the rest: they refer to nothing
	// before them, and a raw block leaves the decoder's state as it was.
	raw := min((len(src)+maxRatio-1)/maxRatio, maxBlock)
	rest := e.enc.EncodeAll(src[raw:], nil)
	var s FrameScanner
	if _, done, err := s.Scan(rest); err != nil || !done || !s.checksum {
		return nil, fmt.Errorf("the zstd encoder made a frame that can't be read: %w", err)
	}
	blocks := rest[s.headerSize : len(rest)-checksumSize]
	out = dst[:frameHeaderSize+blockHeaderSize]
	putFrameHeader(out, len(src))
	putBlockHeader(out[frameHeaderSize:], false, blockRaw, raw)
	out = append(out, src[:raw]...)
	out = append(out, blocks...)
	var h xxh64
	h.reset()
	h.write(src)
	return binary.LittleEndian.AppendUint32(out, uint32(h.sum())), nil
}
