package ingest

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"cis490/src/code"
	"cis490/src/wire"
)

// createUpload makes an upload of a body that is too long for memory, or is not
// the whole.
func (x *exchange) createUpload(ann wire.Announcement, length int64, whole, resumable bool) error {
	empty := x.bodyDone || x.req.ContentLength == 0
	if !empty || whole {
		l := x.st.cfg.Limits
		if err := x.r.slots.take(x.host, l.Uploads, l.UploadsPerHost); err != nil {
			return err
		}
		defer x.r.slots.release(x.host)
	}
	u, err := x.newUpload(ann, length)
	if err != nil {
		return err
	}
	if resumable {
		x.creation = [][2]string{{"Location", u.path()}, {wire.HeaderUploadLimit, u.limit(x)}}
		x.interim(x.creation...)
	}
	return x.receive(u, whole)
}

// viaUpload takes a whole body that is in memory already the long way.
func (x *exchange) viaUpload(ann wire.Announcement, body []byte) error {
	u, err := x.newUpload(ann, int64(len(body)))
	if err != nil {
		return err
	}
	t, err := u.take(x)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(body, readSize) {
		if err := u.absorb(part); err != nil {
			return x.refuse(u, t, err)
		}
	}
	a, err := x.finish(u, t)
	if err != nil {
		return err
	}
	return x.await(a)
}

// append answers PATCH of an upload: the draft's "Upload Append".
func (x *exchange) append(token string) error {
	u, err := x.find(token)
	if err != nil {
		return err
	}
	h := x.req.Header
	if mt, _, err := mime.ParseMediaType(h.Get("Content-Type")); err != nil || mt != wire.MediaPartial {
		return &plainError{status: http.StatusUnsupportedMediaType, detail: "an append is of Content-Type " + wire.MediaPartial, header: [][2]string{{"Accept-Patch", wire.MediaPartial}}}
	}
	whole, ok := wire.ParseBool(h.Values(wire.HeaderUploadComplete))
	if !ok {
		return &plainError{status: http.StatusBadRequest, detail: "an append says Upload-Complete: ?1 if it is the last one, else ?0", header: incomplete}
	}
	offset, ok := wire.ParseInteger(h.Values(wire.HeaderUploadOffset))
	if !ok {
		return &plainError{status: http.StatusBadRequest, detail: "an append says in Upload-Offset where it begins", header: incomplete}
	}
	length, err := x.length(offset, whole)
	if err != nil {
		return err
	}
	t, err := u.take(x)
	if err != nil {
		return err
	}
	if answer := x.beforeAppend(u, offset, length, whole); answer != nil {
		u.release(t)
		return answer()
	}
	l := x.st.cfg.Limits
	if err := x.r.slots.take(x.host, l.Uploads, l.UploadsPerHost); err != nil {
		u.release(t)
		return err
	}
	defer x.r.slots.release(x.host)
	return x.receiveIn(u, t, whole)
}

// beforeAppend decides on the header of an append whether its body is wanted: nil,
// or what to answer instead. x has the turn.
func (x *exchange) beforeAppend(u *upload, offset, length int64, whole bool) func() error {
	u.mu.Lock()
	final, try, size, known, room := u.final, u.try, u.size, u.length, u.room
	u.mu.Unlock()
	fail := func(err error) func() error { return func() error { return err } }
	completing := try != nil && !try.ended()
	if final != nil && final.err != nil {
		return func() error { return x.answerOutcome(final) }
	}
	if final != nil || completing {
		// Complete. A valid append to it is one that adds nothing; it gets the answer that may have been lost.
		switch {
		case offset != size:
			return fail(offsetMismatch(size, offset))
		case !whole || !x.emptyBody():
			return fail(lengthMismatch("the upload is complete with %d bytes; nothing can be appended", size))
		case final != nil:
			return func() error { return x.answerOutcome(final) }
		}
		return func() error { return x.await(try) }
	}
	if offset != size {
		if err := u.sync(); err != nil { // an offset is told
			return fail(err)
		}
		x.held(u)
		return fail(offsetMismatch(size, offset))
	}
	if known >= 0 && length >= 0 && known != length {
		return fail(lengthMismatch("the length is %d now and was %d before", length, known))
	}
	if length > u.bounds.archive {
		return fail(&refusal{err: code.New(code.TooLarge, "an upload of %d bytes is more than an episode of %d payload bytes can need", length, u.ann.Size),
			header: [][2]string{{wire.HeaderUploadComplete, wire.FormatBool(false)}, {wire.HeaderUploadLimit, u.limit(x)}}})
	}
	if room == nil {
		need := likely(u.ann)
		if length >= 0 {
			need = length
		}
		room, err := x.r.store.Reserve(max(0, need-size))
		if err != nil {
			return fail(retryLater(err))
		}
		u.mu.Lock()
		u.room = room
		u.mu.Unlock()
	}
	u.mu.Lock()
	if length >= 0 && u.length != length {
		u.length = length
		u.gen++
	}
	u.mu.Unlock()
	return nil
}

func offsetMismatch(expect, got int64) error {
	return &refusal{
		err:    code.New(code.OffsetMismatch, "the request begins at byte %d, the upload ends at byte %d", got, expect),
		expect: &expect, got: &got,
		header: [][2]string{{wire.HeaderUploadComplete, wire.FormatBool(false)}, {wire.HeaderUploadOffset, strconv.FormatInt(expect, 10)}},
	}
}

// emptyBody says whether the request has no content. Of a body of unknown length
// it reads the first byte.
func (x *exchange) emptyBody() bool {
	if x.bodyDone || x.req.ContentLength == 0 {
		return true
	}
	if x.req.ContentLength > 0 {
		return false
	}
	x.bodyRead = true
	_ = x.rc.SetReadDeadline(time.Now().Add(x.st.cfg.Limits.StallTimeout))
	n, err := io.ReadFull(x.req.Body, make([]byte, 1))
	_ = x.rc.SetReadDeadline(time.Time{})
	x.bodyDone = err == io.EOF
	return n == 0 && x.bodyDone
}

// receive takes the turn and the body of a request that creates an upload.
func (x *exchange) receive(u *upload, whole bool) error {
	t, err := u.take(x)
	if err != nil {
		return err
	}
	return x.receiveIn(u, t, whole)
}

// readSize is how much of a body is read at a time: more than TLS has in a record.
const readSize = 32 << 10

// bodyBuffers are what bodies are read into.
var bodyBuffers = sync.Pool{New: func() any { return new(make([]byte, readSize)) }}

// receiveIn receives the body in its turn t, which it ends, and answers.
func (x *exchange) receiveIn(u *upload, t *turn, whole bool) error {
	if err := u.open(); err != nil {
		u.release(t)
		return err
	}
	err := x.readInto(u, t)
	if err == nil {
		err = u.ended()
	}
	if err != nil {
		return x.refuse(u, t, err)
	}
	if !whole {
		return x.acknowledge(u, t)
	}
	a, err := x.finish(u, t)
	if err != nil {
		return err
	}
	return x.await(a)
}

var (
	errInterrupted = errors.New("a newer request took over")
	errStopping    = errors.New("the receiver stops")
	errJudged      = errors.New("there is a verdict")
	errBody        = errors.New("the body broke off")
)

// readInto appends the body to the upload. Its error is one of those above, the
// verdict on what was received, or a failure of the disk.
func (x *exchange) readInto(u *upload, t *turn) error {
	if x.bodyDone {
		return nil
	}
	stall := x.st.cfg.Limits.StallTimeout
	buf := bodyBuffers.Get().(*[]byte)
	defer bodyBuffers.Put(buf)
	lastTold := time.Now()
	x.bodyRead = true
	for {
		if !t.deadline(stall) {
			return t.why()
		}
		n, err := x.req.Body.Read(*buf)
		x.bytes += int64(n)
		x.r.counts.received.Add(n)
		if n > 0 {
			if err := u.absorb((*buf)[:n]); err != nil {
				return err
			}
			u.flushSome()
			if time.Since(lastTold) >= x.r.progressEvery {
				lastTold = time.Now()
				x.tell(u)
			}
		}
		switch {
		case err == io.EOF:
			x.bodyDone = true
			// The connection is watched for its end while the answer is made; that must not time out.
			if !t.deadline(0) {
				return t.why()
			}
			return nil
		case err != nil:
			if why := t.why(); why != nil {
				return why
			}
			return errors.Join(errBody, err)
		}
	}
}

// why says why the turn must end, nil if it need not.
func (t *turn) why() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ended:
		return errInterrupted
	case t.judged:
		return errJudged
	case t.stopped:
		return errStopping
	}
	return nil
}

// tell tells the client in mid-body how far its upload is on the disk, if that is
// farther than it was told before.
func (x *exchange) tell(u *upload) {
	u.mu.Lock()
	offset, known := u.synced, u.kept > 0
	u.mu.Unlock()
	if offset <= x.told || !known {
		return
	}
	x.told = offset
	x.interim(append(x.creation, [2]string{wire.HeaderUploadOffset, strconv.FormatInt(offset, 10)})...)
}

// refuse ends turn t after the body was not received to its end, or not accepted:
// it keeps what can be kept and answers, if anybody is there to hear it.
func (x *exchange) refuse(u *upload, t *turn, err error) error {
	defer u.release(t)
	if errors.Is(err, errJudged) || errors.Is(err, errStopping) {
		// Its deadline has passed, which net/http doesn't forgive a connection.
		x.w.Header().Set("Connection", "close")
	}
	u.mu.Lock()
	final := u.final
	u.mu.Unlock()
	var c *code.Error
	switch {
	case final != nil && !errors.Is(err, errInterrupted):
		return x.answerOutcome(final)
	case final != nil:
		return http.ErrAbortHandler
	case errors.As(err, &c):
		if c.Code.Class() == code.OfEpisode || c.Code.Class() == code.OfUpload {
			u.end(outcome{code: c.Code, err: err})
			return err
		}
		if c.Code == code.ReceiverError {
			return u.giveUp(err)
		}
		// No room, for now: what is there stays.
		if back := u.cutBack(); back != nil {
			return u.giveUp(back)
		}
		return &refusal{err: c, header: incomplete}
	}
	if back := u.cutBack(); back != nil {
		return u.giveUp(back)
	}
	if errors.Is(err, errStopping) {
		e := code.New(code.ReceiverBusy, "the receiver stops; it goes on from here once it is back")
		e.RetryAfter = 5 * time.Second
		return &refusal{err: e, header: incomplete}
	}
	return x.cut(err)
}

// acknowledge ends turn t with the answer that all was received and more can come.
func (x *exchange) acknowledge(u *upload, t *turn) error {
	created := x.req.Method == http.MethodPost
	u.mu.Lock()
	size := u.size
	u.mu.Unlock()
	if size > 0 {
		if err := u.sync(); err != nil {
			u.release(t)
			return err
		}
	}
	u.release(t)
	h := x.w.Header()
	h.Set(wire.HeaderUploadComplete, wire.FormatBool(false))
	h.Set(wire.HeaderUploadOffset, strconv.FormatInt(size, 10))
	h.Set(wire.HeaderUploadLimit, u.limit(x))
	x.held(u)
	if !created {
		return x.answer(http.StatusNoContent, nil)
	}
	h.Set("Location", u.path())
	h.Set("Content-Length", "0")
	return x.answer(http.StatusCreated, nil)
}

// finish ends turn t, in which the last byte of the upload was received, and
// begins to complete it.
func (x *exchange) finish(u *upload, t *turn) (*attempt, error) {
	if err := u.write(); err != nil {
		return nil, x.refuse(u, t, err)
	}
	u.mu.Lock()
	size, length, final := u.size, u.length, u.final
	u.mu.Unlock()
	var err error
	switch {
	case final != nil:
		err = errJudged
	case length >= 0 && size != length:
		// Nothing is lost: the host may still send the rest.
		u.release(t)
		return nil, lengthMismatch("the upload ends after %d bytes, its length is %d", size, length)
	case size == 0:
		err = code.New(code.Malformed, "the upload is empty")
	case u.scanner.Partial() != 0:
		err = code.New(code.Malformed, "the upload ends in the middle of a zstd frame")
	}
	if err != nil {
		return nil, x.refuse(u, t, err)
	}
	a := u.complete(x.now)
	u.release(t)
	return a, nil
}

// held tells how much of the upload the receiver holds in whole frames.
func (x *exchange) held(u *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	x.w.Header().Set(wire.HeaderHeld, wire.FormatHeld(wire.Held{Frames: int64(len(u.frames)), Content: u.tar}))
}

// limit is the upload's Upload-Limit.
func (u *upload) limit(x *exchange) string {
	// Its age counts from the last request, so from now.
	return wire.FormatUploadLimit(wire.UploadLimit{MaxSize: u.bounds.archive, MaxAge: x.st.cfg.UploadMaxAge})
}

// query answers HEAD and GET of an upload: the draft's "Offset Retrieval".
func (x *exchange) query(token string) error {
	u, err := x.find(token)
	if err != nil {
		return err
	}
	t, err := u.take(x)
	if err != nil {
		return err
	}
	defer u.release(t)
	u.mu.Lock()
	final, try := u.final, u.try
	u.mu.Unlock()
	if final == nil && try != nil && !try.ended() {
		// It is being verified and stored. An offset told now must hold, and a
		// little later there is nothing left to be asked for.
		timeout := time.NewTimer(turnTimeout)
		defer timeout.Stop()
		select {
		case <-try.done:
		case <-timeout.C:
			e := code.New(code.ReceiverBusy, "the upload is complete and is being verified")
			e.RetryAfter = progressEvery
			return e
		case <-x.req.Context().Done():
			return x.cut(x.req.Context().Err())
		}
		u.mu.Lock()
		final = u.final
		u.mu.Unlock()
	}
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	if final != nil && final.err != nil {
		return x.answerOutcome(final)
	}
	if final == nil {
		if err := u.sync(); err != nil {
			return err
		}
	}
	u.mu.Lock()
	size, length := u.size, u.length
	u.mu.Unlock()
	h.Set(wire.HeaderUploadOffset, strconv.FormatInt(size, 10))
	h.Set(wire.HeaderUploadComplete, wire.FormatBool(final != nil))
	if final != nil {
		length = size
		h.Set(wire.HeaderCode, string(final.code))
	}
	if length >= 0 {
		h.Set(wire.HeaderUploadLength, strconv.FormatInt(length, 10))
	}
	h.Set(wire.HeaderUploadLimit, u.limit(x))
	if final == nil {
		x.held(u)
	}
	return x.answer(http.StatusNoContent, nil)
}

// delete answers DELETE of an upload: the draft's "Upload Cancellation".
func (x *exchange) delete(token string) error {
	u, err := x.find(token)
	if err != nil {
		return err
	}
	t, err := u.take(x)
	if err != nil {
		return err
	}
	defer u.release(t)
	u.mu.Lock()
	final, try := u.final, u.try
	u.mu.Unlock()
	if final != nil && final.code == code.UploadGone {
		return x.answerOutcome(final)
	}
	if try != nil && !try.ended() {
		// A commit can't be taken back half-way; let it end.
		select {
		case <-try.done:
		case <-x.req.Context().Done():
			return x.cut(x.req.Context().Err())
		}
	}
	o := outcome{code: code.UploadGone, err: code.New(code.UploadGone, "the upload was deleted"), at: x.now}
	u.end(o)
	u.mu.Lock()
	u.final = &o // also in place of an earlier word
	u.mu.Unlock()
	return x.answer(http.StatusNoContent, nil)
}
