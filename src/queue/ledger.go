package queue

import (
	"context"
	"iter"

	"cis490/src/episode"
	"cis490/src/wire"
)

// Acknowledge records the receipt in the ledger, durably, and then frees the
// episode's source: out of sealed/ into shipped/, or out of sight and unlinked
// in the background. Concurrent calls share one fsync.
//
// The episode on disk must have the digest that the receipt names, else nothing
// is recorded or freed and the error is ErrOtherDigest. An episode that is not
// in sealed/ (any more) is recorded only. An error of the disk before the
// receipt is durable leaves the episode in sealed/, to be sent (and answered by
// already-stored) again.
//
// ctx bounds the waiting, not the work: once called, the receipt is recorded
// if the disk allows.
func (q *Queue) Acknowledge(ctx context.Context, r wire.Receipt) error { return nil }

// Receipts goes through the ledger, oldest month first, in the order in which
// receipts were recorded. A receipt may occur twice. A line that is no receipt
// is yielded as an error that names file and line; the iteration goes on.
func (q *Queue) Receipts() iter.Seq2[wire.Receipt, error] {
	return func(func(wire.Receipt, error) bool) {}
}

// LedgerHas finds the newest receipt for id. The cost is a search of the ledger
// from its end back to the month in which id was made.
func (q *Queue) LedgerHas(id episode.ID) (wire.Receipt, bool, error) {
	return wire.Receipt{}, false, nil
}
