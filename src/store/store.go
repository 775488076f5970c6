// Package store keeps the episodes that the receiver has accepted.
//
// What it promises: when Commit returns without an error, archive and sidecar
// of the episode have their final names, every query sees the episode, and it is on
// the disk: under these names, or, for a small one, for some 50 ms in the log only,
// from which Open makes the files after a crash. When it
// returns an error, or the machine stops half-way, the episode is not there
// at all, or it is there whole; which of the two, the next Open settles before
// it returns. The same episode committed twice, at once or a year apart, is
// stored once and has one receipt. Only where its copy is damaged or missing it is
// stored anew, in the place of what is left of it; the receipt then says when, by
// which version, and the new archive's size.
//
// The store is a directory:
//
//	catalogue.sqlite                                  an index; rebuilt from the sidecars when it is gone
//	incoming/                                         the caller's: uploads on their way
//	incoming/.commit/                                 ours: what is about to get its name, and the log
//	episodes/<host>/<yyyy>/<mm>/<dd>/<id>.tar.zst     the pack, with a seek table at its end
//	episodes/<host>/<yyyy>/<mm>/<dd>/<id>.json        the sidecar: receipt, facts, run.json
//	episodes/<host>/<yyyy>/<mm>/<dd>/<id>.damaged.json  only if found damaged: what, when, and the receipt
//
// The date is the UTC day of the episode's start. The rename of the sidecar is
// the commit point: an archive without a sidecar is not stored.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/wire"
)

const (
	catalogueName = "catalogue.sqlite"
	incomingName  = "incoming"
	commitName    = ".commit" // in incoming
	episodesName  = "episodes"
	lockName      = "store.lock"

	dirMode  = 0o750
	fileMode = 0o640
)

// Worker is how a long job says that it still moves; *liveness.Worker is one.
type Worker interface {
	Within(d time.Duration) // the next report comes within d
	Progress()              // a step forward
	Idle()                  // waiting for work: no report is due
	Done()                  // never to be heard of again
}

type noWorker struct{}

func (noWorker) Within(time.Duration) {}
func (noWorker) Progress()            {}
func (noWorker) Idle()                {}
func (noWorker) Done()                {}

// Options of a store. The zero value is usable.
type Options struct {
	Log             *slog.Logger             // nil: slog.Default()
	ReceiverVersion string                   // goes into receipts
	MinFree         int64                    // bytes that Reserve leaves free on the file system
	Worker          func(name string) Worker // nil: nobody watches
	Within          time.Duration            // how long one step of a job may take before the watchdog hears of it; 0: 30 s
	Progress        func(episodes int64)     // called now and then while a lost catalogue is rebuilt
	Found           func(Finding)            // called when something in the store is found damaged, or sound again, or not to belong there
	Now             func() time.Time         // nil: time.Now
}

// Store is an open store. Its methods may be called at the same time.
type Store struct {
	dir string
	opt Options
	log *slog.Logger
	os  system // the system calls that change the disk; tests make them fail

	unlock                     func() error
	root, incoming, commit, ep int // descriptors of dir, incoming, incoming/.commit, episodes

	cat     atomic.Pointer[catalog.Catalog]
	rebuild rebuild
	reindex sync.Mutex // one at a time
	scrubs  scrubs

	holds    holds
	seq      atomic.Uint64 // names in incoming/.commit
	failures atomic.Uint64 // flushes that failed
	slots    slots
	wal      wal
	group    group

	unindexed unindexed
	reserved  atomic.Int64 // bytes promised by Reserve and not used yet

	ctx    context.Context // of the store's own goroutines
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// ErrClosed is what a store that is closed or closing returns.
var ErrClosed = errors.New("the store is closed")

// Open opens the store at dir, or makes an empty one. It finishes or undoes
// what an earlier process left half done, and for that looks only at what was
// being committed, never at what is stored. A catalogue that is missing or
// damaged is moved aside and rebuilt from the sidecars: Open waits for that a
// moment, then it goes on in the background, and until it is through Commit,
// Find and the queries answer receiver-busy.
//
// A store is opened by one process at a time; the error is [durable.ErrLocked] otherwise.
func Open(dir string, opt Options) (*Store, error) {
	s, err := open(dir, opt, systemCalls())
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

func open(dir string, opt Options, os system) (_ *Store, err error) {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if opt.Worker == nil {
		opt.Worker = func(string) Worker { return noWorker{} }
	}
	if opt.Within <= 0 {
		opt.Within = 30 * time.Second
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	s := &Store{dir: dir, opt: opt, log: opt.Log, os: os, root: -1, incoming: -1, commit: -1, ep: -1}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.holds.init()
	s.group.init()
	s.unindexed.init()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	for _, d := range []string{dir, s.path(incomingName, commitName), s.path(episodesName)} {
		if err := durable.MkdirAll(d, dirMode); err != nil {
			return nil, err
		}
	}
	if s.unlock, err = durable.Lock(s.path(lockName)); err != nil {
		return nil, err
	}
	for _, d := range []struct {
		fd   *int
		name string
	}{{&s.root, dir}, {&s.incoming, s.path(incomingName)}, {&s.commit, s.path(incomingName, commitName)}, {&s.ep, s.path(episodesName)}} {
		if *d.fd, err = openDir(unix.AT_FDCWD, d.name); err != nil {
			return nil, &fs.PathError{Op: "open", Path: d.name, Err: err}
		}
	}
	whole, err := s.openCatalogue(s.ctx)
	if err != nil {
		return nil, err
	}
	s.wal.init(s)
	if err := s.recover(s.ctx, whole); err != nil {
		return nil, err
	}
	s.slots.init(s)
	f, indexer := &flusher{s: s, w: opt.Worker("store flush")}, opt.Worker("store catalogue")
	s.wg.Go(f.run)
	s.wg.Go(func() { s.indexLoop(indexer) })
	if !whole {
		s.startRebuild(false)
		select {
		case <-s.rebuild.done():
		case <-time.After(2 * time.Second):
		}
	}
	return s, nil
}

// Close waits for the commits under way and closes the store. What is
// committed after it has begun fails with [ErrClosed].
func (s *Store) Close() error {
	if !s.group.close() {
		return nil
	}
	s.rebuild.mu.Lock() // so that none begins from here on
	s.cancel()
	s.rebuild.mu.Unlock()
	s.scrubs.wait()
	s.wg.Wait()
	s.wal.close()
	if err := errors.Join(s.slots.close(), s.release()); err != nil {
		return fmt.Errorf("close store %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) release() error {
	s.cancel()
	var errs []error
	if c := s.cat.Load(); c != nil {
		errs = append(errs, c.Close())
	}
	for _, fd := range []int{s.root, s.incoming, s.commit, s.ep} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if s.unlock != nil {
		errs = append(errs, s.unlock())
	}
	return errors.Join(errs...)
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// IncomingDir is where uploads on their way belong: on the store's file
// system, so that committing is a rename. Names that begin with a dot are the
// store's.
func (s *Store) IncomingDir() string { return s.path(incomingName) }

// ArchivePath is where the archive of an episode is or would be.
func (s *Store) ArchivePath(f episode.Facts) string {
	return s.path(episodesName, day(f.Host, f.Started), archiveName(f.ID))
}

// day is the directory of an episode below episodes.
func day(host string, started time.Time) string {
	b := append(make([]byte, 0, len(host)+11), host...)
	return string(started.UTC().AppendFormat(b, "/2006/01/02"))
}

func archiveName(id episode.ID) string { return id.String() + ".tar.zst" }
func sidecarName(id episode.ID) string { return id.String() + ".json" }

// Find looks for a stored episode: in the catalogue, and where its start says
// it would be. An id that another host has stored is a conflict. Whether its copy
// is sound, [Store.Lacks] says.
func (s *Store) Find(ctx context.Context, host string, id episode.ID, started time.Time) (wire.Receipt, bool, error) {
	row, found, err := s.find(ctx, host, id, started)
	return row.Receipt, found, err
}

// Lacks says whether an episode was stored and acknowledged, but its copy is
// marked as damaged or not there: then Commit stores it anew.
func (s *Store) Lacks(ctx context.Context, f episode.Facts) (bool, error) {
	row, found, err := s.Lookup(ctx, f.ID)
	if err != nil || !found || row.Facts != f {
		return false, err
	}
	_, what, err := s.lacking(row)
	return what != "", err
}

// lacking says in what the copy of an episode is known, or easily seen, to be
// damaged, and which file; "" if in nothing.
func (s *Store) lacking(row catalog.Row) (path, what string, err error) {
	if row.Damaged != "" {
		return "", row.Damaged, nil
	}
	if _, underway := s.unindexed.lookup(row.Facts.ID); underway {
		return "", "", nil
	}
	for _, name := range []string{sidecarName(row.Facts.ID), archiveName(row.Facts.ID)} {
		switch size, found, err := exists(s.root, s.inStore(row, name)); {
		case err != nil:
			return "", "", coded(err, "look for episode %s", row.Facts.ID)
		case !found:
			return s.inStore(row, name), name + " is missing", nil
		case name == archiveName(row.Facts.ID) && size != row.Receipt.ArchiveSize:
			return s.inStore(row, name), fmt.Sprintf("%s has %d bytes, its receipt says %d", name, size, row.Receipt.ArchiveSize), nil
		}
	}
	return "", "", nil
}

func (s *Store) find(ctx context.Context, host string, id episode.ID, started time.Time) (catalog.Row, bool, error) {
	if !episode.ValidHost(host) {
		return catalog.Row{}, false, code.New(code.Malformed, "%.80q is not the name of a host", host)
	}
	if err := s.ready(); err != nil {
		return catalog.Row{}, false, err
	}
	w := s.opt.Worker("look for episode " + id.String())
	defer w.Done()
	w.Within(s.opt.Within)
	r, found, err := s.catalogued(ctx, host, id)
	if found || err != nil {
		return r, found, err
	}
	w.Idle() // what another commit waits for is that one's to report
	// The catalogue may have lost it. The episode's files say nothing while it
	// is being committed: their names may not be on the disk yet.
	release, err := s.holds.hold(ctx, id)
	if err != nil {
		return catalog.Row{}, false, err
	}
	defer release()
	w.Within(s.opt.Within)
	if row, found := s.unindexed.lookup(id); found {
		return row, true, nil
	}
	return s.findInPlace(ctx, host, id, started)
}

// findInPlace is for who holds an episode that the catalogue didn't list.
func (s *Store) findInPlace(ctx context.Context, host string, id episode.ID, started time.Time) (catalog.Row, bool, error) {
	if d, is := s.holds.suspect(id); is {
		if err := s.undo(d, id); err != nil {
			return catalog.Row{}, false, coded(err, "undo an earlier attempt to store episode %s", id)
		}
		s.holds.clearSuspect(id)
	}
	row, found, err := s.inPlace(host, id, started)
	if !found || err != nil {
		return catalog.Row{}, false, err
	}
	// It may have got there between the caller's look into the catalogue and the hold.
	if r, found, err := s.catalogued(ctx, host, id); found || err != nil {
		return r, found, err
	}
	// Were its names not on the disk, the receipt would not be worth much.
	if err := s.syncDay(day(host, started)); err != nil {
		return catalog.Row{}, false, coded(err, "episode %s", id)
	}
	s.log.Warn("an episode was stored but not in the catalogue; it is now", "episode", id, "host", host)
	if err := s.cat.Load().Insert(ctx, []catalog.Row{row}); err != nil {
		return catalog.Row{}, false, s.catalogueFailed(err)
	}
	return row, true, nil
}

// undo removes the files of an episode that nobody was told of.
func (s *Store) undo(d string, id episode.ID) error {
	for _, name := range []string{sidecarName(id), archiveName(id)} {
		if err := s.os.unlink(s.ep, d+"/"+name); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "remove", Path: name, Err: err}
		}
	}
	return s.syncDay(d)
}

func (s *Store) catalogued(ctx context.Context, host string, id episode.ID) (catalog.Row, bool, error) {
	row, found := s.unindexed.lookup(id)
	var err error
	if !found {
		row, found, err = s.cat.Load().Lookup(ctx, id)
	}
	switch {
	case err != nil:
		return catalog.Row{}, false, s.catalogueFailed(err)
	case found && row.Facts.Host != host: // whose it is, is none of this host's business
		return catalog.Row{}, false, code.New(code.Conflict, "another host has stored an episode %s", id)
	}
	return row, found, nil
}

// Lookup finds the catalogue's row of an episode.
func (s *Store) Lookup(ctx context.Context, id episode.ID) (catalog.Row, bool, error) {
	if err := s.ready(); err != nil {
		return catalog.Row{}, false, err
	}
	if r, found := s.unindexed.lookup(id); found {
		return r, true, nil
	}
	r, found, err := s.cat.Load().Lookup(ctx, id)
	if err != nil {
		return r, found, s.catalogueFailed(err)
	}
	return r, found, nil
}

// LookupAll finds the catalogue's rows of those of ids that are episodes of host.
func (s *Store) LookupAll(ctx context.Context, host string, ids []episode.ID) (map[episode.ID]catalog.Row, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	found := make(map[episode.ID]catalog.Row, len(ids))
	// First what is on its way into the catalogue: it may get there meanwhile.
	for _, id := range ids {
		if r, ok := s.unindexed.lookup(id); ok && r.Facts.Host == host {
			found[id] = r
		}
	}
	rows, err := s.cat.Load().LookupAll(ctx, host, ids)
	if err != nil {
		return nil, s.catalogueFailed(err)
	}
	for _, r := range rows {
		if _, newer := found[r.Facts.ID]; !newer {
			found[r.Facts.ID] = r
		}
	}
	return found, nil
}

// List yields the catalogue's rows that f selects, the one that started last first.
func (s *Store) List(ctx context.Context, f catalog.Filter) iter.Seq2[catalog.Row, error] {
	return func(yield func(catalog.Row, error) bool) {
		if err := s.ready(); err != nil {
			yield(catalog.Row{}, err)
			return
		}
		if err := s.catchUp(ctx); err != nil {
			yield(catalog.Row{}, err)
			return
		}
		for r, err := range s.cat.Load().List(ctx, f) {
			if err != nil {
				err = s.catalogueFailed(err)
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// Hosts sums up what each host has stored.
func (s *Store) Hosts(ctx context.Context) ([]catalog.Host, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	h, err := s.cat.Load().Hosts(ctx)
	if err != nil {
		return nil, s.catalogueFailed(err)
	}
	return h, nil
}

// Damaged says which episodes of a host are damaged. It says none while a lost
// catalogue is being rebuilt: a host can do nothing about them then.
func (s *Store) Damaged(ctx context.Context, host string) (wire.Damaged, error) {
	if _, running := s.Rebuilding(); running {
		return wire.Damaged{}, nil
	}
	n, rows, err := s.cat.Load().Damaged(ctx, host, wire.MaxDamaged)
	if err != nil {
		return wire.Damaged{}, s.catalogueFailed(err)
	}
	d := wire.Damaged{Count: n}
	for _, r := range rows {
		d.Episodes = append(d.Episodes, r.Facts.ID)
	}
	return d, nil
}

// Health is how many episodes are damaged, and the time since when every episode
// was read and found right at least once.
func (s *Store) Health(ctx context.Context) (damaged int64, oldest time.Time, err error) {
	if err := s.ready(); err != nil {
		return 0, oldest, err
	}
	if damaged, _, err = s.cat.Load().Damaged(ctx, "", 0); err != nil {
		return 0, oldest, s.catalogueFailed(err)
	}
	if oldest, _, err = s.cat.Load().OldestCheck(ctx); err != nil {
		return 0, oldest, s.catalogueFailed(err)
	}
	return damaged, oldest, nil
}

// coded gives an I/O error the code that the other side is to see.
func coded(err error, format string, a ...any) error {
	var e *code.Error
	if errors.As(err, &e) {
		return err
	}
	c := code.ReceiverError
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || catalog.IsFull(err) {
		c = code.ReceiverFull
	}
	return code.Wrap(c, err, format, a...)
}

// catalogueFailed is coded for errors of the catalogue. A damaged catalogue is
// replaced in the background.
func (s *Store) catalogueFailed(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if catalog.IsCorrupt(err) {
		s.log.Error("the catalogue is damaged", "error", err)
		s.startRebuild(true)
		return code.Wrap(code.ReceiverBusy, err, "the catalogue is damaged and is being rebuilt")
	}
	return coded(err, "catalogue")
}

// holds lets one goroutine at a time deal with an episode.
type holds struct {
	mu       sync.Mutex
	held     map[episode.ID]chan struct{} // closed on release
	suspects map[episode.ID]string
}

func (h *holds) init() {
	h.held, h.suspects = map[episode.ID]chan struct{}{}, map[episode.ID]string{}
}

func (h *holds) hold(ctx context.Context, id episode.ID) (release func(), err error) {
	for {
		h.mu.Lock()
		busy, held := h.held[id]
		if !held {
			mine := make(chan struct{})
			h.held[id] = mine
			h.mu.Unlock()
			return func() {
				h.mu.Lock()
				delete(h.held, id)
				h.mu.Unlock()
				close(mine)
			}, nil
		}
		h.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the other commit of episode %s: %w", id, ctx.Err())
		}
	}
}

// suspect says whether the files of an episode may be in place, in a day's
// directory, although it is not stored: the flush of their names failed, and
// removing them did too.
func (h *holds) suspect(id episode.ID) (day string, is bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	day, is = h.suspects[id]
	return day, is
}

func (h *holds) setSuspect(id episode.ID, day string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.suspects[id] = day
}

func (h *holds) clearSuspect(id episode.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.suspects, id)
}
