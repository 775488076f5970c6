package queue

import (
	"context"
	"time"

	"cis490/src/code"
)

// CleanupOptions says when and what Cleanup removes.
type CleanupOptions struct {
	KeepDays    int           // entries of the quarantine older than this many days of 24 h go; 0: none ever
	Interval    time.Duration // Cleanup does its work at most once in this time; 0: at every call
	ClockAgreed bool          // this clock was seen to agree with the receiver's in the last 24 h
	Progress    func()        // called at each step forward; may be nil
}

// Outcome says what a Cleanup came to.
type Outcome string

const (
	CleanupNotDue       Outcome = "not-due"       // ran less than Interval ago; cost no more than a comparison
	CleanupOff          Outcome = "off"           // KeepDays is 0: the quarantine was left alone
	CleanupClockUnknown Outcome = "clock-unknown" // ClockAgreed is false: the quarantine was left alone
	CleanupRan          Outcome = "ran"
)

// Removed is an entry that Cleanup took away.
type Removed struct {
	Name string
	Code code.Code
	Age  time.Duration // from quarantined_at
}

// Failed is an entry that Cleanup could not take away or not judge.
type Failed struct {
	Name string
	Code code.Code // "" when reason.json could not be read
	Err  error
}

// Report is what a Cleanup did.
type Report struct {
	Outcome    Outcome
	Removed    []Removed
	Failed     []Failed // due, but the removal failed; the next Cleanup tries again
	Unreadable []Failed // kept: without a readable quarantined_at it has no age
	Shipped    int      // episodes removed from shipped/ because keep_shipped passed
}

// Cleanup removes from quarantine what has been there for longer than KeepDays
// and from shipped/ what was kept long enough. The time of the last run is
// durable, so that the interval also holds across restarts. Days that can't
// have expired are not opened. An error in err does not mean that nothing was
// removed: the Report is always valid.
func (q *Queue) Cleanup(ctx context.Context, now time.Time, o CleanupOptions) (Report, error) {
	return Report{}, nil
}
