package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"cis490/src/code"
)

// Scratch memory that outlives one call. Pooled, because a receiver that takes thousands of small episodes a second would spend more
// on making decoders than on decoding.
var (
	frameDecoders  = sync.Pool{New: func() any { return newFrameDecoder() }}
	decoderBuffers = sync.Pool{New: func() any { return new(decoderBuffer) }}
)

func newFrameDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}

// DecodeFrame appends to dst the content of frame, which is one whole frame, or several behind each other. At most maxContent bytes are appended
// and dst grows by no more than that. The error is a *[code.Error]: TooLarge when there is more content, else Malformed.
func DecodeFrame(dst, frame []byte, maxContent int) ([]byte, error) {
	room, raw, err := contentBound(frame, maxContent)
	if err != nil {
		return dst, err
	}
	dst = slices.Grow(dst, room)
	if raw {
		return decodeRawFrame(dst, frame)
	}
	d := frameDecoders.Get().(*zstd.Decoder)
	defer frameDecoders.Put(d)
	out, err := d.DecodeAll(frame, dst[:len(dst):len(dst)+room])
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return dst, code.New(code.TooLarge, "a zstd frame has more than %d bytes of content", maxContent)
	case err != nil:
		return dst, code.Wrap(code.Malformed, err, "zstd")
	}
	return out, nil
}

// contentBound walks over whole frames and finds how much content they can have, and whether it is one frame of raw blocks only.
func contentBound(frame []byte, maxContent int) (room int, raw bool, err error) {
	var s FrameScanner
	total := int64(0)
	frames := 0
	for p := frame; len(p) > 0; frames++ {
		n, done, err := s.Scan(p)
		if err != nil {
			return 0, false, err
		}
		if !done {
			return 0, false, code.New(code.Malformed, "zstd: a frame is cut after %d bytes", s.Partial())
		}
		c := s.Frame().Content
		if c > int64(maxContent)-total {
			return 0, false, code.New(code.TooLarge, "a zstd frame has %d bytes of content, more than %d", c, maxContent)
		}
		raw = !s.opaque && !s.rle && !s.skippable
		if c < 0 {
			// Every block but the last of these is at least 3 bytes and at most maxBlock of content.
			c = min(int64(maxContent)-total, s.Frame().Compressed/blockHeaderSize*maxBlock)
		}
		total += c
		p = p[n:]
	}
	return int(total), raw && frames == 1, nil
}

// decodeRawFrame decodes a frame of raw blocks, which contentBound has walked over, at the speed of copying.
func decodeRawFrame(dst, frame []byte) ([]byte, error) {
	var s FrameScanner
	s.Scan(frame)
	p := frame[s.headerSize:]
	out := dst
	var h xxh64
	h.reset()
	for {
		b := uint32(p[0]) | uint32(p[1])<<8 | uint32(p[2])<<16
		size := int(b >> 3)
		block := p[blockHeaderSize : blockHeaderSize+size]
		if s.checksum {
			h.write(block)
		}
		out = append(out, block...)
		p = p[blockHeaderSize+size:]
		if b&1 != 0 {
			break
		}
	}
	if s.checksum && uint32(h.sum()) != binary.LittleEndian.Uint32(p) {
		return dst, code.New(code.Malformed, "zstd: a frame's checksum does not match its content")
	}
	return out, nil
}

// decoderBuffer is what a Decoder needs while it is open.
type decoderBuffer struct {
	in  []byte // compressed bytes: of whole frames, if they are not longer than frameBufSize
	out []byte // content of one frame
}

// Decoder decodes a stream of zstd frames. Frames of up to [FrameSize] bytes of content are decoded one by one into a buffer of that
// size; at the first frame that is longer, or does not say how long it is, it turns to a window of at most 8 MiB.
type Decoder struct {
	src    io.Reader
	buf    *decoderBuffer
	in     []byte // what was read of src and not yet decoded, in buf.in
	out    []byte // what was decoded and not yet read
	stream *zstd.Decoder
	eof    bool // src
	err    error
}

// NewDecoder makes a decoder of r. Its errors are r's, or a *[code.Error] Malformed for what is not zstd, and for a stream that
// ends within a frame. Close frees its memory; it does not close r.
func NewDecoder(r io.Reader) *Decoder {
	return &Decoder{src: r, buf: decoderBuffers.Get().(*decoderBuffer)}
}

// Read decodes.
func (d *Decoder) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if d.stream != nil && len(d.out) == 0 {
		return d.readStream(p)
	}
	b, err := d.Chunk(len(p))
	n := copy(p, b)
	return n, err
}

// Chunk gives up to max bytes of content, at least one, in memory that is good until the next call; see [Chunker].
func (d *Decoder) Chunk(max int) ([]byte, error) {
	for len(d.out) == 0 {
		if d.err != nil {
			return nil, d.err
		}
		if d.stream == nil {
			d.err = d.frame()
			continue
		}
		if cap(d.buf.out) == 0 {
			d.buf.out = make([]byte, 0, FrameSize)
		}
		n, err := d.readStream(d.buf.out[:min(cap(d.buf.out), maxBlock)])
		d.out, d.err = d.buf.out[:n], err
	}
	n := min(max, len(d.out))
	b := d.out[:n]
	d.out = d.out[n:]
	return b, nil
}

// frame decodes one frame into out, or makes d.stream.
func (d *Decoder) frame() error {
	if d.buf == nil {
		return errors.New("pack: the decoder is closed")
	}
	if d.buf.in == nil {
		d.buf.in = make([]byte, frameBufSize)
	}
	var s FrameScanner
	for at := 0; ; {
		n, done, err := s.Scan(d.in[at:])
		if err != nil {
			return err
		}
		switch at += n; {
		case done && s.Skippable():
			d.in, s, at = d.in[at:], FrameScanner{}, 0
			continue
		case done && 0 <= s.Frame().Content && s.Frame().Content <= FrameSize:
			frame := d.in[:at]
			d.in = d.in[at:]
			if d.buf.out == nil {
				d.buf.out = make([]byte, 0, FrameSize)
			}
			d.out, err = DecodeFrame(d.buf.out[:0], frame, FrameSize)
			return err
		case s.skippable:
			d.in, at = d.in[:0], 0 // nothing of it is needed
		case done, s.state > scanContent && (s.content < 0 || s.content > FrameSize), at == len(d.buf.in):
			return d.startStream()
		}
		if d.eof {
			if s.Partial() == 0 {
				return io.EOF
			}
			return code.New(code.Malformed, "zstd: the stream ends within a frame")
		}
		if err := d.fill(); err != nil {
			return err
		}
	}
}

// fill reads more of src behind d.in, moving that to the front of its memory when there is little room behind it.
func (d *Decoder) fill() error {
	start := len(d.buf.in) - cap(d.in)
	if len(d.in) == 0 {
		start = 0
		d.in = d.buf.in[:0]
	} else if free := cap(d.in) - len(d.in); start > 0 && free < len(d.buf.in)/2 {
		d.in = d.buf.in[:copy(d.buf.in, d.in)]
	}
	for range 100 {
		n, err := d.src.Read(d.in[len(d.in):cap(d.in)])
		d.in = d.in[:len(d.in)+n]
		if err == io.EOF {
			d.eof = true
			return nil
		}
		if err != nil || n > 0 {
			return err
		}
	}
	return io.ErrNoProgress
}

func (d *Decoder) startStream() error {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return err
	}
	src := d.src
	if d.eof {
		src = bytes.NewReader(nil)
	}
	if err := dec.Reset(&sourceErrors{r: io.MultiReader(bytes.NewReader(d.in), src)}); err != nil {
		return code.Wrap(code.Malformed, err, "zstd")
	}
	d.stream = dec
	return nil
}

// readStream marks the errors that are not src's own.
func (d *Decoder) readStream(p []byte) (int, error) {
	n, err := d.stream.Read(p)
	var own *sourceError
	switch {
	case err == nil || err == io.EOF:
	case errors.As(err, &own):
		err = own.err
	default:
		err = code.Wrap(code.Malformed, err, "zstd")
	}
	return n, err
}

// sourceErrors wraps the errors of r, so that they can be told from those of the decoder.
type sourceErrors struct{ r io.Reader }

type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

func (s *sourceErrors) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}

// Close frees the memory.
func (d *Decoder) Close() error {
	if d.stream != nil {
		d.stream.Close()
	}
	if d.buf != nil {
		decoderBuffers.Put(d.buf)
	}
	*d = Decoder{err: errors.New("pack: the decoder is closed")}
	return nil
}
