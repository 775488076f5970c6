package queue

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/durable"
	"cis490/src/episode"
)

// Upload is the token of an upload that was begun and may be resumed.
type Upload struct {
	URL     string     `json:"url"`                // absolute: where HEAD and PATCH go
	Digest  bag.Digest `json:"digest"`             // of the content that the upload was begun for
	Created time.Time  `json:"created"`            // by this host's clock
	Sent    int64      `json:"sent,omitempty"`     // tar bytes that the receiver is known to hold; for display
	Size    int64      `json:"tar_size,omitempty"` // tar bytes in all; for display
}

// SaveUpload keeps u for id, for this process and the next. It is not fsynced:
// a lost token costs a new upload, nothing else.
func (q *Queue) SaveUpload(id episode.ID, u Upload) error {
	b, err := json.Marshal(u)
	if err == nil {
		tmp := q.path(uploadsDir, ".tmp-"+id.String())
		if err = os.WriteFile(tmp, append(b, '\n'), 0o644); err == nil {
			err = os.Rename(tmp, q.uploadFile(id))
		}
		if err != nil {
			os.Remove(tmp)
		}
	}
	if err != nil {
		return fmt.Errorf("keep the upload token of %s: %w", id, err)
	}
	return nil
}

// LoadUpload returns the token kept for id; ok is false when there is none that
// can be read.
func (q *Queue) LoadUpload(id episode.ID) (u Upload, ok bool) {
	b, err := readSmall(q.uploadFile(id), 64<<10)
	if err != nil || json.Unmarshal(b, &u) != nil || u.URL == "" {
		return Upload{}, false
	}
	return u, true
}

// DropUpload forgets the token of id. Acknowledge and Quarantine do so by themselves.
func (q *Queue) DropUpload(id episode.ID) error {
	if err := os.Remove(q.uploadFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop the upload token of %s: %w", id, err)
	}
	return nil
}

func (q *Queue) uploadFile(id episode.ID) string { return q.path(uploadsDir, id.String()+".json") }

// pruneUploads drops the tokens of what no longer waits.
func (q *Queue) pruneUploads(waiting []episode.ID) {
	names, err := readNames(q.path(uploadsDir))
	for _, n := range names {
		stem, isToken := strings.CutSuffix(n, ".json")
		id, isID := parseID([]byte(stem))
		_, waits := slices.BinarySearchFunc(waiting, id, episode.ID.Compare)
		if isToken && isID && !waits || strings.HasPrefix(n, ".tmp-") {
			err = errors.Join(err, os.Remove(q.path(uploadsDir, n)))
		}
	}
	if err != nil {
		q.log.Warn("Useless upload tokens could not be removed.", "error", err)
	}
}

// DeathsToIsolate is the number of deaths after which an episode is tried alone,
// at the end of the queue (code attempt-died).
const DeathsToIsolate = 3

// MaxSlots bounds the in-flight slots: 0 to MaxSlots-1.
const MaxSlots = 1024

// What each worker is sending stands in a file of fixed slots, written without
// fsync: it has to outlive the process, which the page cache does. After a power
// cut a slot may be old; the worst that comes of it is a death too many or too few.
const (
	slotsFile  = uploadsDir + "/.in-flight"
	deathsFile = uploadsDir + "/.deaths.json"
	slotSize   = 32 // id, flags, 11 bytes unused, CRC-32C of the rest

	flagSending  = 1
	flagAdvanced = 2
)

type slots struct {
	mu     sync.Mutex
	f      *os.File
	ids    map[int]episode.ID
	by     map[episode.ID]slotState
	deaths map[episode.ID]int
}

type slotState struct {
	slot     int
	advanced bool
}

func slotBytes(id episode.ID, flags byte) []byte {
	b := make([]byte, slotSize)
	copy(b, id[:])
	b[16] = flags
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], crcTable))
	return b
}

// Begin notes that worker slot begins to send id. The note costs a pwrite(2),
// no fsync. If the process dies before End, the next Lock counts a death of id.
func (q *Queue) Begin(slot int, id episode.ID) error {
	s := &q.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.put(slot, slotBytes(id, flagSending)); err != nil {
		return fmt.Errorf("note that %s is being sent: %w", id, err)
	}
	if old, ok := s.ids[slot]; ok {
		delete(s.by, old)
	}
	s.ids[slot], s.by[id] = id, slotState{slot: slot}
	return nil
}

// End notes that the attempt in slot ended, however it did.
func (q *Queue) End(slot int) error {
	s := &q.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.put(slot, make([]byte, slotSize)); err != nil {
		return fmt.Errorf("note that an attempt ended: %w", err)
	}
	if id, ok := s.ids[slot]; ok {
		delete(s.ids, slot)
		delete(s.by, id)
	}
	return nil
}

func (s *slots) put(slot int, b []byte) error {
	if s.f == nil {
		return ErrNotLocked
	}
	if slot < 0 || slot >= MaxSlots {
		return fmt.Errorf("no slot %d", slot)
	}
	_, err := s.f.WriteAt(b, int64(slot)*slotSize)
	return err
}

// Advanced notes that the receiver acknowledged bytes of id that it had not
// acknowledged before: its deaths so far, and one of this attempt, count no more.
// It may be called for every acknowledgement; only the first of an attempt costs anything.
func (q *Queue) Advanced(id episode.ID) error {
	s := &q.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if st, ok := s.by[id]; ok && !st.advanced {
		if err := s.put(st.slot, slotBytes(id, flagSending|flagAdvanced)); err != nil {
			errs = append(errs, err)
		} else {
			s.by[id] = slotState{st.slot, true}
		}
	}
	if s.deaths[id] > 0 {
		delete(s.deaths, id)
		errs = append(errs, q.saveDeaths())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("note that %s moved on: %w", id, err)
	}
	return nil
}

// Deaths is how often the process died while it sent id, with no newly
// acknowledged byte in between.
func (q *Queue) Deaths(id episode.ID) int {
	q.slots.mu.Lock()
	defer q.slots.mu.Unlock()
	return q.slots.deaths[id]
}

// countDeaths reads what the last process was sending when it ended and adds
// it up. Ids that no longer wait are forgotten.
func (q *Queue) countDeaths(waiting []episode.ID) error {
	s := &q.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids, s.by, s.deaths = map[int]episode.ID{}, map[episode.ID]slotState{}, map[episode.ID]int{}
	if b, err := readSmall(q.path(deathsFile), 16<<20); err == nil {
		var saved map[episode.ID]int
		if err := json.Unmarshal(b, &saved); err != nil {
			q.log.Warn("The record of attempts that died can't be read; it begins anew.", "file", q.path(deathsFile), "error", err)
		}
		for id, n := range saved {
			if n > 0 {
				s.deaths[id] = n
			}
		}
	}
	before := maps.Clone(s.deaths)
	f, err := os.OpenFile(q.path(slotsFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("open the in-flight slots: %w", err)
	}
	b := make([]byte, MaxSlots*slotSize)
	n, _ := f.ReadAt(b, 0)
	for b := range slices.Chunk(b[:n], slotSize) {
		if len(b) < slotSize || b[16]&flagSending == 0 || crc32.Checksum(b[:28], crcTable) != binary.LittleEndian.Uint32(b[28:]) {
			continue
		}
		id := episode.ID(b[:16])
		if b[16]&flagAdvanced != 0 {
			delete(s.deaths, id)
		} else {
			s.deaths[id]++
		}
	}
	for id := range s.deaths {
		if _, waits := slices.BinarySearchFunc(waiting, id, episode.ID.Compare); !waits {
			delete(s.deaths, id)
		}
	}
	// First the sum, then the slots: a death between the two counts twice rather than not at all.
	if !maps.Equal(before, s.deaths) {
		err = q.saveDeaths()
	}
	if err = errors.Join(err, f.Truncate(0)); err != nil {
		f.Close()
		return fmt.Errorf("count the attempts that died: %w", err)
	}
	s.f = f
	return nil
}

func (q *Queue) saveDeaths() error {
	b, err := json.Marshal(q.slots.deaths)
	if err != nil {
		return err
	}
	return durable.WriteFile(q.path(deathsFile), append(b, '\n'), 0o644)
}

// close clears the slots: a stop is no death.
func (s *slots) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil
	}
	err := errors.Join(s.f.Truncate(0), s.f.Close())
	s.f = nil
	return err
}
