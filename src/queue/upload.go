package queue

import (
	"time"

	"cis490/src/bag"
	"cis490/src/episode"
)

// Upload is the token of an upload that was begun and may be resumed.
type Upload struct {
	URL     string     `json:"url"`      // absolute: where HEAD and PATCH go
	Digest  bag.Digest `json:"digest"`   // of the content that the upload was begun for
	Created time.Time  `json:"created"`  // by this host's clock
	Sent    int64      `json:"sent"`     // tar bytes that the receiver is known to hold; for display
	Size    int64      `json:"tar_size"` // tar bytes in all; for display
}

// SaveUpload keeps u for id, for this process and the next. It is not fsynced:
// a lost token costs a new upload, nothing else.
func (q *Queue) SaveUpload(id episode.ID, u Upload) error { return nil }

// LoadUpload returns the token kept for id; ok is false when there is none that
// can be read.
func (q *Queue) LoadUpload(id episode.ID) (u Upload, ok bool) { return Upload{}, false }

// DropUpload forgets the token of id. Acknowledge and Quarantine do so by themselves.
func (q *Queue) DropUpload(id episode.ID) error { return nil }

// DeathsToIsolate is the number of deaths after which an episode is tried alone,
// at the end of the queue (code attempt-died).
const DeathsToIsolate = 3

// MaxSlots bounds the in-flight slots: 0 to MaxSlots-1.
const MaxSlots = 1024

// Begin notes that worker slot begins to send id. The note costs a pwrite(2),
// no fsync. If the process dies before End, the next Lock counts a death of id.
func (q *Queue) Begin(slot int, id episode.ID) error { return nil }

// End notes that the attempt in slot ended, however it did.
func (q *Queue) End(slot int) error { return nil }

// Advanced notes that the receiver acknowledged bytes of id that it had not
// acknowledged before: its deaths so far, and one of this attempt, count no more.
func (q *Queue) Advanced(id episode.ID) error { return nil }

// Deaths is how often the process died while it sent id, with no newly
// acknowledged byte in between.
func (q *Queue) Deaths(id episode.ID) int { return 0 }
