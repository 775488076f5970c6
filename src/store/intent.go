package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/durable"
	"cis490/src/episode"
)

// An intent says, before anything gets its final name, what is about to. After
// a crash it is all that has to be looked at.
//
// Its file is written over and over, since making and removing one for each
// group would cost as much as a small episode. That is safe: it is written
// again only once the group it spoke of is in the catalogue (or undone), and
// an intent that is torn by a crash speaks of a group of which nothing has its
// final name yet, because the flush that comes before the first rename covers
// the intent too.
type intent struct {
	Items []intentItem `json:"items"`
}

type intentItem struct {
	Host    string     `json:"host"`
	Episode episode.ID `json:"episode"`
	Day     string     `json:"day"`            // directory below episodes
	From    string     `json:"from,omitempty"` // in incoming: where the archive came from,
	Size    int64      `json:"size,omitempty"` // and how long it was

	Replaces bool `json:"replaces,omitempty"` // a damaged copy, which was acknowledged
}

const (
	intentPrefix = "intent-" // in incoming/.commit
	intentMagic  = "cis490 intent 1"
	maxIntent    = 1 << 20 // bytes; a group of 256 is some 50,000
)

func (in intent) encode() ([]byte, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("make an intent: %w", err)
	}
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "%s %d %x\n%s\n", intentMagic, len(body), sum, body), nil
}

var errTorn = errors.New("not a whole intent")

// decodeIntent reads an intent from a file that may go on with the rest of a longer one.
func decodeIntent(b []byte) (intent, error) {
	head, body, ok := bytes.Cut(b, []byte("\n"))
	rest, magic := strings.CutPrefix(string(head), intentMagic+" ")
	length, sum, spaced := strings.Cut(rest, " ")
	n, err := strconv.Atoi(length)
	if !ok || !magic || !spaced || err != nil || n < 0 || n > len(body) {
		return intent{}, errTorn
	}
	body = body[:n]
	if got := sha256.Sum256(body); hex.EncodeToString(got[:]) != sum {
		return intent{}, errTorn
	}
	var in intent
	if err := json.Unmarshal(body, &in); err != nil {
		return intent{}, fmt.Errorf("%w: %w", errTorn, err)
	}
	return in, nil
}

func (e *entry) intent() intentItem {
	return intentItem{Host: e.Facts.Host, Episode: e.Facts.ID, Day: day(e.Facts.Host, e.Facts.Started), From: e.ArchiveFile, Size: e.size, Replaces: e.replaces}
}

// slot is one intent file.
type slot struct {
	name   string
	fd     int
	broken bool // a flush of it failed: not to be used again
}

// write makes the slot speak of the entries. It is not flushed here.
func (sl *slot) write(s *Store, entries ...*entry) error {
	in := intent{Items: make([]intentItem, len(entries))}
	for i, e := range entries {
		in.Items[i] = e.intent()
	}
	b, err := in.encode()
	if err != nil {
		return err
	}
	if err := s.writeAll(sl.fd, b, 0); err != nil {
		return fmt.Errorf("write an intent: %w", err)
	}
	return nil
}

// clear makes the slot speak of nothing: what it spoke of was undone.
func (sl *slot) clear(s *Store) *slot {
	if sl != nil && !sl.broken && sl.write(s) != nil {
		sl.broken = true
	}
	return sl
}

// slots are the intent files.
type slots struct {
	s     *Store
	mu    sync.Mutex
	next  int
	free  []*slot
	stuck []*slot // of groups that are not in the catalogue yet
}

func (p *slots) init(s *Store) { p.s = s }

// get takes a free intent file, or makes one and its name durable.
func (p *slots) get() (*slot, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		sl := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return sl, nil
	}
	p.next++
	name := intentPrefix + strconv.Itoa(p.next)
	p.mu.Unlock()
	fd, err := create(p.s.commit, name)
	if err != nil {
		return nil, err
	}
	if err := eintr(func() error { return p.s.os.fsync(p.s.commit) }); err != nil {
		_ = unix.Close(fd)
		_ = unix.Unlinkat(p.s.commit, name, 0) // an empty intent does no harm either
		return nil, fmt.Errorf("flush the name of an intent: %w", err)
	}
	return &slot{name: name, fd: fd}, nil
}

const maxFreeSlots = 64 // as many groups as may wait for the catalogue, and then some

// put gives a slot back whose group is in the catalogue or undone.
func (p *slots) put(sl *slot) {
	if sl == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !sl.broken && len(p.free) < maxFreeSlots {
		p.free = append(p.free, sl)
		return
	}
	p.remove(sl)
}

func (p *slots) remove(sl *slot) {
	_ = unix.Close(sl.fd)
	if err := p.s.os.unlink(p.s.commit, sl.name); err != nil {
		p.s.log.Warn("an intent that is done with can't be removed; the next start does it", "error", err)
	}
}

// settle is put for a group whose files are in place; unless it is indexed,
// its intent is kept until everything is.
func (p *slots) settle(sl *slot, indexed bool) {
	if sl == nil {
		return
	}
	if indexed {
		p.put(sl)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck = append(p.stuck, sl)
}

// release gives back the slots whose groups have got into the catalogue late.
func (p *slots) release() {
	p.mu.Lock()
	stuck := p.stuck
	p.stuck = nil
	p.mu.Unlock()
	for _, sl := range stuck {
		p.put(sl)
	}
}

// close removes the intents of what is done, so that the next start has
// nothing to look at.
func (p *slots) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sl := range p.free {
		p.remove(sl)
	}
	for _, sl := range p.stuck {
		_ = unix.Close(sl.fd)
	}
	p.free, p.stuck = nil, nil
	return nil
}

// recover finishes or undoes what the intents speak of, then empties
// incoming/.commit. sound says whether the catalogue can tell what was
// acknowledged.
func (s *Store) recover(ctx context.Context, sound bool) error {
	dir, err := os.Open(s.path(incomingName, commitName))
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read what was being committed: %w", err)
	}
	rows, first, err := s.recoverLog(names)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, intentPrefix) {
			continue
		}
		b, err := readAt(s.commit, name, maxIntent)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		in, err := decodeIntent(b)
		if err != nil {
			continue // torn, so nothing of it has its name yet
		}
		for _, it := range in.Items {
			row, stored, err := s.settle(ctx, it, sound)
			if err != nil {
				return fmt.Errorf("settle the half-done commit of episode %s of host %s: %w", it.Episode, it.Host, err)
			}
			if stored {
				rows = append(rows, row)
			}
		}
	}
	keep := false
	if err := s.cat.Load().Insert(ctx, rows); catalog.IsFull(err) {
		// A full disk must not keep the receiver from saying that it is full.
		s.unindexed.setLate(rows)
		keep = true
	} else if err != nil {
		return err
	}
	if !keep {
		first = 0
	}
	s.wal.start(first)
	if len(names) == 0 {
		return nil
	}
	if err := durable.SyncDir(s.path(incomingName)); err != nil {
		return err
	}
	for _, name := range names {
		n, is := strings.CutPrefix(name, intentPrefix)
		l, logged := strings.CutPrefix(name, walPrefix)
		if keep && (is || logged) {
			if n, err := strconv.Atoi(n); is && err == nil {
				s.slots.next = max(s.slots.next, n)
			}
			if l, err := strconv.Atoi(l); logged && err == nil {
				s.wal.name = max(s.wal.name, l)
			}
			continue
		}
		if err := unix.Unlinkat(s.commit, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "remove", Path: name, Err: err}
		}
	}
	return eintr(func() error { return s.os.fsync(s.commit) })
}

// settle decides on one episode of an intent. If its sidecar has its place, it
// is stored: the flush of both files came before, and only their names may
// still have to be flushed. If not, and it isn't in the catalogue, nobody was
// told of it, and it is undone; an upload is given back as it came.
func (s *Store) settle(ctx context.Context, it intentItem, sound bool) (row catalog.Row, stored bool, err error) {
	if !episode.ValidHost(it.Host) || strings.Contains(it.Day, "..") || strings.ContainsAny(it.From, "/") {
		return row, false, fmt.Errorf("the intent names host %.80q, day %.80q and upload %.80q", it.Host, it.Day, it.From)
	}
	_, known, err := s.cat.Load().Lookup(ctx, it.Episode)
	if err != nil {
		return row, false, err
	}
	dir, err := openDir(s.ep, it.Day)
	switch {
	case errors.Is(err, unix.ENOENT):
		dir = -1
	case err != nil:
		return row, false, &fs.PathError{Op: "open", Path: it.Day, Err: err}
	default:
		defer unix.Close(dir)
		row, err = readStored(dir, it.Host, it.Episode)
		switch {
		case err == nil:
			if it.Replaces && row.Damaged != "" && it.From != "" {
				if err := s.truncate(it.From, it.Size); err != nil && !errors.Is(err, unix.ENOENT) {
					return row, false, err
				}
			}
			return row, true, s.syncDay(it.Day)
		case errors.Is(err, errDamaged) && (known || !sound || it.Replaces):
			// Somebody may hold a receipt for it: nothing is removed.
			s.log.Error("an episode that was committed before the last stop is damaged", "episode", it.Episode, "host", it.Host, "error", err)
			return row, false, nil
		case !errors.Is(err, errDamaged) && !errors.Is(err, fs.ErrNotExist):
			return row, false, err
		}
	}
	if known || it.Replaces {
		s.log.Error("an acknowledged episode has no sidecar", "episode", it.Episode, "host", it.Host)
		return row, false, nil
	}
	if dir >= 0 && !sound && it.From == "" {
		// Without a catalogue to prove that nobody was told, nothing is removed. A lone archive is not stored, and the next commit replaces it.
		if _, found, err := exists(dir, archiveName(it.Episode)); err == nil && found {
			s.log.Warn("an archive without a sidecar is left in the store", "episode", it.Episode, "host", it.Host)
		}
		return row, false, nil
	}
	if dir >= 0 {
		if err := s.os.unlink(dir, sidecarName(it.Episode)); err != nil && !errors.Is(err, unix.ENOENT) {
			return row, false, err
		}
		if it.From == "" {
			err = s.os.unlink(dir, archiveName(it.Episode))
		} else {
			err = eintr(func() error { return s.os.rename(dir, archiveName(it.Episode), s.incoming, it.From) })
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return row, false, err
		}
		if err == nil {
			s.log.Info("a commit that a stop had cut was undone; nobody was told that it was stored", "episode", it.Episode, "host", it.Host)
		}
		if err := eintr(func() error { return s.os.fsync(dir) }); err != nil {
			return row, false, err
		}
	}
	if it.From != "" {
		if err := s.truncate(it.From, it.Size); err != nil && !errors.Is(err, unix.ENOENT) {
			return row, false, err
		}
	}
	return row, false, nil
}

func readAt(dir int, name string, limit int) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b := make([]byte, limit)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}
