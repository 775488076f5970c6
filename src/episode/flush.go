package episode

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// cheapSyncs is how many files are fsynced one by one before the rest is left to one syncfs: an fsync costs a commit of the file
	// system's journal each, a syncfs costs one for all, but also waits for what others have written.
	cheapSyncs = 16
	// bigFile is flushed by the worker that wrote it, while other workers go on.
	bigFile = 8 << 20
)

// A flusher makes the files of one sealing durable. It is opened before the first of them is written, for syncfs(2) tells
// those errors of writing back that came after its descriptor was opened.
type flusher struct {
	fs       *os.File // any directory of the file system
	budget   atomic.Int64
	deferred atomic.Bool // something is left to syncfs
}

func newFlusher(dir string) (*flusher, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	fl := &flusher{fs: f}
	fl.budget.Store(cheapSyncs)
	return fl, nil
}

func (fl *flusher) close() { fl.fs.Close() }

// file makes f durable, now or by finish.
func (fl *flusher) file(f *os.File, size int64) error {
	if size < bigFile && fl.budget.Add(-1) < 0 && syncfsTellsErrors() {
		fl.deferred.Store(true)
		return nil
	}
	return f.Sync()
}

// dir is file for the directory name below root.
func (fl *flusher) dir(root *os.File, name string) error {
	if fl.budget.Add(-1) < 0 && syncfsTellsErrors() {
		fl.deferred.Store(true)
		return nil
	}
	return syncDirAt(root, name)
}

// finish makes durable what was put off.
func (fl *flusher) finish() error {
	if !fl.deferred.Load() {
		return nil
	}
	if err := unix.Syncfs(int(fl.fs.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", fl.fs.Name(), err)
	}
	return nil
}

func syncDirAt(root *os.File, name string) error {
	fd, err := openDirAt(int(root.Fd()), name)
	if err != nil {
		return &os.PathError{Op: "open", Path: root.Name() + "/" + name, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fsync(fd); err != nil {
		return &os.PathError{Op: "fsync", Path: root.Name() + "/" + name, Err: err}
	}
	return nil
}

// syncfsTellsErrors: since Linux 5.8 syncfs returns the errors of writing back (syncfs(2), VERSIONS).
var syncfsTellsErrors = sync.OnceValue(func() bool {
	var u unix.Utsname
	return unix.Uname(&u) == nil && atLeast(unix.ByteSliceToString(u.Release[:]), 5, 8)
})

// atLeast compares a kernel release such as "6.12.3-1-amd64" with a version.
func atLeast(release string, major, minor int) bool {
	a, rest, _ := strings.Cut(release, ".")
	b := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && (x > major || x == major && y >= minor)
}
