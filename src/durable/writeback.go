package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// Writeback sets the disk to work on a file while more of it is written, so that
// the fsync at the end finds little left to do. It makes nothing durable.
type Writeback struct{ begun int64 }

// writebackEvery is after how many bytes the disk is set to work; up to so many are
// left to the fsync.
const writebackEvery = 4 << 20

// Wrote says that f ends at byte end now, which may be less than before.
func (w *Writeback) Wrote(f *os.File, end int64) {
	w.begun = min(w.begun, end)
	if end-w.begun < writebackEvery {
		return
	}
	// Only a hint: an error here comes again at the fsync, which is the one that
	// counts (sync_file_range(2)).
	_ = unix.SyncFileRange(int(f.Fd()), w.begun, end-w.begun, unix.SYNC_FILE_RANGE_WRITE)
	w.begun = end
}
