package queue

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
)

// Expiring counts by code what the clean-up will have taken from the quarantine
// below dataDir by the time by, with what is kept for keep. It only reads, and
// only days that can have expired by then; whole is false when it stopped after
// most entries.
func Expiring(ctx context.Context, dataDir string, keep time.Duration, by time.Time, most int) (n map[code.Code]int, whole bool, err error) {
	q := &Queue{root: dataDir}
	days, err := q.expirable(quarantineDir, by, keep)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	n = map[code.Code]int{}
	seen := 0
	var buf []byte
	for _, day := range days {
		fd, _, err := q.openDay(day)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, &fs.PathError{Op: "open", Path: filepath.Join(dataDir, quarantineDir, day), Err: err}
		}
		err = readDir(ctx, fd, func(name []byte, typ byte, _ uint64) {
			if typ != unix.DT_DIR || seen > most {
				return
			}
			seen++
			var b brief
			var err error
			if b, buf, err = readBrief(fd, name, buf); err == nil && by.Sub(b.QuarantinedAt) >= keep {
				n[b.Code]++
			}
		})
		_ = unix.Close(fd) // only read
		if err != nil {
			return nil, false, err
		}
	}
	return n, seen <= most, nil
}
