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
	tags    [len(tagFiles)]int64 // sizes
	tagEnd  int64                // where the payload's first header is
	sizes   []int64              // of the payload's files, in the order of the manifest
	marks   []mark               // at every markEvery-th file
	small   []byte               // the manifest, if it is short
	tarSize int64
}

// mark is a place from which the manifest and the tar stream can be followed together.
type mark struct{ tar, manifest int64 }

const (
	markEvery     = 64
	smallManifest = 32 << 10

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
	facts, err := episode.ReadFacts(dir)
	if err != nil {
		return nil, err
	}
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
	st := newStatter(f)
	defer st.close()
	for i, name := range tagFiles {
		if p.tags[i], err = st.size(name); err != nil {
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
		if size, err = st.size(path); err != nil {
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
	r *bufio.Reader
	f *os.File
}

var manifestReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 16<<10) }}

func (p *Plan) openManifest(offset int64, keep bool) (*manifest, error) {
	m := &manifest{r: manifestReaders.Get().(*bufio.Reader)}
	if p.small != nil {
		m.r.Reset(bytes.NewReader(p.small[min(offset, int64(len(p.small))):]))
	} else {
		f, err := durable.OpenBeneath(p.root.f, bag.Manifest)
		if err != nil {
			return nil, err
		}
		if keep && p.tags[manifestTag] <= smallManifest {
			defer f.Close()
			b := make([]byte, p.tags[manifestTag])
			if _, err := io.ReadFull(f, b); err != nil {
				return nil, err
			}
			p.small = b
			m.r.Reset(bytes.NewReader(b))
		} else {
			if _, err := f.Seek(offset, io.SeekStart); err != nil {
				f.Close()
				return nil, err
			}
			m.f = f
			m.r.Reset(f)
		}
	}
	m.ManifestScanner = bag.NewManifestScanner(m.r, bag.SHA256, bag.Payload)
	return m, nil
}

func (m *manifest) close() {
	if m.f != nil {
		m.f.Close()
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
			how := unix.OpenHow{
				Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
				Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
			}
			d, err := retry(func() (int, error) { return unix.Openat2(fd, dir, &how) })
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

// retry repeats a system call that a signal interrupted, or a rename that raced with it (openat2(2)).
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR && err != unix.EAGAIN {
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
	f        *os.File
	path     string
	off      int64 // in f
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
		c.f.Close()
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
	switch {
	case c.tag < len(tagFiles):
		c.path, size = tagFiles[c.tag], c.p.tags[c.tag]
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
func (c *cursor) fill(dst []byte) error {
	c.pos += int64(len(dst))
	for len(dst) > 0 {
		switch {
		case len(c.header) > 0:
			n := copy(dst, c.header)
			dst, c.header = dst[n:], c.header[n:]
			if len(c.header) == 0 && c.left == 0 && c.path != "" {
				if err := c.checkEmpty(); err != nil {
					return c.fail(err)
				}
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

// read reads what dst has room for, at most c.left bytes, and at the end of the file makes sure that it is the end.
func (c *cursor) read(dst []byte) (int, error) {
	if c.f == nil {
		f, err := durable.OpenBeneath(c.p.root.f, c.path)
		if err != nil {
			return 0, err
		}
		c.f = f
	}
	n, err := c.f.ReadAt(dst, c.off)
	if c.progress != nil && n > 0 {
		c.progress(n)
	}
	c.off += int64(n)
	c.left -= int64(n)
	switch {
	case n < len(dst) && err == io.EOF:
		return n, fmt.Errorf("%s has only %d bytes, %d fewer than it had", bag.Quote(c.path), c.off, c.left)
	case n < len(dst):
		return n, err
	}
	if c.left > 0 {
		return n, nil
	}
	err = c.checkEnd()
	c.closeFile()
	return n, err
}

// checkEnd makes sure that there is nothing behind what was planned.
func (c *cursor) checkEnd() error {
	var one [1]byte
	n, err := c.f.ReadAt(one[:], c.off)
	if n > 0 {
		return fmt.Errorf("%s has more than the %d bytes it had", bag.Quote(c.path), c.off)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// checkEmpty makes sure that a file without bytes is there.
func (c *cursor) checkEmpty() error {
	f, err := durable.OpenBeneath(c.p.root.f, c.path)
	if err != nil {
		return err
	}
	c.f = f
	defer c.closeFile()
	return c.checkEnd()
}
