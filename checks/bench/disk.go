package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// disk gives each workload a folder on a file system that nothing was deleted
// from before: ext4 is slow for minutes after many deletions.
type disk struct {
	dir   string // "": a file system in a file of its own, made anew for each workload
	bytes int64
}

// fresh makes the folder, with more options for mkfs.ext4 where that is run; done
// takes it away with all that is in it.
func (d disk) fresh(ctx context.Context, mkfs ...string) (dir string, done func() error, err error) {
	if d.dir != "" {
		if err := os.MkdirAll(d.dir, 0o755); err != nil {
			return "", nil, err
		}
		dir, err = os.MkdirTemp(d.dir, "cis490-bench-")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	top, err := os.MkdirTemp("", "cis490-bench-")
	if err != nil {
		return "", nil, err
	}
	image, dir := filepath.Join(top, "ext4"), filepath.Join(top, "mnt")
	remove := func() error { return errors.Join(os.Remove(image), os.Remove(dir), os.Remove(top)) }
	for _, argv := range [][]string{
		{"mkdir", dir},
		{"truncate", "-s", strconv.FormatInt(d.bytes, 10), image},
		append([]string{"mkfs.ext4", "-q", "-i", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", image}, mkfs...),
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			_ = remove() // the other error counts
			return "", nil, fmt.Errorf("%v: %w: %s", argv, err, out)
		}
	}
	return dir, func() error {
		var err error
		for range 40 { // processes that were killed may take a moment to go
			if err = unix.Unmount(dir, 0); err == nil {
				return remove()
			}
			time.Sleep(50 * time.Millisecond)
		}
		return fmt.Errorf("unmount %s: %w", dir, err)
	}, nil
}
