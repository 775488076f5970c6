package store

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
)

// OpenArchive opens the archive of a stored episode for reading. found is
// false when the catalogue doesn't list it.
func (s *Store) OpenArchive(ctx context.Context, id episode.ID) (f *os.File, row catalog.Row, found bool, err error) {
	row, found, err = s.Lookup(ctx, id)
	if err != nil || !found {
		return nil, row, false, err
	}
	f, err = os.OpenFile(s.ArchivePath(row.Facts), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, row, true, code.Wrap(code.ReceiverError, err, "open the archive of episode %s of host %s", id, row.Facts.Host)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != row.Receipt.ArchiveSize {
		f.Close()
		if err != nil {
			return nil, row, true, code.Wrap(code.ReceiverError, err, "episode %s of host %s", id, row.Facts.Host)
		}
		return nil, row, true, code.New(code.Damaged, "the archive of episode %s of host %s has %d bytes, its receipt says %d", id, row.Facts.Host, fi.Size(), row.Receipt.ArchiveSize)
	}
	return f, row, true, nil
}

// Verify reads the archive of a stored episode anew and checks every digest in
// it, up to the bag digest of the receipt. progress, which may be nil, is told
// of the archive's bytes as they are read. found is false when the catalogue
// doesn't list the episode.
func (s *Store) Verify(ctx context.Context, id episode.ID, progress func(bytes int64)) (v *pack.Verified, found bool, err error) {
	f, row, found, err := s.OpenArchive(ctx, id)
	if err != nil || !found {
		return nil, found, err
	}
	defer f.Close()
	w := s.opt.Worker("store verify " + id.String())
	defer w.Done()
	w.Within(s.opt.Within)
	d := pack.NewDecoder(&reader{ctx: ctx, r: f, w: w, progress: progress})
	defer d.Close()
	v, err = pack.Verify(d, row.Facts, pack.Limits{}) // it was within the limits when it came
	if err != nil {
		if ctx.Err() != nil {
			return nil, true, ctx.Err()
		}
		if _, is := code.Of(err); !is { // the disk's fault, for all that is known
			return nil, true, coded(err, "read episode %s of host %s", id, row.Facts.Host)
		}
		return nil, true, code.Wrap(code.Damaged, err, "episode %s of host %s", id, row.Facts.Host)
	}
	return v, true, nil
}

// Extract unpacks a stored episode, verified, into a new directory dest/<id>.
func (s *Store) Extract(ctx context.Context, id episode.ID, dest string) (dir string, found bool, err error) {
	f, row, found, err := s.OpenArchive(ctx, id)
	if err != nil || !found {
		return "", found, err
	}
	defer f.Close()
	w := s.opt.Worker("store extract " + id.String())
	defer w.Done()
	w.Within(s.opt.Within)
	dir, err = pack.Extract(ctx, &reader{ctx: ctx, r: f, w: w}, dest)
	if err != nil {
		return "", true, coded(err, "extract episode %s of host %s", id, row.Facts.Host)
	}
	return dir, true, nil
}

// reader reads until ctx ends, and tells how far it is.
type reader struct {
	ctx      context.Context
	r        io.Reader
	w        Worker
	progress func(int64)
	n        int64
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	r.n += int64(n)
	r.w.Progress()
	if r.progress != nil {
		r.progress(r.n)
	}
	return n, err
}
