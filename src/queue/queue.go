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
//	.again/<id>                      acknowledged, and to be sent once more
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
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/durable"
	"cis490/src/episode"
)

// Names in the data directory.
const (
	sealedDir     = "sealed"
	shippedDir    = "shipped"
	quarantineDir = "quarantine"
	receiptsDir   = "receipts"
	uploadsDir    = "uploads"
	removingDir   = ".removing"
	lockFile      = ".shipper.lock"
)

const dayLayout = "2006-01-02" // UTC

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotQuarantined: the quarantine has no entry of that name.
	ErrNotQuarantined = errors.New("not in quarantine")
	// ErrWaiting: sealed/ already has an episode of that id.
	ErrWaiting = errors.New("an episode of that id already waits in sealed")
	// ErrNotEpisode: a stray can't be put back into the queue.
	ErrNotEpisode = errors.New("not an episode")
	// ErrOtherDigest: the receipt is for other content than the disk has.
	ErrOtherDigest = errors.New("the receipt names another bag digest than the episode on disk has")
	// ErrNotLocked: Acknowledge and the in-flight slots are for the process that holds Lock.
	ErrNotLocked = errors.New("the queue is not locked by this process")
)

// Queue is a lab host's tree. Its methods may be called concurrently.
type Queue struct {
	root   string
	log    *slog.Logger
	now    func() time.Time
	worker Worker

	keepShipped atomic.Int64 // time.Duration

	scan       scanner
	quarantine sync.Mutex // held together with quarantine/.lock
	index      index
	cleanup    gate
	slots      slots
	commit     committer
	remover    remover

	// Replaced by tests that want the disk to fail.
	syncFile func(*os.File) error
	syncDir  func(string) error

	state  sync.Mutex // Lock and Close
	unlock func() error
	locked atomic.Bool
}

// Worker hears of the removal in the background; a *liveness.Worker is one.
type Worker interface {
	Within(time.Duration)
	Progress()
	Idle()
}

type nobody struct{}

func (nobody) Within(time.Duration) {}
func (nobody) Progress()            {}
func (nobody) Idle()                {}

// Option changes a Queue that Open makes.
type Option func(*Queue)

// WithLog makes the queue report what it mends, and failures that have no
// caller, to log. Without it they go to slog.Default.
func WithLog(log *slog.Logger) Option { return func(q *Queue) { q.log = log } }

// WithKeepShipped keeps acknowledged episodes in shipped/ for d; see SetKeepShipped.
func WithKeepShipped(d time.Duration) Option { return func(q *Queue) { q.SetKeepShipped(d) } }

// WithWorker makes the removal in the background report to w: a step is one
// episode's unlinking or one fsync, and may take up to five minutes.
func WithWorker(w Worker) Option { return func(q *Queue) { q.worker = w } }

// Open makes the tree below dataDir where parts of it are missing, and finishes
// or undoes what a crash cut short in the quarantine. It takes no lock and
// starts nothing. A caller that may only read gets a Queue that lists.
func Open(dataDir string, opts ...Option) (*Queue, error) {
	root, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	q := &Queue{
		root: root, log: slog.Default(), now: time.Now, worker: nobody{},
		syncFile: (*os.File).Sync, syncDir: durable.SyncDir,
	}
	for _, o := range opts {
		o(q)
	}
	for _, d := range []string{sealedDir, shippedDir, quarantineDir, settingAside, puttingBack, receiptsDir, uploadsDir, removingDir} {
		err := durable.MkdirAll(q.path(d), 0o755)
		if err == nil {
			continue
		}
		// Someone who may only look need not find a whole tree, only one that is there.
		if readOnly(err) {
			if st, serr := os.Stat(root); serr == nil && st.IsDir() {
				continue
			}
		}
		return nil, fmt.Errorf("open queue: %w", err)
	}
	if err := q.recoverAtOpen(); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	return q, nil
}

// SetKeepShipped says for how long an acknowledged episode is kept in shipped/
// before Cleanup removes it; 0 removes it at once. It may be changed at any time.
func (q *Queue) SetKeepShipped(d time.Duration) { q.keepShipped.Store(int64(max(d, 0))) }

// Lock makes this process the one that ships: it must be held for Acknowledge
// and for the in-flight slots. It frees what was acknowledged but not yet freed
// when the last process died (so what Scan returns after it was not acknowledged
// before), counts that process's deaths (see Deaths), and starts the removal of
// what is out of sight. When another process holds the lock the error is
// durable.ErrLocked. Close releases it.
func (q *Queue) Lock() (err error) {
	q.state.Lock()
	defer q.state.Unlock()
	if q.unlock != nil {
		return fmt.Errorf("lock queue: %w: by this process", durable.ErrLocked)
	}
	unlock, err := durable.Lock(q.path(lockFile))
	if err != nil {
		return fmt.Errorf("lock queue: %w", err)
	}
	q.unlock = unlock
	q.locked.Store(true)
	q.commit.reset()
	q.remover.start(q)
	defer func() {
		if err != nil {
			err = fmt.Errorf("lock queue: %w", err)
			q.closeLocked()
		}
	}()
	release, err := q.lockQuarantine(context.Background())
	if err != nil {
		return err
	}
	q.recoverQuarantine()
	release()
	if err := q.resumeLedger(); err != nil {
		return err
	}
	ids, _, err := q.Scan(context.Background())
	if err != nil {
		return err
	}
	if err := q.countDeaths(ids); err != nil {
		return err
	}
	q.pruneUploads(ids)
	return nil
}

// Close waits for the acknowledgements under way, ends the removal in the
// background (the next Lock goes on with it), clears the in-flight slots: this
// was no death; and releases the lock.
func (q *Queue) Close() error {
	q.state.Lock()
	defer q.state.Unlock()
	if q.unlock == nil {
		return nil
	}
	return q.closeLocked()
}

func (q *Queue) closeLocked() error {
	q.locked.Store(false)
	err := errors.Join(q.commit.close(q), q.remover.stop(q), q.slots.close())
	unlock := q.unlock
	q.unlock = nil
	return errors.Join(err, unlock())
}

// Root is the data directory.
func (q *Queue) Root() string { return q.root }

// Dir is where the episode id is while it waits.
func (q *Queue) Dir(id episode.ID) string { return q.path(sealedDir, id.String()) }

func (q *Queue) path(elem ...string) string {
	return filepath.Join(append([]string{q.root}, elem...)...)
}

// readOnly says whether err means that the caller may look but not change.
func readOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
}

// renameNoReplace is rename(2) that fails with fs.ErrExist where newpath exists.
func renameNoReplace(oldpath, newpath string) error {
	err := unix.Renameat2(unix.AT_FDCWD, oldpath, unix.AT_FDCWD, newpath, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		// A file system without it. All renames into one place are made under
		// one lock, so looking first leaves no gap but to strangers.
		if _, serr := os.Lstat(newpath); serr == nil {
			err = unix.EEXIST
		} else {
			err = unix.Rename(oldpath, newpath)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldpath, New: newpath, Err: err}
	}
	return nil
}
