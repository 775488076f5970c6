package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
)

// The catalogue is written behind the answers: the intents, which are on the
// disk before an episode gets its name and stay until it is in the catalogue,
// make sure that the next start knows what is missing. So nobody waits for a
// third flush, and while groups follow each other, one transaction, and one
// flush of its own, takes many of them. Until then the rows are looked up here.

// batch is a group whose files are in place.
type batch struct {
	entries []*entry
	slot    *slot
	logged  uint64       // number of the record behind those of the entries; 0: none is in the log
	mark    chan<- error // closed, or told of an error, when all before it is indexed
}

// unindexed is what is stored and on its way into the catalogue.
type unindexed struct {
	mu   sync.RWMutex
	rows map[episode.ID]catalog.Row

	closing sync.RWMutex // held for reading to send
	closed  bool
	queue   chan batch

	// behind: the catalogue failed; nothing new is stored before it has caught up.
	behind atomic.Bool
	write  sync.Mutex
	late   []catalog.Row // what it failed for
	logged uint64        // as of a batch, of those it failed for
}

func (u *unindexed) init() {
	u.rows, u.queue = map[episode.ID]catalog.Row{}, make(chan batch, 64)
}

// hand gives a group over to the indexer.
func (u *unindexed) hand(b batch) {
	if len(b.entries) == 0 && b.logged == 0 {
		return
	}
	// The callers go on as soon as they are told; what belongs to the indexer is taken from them before.
	rows := make([]*entry, len(b.entries))
	u.mu.Lock()
	for i, e := range b.entries {
		u.rows[e.Facts.ID] = e.row
		rows[i] = &entry{row: e.row, slot: e.slot}
		e.slot = nil
	}
	u.mu.Unlock()
	u.queue <- batch{entries: rows, slot: b.slot, logged: b.logged}
}

// setLate is for what an earlier process has stored and not indexed.
func (u *unindexed) setLate(rows []catalog.Row) {
	u.late = rows
	for _, r := range rows {
		u.rows[r.Facts.ID] = r
	}
	u.behind.Store(true)
}

func (u *unindexed) lookup(id episode.ID) (catalog.Row, bool) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	r, found := u.rows[id]
	return r, found
}

// close is called by the flusher when it ends.
func (u *unindexed) close() {
	u.closing.Lock()
	defer u.closing.Unlock()
	u.closed = true
	close(u.queue)
}

// catchUp returns when the catalogue lists all that was acknowledged before the call.
func (s *Store) catchUp(ctx context.Context) error {
	u := &s.unindexed
	u.mu.RLock()
	none := len(u.rows) == 0
	u.mu.RUnlock()
	if none {
		return nil
	}
	mark := make(chan error, 1)
	u.closing.RLock()
	if u.closed {
		u.closing.RUnlock()
		return code.Wrap(code.ReceiverBusy, ErrClosed, "catalogue")
	}
	u.queue <- batch{mark: mark}
	u.closing.RUnlock()
	select {
	case err := <-mark:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the catalogue to catch up: %w", ctx.Err())
	}
}

// nudge lets the indexer see that the flusher has nothing more for now.
func (u *unindexed) nudge() { u.queue <- batch{} }

// indexLoop enters what is on the disk into the catalogue: when enough has come
// together, when no more is on its way, or when somebody waits for it.
func (s *Store) indexLoop(w Worker) {
	defer w.Done()
	u := &s.unindexed
	for open := true; open; {
		w.Idle()
		var batches []batch
		for n, due := 0, false; !due; {
			var b batch
			if b, open = <-u.queue; !open {
				break
			}
			if len(b.entries) > 0 || b.logged > 0 || b.mark != nil {
				batches, n = append(batches, b), n+len(b.entries)
			}
			due = n >= maxGroup || b.mark != nil || len(u.queue) == 0 && !s.group.busy.Load()
		}
		if len(batches) == 0 {
			continue
		}
		w.Within(s.opt.Within)
		n := 0
		for _, b := range batches {
			n += len(b.entries)
		}
		rows := make([]catalog.Row, 0, n)
		for _, b := range batches {
			for _, e := range b.entries {
				rows = append(rows, e.row)
			}
		}
		logged := uint64(0)
		for _, b := range batches {
			logged = max(logged, b.logged)
		}
		err := s.index(rows, logged)
		w.Progress()
		for _, b := range batches {
			for _, e := range b.entries {
				s.slots.settle(e.slot, err == nil)
			}
			s.slots.settle(b.slot, err == nil)
			if b.mark != nil {
				b.mark <- err
			}
		}
	}
}

// index enters rows into the catalogue, and those that it failed for before.
func (s *Store) index(rows []catalog.Row, logged uint64) error {
	u := &s.unindexed
	u.write.Lock()
	defer u.write.Unlock()
	rows, u.logged = append(u.late, rows...), max(u.logged, logged)
	if err := s.cat.Load().Insert(context.Background(), rows); err != nil {
		s.log.Error("stored episodes could not be entered into the catalogue yet; nothing more is stored before they are", "episodes", len(rows), "error", err)
		u.late = rows
		u.behind.Store(true)
		return s.catalogueFailed(err)
	}
	u.mu.Lock()
	for i := range rows {
		delete(u.rows, rows[i].Facts.ID)
	}
	u.mu.Unlock()
	u.late = nil
	s.wal.indexed.Store(max(s.wal.indexed.Load(), u.logged))
	if u.behind.Swap(false) {
		s.slots.release()
	}
	return nil
}

// drain tries again what the catalogue failed for.
func (s *Store) drain() error {
	if !s.unindexed.behind.Load() {
		return nil
	}
	return s.index(nil, 0)
}
