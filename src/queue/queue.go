// Package queue is the lab host's tree of episodes: what waits, what was
// acknowledged, what was set aside. The file system is the queue: an episode's
// state is the directory that it is in, and changes by rename(2).
//
//	sealed/<id>/                     waits to be shipped, oldest id first
//	shipped/<day>/<id>/              acknowledged, kept for a while
//	quarantine/<day>/<name>/         set aside: reason.json beside bag
//	receipts/<month>.jsonl           what the receiver acknowledged
//	uploads/<id>.json                token of a cut upload; may be lost
//	.removing/                       out of sight, being unlinked
//
// What it promises: at every moment, and after a crash or a power cut at any
// moment, each episode that was ever sealed is in exactly one of sealed,
// quarantine and shipped, or a fsynced receipt for it stands in the ledger. A
// source leaves sealed only against a receipt that names the digest which the
// episode on disk has, or into quarantine with its reason. Nothing else
// removes data but the clean-up that the owner asked for, and an operator's
// Discard. Cost follows what waits, never what was shipped or set aside before.
//
// One process ships (see Lock); any number may list, requeue, discard and
// clean up beside it.
package queue

import (
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"cis490/src/durable"
	"cis490/src/episode"
)

// Queue is a lab host's tree. Its methods may be called concurrently.
type Queue struct {
	root string
	log  *slog.Logger
	now  func() time.Time

	keepShipped atomic.Int64 // time.Duration

	unlock func() error
	mu     sync.Mutex
}

// Option changes a Queue that Open makes.
type Option func(*Queue)

// WithLog makes the queue report what it mends, and failures that have no
// caller, to log. Without it they go to slog.Default.
func WithLog(log *slog.Logger) Option { return func(q *Queue) { q.log = log } }

// WithKeepShipped keeps acknowledged episodes in shipped/ for d; see SetKeepShipped.
func WithKeepShipped(d time.Duration) Option { return func(q *Queue) { q.SetKeepShipped(d) } }

// Open makes the tree below dataDir where parts of it are missing, and finishes
// or undoes what a crash cut short in the quarantine. It takes no lock and
// starts nothing. A caller that may only read gets a Queue that lists.
func Open(dataDir string, opts ...Option) (*Queue, error) {
	q := &Queue{root: dataDir, log: slog.Default(), now: time.Now}
	for _, o := range opts {
		o(q)
	}
	for _, d := range []string{"open", "sealed", "shipped", "quarantine", "receipts", "uploads"} {
		if err := durable.MkdirAll(filepath.Join(dataDir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// SetKeepShipped says for how long an acknowledged episode is kept in shipped/
// before Cleanup removes it; 0 removes it at once. It may be changed at any time.
func (q *Queue) SetKeepShipped(d time.Duration) { q.keepShipped.Store(int64(d)) }

// Lock makes this process the one that ships: it must be held for Acknowledge
// and for the in-flight slots. It frees what was acknowledged but not yet freed
// when the last process died, counts that process's deaths (see Deaths), and
// starts the removal of what is out of sight. When another process holds the
// lock the error is durable.ErrLocked. Close releases it.
func (q *Queue) Lock() error {
	unlock, err := durable.Lock(filepath.Join(q.root, ".shipper.lock"))
	if err != nil {
		return err
	}
	q.unlock = unlock
	return nil
}

// Close waits for the acknowledgements under way, ends the removal in the
// background (Lock goes on with it), clears the in-flight slots: this was no
// death; and releases the lock.
func (q *Queue) Close() error {
	if q.unlock == nil {
		return nil
	}
	return q.unlock()
}

// Root is the data directory.
func (q *Queue) Root() string { return q.root }

// Dir is where the episode id is while it waits.
func (q *Queue) Dir(id episode.ID) string { return filepath.Join(q.root, "sealed", id.String()) }
