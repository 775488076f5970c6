package ingest

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"cis490/src/code"
	"cis490/src/liveness"
	"cis490/src/pack"
)

// verifier verifies an upload while it arrives: it follows the whole frames in
// the upload's file, over as many requests as they take. It reads them back from
// the file, which the kernel has in memory still, so that an upload costs the
// receiver no memory of its own however slowly it arrives.
type verifier struct {
	u      *upload
	worker *liveness.Worker

	// Guarded by u.mu.
	whole   bool // no more frames will come
	stopped bool // nobody wants to know any more

	done chan struct{} // closed when the two below are set
	got  *pack.Verified
	err  error // carries a code

	// The verifying goroutine's own.
	file   *os.File
	next   int   // frame
	off    int64 // of that frame in the file
	rest   []byte
	held   *frameBuffers
	weight int64 // of held, taken from the receiver's decoders
	fail   error // why a Read failed: pack.Verify may call that malformed
}

// frameBuffers hold one frame and its content.
type frameBuffers struct{ packed, content []byte }

var frameBufferPool = sync.Pool{New: func() any { return new(frameBuffers) }}

// trim drops buffers that were for frames longer than ours.
func (b *frameBuffers) trim() {
	if cap(b.packed) > smallBody {
		b.packed = nil
	}
	if cap(b.content) > smallBody {
		b.content = nil
	}
}

// limits are what the episode may have.
func (u *upload) limits() pack.Limits {
	l := u.bounds.verify
	l.Spill = u.r.spill
	return l
}

// own makes an error of a verification that is no verdict, which is one of the
// file of a manifest, one of the receiver's own.
func own(err error) error {
	if _, ok := code.Of(err); err == nil || ok {
		return err
	}
	return ioError(err, "verify the upload")
}

// verifyWithin is the watchdog's deadline for reading one frame.
const verifyWithin = 2 * time.Minute

var errStopped = errors.New("the verification was stopped")

// startCheck begins to verify u from its first frame on, nil if there is no place
// for one more and wait is false. The caller holds u.mu.
func (u *upload) startCheck(wait bool) *verifier {
	if !wait && !u.r.checks.TryAcquire(1) {
		return nil
	}
	v := &verifier{u: u, done: make(chan struct{}), worker: u.r.tracker.Worker("verify episode " + u.ann.ID.String())}
	u.r.work.Add(1)
	go v.run(wait)
	return v
}

func (v *verifier) run(wait bool) {
	defer v.u.r.work.Done()
	defer v.worker.Done()
	if wait {
		acquire(v.u.r.checks, 1)
	}
	v.u.r.verifying.Add(1)
	defer func() {
		v.u.r.verifying.Add(-1)
		v.u.r.checks.Release(1)
	}()
	v.got, v.err = v.verify()
	u := v.u
	u.mu.Lock()
	early := u.check == v && !v.stopped && !v.whole
	u.mu.Unlock()
	if early && v.err != nil {
		// A verdict in mid-body: the request that is sending now is told, and any later one.
		u.condemn(v.err)
	}
	close(v.done)
}

func (v *verifier) verify() (got *pack.Verified, err error) {
	defer func() {
		v.letGo()
		if v.file != nil {
			v.file.Close()
		}
		if p := recover(); p != nil {
			v.u.r.log.Error("panic while verifying", "episode", v.u.ann.ID.String(), "host", v.u.ann.Host, "panic", p)
			got, err = nil, code.New(code.ReceiverError, "the verification of episode %s failed inside", v.u.ann.ID)
		}
	}()
	got, err = pack.Verify(v, v.u.ann.Facts, v.u.limits())
	if v.fail != nil {
		return nil, v.fail
	}
	return got, own(err)
}

// Chunk gives the tar bytes of the frames as they come, and io.EOF after the last
// frame of the upload; see pack.Chunker.
func (v *verifier) Chunk(max int) ([]byte, error) {
	for len(v.rest) == 0 {
		v.letGo()
		if v.fail != nil {
			return nil, v.fail
		}
		f, err := v.await()
		if err == io.EOF {
			return nil, err
		}
		if err == nil {
			err = v.load(f)
		}
		if err != nil {
			v.fail = err
			return nil, err
		}
	}
	b := v.rest[:min(max, len(v.rest))]
	v.rest = v.rest[len(b):]
	return b, nil
}

// Read is Chunk that copies.
func (v *verifier) Read(p []byte) (int, error) {
	b, err := v.Chunk(len(p))
	return copy(p, b), err
}

// await waits for the next frame to be there.
func (v *verifier) await() (pack.FrameInfo, error) {
	u := v.u
	u.mu.Lock()
	defer u.mu.Unlock()
	v.worker.Idle()
	for {
		switch {
		case v.stopped:
			return pack.FrameInfo{}, errStopped
		case v.next < len(u.frames):
			v.worker.Within(verifyWithin)
			return u.frames[v.next], nil
		case v.whole:
			return pack.FrameInfo{}, io.EOF
		}
		u.more.Wait()
	}
}

// load decodes frame f, the next one.
func (v *verifier) load(f pack.FrameInfo) (err error) {
	off := v.off
	v.next++
	v.off += f.Compressed
	if f.Content == 0 {
		return nil // skippable, or empty
	}
	if v.file == nil {
		if v.file, err = os.Open(v.u.dataPath()); err != nil {
			return ioError(err, "read the upload back")
		}
	}
	v.weight = f.Compressed + f.Content
	acquire(v.u.r.decoders, v.weight)
	v.held = frameBufferPool.Get().(*frameBuffers)
	v.held.packed = grow(v.held.packed, int(f.Compressed))
	if _, err := v.file.ReadAt(v.held.packed, off); err != nil {
		return ioError(err, "read the upload back")
	}
	v.held.content, err = pack.DecodeFrame(v.held.content[:0], v.held.packed, int(f.Content))
	if err != nil {
		return undecodable(err, off)
	}
	v.rest = v.held.content
	v.worker.Progress()
	return nil
}

// letGo gives back the memory of a frame that was read to its end.
func (v *verifier) letGo() {
	if v.held == nil {
		return
	}
	v.held.trim()
	frameBufferPool.Put(v.held)
	v.held, v.rest = nil, nil
	v.u.r.decoders.Release(v.weight)
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// verifyFile verifies an upload that is whole as one stream: the way for frames
// that are too big to be decoded in memory.
func (u *upload) verifyFile() (got *pack.Verified, content int64, err error) {
	f, err := os.Open(u.dataPath())
	if err != nil {
		return nil, 0, ioError(err, "read the upload back")
	}
	defer f.Close()
	w := u.r.tracker.Worker("verify episode " + u.ann.ID.String())
	defer w.Done()
	defer u.r.streams.enter(u.ann.Host)()
	w.Within(verifyWithin)
	u.mu.Lock()
	size := u.size
	u.mu.Unlock()
	dec := pack.NewDecoder(io.NewSectionReader(f, 0, size))
	defer dec.Close()
	r := &meter{r: dec, u: u, size: size, progress: w.Progress}
	got, err = pack.Verify(r, u.ann.Facts, u.limits())
	switch {
	case r.fail != nil:
		return nil, 0, r.fail
	case err == nil:
		return got, r.n, nil
	}
	return nil, 0, own(err)
}

// meter bounds how much an upload may unpack to.
type meter struct {
	r        io.Reader
	u        *upload
	size     int64
	n        int64
	fail     error
	progress func()
}

func (m *meter) Read(p []byte) (int, error) {
	if m.fail != nil {
		return 0, m.fail
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	m.progress()
	switch {
	case m.n > m.u.bounds.content:
		m.fail = m.u.tooMuch()
	case m.n > ratioAllowance && m.n > m.u.bounds.ratio*m.size:
		m.fail = m.u.tooDense(m.n)
	case err != nil && err != io.EOF:
		if c, ok := code.Of(err); ok && c == code.Malformed {
			m.fail = code.Wrap(code.DigestMismatch, err, "the upload doesn't decode")
		} else {
			m.fail = ioError(err, "read the upload back")
		}
	}
	if m.fail != nil {
		return 0, m.fail
	}
	return n, err
}
