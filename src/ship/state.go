package ship

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/queue"
	"cis490/src/version"
	"cis490/src/wire"
)

// Unit is the name of the service, and of its directory below run_dir.
const Unit = "cis490-shipper"

// StatePath is where a shipper with that run_dir keeps its state for others to
// read.
func StatePath(runDir string) string { return filepath.Join(runDir, Unit, "state.json") }

// State is what a shipper tells of itself: in state.json, which is replaced
// whole and at most once a second, and over the control socket.
type State struct {
	Schema     int             `json:"schema"` // 1
	Unit       string          `json:"unit"`
	Version    string          `json:"version"`
	PID        int             `json:"pid"`
	Host       string          `json:"host"`
	Key        string          `json:"key,omitempty"` // hash of the host's public key, as the receiver knows it
	Receiver   string          `json:"receiver"`      // URL
	StartedAt  time.Time       `json:"started_at"`
	WrittenAt  time.Time       `json:"written_at"`
	Stopping   bool            `json:"stopping,omitempty"`
	Summary    string          `json:"summary"` // one line, as in systemctl status
	Success    *SuccessState   `json:"last_success,omitempty"`
	Last       *CodeState      `json:"last_code,omitempty"`
	Problem    *CodeState      `json:"last_problem,omitempty"` // the last code that was no success
	Path       PathState       `json:"path"`
	Queue      QueueState      `json:"queue"`
	Quarantine QuarantineState `json:"quarantine"`
	Poll       PollState       `json:"poll"`
	Rate       RateState       `json:"rate"`
	Disk       DiskState       `json:"disk"`
	Scan       ScanState       `json:"scan"`
	Totals     TotalState      `json:"totals"` // since StartedAt
	Workers    []WorkerState   `json:"workers"`
}

// SuccessState is the last receipt.
type SuccessState struct {
	At      time.Time  `json:"at"`
	Episode episode.ID `json:"episode"`
}

// CodeState is the last outcome.
type CodeState struct {
	Code   code.Code `json:"code"`
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"` // the first time in a row
	At     time.Time `json:"at"`    // the last time
}

// PathState is the state of the way to the receiver. When it is not held the
// rest is about the last outage.
type PathState struct {
	Held      bool       `json:"held"`
	Code      code.Code  `json:"code,omitempty"`
	Detail    string     `json:"detail,omitempty"`
	Fix       string     `json:"fix,omitempty"`
	Since     *time.Time `json:"since,omitempty"`
	CodeSince *time.Time `json:"code_since,omitempty"`
	Probes    int        `json:"probes,omitempty"`
	NextProbe *time.Time `json:"next_probe_at,omitempty"`
}

// QueueState is what waits.
type QueueState struct {
	Scanned         bool              `json:"scanned"` // false until the first scan has ended
	Waiting         int               `json:"waiting"` // not in flight
	InFlight        int               `json:"in_flight"`
	Postponed       int               `json:"postponed"` // of Waiting, those in trouble of their own
	PostponedByCode map[code.Code]int `json:"postponed_by_code,omitempty"`
	Oldest          *OldestState      `json:"oldest,omitempty"`
}

// Left is the number of episodes that have not left the queue.
func (q QueueState) Left() int { return q.Waiting + q.InFlight }

// OldestState is the first episode in the queue.
type OldestState struct {
	Episode    episode.ID `json:"episode"`
	SealedAt   time.Time  `json:"sealed_at"`
	AgeSeconds int64      `json:"age_seconds"`
}

// QuarantineState is what was set aside.
type QuarantineState struct {
	Total      int               `json:"total"`
	Counting   bool              `json:"counting,omitempty"` // the figures are not all in yet
	ByCode     map[code.Code]int `json:"by_code,omitempty"`
	Unreadable int               `json:"unreadable,omitempty"` // entries without a readable reason.json
	Oldest     *time.Time        `json:"oldest,omitempty"`     // the least quarantined_at
	CleanedAt  *time.Time        `json:"cleaned_at,omitempty"`
	Cleanup    queue.Outcome     `json:"cleanup,omitempty"` // of the last clean-up that was due
}

// PollState is what the receiver says of itself.
type PollState struct {
	LastSuccess     *time.Time   `json:"last_success,omitempty"`
	Failure         *CodeState   `json:"failure,omitempty"`      // of the last poll, when it failed
	SkewSeconds     float64      `json:"clock_skew_seconds"`     // the receiver's clock minus ours, at LastSuccess
	MaxSkewSeconds  float64      `json:"max_clock_skew_seconds"` // what the receiver tolerates
	ClockAgreedAt   *time.Time   `json:"clock_agreed_at,omitempty"`
	KnownAs         string       `json:"known_as,omitempty"` // this host's name at the receiver
	ReceiverVersion string       `json:"receiver_version,omitempty"`
	Window          *wire.Window `json:"window,omitempty"`
	// Damaged is what the receiver acknowledged and no longer holds sound.
	Damaged *wire.Damaged `json:"damaged,omitempty"`
}

// RateState is the limit of all uploads together.
type RateState struct {
	Limit          string     `json:"limit"`            // as in the configuration
	BytesPerSecond int64      `json:"bytes_per_second"` // 0: no limit, or off
	WireBytes      int64      `json:"wire_bytes"`       // sent since the start of the process or its last reload
	Off            bool       `json:"off"`
	Window         string     `json:"window,omitempty"` // the rate_window that it is from
	Until          *time.Time `json:"until,omitempty"`  // when another one holds, if within a week
	Then           string     `json:"then,omitempty"`   // which
}

// String is the limit for people.
func (r RateState) String() string {
	s := r.Limit
	if r.Window != "" {
		s += ", by rate_window " + r.Window
	}
	if r.Until != nil {
		s += " until " + r.Until.Local().Format("Mon 15:04") + ", then " + r.Then
	}
	return s
}

// DiskState is about the file system of data_dir.
type DiskState struct {
	FreeBytes    int64 `json:"free_bytes"`
	MinFreeBytes int64 `json:"min_free_bytes"`
	Low          bool  `json:"low"`
}

// ScanState is the last scan pass.
type ScanState struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"`
}

// TotalState is what was done since the start.
type TotalState struct {
	Shipped      uint64 `json:"shipped"`
	PayloadBytes uint64 `json:"payload_bytes"`
	SentBytes    uint64 `json:"sent_bytes"` // packed, without what was sent twice
}

// WorkerState is what one upload worker is at. Sizes are of the tar stream.
type WorkerState struct {
	Name      string      `json:"name"`
	Doing     string      `json:"doing,omitempty"` // empty: waits for work
	Episode   *episode.ID `json:"episode,omitempty"`
	Attempt   int         `json:"attempt,omitempty"`
	Since     *time.Time  `json:"since,omitempty"`
	SizeBytes int64       `json:"size_bytes,omitempty"`
	SentBytes int64       `json:"sent_bytes,omitempty"`
	Late      string      `json:"late,omitempty"` // overdue for the watchdog by
}

// facts is what the shipper remembers only to tell it.
type facts struct {
	mu       sync.Mutex
	success  SuccessState
	last     CodeState
	problem  CodeState
	scanned  ScanState
	free     DiskState
	counts   queue.Counts
	counting bool // counts are not all in yet
	cleaned  time.Time
	cleanup  queue.Outcome
	strays   map[string]string
	poll     PollState
	agreeing bool
	agreed   time.Time // wall clock: when the receiver's clock last agreed with ours
	reported *outage
}

// outage is an outage that was reported.
type outage struct {
	code  code.Code
	since time.Time
}

func (f *facts) outcome(c code.Code, detail string) {
	now := time.Now()
	if f.last.Code != c {
		f.last = CodeState{Code: c, Since: now}
	}
	f.last.Detail, f.last.At = detail, now
	if c.Class() != code.Done {
		f.problem = f.last
	}
}

func (f *facts) shipped(id episode.ID, c code.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.success = SuccessState{At: time.Now(), Episode: id}
	f.outcome(c, "")
}

func (f *facts) failed(fail *failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outcome(fail.code(), detail(fail.why))
}

func (f *facts) scan(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scanned = ScanState{At: time.Now()}
	if err != nil {
		f.scanned.Error = err.Error()
	}
}

// stray says whether this about a stray is new.
func (f *facts) stray(name string, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.strays, name)
		return true
	}
	if f.strays[name] == err.Error() {
		return false
	}
	if f.strays == nil || len(f.strays) > 1000 {
		f.strays = map[string]string{}
	}
	f.strays[name] = err.Error()
	return true
}

// disk notes the free space and says whether it crossed min_free.
func (f *facts) disk(free, least int64) (changed, low bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	low = free < least
	changed = low != f.free.Low
	f.free = DiskState{FreeBytes: free, MinFreeBytes: least, Low: low}
	return changed, low
}

func (f *facts) quarantine(c queue.Counts, counting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts, f.counting = c, counting
}

// newTrouble says whether an outage, or its code, is to be reported.
func (f *facts) newTrouble(p pathView) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reported == nil {
		f.reported = &outage{since: p.since}
	}
	if f.reported.code == p.err.Code {
		return false
	}
	f.reported.code = p.err.Code
	return true
}

// troubleOver ends the outage that was reported, if there was one.
func (f *facts) troubleOver() (outage, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reported == nil {
		return outage{}, false
	}
	t := *f.reported
	f.reported = nil
	return t, true
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Round(0)
	return &t
}

// State is the state now.
func (s *Shipper) State() State {
	p, q := s.sched.view()
	now := time.Now()
	st := State{
		Schema: 1, Unit: Unit, Version: version.String(), PID: os.Getpid(), Host: s.cfg.Host, Key: s.key, Receiver: s.client.base.String(),
		StartedAt: s.begun.UTC().Round(0), WrittenAt: now.UTC().Round(0), Stopping: s.parkAt.Load() != 0,
		Queue:  QueueState{Scanned: q.scanned, Waiting: q.waiting, InFlight: q.inFlight, Postponed: q.later, PostponedByCode: q.troubles},
		Path:   PathState{Held: p.held, Since: timeOrNil(p.since), CodeSince: timeOrNil(p.codeSince), Probes: p.probes},
		Rate:   s.pace.state(),
		Totals: s.figures.totals(),
	}
	if p.err != nil {
		st.Path.Code, st.Path.Detail, st.Path.Fix = p.err.Code, detail(p.err), p.err.Code.Info().Fix
	}
	if p.held {
		st.Path.NextProbe = timeOrNil(p.next)
	}
	if !q.oldest.IsZero() {
		o := &OldestState{Episode: q.oldest, SealedAt: now}
		// The directory last changed when it was sealed; the id is as old as the run.
		if fi, err := os.Lstat(s.queue.Dir(q.oldest)); err == nil && fi.ModTime().Before(now) {
			o.SealedAt = fi.ModTime()
		}
		o.AgeSeconds = int64(now.Sub(o.SealedAt) / time.Second)
		o.SealedAt = o.SealedAt.UTC().Round(0)
		st.Queue.Oldest = o
	}
	f := &s.facts
	f.mu.Lock()
	if !f.success.At.IsZero() {
		v := f.success
		v.At = v.At.UTC().Round(0)
		st.Success = &v
	}
	if f.last.Code != "" {
		v := f.last
		v.Since, v.At = v.Since.UTC().Round(0), v.At.UTC().Round(0)
		st.Last = &v
	}
	if f.problem.Code != "" {
		v := f.problem
		v.Since, v.At = v.Since.UTC().Round(0), v.At.UTC().Round(0)
		st.Problem = &v
	}
	st.Scan, st.Disk, st.Poll = f.scanned, f.free, f.poll
	st.Scan.At = st.Scan.At.UTC().Round(0)
	st.Poll.ClockAgreedAt = timeOrNil(f.agreed)
	st.Quarantine = QuarantineState{Total: f.counts.Total, Counting: f.counting, ByCode: f.counts.ByCode, Unreadable: f.counts.Unreadable,
		Oldest: timeOrNil(f.counts.Oldest), CleanedAt: timeOrNil(f.cleaned), Cleanup: f.cleanup}
	f.mu.Unlock()
	late := map[string]string{}
	for _, l := range s.tracker.Late(now) {
		late[l.Name] = l.Overdue.Round(time.Second).String()
	}
	for i, u := range s.uploaders {
		w := WorkerState{Name: fmt.Sprintf("upload %d", i), Doing: *u.doing.Load()}
		if fl := u.flying.Load(); fl != nil {
			w.Episode, w.Attempt, w.Since = &fl.id, fl.attempt, timeOrNil(fl.began)
			w.SizeBytes, w.SentBytes = u.size.Load(), u.held.Load()
		}
		w.Late = late[w.Name]
		st.Workers = append(st.Workers, w)
	}
	st.Summary = st.summary(now)
	return st
}

// summary is the state in one line.
func (st State) summary(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "shipping %d, %d queued", st.Queue.InFlight, st.Queue.Waiting)
	if o := st.Queue.Oldest; o != nil {
		fmt.Fprintf(&b, ", oldest %s", Span(now.Sub(o.SealedAt)))
	}
	if n := st.Quarantine.Total; n > 0 {
		fmt.Fprintf(&b, ", %d quarantined", n)
	}
	if n := st.Queue.Postponed; n > 0 {
		fmt.Fprintf(&b, ", %d at the end of the queue", n)
	}
	if d := st.Poll.Damaged; d != nil {
		fmt.Fprintf(&b, ", %d damaged at the receiver", d.Count)
	}
	if st.Path.Held {
		fmt.Fprintf(&b, "; held for %s: %s", Span(now.Sub(*st.Path.Since)), st.Path.Code)
		if d := st.Path.NextProbe.Sub(now); d >= time.Second {
			fmt.Fprintf(&b, ", next try in %s", Span(d))
		}
	}
	if st.Rate.Off {
		b.WriteString("; uploads are " + st.Rate.String())
	}
	if st.Disk.Low {
		fmt.Fprintf(&b, "; low on disk space, %d MiB free", st.Disk.FreeBytes>>20)
	}
	if st.Scan.Error != "" {
		fmt.Fprintf(&b, "; can't scan: %s", st.Scan.Error)
	}
	return b.String()
}

// Span writes a duration for people: one unit, rounded down.
func Span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

// ReadState reads the state that a shipper with that run_dir last wrote.
func ReadState(runDir string) (State, error) {
	var st State
	b, err := os.ReadFile(StatePath(runDir))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("%s: %w", StatePath(runDir), err)
	}
	if st.Schema != 1 {
		return st, fmt.Errorf("%s: schema %d, this program reads 1: bring both to the same version", StatePath(runDir), st.Schema)
	}
	return st, nil
}

// writeState replaces state.json. It is for the running system and not made
// durable: after a power cut it would be wrong anyway.
func (s *Shipper) writeState() {
	if s.cfg.RunDir == "" {
		return
	}
	err := func() error {
		b, err := json.MarshalIndent(s.State(), "", "  ")
		if err != nil {
			return err
		}
		path := StatePath(s.cfg.RunDir)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		tmp := path + ".new"
		if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
			return err
		}
		return os.Rename(tmp, path)
	}()
	s.writing.report(s.log, "write the state file", err)
}
