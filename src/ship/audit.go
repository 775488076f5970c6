package ship

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/identity"
	"cis490/src/wire"
)

// Audited is what the receiver says of a receipt of this host.
type Audited struct {
	Receipt wire.Receipt
	Verdict wire.Verdict
	Detail  string
	Theirs  *wire.Receipt // nil: it has none
}

// auditTries is how often one batch is asked for when the path or the receiver
// fails.
const auditTries = 5

// Audit asks the receiver about receipts, a batch at a time, and hands what it
// says of each to see, in their order, until that returns false. A receiver that
// can't be asked ends it with an error that has a code. It keeps no more than a
// batch in memory.
func Audit(ctx context.Context, cfg config.LabHost, id *identity.Client, receipts iter.Seq[wire.Receipt], see func(Audited) bool) error {
	transport := newTransport(cfg, id, newPace(config.RateLimit{})) // it is some bytes for each receipt
	defer transport.CloseIdleConnections()
	c := newClient(cfg, transport, id, func(string) {})
	m := newMeter(cfg.Shipper.ConnectTimeout, cfg.Shipper.StallTimeout, cfg.Shipper.ResponseTimeout, nil)
	back := backoff{cfg.Shipper.BackoffMin, cfg.Shipper.BackoffMax}
	batch := make([]wire.Receipt, 0, wire.MaxAudit)
	ask := func() (more bool, err error) {
		asked := make([]wire.Acknowledged, len(batch))
		for i, r := range batch {
			asked[i] = wire.Acknowledged{Episode: r.Episode, BagDigest: r.BagDigest}
		}
		var said []wire.AuditedEpisode
		for try := 1; ; try++ {
			var fail *failure
			if said, fail = c.audit(ctx, m, asked); fail == nil {
				break
			}
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			if c := fail.code(); try == auditTries || c.Class() != code.Transient || c == code.Unmarked4xx {
				return false, fail
			}
			select {
			case <-ctx.Done():
				return false, context.Cause(ctx)
			case <-time.After(max(back.after(try), min(fail.why.RetryAfter, time.Minute))):
			}
		}
		for i, e := range said {
			if !see(Audited{Receipt: batch[i], Verdict: e.Verdict, Detail: e.Detail, Theirs: e.Receipt}) {
				return false, nil
			}
		}
		batch = batch[:0]
		return true, nil
	}
	for r := range receipts {
		if batch = append(batch, r); len(batch) == cap(batch) {
			if more, err := ask(); err != nil || !more {
				return err
			}
		}
	}
	if len(batch) > 0 {
		_, err := ask()
		return err
	}
	return nil
}

// audit asks about one batch.
func (c *client) audit(ctx context.Context, m *meter, asked []wire.Acknowledged) (said []wire.AuditedEpisode, f *failure) {
	body, err := json.Marshal(wire.Audit{Receipts: asked})
	if err != nil { // ids and digests can be marshalled
		return nil, local(err)
	}
	again := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	first, _ := again()
	f = c.do(ctx, m, request{
		method: http.MethodPost, url: c.audits, length: int64(len(body)), body: first, again: again,
		header: http.Header{"Content-Type": {wire.MediaJSON}, "X-Idempotency-Key": nil},
	}, func(r *http.Response) *failure {
		if r.StatusCode == http.StatusNotFound && r.Header.Get(wire.HeaderWindow) != "" {
			return &failure{status: r.StatusCode, why: code.New(code.Unmarked4xx, "this receiver is of a version without audits: bring it to that of this host")}
		}
		if !success(r) {
			return refused(r)
		}
		var err error
		if said, err = wire.ReadAudited(r.Body, asked); err != nil {
			return unread(r, err, fmt.Sprintf("no audit (%v)", err))
		}
		return nil
	})
	return said, f
}
