package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/durable"
)

// removers bounds how many episodes are unlinked at once. Unlinking competes
// with the ledger for the file system's journal, so more is not faster.
const removers = 2

// Unlinking an episode of a dozen small files costs several times the processor
// time of acknowledging it, and what makes room can wait a little for what makes
// progress. So while acknowledgements come in close succession nothing is unlinked,
// unless too much has piled up.
const (
	succession   = 20 * time.Millisecond
	pileEpisodes = 5000
	pileBytes    = 1 << 30 // of the archives; the sources are somewhat larger
)

// stepLimit is how long one step of the removal may take: see WithWorker.
const stepLimit = 5 * time.Minute

// remover unlinks what Acknowledge moved out of sight. Sources are collected in
// a generation, a directory of its own in .removing/. A generation is closed,
// the directories that it came from and went to are fsynced, once for all that
// is in it, and then it is unlinked: so no power cut can bring back half an
// episode into sealed/.
type remover struct {
	mu      sync.Mutex
	current string          // path of the open generation; "": none
	filled  int             // sources in it
	bytes   int64           // of their archives
	kept    map[string]bool // shipped/<day> directories that got a source since the last fsync
	made    int             // generations made by this process
	own     map[string]bool // names of generations that are not for a sweep

	acked    atomic.Int64 // when the last group was acknowledged, ns since the epoch
	episodes atomic.Int64 // acknowledged and not unlinked yet
	pile     atomic.Int64 // bytes of their archives

	work chan struct{} // something was moved
	quit chan struct{}
	done sync.WaitGroup
}

func (r *remover) start(q *Queue) {
	r.mu.Lock()
	r.current, r.filled, r.bytes, r.kept, r.own = "", 0, 0, map[string]bool{}, map[string]bool{}
	r.mu.Unlock()
	r.episodes.Store(0)
	r.pile.Store(0)
	r.work, r.quit = make(chan struct{}, 1), make(chan struct{})
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		defer q.worker.Idle()
		q.worker.Within(stepLimit)
		for _, f := range q.sweep(context.Background(), q.worker) {
			q.log.Warn("What is out of sight could not all be removed; the next clean-up tries again.", "path", f.Name, "error", f.Err)
		}
		q.worker.Idle()
		for {
			select {
			case <-r.quit:
				return
			case <-r.work:
				q.worker.Within(stepLimit)
				r.pass(q)
				q.worker.Idle()
			}
		}
	}()
}

// stop ends the removal and makes durable what was moved.
func (r *remover) stop(q *Queue) error {
	close(r.quit)
	r.done.Wait()
	_, _, err := r.settle(q)
	return err
}

func (r *remover) stopping() bool {
	select {
	case <-r.quit:
		return true
	default:
		return false
	}
}

// take moves an episode's source to where it belongs after its receipt: out of
// sight, or into shipped/ if it is kept. The caller is the committer.
func (r *remover) take(q *Queue, name string, size int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := q.path(sealedDir, name)
	if time.Duration(q.keepShipped.Load()) > 0 {
		dir := q.path(shippedDir, q.now().UTC().Format(dayLayout))
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		r.kept[dir] = true
		err := renameNoReplace(from, filepath.Join(dir, name))
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		// Acknowledged twice on one day: one copy is enough.
	}
	for try := 0; ; try++ {
		if r.current == "" {
			if err := r.begin(q); err != nil {
				return err
			}
		}
		err := renameNoReplace(from, filepath.Join(r.current, name+"."+strconv.Itoa(r.filled)))
		if err == nil {
			r.filled++
			r.bytes += size
			r.episodes.Add(1)
			r.pile.Add(size)
			return nil
		}
		if _, serr := os.Lstat(r.current); try > 0 || serr == nil {
			return err
		}
		r.current = "" // somebody tidied up
	}
}

func (r *remover) begin(q *Queue) error {
	r.made++
	name := fmt.Sprintf("acknowledged.%d.%s.%d", os.Getpid(), strconv.FormatInt(time.Now().UnixNano(), 36), r.made)
	path := q.path(removingDir, name)
	if err := durable.MkdirAll(q.path(removingDir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	if err := q.syncDir(q.path(removingDir)); err != nil {
		return err
	}
	r.current, r.filled, r.bytes = path, 0, 0
	r.own[name] = true
	return nil
}

// pass unlinks one generation.
func (r *remover) pass(q *Queue) {
	gen, size, err := r.settle(q)
	if err != nil {
		// The generation stays: what the disk has of it is not known, and the
		// next process finds it, with everything flushed.
		q.log.Error("Acknowledged episodes stay on this disk until the next start.", "error", err)
		return
	}
	if gen == "" {
		return
	}
	entries, err := readNames(gen)
	if err != nil {
		q.log.Warn("Acknowledged episodes could not be removed yet.", "dir", gen, "error", err)
	}
	each := size / int64(max(len(entries), 1))
	next := make(chan string)
	var wg sync.WaitGroup
	for range removers {
		wg.Go(func() {
			for e := range next {
				r.giveWay(q)
				if err := removeTree(filepath.Join(gen, e), q.worker); err != nil {
					q.log.Warn("An acknowledged episode could not be removed; the next clean-up tries again.", "path", filepath.Join(gen, e), "error", err)
				}
				r.episodes.Add(-1)
				r.pile.Add(-each)
			}
		})
	}
	for _, e := range entries {
		if r.stopping() {
			break
		}
		next <- e
	}
	close(next)
	wg.Wait()
	os.Remove(gen) // unless something is left
	r.mu.Lock()
	delete(r.own, filepath.Base(gen))
	r.mu.Unlock()
}

// giveWay lets acknowledgements go first.
func (r *remover) giveWay(q *Queue) {
	for r.episodes.Load() <= pileEpisodes && r.pile.Load() <= pileBytes {
		left := succession - time.Since(time.Unix(0, r.acked.Load()))
		if left <= 0 || left > succession {
			return
		}
		select {
		case <-time.After(left):
		case <-r.quit:
			return
		}
		q.worker.Progress()
	}
}

// settle closes the generation and makes every move so far durable. After it
// nothing that the ledger had before needs to be looked for in sealed/.
func (r *remover) settle(q *Queue) (gen string, size int64, err error) {
	upTo := q.commit.position()
	r.mu.Lock()
	gen, size = r.current, r.bytes
	kept := r.kept
	r.current, r.filled, r.bytes, r.kept = "", 0, 0, map[string]bool{}
	r.mu.Unlock()
	if gen == "" && len(kept) == 0 {
		return "", 0, nil
	}
	var errs []error
	// The new names before the old ones' absence.
	if gen != "" {
		errs = append(errs, q.syncDir(gen))
	}
	for dir := range kept {
		errs = append(errs, q.syncDir(dir))
	}
	errs = append(errs, q.syncDir(q.path(sealedDir)))
	q.worker.Progress()
	if err := errors.Join(errs...); err != nil {
		return gen, size, fmt.Errorf("make the freeing of acknowledged episodes durable: %w", err)
	}
	if err := q.saveFreed(upTo); err != nil {
		q.log.Warn("The next start will look through more of the ledger than it needs to.", "error", err)
	}
	return gen, size, nil
}

// sweep unlinks what other processes, or this one's failures, left out of sight,
// and returns what it could not.
func (q *Queue) sweep(ctx context.Context, w Worker) (failed []Failed) {
	names, err := readNames(q.path(removingDir))
	if err != nil {
		return []Failed{{Name: q.path(removingDir), Err: err}}
	}
	q.remover.mu.Lock()
	left := names[:0]
	for _, n := range names {
		if !q.remover.own[n] {
			left = append(left, n)
		}
	}
	q.remover.mu.Unlock()
	if len(left) == 0 {
		return nil
	}
	// A process that was killed may have moved it here without an fsync of where
	// it came from, which nobody knows any more.
	if err := syncFS(q.path(removingDir)); err != nil {
		return []Failed{{Name: q.path(removingDir), Err: err}}
	}
	w.Progress()
	for _, n := range left {
		if ctx.Err() != nil || q.locked.Load() && q.remover.stopping() {
			break
		}
		if err := removeTree(q.path(removingDir, n), w); err != nil {
			failed = append(failed, Failed{Name: q.path(removingDir, n), Err: err})
		}
	}
	return failed
}

// syncFS is syncfs(2) of the file system that dir is on.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", dir, err)
	}
	return nil
}

// removeTree unlinks path and all below it, and tells w of each step. It follows
// no link, gets through directories whose owner may not write to them, goes on
// after an error, and finds no fault with what is gone already.
func removeTree(path string, w Worker) error {
	return removeAt(unix.AT_FDCWD, path, path, unix.DT_UNKNOWN, w)
}

func removeAt(parent int, name, path string, typ byte, w Worker) error {
	if typ != unix.DT_DIR {
		err := unlinkat(parent, name, 0)
		w.Progress()
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EISDIR || typ != unix.DT_UNKNOWN {
			return &fs.PathError{Op: "unlink", Path: path, Err: err}
		}
	}
	fd, err := openDirAt(parent, name)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var errs []error
	for {
		seen := 0
		errs = errs[:0]
		// What was read of a directory may be unlinked while it is read on
		// (readdir(3)); should the file system then skip a name, the rmdir says so.
		err := readDir(context.Background(), fd, func(name []byte, typ byte, _ uint64) {
			seen++
			if err := removeAt(fd, string(name), path+"/"+string(name), typ, w); err != nil && len(errs) < 10 {
				errs = append(errs, err)
			}
		})
		if errors.Is(err, unix.ENOENT) {
			return nil // another process removes it too
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		err = unlinkat(parent, name, unix.AT_REMOVEDIR)
		w.Progress()
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.ENOTEMPTY || seen == 0 {
			return &fs.PathError{Op: "rmdir", Path: path, Err: err}
		}
		if _, err := unix.Seek(fd, 0, 0); err != nil {
			return &fs.PathError{Op: "seek", Path: path, Err: err}
		}
	}
}

// unlinkat is unlinkat(2), which makes the directory writable if that is what it lacks.
func unlinkat(dir int, name string, flags int) error {
	err := ignoringEINTR(func() error { return unix.Unlinkat(dir, name, flags) })
	if err == unix.EACCES && dir != unix.AT_FDCWD && unix.Fchmod(dir, 0o700) == nil {
		err = ignoringEINTR(func() error { return unix.Unlinkat(dir, name, flags) })
	}
	return err
}

func openDirAt(dir int, name string) (fd int, err error) {
	open := func() error {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	}
	err = ignoringEINTR(open)
	if err == unix.EACCES && unix.Fchmodat(dir, name, 0o700, 0) == nil {
		err = ignoringEINTR(open)
	}
	return fd, err
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
