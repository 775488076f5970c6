package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often sealed/ is looked at where inotify is unavailable.
const pollEvery = time.Second

// Watch returns a channel that gets a value soon after something was put into
// sealed/, at most one that waits to be read; also when sealed/ itself was
// replaced. Bursts are thinned so that a listing for each value takes at most a
// tenth of the time. It is closed when ctx ends.
//
// The channel always works: where inotify(7) is unavailable the error says so,
// and sealed/ is polled once a second instead.
func (q *Queue) Watch(ctx context.Context) (<-chan struct{}, error) {
	c := make(chan struct{}, 1)
	w, err := q.newWatch(ctx)
	if err != nil {
		err = fmt.Errorf("watch %s: %w; polling it once a second instead", q.path(sealedDir), err)
	}
	go func() {
		defer close(c)
		for ctx.Err() == nil {
			if w == nil {
				if w = q.poll(ctx, c); w == nil {
					return
				}
			}
			err := w.run(ctx, q, c)
			w.close()
			if err != nil && ctx.Err() == nil {
				q.log.Warn("Watching the queue failed; it is polled until it can be watched again.", "dir", q.path(sealedDir), "error", err)
			}
			w, _ = q.newWatch(ctx)
			wake(c) // for what came between two watches
		}
		if w != nil {
			w.close()
		}
	}()
	return c, err
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// poll wakes when sealed/ has changed, until sealed/ can be watched again (the
// watch is returned) or ctx ends (nil).
func (q *Queue) poll(ctx context.Context, c chan<- struct{}) *watch {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	var seen dirStamp
	for {
		var st unix.Stat_t
		if err := unix.Stat(q.path(sealedDir), &st); err == nil && !seen.unchanged(&st) {
			seen = stampOf(&st, q.now())
			wake(c)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if w, err := q.newWatch(ctx); err == nil {
			wake(c)
			return w
		}
	}
}

type watch struct {
	f            *os.File
	stop         func() bool
	root, sealed int32 // watch descriptors
}

const (
	arrivals = unix.IN_CREATE | unix.IN_MOVED_TO
	gone     = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_UNMOUNT | unix.IN_IGNORED
)

// newWatch watches sealed/ for what arrives in it, and the data directory for a
// new sealed/. Departures are not asked for: they are the queue's own doing.
func (q *Queue) newWatch(ctx context.Context) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("inotify_init: %w", err)
	}
	// os.File reads it through the runtime's poller, so that closing ends a read.
	w := &watch{f: os.NewFile(uintptr(fd), "inotify")}
	add := func(path string) (int32, error) {
		wd, err := unix.InotifyAddWatch(fd, path, arrivals|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR)
		if err != nil {
			return 0, fmt.Errorf("inotify_add_watch %s: %w", path, err)
		}
		return int32(wd), nil
	}
	// The data directory first: a sealed/ that is replaced in between is noticed.
	if w.root, err = add(q.root); err == nil {
		w.sealed, err = add(q.path(sealedDir))
	}
	if err != nil {
		w.f.Close()
		return nil, err
	}
	w.stop = context.AfterFunc(ctx, func() { w.f.Close() })
	return w, nil
}

func (w *watch) close() {
	w.stop()
	w.f.Close()
}

// run wakes until ctx ends, with an error, or until sealed/ or the data
// directory is no longer the one that is watched, without.
func (w *watch) run(ctx context.Context, q *Queue, c chan<- struct{}) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.f.Read(buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read inotify: %w", err)
		}
		arrived, replaced := parseEvents(buf[:n], w.root, w.sealed)
		if arrived || replaced {
			wake(c)
		}
		if replaced {
			// Whoever replaces it may take two steps; a new watch in between fails and is tried again.
			return nil
		}
		if arrived {
			gap := min(max(10*time.Duration(q.scan.cost.Load()), 2*time.Millisecond), time.Second)
			select {
			case <-time.After(gap):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// parseEvents goes through inotify_event records (inotify(7)).
func parseEvents(b []byte, root, sealed int32) (arrived, replaced bool) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if size > len(b) {
			break
		}
		name := string(trimNUL(b[unix.SizeofInotifyEvent:size]))
		b = b[size:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			arrived = true
		case mask&gone != 0:
			replaced = true
		case wd == sealed && mask&arrivals != 0:
			arrived = true
		case wd == root && mask&arrivals != 0 && name == sealedDir:
			replaced = true
		}
	}
	return arrived, replaced
}

func trimNUL(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}
