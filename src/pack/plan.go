package pack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
)

// Plan is the tar stream of one sealed episode: which byte of which file stands at which offset. It holds 8 bytes for each file, and
// no names: they are read again from the manifest as they are needed.
//
// A plan may be read by several streams at once. Its error is always a *[code.Error]: Damaged when the episode is not
// what it was when it was planned or what its manifest says, ReadFailed when the operating system failed.
type Plan struct {
	facts   episode.Facts
	name    string // of the episode: its id
	root    *rootDir
	closed  sync.Once
	tags    [len(tagFiles)]int64  // sizes
	tagEnd  int64                 // where the payload's first header is
	sizes   []int64               // of the payload's files, in the order of the manifest
	marks   []mark                // at every markEvery-th file
	kept    [len(tagFiles)][]byte // those of the tag files that are in memory anyway
	run     []byte                // run.json, the same
	tarSize int64
}

// mark is a place from which the manifest and the tar stream can be followed together.
type mark struct{ tar, manifest int64 }

const (
	markEvery = 64
	// keepSize is up to which size a manifest and run.json, which planning has to read, are kept for packing.
	keepSize = 32 << 10

	// readSize is the most that is read at once: a step forward that whoever watches gets to know of.
	readSize = 256 << 10
)

// rootDir is an episode's directory, open as long as anybody needs it: Plan.Close may come while a read hangs.
type rootDir struct {
	f    *os.File
	mu   sync.Mutex
	refs int
}

func (r *rootDir) acquire() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refs == 0 {
		return false
	}
	r.refs++
	return true
}

func (r *rootDir) release() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refs--; r.refs == 0 {
		return r.f.Close()
	}
	return nil
}

// NewPlan plans the sealed episode at dir. It reads the tag files and run.json, and the size of every payload file.
func NewPlan(dir string) (*Plan, error) {
	return OpenPlan(context.Background(), dir, nil)
}

// OpenPlan is [NewPlan] for whoever watches a long one: it stops when ctx ends, and calls progress with the number of files done at
// every 64th.
func OpenPlan(ctx context.Context, dir string, progress func(files int64)) (_ *Plan, err error) {
	sealed, err := episode.Open(dir)
	if err != nil {
		return nil, err
	}
	facts := sealed.Facts
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, readError(facts.ID.String(), err)
	}
	p := &Plan{facts: facts, name: facts.ID.String(), root: &rootDir{f: f, refs: 1}}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	p.kept[0], p.kept[1] = sealed.TagManifest, []byte(bag.DeclarationText)
	if len(sealed.RunJSON) <= keepSize {
		p.run = sealed.RunJSON
	}
	st := newStatter(f)
	defer st.close()
	for i, name := range tagFiles {
		if p.kept[i] != nil {
			p.tags[i] = int64(len(p.kept[i]))
		} else if p.tags[i], err = st.size(name); err != nil {
			return nil, readError(p.name, err)
		}
		h, err := headerSize(p.name, name, p.tags[i])
		if err != nil {
			return nil, readError(p.name, err)
		}
		p.tagEnd += h + p.tags[i] + padding(p.tags[i])
	}
	if err := p.planPayload(ctx, st, progress); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, readError(p.name, err)
	}
	return p, nil
}

func (p *Plan) planPayload(ctx context.Context, st *statter, progress func(int64)) error {
	m, err := p.openManifest(0, true)
	if err != nil {
		return err
	}
	defer m.close()
	p.sizes = make([]int64, 0, p.facts.Files)
	var size, total int64
	at := mark{tar: p.tagEnd}
	for m.Scan() {
		if len(p.sizes)%markEvery == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if progress != nil {
				progress(int64(len(p.sizes)))
			}
			p.marks = append(p.marks, at)
		}
		path := string(m.Path())
		if p.run != nil && path == runFile {
			size = int64(len(p.run))
		} else if size, err = st.size(path); err != nil {
			return err
		}
		if total += size; total > p.facts.Size || len(p.sizes) == cap(p.sizes) {
			break
		}
		p.sizes = append(p.sizes, size)
		h, err := headerSize(p.name, path, size)
		if err != nil {
			return err
		}
		if at.tar > math.MaxInt64-h-size-recordSize {
			return errors.New("the episode is too large")
		}
		at.tar += h + size + padding(size)
		at.manifest += manifestLine(path)
	}
	if err := m.Err(); err != nil {
		return fmt.Errorf("%s: %w", bag.Manifest, err)
	}
	if total != p.facts.Size || int64(len(p.sizes)) != p.facts.Files {
		return fmt.Errorf("the payload does not add up to %s, %d bytes in %d files", bag.LabelOxum, p.facts.Size, p.facts.Files)
	}
	p.tarSize = at.tar + endSize
	return nil
}

// manifestLine is the length of a path's line in a canonical manifest.
func manifestLine(path string) int64 {
	n := 2*bag.SHA256.Size() + len("  ") + len(path) + len("\n")
	for i := range len(path) {
		if c := path[i]; c == '\r' || c == '\n' || c == '%' {
			n += 2
		}
	}
	return int64(n)
}

// Facts are what the episode announces of itself.
func (p *Plan) Facts() episode.Facts { return p.facts }

// TarSize is the length of the tar stream in bytes.
func (p *Plan) TarSize() int64 { return p.tarSize }

// Close frees the directory, as soon as no stream reads it any more.
func (p *Plan) Close() (err error) {
	p.closed.Do(func() { err = p.root.release() })
	return err
}

// manifest reads the payload manifest from a mark on.
type manifest struct {
	*bag.ManifestScanner
	r  *bufio.Reader
	f  *openedFile // nil when it is in memory
	at int64
}

var manifestReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 16<<10) }}

func (p *Plan) openManifest(offset int64, keep bool) (_ *manifest, err error) {
	if b := p.kept[manifestTag]; b == nil && keep && p.tags[manifestTag] <= keepSize {
		f, err := openFile(p.root.f, bag.Manifest, p.tags[manifestTag])
		if err != nil {
			return nil, err
		}
		defer f.close()
		b = make([]byte, f.size)
		if err := f.readAt(b, 0); err != nil {
			return nil, err
		}
		p.kept[manifestTag] = b
	}
	m := &manifest{r: manifestReaders.Get().(*bufio.Reader)}
	if b := p.kept[manifestTag]; b != nil {
		m.r.Reset(bytes.NewReader(b[min(offset, int64(len(b))):]))
	} else {
		if m.f, err = openFile(p.root.f, bag.Manifest, p.tags[manifestTag]); err != nil {
			m.close()
			return nil, err
		}
		m.at = offset
		m.r.Reset(m)
	}
	m.ManifestScanner = bag.NewManifestScanner(m.r, bag.SHA256, bag.Payload)
	return m, nil
}

// Read reads the manifest's file.
func (m *manifest) Read(b []byte) (int, error) {
	if m.at >= m.f.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), m.f.size-m.at)]
	if err := m.f.readAt(b, m.at); err != nil {
		return 0, err
	}
	m.at += int64(len(b))
	return len(b), nil
}

func (m *manifest) close() {
	if m.f != nil {
		m.f.close()
	}
	m.r.Reset(nil)
	manifestReaders.Put(m.r)
}

// readError gives an error of reading an episode its code.
func readError(name string, err error) error {
	if _, ok := code.Of(err); ok {
		return err
	}
	var path *fs.PathError
	switch {
	case errors.Is(err, durable.ErrNotRegular), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EXDEV),
		errors.Is(err, unix.ENAMETOOLONG):
	case errors.As(err, &path):
		return code.Wrap(code.ReadFailed, err, "episode %s", name)
	}
	return code.Wrap(code.Damaged, err, "episode %s", name)
}

// statter finds the sizes of files below a directory. Like opening them, it follows no link: the directory that a file is in is opened
// with openat2(2), and kept open for the next file, which is mostly in the same one.
type statter struct {
	root *os.File
	dir  string
	fd   int
}

func newStatter(root *os.File) *statter { return &statter{root: root, fd: -1} }

func (s *statter) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

func (s *statter) size(path string) (int64, error) {
	dir, base := "", path
	fd := int(s.root.Fd())
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		if dir, base = path[:i], path[i+1:]; s.fd < 0 || s.dir != dir {
			s.close()
			d, err := durable.OpenAt(fd, dir, unix.O_PATH|unix.O_DIRECTORY)
			if err == unix.ELOOP {
				err = durable.ErrNotRegular
			}
			if err != nil {
				return 0, &fs.PathError{Op: "open", Path: filepath.Join(s.root.Name(), dir), Err: err}
			}
			s.fd, s.dir = d, strings.Clone(dir)
		}
		fd = s.fd
	}
	var st unix.Stat_t
	_, err := retry(func() (int, error) { return 0, unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = durable.ErrNotRegular
	}
	if err != nil {
		return 0, &fs.PathError{Op: "stat", Path: filepath.Join(s.root.Name(), path), Err: err}
	}
	return st.Size, nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// cursor reads a plan's tar stream from an offset on.
type cursor struct {
	p        *Plan
	tag      int   // the next tag file; from len(tagFiles) on it is the payload's turn
	next     int64 // the next payload file
	m        *manifest
	header   []byte // of the current file, not yet given out
	buf      []byte // header's memory
	kept     []byte // the current file, if it is in memory
	f        *openedFile
	path     string
	off      int64 // in the file
	left     int64 // of the current file
	pad      int64 // zeros, then
	end      bool  // the padding is the end of the stream
	pos      int64
	progress func(int)
}

// cursor starts at from, which must be within the stream. The caller closes it.
func (p *Plan) cursor(from int64) (*cursor, error) {
	if from < 0 || from > p.tarSize {
		return nil, fmt.Errorf("episode %s: offset %d is outside its tar stream of %d bytes", p.name, from, p.tarSize)
	}
	if !p.root.acquire() {
		return nil, fmt.Errorf("episode %s: the plan is closed", p.name)
	}
	c := &cursor{p: p, pos: from}
	if err := c.seek(from); err != nil {
		c.close()
		return nil, c.fail(err)
	}
	return c, nil
}

func (c *cursor) fail(err error) error { return readError(c.p.name, err) }

func (c *cursor) close() {
	c.closeFile()
	if c.m != nil {
		c.m.close()
		c.m = nil
	}
	c.p.root.release()
}

func (c *cursor) closeFile() {
	if c.f != nil {
		c.f.close()
		c.f = nil
	}
}

// seek finds the file that from is in, reading only a few lines of the manifest and no file before it.
func (c *cursor) seek(from int64) error {
	at := int64(0)
	if from >= c.p.tagEnd {
		c.tag = len(tagFiles)
		i := sort.Search(len(c.p.marks), func(i int) bool { return c.p.marks[i].tar > from }) - 1
		if i >= 0 { // there is always run.json
			m, err := c.p.openManifest(c.p.marks[i].manifest, false)
			if err != nil {
				return err
			}
			c.m = m
			c.next = int64(i) * markEvery
			at = c.p.marks[i].tar
		}
	}
	for {
		more, err := c.entry()
		if err != nil {
			return err
		}
		n := int64(len(c.header)) + c.left + c.pad
		if skip := from - at; skip < n || !more {
			k := min(skip, int64(len(c.header)))
			c.header, skip = c.header[k:], skip-k
			k = min(skip, c.left)
			c.off, c.left, skip = k, c.left-k, skip-k
			c.pad -= skip
			return nil
		}
		at += n
	}
}

// entry goes on to the next file, without opening it. At the end of the payload it gives the stream's end, and false.
func (c *cursor) entry() (more bool, err error) {
	var size int64
	c.kept = nil
	switch {
	case c.tag < len(tagFiles):
		c.path, size, c.kept = tagFiles[c.tag], c.p.tags[c.tag], c.p.kept[c.tag]
		c.tag++
	case c.next < int64(len(c.p.sizes)):
		if c.m == nil {
			if c.m, err = c.p.openManifest(0, false); err != nil {
				return false, err
			}
		}
		if !c.m.Scan() {
			if err := c.m.Err(); err != nil {
				return false, fmt.Errorf("%s: %w", bag.Manifest, err)
			}
			return false, fmt.Errorf("%s is shorter than it was", bag.Manifest)
		}
		c.path, size = string(c.m.Path()), c.p.sizes[c.next]
		if c.path == runFile {
			c.kept = c.p.run
		}
		c.next++
	default:
		c.header, c.path, c.left, c.pad, c.end = nil, "", 0, endSize, true
		return false, nil
	}
	if c.buf, err = appendHeader(c.buf[:0], c.p.name, c.path, size); err != nil {
		return false, err
	}
	c.header, c.off, c.left, c.pad = c.buf, 0, size, padding(size)
	return true, nil
}

// fill fills dst with the next bytes of the stream, which must have that many.
func (c *cursor) fill(dst []byte) (err error) {
	c.pos += int64(len(dst))
	for len(dst) > 0 {
		switch {
		case len(c.header) > 0:
			n := copy(dst, c.header)
			dst, c.header = dst[n:], c.header[n:]
			if len(c.header) == 0 && c.left == 0 && c.kept == nil { // see that it is there, and empty
				if c.f, err = openFile(c.p.root.f, c.path, 0); err != nil {
					return c.fail(err)
				}
				c.closeFile()
			}
		case c.left > 0:
			n, err := c.read(dst[:min(int64(len(dst)), c.left, readSize)])
			if err != nil {
				return c.fail(err)
			}
			dst = dst[n:]
		case c.pad > 0:
			n := min(int64(len(dst)), c.pad)
			clear(dst[:n])
			dst, c.pad = dst[n:], c.pad-n
		default:
			if c.end {
				return c.fail(errors.New("read beyond the end of the tar stream"))
			}
			if _, err := c.entry(); err != nil {
				return c.fail(err)
			}
		}
	}
	return nil
}

// read reads what dst has room for, at most c.left bytes.
func (c *cursor) read(dst []byte) (n int, err error) {
	n = len(dst)
	switch {
	case c.kept != nil:
		copy(dst, c.kept[c.off:])
	case c.f == nil:
		if c.f, err = openFile(c.p.root.f, c.path, c.off+c.left); err != nil {
			return 0, err
		}
		fallthrough
	default:
		if err := c.f.readAt(dst, c.off); err != nil {
			return 0, err
		}
	}
	c.off += int64(n)
	if c.left -= int64(n); c.left == 0 {
		c.closeFile()
	}
	if c.progress != nil {
		c.progress(n)
	}
	return n, nil
}

// openedFile is a file of an episode, open for reading. It is a bare descriptor: of very many small files, what os.File does for each beside
// reading costs as much again.
type openedFile struct {
	root *os.File
	path string
	fd   int
	size int64
}

// openFile opens the regular file path below root, through no link, if it has the planned size.
func openFile(root *os.File, path string, size int64) (*openedFile, error) {
	f := &openedFile{root: root, path: path, size: size}
	var err error
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f.fd, err = durable.OpenAt(int(root.Fd()), path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	switch err {
	case nil:
	case unix.ELOOP, unix.ENXIO: // a link in the way; a socket
		return nil, f.error("open", durable.ErrNotRegular)
	default:
		return nil, f.error("open", err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(f.fd, &st); err != nil {
		err = f.error("stat", err)
	} else if st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = f.error("open", durable.ErrNotRegular)
	} else if st.Size != size {
		err = fmt.Errorf("%s has %d bytes, not the %d it had", bag.Quote(path), st.Size, size)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *openedFile) error(op string, err error) error {
	return &fs.PathError{Op: op, Path: filepath.Join(f.root.Name(), f.path), Err: err}
}

// readAt fills b.
func (f *openedFile) readAt(b []byte, off int64) error {
	for len(b) > 0 {
		n, err := retry(func() (int, error) { return unix.Pread(f.fd, b, off) })
		if err != nil {
			return f.error("read", err)
		}
		if n == 0 {
			return fmt.Errorf("%s has only %d bytes, not the %d it had", bag.Quote(f.path), off, f.size)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func (f *openedFile) close() { unix.Close(f.fd) }
