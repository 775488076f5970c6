// Package store keeps the episodes that the receiver has accepted.
//
// What it promises: when Commit returns without an error, archive and sidecar
// of the episode are on the disk under their final names, so are the names of
// every directory above them, and the catalogue lists the episode. When it
// returns an error, or the machine stops half-way, the episode is not there
// at all, or it is there whole; which of the two, the next Open settles before
// it returns. The same episode committed twice, at once or a year apart, is
// stored once and has one receipt.
//
// The store is a directory:
//
//	catalogue.sqlite                                  an index; rebuilt from the sidecars when it is gone
//	incoming/                                         the caller's: uploads on their way
//	incoming/.commit/                                 ours: what is about to get its name
//	episodes/<host>/<yyyy>/<mm>/<dd>/<id>.tar.zst     the pack, with a seek table at its end
//	episodes/<host>/<yyyy>/<mm>/<dd>/<id>.json        the sidecar: receipt, facts, run.json
//
// The date is the UTC day of the episode's start.
package store

import (
	"context"
	"log/slog"
	"os"
	"time"

	"cis490/src/bag"
	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/wire"
)

// Worker is how a long-running part of the store says that it still moves;
// *liveness.Worker is one.
type Worker interface {
	Within(d time.Duration) // the next report comes within d
	Progress()              // a step forward
	Idle()                  // waiting for work: no report is due
	Done()                  // never to be heard of again
}

// Options of a store. The zero value is usable.
type Options struct {
	Log             *slog.Logger             // nil: slog.Default()
	ReceiverVersion string                   // goes into receipts
	MinFree         int64                    // bytes that Reserve leaves free on the file system
	Worker          func(name string) Worker // nil: nobody watches
	Within          time.Duration            // deadline of one step of a commit for the watchdog; 0: 30 s
	Progress        func(episodes int64)     // called now and then while Open rebuilds the catalogue
	Now             func() time.Time         // nil: time.Now
}

// Item is one verified episode to be stored.
type Item struct {
	Facts    episode.Facts
	WindowID string // of the window that admitted it
	Run      []byte // run.json

	// The archive: either whole in memory, or a file in IncomingDir, named
	// relative to it. Commit appends the seek table to the file and, if it
	// stores the episode, takes the file away; in every other case the file is
	// as before and still the caller's, unless its flush failed: then it is
	// removed, since nobody can know any more what is in it.
	Archive     []byte
	ArchiveFile string
	// ArchiveFD may be the descriptor through which ArchiveFile was written:
	// only one that was open all the time is sure to report every write that
	// failed in the background (fsync(2)). Commit doesn't close it.
	ArchiveFD *os.File

	Frames []pack.FrameInfo // the archive's zstd frames; nil or of unknown content size: no seek table
}

// Sidecar is what stands beside each archive.
type Sidecar struct {
	Schema  int           `json:"schema"` // 1
	Receipt wire.Receipt  `json:"receipt"`
	Facts   SidecarFacts  `json:"facts"`
	Archive SidecarFrames `json:"archive"`
	Run     []byte        `json:"-"` // run.json as it came, the member "run"
}

// SidecarFacts are the facts that the receipt does not hold.
type SidecarFacts struct {
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Size    int64     `json:"size_bytes"` // payload
	Files   int64     `json:"files"`
}

// SidecarFrames describes the archive.
type SidecarFrames struct {
	Bytes     int64 `json:"bytes"`         // the file, seek table included
	Frames    int   `json:"frames"`        // 0: not counted
	Content   int64 `json:"content_bytes"` // tar bytes in them
	SeekTable bool  `json:"seek_table"`
}

var _ = []any{bag.Digest{}, code.Stored, catalog.Row{}, context.Background}
