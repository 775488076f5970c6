package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/journal"
	"cis490/src/store"
)

// noteFound logs and counts what a scrub, or an upload, found about the store.
func (r *Receiver) noteFound(f store.Finding) {
	c := map[store.Kind]code.Code{store.FoundDamaged: code.StoreDamaged, store.FoundMended: code.StoreMended, store.FoundUnread: code.ReceiverError}[f.Kind]
	if c == "" {
		c = code.StoreMismatch
	}
	attrs := []slog.Attr{slog.String("path", f.Path), slog.String("detail", f.What)}
	if f.Host != "" {
		attrs = append(attrs, slog.String("host", f.Host))
	}
	if !f.Episode.IsZero() {
		attrs = append(attrs, slog.String("episode", f.Episode.String()))
	}
	journal.Event(context.Background(), r.log, c, c.Info().Title, attrs...)
	r.counts.found(f.Kind)
}

// scrubPlan is what the configuration says of scrubbing now.
func (r *Receiver) scrubPlan() store.ScrubPlan {
	c := r.settings.Load().cfg.Scrub
	if c.Rate == config.RateOff {
		c.Every = 0
	}
	return store.ScrubPlan{Every: c.Every, Rate: int64(c.Rate)}
}

func serveScrub(o Operator, w http.ResponseWriter, req *http.Request) error {
	q := req.URL.Query()
	opt := store.ScrubOptions{Host: q.Get("host")}
	var err error
	if v := q.Get("since"); v != "" {
		if opt.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return bad(fmt.Errorf("since: %w", err))
		}
	}
	if v := q.Get("rate"); v != "" {
		if opt.Rate, err = strconv.ParseInt(v, 10, 64); err != nil || opt.Rate < 0 {
			return bad(fmt.Errorf("rate: %q is not a number of bytes per second", v))
		}
	}
	step := steps(w)
	opt.Progress = func(p store.ScrubProgress) { step(OperatorStep{Scrub: &p}, false) }
	opt.Found = func(f store.Finding) { step(OperatorStep{Found: &f}, true) }
	report, err := o.Store().Scrub(req.Context(), opt)
	last := OperatorStep{Done: true, Scrubbed: &report}
	if err != nil {
		last.Error = err.Error()
	}
	step(last, true)
	return nil
}

// Scrub has the store read and compared with its digests; see [store.Store.Scrub].
// When ctx ends, the report is of what was looked at until then, as far as that is known.
func (c *OperatorClient) Scrub(ctx context.Context, opt store.ScrubOptions) (store.ScrubReport, error) {
	q := url.Values{"rate": {strconv.FormatInt(opt.Rate, 10)}}
	if opt.Host != "" {
		q.Set("host", opt.Host)
	}
	if !opt.Since.IsZero() {
		q.Set("since", opt.Since.UTC().Format(time.RFC3339Nano))
	}
	last, err := c.steps(ctx, "/scrub?"+q.Encode(), func(s OperatorStep) {
		switch {
		case s.Found != nil:
			opt.Found(*s.Found)
		case s.Scrub != nil:
			opt.Progress(*s.Scrub)
		}
	})
	if last.Scrubbed == nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return store.ScrubReport{}, err
	}
	return *last.Scrubbed, err
}

// encodeWithin bounds how long a client may leave an answer unread: whoever makes
// the answer has a deadline of its own.
const encodeWithin = 5 * time.Second

// steps writes the lines of a long answer: progress at most once in a while. Once
// the client doesn't take them any more, the rest is dropped.
func steps(w http.ResponseWriter) func(s OperatorStep, always bool) {
	enc := json.NewEncoder(w)
	rc := http.NewResponseController(w)
	var last time.Time
	gone := false
	return func(s OperatorStep, always bool) {
		if gone || !always && time.Since(last) < 200*time.Millisecond {
			return
		}
		last = time.Now()
		err := rc.SetWriteDeadline(last.Add(encodeWithin))
		gone = errors.Join(err, enc.Encode(s), rc.Flush()) != nil // a client that has gone ends the request's context
	}
}
