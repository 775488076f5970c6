package ingest

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"cis490/src/code"
	"cis490/src/pack"
	"cis490/src/store"
	"cis490/src/wire"
)

// create answers POST /v1/episodes: the draft's "Upload Creation".
func (x *exchange) create() error {
	h := x.req.Header
	ann, err := wire.ParseAnnouncement(h.Values(wire.HeaderEpisode))
	if err != nil {
		return code.New(code.Malformed, "%s", err)
	}
	ann.Host = x.host
	x.id = ann.ID
	if h.Get("Content-Encoding") != "" {
		return code.New(code.Malformed, "the body has Content-Encoding: %s; an episode is sent as %s without a further coding", h.Get("Content-Encoding"), wire.MediaEpisode)
	}
	// Without a valid Upload-Complete this is a conventional upload: complete, and not resumable.
	complete, resumable := wire.ParseBool(h.Values(wire.HeaderUploadComplete))
	if !resumable {
		complete = true
	}
	length, err := x.length(0, complete)
	if err != nil {
		return err
	}
	small := complete && x.req.ContentLength >= 0 && x.req.ContentLength <= smallBody
	if done, err := x.admit(ann, length, small); done || err != nil {
		return err
	}
	if small {
		if n := bufferSize(x.req.ContentLength); x.r.bodies.take(x.host, n) {
			return x.small(ann, resumable, sync.OnceFunc(func() { x.r.bodies.give(x.host, n) }))
		}
	}
	return x.createUpload(ann, length, complete, resumable)
}

// length finds the length that the request tells of the whole upload, -1 if it
// tells none (the draft, section "Length").
func (x *exchange) length(offset int64, complete bool) (int64, error) {
	length := int64(-1)
	if complete && x.req.ContentLength >= 0 {
		length = offset + x.req.ContentLength
	}
	if n, ok := wire.ParseInteger(x.req.Header.Values(wire.HeaderUploadLength)); ok {
		if length >= 0 && n != length {
			return 0, lengthMismatch("Upload-Length is %d, but Content-Length makes it %d", n, length)
		}
		length = n
	}
	return length, nil
}

func lengthMismatch(format string, a ...any) error {
	return &refusal{err: code.New(code.LengthMismatch, format, a...), header: [][2]string{{wire.HeaderUploadComplete, wire.FormatBool(false)}}}
}

// admit decides on the header alone. done says that the answer was given: the
// episode is stored already. For a small body the store is only asked where the
// answer would be a refusal: its commit asks anyway.
func (x *exchange) admit(ann wire.Announcement, length int64, small bool) (done bool, err error) {
	cfg := x.st.cfg
	// The clock first: with a wrong one, nothing that is said of times means anything.
	if skew := x.now.Sub(ann.Sent); skew > cfg.MaxSkew+time.Second || skew < -cfg.MaxSkew { // sent is rounded down to a second
		return false, code.New(code.ClockSkew, "the host's clock says %s, the receiver's %s: they differ by %s, more than max_skew = %s",
			ann.Sent.UTC().Format(time.RFC3339), x.now.UTC().Format(time.RFC3339), skew.Abs().Round(time.Second), cfg.MaxSkew)
	}
	no := x.outside(ann, length)
	if no == nil && small {
		return false, nil
	}
	// A stored episode is acknowledged again whatever the window and the limits say today.
	switch receipt, ok, err := x.r.store.Find(x.req.Context(), x.host, ann.ID, ann.Started); {
	case err != nil:
		return false, err
	case ok && receipt.BagDigest == ann.Digest:
		// What was let in once, and is no longer sound here, is let in again.
		if lacks, err := x.r.store.Lacks(x.req.Context(), ann.Facts); err != nil {
			return false, err
		} else if lacks {
			return false, nil
		}
		x.r.noteStored(x.event(), code.AlreadyStored, receipt)
		return true, x.receipt(code.AlreadyStored, receipt)
	case ok:
		return false, code.New(code.Conflict, "the receiver holds episode %s with bag digest %s; this one has %s", ann.ID, receipt.BagDigest, ann.Digest)
	}
	return false, no
}

// outside says why the window or the limits refuse the episode, if they do.
func (x *exchange) outside(ann wire.Announcement, length int64) error {
	l := x.st.cfg.Limits
	if why, ok := x.st.window.Admits(ann.Started, ann.Ended, x.now); !ok {
		return &refusal{err: code.New(code.OutOfWindow, "%s", why), window: &x.st.window}
	}
	b := newBounds(ann, l)
	var e *code.Error
	switch {
	case ann.Size > int64(l.EpisodeSize):
		e = code.New(code.TooLarge, "the payload has %d bytes, limits.episode_size is %d", ann.Size, int64(l.EpisodeSize))
	case ann.Files > l.EpisodeFiles:
		e = code.New(code.TooLarge, "the payload has %d files, limits.episode_files is %d", ann.Files, l.EpisodeFiles)
	case length > b.archive || x.req.ContentLength > b.archive:
		e = code.New(code.TooLarge, "an upload of %d bytes is more than an episode of %d payload bytes can need", max(length, x.req.ContentLength), ann.Size)
	default:
		return nil
	}
	return &refusal{err: e, header: [][2]string{{wire.HeaderUploadLimit, wire.FormatUploadLimit(wire.UploadLimit{MaxSize: b.archive})}}}
}

// buffers hold the bodies of small episodes, and what they unpack to, in two sizes:
// most are far shorter than the longest.
var buffers = [...]struct {
	size int
	pool sync.Pool
}{{size: 128 << 10}, {size: smallBody}}

// buffer gives a buffer with room for n bytes, and how to give it back.
func buffer(n int64) (b []byte, free func()) {
	for i := range buffers {
		c := &buffers[i]
		if n > int64(c.size) {
			continue
		}
		p, ok := c.pool.Get().(*[]byte)
		if !ok {
			p = new(make([]byte, 0, c.size))
		}
		return *p, func() { c.pool.Put(p) }
	}
	return make([]byte, 0, n), func() {}
}

// bufferSize is how much memory buffer(n) takes up.
func bufferSize(n int64) int64 {
	for i := range buffers {
		if c := int64(buffers[i].size); n <= c {
			return c
		}
	}
	return n
}

// small receives a whole short body into memory, verifies it and stores it. This
// is the way of nearly all episodes, so it makes no upload, no file of its own and
// no goroutine. If it is cut, the host sends it again. give gives the body's memory
// back.
func (x *exchange) small(ann wire.Announcement, resumable bool, give func()) error {
	defer give()
	l := x.st.cfg.Limits
	if err := x.r.slots.take(x.host, l.Uploads, l.UploadsPerHost); err != nil {
		return err
	}
	defer x.r.slots.release(x.host)
	room, err := x.r.store.Reserve(x.req.ContentLength)
	if err != nil {
		return retryLater(err)
	}
	defer room.Release()

	body, free := buffer(x.req.ContentLength)
	free = sync.OnceFunc(free)
	defer free()
	body = body[:x.req.ContentLength]
	switch err := x.readFull(body); {
	case err == errSlow:
		room.Release()
		return x.slow(ann, body[:x.bytes], resumable, func() { free(); give() })
	case err != nil:
		return err
	}
	frames, size, err := scanAll(body)
	if err != nil {
		return err
	}
	b := newBounds(ann, l)
	if size < 0 || size > maxFrame || !x.r.bodies.take(x.host, bufferSize(size)) {
		// Much content from few bytes, or an unknown amount: decode it bit by bit, from a file.
		return x.viaUpload(ann, body)
	}
	defer x.r.bodies.give(x.host, bufferSize(size))
	content, freeContent := buffer(size)
	defer freeContent()
	acquire(x.r.decoders, int64(len(body)))
	content, err = pack.DecodeFrame(content, body, int(size))
	x.r.decoders.Release(int64(len(body)))
	if err != nil {
		return undecodable(err, 0)
	}
	b.verify.Spill = x.r.spill
	verified, err := pack.Verify(&inMemory{content}, ann.Facts, b.verify)
	if err != nil {
		return own(err)
	}
	receipt, c, err := x.r.store.Commit(x.r.base, store.Item{
		Facts: ann.Facts, WindowID: x.st.window.ID, Run: verified.Run, Archive: body, Frames: frames,
	})
	if err != nil {
		return retryLater(err)
	}
	x.r.noteStored(x.event(), c, receipt)
	return x.receipt(c, receipt)
}

// errSlow says that a short body does not arrive soon.
var errSlow = errors.New("the body is slow")

// slow makes an upload of a short body of which only got has arrived so far, and
// gives its memory back.
func (x *exchange) slow(ann wire.Announcement, got []byte, resumable bool, give func()) error {
	u, err := x.newUpload(ann, x.req.ContentLength)
	if err != nil {
		return err
	}
	if resumable {
		x.creation = [][2]string{{"Location", u.path()}, {wire.HeaderUploadLimit, u.limit(x)}}
		x.interim(x.creation...)
	}
	t, err := u.take(x)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(got, readSize) {
		if err := u.absorb(part); err != nil {
			return x.refuse(u, t, err)
		}
	}
	give()
	return x.receiveIn(u, t, true)
}

// scanAll finds the frames of a whole body, and the size of their content, -1 if
// that is not known.
func scanAll(body []byte) (frames []pack.FrameInfo, size int64, err error) {
	if len(body) == 0 {
		return nil, 0, code.New(code.Malformed, "the body is empty")
	}
	var s pack.FrameScanner
	for p := body; len(p) > 0; {
		n, done, err := s.Scan(p)
		if err != nil {
			return nil, 0, code.Wrap(code.Malformed, err, "byte %d of the body", len(body)-len(p)+n)
		}
		p = p[n:]
		if done {
			f := s.Frame()
			frames = append(frames, f)
			if f.Content < 0 {
				size = -1
			} else if size >= 0 {
				size += f.Content
			}
		}
	}
	if s.Partial() != 0 {
		return nil, 0, code.New(code.Malformed, "the body ends in the middle of a zstd frame")
	}
	return frames, size, nil
}

// readFull reads the body, whose length is known, into p. Its error may be errSlow.
func (x *exchange) readFull(p []byte) error {
	stall := x.st.cfg.Limits.StallTimeout
	began := time.Now()
	x.bodyRead = true
	for int(x.bytes) < len(p) {
		_ = x.rc.SetReadDeadline(time.Now().Add(stall))
		n, err := x.req.Body.Read(p[x.bytes:])
		x.bytes += int64(n)
		if err != nil && int(x.bytes) < len(p) {
			x.bodyDone = true // there is nothing more to come
			return x.cut(err)
		}
		if int(x.bytes) < len(p) && time.Since(began) > x.r.slowBody {
			x.r.counts.received.Add(int(x.bytes))
			return errSlow
		}
	}
	x.bodyDone = true
	// The connection is watched for its end while the answer is made; that must not time out.
	_ = x.rc.SetReadDeadline(time.Time{})
	x.r.counts.received.Add(len(p))
	return nil
}

// cut ends an exchange whose body broke off. Nobody is there to read an answer.
func (x *exchange) cut(err error) error {
	x.r.counts.cuts.Inc()
	x.r.log.Debug("body cut", "host", x.host, "episode", x.idText(), "bytes", x.bytes, "error", err)
	return http.ErrAbortHandler
}

// retryLater adds to a transient error of the store when to come again.
func retryLater(err error) error {
	var c *code.Error
	if errors.As(err, &c) && c.Code == code.ReceiverFull && c.RetryAfter == 0 {
		e := *c
		e.RetryAfter = retryFull
		return &e
	}
	return err
}

const retryFull = 5 * time.Second

// undecodable is the verdict on frames that are framed well but don't decode:
// their bytes are not those that the packer made. The host is asked to look at
// its copy and to send it again; it is not told that the episode is malformed.
func undecodable(err error, offset int64) error {
	return code.Wrap(code.DigestMismatch, err, "the zstd frame at byte %d of the upload doesn't decode", offset)
}

// inMemory reads what is in memory; see pack.Chunker.
type inMemory struct{ b []byte }

func (m *inMemory) Chunk(max int) ([]byte, error) {
	if len(m.b) == 0 {
		return nil, io.EOF
	}
	b := m.b[:min(max, len(m.b))]
	m.b = m.b[len(b):]
	return b, nil
}

// Read is Chunk that copies.
func (m *inMemory) Read(p []byte) (int, error) {
	b, err := m.Chunk(len(p))
	return copy(p, b), err
}
