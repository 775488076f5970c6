package ship

import (
	"time"

	"cis490/src/episode"
	"cis490/src/pack"
)

// weight says how large an episode is, as far as it matters to who may go beside
// whom.
type weight uint8

const (
	light  weight = iota // also what has not been looked at yet
	middle               // more than lightMax
	heavy                // more than middleMax
)

// The bounds, in bytes of payload or of the tar stream. A light one is one request,
// and over within a second on any link that is worth having.
const (
	lightMax  = pack.FrameSize
	middleMax = 64 << 20
)

func weigh(bytes int64) weight {
	switch {
	case bytes > middleMax:
		return heavy
	case bytes > lightMax:
		return middle
	}
	return light
}

// lanes keeps a way free for the small: of n uploads at once a quarter, and at
// least one, are kept from heavy episodes, and one from all that are not light.
// So a small episode never waits for one that takes hours. Nor do large ones wait
// for small ones: of those that find room the oldest goes first, and the room that
// is kept from the small is none.
//
// Of one upload at a time nothing can be kept.
type lanes struct {
	width int // uploads at once; 0: none
	busy  [heavy + 1]int
}

// widest is the heaviest that may begin now; ok is false when none may.
func (l *lanes) widest() (w weight, ok bool) {
	n := l.width
	all := l.busy[light] + l.busy[middle] + l.busy[heavy]
	if all >= n {
		return 0, false
	}
	if n == 1 {
		return heavy, true
	}
	switch {
	case l.busy[heavy] < n-max(1, n/4) && l.busy[middle]+l.busy[heavy] < n-1:
		return heavy, true
	case l.busy[middle]+l.busy[heavy] < n-1:
		return middle, true
	}
	return light, true
}

// enter and leave count an upload.
func (l *lanes) enter(f *flight, w weight) {
	f.weight, f.busy = w, true
	l.busy[w]++
}

func (l *lanes) leave(f *flight) {
	if f.busy {
		f.busy = false
		l.busy[f.weight]--
	}
}

// setWidth says how many uploads there may be at once; none at all with 0.
func (s *scheduler) setWidth(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n == s.lanes.width {
		return
	}
	s.lanes.width = n
	s.laterDue = time.Time{}
	s.cond.Broadcast()
}

// weighed tells how large a flight's episode is. When there is no room for one
// like it, the flight is over: the episode waits until there is.
func (s *scheduler) weighed(f *flight, bytes int64) bool {
	w := weigh(bytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if w <= f.weight || s.flights[f.id] != f {
		return true
	}
	s.weights[f.id] = w
	s.lanes.leave(f)
	if most, ok := s.lanes.widest(); ok && w <= most || f == s.alone {
		s.lanes.enter(f, w)
		return true
	}
	if f.probe && s.path.probing && f.epoch == s.path.epoch {
		s.path.probes-- // it asked nobody
	}
	s.land(f, false)
	s.keepTrouble(f)
	s.unprobe(f)
	return false
}

// uploaded tells that a flight needs the way no more, only its receipt.
func (s *scheduler) uploaded(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom(f)
}

// makeRoom takes a flight out of its lane. Whoever goes next may be lighter, and
// leave room for what another worker was waiting with.
func (s *scheduler) makeRoom(f *flight) {
	if !f.busy {
		return
	}
	s.lanes.leave(f)
	if f.weight > light {
		s.laterDue = time.Time{}
		s.cond.Broadcast()
	}
}

// fits says whether an episode that waits may go beside what is under way.
func (s *scheduler) fits(id episode.ID, most weight) bool { return s.weights[id] <= most }
