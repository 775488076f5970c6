package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
)

// openCatalogue opens the catalogue, or an empty one in its place. whole is
// false when it doesn't list what the store holds.
func (s *Store) openCatalogue(ctx context.Context) (whole bool, err error) {
	path := s.path(catalogueName)
	there, err := catalog.Exists(path)
	if err != nil {
		return false, err
	}
	empty, err := s.empty()
	if err != nil {
		return false, err
	}
	c, err := catalog.Open(path)
	if catalog.IsCorrupt(err) {
		s.log.Error("the catalogue is damaged; it is moved aside and rebuilt from the store", "error", err)
		c, err = s.replaceCatalogue()
		if err != nil {
			return false, err
		}
	} else if err != nil {
		return false, err
	}
	s.cat.Store(c)
	if whole, err = c.Complete(ctx); err != nil {
		return false, err
	}
	if whole {
		return true, nil
	}
	if empty {
		return true, c.SetComplete(ctx, true)
	}
	if !there {
		s.log.Warn("the catalogue is missing; it is rebuilt from the store")
	}
	return false, nil
}

// empty says whether no host has stored anything.
func (s *Store) empty() (bool, error) {
	d, err := os.Open(s.path(episodesName))
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// replaceCatalogue moves the catalogue's files aside and opens an empty one,
// which is not Complete.
func (s *Store) replaceCatalogue() (*catalog.Catalog, error) {
	path := s.path(catalogueName)
	suffix := ".damaged-" + s.opt.Now().UTC().Format("20060102T150405.000000Z")
	for _, name := range catalog.Files(path) {
		if err := os.Rename(name, name+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("move the damaged catalogue aside: %w", err)
		}
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return nil, err
	}
	return catalog.Open(path)
}

// rebuild is the state of the rebuilding of a lost catalogue.
type rebuild struct {
	mu       sync.Mutex
	running  chan struct{} // nil: the catalogue is whole; closed by then
	episodes int64
	err      error // why the last attempt failed
}

func (r *rebuild) done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return r.running
}

// ready says why the catalogue can't be asked, if it can't.
func (s *Store) ready() error {
	r := &s.rebuild
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.running == nil:
		return nil
	case r.err != nil:
		return coded(r.err, "the catalogue can't be rebuilt for now")
	}
	return &code.Error{Code: code.ReceiverBusy, Detail: fmt.Sprintf("the catalogue is being rebuilt: %d episodes so far", r.episodes), RetryAfter: 10 * time.Second}
}

// Rebuilding says whether a lost catalogue is being rebuilt, and how many
// episodes are in it already.
func (s *Store) Rebuilding() (episodes int64, running bool) {
	s.rebuild.mu.Lock()
	defer s.rebuild.mu.Unlock()
	return s.rebuild.episodes, s.rebuild.running != nil
}

// startRebuild begins to fill the catalogue from the store, an empty one if
// this one is damaged, unless that is under way. The store answers
// receiver-busy until it is through.
func (s *Store) startRebuild(damaged bool) {
	r := &s.rebuild
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running != nil || s.ctx.Err() != nil {
		return
	}
	running := make(chan struct{})
	r.running, r.episodes, r.err = running, 0, nil
	s.wg.Go(func() {
		w := s.opt.Worker("store rebuild")
		defer w.Done()
		for s.ctx.Err() == nil {
			err := s.rebuildCatalogue(w, damaged)
			damaged = catalog.IsCorrupt(err)
			r.mu.Lock()
			r.err = err
			if err == nil {
				r.running = nil
				close(running)
				r.mu.Unlock()
				return
			}
			r.mu.Unlock()
			if s.ctx.Err() != nil {
				return
			}
			s.log.Error("the catalogue can't be rebuilt; the next attempt is in a minute", "error", err)
			w.Idle()
			select {
			case <-s.ctx.Done():
			case <-time.After(time.Minute):
			}
		}
	})
}

func (s *Store) rebuildCatalogue(w Worker, damaged bool) (err error) {
	w.Within(s.opt.Within)
	begin := time.Now()
	c := s.cat.Load()
	if damaged {
		if err := c.Close(); err != nil {
			s.log.Warn("close the damaged catalogue", "error", err)
		}
		if c, err = s.replaceCatalogue(); err != nil {
			return err
		}
		s.cat.Store(c)
	}
	if err := c.SetComplete(s.ctx, false); err != nil {
		return err
	}
	s.reindex.Lock()
	defer s.reindex.Unlock()
	rep, err := s.walk(s.ctx, w, func(n int64) {
		s.rebuild.mu.Lock()
		s.rebuild.episodes = n
		s.rebuild.mu.Unlock()
		if s.opt.Progress != nil {
			s.opt.Progress(n)
		}
	})
	if err == nil {
		err = s.sweep(s.ctx, w, &rep)
	}
	if err == nil {
		err = c.SetComplete(s.ctx, true)
	}
	if err != nil {
		return fmt.Errorf("rebuild the catalogue: %w", err)
	}
	if err := s.drain(); err != nil {
		return err
	}
	s.log.Info("the catalogue is rebuilt from the store", "episodes", rep.Episodes, "damaged", rep.Damaged, "duration", time.Since(begin).Round(time.Millisecond))
	return nil
}

// ReindexReport says what Reindex found.
type ReindexReport struct {
	Episodes int64    `json:"episodes"` // in the catalogue now
	Added    int64    `json:"added"`    // were not in the catalogue
	Changed  int64    `json:"changed"`  // were in it with other facts
	Missing  int64    `json:"missing"`  // were in it, but are not in the store: taken out
	Damaged  int64    `json:"damaged"`  // are not whole; those that are marked as such stay in the catalogue
	Faults   []string `json:"faults"`   // the missing and the damaged in words, at most 1,000
}

func (r *ReindexReport) fault(format string, a ...any) {
	if len(r.Faults) < 1000 {
		r.Faults = append(r.Faults, fmt.Sprintf(format, a...))
	}
}

// Reindex makes the catalogue list exactly what the store holds, by reading
// every sidecar; commits go on meanwhile. progress is called now and then with
// the number of episodes seen. One Reindex runs at a time, another gets
// receiver-busy.
func (s *Store) Reindex(ctx context.Context, progress func(episodes int64)) (ReindexReport, error) {
	if err := s.ready(); err != nil {
		return ReindexReport{}, err
	}
	if !s.reindex.TryLock() {
		return ReindexReport{}, code.New(code.ReceiverBusy, "a reindex is under way already")
	}
	defer s.reindex.Unlock()
	if err := s.catchUp(ctx); err != nil {
		return ReindexReport{}, err
	}
	w := s.opt.Worker("store reindex")
	defer w.Done()
	w.Within(s.opt.Within)
	rep, err := s.walk(ctx, w, progress)
	if err == nil {
		err = s.sweep(ctx, w, &rep)
	}
	if err != nil {
		return rep, fmt.Errorf("reindex: %w", err)
	}
	return rep, nil
}

const reindexBatch = 256 // rows to a transaction

// walk enters every sidecar of the store into the catalogue.
func (s *Store) walk(ctx context.Context, w Worker, progress func(int64)) (rep ReindexReport, err error) {
	rep.Faults = []string{}
	b := walker{s: s, ctx: ctx, w: w, rep: &rep, progress: progress}
	defer b.release()
	hosts, err := b.names("")
	if err != nil {
		return rep, err
	}
	for _, host := range hosts {
		if !episode.ValidHost(host) {
			rep.fault("episodes/%s is not the directory of a host", host)
			continue
		}
		if err := b.host(host); err != nil {
			return rep, err
		}
	}
	return rep, b.flush()
}

type walker struct {
	s        *Store
	ctx      context.Context
	w        Worker
	rep      *ReindexReport
	progress func(int64)
	rows     []catalog.Row
	held     []func()
}

// open opens a directory below episodes; nil if it is no directory: a stray file
// must not keep the catalogue from being rebuilt.
func (b *walker) open(path string) (*os.File, error) {
	d, err := os.OpenFile(b.s.path(episodesName, path), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		b.rep.fault("episodes/%s is not a directory", path)
		return nil, nil
	}
	return d, err
}

// names lists a directory below episodes, in order.
func (b *walker) names(path string) ([]string, error) {
	d, err := b.open(path)
	if d == nil || err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list episodes/%s: %w", path, err)
	}
	slices.Sort(names)
	b.w.Progress()
	return names, nil
}

func (b *walker) host(host string) error {
	years, err := b.names(host)
	if err != nil {
		return err
	}
	for _, y := range years {
		months, err := b.names(host + "/" + y)
		if err != nil {
			return err
		}
		for _, m := range months {
			days, err := b.names(host + "/" + y + "/" + m)
			if err != nil {
				return err
			}
			for _, d := range days {
				if err := b.day(host, host+"/"+y+"/"+m+"/"+d); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// day reads one day's sidecars, in portions: there may be very many.
func (b *walker) day(host, path string) error {
	d, err := b.open(path)
	if d == nil || err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list episodes/%s: %w", path, err)
		}
		for _, name := range names {
			bare, marked := strings.CutSuffix(name, markSuffix)
			if !marked {
				var sidecar bool
				if bare, sidecar = strings.CutSuffix(name, ".json"); !sidecar {
					continue
				}
			}
			id, err := episode.ParseID(bare)
			if err != nil {
				b.rep.fault("episodes/%s/%s is not named by an episode's id", path, name)
				continue
			}
			if marked {
				if _, sidecar, err := exists(int(d.Fd()), sidecarName(id)); err == nil && sidecar {
					continue // its turn comes with that
				}
			}
			if err := b.sidecar(int(d.Fd()), host, path, id); err != nil {
				return err
			}
		}
	}
}

// sidecar takes one episode into the batch. The episode is held until the
// batch is written: while it is being committed its files prove nothing, and
// they may yet be taken away again.
func (b *walker) sidecar(dir int, host, path string, id episode.ID) error {
	release, err := b.s.holds.hold(b.ctx, id)
	if err != nil {
		return err
	}
	b.held = append(b.held, release)
	row, err := readStored(dir, host, id)
	if err == nil && day(host, row.Facts.Started) != path {
		err = fmt.Errorf("%w: it started %s", errDamaged, row.Facts.Started.Format(time.RFC3339))
	}
	if _, is := b.s.holds.suspect(id); err == nil && is {
		err = fmt.Errorf("%w: an attempt to store it could neither be finished nor undone", errDamaged)
	}
	_, underway := b.s.unindexed.lookup(id)
	switch {
	case err == nil && underway:
		b.rep.Episodes++
	case err == nil:
		b.rep.Episodes++
		b.rows = append(b.rows, row)
		if row.Damaged != "" {
			b.rep.Damaged++
			b.rep.fault("episode %s of host %s was found damaged at %s", id, host, row.Damaged)
		}
	case errors.Is(err, fs.ErrNotExist): // undone meanwhile
	default:
		// A file that can't be read is one fault among others, not the end of the walk.
		b.rep.Damaged++
		b.rep.fault("episode %s of host %s: %v", id, host, err)
		b.s.log.Error("an episode in the store is damaged", "episode", id, "host", host, "error", err)
	}
	if len(b.held) >= reindexBatch {
		return b.flush()
	}
	return nil
}

func (b *walker) flush() error {
	defer b.release()
	added, changed, err := b.s.cat.Load().Replace(b.ctx, b.rows)
	if err != nil {
		return err
	}
	b.rep.Added += int64(added)
	b.rep.Changed += int64(changed)
	b.rows = b.rows[:0]
	b.w.Progress()
	if b.progress != nil {
		b.progress(b.rep.Episodes)
	}
	return nil
}

func (b *walker) release() {
	for _, r := range b.held {
		r()
	}
	b.held = b.held[:0]
}

// sweep takes out of the catalogue what the store doesn't hold.
func (s *Store) sweep(ctx context.Context, w Worker, rep *ReindexReport) error {
	n := 0
	for row, err := range s.cat.Load().Each(ctx) {
		if err != nil {
			return err
		}
		if n++; n%1000 == 0 {
			w.Progress()
		}
		gone, err := s.gone(row)
		if err != nil {
			return err
		}
		if !gone {
			continue
		}
		if err := s.strike(ctx, row, rep); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) gone(row catalog.Row) (bool, error) {
	for _, name := range []string{sidecarName(row.Facts.ID), markName(row.Facts.ID)} {
		if _, found, err := exists(s.ep, day(row.Facts.Host, row.Facts.Started)+"/"+name); found || err != nil {
			return false, err
		}
	}
	return true, nil
}

// strike takes one row out, unless its episode turns out to be there after all.
func (s *Store) strike(ctx context.Context, row catalog.Row, rep *ReindexReport) error {
	id := row.Facts.ID
	release, err := s.holds.hold(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	row, found, err := s.cat.Load().Lookup(ctx, id)
	if err != nil || !found {
		return err
	}
	if gone, err := s.gone(row); err != nil || !gone {
		return err
	}
	rep.Missing++
	rep.fault("episode %s of host %s was acknowledged at %s and is not in the store", id, row.Facts.Host, row.Receipt.StoredAt.Format(time.RFC3339))
	s.log.Error("an acknowledged episode is not in the store; it is taken out of the catalogue", "episode", id, "host", row.Facts.Host, "stored_at", row.Receipt.StoredAt)
	return s.cat.Load().Remove(ctx, id)
}
