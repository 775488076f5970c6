package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/wire"
)

// Item is one verified episode to be stored.
type Item struct {
	Facts    episode.Facts
	WindowID string // of the window that admitted it
	Run      []byte // run.json

	// The archive: either whole in memory, or a file named relative to
	// IncomingDir. Commit appends the seek table to the file and, when it
	// stores the episode, takes the file away. In every other case the file is
	// as before and still the caller's, unless its flush failed: then it is
	// removed, since nobody can know any more what is in it.
	Archive     []byte
	ArchiveFile string
	// ArchiveFD may be the descriptor through which ArchiveFile was written:
	// only one that was open all the time is sure to report every write that
	// failed in the background (fsync(2)). Commit doesn't close it.
	ArchiveFD *os.File

	Frames []pack.FrameInfo // the archive's zstd frames; nil, or one of unknown content size: no seek table
}

// Commit stores an episode: when it returns code.Stored, it is on the disk and
// in the catalogue; code.AlreadyStored comes with the receipt of the first
// time. What is stored already but damaged is marked as such, if it is not, until
// the new copy is on the disk in its place. Callers that come while others are being flushed share the next flush.
// A small episode is on the disk in the log first, and in files of its own soon after.
//
// Errors: code.Conflict when another episode is stored under that id (it is
// left untouched), code.ReceiverFull when there is no room, code.ReceiverBusy
// while the catalogue is being rebuilt, code.ReceiverError for any other
// failure, ErrClosed, and the context's error while waiting for another commit
// of the same episode; from then on ctx is not looked at.
func (s *Store) Commit(ctx context.Context, it Item) (wire.Receipt, code.Code, error) {
	run, err := check(&it)
	if err != nil {
		return wire.Receipt{}, "", err
	}
	f := it.Facts
	if err := s.ready(); err != nil {
		return wire.Receipt{}, "", err
	}
	if err := s.drain(); err != nil {
		return wire.Receipt{}, "", err
	}
	release, err := s.holds.hold(ctx, f.ID)
	if err != nil {
		return wire.Receipt{}, "", err
	}
	defer release()
	w := s.opt.Worker("store episode " + f.ID.String())
	defer w.Done()
	w.Within(s.opt.Within)
	old, found, err := s.catalogued(ctx, f.Host, f.ID)
	if err == nil && !found {
		old, found, err = s.findInPlace(ctx, f.Host, f.ID, f.Started)
	}
	if err == nil && found {
		if old.Facts.Digest != f.Digest {
			return wire.Receipt{}, "", code.New(code.Conflict, "episode %s is stored already with another content: bag digest %s, not %s", f.ID, old.Facts.Digest, f.Digest)
		}
		var what string
		var path string
		if path, what, err = s.lacking(old); err == nil && what == "" {
			return old.Receipt, code.AlreadyStored, nil
		}
		if err == nil {
			old, err = s.mark(old, path, what)
		}
	}
	if err != nil {
		return wire.Receipt{}, "", err
	}

	e := &entry{Item: it, replaces: found, done: make(chan struct{}), failures: s.failures.Load(), archive: -1, sidecar: -1}
	e.row = catalog.Row{Facts: f, Outcome: run.Outcome, Workload: run.Workload, Receipt: wire.Receipt{
		Episode: f.ID, Host: f.Host, BagDigest: f.Digest, StoredAt: s.opt.Now().UTC().Truncate(time.Microsecond),
		ReceiverVersion: s.opt.ReceiverVersion, WindowID: it.WindowID,
	}}
	if found {
		e.row.Receipt.WindowID = old.Receipt.WindowID // that window let it in
	}
	if err := s.prepare(e, w); err != nil {
		s.discard(e)
		return wire.Receipt{}, "", coded(err, "store episode %s", f.ID)
	}
	w.Idle() // from here on it is the flusher's to report
	if !s.group.join(e) {
		s.discard(e)
		return wire.Receipt{}, "", code.Wrap(code.ReceiverBusy, ErrClosed, "store episode %s", f.ID)
	}
	<-e.done
	if e.err != nil {
		return wire.Receipt{}, "", coded(e.err, "store episode %s", f.ID)
	}
	return e.row.Receipt, code.Stored, nil
}

func check(it *Item) (run runFacts, err error) {
	err = json.Unmarshal(it.Run, &run)
	switch {
	case !episode.ValidHost(it.Facts.Host):
		return run, code.New(code.Malformed, "%.80q is not the name of a host", it.Facts.Host)
	case it.Facts.ID.IsZero():
		return run, code.New(code.Malformed, "the episode has no id")
	case err != nil:
		return run, code.Wrap(code.Malformed, err, "run.json of episode %s", it.Facts.ID)
	case it.Facts.Started.Year() < 1 || it.Facts.Started.Year() > 9999:
		return run, code.New(code.Malformed, "episode %s started in the year %d", it.Facts.ID, it.Facts.Started.Year())
	case (it.Archive == nil) == (it.ArchiveFile == ""):
		return run, code.New(code.ReceiverError, "episode %s is to be stored with both or neither of an archive in memory and one in a file", it.Facts.ID)
	case it.ArchiveFile != "" && (strings.HasPrefix(it.ArchiveFile, ".") || !filepath.IsLocal(it.ArchiveFile)):
		return run, code.New(code.ReceiverError, "episode %s: %.80q is not a file of the incoming directory", it.Facts.ID, it.ArchiveFile)
	}
	it.Facts.Started, it.Facts.Ended = episode.Seconds(it.Facts.Started), episode.Seconds(it.Facts.Ended)
	return run, nil
}

// entry is an Item on its way through a group.
type entry struct {
	Item
	row      catalog.Row
	replaces bool   // what is left of a damaged copy, which stays marked until this one has its place
	failures uint64 // flushes that had failed when the first of its files was begun

	name             string   // in incoming/.commit, without extension
	archive, sidecar int      // descriptors of the files to be flushed; -1: none, or not any more
	size             int64    // of ArchiveFile as it came
	slot             *slot    // its own intent, for ArchiveFile
	record           [][]byte // for the log; nil: it is not to go there
	dir              *dayDir

	err  error
	done chan struct{}
}

// prepare writes the entry's files under temporary names, as far as many
// callers can do it at once; they are flushed later, with those of others.
func (s *Store) prepare(e *entry, w Worker) error {
	table, err := seekTable(e.Frames)
	if err != nil {
		return err
	}
	e.name = strconv.FormatUint(s.seq.Add(1), 36)
	if e.ArchiveFile == "" {
		e.row.Receipt.ArchiveSize = int64(len(e.Archive) + len(table))
		if e.archive, err = create(s.commit, e.name+".a"); err != nil {
			return err
		}
		if err := s.writeAll(e.archive, e.Archive, 0); err != nil {
			return fmt.Errorf("write the archive: %w", err)
		}
		if err := s.writeAll(e.archive, table, int64(len(e.Archive))); err != nil {
			return fmt.Errorf("write the archive: %w", err)
		}
	} else if err := s.prepareFile(e, table, w); err != nil {
		return err
	}
	sidecar, err := encodeSidecar(e, len(table) > 0)
	if err != nil {
		return err
	}
	if e.sidecar, err = create(s.commit, e.name+".j"); err != nil {
		return err
	}
	if err := s.writeAll(e.sidecar, sidecar, 0); err != nil {
		return fmt.Errorf("write the sidecar: %w", err)
	}
	if e.Archive != nil && !e.replaces && len(e.Archive)+len(table)+len(sidecar) <= walSegment-walHeader-maxRecordMeta {
		e.record, err = encodeRecord(e.intent(), sidecar, e.Archive, table)
	}
	return err
}

// prepareFile finishes and flushes an archive that is a file already. It may
// be gigabytes: nobody else is to wait for them. Before the file is touched an
// intent of its own says how long it was, so that an upload that a crash
// interrupts here is whole again afterwards, without the seek table.
func (s *Store) prepareFile(e *entry, table []byte, w Worker) error {
	fd := -1
	err := eintr(func() (err error) {
		fd, err = unix.Openat(s.incoming, e.ArchiveFile, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return &fs.PathError{Op: "open", Path: e.ArchiveFile, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := eintr(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return &fs.PathError{Op: "stat", Path: e.ArchiveFile, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return &fs.PathError{Op: "open", Path: e.ArchiveFile, Err: errors.New("not a regular file")}
	}
	e.size = st.Size
	e.row.Receipt.ArchiveSize = e.size + int64(len(table))
	if e.slot, err = s.slots.get(); err != nil {
		return err
	}
	if err := e.slot.write(s, e); err != nil {
		return err
	}
	if err := eintr(func() error { return s.os.fsync(e.slot.fd) }); err != nil {
		e.slot.broken = true
		return fmt.Errorf("flush an intent: %w", err)
	}
	w.Progress()
	if err := s.writeAll(fd, table, e.size); err != nil {
		return fmt.Errorf("append the seek table: %w", err)
	}
	if err := eintr(func() error { return unix.Fchmod(fd, fileMode) }); err != nil {
		return &fs.PathError{Op: "chmod", Path: e.ArchiveFile, Err: err}
	}
	err = s.flushLarge(fd, e.row.Receipt.ArchiveSize, w)
	if err == nil && e.ArchiveFD != nil {
		err = eintr(func() error { return s.os.fsync(int(e.ArchiveFD.Fd())) })
	}
	if err != nil {
		err = fmt.Errorf("flush the archive: %w", err)
		e.spoilt()
		if e := s.os.unlink(s.incoming, e.ArchiveFile); e != nil {
			err = errors.Join(err, fmt.Errorf("remove it: %w", e))
		}
	}
	return err
}

// flushLarge is fsync with signs of life: the kernel is asked for a portion at a time.
func (s *Store) flushLarge(fd int, size int64, w Worker) error {
	const part = 32 << 20
	for at := int64(0); size > part && at < size; at += part {
		err := eintr(func() error {
			return unix.SyncFileRange(fd, at, min(part, size-at), unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
		})
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
			break // not on this file system: fsync does it all
		}
		if err != nil {
			return err
		}
		w.Progress()
	}
	return eintr(func() error { return s.os.fsync(fd) })
}

// seekTable is the table to be appended to an archive of these frames; empty
// when they can't have one.
func seekTable(frames []pack.FrameInfo) ([]byte, error) {
	if len(frames) == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	if err := pack.AppendSeekTable(&b, frames); errors.Is(err, pack.ErrNoSeekTable) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("make the seek table: %w", err)
	}
	return b.Bytes(), nil
}

// discard undoes prepare.
func (s *Store) discard(e *entry) {
	e.close()
	if e.name != "" {
		for _, ext := range []string{".j", ".a"} {
			if err := s.os.unlink(s.commit, e.name+ext); err != nil && !errors.Is(err, unix.ENOENT) {
				s.log.Warn("a temporary file can't be removed; the next start does it", "episode", e.Facts.ID, "error", err)
			}
		}
	}
	if e.slot == nil {
		return
	}
	if e.ArchiveFile != "" && e.size >= 0 {
		if err := s.truncate(e.ArchiveFile, e.size); err != nil && !errors.Is(err, unix.ENOENT) {
			s.log.Warn("an upload can't be cut back to what came", "episode", e.Facts.ID, "error", err)
		}
	}
	s.slots.put(e.slot.clear(s))
	e.slot = nil
}

// truncate takes the seek table off an upload again.
func (s *Store) truncate(name string, size int64) error {
	fd, err := -1, error(nil)
	err = eintr(func() error {
		fd, err = unix.Openat(s.incoming, name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size <= size {
		return err
	}
	return eintr(func() error { return unix.Ftruncate(fd, size) })
}

// spoilt says that the archive file can't be given back.
func (e *entry) spoilt() { e.size = -1 }

func (e *entry) close() {
	for _, fd := range []*int{&e.archive, &e.sidecar} {
		if *fd >= 0 {
			_ = unix.Close(*fd) // what it could report, fsync has
			*fd = -1
		}
	}
}

// finish answers the caller.
func (e *entry) finish(err error) {
	e.err = err
	close(e.done)
}

// group is where entries wait for the next flush.
type group struct {
	mu     sync.Mutex
	queue  []*entry
	closed bool
	wake   chan struct{} // holds a token when the flusher should look

	busy atomic.Bool // the flusher may hand something over before it nudges
}

// maxGroup bounds how long one flush and one transaction can get.
const maxGroup = 256

func (g *group) init() { g.wake = make(chan struct{}, 1) }

func (g *group) join(e *entry) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.queue = append(g.queue, e)
	g.signal()
	return true
}

func (g *group) signal() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *group) close() (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	first = !g.closed
	g.closed = true
	g.signal()
	return first
}

func (g *group) take() (entries []*entry, closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.queue), maxGroup)
	entries = append(entries, g.queue[:n]...)
	g.queue = append(g.queue[:0], g.queue[n:]...)
	clear(g.queue[len(g.queue):cap(g.queue)])
	if len(g.queue) > 0 {
		g.signal()
	}
	return entries, g.closed
}

// flusher gives files their names. There is one: two of them make smaller
// groups, whose flushes only wait for each other in the file system.
type flusher struct {
	s    *Store
	w    Worker
	days days
	sync syncer
	owed owed
}

// run makes groups: whoever has come while one is being flushed is the next.
func (f *flusher) run() {
	s := f.s
	defer f.w.Done()
	defer f.days.forget()
	defer s.unindexed.close()
	for {
		f.w.Idle()
		select {
		case <-s.group.wake:
		case <-f.owed.due:
			f.w.Within(s.opt.Within)
			f.pay()
			continue
		}
		s.group.busy.Store(true)
		for {
			entries, closed := s.group.take()
			if len(entries) == 0 {
				s.group.busy.Store(false)
				s.unindexed.nudge()
				if closed {
					f.w.Within(s.opt.Within)
					f.pay()
					return
				}
				break
			}
			f.w.Within(s.opt.Within)
			rest := f.log(entries)
			if f.owed.large() {
				f.pay()
			}
			if len(rest) > 0 {
				f.hand(f.group(rest))
			}
		}
	}
}

// hand gives a batch to the indexer and answers its callers.
func (f *flusher) hand(b batch) {
	f.w.Idle() // whatever the indexer waits for, it is the indexer's
	f.s.unindexed.hand(b)
	for _, e := range b.entries {
		e.finish(nil)
	}
	f.w.Within(f.s.opt.Within)
}

// errTainted: when a flush fails, the kernel reports the error once. Any file
// that was being written then may be the one it was about.
var errTainted = errors.New("the flush of another episode failed meanwhile")

// group flushes the entries, gives them their names, and flushes those. It
// returns what is on the disk; the others have been told why they are not.
func (f *flusher) group(entries []*entry) (b batch) {
	s := f.s
	current := s.failures.Load()
	var fresh []*dayDir // directories to be relied on from now on, if the flush says so
	var parents []int   // descriptors of directories with new names in them
	defer func() {
		for _, fd := range parents {
			_ = unix.Close(fd)
		}
		f.days.release(entries)
	}()
	ok := make([]*entry, 0, len(entries))
	for _, e := range entries {
		if e.failures != current {
			s.discard(e)
			e.finish(errTainted)
			continue
		}
		p := day(e.Facts.Host, e.Facts.Started)
		if e.dir = f.days.get(p, fresh); e.dir == nil {
			d, above, err := f.mkdir(p)
			parents = append(parents, above...)
			if err != nil {
				s.discard(e)
				e.finish(fmt.Errorf("make directory %s: %w", p, err))
				continue
			}
			fresh, e.dir = append(fresh, d), d
		}
		ok = append(ok, e)
	}
	f.w.Progress()

	slot, err := f.intend(ok)
	var fds []int
	if err == nil {
		for _, e := range ok {
			for _, fd := range []int{e.archive, e.sidecar} {
				if fd >= 0 {
					fds = append(fds, fd)
				}
			}
		}
		if slot != nil {
			fds = append(fds, slot.fd)
		}
		if err = f.flush(append(fds, parents...)); err != nil {
			err = fmt.Errorf("flush %d episodes: %w", len(ok), err)
			s.failures.Add(1)
			if slot != nil {
				slot.broken = true
			}
		}
	}
	f.w.Progress()
	if err != nil {
		s.log.Error("a group of episodes was not stored", "episodes", len(ok), "error", err)
		for _, e := range ok {
			s.discard(e)
			e.finish(err)
		}
		s.slots.put(slot.clear(s))
		return batch{}
	}
	f.days.keep(fresh)
	return f.name(ok, slot)
}

// intend writes the group's intent. Entries with one of their own need none.
func (f *flusher) intend(entries []*entry) (*slot, error) {
	var small []*entry
	for _, e := range entries {
		if e.slot == nil {
			small = append(small, e)
		}
	}
	if len(small) == 0 {
		return nil, nil
	}
	slot, err := f.s.slots.get()
	if err != nil {
		return nil, err
	}
	return slot, slot.write(f.s, small...)
}

// name renames a flushed group into place and flushes the names.
func (f *flusher) name(entries []*entry, slot *slot) batch {
	s := f.s
	placed, stale := make([]*entry, 0, len(entries)), false
	var fds []int
	seen := map[*dayDir]bool{}
	for _, e := range entries {
		e.close()
		if err := f.place(e); err != nil {
			s.log.Error("an episode was not stored", "episode", e.Facts.ID, "host", e.Facts.Host, "error", err)
			f.unplace(e)
			e.finish(err)
			stale = true // perhaps somebody has removed the directory
			continue
		}
		placed = append(placed, e)
		if !seen[e.dir] {
			seen[e.dir] = true
			fds = append(fds, e.dir.fd)
		}
	}
	f.w.Progress()
	if err := f.flush(fds); err != nil {
		err = fmt.Errorf("flush the directories of %d episodes: %w", len(placed), err)
		s.log.Error("a group of episodes was not stored", "episodes", len(placed), "error", err)
		s.failures.Add(1)
		for _, e := range placed {
			f.unplace(e)
			e.finish(err)
		}
		f.days.forget() // opened and flushed anew by the next group
		s.slots.put(slot.clear(s))
		return batch{}
	}
	f.w.Progress()
	for _, e := range placed {
		if !e.replaces {
			continue
		}
		// From here on the power may go: it is whole, and marked until the next scrub at most.
		if err := s.unmark(e.dir.fd, e.Facts.ID); err != nil {
			s.log.Error("an episode is stored anew but still marked as damaged; the next scrub lifts the mark", "episode", e.Facts.ID, "host", e.Facts.Host, "error", err)
		} else {
			s.tell(Finding{Kind: FoundMended, Host: e.Facts.Host, Episode: e.Facts.ID, Path: s.inStore(e.row, archiveName(e.Facts.ID)), What: "its host sent it again"})
		}
	}
	if stale {
		f.days.forget()
	}
	if len(placed) == 0 {
		s.slots.put(slot.clear(s))
		return batch{}
	}
	return batch{entries: placed, slot: slot}
}

func (f *flusher) place(e *entry) error {
	s := f.s
	from, name := s.commit, e.name+".a"
	if e.ArchiveFile != "" {
		from, name = s.incoming, e.ArchiveFile
	}
	if err := eintr(func() error { return s.os.rename(from, name, e.dir.fd, archiveName(e.Facts.ID)) }); err != nil {
		return fmt.Errorf("rename the archive: %w", err)
	}
	if err := eintr(func() error { return s.os.rename(s.commit, e.name+".j", e.dir.fd, sidecarName(e.Facts.ID)) }); err != nil {
		return fmt.Errorf("rename the sidecar: %w", err)
	}
	return nil
}

// unplace takes an episode that nobody was told of out of the store again:
// the sidecar first, for an archive alone is not stored. Also what could not
// be renamed: an error doesn't prove that nothing happened.
func (f *flusher) unplace(e *entry) {
	s := f.s
	if e.replaces {
		// Whatever has its place now, it is marked as damaged, and the host sends it again.
		s.discard(e)
		return
	}
	err := s.os.unlink(e.dir.fd, sidecarName(e.Facts.ID))
	if err == nil || errors.Is(err, unix.ENOENT) {
		if e.ArchiveFile != "" {
			err = eintr(func() error { return s.os.rename(e.dir.fd, archiveName(e.Facts.ID), s.incoming, e.ArchiveFile) })
		} else {
			err = s.os.unlink(e.dir.fd, archiveName(e.Facts.ID))
		}
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		s.log.Error("an episode that could not be stored can't be removed either; the next start settles it", "episode", e.Facts.ID, "host", e.Facts.Host, "error", err)
		s.holds.setSuspect(e.Facts.ID, e.dir.path)
	}
	s.discard(e)
}
