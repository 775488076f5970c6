package queue

import "errors"

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotQuarantined: the quarantine has no entry of that name.
	ErrNotQuarantined = errors.New("not in quarantine")
	// ErrWaiting: sealed/ already has an episode of that id.
	ErrWaiting = errors.New("an episode of that id already waits in sealed")
	// ErrNotEpisode: a stray can't be put back into the queue.
	ErrNotEpisode = errors.New("not an episode")
	// ErrOtherDigest: the receipt is for other content than the disk has.
	ErrOtherDigest = errors.New("the receipt names another bag digest than the episode on disk has")
)
