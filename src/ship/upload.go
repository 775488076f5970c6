package ship

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/queue"
	"cis490/src/wire"
)

// maxRestarts bounds how often one attempt begins an upload anew, or asks where
// it stands, without a byte more being held at the receiver.
const maxRestarts = 4

// sent is what came of sending one episode.
type sent struct {
	facts   episode.Facts // zero when they could not be read
	receipt wire.Receipt
	status  int   // HTTP status of the receipt
	bytes   int64 // packed bytes handed over
	left    bool  // the episode has left the queue in the meantime
	waits   bool  // there is no room for one as large now
	fail    *failure
}

// send makes one attempt to bring episode f.id to the receiver.
func (u *uploader) send(ctx context.Context, f *flight) (out sent) {
	u.at(stepRead)
	dir := u.s.queue.Dir(f.id)
	plan, err := pack.OpenPlan(ctx, dir, func(int64) { u.worker.Progress() })
	if err != nil {
		if _, lerr := os.Lstat(dir); errors.Is(lerr, fs.ErrNotExist) {
			out.left = true
			return out
		}
		var e *code.Error
		switch {
		case ctx.Err() != nil:
			out.fail = &failure{why: code.Wrap(code.Cut, err, "the shipper stops"), parked: true}
		case errors.As(err, &e):
			out.fail = &failure{why: e}
		default:
			out.fail = &failure{why: code.Wrap(code.ReadFailed, err, "open the episode")}
		}
		return out
	}
	defer plan.Close() // nothing was written through it
	out.facts = plan.Facts()
	u.sizes(plan.TarSize())
	if !u.s.sched.weighed(f, plan.TarSize()) {
		out.waits = true
		return out
	}
	// A small one costs one request. After it failed once it is let in before a
	// byte is sent, as a big one: a refusal in mid-body can get lost.
	if plan.TarSize() <= pack.FrameSize && f.attempt == 1 {
		u.post(ctx, plan, &out)
	} else {
		u.resumable(ctx, f, plan, &out)
	}
	return out
}

// announce makes the header fields that an upload is admitted by.
func announce(facts episode.Facts, complete bool) http.Header {
	return http.Header{
		wire.HeaderEpisode:        {wire.FormatAnnouncement(wire.Announcement{Facts: facts, Sent: time.Now()})},
		wire.HeaderUploadComplete: {wire.FormatBool(complete)},
		"Content-Type":            {wire.MediaEpisode},
		// It is: the receiver knows an episode by its digest. So the transport may
		// repeat a request that met a connection just being closed; an empty
		// list is not sent.
		"X-Idempotency-Key": nil,
	}
}

// post sends a whole episode in one request.
func (u *uploader) post(ctx context.Context, plan *pack.Plan, out *sent) {
	frame, err := u.s.packer.Small(plan)
	if err != nil {
		out.fail = local(err)
		return
	}
	u.at(stepSend)
	data := &shared{Frame: frame}
	data.hold()
	defer data.release()
	again := func() (io.ReadCloser, error) { return &small{m: u.meter, frame: data.hold()}, nil }
	body, _ := again()
	out.bytes = int64(len(frame.Data))
	out.fail = u.s.client.do(ctx, u.meter, request{
		method: http.MethodPost, url: u.s.client.episodes, header: announce(out.facts, true),
		length: int64(len(frame.Data)), body: body, again: again,
	}, func(r *http.Response) *failure { return out.read(r) })
}

// local is a failure of this host's own.
func local(err error) *failure {
	var e *code.Error
	if errors.As(err, &e) {
		return &failure{why: e}
	}
	return &failure{why: code.Wrap(code.ReadFailed, err, "pack")}
}

// read reads the final answer to an episode.
func (s *sent) read(r *http.Response) *failure {
	if !success(r) {
		return refused(r)
	}
	var got wire.Receipt
	if err := wire.ReadJSON(r.Body, &got); err != nil || got.Episode.IsZero() {
		return unread(r, err, "no receipt")
	}
	if got.Episode != s.facts.ID || got.BagDigest != s.facts.Digest {
		return &failure{status: r.StatusCode, why: code.New(code.DigestMismatch,
			"the receipt is for episode %s with bag digest %s; sent was %s with %s", got.Episode, got.BagDigest, s.facts.ID, s.facts.Digest)}
	}
	s.receipt, s.status = got, r.StatusCode
	return nil
}

// position is how much of an upload the receiver holds.
type position struct {
	offset int64 // bytes of the upload
	held   wire.Held
}

// resumable sends an episode by the resumable-upload protocol: it is admitted
// by its header alone, then appended to from where the receiver's copy ends.
func (u *uploader) resumable(ctx context.Context, f *flight, plan *pack.Plan, out *sent) {
	q, id := u.s.queue, f.id
	token, known := q.LoadUpload(id)
	var where *url.URL
	if known {
		var ok bool
		if where, ok = u.s.client.locate(token.URL); !ok || token.Digest != out.facts.Digest {
			known = false
		}
	}
	forget := func(why *failure) {
		known = false
		if why != nil {
			u.noteUpload(f, why, "the upload is begun anew")
		}
		if err := q.DropUpload(id); err != nil {
			u.s.log.Debug("drop an upload's token", "episode", id.String(), "err", err.Error())
		}
	}
	slow := f.attempt > 1 // the path was seen to fail
	var last *failure     // of the append before
	held := int64(-1)     // what the receiver held before that
	for try := 0; try <= maxRestarts; try++ {
		var at position
		if known {
			var complete bool
			at, complete, out.fail = u.ask(ctx, where)
			switch {
			case out.fail == nil && (complete || at.held.Content > plan.TarSize()):
				// It ended without our having heard how. If it was stored,
				// a new upload is answered by the receipt.
				forget(nil)
				continue
			case out.fail == nil:
			case isUploadGone(out.fail):
				forget(out.fail)
				continue
			default:
				return
			}
			if at.held.Content > token.Sent {
				token.Sent = at.held.Content
				u.save(f, token)
				u.advanced(f)
			}
			if last != nil && at.held.Content <= held {
				// Cut before anything more was held.
				out.fail = last
				return
			}
			if at.held.Content > held {
				try = 0
			}
		} else {
			where, out.fail = u.create(ctx, out)
			if out.fail != nil || where == nil {
				return
			}
			token = queue.Upload{URL: where.String(), Digest: out.facts.Digest, Created: time.Now(), Size: plan.TarSize()}
			u.save(f, token)
			known = true
			u.s.path(u.s.sched.admitted(f))
		}
		last, held = nil, at.held.Content
		out.fail = u.append(ctx, f, plan, where, at, slow, out)
		slow = true
		switch {
		case out.fail == nil || out.fail.parked:
			return
		case out.fail.code() == code.OffsetMismatch:
			u.noteUpload(f, out.fail, "the receiver is asked for the offset")
		case out.fail.code() == code.Cut && ctx.Err() == nil:
			// Perhaps the verdict was lost with the connection, perhaps it can
			// go on at once.
			last = out.fail
			u.noteUpload(f, out.fail, "connection cut; the receiver is asked for the offset")
		case isUploadGone(out.fail):
			forget(out.fail)
		default:
			return
		}
	}
	if out.fail == nil {
		out.fail = &failure{}
	}
	out.fail = &failure{status: out.fail.status, answered: out.fail.answered,
		why: code.New(code.ReceiverError, "the upload was begun anew %d times and did not get on; last: %v", maxRestarts, out.fail.why)}
}

// noteUpload logs what concerns no more than one upload.
func (u *uploader) noteUpload(f *flight, fail *failure, msg string) {
	u.s.figures.failed(fail.code())
	u.s.event(fail.code(), msg, slog.String("episode", f.id.String()), slog.Int("status", fail.status), slog.String("detail", detail(fail.why)),
		slog.Int64("sent_tar_bytes", u.held.Load()))
}

func isUploadGone(f *failure) bool {
	return f.code() == code.UploadGone || f.code() == code.LengthMismatch
}

// save keeps the token of an upload for later attempts.
func (u *uploader) save(f *flight, t queue.Upload) {
	if err := u.s.queue.SaveUpload(f.id, t); err != nil {
		// The next attempt will begin anew: a cost, no loss.
		u.s.log.Warn("keep an upload's token", "episode", f.id.String(), "err", err.Error())
	}
}

// locate resolves the Location of an upload. Only its path counts: bytes go
// nowhere but to the receiver that the configuration names, whatever name a
// proxy knows it by.
func (c *client) locate(location string) (*url.URL, bool) {
	l, err := url.Parse(location)
	if err != nil || !strings.HasPrefix(l.Path, "/") || l.Path == "/" {
		return nil, false
	}
	return c.base.ResolveReference(&url.URL{Path: l.Path, RawPath: l.RawPath, RawQuery: l.RawQuery}), true
}

// create begins an upload. Without a failure it either gives the place of the
// upload, or out has the receipt.
func (u *uploader) create(ctx context.Context, out *sent) (where *url.URL, f *failure) {
	u.at(stepSend)
	f = u.s.client.do(ctx, u.meter, request{method: http.MethodPost, url: u.s.client.episodes, header: announce(out.facts, false)},
		func(r *http.Response) *failure {
			complete, _ := wire.ParseBool(r.Header.Values(wire.HeaderUploadComplete))
			location := r.Header.Get("Location")
			if !success(r) || complete || location == "" {
				return out.read(r)
			}
			var ok bool
			if where, ok = u.s.client.locate(location); !ok {
				return notOurs(r, "the Location "+strconv.Quote(location)+" is no upload's")
			}
			return nil
		})
	return where, f
}

// ask asks the receiver how much of an upload it holds. A verdict that it kept
// comes back as the failure.
func (u *uploader) ask(ctx context.Context, where *url.URL) (at position, complete bool, f *failure) {
	u.at(stepAsk)
	f = u.s.client.do(ctx, u.meter, request{method: http.MethodHead, url: where, header: http.Header{}}, func(r *http.Response) *failure {
		if !success(r) {
			return refused(r)
		}
		var ok bool
		if at.offset, ok = wire.ParseInteger(r.Header.Values(wire.HeaderUploadOffset)); !ok {
			return notOurs(r, "no "+wire.HeaderUploadOffset)
		}
		complete, _ = wire.ParseBool(r.Header.Values(wire.HeaderUploadComplete))
		if complete {
			return nil
		}
		var err error
		if at.held, err = wire.ParseHeld(r.Header.Values(wire.HeaderHeld)); err != nil {
			return &failure{status: r.StatusCode, why: code.Wrap(code.UploadGone, err, "the receiver does not say how many frames it holds")}
		}
		return nil
	})
	return at, complete, f
}

// append sends what the receiver does not hold yet, starting slowly on a path
// that may be cut again soon.
func (u *uploader) append(ctx context.Context, f *flight, plan *pack.Plan, where *url.URL, at position, slow bool, out *sent) *failure {
	u.at(stepSend)
	u.sent(at.held.Content)
	held := at.offset
	return u.s.client.do(ctx, u.meter, request{
		method: http.MethodPatch, url: where,
		header: http.Header{
			"Content-Type":            {wire.MediaPartial},
			wire.HeaderUploadOffset:   {strconv.FormatInt(at.offset, 10)},
			wire.HeaderUploadComplete: {wire.FormatBool(true)},
		},
		hooks: hooks{
			interim: func(h textproto.MIMEHeader) {
				// The receiver has that much on its disk.
				if n, ok := wire.ParseInteger(h[wire.HeaderUploadOffset]); ok && n > held {
					held = n
					u.advanced(f)
				}
			},
			moving: func() { u.s.path(u.s.sched.advanced(f, false)) },
		},
		stream: func(ctx context.Context) *body {
			stream := u.s.packer.Stream(ctx, plan, at.held.Content)
			if slow {
				stream.SlowStart()
			}
			stream.Progress = func(int) { u.worker.Progress() }
			b := newBody(u.meter, stream)
			b.park, b.sample = u.parks, u.s.packer.LinkSample
			b.packing = func(on bool) {
				// Whoever looks at a stuck worker must know where to look.
				if on {
					u.at(stepPack)
				} else {
					u.at(stepSend)
				}
			}
			b.sent = func(fr pack.Frame) {
				u.sent(fr.Offset + int64(fr.Len))
				u.handed.Add(int64(len(fr.Data)))
			}
			return b
		},
	}, func(r *http.Response) *failure {
		out.bytes = u.handed.Load()
		return out.read(r)
	})
}
