package queue

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/wire"
)

const (
	monthLayout = "2006-01"
	maxLine     = 64 << 10 // bytes of a ledger's line
	// tailWithoutMark is how much of the ledger's end is looked through when
	// the mark of what has been freed is lost: tens of thousands of receipts.
	tailWithoutMark = 16 << 20
)

// committer writes receipts for all callers at once: while one group is being
// fsynced the next one gathers.
type committer struct {
	mu      sync.Mutex
	next    *group
	running bool
	closed  bool
	ended   chan struct{} // closed when the running loop ends
	at      position      // end of the last group whose sources were moved

	// Recorded, but they can't be moved: Scan leaves them out, and they are
	// tried again now and then.
	stuck map[episode.ID]stuck
	tried time.Time

	// Only the loop's.
	file *ledgerFile
	bad  ledgerName // the last file whose fsync failed
}

type stuck struct {
	digest bag.Digest
	err    error
}

// retryStuck is how often a source that can't be moved is tried again.
const retryStuck = time.Minute

type group struct {
	items []ackItem
	done  chan struct{}
}

type ackItem struct {
	id     episode.ID
	digest bag.Digest
	size   int64  // of the archive
	line   []byte // nil: recorded already
	err    error
}

// position is a place in the ledger.
type position struct {
	name   string // of the file
	offset int64
}

func (c *committer) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.at, c.stuck, c.bad = false, position{}, map[episode.ID]stuck{}, ledgerName{}
}

func (c *committer) position() position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// close waits for what was begun and lets no more begin.
func (c *committer) close(q *Queue) error {
	c.mu.Lock()
	c.closed = true
	var ended chan struct{}
	if c.running {
		ended = c.ended
	}
	c.mu.Unlock()
	if ended != nil {
		<-ended
	}
	if c.file == nil {
		return nil
	}
	err := c.file.f.Close()
	c.file = nil
	return err
}

// Acknowledge records the receipt in the ledger, durably, and then frees the
// episode's source: out of sealed/ into shipped/, or out of sight and unlinked
// in the background. Concurrent calls share one fsync.
//
// The episode on disk must have the digest that the receipt names, else nothing
// is recorded or freed and the error is ErrOtherDigest. An episode that is not
// in sealed/ (any more) is recorded only. An error of the disk before the
// receipt is durable leaves the episode in sealed/, to be sent (and answered by
// already-stored) again; a full disk is code.DiskFull. A source that can't be
// moved is acknowledged all the same: this is logged, Scan leaves it out, and it
// is tried again now and then.
//
// ctx bounds the waiting, not the work: a receipt in hand is recorded whatever
// becomes of ctx.
func (q *Queue) Acknowledge(ctx context.Context, r wire.Receipt) error {
	if err := q.acknowledge(ctx, r); err != nil {
		return fmt.Errorf("acknowledge %s: %w", r.Episode, err)
	}
	return nil
}

func (q *Queue) acknowledge(ctx context.Context, r wire.Receipt) error {
	here, err := digestOf(q.Dir(r.Episode))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, serr := os.Lstat(q.Dir(r.Episode)); !errors.Is(serr, fs.ErrNotExist) {
			return fmt.Errorf("%w: it can't be read: %w", ErrOtherDigest, err)
		}
	case err != nil:
		return fmt.Errorf("compare it with the episode: %w", err)
	case here != r.BagDigest:
		return fmt.Errorf("%w: %s, here %s", ErrOtherDigest, r.BagDigest, here)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(line) >= maxLine {
		return fmt.Errorf("a receipt of %d bytes", len(line))
	}
	line = append(line, '\n')

	c := &q.commit
	c.mu.Lock()
	if c.closed || !q.locked.Load() {
		c.mu.Unlock()
		return ErrNotLocked
	}
	if s, ok := c.stuck[r.Episode]; ok && s.digest == r.BagDigest {
		line = nil
	}
	if c.next == nil {
		c.next = &group{done: make(chan struct{})}
	}
	g, i := c.next, len(c.next.items)
	g.items = append(g.items, ackItem{r.Episode, r.BagDigest, r.ArchiveSize, line, nil})
	if !c.running {
		c.running, c.ended = true, make(chan struct{})
		go c.loop(q)
	}
	c.mu.Unlock()

	select {
	case <-g.done:
	case <-ctx.Done():
		// Both may be so; what is known counts.
		select {
		case <-g.done:
		default:
			return fmt.Errorf("not known to be recorded yet: %w", ctx.Err())
		}
	}
	if err := g.items[i].err; err != nil {
		return err
	}
	if err := q.DropUpload(r.Episode); err != nil {
		q.log.Warn("A useless upload token could not be removed.", "episode", r.Episode, "error", err)
	}
	return nil
}

// digestOf is the bag digest of the episode in dir.
func digestOf(dir string) (bag.Digest, error) {
	b, err := readSmall(filepath.Join(dir, bag.TagManifest), 1<<20)
	if err != nil {
		return bag.Digest{}, err
	}
	return bag.DigestOf(b), nil
}

// maxGather is how long a ledger is left alone after it was flushed, at most.
const maxGather = 10 * time.Millisecond

func (c *committer) loop(q *Queue) {
	for {
		c.mu.Lock()
		g := c.next
		c.next = nil
		if g == nil {
			c.running = false
			close(c.ended)
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		began := time.Now()
		c.write(q, g)
		close(g.done)
		// Whoever comes meanwhile is of the next group. To flush a ledger costs a commit of the file
		// system's journal, which also all others wait for who change anything there.
		time.Sleep(min(time.Since(began), maxGather))
	}
}

// write commits one group: one write and one fsync for all receipts, then the
// sources are moved. That the moves become durable is the remover's concern:
// a power cut before that brings a source back beside its receipt, and
// resumeLedger frees it again.
func (c *committer) write(q *Queue, g *group) {
	var lines []byte
	for _, it := range g.items {
		lines = append(lines, it.line...)
	}
	if err := c.append(q, lines); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = code.Wrap(code.DiskFull, err, "record receipts in %s", q.path(receiptsDir))
		} else {
			err = fmt.Errorf("record receipts: %w", err)
		}
		for i := range g.items {
			g.items[i].err = err
		}
		return
	}
	for i := range g.items {
		q.sentAgain(g.items[i].id)
		q.free(g.items[i].id, g.items[i].digest, g.items[i].size)
	}
	c.mu.Lock()
	if c.file != nil {
		c.at = position{filepath.Base(c.file.f.Name()), c.file.size}
	}
	c.mu.Unlock()
	q.remover.acked.Store(time.Now().UnixNano())
	wake(q.remover.work)
}

// free moves an episode with a receipt out of sealed/.
func (q *Queue) free(id episode.ID, d bag.Digest, size int64) {
	err := q.remover.take(q, id.String(), size)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Lstat(q.Dir(id)); errors.Is(serr, fs.ErrNotExist) {
			err = nil // not here: there is nothing to free
		}
	}
	c := &q.commit
	c.mu.Lock()
	_, known := c.stuck[id]
	if err != nil {
		c.stuck[id] = stuck{d, err}
	} else {
		delete(c.stuck, id)
	}
	c.mu.Unlock()
	if err != nil && !known {
		q.log.Error("An episode is acknowledged and recorded, but its source can't be moved out of sealed; it is not sent again.",
			"episode", id, "dir", q.Dir(id), "error", err)
	}
}

// withoutStuck is ids without those that are acknowledged already; now and then
// it tries to free these.
func (q *Queue) withoutStuck(ids []episode.ID) []episode.ID {
	c := &q.commit
	c.mu.Lock()
	if len(c.stuck) == 0 {
		c.mu.Unlock()
		return ids
	}
	left := make([]episode.ID, 0, len(ids))
	for _, id := range ids {
		if _, ok := c.stuck[id]; !ok {
			left = append(left, id)
		}
	}
	var again map[episode.ID]stuck
	if time.Since(c.tried) > retryStuck && q.locked.Load() {
		again, c.tried = maps.Clone(c.stuck), time.Now()
	}
	c.mu.Unlock()
	for id, s := range again {
		// By now there may be something else under its id.
		if d, err := digestOf(q.Dir(id)); err == nil && d != s.digest {
			c.mu.Lock()
			delete(c.stuck, id)
			c.mu.Unlock()
			continue
		}
		q.free(id, s.digest, 0)
	}
	if len(again) > 0 {
		wake(q.remover.work)
	}
	return left
}

// stuckSources is what is acknowledged and can't be moved, for a report.
func (q *Queue) stuckSources() (f []Failed) {
	c := &q.commit
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.stuck {
		f = append(f, Failed{Name: q.Dir(id), Err: s.err})
	}
	slices.SortFunc(f, func(a, b Failed) int { return strings.Compare(a.Name, b.Name) })
	return f
}

// append makes lines part of the ledger, durably.
func (c *committer) append(q *Queue, lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	month := q.now().UTC().Format(monthLayout)
	if c.file != nil && c.file.month != month {
		err := c.file.f.Close()
		c.file = nil
		if err != nil {
			return err
		}
	}
	if c.file == nil {
		f, err := q.openLedger(month, c.bad)
		if err != nil {
			return err
		}
		c.file = f
	}
	err := c.file.append(q, lines)
	if err == nil || !errors.Is(err, errNotFlushed) {
		return err
	}
	// What the disk has of this file's end is unknown, and a second fsync would
	// not tell. It is written no more, and the lines go into a new file.
	q.log.Error("The ledger could not be flushed to the disk; it goes on in a new file.", "file", c.file.f.Name(), "error", err)
	c.bad = c.file.ledgerName
	c.file.giveUp()
	c.file = nil
	f, nerr := q.openLedger(month, c.bad)
	if nerr != nil {
		return errors.Join(err, nerr)
	}
	if nerr := f.append(q, lines); nerr != nil {
		if errors.Is(nerr, errNotFlushed) {
			c.bad = f.ledgerName
		}
		f.giveUp()
		return errors.Join(err, nerr)
	}
	c.file = f
	return nil
}

// ledgerFile is the file that receipts are appended to.
type ledgerFile struct {
	ledgerName
	f    *os.File
	size int64 // bytes that are durable
}

var errNotFlushed = errors.New("fsync failed")

func (l *ledgerFile) append(q *Queue, lines []byte) error {
	if _, err := l.f.Write(lines); err != nil {
		// A part may be there. It must not stay in front of the next lines.
		if terr := l.f.Truncate(l.size); terr != nil {
			return errors.Join(errNotFlushed, err, terr)
		}
		return err
	}
	if err := q.syncFile(l.f); err != nil {
		return fmt.Errorf("%w: %w", errNotFlushed, err)
	}
	l.size += int64(len(lines))
	return nil
}

// giveUp closes a file whose end is not known to be on the disk. That end was
// promised to nobody and need not confuse the next start; a file that is nothing
// else goes, so that a sick disk is not filled with them.
func (l *ledgerFile) giveUp() {
	if l.size == 0 {
		os.Remove(l.f.Name())
	} else {
		l.f.Truncate(l.size)
	}
	l.f.Close()
}

// openLedger opens the month's newest file for appending, mended if a crash tore
// it, or makes it; it is always a later one than bad.
func (q *Queue) openLedger(month string, bad ledgerName) (*ledgerFile, error) {
	files, err := q.ledgerFiles()
	if err != nil {
		return nil, err
	}
	n := 1
	for _, f := range files {
		if f.month == month {
			n = f.n
		}
	}
	if bad.month == month && n <= bad.n {
		n = bad.n + 1
	}
	name := month + ".jsonl"
	if n > 1 {
		name = fmt.Sprintf("%s.%d.jsonl", month, n)
	}
	f, err := os.OpenFile(q.path(receiptsDir, name), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	size, err := q.mend(f)
	if err == nil {
		err = q.syncDir(q.path(receiptsDir))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &ledgerFile{ledgerName{name, month, n}, f, size}, nil
}

// mend makes a ledger file end with a whole line and returns its size. A torn
// line was never fsynced, so nothing was freed against it.
func (q *Queue) mend(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := st.Size()
	from := max(size-2*maxLine, 0)
	tail := make([]byte, size-from)
	if _, err := f.ReadAt(tail, from); err != nil && err != io.EOF {
		return 0, err
	}
	if len(tail) == 0 || tail[len(tail)-1] == '\n' {
		return size, nil
	}
	keep := bytes.LastIndexByte(tail, '\n') + 1
	if keep == 0 && from > 0 {
		return 0, fmt.Errorf("%s does not end like a ledger: its last line has more than %d bytes", f.Name(), 2*maxLine)
	}
	q.log.Warn("The ledger's last line was cut short by a crash and is dropped; its episode was not freed.",
		"file", f.Name(), "bytes", len(tail)-keep)
	size = from + int64(keep)
	if err := f.Truncate(size); err != nil {
		return 0, err
	}
	return size, q.syncFile(f)
}

// ledgerName is one file of the ledger.
type ledgerName struct {
	name, month string
	n           int
}

// ledgerFiles lists the ledger, oldest first.
func (q *Queue) ledgerFiles() ([]ledgerName, error) {
	names, err := readNames(q.path(receiptsDir))
	if err != nil {
		return nil, fmt.Errorf("list the ledger: %w", err)
	}
	var files []ledgerName
	for _, name := range names {
		if f, ok := parseLedgerName(name); ok {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b ledgerName) int {
		return cmp.Or(strings.Compare(a.month, b.month), cmp.Compare(a.n, b.n))
	})
	return files, nil
}

func parseLedgerName(name string) (ledgerName, bool) {
	s, ok := strings.CutSuffix(name, ".jsonl")
	if !ok {
		return ledgerName{}, false
	}
	month, num, numbered := strings.Cut(s, ".")
	if t, err := time.Parse(monthLayout, month); err != nil || t.Format(monthLayout) != month {
		return ledgerName{}, false
	}
	n := 1
	if numbered {
		var err error
		if n, err = strconv.Atoi(num); err != nil || n < 2 || strconv.Itoa(n) != num {
			return ledgerName{}, false
		}
	}
	return ledgerName{name, month, n}, true
}

// Receipts goes through the ledger, oldest month first, in the order in which
// receipts were recorded, without the months that ended more than a day before
// since. A receipt may occur twice. A line that is no receipt
// is yielded as an error that names file and line; the iteration goes on. A last
// line that is still being written is left out.
func (q *Queue) Receipts(since time.Time) iter.Seq2[wire.Receipt, error] {
	return func(yield func(wire.Receipt, error) bool) {
		files, err := q.ledgerFiles()
		if err != nil {
			yield(wire.Receipt{}, err)
			return
		}
		first := since.Add(-24 * time.Hour).UTC().Format(monthLayout) // this clock may have been behind
		for _, f := range files {
			if !since.IsZero() && f.month < first {
				continue
			}
			n := 0
			err := q.lines(f.name, 0, func(line []byte) bool {
				n++
				var r wire.Receipt
				err := json.Unmarshal(line, &r)
				if err == nil && r.Episode.IsZero() {
					err = errors.New("no episode")
				}
				if err != nil {
					return yield(wire.Receipt{}, fmt.Errorf("%s: line %d: %w", q.path(receiptsDir, f.name), n, err))
				}
				return yield(r, nil)
			})
			if errors.Is(err, errStopped) || err != nil && !yield(wire.Receipt{}, err) {
				return
			}
		}
	}
}

var errStopped = errors.New("stopped")

// lines calls each with every whole line of a ledger file that begins at or
// after from, without its end, until each returns false (errStopped). A line
// that is too long is given as far as it goes.
func (q *Queue) lines(name string, from int64, each func([]byte) bool) error {
	f, err := os.OpenFile(q.path(receiptsDir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	b := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		if err == io.EOF {
			return nil
		}
		if err == bufio.ErrBufferFull {
			more := each(line)
			for err == bufio.ErrBufferFull {
				_, err = b.ReadSlice('\n')
			}
			if !more {
				return errStopped
			}
			if err == io.EOF {
				return nil
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", q.path(receiptsDir, name), err)
		}
		if !each(line[:len(line)-1]) {
			return errStopped
		}
	}
}

// lineID finds the id in a line as Acknowledge writes it, without decoding it.
func lineID(line []byte) (episode.ID, bool) {
	const key = `"episode":"`
	i := bytes.Index(line, []byte(key))
	if i < 0 || len(line) < i+len(key)+36 {
		return episode.ID{}, false
	}
	return parseID(line[i+len(key):][:36])
}

// LedgerHas finds the newest receipt for id. The cost is a search of the ledger
// from now back to the month in which id was made. There is no need to ask it
// about episodes that wait: Lock frees those that have a receipt.
func (q *Queue) LedgerHas(id episode.ID) (r wire.Receipt, ok bool, err error) {
	files, err := q.ledgerFiles()
	if err != nil {
		return r, false, err
	}
	since := ""
	if made := id.Time(); !made.IsZero() {
		since = made.Add(-24 * time.Hour).Format(monthLayout) // this clock may have been behind
	}
	for _, f := range slices.Backward(files) {
		if f.month < since {
			break
		}
		err := q.lines(f.name, 0, func(line []byte) bool {
			if got, has := lineID(line); has && got == id {
				var x wire.Receipt
				if json.Unmarshal(line, &x) == nil && x.Episode == id {
					r, ok = x, true
				}
			}
			return true
		})
		if err != nil {
			return r, false, err
		}
		if ok {
			return r, true, nil
		}
	}
	return r, false, nil
}

// resumeLedger frees what the last process recorded but did not (durably) free,
// so that it is not sent again.
func (q *Queue) resumeLedger() error {
	files, err := q.ledgerFiles()
	if err != nil || len(files) == 0 {
		return err
	}
	ids, _, err := q.Scan(context.Background())
	if err != nil {
		return err
	}
	mark, marked := q.loadFreed()
	newest := files[len(files)-1]
	var waits []wire.Receipt
	for _, f := range files {
		from := int64(0)
		switch {
		case marked && f.name == mark.name:
			from = mark.offset
		case marked && !after(f, mark.name):
			continue
		case !marked && f != newest:
			continue
		case !marked:
			if st, err := os.Stat(q.path(receiptsDir, f.name)); err == nil {
				from = max(0, st.Size()-tailWithoutMark)
			}
		}
		if len(ids) == 0 {
			continue
		}
		// A line that from cuts is no receipt, or not one that waits.
		err := q.lines(f.name, from, func(line []byte) bool {
			id, ok := lineID(line)
			if !ok {
				return true
			}
			if _, ok := slices.BinarySearchFunc(ids, id, episode.ID.Compare); !ok {
				return true
			}
			var r wire.Receipt
			if json.Unmarshal(line, &r) == nil && r.Episode == id {
				waits = append(waits, r)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	done := map[episode.ID]bool{}
	for _, r := range slices.Backward(waits) {
		if done[r.Episode] {
			continue
		}
		if again, err := q.toBeSentAgain(r.Episode); err != nil {
			return err
		} else if again {
			continue
		}
		// The line may be in the page cache only: the process that wrote it may
		// have died before its fsync. So it is recorded once more, as any other.
		err := q.Acknowledge(context.Background(), r)
		switch {
		case err == nil:
			done[r.Episode] = true
			q.log.Info("Freed an episode that was acknowledged before the last stop.", "episode", r.Episode)
		case errors.Is(err, ErrOtherDigest):
			q.log.Warn("An episode waits under an id that was acknowledged with other content.", "episode", r.Episode, "error", err)
		default:
			return err
		}
	}
	// All that the ledger has is dealt with.
	if st, err := os.Stat(q.path(receiptsDir, newest.name)); err == nil {
		c := &q.commit
		c.mu.Lock()
		if c.at.name == "" {
			c.at = position{newest.name, st.Size()}
		}
		c.mu.Unlock()
	}
	return nil
}

// after says whether f is a later file of the ledger than the one called name.
func after(f ledgerName, name string) bool {
	m, ok := parseLedgerName(name)
	return !ok || cmp.Or(strings.Compare(f.month, m.month), cmp.Compare(f.n, m.n)) > 0
}

// The mark says up to where every receipt's source is durably out of sealed/.
// It is not fsynced: an old mark costs reading, a lost one at most a source
// that is sent once more.
const freedFile = receiptsDir + "/.freed"

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func (q *Queue) saveFreed(p position) error {
	if p.name == "" {
		return nil
	}
	b := make([]byte, 64)
	binary.LittleEndian.PutUint64(b[4:], uint64(p.offset))
	copy(b[12:], p.name)
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], crcTable))
	f, err := os.OpenFile(q.path(freedFile), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Close())
}

func (q *Queue) loadFreed() (position, bool) {
	b, err := readSmall(q.path(freedFile), 64)
	if err != nil || len(b) != 64 || binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:], crcTable) {
		return position{}, false
	}
	p := position{string(trimNUL(b[12:])), int64(binary.LittleEndian.Uint64(b[4:]))}
	_, ok := parseLedgerName(p.name)
	return p, ok
}
