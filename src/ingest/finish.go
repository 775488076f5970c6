package ingest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"cis490/src/code"
	"cis490/src/pack"
	"cis490/src/store"
	"cis490/src/wire"
)

// condemn ends the upload with the verdict err, if err is about the episode; a
// failure of the receiver's own leaves the upload without one, but ended.
func (u *upload) condemn(err error) {
	c, ok := code.Of(err)
	if !ok {
		c = code.ReceiverError
		err = code.Wrap(c, err, "")
	}
	switch c.Class() {
	case code.OfEpisode:
		u.end(outcome{code: c, err: err})
	default:
		// What is in the file can't be relied on; the host begins anew.
		_ = u.giveUp(err)
	}
	u.mu.Lock()
	t := u.turn
	u.mu.Unlock()
	if t != nil {
		t.verdict()
	}
}

// complete begins to verify and store what is now whole. The caller has the turn
// and has written everything.
func (u *upload) complete(began time.Time) *attempt {
	u.mu.Lock()
	defer u.mu.Unlock()
	a := &attempt{done: make(chan struct{})}
	u.try = a
	if u.check != nil {
		u.check.whole = true // also of one that has ended
	} else if u.valid == nil && !u.big {
		// A new one, for an upload of a former process or one that was left alone for long.
		u.check = u.startCheck(true)
		u.check.whole = true
	}
	u.more.Broadcast()
	u.r.work.Add(1)
	go func() {
		defer u.r.work.Done()
		a.out = u.conclude()
		if a.out.err == nil {
			u.r.noteStored(event{host: u.ann.Host, id: u.ann.ID, now: u.r.now(), began: began, bytes: u.size}, a.out.code, a.out.receipt)
		}
		if a.out.final() {
			u.end(a.out)
		}
		close(a.done)
		u.closeEnded()
	}()
	return a
}

// final says whether o is the last word; after any other the host may ask for the
// upload to be completed once more.
func (o outcome) final() bool {
	switch o.code.Class() {
	case code.Done, code.OfEpisode, code.OfUpload:
		return true
	}
	return false
}

// conclude verifies and stores the upload.
func (u *upload) conclude() (out outcome) {
	r := u.r
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("panic while storing", "episode", u.ann.ID.String(), "host", u.ann.Host, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			out = outcome{code: code.ReceiverError, err: code.New(code.ReceiverError, "storing episode %s failed inside", u.ann.ID)}
		}
	}()
	fail := func(err error) outcome {
		c, ok := code.Of(err)
		if !ok {
			c, err = code.ReceiverError, code.Wrap(code.ReceiverError, err, "store episode %s", u.ann.ID)
		}
		return outcome{code: c, err: err}
	}
	valid, frames, err := u.verified()
	if err != nil {
		out = fail(err)
		if out.code == code.ReceiverError {
			_ = u.giveUp(err)
		}
		return out
	}
	// Time has gone by since the host was let in (the draft, section "Security Considerations").
	u.mu.Lock()
	key := u.key
	u.mu.Unlock()
	if name, err := r.hosts.Lookup(key); err != nil || name != u.ann.Host {
		if err == nil {
			err = code.New(code.HostUnknown, "the key now belongs to %s", name)
		}
		return fail(err)
	}
	u.mu.Lock()
	file, ended := u.file, u.final
	u.mu.Unlock()
	if ended != nil {
		return *ended
	}
	receipt, c, err := r.store.Commit(r.base, store.Item{
		Facts: u.ann.Facts, WindowID: u.windowID, Run: valid.Run, ArchiveFile: u.dataName(), ArchiveFD: file, Frames: frames,
	})
	if err != nil {
		out = fail(retryLater(err))
		if _, gone := os.Stat(u.dataPath()); gone != nil {
			_ = u.giveUp(err) // its flush failed, and the store took it away
		}
		return out
	}
	return outcome{code: c, receipt: receipt}
}

// verified waits for the verification. A verdict against the episode is an error
// that carries its code.
func (u *upload) verified() (*pack.Verified, []pack.FrameInfo, error) {
	u.mu.Lock()
	check, valid, frames, big, final := u.check, u.valid, u.frames, u.big, u.final
	u.mu.Unlock()
	switch {
	case final != nil:
		return nil, nil, endedBy(final)
	case valid != nil:
		return valid, frames, nil
	case !big:
		<-check.done
		u.mu.Lock()
		final = u.final
		u.mu.Unlock()
		switch {
		case check.err != nil && final != nil:
			return nil, nil, endedBy(final)
		case check.err != nil:
			return nil, nil, check.err
		}
		valid = check.got
	}
	if big {
		v, content, err := u.verifyFile()
		if err != nil {
			return nil, nil, err
		}
		valid, frames = v, fillIn(frames, content)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.valid, u.check = valid, nil
	if u.final == nil {
		u.frames = frames
	}
	return valid, frames, nil
}

func endedBy(o *outcome) error {
	if o.err != nil {
		return o.err
	}
	return code.New(code.UploadGone, "the upload was ended meanwhile")
}

// fillIn computes the content size of the one frame that does not tell it, from
// that of all.
func fillIn(frames []pack.FrameInfo, content int64) []pack.FrameInfo {
	unknown := -1
	for i, f := range frames {
		switch {
		case f.Content >= 0:
			content -= f.Content
		case unknown >= 0:
			return nil
		default:
			unknown = i
		}
	}
	if unknown < 0 {
		return frames
	}
	out := append([]pack.FrameInfo(nil), frames...)
	out[unknown].Content = content
	return out
}

// progressEvery is how often a client is told that its request still gets on.
const progressEvery = 5 * time.Second

// await waits for the attempt's end and answers with it. If the client goes, the
// attempt goes on.
func (x *exchange) await(a *attempt) error {
	tick := time.NewTicker(x.r.progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-a.done:
			return x.answerOutcome(&a.out)
		case <-tick.C:
			x.interim(x.creation...)
		case <-x.req.Context().Done():
			return x.cut(x.req.Context().Err())
		}
	}
}

// answerOutcome answers a request that appends with what became of the upload.
func (x *exchange) answerOutcome(o *outcome) error {
	switch {
	case o.err == nil:
		return x.receipt(o.code, o.receipt)
	case o.code == code.UploadGone:
		return gone(o.err)
	case o.final():
		return asCode(o.err)
	}
	return &refusal{err: asCode(o.err), header: incomplete}
}

var incomplete = [][2]string{{wire.HeaderUploadComplete, wire.FormatBool(false)}}

func asCode(err error) *code.Error {
	var c *code.Error
	if errors.As(err, &c) {
		return c
	}
	return code.Wrap(code.ReceiverError, err, "")
}

// gone is the answer for an upload that is known to have been there: 410.
func gone(err error) error {
	return &refusal{err: asCode(err), status: http.StatusGone}
}
