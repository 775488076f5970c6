package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/wire"
)

// ErrNotKept: the source of an acknowledged episode is no longer on this host.
var ErrNotKept = errors.New("not kept in shipped")

// againDir has an empty file for each episode that is to be sent once more
// although the ledger has a receipt for it. The next receipt takes it away.
const againDir = ".again"

// Kept finds the source of an acknowledged episode in shipped/; without one the
// error is ErrNotKept, or ErrWaiting if it is in sealed/ (again).
func (q *Queue) Kept(r wire.Receipt) (dir string, err error) {
	if _, err := os.Lstat(q.Dir(r.Episode)); err == nil {
		return "", fmt.Errorf("%s: %w", r.Episode, ErrWaiting)
	}
	days, err := readNames(q.path(shippedDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	// Most likely the day of the receipt, by the receiver's clock.
	if day := r.StoredAt.UTC().Format(dayLayout); slices.Contains(days, day) {
		days = append([]string{day}, days...)
	}
	for _, day := range days {
		if _, err := time.Parse(dayLayout, day); err != nil {
			continue
		}
		dir := q.path(shippedDir, day, r.Episode.String())
		switch _, err := os.Lstat(dir); {
		case err == nil:
			return dir, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
	}
	return "", fmt.Errorf("%s: %w", r.Episode, ErrNotKept)
}

// SendAgain puts an acknowledged episode that is still in shipped/ back into
// sealed/, durably, to be sent as if there had been no receipt. Its source must
// have the digest that the receipt names, else the error is ErrOtherDigest; for
// others see Kept. It may be called beside the process that ships.
func (q *Queue) SendAgain(r wire.Receipt) error {
	dir, err := q.Kept(r)
	if err != nil {
		return err
	}
	var here bag.Digest
	if here, err = digestOf(dir); err != nil {
		return fmt.Errorf("send %s again: %w", r.Episode, err)
	}
	if here != r.BagDigest {
		return fmt.Errorf("send %s again: %w: %s, here %s", r.Episode, ErrOtherDigest, r.BagDigest, here)
	}
	// The mark first: without it the next Lock frees the source by the receipt.
	err = durable.MkdirAll(q.path(againDir), 0o755)
	if err == nil {
		err = durable.WriteFile(q.path(againDir, r.Episode.String()), nil, 0o644)
	}
	if err == nil {
		err = renameNoReplace(dir, q.Dir(r.Episode))
	}
	if errors.Is(err, fs.ErrExist) {
		err = ErrWaiting
	}
	if err == nil {
		err = errors.Join(q.syncDir(q.path(sealedDir)), q.syncDir(filepath.Dir(dir)))
	}
	if err != nil {
		return fmt.Errorf("send %s again: %w", r.Episode, err)
	}
	return nil
}

// toBeSentAgain says whether receipts in the ledger do not free an episode.
func (q *Queue) toBeSentAgain(id episode.ID) (bool, error) {
	_, err := os.Lstat(q.path(againDir, id.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// sentAgain takes the mark away, once the new receipt is durable. Where a power
// cut brings it back, the episode is sent once more, or is not here.
func (q *Queue) sentAgain(id episode.ID) {
	if err := unix.Unlink(q.path(againDir, id.String())); err != nil && err != unix.ENOENT {
		q.log.Warn("The mark of an episode that was sent again could not be removed.", "episode", id, "error", err)
	}
}
