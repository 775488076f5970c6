package queue

import (
	"context"
	"time"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
)

// Reason is why something is in quarantine: the content of reason.json.
type Reason struct {
	Schema        int        `json:"schema"` // 1
	Name          string     `json:"name"`   // what it was called in sealed/: the id, or a stray's name
	Code          code.Code  `json:"code"`
	Detail        string     `json:"detail"`
	Fix           string     `json:"fix"`            // the code's own when empty
	QuarantinedAt time.Time  `json:"quarantined_at"` // now when zero; age counts from it
	Receiver      string     `json:"receiver,omitempty"`
	Status        int        `json:"status,omitempty"`   // HTTP status of the verdict
	Attempts      int        `json:"attempts,omitempty"` // how often it was sent
	Digest        string     `json:"digest,omitempty"`   // bag digest, hex
	Size          int64      `json:"size,omitempty"`     // payload bytes
	Files         int64      `json:"files,omitempty"`    // payload files
	Started       *time.Time `json:"started,omitempty"`
	Ended         *time.Time `json:"ended,omitempty"`
	WindowID      string     `json:"window_id,omitempty"` // the receiver's window that it did not fit
}

// Describe fills in what is known of the episode, so that a later decision on
// it (does it fit into the new window?) needs not open it.
func (r *Reason) Describe(f episode.Facts) {
	s, e := f.Started.UTC(), f.Ended.UTC()
	r.Digest, r.Size, r.Files, r.Started, r.Ended = f.Digest.String(), f.Size, f.Files, &s, &e
}

// Quarantined is one entry of the quarantine.
type Quarantined struct {
	Name   string     // how Requeue, Discard and Show know it: the id for an episode
	ID     episode.ID // zero for a stray
	Day    string     // 2006-01-02, UTC
	Reason Reason
	Dir    string // the entry: holds reason.json and bag
	Err    error  // why reason.json could not be read; then Reason has only the zero code
}

// Bag is where the episode itself is.
func (e Quarantined) Bag() string { return e.Dir + "/bag" }

// Selection says which entries Requeue is about: All, or those with one of the
// Names or with one of the Codes.
type Selection struct {
	All   bool
	Names []string
	Codes []code.Code
}

// Quarantine moves name, an id or a stray as Scan reported it, from sealed/ to
// the quarantine. It is durable when it returns. An error that is fs.ErrNotExist
// says that sealed/ has no such thing (any more). The token of an upload of it
// is dropped.
func (q *Queue) Quarantine(name string, r Reason) error { return nil }

// List returns all that is in quarantine, oldest first, then by name.
func (q *Queue) List() ([]Quarantined, error) { return nil, nil }

// ListCode is List for the entries with one of the codes. Others are not opened
// again once their code is known.
func (q *Queue) ListCode(codes ...code.Code) ([]Quarantined, error) { return nil, nil }

// Show finds one entry by name. The error is ErrNotQuarantined if there is none.
func (q *Queue) Show(name string) (Quarantined, error) { return Quarantined{}, nil }

// Requeue puts entries back into sealed/, each durably and wholly or not at
// all. It goes on after a failure; done are those that succeeded, err joins the
// others' errors, each with its name (errors.Is: ErrNotQuarantined, ErrWaiting,
// ErrNotEpisode).
func (q *Queue) Requeue(ctx context.Context, sel Selection) (done []Quarantined, err error) {
	return nil, nil
}

// Discard removes one entry and the data in it for good.
func (q *Queue) Discard(name string) error { return nil }

// Counts is what is in quarantine, in figures.
type Counts struct {
	Total      int
	ByCode     map[code.Code]int // without the unreadable
	Unreadable int               // entries whose reason.json can't be read
	Oldest     time.Time         // the least quarantined_at; zero when empty
}

// Counts costs a stat per day that has entries, and reads only reasons that it
// has not seen yet.
func (q *Queue) Counts() (Counts, error) { return Counts{}, nil }

var _ = bag.Digest{}
