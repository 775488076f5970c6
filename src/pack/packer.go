package pack

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Level is how much CPU time is spent on making a frame small.
type Level int8

const (
	Auto    Level = iota // for each frame whichever is fastest over the link and CPU of the moment
	Raw                  // not at all
	Fastest              // as zstd -1
	Default              // as zstd -3
)

var levelNames = [...]string{"auto", "raw", "fastest", "default"}

// ParseLevel reads "auto", "raw", "fastest" or "default".
func ParseLevel(s string) (Level, error) {
	for i, n := range levelNames {
		if n == s {
			return Level(i), nil
		}
	}
	return Auto, fmt.Errorf("compression %.40q is none of auto, raw, fastest and default", s)
}

func (l Level) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return fmt.Sprintf("Level(%d)", int8(l))
	}
	return levelNames[l]
}

// maxDefaultWorkers is how many frames are packed at once when nobody says: four at the fastest level are quicker than one
// TLS connection, and each costs up to 6 MiB.
const maxDefaultWorkers = 4

// Options of a Packer.
type Options struct {
	Workers int   // frames that are compressed at once; 0: as many as there are cores, at most 4
	Level   Level // of every frame
}

// Packer packs the episodes of a process. Its memory is at most Workers x (2 frames + an encoder of 2 to 5 MiB), and one frame more and one for each
// open stream. It is safe for use by several goroutines.
type Packer struct {
	level    Level
	encoders chan *encoder // as many as there are workers
	extra    chan struct{} // frames under way beyond the first of each stream
	perJob   int           // frames under way of one stream

	mu      sync.Mutex
	idle    [bufferClasses][][]byte
	kept    int // bytes in idle
	maxKept int

	bulk, small *chooser // of streams, and of Small: the costs beside compression differ
}

// NewPacker makes a packer. Buffers and encoders are made as they are needed.
func NewPacker(o Options) *Packer {
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), maxDefaultWorkers)
	}
	p := &Packer{
		level:    o.Level,
		encoders: make(chan *encoder, o.Workers),
		extra:    make(chan struct{}, o.Workers+1),
		maxKept:  (2*o.Workers + 2) * frameBufSize,
		perJob:   o.Workers + 2,
		bulk:     newChooser(o.Workers, false),
		small:    newChooser(o.Workers, true),
	}
	for range o.Workers {
		p.encoders <- new(encoder)
	}
	return p
}

// LinkSample tells how fast the link is: it took that many packed bytes within d, from the first offered to the last accepted by the
// connection.
func (p *Packer) LinkSample(bytes int, d time.Duration) {
	p.bulk.link(bytes, d)
	p.small.link(bytes, d)
}

// Buffers come in sizes from 64 KiB to a frame, so that many small episodes under way don't cost a frame each; and in each there is
// room for what a raw frame adds to its content.
const (
	bufferClasses = 5
	bufferSlack   = frameBufSize - FrameSize
	minBuffer     = FrameSize >> (bufferClasses - 1)
)

func bufferClass(n int) int { return bits.Len(uint((n - 1) / minBuffer)) }

// buffer gives a buffer with room for a frame of n tar bytes.
func (p *Packer) buffer(n int) []byte {
	c := bufferClass(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := len(p.idle[c]); k > 0 {
		b := p.idle[c][k-1]
		p.idle[c] = p.idle[c][:k-1]
		p.kept -= len(b)
		return b
	}
	return make([]byte, minBuffer<<c+bufferSlack)
}

func (p *Packer) putBuffer(b []byte) {
	c := bufferClass(len(b) - bufferSlack)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept+len(b) <= p.maxKept {
		p.idle[c] = append(p.idle[c], b)
		p.kept += len(b)
	}
}

// Frame is one packed frame: an independent zstd frame of Len tar bytes from Offset on, with content size and checksum.
type Frame struct {
	Offset int64
	Len    int
	Data   []byte // until Release
	Level  Level  // that it was packed at
	job    *job
}

// Release gives the frame's memory back. Call it when the bytes were sent (and, for a frame of [Packer.Small], answered), since the time until then is what
// Auto learns from. A second call does nothing.
func (f Frame) Release() {
	if f.job != nil {
		f.job.release(true)
	}
}

// job is one frame under way.
type job struct {
	p        *Packer
	chooser  *chooser
	slot     chan struct{} // taken back from on release
	in       []byte        // buffer of the tar bytes, until they are packed
	out      []byte        // buffer of the packed frame
	frame    Frame
	err      error
	done     chan struct{}
	released atomic.Bool
}

func (j *job) release(sent bool) {
	if j.released.Swap(true) {
		return
	}
	if sent {
		j.chooser.sent(time.Now(), j.frame.Level, j.frame.Len, len(j.frame.Data))
	}
	for _, b := range [][]byte{j.in, j.out} {
		if b != nil {
			j.p.putBuffer(b)
		}
	}
	if j.slot != nil {
		<-j.slot
	} else {
		j.chooser.leave()
	}
}

// compress packs j.in with the tar bytes of the frame into j.out.
func (j *job) compress(e *encoder) {
	start := time.Now()
	j.out = j.p.buffer(j.frame.Len)
	j.frame.Data, j.err = e.encode(j.frame.Level, j.in[:j.frame.Len], j.out)
	end := time.Now()
	j.chooser.packed(end, j.frame.Level, j.frame.Len, len(j.frame.Data), end.Sub(start))
	j.p.putBuffer(j.in)
	j.in = nil
}

// Small packs an episode of at most FrameSize tar bytes into its one frame, in the caller's goroutine.
func (p *Packer) Small(plan *Plan) (Frame, error) {
	n := int(plan.TarSize())
	if n > FrameSize {
		return Frame{}, fmt.Errorf("episode %s: a tar stream of %d bytes is more than one frame", plan.name, n)
	}
	c, err := plan.cursor(0)
	if err != nil {
		return Frame{}, err
	}
	defer c.close()
	j := &job{p: p, chooser: p.small, in: p.buffer(n)}
	p.small.enter()
	j.frame = Frame{Len: n, Level: p.pick(p.small), job: j}
	if j.frame.Level == Raw {
		j.out, j.in = j.in, nil
		j.frame.Data, j.err = fillRawFrame(j.out, n, c.fill)
	} else if j.err = c.fill(j.in[:n]); j.err == nil {
		// Only now: a read that hangs must not keep an encoder from others.
		e := <-p.encoders
		j.compress(e)
		p.encoders <- e
	}
	if j.err != nil {
		j.release(false)
		return Frame{}, j.err
	}
	return j.frame, nil
}

func (p *Packer) pick(c *chooser) Level {
	if p.level != Auto {
		return p.level
	}
	return c.pick()
}

// Stream packs one episode's tar stream, frame by frame, ahead of whoever takes the frames.
type Stream struct {
	// Progress, when it is set before the first Next, is told of every step forward, in tar bytes read from the disk.
	// It is called from another goroutine.
	Progress func(tarBytes int)

	p      *Packer
	plan   *Plan
	from   int64
	slow   bool
	ctx    context.Context
	cancel context.CancelFunc
	start  sync.Once
	jobs   chan *job
	own    chan struct{} // the frame that this stream may always have under way
	err    error         // of the reader; set before jobs is closed
	last   error         // what Next returned
	closed sync.Once
}

// Stream packs plan from the tar offset from on, in frames that end at multiples of FrameSize. Close it when done; it ends with ctx too.
//
// One goroutine reads the files in their order, and others compress; should the disk hang, the stream keeps that one goroutine
// and one frame until the read returns, and no worker.
func (p *Packer) Stream(ctx context.Context, plan *Plan, from int64) *Stream {
	s := &Stream{p: p, plan: plan, from: from, jobs: make(chan *job, p.perJob), own: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// slowStart is the size of the first frame of a stream that starts slowly.
const slowStart = 32 << 10

// SlowStart has the first frame be a small one and each further one as large as all before it, up to FrameSize: for a link
// that was cut and may be again. What a receiver keeps of a cut upload is whole frames, so about half of what a link carries
// between two cuts is kept at the least, however little that is. Call it before the first Next.
func (s *Stream) SlowStart() { s.slow = true }

// Next gives the next frame, and io.EOF behind the last. Other errors are a *[code.Error] of the episode, or the context's.
func (s *Stream) Next() (Frame, error) {
	if s.last != nil {
		return Frame{}, s.last
	}
	s.start.Do(func() {
		s.p.bulk.enter()
		go s.read()
	})
	f, err := s.next()
	s.last = err
	return f, err
}

func (s *Stream) next() (Frame, error) {
	// The context first: a select takes either case when both are ready.
	if err := s.ctx.Err(); err != nil {
		return Frame{}, context.Cause(s.ctx)
	}
	select {
	case j, ok := <-s.jobs:
		if !ok {
			if s.err == nil {
				return Frame{}, io.EOF
			}
			return Frame{}, s.err
		}
		<-j.done // soon: its bytes are read already
		if j.err != nil {
			j.release(false)
			return Frame{}, j.err
		}
		return j.frame, nil
	case <-s.ctx.Done():
		return Frame{}, context.Cause(s.ctx)
	}
}

// Close ends the stream and frees its memory. It does not wait for a read that hangs. Frames that Next gave are good until they are released.
func (s *Stream) Close() error {
	s.closed.Do(func() {
		s.cancel()
		started := true
		s.start.Do(func() { close(s.jobs); started = false })
		s.drop()
		if started {
			s.p.bulk.leave()
		}
	})
	return nil
}

// drop releases the frames that nobody will ask for.
func (s *Stream) drop() {
	for {
		select {
		case j, ok := <-s.jobs:
			if !ok {
				return
			}
			<-j.done
			j.release(false)
		default:
			return
		}
	}
}

// read reads the tar stream into frames and has them packed.
func (s *Stream) read() {
	defer func() {
		if s.ctx.Err() != nil {
			s.drop()
		}
		close(s.jobs)
	}()
	c, err := s.plan.cursor(s.from)
	if err != nil {
		s.err = err
		return
	}
	defer c.close()
	c.progress = s.Progress
	for c.pos < s.plan.tarSize {
		slot, ok := s.slot()
		if !ok {
			s.err = context.Cause(s.ctx)
			return
		}
		n := int(min(FrameSize-c.pos%FrameSize, s.plan.tarSize-c.pos))
		if s.slow {
			n = min(n, max(slowStart, int(min(c.pos-s.from, FrameSize))))
		}
		j := &job{p: s.p, chooser: s.p.bulk, slot: slot, in: s.p.buffer(n), done: make(chan struct{})}
		j.frame = Frame{Offset: c.pos, Len: n, Level: s.p.pick(s.p.bulk), job: j}
		var err error // j.err is the job's own once others have it
		if j.frame.Level == Raw {
			j.out, j.in = j.in, nil
			j.frame.Data, err = fillRawFrame(j.out, n, c.fill)
		} else {
			err = c.fill(j.in[:n])
		}
		if j.err = err; err != nil || j.frame.Level == Raw {
			close(j.done)
		} else {
			go s.compress(j)
		}
		s.jobs <- j // has room for all that there are slots for
		if err != nil {
			return
		}
	}
}

func (s *Stream) compress(j *job) {
	defer close(j.done)
	select {
	case e := <-s.p.encoders:
		j.compress(e)
		s.p.encoders <- e
	case <-s.ctx.Done():
		j.err = context.Cause(s.ctx)
	}
}

// slot waits until one more frame may be under way.
func (s *Stream) slot() (chan struct{}, bool) {
	if s.ctx.Err() != nil {
		return nil, false
	}
	select {
	case s.own <- struct{}{}:
		return s.own, true
	default:
	}
	select {
	case s.own <- struct{}{}:
		return s.own, true
	case s.p.extra <- struct{}{}:
		return s.p.extra, true
	case <-s.ctx.Done():
		return nil, false
	}
}

// Write writes the whole archive of plan, with its seek table, to w.
func Write(ctx context.Context, w io.Writer, plan *Plan, p *Packer) error {
	s := p.Stream(ctx, plan, 0)
	defer s.Close()
	frames := make([]FrameInfo, 0, plan.TarSize()/FrameSize+1)
	for {
		f, err := s.Next()
		if err == io.EOF {
			return AppendSeekTable(w, frames)
		}
		if err != nil {
			return err
		}
		frames = append(frames, FrameInfo{Compressed: int64(len(f.Data)), Content: int64(f.Len)})
		start := time.Now()
		n, err := w.Write(f.Data)
		p.LinkSample(n, time.Since(start))
		f.Release()
		if err != nil {
			return fmt.Errorf("pack episode %s: %w", plan.name, err)
		}
	}
}
