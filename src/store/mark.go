package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/wire"
)

// Mark stands beside an archive that was found damaged, and outlives the
// catalogue. It repeats what the sidecar said: that may be what is damaged, and
// an episode that was acknowledged must not be forgotten for it.
type Mark struct {
	Schema   int          `json:"schema"` // 1
	FoundAt  time.Time    `json:"found_at"`
	What     string       `json:"what"`
	Receipt  wire.Receipt `json:"receipt"`
	Facts    SidecarFacts `json:"facts"`
	Outcome  string       `json:"outcome"`
	Workload string       `json:"workload"`
}

const (
	markSchema = 1
	markSuffix = ".damaged.json"
	maxMark    = 64 << 10 // bytes
)

func markName(id episode.ID) string { return id.String() + markSuffix }

// text is what the catalogue says of the damage.
func (m *Mark) text() string { return m.FoundAt.UTC().Format(time.RFC3339) + ": " + m.What }

func (m *Mark) row() catalog.Row {
	return catalog.Row{
		Facts: episode.Facts{ID: m.Receipt.Episode, Host: m.Receipt.Host, Digest: m.Receipt.BagDigest, Started: episode.Seconds(m.Facts.Started),
			Ended: episode.Seconds(m.Facts.Ended), Size: m.Facts.Size, Files: m.Facts.Files},
		Receipt: m.Receipt, Outcome: m.Outcome, Workload: m.Workload, Damaged: m.text(),
	}
}

// mark makes it durable that the episode of a row is damaged, in its directory,
// which is made again if it is gone, and then in the catalogue. path is what is
// damaged, below the store's directory. The caller holds the episode. The first mark
// stands until it is lifted.
func (s *Store) mark(row catalog.Row, path, what string) (catalog.Row, error) {
	now := s.opt.Now()
	if row.Damaged == "" {
		m := Mark{Schema: markSchema, FoundAt: now.UTC().Truncate(time.Second), What: what, Receipt: row.Receipt,
			Facts: SidecarFacts{row.Facts.Started.UTC(), row.Facts.Ended.UTC(), row.Facts.Size, row.Facts.Files}, Outcome: row.Outcome, Workload: row.Workload}
		if err := s.writeMark(day(row.Facts.Host, row.Facts.Started), m); err != nil {
			return row, coded(err, "mark episode %s of host %s as damaged", row.Facts.ID, row.Facts.Host)
		}
		row.Damaged = m.text()
		s.tell(Finding{Kind: FoundDamaged, Host: row.Facts.Host, Episode: row.Facts.ID, Path: path, What: what})
	}
	row.CheckedAt = now
	if err := s.cat.Load().SetChecked(context.Background(), []catalog.Check{{ID: row.Facts.ID, At: now, Damaged: row.Damaged}}); err != nil {
		return row, s.catalogueFailed(err)
	}
	return row, nil
}

// inStore is the path below the store's directory of a file of an episode.
func (s *Store) inStore(row catalog.Row, name string) string {
	return episodesName + "/" + day(row.Facts.Host, row.Facts.Started) + "/" + name
}

// writeMark begins the file in incoming/.commit, which the next start empties.
func (s *Store) writeMark(d string, m Mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(s.path(episodesName, d), dirMode); err != nil {
		return err
	}
	dir, err := openDir(s.ep, d)
	if err != nil {
		return &fs.PathError{Op: "open", Path: d, Err: err}
	}
	defer unix.Close(dir)
	name := strconv.FormatUint(s.seq.Add(1), 36) + ".m"
	fd, err := create(s.commit, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = s.writeAll(fd, append(b, '\n'), 0)
	if err == nil {
		err = eintr(func() error { return s.os.fsync(fd) })
	}
	if err == nil {
		err = eintr(func() error { return s.os.rename(s.commit, name, dir, markName(m.Receipt.Episode)) })
	}
	if err != nil {
		_ = s.os.unlink(s.commit, name) // else the next start does it
		return err
	}
	return eintr(func() error { return s.os.fsync(dir) })
}

// unmark lifts the mark, if there is one, in the episode's directory. The
// catalogue is told behind that.
func (s *Store) unmark(dir int, id episode.ID) error {
	err := s.os.unlink(dir, markName(id))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = eintr(func() error { return s.os.fsync(dir) })
	}
	if err != nil {
		return fmt.Errorf("lift the mark of episode %s: %w", id, err)
	}
	return nil
}

// readStored reads what a day's directory says of an episode: its sidecar, and
// whether it is marked as damaged. Where the sidecar is gone or damaged but the
// mark is there, it has the mark's word. Errors are those of readSidecar.
func readStored(dir int, host string, id episode.ID) (catalog.Row, error) {
	_, row, err := readSidecar(dir, host, id)
	m, merr := readMark(dir, host, id)
	switch {
	case err != nil && !errors.Is(err, errDamaged) && !errors.Is(err, fs.ErrNotExist):
		return row, err
	case merr != nil && !errors.Is(merr, errDamaged):
		return row, merr
	case err == nil && merr != nil:
		row.Damaged = "what was found can't be read any more: " + merr.Error()
		return row, nil
	case err == nil && m != nil:
		row.Damaged = m.text()
		return row, nil
	case err != nil && m != nil:
		return m.row(), nil
	}
	return row, err
}

// readMark reads the mark of an episode of a host; nil if it has none. Errors are
// errDamaged or I/O errors.
func readMark(dir int, host string, id episode.ID) (*Mark, error) {
	name := markName(id)
	fd := -1
	err := eintr(func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMark))
	if err != nil {
		return nil, err
	}
	m := &Mark{}
	if err := json.Unmarshal(b, m); err != nil || m.Schema != markSchema || m.Receipt.Episode != id || m.Receipt.Host != host {
		return nil, fmt.Errorf("%w: %s is not the mark of episode %s of host %s", errDamaged, name, id, host)
	}
	return m, nil
}
