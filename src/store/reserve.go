package store

import (
	"fmt"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"cis490/src/code"
)

// Free is how many bytes the store's file system has room for, for this user
// (statfs(2), f_bavail), reservations not taken off.
func (s *Store) Free() (uint64, error) {
	var st unix.Statfs_t
	if err := eintr(func() error { return unix.Fstatfs(s.root, &st) }); err != nil {
		return 0, fmt.Errorf("free space of the store: %w", err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// Reserved is how many bytes are promised to uploads and not written yet.
func (s *Store) Reserved() int64 { return s.reserved.Load() }

// Reservation is room promised to an upload.
type Reservation struct {
	s    *Store
	left atomic.Int64
}

// Reserve promises room for bytes beside what others were promised and beside
// MinFree, or fails with receiver-full. Nothing is kept on the disk: it stops
// uploads from being admitted that can't all be stored.
func (s *Store) Reserve(bytes int64) (*Reservation, error) {
	if bytes < 0 {
		bytes = 0
	}
	free, err := s.Free()
	if err != nil {
		return nil, coded(err, "reserve %d bytes", bytes)
	}
	room := int64(min(free, math.MaxInt64)) - s.opt.MinFree
	if now := s.reserved.Add(bytes); now > room || now < 0 {
		s.reserved.Add(-bytes)
		return nil, code.New(code.ReceiverFull, "%d bytes are free, %d of them kept free and %d promised to uploads under way; this one needs %d", free, s.opt.MinFree, now-bytes, bytes)
	}
	r := &Reservation{s: s}
	r.left.Store(bytes)
	return r, nil
}

// Use says that n of the reserved bytes are on the disk now, where Free sees them.
func (r *Reservation) Use(n int64) {
	for {
		left := r.left.Load()
		used := min(max(n, 0), left)
		if r.left.CompareAndSwap(left, left-used) {
			r.s.reserved.Add(-used)
			return
		}
	}
}

// Release gives back what was not used. It may be called more than once.
func (r *Reservation) Release() { r.s.reserved.Add(-r.left.Swap(0)) }
