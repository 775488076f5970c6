package ingest

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sync/semaphore"

	"cis490/src/code"
)

// OutsideHeap is how much of limits.memory is left for what Go's memory limit
// (GOMEMLIMIT) does not count: the program itself and the catalogue's pages.
const OutsideHeap = 40 << 20

// shares are the parts of limits.memory of what may take up much of it. What the
// rest takes up follows from limits.uploads and limits.connections.
type shares struct {
	bodies  int64 // bytes of short bodies and of what they unpack to
	decode  int64 // bytes of frames that are decoded, packed and unpacked
	frames  int64 // frames of which the sizes are known, of all uploads
	streams int64 // foreign streams that are decoded at a time: a window of 8 MiB each
	checks  int   // verifications at a time
	idle    int   // of them, those of uploads that nobody sends to
}

func newShares(memory int64, uploads int) shares {
	return shares{
		bodies:  memory / 6,
		decode:  max(memory/10, maxFrame+maxCompressedFrame),
		frames:  memory / 16 / 16, // pack.FrameInfo has 16 bytes
		streams: max(1, memory>>27),
		checks:  uploads + uploads/4,
		idle:    uploads / 4,
	}
}

// budget bounds how much of something there is, per host and in all. Nobody
// waits for it.
type budget struct {
	mu           sync.Mutex
	max, perHost int64
	used         int64
	hosts        map[string]int64
}

// newBudget lets one host have three quarters of max: the rest is for the others.
func newBudget(max int64) *budget {
	return &budget{max: max, perHost: max / 4 * 3, hosts: map[string]int64{}}
}

// take gets n for host, if it is to be had. It is given back with give.
func (b *budget) take(host string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.max || b.hosts[host]+n > b.perHost {
		return false
	}
	b.used += n
	b.hosts[host] += n
	return true
}

func (b *budget) give(host string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.hosts[host] -= n; b.hosts[host] == 0 {
		delete(b.hosts, host)
	}
}

// scarce says that more than half is taken.
func (b *budget) scarce() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used > b.max/2
}

// lanes let each host have one at a time of something that takes long, and all of
// them together a few: a host's many don't keep the others waiting.
type lanes struct {
	all   *semaphore.Weighted
	mu    sync.Mutex
	hosts map[string]*lane
}

type lane struct {
	sync.Mutex
	users int
}

// enter waits for host's turn; leave ends it.
func (l *lanes) enter(host string) (leave func()) {
	l.mu.Lock()
	own := l.hosts[host]
	if own == nil {
		own = &lane{}
		l.hosts[host] = own
	}
	own.users++
	l.mu.Unlock()
	own.Lock()
	acquire(l.all, 1)
	return func() {
		l.all.Release(1)
		own.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(l.hosts, host)
		}
	}
}

// acquire waits for n of s.
func acquire(s *semaphore.Weighted, n int64) {
	_ = s.Acquire(context.Background(), n) // a context that never ends
}

// spill gives a file without a name for a manifest of n bytes.
func (r *Receiver) spill(n int64) (*os.File, error) {
	room, err := r.store.Reserve(n)
	if err != nil {
		return nil, retryLater(err)
	}
	defer room.Release() // from now on the disk itself says what is free
	f, err := os.CreateTemp(r.store.IncomingDir(), strayPrefix)
	if err != nil {
		return nil, ioError(err, "keep a manifest")
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, ioError(err, "keep a manifest")
	}
	return f, nil
}

// strayPrefix begins the name of a file that is removed as soon as it is made.
const strayPrefix = ".tmp-manifest-"

// errFrames says that no more frames can be kept count of for now.
func errFrames() error {
	e := code.New(code.ReceiverBusy, "the uploads under way have too many zstd frames together for limits.memory")
	e.RetryAfter = retryFull
	return e
}
