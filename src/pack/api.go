package pack

import (
	"context"
	"errors"
	"io"
	"time"

	"cis490/src/bag"
	"cis490/src/episode"
)

var errSkeleton = errors.New("pack: not yet")

type Plan struct{ facts episode.Facts }

func NewPlan(dir string) (*Plan, error) { return nil, errSkeleton }
func (p *Plan) Facts() episode.Facts    { return p.facts }
func (p *Plan) TarSize() int64          { return 0 }
func (p *Plan) Close() error            { return nil }

// OpenPlan is NewPlan for long manifests: it stops when ctx ends and calls progress now and then.
func OpenPlan(ctx context.Context, dir string, progress func(files int64)) (*Plan, error) {
	return nil, errSkeleton
}

type Level int8

const (
	Auto Level = iota
	Raw
	Fastest
	Default
)

func ParseLevel(s string) (Level, error) { return Auto, errSkeleton }
func (l Level) String() string           { return "" }

type Options struct {
	Workers int   // frames packed at once; 0: as many as cores, at most 4
	Level   Level // Auto: chosen per frame
}
type Packer struct{}

func NewPacker(o Options) *Packer { return &Packer{} }

// Frame is one packed frame. Data is good until Release.
type Frame struct {
	Offset int64 // of the first tar byte
	Len    int   // tar bytes
	Data   []byte
	Level  Level
}

func (f Frame) Release() {}

// Stream packs from the tar offset `from` on. Set Progress before the first Next.
type Stream struct {
	Progress func(tarBytes int)
}

func (p *Packer) Stream(ctx context.Context, plan *Plan, from int64) *Stream { return &Stream{} }
func (s *Stream) Next() (Frame, error)                                       { return Frame{}, errSkeleton }
func (s *Stream) Close() error                                               { return nil }

// Small packs an episode of at most FrameSize tar bytes at once; Release the frame when it is sent and answered.
func (p *Packer) Small(plan *Plan) (Frame, error) { return Frame{}, errSkeleton }

// LinkSample tells that the link took that many packed bytes in d.
func (p *Packer) LinkSample(bytes int, d time.Duration) {}

// Write writes the whole archive with its seek table.
func Write(ctx context.Context, w io.Writer, plan *Plan, p *Packer) error { return errSkeleton }

// FrameInfo is one frame of an archive: its length and that of its content, in bytes; -1 when not known. Skippable frames have
// Content 0.
type FrameInfo struct{ Compressed, Content int64 }

// FrameScanner is fed with an archive in pieces of any size and finds where its frames end.
//
//	for len(p) > 0 {
//		n, done, err := s.Scan(p)   // consumes up to the end of the current frame
//		// p[:n] belongs to the current frame; done: it ended at n, s.Frame() describes it
//		p = p[n:]
//	}
type FrameScanner struct{}

func (s *FrameScanner) Scan(p []byte) (n int, done bool, err error) { return 0, false, errSkeleton }
func (s *FrameScanner) Frame() FrameInfo                            { return FrameInfo{} } // of the last whole frame
func (s *FrameScanner) Content() int64                              { return -1 }          // of the frame under way, from its header; -1 unknown (yet)
func (s *FrameScanner) Skippable() bool                             { return false }       // the last whole frame
func (s *FrameScanner) Partial() int64                              { return 0 }           // bytes of the frame under way; 0 on a boundary

// ScanFrames finds the whole frames of a file; validBytes is where the last of them ends. A cut last frame is no error.
func ScanFrames(r io.Reader) (frames []FrameInfo, validBytes int64, err error) {
	return nil, 0, errSkeleton
}

// DecodeFrame appends the content of one whole frame (or several) to dst.
func DecodeFrame(dst, frame []byte, maxContent int) ([]byte, error) { return nil, errSkeleton }

// NewDecoder decodes a zstd stream.
func NewDecoder(r io.Reader) io.ReadCloser { return nil }

type Limits struct {
	Files        int64 // payload files
	PayloadBytes int64
	TagBytes     int64 // all tag files together
	RunBytes     int64 // data/run.json
}
type Verified struct {
	Facts        episode.Facts
	Run          []byte // run.json
	Info         bag.Info
	Files, Bytes int64 // of the payload
}

func Verify(r io.Reader, want episode.Facts, lim Limits) (*Verified, error) { return nil, errSkeleton }

// AppendSeekTable writes the seek table for an archive of these frames.
func AppendSeekTable(w io.Writer, frames []FrameInfo) error { return errSkeleton }

// ReadSeekTable reads the seek table at the end of an archive. ErrNoSeekTable: there is none.
func ReadSeekTable(r io.ReaderAt, size int64) ([]FrameInfo, error) { return nil, errSkeleton }

var ErrNoSeekTable = errors.New("no seek table")

// Extract verifies an archive (zstd or bare tar) and makes dest/<id> of it.
func Extract(ctx context.Context, r io.Reader, dest string) (dir string, err error) {
	return "", errSkeleton
}
