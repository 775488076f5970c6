package episode

import (
	"context"
	"errors"
	"time"

	"cis490/src/bag"
)

// SealOptions says what the files can't. The zero value of a field stands for its default.
type SealOptions struct {
	ID           ID        // default: a new one
	Host         string    // required
	Workload     string    // default: the base name of the source
	Description  string    // for people
	Organization string    // Source-Organization; default "unspecified"
	Agent        string    // Bag-Software-Agent, a program and its version; default "cis490"
	Started      time.Time // of the run that left the files; default: when sealing began
	Ended        time.Time // default: when sealing ended
	Outcome      Outcome   // default Complete
	Reason       string    // of an outcome that is not Complete

	Move         bool              // take the source by rename instead of copying it
	AllowChanged bool              // seal a file that is written to while it is copied as it was read, and say so in files.jsonl
	Workers      int               // files copied and hashed at a time; default: one for each CPU
	Progress     func(bytes int64) // called as bytes are hashed, from several goroutines
}

// Sealed is what sealing made.
type Sealed struct {
	Facts
	Dir     string         // the episode, below sealed/
	Skipped []bag.FileMeta // what was left out
	Changed []string       // what was written to while it was copied, with AllowChanged
}

// SealDir makes an episode of the tree below src and puts it into the queue of dataDir.
func SealDir(ctx context.Context, src, dataDir string, opt SealOptions) (Sealed, error) {
	return Sealed{}, errors.ErrUnsupported
}

// Spec is an episode to be made from memory.
type Spec struct {
	Run          Run // an empty ID is made; empty times are now; empty outcome is Complete
	Files        []File
	Organization string
	Agent        string
}

// File is a payload file to be made from memory.
type File struct {
	Path    string // below data/, as "output/result.csv" or "stdout.log"
	Data    []byte
	ModTime time.Time // default: now
	Exec    bool
}

// Make makes sealed episodes from memory in dataDir, any number at the price of one flush of the file system.
func Make(ctx context.Context, dataDir string, specs ...Spec) ([]Sealed, error) {
	return nil, errors.ErrUnsupported
}
