package ship

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
)

const (
	// maxRetryAfter bounds what a Retry-After field can ask for: one header of a
	// confused proxy must not silence a host for a year.
	maxRetryAfter = time.Hour
	// drainFor is how long the others are held back so that an episode which is
	// tried alone can begin alone; drainPause is how long they then go on when
	// one of them took longer.
	drainFor   = time.Minute
	drainPause = 10 * time.Minute
	// aloneFor is how long an episode that is tried alone stays alone without
	// the receiver having acknowledged anything new of it.
	aloneFor = 2 * time.Minute
	// episodeMax is the least bound of the back-off of one episode's own trouble:
	// sending it again, all of it, will hardly help within seconds.
	episodeMax = 10 * time.Minute
	// turnCheck bounds how often the waiting list of troubled episodes is gone
	// through while others have their turn.
	turnCheck = 100 * time.Millisecond
)

// scheduler decides which episode goes out next, and whether any may: it holds
// the list of what waits, what is in flight, what waits for a time of its own,
// and the state of the path to the receiver. It does no I/O.
//
// The order is by id, oldest first, of those that there is room for: see lanes.
// An episode in trouble of its own (read
// error, digest mismatch, a process that died on it) goes to the end of the
// queue as it is at that moment, and waits there for at least its back-off.
type scheduler struct {
	mu      sync.Mutex
	cond    *sync.Cond
	timer   *time.Timer // wakes waiting workers when something becomes due
	closed  bool
	backoff backoff

	ids      []episode.ID   // as the last scan found them, sorted; never changed in place
	next     [heavy + 1]int // per weight: what stands before it is gone, in flight, later or heavier
	waiting  int            // of ids, those neither gone nor in flight
	scanned  bool           // a scan has ended
	gone     map[episode.ID]struct{}
	flights  map[episode.ID]*flight
	later    map[episode.ID]*trouble
	laterDue time.Time // nothing in later needs a look before
	attempts map[episode.ID]int
	weights  map[episode.ID]weight // of those known to be more than light
	lanes    lanes

	path path
	// suspect has, per code that is an episode's until a second one has it too,
	// the first episode that had it since the last success.
	suspect map[code.Code]episode.ID
	alone   *flight
}

// backoff is how long to wait after the n-th failure in a row.
type backoff struct{ min, max time.Duration }

// after gives the wait before the next try: doubling from min, at most max,
// jittered into its upper half so that many hosts do not come back as one.
func (b backoff) after(failures int) time.Duration {
	d := b.min
	for i := 1; i < failures && d < b.max; i++ {
		d *= 2
	}
	d = min(d, b.max)
	return d/2 + rand.N(d/2+1)
}

// atMost is b with a bound of at least d.
func (b backoff) atMost(d time.Duration) backoff { return backoff{b.min, max(b.max, d)} }

// path is the state of the way to the receiver.
type path struct {
	held     bool
	err      *code.Error // of the last failure
	since    time.Time   // when this outage began
	codeAt   time.Time   // when its code was first seen
	opened   time.Time   // when the last outage ended
	failures int         // in a row; kept while the path is open on trial
	probes   int         // in this outage
	next     time.Time   // when the next probe may go
	probing  bool
	// epoch tells a failure of an attempt that began before the path was held,
	// one of many of the same cause, from a failure of a probe.
	epoch uint64
}

// flight is one attempt to send one episode.
type flight struct {
	id      episode.ID
	began   time.Time
	epoch   uint64
	probe   bool
	moved   bool // the receiver acknowledged something new of it
	attempt int  // counts from 1
	trouble *trouble
	weight  weight
	busy    bool   // it takes up a lane
	most    weight // that there was room for when it began

	aloneTill time.Time
}

// trouble is an episode that waits at the end of the queue.
type trouble struct {
	code     code.Code
	failures int
	since    time.Time // its place in the queue: after all that were made before
	until    time.Time // back-off
	alone    bool
	drain    time.Time // until when the others are held back for it
}

// pathChange is what a report changed about the path, for the log.
type pathChange int

const (
	pathSame pathChange = iota
	pathHeld            // was open
	pathCode            // still held, for another reason
	pathOpen            // was held
)

func newScheduler(b backoff) *scheduler {
	s := &scheduler{
		backoff: b,
		gone:    map[episode.ID]struct{}{}, flights: map[episode.ID]*flight{}, later: map[episode.ID]*trouble{},
		attempts: map[episode.ID]int{}, suspect: map[code.Code]episode.ID{}, weights: map[episode.ID]weight{},
		lanes: lanes{width: math.MaxInt},
	}
	s.cond = sync.NewCond(&s.mu)
	s.timer = time.AfterFunc(time.Hour, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cond.Broadcast()
	})
	s.timer.Stop()
	return s
}

// close makes every take return nil, now and later.
func (s *scheduler) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.timer.Stop()
	s.cond.Broadcast()
}

// scanBegins is called before the queue is scanned: what leaves the queue from
// here on may still be in what the scan finds.
func (s *scheduler) scanBegins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.gone)
}

// found takes the ids that wait, sorted. ids is not changed.
func (s *scheduler) found(ids []episode.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids, s.scanned = ids, true
	s.recount()
	// Taken away by somebody else.
	for id := range s.later {
		if !s.has(id) {
			delete(s.later, id)
		}
	}
	for id := range s.attempts {
		if !s.has(id) && s.flights[id] == nil {
			delete(s.attempts, id)
		}
	}
	if len(s.weights) > 2*len(s.ids)+64 {
		for id := range s.weights {
			if !s.has(id) && s.flights[id] == nil {
				delete(s.weights, id)
			}
		}
	}
	if s.waiting > 0 {
		s.cond.Broadcast()
	}
}

// recount begins at the front of the list.
func (s *scheduler) recount() {
	s.next, s.waiting = [heavy + 1]int{}, len(s.ids)
	for id := range s.gone {
		if s.has(id) {
			s.waiting--
		}
	}
	for id := range s.flights {
		if _, gone := s.gone[id]; !gone && s.has(id) {
			s.waiting--
		}
	}
}

// isolate puts an episode that the process died on at the end of the queue.
func (s *scheduler) isolate(id episode.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.later[id] = &trouble{code: code.AttemptDied, failures: 1, since: now, until: now, alone: true}
	s.laterDue = time.Time{}
}

// take waits until there is an episode to send and returns the flight, or nil
// once the scheduler is closed.
func (s *scheduler) take() *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		now := time.Now()
		f := s.pick(now)
		if f != nil || s.closed {
			return f
		}
		if d := s.due(now); d > 0 {
			s.timer.Reset(d)
		}
		s.cond.Wait()
	}
}

// pick is take without the waiting.
func (s *scheduler) pick(now time.Time) *flight {
	if s.closed || !s.scanned { // what waits behind what is not known before
		return nil
	}
	if a := s.alone; a != nil && !a.moved && now.Before(a.aloneTill) {
		return nil
	}
	if s.path.held && (s.path.probing || now.Before(s.path.next)) {
		return nil
	}
	most, room := s.lanes.widest()
	if !room {
		return nil
	}
	id, ok := s.oldest(most)
	if tid, t := s.turn(now, id, ok, most); t != nil {
		switch {
		case !t.alone || len(s.flights) == 0:
			return s.start(now, tid, t, most)
		case t.drain.IsZero():
			t.drain = now.Add(drainFor)
			return nil
		case now.Before(t.drain):
			return nil
		}
		t.drain, t.until = time.Time{}, now.Add(drainPause)
	}
	if !ok {
		return nil
	}
	return s.start(now, id, nil, most)
}

// oldest finds the first id that nothing is known against, and that is not known
// to be heavier than there is room for.
func (s *scheduler) oldest(most weight) (episode.ID, bool) {
	for n := &s.next[most]; *n < len(s.ids); *n++ {
		id := s.ids[*n]
		if _, gone := s.gone[id]; gone {
			continue
		}
		if s.flights[id] == nil && s.later[id] == nil && s.fits(id, most) {
			return id, true
		}
	}
	return episode.ID{}, false
}

// turn finds a troubled episode whose back-off is over and whose place in the
// queue has come: all that wait are younger than its trouble. Of several it is
// the one that has waited longest.
func (s *scheduler) turn(now time.Time, oldest episode.ID, ok bool, most weight) (id episode.ID, best *trouble) {
	if len(s.later) == 0 || now.Before(s.laterDue) {
		return id, nil
	}
	s.laterDue = now.Add(time.Hour)
	for i, t := range s.later {
		switch {
		case now.Before(t.until):
			if t.until.Before(s.laterDue) {
				s.laterDue = t.until
			}
		case ok && oldest.Time().Before(t.since):
			s.laterDue = now.Add(turnCheck)
		case !s.fits(i, most):
			// land looks again.
		case best == nil || t.since.Before(best.since):
			id, best = i, t
		}
	}
	if best != nil {
		s.laterDue = time.Time{}
	}
	return id, best
}

func (s *scheduler) start(now time.Time, id episode.ID, t *trouble, most weight) *flight {
	f := &flight{id: id, began: now, epoch: s.path.epoch, trouble: t, attempt: s.attempts[id] + 1, most: most}
	s.lanes.enter(f, s.weights[id])
	if t != nil {
		delete(s.later, id)
		if t.alone {
			t.drain, f.aloneTill = time.Time{}, now.Add(aloneFor)
			s.alone = f
		}
	}
	if s.path.held {
		f.probe, s.path.probing = true, true
		s.path.probes++
	}
	s.flights[id] = f
	if s.has(id) {
		s.waiting--
	}
	return f
}

// due says how long from now until a worker that found nothing to do might,
// without a report or a scan, find something; 0 if never.
func (s *scheduler) due(now time.Time) time.Duration {
	var at time.Time
	sooner := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if s.waiting > 0 {
		if s.alone != nil {
			sooner(s.alone.aloneTill)
		}
		if s.path.held && !s.path.probing {
			sooner(s.path.next)
		}
		sooner(s.laterDue)
		for _, t := range s.later {
			sooner(t.drain)
			if len(s.later) <= 64 {
				sooner(t.until)
			}
		}
	}
	if at.IsZero() {
		return 0
	}
	return at.Sub(now)
}

func (s *scheduler) has(id episode.ID) bool {
	_, ok := slices.BinarySearchFunc(s.ids, id, episode.ID.Compare)
	return ok
}

// land takes f out of the air. The episode goes back into the queue unless it
// left it.
func (s *scheduler) land(f *flight, left bool) {
	if s.flights[f.id] != f {
		return
	}
	delete(s.flights, f.id)
	s.makeRoom(f)
	if s.alone == f {
		s.alone = nil
		s.cond.Broadcast()
	}
	if len(s.flights) == 0 && len(s.later) > 0 {
		s.cond.Broadcast()
	}
	if left {
		s.gone[f.id] = struct{}{}
		delete(s.attempts, f.id)
		delete(s.weights, f.id)
		return
	}
	if i, ok := slices.BinarySearchFunc(s.ids, f.id, episode.ID.Compare); ok {
		s.waiting++
		for w := s.weights[f.id]; w <= heavy; w++ {
			s.next[w] = min(s.next[w], i)
		}
	}
}

// left reports that the episode left the queue: acknowledged, set aside, or no
// longer there. answered says that the receiver itself gave the verdict.
func (s *scheduler) left(f *flight, answered bool) pathChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.land(f, true)
	if !answered {
		return s.unprobe(f)
	}
	clear(s.suspect)
	return s.open(f, true)
}

// parked reports an attempt that was ended by our own stop.
func (s *scheduler) parked(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.land(f, false)
	s.keepTrouble(f)
	s.unprobe(f)
}

func (s *scheduler) keepTrouble(f *flight) {
	if f.trouble != nil {
		s.later[f.id] = f.trouble
		s.laterDue = time.Time{}
	}
}

// unprobe ends a probe that told nothing about the path.
func (s *scheduler) unprobe(f *flight) pathChange {
	if f.probe && s.path.probing && f.epoch == s.path.epoch {
		s.path.probing = false
		s.cond.Broadcast()
	}
	return pathSame
}

// postpone reports trouble of this one episode: it goes to the end of the
// queue. answered says that the receiver itself spoke. When another episode had
// the same trouble and none succeeded in between, the path is held as well: it
// is the disk, or what lies between here and the receiver's decoder.
func (s *scheduler) postpone(f *flight, e *code.Error, answered bool) pathChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.land(f, false)
	s.attempts[f.id] = f.attempt
	t := f.trouble
	if t == nil || t.code != e.Code {
		t = &trouble{code: e.Code}
	}
	now := time.Now()
	t.failures++
	t.since, t.until = now, now.Add(s.backoff.atMost(episodeMax).after(t.failures))
	s.later[f.id] = t
	s.laterDue = time.Time{}
	first, seen := s.suspect[e.Code]
	if seen && first != f.id {
		return s.hold(f, e)
	}
	s.suspect[e.Code] = f.id
	if answered {
		return s.open(f, true)
	}
	return s.unprobe(f)
}

// failed reports a failure of the path.
func (s *scheduler) failed(f *flight, e *code.Error) pathChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.land(f, false)
	s.attempts[f.id] = f.attempt
	s.keepTrouble(f)
	return s.hold(f, e)
}

func (s *scheduler) hold(f *flight, e *code.Error) pathChange {
	p := &s.path
	if p.held && f.epoch != p.epoch {
		return pathSame // one of those that were under way when the path broke
	}
	now := time.Now()
	p.failures++
	b := s.backoff
	if e.Code == code.DigestMismatch {
		b = b.atMost(episodeMax)
	}
	d := b.after(p.failures)
	if r := min(e.RetryAfter, maxRetryAfter); r > 0 {
		d = max(d, r+rand.N(r/10+1))
	}
	p.next, p.probing = now.Add(d), false
	change := pathSame
	switch {
	case !p.held:
		p.held, p.epoch, p.since, p.codeAt, p.probes = true, p.epoch+1, now, now, 0
		change = pathHeld
	case p.err.Code != e.Code:
		p.codeAt = now
		change = pathCode
	}
	p.err = e
	// Waiting workers set their timers by p.next.
	s.cond.Broadcast()
	return change
}

// open lets all workers go. Not lasting: on trial, and the next failure goes on
// with the back-off where it was.
func (s *scheduler) open(f *flight, lasting bool) pathChange {
	p := &s.path
	if lasting {
		p.failures = 0
	}
	if !p.held {
		return pathSame
	}
	p.held, p.probing, p.opened = false, false, time.Now()
	p.epoch++
	if f != nil {
		// What this flight does from here on is news again.
		f.epoch, f.probe = p.epoch, false
	}
	s.cond.Broadcast()
	return pathOpen
}

// advanced reports that the receiver acknowledged something of a flight that
// goes on. lasting is for bytes that it holds durably; else it was an admission,
// or bytes that left this host for some time, which heals only what happens
// before bytes flow.
func (s *scheduler) advanced(f *flight, lasting bool) pathChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[f.id] != f {
		return pathSame
	}
	if lasting && !f.moved {
		f.moved = true
		if s.alone == f {
			s.cond.Broadcast()
		}
	}
	return s.open(f, lasting)
}

// admitted reports that the receiver let a big episode in.
func (s *scheduler) admitted(f *flight) pathChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path.held {
		switch s.path.err.Code {
		case code.Cut, code.Stalled, code.TimedOut, code.ReceiverError, code.Unmarked4xx, code.ReadFailed, code.DigestMismatch, code.DiskFull:
			return pathSame // these strike later
		}
	}
	return s.open(f, false)
}

// polls says whether the receiver may be asked for its state now: while the
// path is held only in place of a probe, when nothing waits that could be one.
// The flight, if not nil, goes to polled.
func (s *scheduler) polls() *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case s.closed:
		return nil
	case !s.path.held:
		return &flight{epoch: s.path.epoch}
	case s.path.probing || now.Before(s.path.next) || s.waiting > 0 || len(s.flights) > 0:
		return nil
	}
	s.path.probing = true
	s.path.probes++
	return &flight{epoch: s.path.epoch, probe: true}
}

// polled reports what came of it. A poll that fails while the path is open
// holds nothing: it is not what episodes are sent with.
func (s *scheduler) polled(f *flight, e *code.Error) pathChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !f.probe || f.epoch != s.path.epoch {
		return pathSame
	}
	if e != nil {
		return s.hold(f, e)
	}
	return s.open(f, false)
}

// kick forgets the waits, not what is known: somebody asked for a try now.
func (s *scheduler) kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.path.failures = 0
	if s.path.held && s.path.next.After(now) {
		s.path.next = now
	}
	for _, t := range s.later {
		t.until = now
	}
	s.laterDue = time.Time{}
	clear(s.gone) // something may have been put back
	s.recount()
	s.cond.Broadcast()
}

// returned tells that something was put back into the queue.
func (s *scheduler) returned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.gone)
	s.recount()
	s.cond.Broadcast()
}

// pathView is the state of the path for people.
type pathView struct {
	held             bool
	err              *code.Error
	since, codeSince time.Time
	opened           time.Time
	failures, probes int
	next             time.Time
}

// queueView is the state of the queue in figures.
type queueView struct {
	scanned  bool
	waiting  int // neither in flight
	later    int // of them, at the end of the queue for trouble of their own
	inFlight int
	oldest   episode.ID // of all that have not left, zero if none
	troubles map[code.Code]int
}

func (s *scheduler) view() (p pathView, q queueView) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p = pathView{held: s.path.held, err: s.path.err, since: s.path.since, codeSince: s.path.codeAt, opened: s.path.opened,
		failures: s.path.failures, probes: s.path.probes, next: s.path.next}
	q = queueView{scanned: s.scanned, waiting: s.waiting, later: len(s.later), inFlight: len(s.flights)}
	for _, id := range s.ids {
		if _, gone := s.gone[id]; !gone {
			q.oldest = id
			break
		}
	}
	if len(s.later) > 0 {
		q.troubles = map[code.Code]int{}
		for _, t := range s.later {
			q.troubles[t.code]++
		}
	}
	return p, q
}
