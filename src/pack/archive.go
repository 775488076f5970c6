package pack

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"sort"

	"cis490/src/bag"
	"cis490/src/code"
)

// Archive is a stored archive of which single files are read: of the frames, only those are decoded that hold the tag files, a tar
// header on the way to the file, or the file.
type Archive struct {
	r       io.ReaderAt
	end     int64         // of the frames
	frames  []archivePart // by offset; where one begins, decoding may
	digest  bag.Digest
	payload int64 // where its first tar header is
	v       *verifier
}

// archivePart is where a frame begins, in the archive and in the tar stream.
type archivePart struct{ at, tar int64 }

// OpenArchive reads the tag files of an archive of size bytes and verifies them against each other. An archive without a seek table is read
// too, but a file in it is found by decoding everything before it. The error is r's, or a *[code.Error] as that of [Verify].
func OpenArchive(r io.ReaderAt, size int64) (*Archive, error) {
	a := &Archive{r: r, end: size, frames: []archivePart{{}}}
	if frames, err := ReadSeekTable(r, size); err == nil {
		a.frames = make([]archivePart, 0, len(frames)+1)
		var p archivePart
		for _, f := range frames {
			if f.Content > 0 {
				a.frames = append(a.frames, p)
			}
			p.at += f.Compressed
			p.tar += f.Content
		}
		if len(a.frames) == 0 {
			a.frames = []archivePart{{}}
		}
	}
	s := &tarReader{a: a}
	defer s.close()
	a.v = &verifier{h: sha256.New()}
	a.v.src.reset(s)
	if err := a.v.tags(); err != nil {
		return nil, err
	}
	a.digest = a.v.digest
	a.payload = s.pos - int64(len(a.v.src.cur))
	a.v.src = source{}
	return a, nil
}

// Digest is the bag digest of the episode.
func (a *Archive) Digest() bag.Digest { return a.digest }

// Info is the episode's bag-info.txt.
func (a *Archive) Info() bag.Info { return a.v.info }

// Files yields the payload in the order of its manifest. After an error it yields no more.
func (a *Archive) Files() iter.Seq2[bag.Entry, error] {
	return func(yield func(bag.Entry, error) bool) {
		m := bag.NewManifestScanner(bufio.NewReader(a.v.list.reader()), bag.SHA256, bag.Payload)
		for m.Scan() {
			if !yield(bag.Entry{Path: string(m.Path()), Sum: bytes.Clone(m.Sum())}, nil) {
				return
			}
		}
		if err := m.Err(); err != nil {
			yield(bag.Entry{}, malformed("%s: %v", bag.Manifest, err))
		}
	}
}

// File is one payload file of an Archive.
type File struct {
	Size int64
	left int64
	name string
	want []byte
	h    hash.Hash
	s    *tarReader
	err  error
}

// Open finds the payload file of that path ("data/run.json"). An error is fs.ErrNotExist (wrapped) when there is none, else as that of
// [OpenArchive].
func (a *Archive) Open(path string) (*File, error) {
	s := &tarReader{a: a}
	v := &verifier{id: a.v.id}
	v.src.r = s
	s.skip(a.payload)
	for e, err := range a.Files() {
		if err != nil {
			s.close()
			return nil, err
		}
		n, err := v.header(e.Path)
		if err != nil {
			s.close()
			return nil, err
		}
		at := s.pos - int64(len(v.src.cur)) // of the file's first byte
		if e.Path == path {
			s.unread(at, v.src.cur)
			return &File{Size: n, left: n, name: path, want: e.Sum, h: sha256.New(), s: s}, nil
		}
		// Bytes that were read ahead are dropped, or used up first.
		if next := n + padding(n); next <= int64(len(v.src.cur)) {
			v.src.cur = v.src.cur[next:]
		} else {
			v.src.cur = nil
			s.skip(at + next)
		}
	}
	s.close()
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// Read reads, and at the end of the file compares its checksum with the manifest: io.EOF means that all that was read is right, and a
// *[code.Error] DigestMismatch that it is not.
func (f *File) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	if f.left == 0 {
		f.err = io.EOF
		if !bytes.Equal(f.h.Sum(nil), f.want) {
			f.err = mismatch(f.name, bag.Manifest)
		}
		return 0, f.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.s.Read(p[:min(int64(len(p)), f.left)])
	f.h.Write(p[:n])
	f.left -= int64(n)
	if err == io.EOF {
		err = code.New(code.Malformed, "the tar stream ends in %s", bag.Quote(f.name))
	}
	if err != nil {
		f.err = fmt.Errorf("read %s of an archive: %w", bag.Quote(f.name), err)
	}
	return n, f.err
}

// Close frees the memory.
func (f *File) Close() error {
	f.s.close()
	f.left, f.err = 0, fs.ErrClosed
	return nil
}

// tarReader reads an archive's tar stream, and skips what lies in between.
type tarReader struct {
	a     *Archive
	pos   int64 // of the next byte that Read gives
	want  int64 // where the next Read is to begin, when beyond pos
	dec   *Decoder
	ahead []byte // bytes from pos on that were read before
}

func (s *tarReader) skip(to int64) { s.want, s.ahead = to, nil }

// unread puts back what was read from at on.
func (s *tarReader) unread(at int64, b []byte) { s.pos, s.want, s.ahead = at, at, b }

func (s *tarReader) Read(p []byte) (int, error) {
	if len(s.ahead) > 0 {
		n := copy(p, s.ahead)
		s.ahead = s.ahead[n:]
		s.pos += int64(n)
		return n, nil
	}
	if s.dec == nil || s.want > s.pos {
		if err := s.seek(); err != nil {
			return 0, err
		}
	}
	n, err := s.dec.Read(p)
	s.pos += int64(n)
	return n, err
}

// seek goes to want: to the frame that it is in, unless decoding is there already, and then forward.
func (s *tarReader) seek() error {
	to := max(s.want, s.pos)
	frames := s.a.frames
	i := sort.Search(len(frames), func(i int) bool { return frames[i].tar > to }) - 1
	if s.dec == nil || frames[i].tar > s.pos {
		s.close()
		s.dec = NewDecoder(shortReads{io.NewSectionReader(s.a.r, frames[i].at, s.a.end-frames[i].at)})
		s.pos = frames[i].tar
	}
	for s.pos < to {
		b, err := s.dec.Chunk(int(min(to-s.pos, FrameSize)))
		s.pos += int64(len(b))
		if err == io.EOF {
			return malformed("the tar stream ends at byte %d, a file should begin at %d", s.pos, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *tarReader) close() {
	if s.dec != nil {
		s.dec.Close()
		s.dec = nil
	}
}

// shortReads keeps a decoder from reading far beyond the frame that is wanted.
type shortReads struct{ r io.Reader }

func (s shortReads) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), 64<<10)]) }
