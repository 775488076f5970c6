package pack

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"sync"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
)

// Limits bound what [Verify] accepts; 0 sets no bound.
type Limits struct {
	Files        int64 // payload files
	PayloadBytes int64
	TagBytes     int64 // all tag files together, in bytes
	RunBytes     int64 // data/run.json; never more than episode.MaxRun

	// Spill gives an empty file for a manifest of that many bytes, which is too long for memory. Verify closes it; it needs no name any
	// more by then. nil: a temporary file.
	Spill func(size int64) (*os.File, error)
}

// Bounds of the tag files that are read whole, the same as for reading an episode from the disk. The manifest is bounded by
// Limits.TagBytes only, and files.jsonl takes no memory.
const (
	maxTagManifest = 4 << 10
	maxBagInfo     = 64 << 10
	// keptManifest is the longest manifest that is kept in memory: of some 150 files. A receiver verifies hundreds of episodes at a time.
	keptManifest = 16 << 10
)

// Verified is what a tar stream turned out to hold.
type Verified struct {
	Facts episode.Facts
	Run   []byte // run.json
	Info  bag.Info
	Files int64 // of the payload
	Bytes int64 // in them
}

// Verify reads a tar stream to its end and accepts it only if it is that of the whole, intact episode of which want was announced:
//
//   - regular files only, with exactly the names and in exactly the order of a pack: tag files, then the payload in the order of
//     the manifest; two blocks of zeros, at most padded to tar's record of 10 KiB; nothing behind them;
//   - the SHA-256 of every payload file is that in the manifest, those of the tag files are those in the tag manifest, and
//     the tag manifest's is want.Digest;
//   - id, host, times, size and number of files in bag-info.txt and run.json are those of want.
//
// Memory does not grow with the episode: a long manifest is kept in a file. The error is r's own, that of this file, or a *[code.Error]: DigestMismatch for content that is
// not as its manifest says, TooLarge over a limit, Malformed for everything else.
//
// The lines of files.jsonl are not parsed: their digest is checked like that of everything else.
func Verify(r io.Reader, want episode.Facts, lim Limits) (*Verified, error) {
	switch {
	case over(want.Files, lim.Files):
		return nil, code.New(code.TooLarge, "%d files, the limit is %d", want.Files, lim.Files)
	case over(want.Size, lim.PayloadBytes):
		return nil, code.New(code.TooLarge, "%d bytes, the limit is %d", want.Size, lim.PayloadBytes)
	}
	v := newVerifier(r, lim)
	defer v.free()
	v.want = &want
	return v.episode()
}

func over(n, limit int64) bool { return limit > 0 && n > limit }

// sink is told what a verifier reads, as it reads it: before it is verified.
type sink interface {
	begin(path string, size int64) error
	write(b []byte) error
	end() error
}

// verifier reads a tar stream.
type verifier struct {
	src  source
	lim  Limits
	want *episode.Facts // nil: any
	sink sink           // nil: none
	id   string         // the directory of every name; "" until the first header of a stream of which nothing is known

	block   [blockSize]byte
	ext     []byte    // extended header
	name    [256]byte // memory of a name in two parts
	h       hash.Hash
	sum     [sha256.Size]byte
	tagged  int64 // bytes in tag files so far
	digest  bag.Digest
	tagSums [len(tagFiles)][sha256.Size]byte // what the tag manifest says
	info    bag.Info
	list    text  // the manifest
	meta    *text // where files.jsonl is to be kept, if it is
}

var verifiers = sync.Pool{New: func() any { return &verifier{h: sha256.New()} }}

func newVerifier(r io.Reader, lim Limits) *verifier {
	v := verifiers.Get().(*verifier)
	v.src.reset(r)
	v.lim = lim
	return v
}

func (v *verifier) free() {
	v.list.close()
	*v = verifier{src: source{buf: v.src.buf}, h: v.h, ext: v.ext[:0]}
	verifiers.Put(v)
}

func malformed(format string, a ...any) error { return code.New(code.Malformed, format, a...) }

// episode reads everything.
func (v *verifier) episode() (*Verified, error) {
	if err := v.tags(); err != nil {
		return nil, err
	}
	res := &Verified{Info: v.info}
	run, err := v.payload(res)
	if err != nil {
		return nil, err
	}
	if err := v.trailer(); err != nil {
		return nil, err
	}
	if res.Facts, err = episode.MakeFacts(v.digest, v.info, run); err != nil {
		return nil, malformed("%v", err)
	}
	switch octets, streams := res.Facts.Size, res.Facts.Files; {
	case octets != res.Bytes || streams != res.Files:
		return nil, malformed("%s says %d bytes in %d files, there are %d in %d", bag.LabelOxum, octets, streams, res.Bytes, res.Files)
	case res.Facts.ID.String() != v.id:
		return nil, malformed("the episode is %s, the tar stream's directory %.40q", res.Facts.ID, v.id)
	}
	if v.want != nil {
		if err := sameFacts(res.Facts, *v.want); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// sameFacts names the first thing in which an episode differs from what was announced.
func sameFacts(is, want episode.Facts) error {
	const layout = "2006-01-02T15:04:05Z07:00"
	var what, a, b string
	switch {
	case is.ID != want.ID:
		what, a, b = "id", want.ID.String(), is.ID.String()
	case is.Host != want.Host:
		what, a, b = "host", want.Host, is.Host
	case !is.Started.Equal(episode.Seconds(want.Started)):
		what, a, b = "started", want.Started.Format(layout), is.Started.Format(layout)
	case !is.Ended.Equal(episode.Seconds(want.Ended)):
		what, a, b = "ended", want.Ended.Format(layout), is.Ended.Format(layout)
	case is.Size != want.Size:
		what, a, b = "size", fmt.Sprint(want.Size), fmt.Sprint(is.Size)
	case is.Files != want.Files:
		what, a, b = "files", fmt.Sprint(want.Files), fmt.Sprint(is.Files)
	default:
		return nil
	}
	return malformed("%s was announced as %s, the episode says %s", what, a, b)
}

// tags reads the tag files.
func (v *verifier) tags() error {
	if v.want != nil {
		v.id = v.want.ID.String()
	}
	b, err := v.tagFile(bag.TagManifest, maxTagManifest)
	if err != nil {
		return err
	}
	v.digest = v.sum
	if v.want != nil && v.digest != v.want.Digest {
		return code.New(code.DigestMismatch, "the bag digest is %s, %s was announced", v.digest, v.want.Digest)
	}
	if err := v.tagManifest(b); err != nil {
		return err
	}
	for i, name := range tagFiles {
		switch name {
		case bag.TagManifest:
			continue
		case bag.Declaration:
			b, err = v.tagFile(name, int64(len(bag.DeclarationText)))
		case bag.InfoFile:
			b, err = v.tagFile(name, maxBagInfo)
		case bag.Manifest:
			err = v.manifest()
		case bag.Files:
			if v.meta == nil {
				err = v.file(name, v.tagSize, nil)
			} else {
				err = v.keep(name, v.meta)
			}
		}
		if err != nil {
			return err
		}
		if v.sum != v.tagSums[i] {
			return mismatch(name, bag.TagManifest)
		}
		switch name {
		case bag.Declaration:
			if string(b) != bag.DeclarationText {
				return malformed("%s is not that of BagIt 1.0 in UTF-8", name)
			}
		case bag.InfoFile:
			if err := v.checkInfo(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// tagManifest reads the checksums of the tag files, of which none may be missing and no other be there.
func (v *verifier) tagManifest(b []byte) error {
	r := manifestReaders.Get().(*bufio.Reader)
	r.Reset(bytes.NewReader(b))
	defer func() {
		r.Reset(nil)
		manifestReaders.Put(r)
	}()
	n := 0
	seen := [len(tagFiles)]bool{0: true}
	m := bag.NewManifestScanner(r, bag.SHA256, bag.Tag)
	for ; m.Scan(); n++ {
		if i := slices.Index(tagFiles[:], string(m.Path())); i >= 0 {
			seen[i], v.tagSums[i] = true, [sha256.Size]byte(m.Sum())
		}
	}
	if err := m.Err(); err != nil {
		return malformed("%s: %v", bag.TagManifest, err)
	}
	if n != len(tagFiles)-1 {
		return malformed("%s lists %d files, want %d", bag.TagManifest, n, len(tagFiles)-1)
	}
	if i := slices.Index(seen[:], false); i >= 0 {
		return malformed("%s does not list %s", bag.TagManifest, tagFiles[i])
	}
	return nil
}

func mismatch(name, manifest string) error {
	return code.New(code.DigestMismatch, "%s is not what %s says", bag.Quote(name), manifest)
}

// checkInfo compares bag-info.txt with what was announced before the payload is read; the rest is checked behind it.
func (v *verifier) checkInfo(b []byte) (err error) {
	if v.info, err = bag.ParseInfo(b); err != nil {
		return malformed("%s: %v", bag.InfoFile, err)
	}
	octets, streams, err := v.info.Oxum()
	if err != nil {
		return malformed("%v", err)
	}
	switch {
	case over(streams, v.lim.Files):
		return code.New(code.TooLarge, "%d files, the limit is %d", streams, v.lim.Files)
	case over(octets, v.lim.PayloadBytes):
		return code.New(code.TooLarge, "%d bytes, the limit is %d", octets, v.lim.PayloadBytes)
	case v.want != nil && (octets != v.want.Size || streams != v.want.Files):
		return malformed("%d bytes in %d files were announced, %s says %d in %d", v.want.Size, v.want.Files, bag.LabelOxum, octets, streams)
	}
	return nil
}

// tagSize counts the bytes of the tag files.
func (v *verifier) tagSize(size int64) error {
	if v.tagged += size; v.tagged < 0 || over(v.tagged, v.lim.TagBytes) {
		return code.New(code.TooLarge, "tag files of %d bytes and more, the limit is %d", v.tagged, v.lim.TagBytes)
	}
	return nil
}

// tagFile reads a short tag file.
func (v *verifier) tagFile(name string, limit int64) ([]byte, error) {
	var b []byte
	err := v.file(name, func(size int64) error {
		if size > limit {
			return code.New(code.TooLarge, "%s has %d bytes, the limit is %d", name, size, limit)
		}
		b = make([]byte, 0, size)
		return v.tagSize(size)
	}, func(c []byte) { b = append(b, c...) })
	return b, err
}

func (v *verifier) manifest() error {
	return v.keep(bag.Manifest, &v.list)
}

// keep reads a tag file, and keeps it in t.
func (v *verifier) keep(name string, t *text) error {
	size := func(n int64) error {
		if err := v.tagSize(n); err != nil {
			return err
		}
		return t.open(n, v.lim.Spill)
	}
	if err := v.file(name, size, t.write); err != nil {
		return err
	}
	return t.err
}

// payload reads the payload in the order of the manifest, and gives run.json.
func (v *verifier) payload(res *Verified) (*episode.Run, error) {
	r := manifestReaders.Get().(*bufio.Reader)
	r.Reset(v.list.reader())
	defer func() {
		r.Reset(nil)
		manifestReaders.Put(r)
	}()
	octets, streams, err := v.info.Oxum()
	if err != nil {
		return nil, malformed("%v", err)
	}
	var run *episode.Run
	var path string
	size := func(n int64) error {
		if res.Bytes += n; res.Bytes < 0 || res.Bytes > octets {
			return malformed("more payload than the %d bytes that %s says, from %s on", octets, bag.LabelOxum, bag.Quote(path))
		}
		if path != runFile {
			return nil
		}
		if n > episode.MaxRun || over(n, v.lim.RunBytes) {
			return code.New(code.TooLarge, "%s has %d bytes", runFile, n)
		}
		res.Run = make([]byte, 0, n)
		return nil
	}
	keep := func(b []byte) { res.Run = append(res.Run, b...) }
	m := bag.NewManifestScanner(r, bag.SHA256, bag.Payload)
	for m.Scan() {
		if res.Files++; res.Files > streams {
			return nil, malformed("%s lists more than the %d files that %s says", bag.Manifest, streams, bag.LabelOxum)
		}
		path = string(m.Path())
		if path != runFile {
			err = v.file(path, size, nil)
		} else {
			err = v.file(path, size, keep)
		}
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(v.sum[:], m.Sum()) {
			return nil, mismatch(path, bag.Manifest)
		}
		if path == runFile {
			if run, err = episode.ParseRun(res.Run); err != nil {
				return nil, malformed("%v", err)
			}
		}
	}
	if err := m.Err(); err != nil {
		if _, ok := code.Of(err); ok {
			return nil, err
		}
		return nil, malformed("%s: %v", bag.Manifest, err)
	}
	if run == nil {
		return nil, malformed("there is no %s", runFile)
	}
	return run, nil
}

// file reads one file, which must be the next, and leaves its SHA-256 in v.sum. size, when given, may refuse its size; each, when given, gets its
// bytes.
func (v *verifier) file(path string, size func(int64) error, each func([]byte)) error {
	n, err := v.header(path)
	if err != nil {
		return err
	}
	if size != nil {
		if err := size(n); err != nil {
			return err
		}
	}
	if v.sink != nil {
		if err := v.sink.begin(path, n); err != nil {
			return err
		}
	}
	v.h.Reset()
	for left := n; left > 0; {
		b, err := v.src.next(left)
		if err != nil {
			return v.cut(err, path)
		}
		left -= int64(len(b))
		v.h.Write(b)
		if each != nil {
			each(b)
		}
		if v.sink != nil {
			if err := v.sink.write(b); err != nil {
				return err
			}
		}
	}
	v.h.Sum(v.sum[:0])
	if v.sink != nil {
		if err := v.sink.end(); err != nil {
			return err
		}
	}
	return v.zeros(padding(n), path)
}

// cut is for an error of reading: the end of the stream is one only here.
func (v *verifier) cut(err error, path string) error {
	if err == io.EOF {
		return malformed("the tar stream ends at %s", bag.Quote(path))
	}
	return err
}

// zeros reads n bytes, which must be zeros.
func (v *verifier) zeros(n int64, path string) error {
	for n > 0 {
		b, err := v.src.next(n)
		if err != nil {
			return v.cut(err, path)
		}
		n -= int64(len(b))
		for _, c := range b {
			if c != 0 {
				return malformed("the padding behind %s is not of zeros", bag.Quote(path))
			}
		}
	}
	return nil
}

// header reads the header of path, and gives the file's size.
func (v *verifier) header(path string) (int64, error) {
	var extended byte
	var name []byte
	size := int64(-1)
	for {
		if err := v.src.full(v.block[:]); err != nil {
			return 0, v.cut(err, path)
		}
		h, err := parseHeader(&v.block, v.name[:0])
		switch {
		case err == errTrailer:
			return 0, malformed("the tar stream has no %s", bag.Quote(path))
		case err != nil:
			return 0, malformed("at %s: %v", bag.Quote(path), err)
		}
		if h.extended == 0 {
			if name == nil {
				name = h.name
			}
			if size < 0 {
				size = h.size
			}
			return size, v.checkName(name, path)
		}
		if extended != 0 {
			return 0, malformed("at %s: two extended tar headers", bag.Quote(path))
		}
		extended = h.extended
		v.ext = slices.Grow(v.ext[:0], int(h.size))[:h.size]
		if err := v.src.full(v.ext); err != nil {
			return 0, v.cut(err, path)
		}
		if err := v.zeros(padding(h.size), path); err != nil {
			return 0, err
		}
		if extended == 'L' {
			name = cString(v.ext)
			if len(v.ext)-len(name) != 1 || len(name) == 0 {
				return 0, malformed("at %s: a long name is not ended by one zero byte", bag.Quote(path))
			}
		} else if name, size, err = paxRecords(v.ext); err != nil {
			return 0, malformed("at %s: %v", bag.Quote(path), err)
		}
	}
}

// checkName compares a name in the stream with the only one that may be there.
func (v *verifier) checkName(name []byte, path string) error {
	if v.id == "" {
		i := bytes.IndexByte(name, '/')
		if i < 0 {
			return malformed("the tar stream begins with %.80q, which is no file of an episode", name)
		}
		id, err := episode.ParseID(string(name[:i]))
		if err != nil {
			return malformed("the tar stream begins with %.80q: %v", name, err)
		}
		v.id = id.String()
	}
	if n := len(v.id); len(name) != n+1+len(path) || string(name[:n]) != v.id || name[n] != '/' || string(name[n+1:]) != path {
		return malformed("the tar stream has %.200q where %.200q should be", name, v.id+"/"+path)
	}
	return nil
}

// trailer reads the end of the archive and of r.
func (v *verifier) trailer() error {
	const path = "the last file"
	if err := v.zeros(endSize, path); err != nil {
		return err
	}
	for n := int64(0); ; {
		b, err := v.src.next(recordSize)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n += int64(len(b)); n > recordSize-endSize || blockSum(b) != 0 {
			return malformed("there is more behind the end of the tar stream")
		}
	}
}

// Chunker may be implemented by a reader that has its bytes in memory, as a [Decoder] has, so that [Verify] need not copy them.
type Chunker interface {
	// Chunk gives the next bytes, at least one and at most max, in memory that is good until the next call; or an error,
	// io.EOF at the end.
	Chunk(max int) ([]byte, error)
}

// source gives out the bytes of a reader without copying them where that can be helped.
type source struct {
	r      io.Reader
	chunks Chunker
	buf    []byte
	cur    []byte
	err    error
}

func (s *source) reset(r io.Reader) {
	chunks, _ := r.(Chunker)
	*s = source{r: r, chunks: chunks, buf: s.buf}
}

// next gives at least one byte and at most max, in memory that is good until the next call.
func (s *source) next(max int64) ([]byte, error) {
	if s.chunks != nil {
		return s.chunks.Chunk(int(min(max, FrameSize)))
	}
	for len(s.cur) == 0 {
		if s.err != nil {
			return nil, s.err
		}
		if s.buf == nil {
			s.buf = make([]byte, 64<<10)
		}
		var n int
		n, s.err = s.r.Read(s.buf)
		s.cur = s.buf[:n]
	}
	n := min(max, int64(len(s.cur)))
	b := s.cur[:n]
	s.cur = s.cur[n:]
	return b, nil
}

// full fills dst.
func (s *source) full(dst []byte) error {
	for len(dst) > 0 {
		b, err := s.next(int64(len(dst)))
		if err != nil {
			return err
		}
		dst = dst[copy(dst, b):]
	}
	return nil
}

// text is a tag file that is read twice, as the manifest is: when it comes, and again along with the payload.
type text struct {
	kept []byte
	file *os.File // of a long one
	size int64
	err  error // of writing
}

// open prepares for n bytes.
func (t *text) open(n int64, spill func(int64) (*os.File, error)) (err error) {
	if n <= keptManifest {
		t.kept = make([]byte, 0, n)
		return nil
	}
	if spill == nil {
		spill = func(int64) (*os.File, error) { return temporary() }
	}
	if t.file, err = spill(n); err != nil {
		return fmt.Errorf("keep a manifest of %d bytes: %w", n, err)
	}
	return nil
}

// temporary makes a file that is gone once it is closed.
func temporary() (*os.File, error) {
	f, err := os.CreateTemp("", "manifest-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (t *text) write(b []byte) {
	switch {
	case t.file == nil:
		t.kept = append(t.kept, b...)
	case t.err == nil:
		if _, t.err = t.file.WriteAt(b, t.size); t.err != nil {
			t.err = fmt.Errorf("keep the manifest: %w", t.err)
		}
	}
	t.size += int64(len(b))
}

func (t *text) reader() io.Reader {
	if t.file == nil {
		return bytes.NewReader(t.kept)
	}
	return io.NewSectionReader(t.file, 0, t.size)
}

func (t *text) close() {
	if t.file != nil {
		t.file.Close()
	}
	*t = text{}
}
