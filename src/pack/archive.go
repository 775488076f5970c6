package pack

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"slices"
	"sort"
	"strings"

	"github.com/agext/levenshtein"

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
	files   text // files.jsonl
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
	a.v = &verifier{h: sha256.New(), meta: &a.files}
	a.v.src.reset(s)
	if err := a.v.tags(); err != nil {
		a.Close()
		return nil, err
	}
	a.digest = a.v.digest
	a.payload = s.pos - int64(len(a.v.src.cur))
	a.v.src = source{}
	return a, nil
}

// Close frees what long tag files take up; it does not close the archive's reader.
func (a *Archive) Close() error {
	a.v.list.close()
	a.files.close()
	return nil
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

// Near lists up to n paths of the payload that path may have been meant for: those that end in it, then those that are spelt almost
// like it.
func (a *Archive) Near(path string, n int) []string {
	type candidate struct {
		path     string
		distance int
	}
	// A distance is at least that of the lengths: most need not be found out.
	within := func(a, b string, most int) (int, bool) {
		if d := len(a) - len(b); d > most || -d > most {
			return 0, false
		}
		d := levenshtein.Distance(a, b, nil)
		return d, d <= most
	}
	base := func(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }
	var found []candidate
	for e, err := range a.Files() {
		if err != nil {
			break
		}
		c := candidate{path: e.Path}
		if !strings.HasSuffix(e.Path, "/"+path) {
			var is bool
			if c.distance, is = within(e.Path, path, max(2, len(path)/8)); !is {
				// The same name elsewhere, or almost the same.
				if c.distance, is = within(base(e.Path), base(path), len(base(path))/4); !is {
					continue
				}
				c.distance += len(path)
			}
		}
		at, _ := slices.BinarySearchFunc(found, c, func(a, b candidate) int { return cmp.Compare(a.distance, b.distance) })
		if found = slices.Insert(found, at, c); len(found) > n {
			found = found[:n]
		}
	}
	var out []string
	for _, c := range found {
		out = append(out, c.path)
	}
	return out
}

// Meta yields what files.jsonl says.
func (a *Archive) Meta() iter.Seq2[bag.FileMeta, error] {
	return func(yield func(bag.FileMeta, error) bool) {
		for m, err := range bag.ScanFiles(bufio.NewReader(a.files.reader())) {
			if err != nil {
				yield(m, malformed("%s: %v", bag.Files, err))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

// File is one payload file of an Archive.
type File struct {
	Path string
	Size int64
	Sum  []byte // SHA-256, as the manifest says

	a   *Archive
	at  int64 // of its first byte in the tar stream
	off int64 // of the next byte that Read gives
	h   hash.Hash
	s   *tarReader
	err error
}

// Open finds the payload file of that path ("data/run.json"). An error is fs.ErrNotExist (wrapped) when there is none, else as that of
// [OpenArchive].
func (a *Archive) Open(path string) (f *File, err error) {
	err = a.Walk(func(p string) bool { return p == path }, func(found *File) error {
		// It goes on where the walk has got to.
		own := *found
		f, found.s = &own, nil
		return errFound
	})
	if err == errFound {
		return f, nil
	}
	if err == nil {
		err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return nil, err
}

var errFound = errors.New("found")

// Walk calls do for each payload file that match accepts, in the order of the manifest. What lies between them is decoded only where a tar
// header is in it. The file is good until do returns; an error of do ends the walk.
func (a *Archive) Walk(match func(path string) bool, do func(*File) error) error {
	left := 0
	for e, err := range a.Files() {
		if err != nil {
			return err
		}
		if match(e.Path) {
			left++
		}
	}
	s := &tarReader{a: a}
	defer func() { s.close() }()
	s.jump(a.payload)
	v := &verifier{id: a.v.id}
	v.src.r = s
	for e, err := range a.Files() {
		if left == 0 || err != nil {
			return err
		}
		n, err := v.header(e.Path)
		if err != nil {
			return err
		}
		at := s.pos - int64(len(v.src.cur)) // of the file's first byte
		next := at + n + padding(n)
		if !match(e.Path) {
			// Bytes that were read ahead are dropped, or used up first.
			if ahead := next - at; ahead <= int64(len(v.src.cur)) {
				v.src.cur = v.src.cur[ahead:]
			} else {
				v.src.cur = nil
				s.jump(next)
			}
			continue
		}
		left--
		s.unread(at, v.src.cur)
		v.src.cur = nil
		f := &File{Path: e.Path, Size: n, Sum: e.Sum, a: a, at: at, h: sha256.New(), s: s}
		err = do(f)
		if f.s == nil { // it was taken
			s = &tarReader{a: a}
			return err
		}
		f.err = fs.ErrClosed
		if err != nil {
			return err
		}
		s.jump(next)
	}
	return nil
}

// Read reads. Who reads the file from its first byte to the last gets the last ones only if all of them have the checksum that the manifest says, and a
// *[code.Error] DigestMismatch in place of them otherwise. Of a part of the file, only zstd's own checksums are compared.
func (f *File) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	if f.off >= f.Size {
		if f.Size == 0 && f.h != nil && !bytes.Equal(f.h.Sum(nil), f.Sum) {
			f.err = mismatch(f.Path, bag.Manifest)
			return 0, f.err
		}
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.s.Read(p[:min(int64(len(p)), f.Size-f.off)])
	f.off += int64(n)
	if f.h != nil {
		f.h.Write(p[:n])
		if f.off == f.Size && !bytes.Equal(f.h.Sum(nil), f.Sum) {
			f.err = mismatch(f.Path, bag.Manifest)
			return 0, f.err
		}
	}
	if err == io.EOF {
		err = code.New(code.Malformed, "the tar stream ends in %s", bag.Quote(f.Path))
	}
	if err != nil {
		f.err = fmt.Errorf("read %s of an archive: %w", bag.Quote(f.Path), err)
	}
	return n, f.err
}

// Seek sets where the next Read begins. It costs nothing until then.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.Size
	default:
		return 0, fmt.Errorf("seek %s of an archive: whence %d", bag.Quote(f.Path), whence)
	}
	switch {
	case f.err != nil:
		return 0, f.err
	case offset < 0:
		return 0, &fs.PathError{Op: "seek", Path: f.Path, Err: fs.ErrInvalid}
	case offset == f.off:
		return offset, nil
	}
	f.h = nil
	if offset == 0 {
		f.h = sha256.New()
	}
	f.off = offset
	f.s.jump(f.at + offset)
	return offset, nil
}

// Close frees the memory.
func (f *File) Close() error {
	f.s.close()
	f.err = fs.ErrClosed
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

// jump has the next Read begin at to.
func (s *tarReader) jump(to int64) {
	if ahead := int64(len(s.ahead)); s.pos <= to && to < s.pos+ahead {
		s.ahead = s.ahead[to-s.pos:]
		s.pos, s.want = to, to
		return
	}
	s.pos += int64(len(s.ahead)) // where decoding is
	s.ahead = nil
	if s.want = to; to < s.pos {
		s.close()
		s.pos = 0
	}
}

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
