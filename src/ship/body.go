package ship

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"cis490/src/pack"
)

// errParked ends a body because this process stops: after a whole frame, so that
// the receiver keeps all that was sent.
var errParked = errors.New("parked: the shipper stops")

// errAnswered ends a body that the receiver has answered before its end.
var errAnswered = errors.New("the receiver answered in mid-body")

// errClosed is what reading a closed body gives.
var errClosed = errors.New("the body is closed")

// frames is where a body takes its bytes from: a pack.Stream.
type frames interface {
	Next() (pack.Frame, error)
	Close() error
}

// piece is how much a body hands over at once, in bytes: small enough for the
// meter to see a slow link move.
const piece = 128 << 10

// body is the body of one request. The transport reads it in a goroutine of its
// own, possibly until after the answer has come, and closes it; it may be stuck
// in a read of a dead disk when it is closed, and gives its memory back only
// once it is not.
type body struct {
	m      *meter
	sent   func(f pack.Frame) // called when the transport has taken a whole frame
	park   func() bool        // asked at the end of each frame
	sample func(n int, d time.Duration)
	// packing is told when the transport begins and ceases to wait for a frame.
	packing func(bool)

	mu     sync.Mutex
	resume *sync.Cond // paused changed or closed
	src    frames
	cur    pack.Frame
	off    int
	have   bool // cur holds a frame
	eof    bool
	err    error // why it ended early
	busy   bool  // the transport is inside
	paused bool
	closed bool
}

func newBody(m *meter, src frames) *body {
	b := &body{m: m, src: src}
	b.resume = sync.NewCond(&b.mu)
	return b
}

// fill makes sure that there are bytes in cur, and says how the body ended when
// there are none.
func (b *body) fill() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.paused && !b.closed {
		b.resume.Wait()
	}
	switch {
	case b.closed && b.err == nil:
		return errClosed
	case b.err != nil:
		return b.err
	case b.have:
		return nil
	case b.eof:
		return io.EOF
	}
	if b.park != nil && b.park() {
		b.err = errParked
		return b.err
	}
	b.busy = true
	b.tell(true)
	b.mu.Unlock()
	b.m.disk.Store(true)
	f, err := b.src.Next()
	b.m.disk.Store(false)
	b.m.worker.Progress()
	b.mu.Lock()
	b.tell(false)
	b.busy = false
	switch {
	case err == io.EOF:
		b.eof = true
		b.m.sent.Store(true)
	case err != nil:
		b.err = err
	default:
		b.cur, b.off, b.have = f, 0, true
	}
	if b.closed {
		b.free()
		return errClosed
	}
	return err
}

// tell says whether it is this host that is waited for; the caller holds mu. Once
// the body is closed the worker is at something else.
func (b *body) tell(packing bool) {
	if b.packing != nil && !b.closed {
		b.packing(packing)
	}
}

// enter takes the bytes that are left of the current frame; leave gives back
// what was not used.
func (b *body) enter() ([]byte, error) {
	if err := b.fill(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	b.busy = true
	return b.cur.Data[b.off:], nil
}

func (b *body) leave(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = false
	b.off += n
	b.m.handed.Add(int64(n))
	if b.off == len(b.cur.Data) {
		f := b.cur
		b.cur, b.have = pack.Frame{}, false
		if b.sent != nil {
			b.sent(f)
		}
		f.Release()
	}
	if b.closed {
		b.free()
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	data, err := b.enter()
	if err != nil {
		return 0, err
	}
	n := copy(p, data)
	b.leave(n)
	return n, nil
}

// WriteTo implements io.WriterTo, which net/http uses where it can: whole pieces
// go to the connection without another copy.
func (b *body) WriteTo(w io.Writer) (total int64, err error) {
	for {
		data, err := b.enter()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		data = data[:min(len(data), piece)]
		began := time.Now()
		n, err := w.Write(data)
		if b.sample != nil && n > 0 {
			b.sample(n, time.Since(began))
		}
		b.leave(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Close implements io.Closer; the transport calls it, at least once.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.resume.Broadcast()
	if !b.busy {
		b.free()
	}
	return nil
}

// free gives the memory back; the caller holds mu and nobody is inside.
func (b *body) free() {
	if b.have {
		b.cur.Release()
		b.cur, b.have = pack.Frame{}, false
	}
	if b.src != nil {
		_ = b.src.Close() // it has nothing to flush
		b.src = nil
	}
}

// pause makes the transport wait before it takes more, and says whether it had
// taken all.
func (b *body) pause() (whole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.eof && !b.have {
		return true
	}
	b.paused = true
	return false
}

// abort ends the body for good.
func (b *body) abort() {
	b.mu.Lock()
	if b.err == nil {
		b.err = errAnswered
	}
	b.mu.Unlock()
	_ = b.Close() // never fails
}

// failed is why the body itself ended the request, if it did.
func (b *body) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// small is the body of an episode that was packed as a whole. There may be
// several for one request: the transport repeats one that an idle connection
// swallowed.
type small struct {
	m     *meter
	frame *shared
	off   int
	done  bool
}

// Read implements io.Reader.
func (s *small) Read(p []byte) (int, error) {
	n := copy(p, s.frame.Data[s.off:])
	s.off += n
	s.m.handed.Add(int64(n))
	if s.off == len(s.frame.Data) {
		s.m.sent.Store(true)
		return n, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (s *small) Close() error {
	if !s.done {
		s.done = true
		s.frame.release()
	}
	return nil
}

// shared is a packed frame that is given back when the last of its users, of
// which the transport's goroutine may be one, is done with it.
type shared struct {
	pack.Frame
	users atomic.Int32
}

func (f *shared) hold() *shared {
	f.users.Add(1)
	return f
}

func (f *shared) release() {
	if f.users.Add(-1) == 0 {
		f.Release()
	}
}
