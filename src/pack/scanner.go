package pack

import (
	"encoding/binary"
	"io"

	"cis490/src/code"
)

// MaxFrames is the most frames of an archive that are kept count of: enough for 1 TiB in frames of [FrameSize], and the
// bound of what a list of frames costs in memory.
const MaxFrames = 1 << 20

// FrameInfo is the size of one frame and of its content, in bytes.
type FrameInfo struct {
	Compressed int64
	Content    int64 // -1: the frame's header does not say; 0 for a skippable frame
}

// FrameScanner finds where the frames of a zstd stream end (RFC 8878, section 3), without decoding them and without
// keeping any of their bytes. It takes whatever stock zstd writes: frames with and without content size and checksum,
// skippable frames. It refuses, as malformed, what can't be decoded here: dictionaries, windows above 8 MiB,
// reserved bits and blocks, legacy formats. The zero value is ready for use.
type FrameScanner struct {
	state      scanState
	buf        [8]byte
	have, need int   // bytes collected in buf, and wanted
	skip       int64 // bytes to pass over before the next state
	err        error

	// The frame under way.
	size       int64 // bytes so far
	content    int64 // from the header, -1 unknown
	known      int64 // content in raw and RLE blocks so far
	opaque     bool  // there was a compressed block
	rle        bool
	skippable  bool
	checksum   bool
	headerSize int // of the last frame begun
	blockMax   int64
	last       bool // the block is the last
	fcsSize    int

	done FrameInfo // the last whole frame
	wasS bool
}

type scanState uint8

const (
	scanMagic scanState = iota
	scanSkippable
	scanDescriptor
	scanWindow
	scanContent
	scanBlock
	scanAfterBlock
	scanEnd
)

// Frame is the last whole frame.
func (s *FrameScanner) Frame() FrameInfo { return s.done }

// Skippable tells whether the last whole frame was a skippable one.
func (s *FrameScanner) Skippable() bool { return s.wasS }

// Content is the content size of the frame under way, -1 as long as it is not known.
func (s *FrameScanner) Content() int64 {
	if s.state <= scanContent {
		return -1
	}
	return s.content
}

// Partial is how many bytes of the frame under way were read, 0 between frames.
func (s *FrameScanner) Partial() int64 { return s.size }

// Scan reads p up to the end of the current frame: p[:n] belongs to it, and done tells that it ended there. When done is false,
// n is len(p). The error is a *[code.Error], and once there is one, it stays.
func (s *FrameScanner) Scan(p []byte) (n int, done bool, err error) {
	if s.err != nil {
		return 0, false, s.err
	}
	if s.state == scanMagic && s.need == 0 {
		s.begin()
	}
	for {
		if s.skip > 0 {
			k := min(s.skip, int64(len(p)-n))
			n += int(k)
			s.size += k
			if s.skip -= k; s.skip > 0 {
				return n, false, nil
			}
		}
		if s.have < s.need {
			k := copy(s.buf[s.have:s.need], p[n:])
			n += k
			s.size += int64(k)
			if s.have += k; s.have < s.need {
				return n, false, nil
			}
		}
		if err := s.step(); err != nil {
			s.err = err
			return n, false, err
		}
		if s.state == scanEnd && s.skip == 0 {
			s.done, s.wasS = FrameInfo{Compressed: s.size, Content: s.content}, s.skippable
			if s.content < 0 && !s.opaque {
				s.done.Content = s.known
			}
			s.state, s.need, s.size = scanMagic, 0, 0
			return n, true, nil
		}
	}
}

func (s *FrameScanner) begin() {
	*s = FrameScanner{content: -1, need: 4, done: s.done, wasS: s.wasS}
}

// collect asks for n bytes in buf before the next state.
func (s *FrameScanner) collect(next scanState, n int) { s.state, s.have, s.need = next, 0, n }

func (s *FrameScanner) step() error {
	bad := func(format string, a ...any) error { return code.New(code.Malformed, "zstd: "+format, a...) }
	switch s.state {
	case scanMagic:
		switch m := binary.LittleEndian.Uint32(s.buf[:4]); {
		case m == zstdMagic:
			s.collect(scanDescriptor, 1)
		case m&skippableMask == skippableMagic:
			s.skippable, s.content = true, 0
			s.collect(scanSkippable, 4)
		default:
			return bad("a frame begins with %08x, which is no zstd frame", m)
		}
	case scanSkippable:
		s.skip = int64(binary.LittleEndian.Uint32(s.buf[:4]))
		s.collect(scanEnd, 0)
	case scanDescriptor:
		d := s.buf[0]
		s.checksum = d&(1<<2) != 0
		single := d&(1<<5) != 0
		switch {
		case d&(1<<3) != 0:
			return bad("a frame header has its reserved bit set")
		case d&3 != 0:
			return bad("a frame needs a dictionary")
		}
		s.fcsSize = [4]int{0, 2, 4, 8}[d>>6]
		if d>>6 == 0 && single {
			s.fcsSize = 1
		}
		if s.blockMax = 0; single {
			s.collect(scanContent, s.fcsSize)
		} else {
			s.collect(scanWindow, 1)
		}
	case scanWindow:
		base := int64(1) << (10 + s.buf[0]>>3)
		window := base + base/8*int64(s.buf[0]&7)
		if err := s.setWindow(window); err != nil {
			return err
		}
		s.collect(scanContent, s.fcsSize)
	case scanContent:
		switch s.fcsSize {
		case 1:
			s.content = int64(s.buf[0])
		case 2:
			s.content = int64(binary.LittleEndian.Uint16(s.buf[:])) + 256
		case 4:
			s.content = int64(binary.LittleEndian.Uint32(s.buf[:]))
		case 8:
			c := binary.LittleEndian.Uint64(s.buf[:])
			if c > 1<<62 {
				return bad("a frame claims %d bytes of content", c)
			}
			s.content = int64(c)
		}
		if s.blockMax == 0 { // a single segment: the window is the content
			if err := s.setWindow(s.content); err != nil {
				return err
			}
		}
		s.headerSize = int(s.size)
		s.collect(scanBlock, blockHeaderSize)
	case scanBlock:
		h := uint32(s.buf[0]) | uint32(s.buf[1])<<8 | uint32(s.buf[2])<<16
		s.last = h&1 != 0
		size := int64(h >> 3)
		switch kind := h >> 1 & 3; kind {
		case blockRaw, blockRLE:
			if size > s.blockMax {
				return bad("a block of %d bytes, at most %d fit the window", size, s.blockMax)
			}
			s.known += size
			if s.content >= 0 && s.known > s.content {
				return bad("a frame has more content than the %d bytes its header says", s.content)
			}
			if s.skip = size; kind == blockRLE {
				s.skip, s.rle = 1, true
			}
		case blockCompressed:
			if size > s.blockMax {
				return bad("a block of %d bytes, at most %d fit the window", size, s.blockMax)
			}
			s.skip, s.opaque = size, true
		default:
			return bad("a block is of the reserved type")
		}
		s.collect(scanAfterBlock, 0)
	case scanAfterBlock:
		switch {
		case !s.last:
			s.collect(scanBlock, blockHeaderSize)
		case !s.opaque && s.content >= 0 && s.known != s.content:
			return bad("a frame has %d bytes of content, its header says %d", s.known, s.content)
		case s.checksum:
			s.skip = checksumSize
			s.collect(scanEnd, 0)
		default:
			s.collect(scanEnd, 0)
		}
	}
	return nil
}

func (s *FrameScanner) setWindow(w int64) error {
	if w > maxWindow {
		return code.New(code.Malformed, "zstd: a frame needs a window of %d bytes, at most %d are allowed: pack without --long and --ultra", w, maxWindow)
	}
	// A window of no bytes holds an empty block; 1 tells it from a window not known yet.
	s.blockMax = max(1, min(w, maxBlock))
	return nil
}

// ScanFrames finds the whole frames of a stream that may have been cut; validBytes is where the last of them ends. That bytes
// follow which are not a whole frame is no error: a cut upload looks like that. The error is r's, malformed for what can't be the beginning of a
// frame, or too-large above [MaxFrames]; the frames before it are good.
func ScanFrames(r io.Reader) (frames []FrameInfo, validBytes int64, err error) {
	buf := make([]byte, 64<<10)
	var s FrameScanner
	for {
		n, rerr := r.Read(buf)
		for p := buf[:n]; len(p) > 0; {
			k, done, err := s.Scan(p)
			if err != nil {
				return frames, validBytes, err
			}
			p = p[k:]
			if done {
				if len(frames) == MaxFrames {
					return frames, validBytes, code.New(code.TooLarge, "more than %d zstd frames", MaxFrames)
				}
				frames = append(frames, s.done)
				validBytes += s.done.Compressed
			}
		}
		if rerr == io.EOF {
			return frames, validBytes, nil
		}
		if rerr != nil {
			return frames, validBytes, rerr
		}
	}
}
