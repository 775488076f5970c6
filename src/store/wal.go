package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/durable"
	"cis490/src/episode"
)

// The write-ahead log is what makes small episodes cheap: to make files of
// their own durable takes two commits of the file system's journal, and who has
// a receipt has waited for both. Here each is one record, a group of them is one
// sequential write into blocks that are allocated already, and one fdatasync(2),
// which has nothing to wait for but the disk. The episode's files get their names at once
// and are flushed later, with many others; until then, and until the catalogue
// lists it, its record is kept, and after a crash the files are made anew from it.
//
// The log is a few files of one size, its segments, written one after the other
// and used again. A record carries its number in the log and the number below which
// all are settled, which is how the next start knows where to begin; what a segment
// still has of its former use ends in a number that is too low.
type wal struct {
	s       *Store
	current *segment
	at      int64      // where the next record goes in current
	full    []*segment // not used again before what is in them is settled
	free    []*segment
	name    int // of the segment made last

	next    uint64        // number of the next record
	flushed uint64        // files of the records below it are on the disk, with their names
	indexed atomic.Uint64 // rows of the records below it are in the catalogue
}

// segment is one file of the log.
type segment struct {
	name string
	fd   int
	last uint64 // its last record

	broken bool // writing or flushing it failed
}

const (
	walPrefix  = "log-" // in incoming/.commit
	walMagic   = "cis490\x00\x01"
	walHeader  = len(walMagic) + 8 + 8 + 4 + 4 + 4
	walSegment = 2 << 20 // bytes
	maxRecord  = walSegment
	// of a record without sidecar and archive
	maxRecordMeta = 1 << 10
	maxFreeLogs   = 8
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// errNoLog: the log has no room and there is none for more of it.
var errNoLog = errors.New("no room for the log of commits")

func (l *wal) init(s *Store) { l.s, l.next = s, 1 }

// start begins the log anew. What was in it is settled, but for the rows of the records from unindexed on, if that is not 0.
func (l *wal) start(unindexed uint64) {
	l.flushed = l.next
	l.indexed.Store(l.next)
	if unindexed > 0 {
		l.indexed.Store(unindexed)
		l.s.unindexed.logged = l.next
	}
}

// record is one episode in the log.
type record struct {
	number, settled uint64
	item            intentItem
	sidecar         []byte
	archive         []byte
}

// place is where a record is.
type place struct {
	in     *segment
	at     int64
	number uint64
}

// encodeRecord gives the record of a small episode in parts, so that the archive is not copied.
// Its header is filled in when its turn comes.
func encodeRecord(item intentItem, sidecar []byte, archive ...[]byte) ([][]byte, error) {
	meta, err := json.Marshal(item)
	if err != nil {
		return nil, fmt.Errorf("make a record of the log: %w", err)
	}
	b := make([]byte, walHeader, walHeader+8+len(meta)+len(sidecar))
	for _, p := range [][]byte{meta, sidecar} {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	parts := append([][]byte{b}, archive...)
	sum, size := crc32.Update(0, crcTable, b[walHeader:]), len(b)-walHeader
	for _, p := range archive {
		sum, size = crc32.Update(sum, crcTable, p), size+len(p)
	}
	copy(b, walMagic)
	binary.LittleEndian.PutUint32(b[24:], uint32(size))
	binary.LittleEndian.PutUint32(b[28:], sum)
	return parts, nil
}

// number gives a record its place in the log.
func number(head []byte, n, settled uint64) {
	binary.LittleEndian.PutUint64(head[8:], n)
	binary.LittleEndian.PutUint64(head[16:], settled)
	binary.LittleEndian.PutUint32(head[32:], crc32.Checksum(head[:32], crcTable))
}

// decodeRecord reads the record that b begins with, and how long it is. What it gives lies in b.
func decodeRecord(b []byte) (r record, size int, err error) {
	if len(b) < walHeader || string(b[:len(walMagic)]) != walMagic || crc32.Checksum(b[:32], crcTable) != binary.LittleEndian.Uint32(b[32:]) {
		return record{}, 0, errTorn
	}
	n := int64(binary.LittleEndian.Uint32(b[24:]))
	if n > int64(len(b)-walHeader) {
		return record{}, 0, errTorn
	}
	size = walHeader + int(n)
	body := b[walHeader:size]
	if crc32.Checksum(body, crcTable) != binary.LittleEndian.Uint32(b[28:]) {
		return record{}, 0, errTorn
	}
	r = record{number: binary.LittleEndian.Uint64(b[8:]), settled: binary.LittleEndian.Uint64(b[16:])}
	var parts [2][]byte
	for i := range parts {
		if len(body) < 4 || int64(binary.LittleEndian.Uint32(body)) > int64(len(body)-4) {
			return record{}, 0, errTorn
		}
		k := 4 + int(binary.LittleEndian.Uint32(body))
		parts[i], body = body[4:k], body[k:]
	}
	if err := json.Unmarshal(parts[0], &r.item); err != nil {
		return record{}, 0, fmt.Errorf("%w: %w", errTorn, err)
	}
	r.sidecar, r.archive = parts[1], body
	return r, size, nil
}

// decodeSegment reads the records of a segment, up to where its former use begins.
func decodeSegment(b []byte) (records []record) {
	for {
		r, size, err := decodeRecord(b)
		if err != nil || len(records) > 0 && r.number <= records[len(records)-1].number {
			return records
		}
		records, b = append(records, r), b[size:]
	}
}

// settled is the number below which the log is not needed any more.
func (l *wal) settled() uint64 { return min(l.flushed, l.indexed.Load()) }

// append makes records part of the log, durably, and says where they are.
// errNoLog: there is no room for all of them, and they may be stored without it.
func (l *wal) append(records [][][]byte) ([]place, error) {
	places := make([]place, 0, len(records))
	var used []*segment
	settled := l.settled()
	err := func() error {
		for _, parts := range records {
			size := int64(0)
			for _, p := range parts {
				size += int64(len(p))
			}
			if l.current == nil || l.at+size > walSegment {
				if err := l.turn(); err != nil {
					return err
				}
			}
			if !slices.Contains(used, l.current) {
				used = append(used, l.current)
			}
			number(parts[0], l.next, settled)
			at := l.at
			for _, p := range parts {
				if err := l.s.writeAll(l.current.fd, p, at); err != nil {
					return fmt.Errorf("write the log: %w", err)
				}
				at += int64(len(p))
			}
			places = append(places, place{l.current, l.at, l.next})
			l.current.last = l.next
			l.at, l.next = at, l.next+1
		}
		for _, seg := range used {
			if err := eintr(func() error { return l.s.os.fdatasync(seg.fd) }); err != nil {
				return fmt.Errorf("flush the log: %w", err)
			}
		}
		return nil
	}()
	if err != nil {
		// What the disk has of these records nobody knows. Nobody was told of them either;
		// but what is in the same files and was told must not be behind them.
		l.giveUp(used)
		return nil, err
	}
	return places, nil
}

// giveUp lets segments be written no more. They go once what is in them is settled.
func (l *wal) giveUp(used []*segment) {
	for _, seg := range used {
		seg.broken = true
		if seg == l.current {
			l.full, l.current = append(l.full, seg), nil
		}
	}
}

// turn begins another segment.
func (l *wal) turn() error {
	l.recycle()
	seg, err := l.take()
	if err != nil {
		return err
	}
	if l.current != nil {
		l.full = append(l.full, l.current)
	}
	l.current, l.at = seg, 0
	return nil
}

func (l *wal) take() (*segment, error) {
	if n := len(l.free); n > 0 {
		seg := l.free[n-1]
		l.free = l.free[:n-1]
		return seg, nil
	}
	l.name++
	name := walPrefix + strconv.Itoa(l.name)
	fd, err := create(l.s.commit, name)
	if err == nil {
		// Blocks that are there and written to: to flush them later, the file system has nothing to note.
		zero := make([]byte, walSegment)
		if err = l.s.writeAll(fd, zero, 0); err == nil {
			err = eintr(func() error { return l.s.os.fsync(fd) })
		}
		if err == nil {
			err = eintr(func() error { return l.s.os.fsync(l.s.commit) })
		}
		if err == nil {
			return &segment{name: name, fd: fd}, nil
		}
		_ = unix.Close(fd)
		_ = unix.Unlinkat(l.s.commit, name, 0) // one without a record does no harm either
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil, fmt.Errorf("%w: %w", errNoLog, err)
	}
	return nil, fmt.Errorf("make a segment of the log: %w", err)
}

// recycle frees the segments of which all is settled.
func (l *wal) recycle() {
	below := l.settled()
	l.full = slices.DeleteFunc(l.full, func(seg *segment) bool {
		if seg.last >= below {
			return false
		}
		if seg.broken || len(l.free) == maxFreeLogs {
			l.remove(seg)
		} else {
			l.free = append(l.free, seg)
		}
		return true
	})
}

func (l *wal) remove(seg *segment) {
	_ = unix.Close(seg.fd)
	if err := l.s.os.unlink(l.s.commit, seg.name); err != nil {
		l.s.log.Warn("a part of the log that is done with can't be removed; the next start does it", "error", err)
	}
}

// close ends the log. If all is settled its files go, so that the next start has nothing to look at.
func (l *wal) close() {
	if l.current != nil {
		l.full, l.current = append(l.full, l.current), nil
	}
	for _, seg := range l.full {
		if seg.last < l.settled() {
			l.remove(seg)
		} else {
			_ = unix.Close(seg.fd)
		}
	}
	for _, seg := range l.free {
		l.remove(seg)
	}
	l.full, l.free = nil, nil
}

// read reads a record again.
func (l *wal) read(at place) (record, error) {
	b := make([]byte, walSegment)
	n, err := unix.Pread(at.in.fd, b, at.at)
	if err != nil {
		return record{}, fmt.Errorf("read the log: %w", err)
	}
	r, _, err := decodeRecord(b[:n])
	if err != nil || r.number != at.number {
		return record{}, fmt.Errorf("read the log: record %d: %w", at.number, errTorn)
	}
	return r, nil
}

// recoverLog makes the files of what the log has and says nowhere that it is settled; first is
// the number of the first of these records.
func (s *Store) recoverLog(names []string) (rows []catalog.Row, first uint64, err error) {
	last := map[episode.ID]record{}
	settled := uint64(0)
	for _, name := range names {
		if !strings.HasPrefix(name, walPrefix) {
			continue
		}
		b, err := readAt(s.commit, name, walSegment)
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", name, err)
		}
		for _, r := range decodeSegment(b) {
			s.wal.next = max(s.wal.next, r.number+1)
			settled = max(settled, r.settled)
			if old, twice := last[r.item.Episode]; !twice || old.number < r.number {
				last[r.item.Episode] = r
			}
		}
	}
	for _, r := range last {
		if r.number < settled {
			continue
		}
		row, err := s.restore(r)
		if err != nil {
			return nil, 0, fmt.Errorf("store episode %s of host %s from the log: %w", r.item.Episode, r.item.Host, err)
		}
		rows = append(rows, row)
		if first == 0 || r.number < first {
			first = r.number
		}
	}
	return rows, first, nil
}

// restore makes the files of a record anew, durably. What it finds in their place,
// and be it the same, may be in memory only: of a flush that failed the kernel tells once.
func (s *Store) restore(r record) (row catalog.Row, err error) {
	it := r.item
	if !episode.ValidHost(it.Host) || strings.Contains(it.Day, "..") || !strings.HasPrefix(it.Day, it.Host+"/") {
		return row, fmt.Errorf("the log names host %.80q and day %.80q", it.Host, it.Day)
	}
	if err := durable.MkdirAll(s.path(episodesName, it.Day), dirMode); err != nil {
		return row, err
	}
	dir, err := openDir(s.ep, it.Day)
	if err != nil {
		return row, &fs.PathError{Op: "open", Path: it.Day, Err: err}
	}
	defer unix.Close(dir)
	there, err := readAt(dir, sidecarName(it.Episode), len(r.sidecar)+1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return row, &fs.PathError{Op: "read", Path: sidecarName(it.Episode), Err: err}
	}
	if row, err := readStored(dir, it.Host, it.Episode); err == nil && !bytes.Equal(there, r.sidecar) {
		// It was stored in another way, since the commit of this record failed.
		return row, s.syncDay(it.Day)
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{archiveName(it.Episode), r.archive}, {sidecarName(it.Episode), r.sidecar}} {
		if err := s.remake(dir, f.name, f.content); err != nil {
			return row, err
		}
	}
	if row, err = readStored(dir, it.Host, it.Episode); err != nil {
		return row, err
	}
	return row, s.syncDay(it.Day)
}

// remake puts a file into the place of whatever has it.
func (s *Store) remake(dir int, name string, content []byte) error {
	const temp = "remade"
	if err := s.os.unlink(s.commit, temp); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: temp, Err: err}
	}
	fd, err := create(s.commit, temp)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := s.writeAll(fd, content, 0); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := eintr(func() error { return s.os.fsync(fd) }); err != nil {
		return fmt.Errorf("flush %s: %w", name, err)
	}
	if err := eintr(func() error { return s.os.rename(s.commit, temp, dir, name) }); err != nil {
		return fmt.Errorf("rename %s: %w", name, err)
	}
	return nil
}
