package ingest

import (
	"net/http"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/wire"
)

const (
	// maxAudits bounds the audits that are answered at a time, and with them the
	// memory that they take: about a megabyte each.
	maxAudits = 4
	// auditTime is for how long the body of one may take.
	auditTime = 30 * time.Second
)

// audit says what has become of episodes that the host has receipts for. It
// learns of none that it could not name, nor of any other host's.
func (x *exchange) audit() error {
	if x.req.ContentLength > wire.MaxAuditBody {
		return &plainError{status: http.StatusRequestEntityTooLarge, detail: "an audit has at most 1,000 receipts and 256 KiB"}
	}
	if x.r.audits.take(x.host, maxAudits, 1) != nil {
		return &code.Error{Code: code.ReceiverBusy, Detail: "an audit of this host, or several of others, are under way", RetryAfter: retryBusy}
	}
	defer x.r.audits.release(x.host)
	_ = x.rc.SetReadDeadline(time.Now().Add(auditTime))
	x.bodyRead = true
	a, err := wire.ReadAudit(x.req.Body)
	_ = x.rc.SetReadDeadline(time.Time{})
	if err != nil {
		return &plainError{status: http.StatusBadRequest, detail: "the body is no audit: " + err.Error()}
	}
	ids := make([]episode.ID, len(a.Receipts))
	for i, r := range a.Receipts {
		ids[i] = r.Episode
	}
	rows, err := x.r.store.LookupAll(x.req.Context(), x.host, ids)
	if err != nil {
		return err
	}
	out := wire.Audited{Episodes: make([]wire.AuditedEpisode, len(a.Receipts))}
	for i, r := range a.Receipts {
		e := wire.AuditedEpisode{Episode: r.Episode, Verdict: wire.VerdictStored}
		if row, found := rows[r.Episode]; !found {
			e.Verdict = wire.VerdictMissing
		} else {
			e.Receipt = &row.Receipt
			if row.Facts.Digest != r.BagDigest {
				e.Verdict = wire.VerdictDiffers
			} else if row.Damaged != "" {
				e.Verdict, e.Detail = wire.VerdictDamaged, row.Damaged
			}
		}
		out.Episodes[i] = e
	}
	x.w.Header().Set("Cache-Control", "no-store")
	return x.answer(http.StatusOK, out)
}
