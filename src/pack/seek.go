package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// The zstd seekable format, version 0.1.0 (facebook/zstd, contrib/seekable_format/zstd_seekable_compression_format.md): behind the frames a
// skippable frame with the sizes of each, which decoders that don't know of it pass over.
const (
	seekSkippable = 0x184D2A5E
	seekMagic     = 0x8F92EAB1
	seekFooter    = 9
	seekEntry     = 8
	seekChecksums = 1 << 7
	seekReserved  = 0x7C
)

// ErrNoSeekTable says that an archive does not end in a seek table, or that its frames can't be written into one.
var ErrNoSeekTable = errors.New("no seek table")

// AppendSeekTable writes the seek table of frames to w. It fails with ErrNoSeekTable when the content of a frame is not known or above
// 4 GiB; nothing is written then, and the archive is good without.
func AppendSeekTable(w io.Writer, frames []FrameInfo) error {
	if len(frames) > MaxFrames {
		return fmt.Errorf("%w: %d frames", ErrNoSeekTable, len(frames))
	}
	size := seekEntry*len(frames) + seekFooter
	b := make([]byte, 0, 8+size)
	b = binary.LittleEndian.AppendUint32(b, seekSkippable)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	for i, f := range frames {
		if f.Content < 0 || f.Content > math.MaxUint32 || f.Compressed < 0 || f.Compressed > math.MaxUint32 {
			return fmt.Errorf("%w: frame %d has %d bytes of content in %d", ErrNoSeekTable, i, f.Content, f.Compressed)
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(f.Compressed))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.Content))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frames)))
	b = append(b, 0)
	b = binary.LittleEndian.AppendUint32(b, seekMagic)
	_, err := w.Write(b)
	return err
}

// ReadSeekTable reads the seek table at the end of an archive of size bytes; ErrNoSeekTable when there is none, or one that does not
// fit the archive.
func ReadSeekTable(r io.ReaderAt, size int64) ([]FrameInfo, error) {
	var foot [seekFooter]byte
	if size < 8+seekFooter {
		return nil, ErrNoSeekTable
	}
	if err := readAt(r, foot[:], size-seekFooter); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(foot[:]))
	entry := int64(seekEntry)
	if foot[4]&seekChecksums != 0 {
		entry += 4
	}
	table := n*entry + seekFooter
	if binary.LittleEndian.Uint32(foot[5:]) != seekMagic || foot[4]&seekReserved != 0 || n > MaxFrames || 8+table > size {
		return nil, ErrNoSeekTable
	}
	b := make([]byte, 8+n*entry)
	if err := readAt(r, b, size-8-table); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(b) != seekSkippable || int64(binary.LittleEndian.Uint32(b[4:])) != table {
		return nil, ErrNoSeekTable
	}
	frames := make([]FrameInfo, n)
	sum := int64(0)
	for i := range frames {
		e := b[8+int64(i)*entry:]
		frames[i] = FrameInfo{Compressed: int64(binary.LittleEndian.Uint32(e)), Content: int64(binary.LittleEndian.Uint32(e[4:]))}
		sum += frames[i].Compressed
	}
	if sum != size-8-table {
		return nil, fmt.Errorf("%w: it is of %d bytes of frames, and there are %d", ErrNoSeekTable, sum, size-8-table)
	}
	return frames, nil
}

func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
