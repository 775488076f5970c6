package store

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"os"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/wire"
)

// Sidecar is what stands beside each archive: all that the catalogue knows,
// and the run.json. Behind its members there is one more, "sha256": the digest of
// the file's bytes before the comma in front of that member. Schema 1 had none.
type Sidecar struct {
	Schema  int             `json:"schema"` // 2
	Receipt wire.Receipt    `json:"receipt"`
	Facts   SidecarFacts    `json:"facts"`
	Archive SidecarArchive  `json:"archive"`
	Run     json.RawMessage `json:"run,omitempty"` // run.json, byte for byte
}

// SidecarFacts are the facts that the receipt does not hold.
type SidecarFacts struct {
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Size    int64     `json:"size_bytes"` // payload
	Files   int64     `json:"files"`
}

// SidecarArchive describes the archive.
type SidecarArchive struct {
	Frames       int   `json:"frames"`                  // 0: not counted
	ContentBytes int64 `json:"content_bytes,omitempty"` // of the tar stream in them; 0: not known
	SeekTable    bool  `json:"seek_table"`
}

// runFacts is what the catalogue takes from run.json.
type runFacts struct {
	Outcome  string `json:"outcome"`
	Workload string `json:"workload"`
}

const (
	sidecarSchema = 2
	maxSidecar    = episode.MaxRun + 64<<10 // bytes
)

func encodeSidecar(e *entry, seekTable bool) ([]byte, error) {
	sc := Sidecar{Schema: sidecarSchema, Receipt: e.row.Receipt,
		Facts:   SidecarFacts{e.Facts.Started.UTC(), e.Facts.Ended.UTC(), e.Facts.Size, e.Facts.Files},
		Archive: SidecarArchive{Frames: len(e.Frames), SeekTable: seekTable},
	}
	for _, f := range e.Frames {
		if f.Content < 0 {
			sc.Archive.ContentBytes = 0
			break
		}
		sc.Archive.ContentBytes += f.Content
	}
	head, err := json.Marshal(sc)
	if err != nil {
		return nil, fmt.Errorf("make the sidecar: %w", err)
	}
	// By hand, since Marshal would rewrite run.json.
	b := make([]byte, 0, len(head)+len(e.Run)+16)
	b = append(append(append(b, head[:len(head)-1]...), `,"run":`...), e.Run...)
	return fmt.Appendf(b, sidecarSum, sha256.Sum256(b)), nil
}

const sidecarSum = ",\"sha256\":\"%x\"}\n"

// sumHolds says whether a sidecar ends in the digest of what is before.
func sumHolds(b []byte) bool {
	at := len(b) - len(sidecarSum) + len("%x") - 2*sha256.Size
	return at >= 0 && string(b[at:]) == fmt.Sprintf(sidecarSum, sha256.Sum256(b[:at]))
}

// errDamaged is a stored episode that is not what it was.
var errDamaged = errors.New("damaged in the store")

// readSidecar reads the sidecar of an episode and checks it against the place
// where it was found and the size of the archive beside it. Errors are
// errDamaged, fs.ErrNotExist, or I/O errors.
func readSidecar(dir int, host string, id episode.ID) (sc Sidecar, row catalog.Row, err error) {
	if sc, row, err = sidecarAlone(dir, host, id); err != nil {
		return sc, row, err
	}
	switch size, found, err := exists(dir, archiveName(id)); {
	case err != nil:
		return sc, row, err
	case !found:
		return sc, row, fmt.Errorf("%w: %s has no archive beside it", errDamaged, sidecarName(id))
	case size != row.Receipt.ArchiveSize:
		return sc, row, fmt.Errorf("%w: %s has %d bytes, its receipt says %d", errDamaged, archiveName(id), size, row.Receipt.ArchiveSize)
	}
	return sc, row, nil
}

// sidecarAlone is readSidecar without a look at the archive.
func sidecarAlone(dir int, host string, id episode.ID) (sc Sidecar, row catalog.Row, err error) {
	name := sidecarName(id)
	fd := -1
	err = eintr(func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return sc, row, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSidecar+1))
	if err != nil {
		return sc, row, err
	}
	if len(b) > maxSidecar {
		return sc, row, fmt.Errorf("%w: %s has more than %d bytes", errDamaged, name, maxSidecar)
	}
	if err := json.Unmarshal(b, &sc); err != nil {
		return sc, row, fmt.Errorf("%w: %s: %w", errDamaged, name, err)
	}
	var run runFacts
	if err := json.Unmarshal(sc.Run, &run); err != nil {
		return sc, row, fmt.Errorf("%w: run.json in %s: %w", errDamaged, name, err)
	}
	r := sc.Receipt
	switch {
	case sc.Schema == sidecarSchema && !sumHolds(b):
		return sc, row, fmt.Errorf("%w: %s is not what its own checksum says", errDamaged, name)
	case sc.Schema != sidecarSchema && sc.Schema != 1:
		return sc, row, fmt.Errorf("%w: %s is of schema %d, this program knows %d", errDamaged, name, sc.Schema, sidecarSchema)
	case r.Episode != id || r.Host != host:
		return sc, row, fmt.Errorf("%w: %s of host %s holds the receipt of episode %s of host %.80q", errDamaged, name, host, r.Episode, r.Host)
	}
	return sc, catalog.Row{
		Facts:   episode.Facts{ID: id, Host: host, Digest: r.BagDigest, Started: episode.Seconds(sc.Facts.Started), Ended: episode.Seconds(sc.Facts.Ended), Size: sc.Facts.Size, Files: sc.Facts.Files},
		Receipt: r, Outcome: run.Outcome, Workload: run.Workload,
	}, nil
}

// inPlace looks for an episode where its start says it would be. What is found
// damaged there, and is not in the catalogue, is set aside: it must not stand
// in the way of the copy that the host still has.
func (s *Store) inPlace(host string, id episode.ID, started time.Time) (catalog.Row, bool, error) {
	d := day(host, started)
	there := false
	for _, name := range []string{sidecarName(id), markName(id)} {
		_, found, err := exists(s.ep, d+"/"+name)
		if err != nil {
			return catalog.Row{}, false, coded(err, "look for episode %s", id)
		}
		there = there || found
	}
	if !there {
		return catalog.Row{}, false, nil
	}
	dir, err := openDir(s.ep, d)
	if err != nil {
		return catalog.Row{}, false, coded(&fs.PathError{Op: "open", Path: d, Err: err}, "look for episode %s", id)
	}
	defer unix.Close(dir)
	row, err := readStored(dir, host, id)
	if err == nil && day(host, row.Facts.Started) != d {
		err = fmt.Errorf("%w: it started %s", errDamaged, row.Facts.Started.Format(time.RFC3339))
	}
	switch {
	case err == nil:
		return row, true, nil
	case errors.Is(err, fs.ErrNotExist):
		return catalog.Row{}, false, nil
	case !errors.Is(err, errDamaged):
		return catalog.Row{}, false, coded(err, "read the sidecar of episode %s", id)
	}
	suffix := ".damaged-" + s.opt.Now().UTC().Format("20060102T150405.000000Z")
	s.log.Error("an episode in the store is damaged; its files are set aside and the host's copy is asked for", "episode", id, "host", host, "suffix", suffix, "error", err)
	for _, name := range []string{sidecarName(id), archiveName(id)} {
		if err := eintr(func() error { return s.os.rename(dir, name, dir, name+suffix) }); err != nil && !errors.Is(err, unix.ENOENT) {
			return catalog.Row{}, false, coded(err, "set the damaged episode %s aside", id)
		}
	}
	return catalog.Row{}, false, nil
}

// syncDay flushes the names in a day's directory and in those above it.
func (s *Store) syncDay(path string) error {
	for p := path; ; {
		dir, err := openDir(s.ep, p)
		if err == nil {
			err = eintr(func() error { return s.os.fsync(dir) })
			_ = unix.Close(dir)
		}
		if err != nil {
			return fmt.Errorf("flush directory %s: %w", p, err)
		}
		if p == "." {
			return nil
		}
		if i := lastSlash(p); i >= 0 {
			p = p[:i]
		} else {
			p = "."
		}
	}
}

func lastSlash(p string) int {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] == '/' {
			return i
		}
	}
	return -1
}

// Sidecar reads what is kept beside the archive of an episode.
func (s *Store) Sidecar(row catalog.Row) (Sidecar, error) {
	d := day(row.Facts.Host, row.Facts.Started)
	dir, err := openDir(s.ep, d)
	if err != nil {
		return Sidecar{}, coded(&fs.PathError{Op: "open", Path: d, Err: err}, "episode %s", row.Facts.ID)
	}
	defer unix.Close(dir)
	sc, _, err := readSidecar(dir, row.Facts.Host, row.Facts.ID)
	if err != nil {
		return Sidecar{}, code.Wrap(code.ReceiverError, err, "episode %s of host %s", row.Facts.ID, row.Facts.Host)
	}
	return sc, nil
}
