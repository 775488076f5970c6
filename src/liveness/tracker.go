package liveness

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Tracker knows each worker of a process and by when it has to report next. Its
// methods and those of its workers may be called from any goroutine; the
// methods of a nil *Tracker and of a nil *Worker do nothing.
type Tracker struct {
	base time.Time // deadlines are kept as monotonic time since base

	mu      sync.Mutex
	workers map[*Worker]struct{}
}

// NewTracker returns a Tracker without workers.
func NewTracker() *Tracker {
	return &Tracker{base: time.Now(), workers: map[*Worker]struct{}{}}
}

// Worker adds a worker, which starts idle. The name is for people ("upload 3");
// two workers may share one.
func (t *Tracker) Worker(name string) *Worker {
	if t == nil {
		return nil
	}
	w := &Worker{name: name, t: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.workers[w] = struct{}{}
	return w
}

// Worker is something that has to move: an upload, a packer, a clean-up.
type Worker struct {
	name     string
	t        *Tracker
	within   atomic.Int64 // ns
	deadline atomic.Int64 // ns since t.base; 0: idle
	doing    atomic.Pointer[string]
}

// Within says that the worker starts on something and reports (Progress, Idle,
// Within again, or Done) within d from now, and after that within d of each
// report. d should be longer than the longest single step can rightly take, and
// the deadlines of requests inside that step shorter than d.
func (w *Worker) Within(d time.Duration) {
	if w == nil {
		return
	}
	w.within.Store(int64(d))
	w.deadline.Store(int64(time.Since(w.t.base)+d) | 1)
}

// Progress reports a step forward: bytes sent, bytes hashed, a file fsynced. It
// costs little enough to be called for every buffer. On an idle worker it does
// nothing.
func (w *Worker) Progress() {
	if w == nil || w.deadline.Load() == 0 {
		return
	}
	w.deadline.Store((int64(time.Since(w.t.base)) + w.within.Load()) | 1)
}

// Idle says that the worker waits for work and owes no report.
func (w *Worker) Idle() {
	if w == nil {
		return
	}
	w.doing.Store(nil)
	w.deadline.Store(0)
}

// Doing says in a few words what the worker is at, for the state file.
func (w *Worker) Doing(what string) {
	if w == nil {
		return
	}
	w.doing.Store(&what)
}

// Done takes the worker away.
func (w *Worker) Done() {
	if w == nil {
		return
	}
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	delete(w.t.workers, w)
}

// Late is a worker that has not reported in time.
type Late struct {
	Name    string
	Overdue time.Duration // since its deadline
	Doing   string        // "" if it did not say
}

// Late lists the workers whose deadline lies before now, the longest overdue
// first.
func (t *Tracker) Late(now time.Time) []Late {
	if t == nil {
		return nil
	}
	var late []Late
	since := int64(now.Sub(t.base))
	t.mu.Lock()
	for w := range t.workers {
		if d := w.deadline.Load(); d != 0 && d < since {
			late = append(late, Late{Name: w.name, Overdue: time.Duration(since - d), Doing: w.what()})
		}
	}
	t.mu.Unlock()
	slices.SortFunc(late, func(a, b Late) int {
		return cmp.Or(cmp.Compare(b.Overdue, a.Overdue), strings.Compare(a.Name, b.Name))
	})
	return late
}

// State is what one worker is at.
type State struct {
	Name   string        `json:"name"`
	Doing  string        `json:"doing,omitempty"`
	Busy   bool          `json:"busy"`
	Within time.Duration `json:"-"`              // time left until it has to report; negative: late
	Late   string        `json:"late,omitempty"` // by how much, when it is
}

// States lists all workers by name.
func (t *Tracker) States(now time.Time) []State {
	if t == nil {
		return nil
	}
	since := int64(now.Sub(t.base))
	t.mu.Lock()
	all := make([]State, 0, len(t.workers))
	for w := range t.workers {
		s := State{Name: w.name, Doing: w.what()}
		if d := w.deadline.Load(); d != 0 {
			s.Busy, s.Within = true, time.Duration(d-since)
			if s.Within < 0 {
				s.Late = (-s.Within).Round(time.Second).String()
			}
		}
		all = append(all, s)
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (w *Worker) what() string {
	if p := w.doing.Load(); p != nil {
		return *p
	}
	return ""
}
