package queue

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
)

// How an entry comes and goes, so that a crash at any point leaves the episode
// in sealed/, or in the quarantine with its reason:
//
//	set aside                                      put back
//	1 .setting-aside/<e>/reason.json, fsynced      1 <day>/<e> → .putting-back/<e>
//	2 sealed/<id> → .setting-aside/<e>/bag         2 .putting-back/<e>/bag → sealed/<id>
//	3 .setting-aside/<e> → <day>/<e>               3 .putting-back/<e> is removed
//
// Both working directories are empty but for the moment of one operation, which
// quarantine/.lock serialises over processes. So whoever holds the lock and
// finds something in them finds the work of a process that died: where the bag
// is tells how far it got, and recoverQuarantine goes on from there.
const (
	settingAside   = quarantineDir + "/.setting-aside"
	puttingBack    = quarantineDir + "/.putting-back"
	quarantineLock = quarantineDir + "/.lock"

	reasonFile = "reason.json"
	maxReason  = 1 << 20 // bytes of it, which people may have edited
	bagName    = "bag"
)

// lockPatience is how long an operation waits for another process's; each holds
// the lock for milliseconds, unless the disk hangs.
const lockPatience = 10 * time.Second

// Reason is why something is in quarantine: the content of reason.json.
type Reason struct {
	Schema        int        `json:"schema"` // 1
	Name          string     `json:"name"`   // what it was called in sealed/: the id, or a stray's name
	Code          code.Code  `json:"code"`
	Detail        string     `json:"detail"`
	Fix           string     `json:"fix"`                // the code's own when empty
	QuarantinedAt time.Time  `json:"quarantined_at"`     // now when zero; age counts from it
	Receiver      string     `json:"receiver,omitempty"` // whose verdict it is; empty: found on this host
	Status        int        `json:"status,omitempty"`   // HTTP status of the verdict
	Attempts      int        `json:"attempts,omitempty"` // how often it was sent
	Digest        string     `json:"digest,omitempty"`   // bag digest, hex
	Size          int64      `json:"size,omitempty"`     // payload bytes
	Files         int64      `json:"files,omitempty"`    // payload files
	Started       *time.Time `json:"started,omitempty"`
	Ended         *time.Time `json:"ended,omitempty"`
	WindowID      string     `json:"window_id,omitempty"` // the receiver's window that it did not fit
}

// Describe fills in what is known of the episode, so that a later decision on
// it (does it fit into the new window?) needs not open it.
func (r *Reason) Describe(f episode.Facts) {
	s, e := f.Started.UTC(), f.Ended.UTC()
	r.Digest, r.Size, r.Files, r.Started, r.Ended = f.Digest.String(), f.Size, f.Files, &s, &e
}

// Quarantined is one entry of the quarantine.
type Quarantined struct {
	Name   string     // how Requeue, Discard and Show know it: the id for an episode
	ID     episode.ID // zero for a stray
	Day    string     // 2006-01-02, UTC
	Reason Reason
	Dir    string // the entry: holds reason.json and bag
	Err    error  // why reason.json could not be read; then Reason is zero
}

// Bag is where the episode itself is.
func (e Quarantined) Bag() string { return filepath.Join(e.Dir, bagName) }

// Selection says which entries Requeue is about: All, or those with one of the
// Names or with one of the Codes. Where the quarantine has one name on several
// days, "<day>/<name>" means one of them.
type Selection struct {
	All   bool
	Names []string
	Codes []code.Code
}

// Quarantine moves name, an id or a stray as Scan reported it, from sealed/ to
// the quarantine. It is durable when it returns nil. An error that is
// fs.ErrNotExist says that sealed/ has no such thing (any more). The token of an
// upload of it is dropped.
func (q *Queue) Quarantine(name string, r Reason) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("quarantine %s: %w", printable(name), err)
		}
	}()
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return errors.New("not a name in sealed")
	}
	entry := entryName(name)
	r.Schema, r.Name = 1, name
	if !utf8.ValidString(name) {
		r.Name = entry // JSON has no way to say the bytes
	}
	if r.QuarantinedAt.IsZero() {
		r.QuarantinedAt = q.now()
	}
	r.QuarantinedAt = r.QuarantinedAt.UTC().Truncate(time.Microsecond)
	if r.Fix == "" {
		r.Fix = r.Code.Info().Fix
	}
	if r.Code == "" {
		return errors.New("no code")
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}

	release, err := q.lockQuarantine(context.Background())
	if err != nil {
		return err
	}
	defer release()
	q.recoverQuarantine()
	if _, err := os.Lstat(q.path(sealedDir, name)); err != nil {
		return err
	}
	stage := q.path(settingAside, entry)
	if err := os.Mkdir(stage, 0o755); err != nil {
		return err
	}
	undo := func(err error) error { return errors.Join(err, clearStage(stage)) }
	if err := q.writeReason(stage, append(text, '\n')); err != nil {
		return undo(err)
	}
	if err := q.syncDir(q.path(settingAside)); err != nil {
		return undo(err)
	}
	// Never by accident over something: stage is new, and bag is not in it.
	if err := os.Rename(q.path(sealedDir, name), filepath.Join(stage, bagName)); err != nil {
		return undo(err)
	}
	// From here on there is no way back, only forward: a failed fsync leaves the
	// disk with a state from before or after, and recovery knows what to do with each.
	err = errors.Join(q.syncDir(stage), q.syncDir(q.path(sealedDir)))
	if err = errors.Join(err, q.place(stage, entry, r)); err != nil {
		return fmt.Errorf("moved, but not known to be durable: %w", err)
	}
	if id, ok := parseID([]byte(name)); ok {
		if err := q.DropUpload(id); err != nil {
			q.log.Warn("A useless upload token could not be removed.", "episode", id, "error", err)
		}
	}
	return nil
}

// writeReason writes reason.json, fsynced together with its name.
func (q *Queue) writeReason(dir string, text []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, reasonFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = q.syncFile(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return q.syncDir(dir)
}

// place moves a whole entry from a working directory to its day, under its name
// or, if the day has that already, under the first free one.
func (q *Queue) place(from, entry string, r Reason) error {
	day := r.QuarantinedAt.UTC().Format(dayLayout)
	dir := q.path(quarantineDir, day)
	err := q.index.change(q, day, r, +1, func() (string, error) {
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		for n := 1; ; n++ {
			name := entry
			if n > 1 {
				name = fmt.Sprintf("%s.%d", entry, n)
			}
			err := renameNoReplace(from, filepath.Join(dir, name))
			if errors.Is(err, fs.ErrExist) && n < 10000 {
				continue
			}
			return name, err
		}
	})
	if err != nil {
		return err
	}
	return errors.Join(q.syncDir(dir), q.syncDir(filepath.Dir(from)))
}

// takeOut renames an entry out of its day; putIn undoes that.
func (q *Queue) takeOut(e Quarantined, to string) error {
	return q.index.change(q, e.Day, e.Reason, -1, func() (string, error) { return e.Name, renameNoReplace(e.Dir, to) })
}

func (q *Queue) putIn(from string, e Quarantined) error {
	return q.index.change(q, e.Day, e.Reason, +1, func() (string, error) { return e.Name, renameNoReplace(from, e.Dir) })
}

// trash moves an entry out of sight, as durable.MoveToTrash does.
func (q *Queue) trash(e Quarantined) (gone string, err error) {
	err = q.index.change(q, e.Day, e.Reason, -1, func() (string, error) {
		gone, err = durable.MoveToTrash(e.Dir, q.path(removingDir))
		return e.Name, err
	})
	return gone, err
}

// dropDay removes the directory of a day that has no more entries. The
// quarantine is locked.
func (q *Queue) dropDay(day string) {
	if os.Remove(q.path(quarantineDir, day)) == nil { // fails unless it is empty
		q.index.dropped(q, day)
	}
}

// clearStage removes a working directory that has no bag in it.
func clearStage(stage string) error {
	names, err := readNames(stage)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n != reasonFile {
			return fmt.Errorf("%s has more than a %s in it: left alone", stage, reasonFile)
		}
	}
	if err := os.Remove(filepath.Join(stage, reasonFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(stage)
}

// recoverAtOpen is recoverQuarantine for a process that may have no right to
// write, beside others that may be at work.
func (q *Queue) recoverAtOpen() error {
	if a, b := q.workLeft(settingAside), q.workLeft(puttingBack); !a && !b {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 0)
	defer cancel()
	release, err := q.lockQuarantine(ctx)
	if readOnly(err) || errors.Is(err, durable.ErrLocked) {
		return nil // it is whoever holds the lock that is at work there
	}
	if err != nil {
		return err
	}
	defer release()
	q.recoverQuarantine()
	return nil
}

func (q *Queue) workLeft(dir string) bool {
	names, err := readNames(q.path(dir))
	return err == nil && len(names) > 0
}

// recoverQuarantine finishes or undoes what a process that died left in the
// working directories. The quarantine is locked. What can't be finished is
// logged and left for the next time: it concerns no other entry.
func (q *Queue) recoverQuarantine() {
	for dir, finish := range map[string]func(entry string) error{settingAside: q.recoverAside, puttingBack: q.recoverBack} {
		entries, err := readNames(q.path(dir))
		if err != nil {
			q.log.Warn("Cut work in the quarantine could not be looked for.", "dir", q.path(dir), "error", err)
		}
		for _, e := range entries {
			if err := finish(e); err != nil {
				q.log.Warn("A cut move into or out of the quarantine could not be finished; the next one tries again.",
					"dir", q.path(dir, e), "error", err)
			}
		}
	}
}

func (q *Queue) recoverAside(entry string) error {
	stage := q.path(settingAside, entry)
	if _, err := os.Lstat(filepath.Join(stage, bagName)); errors.Is(err, fs.ErrNotExist) {
		return clearStage(stage) // it never left sealed/
	} else if err != nil {
		return err
	}
	r, err := readReason(stage)
	if err != nil {
		// It was fsynced before the bag came, so this disk loses what it fsynced.
		// The episode itself is better judged anew.
		q.log.Warn("A reason was lost; the episode goes back into the queue.", "episode", entry, "error", err)
		if _, ok := parseID([]byte(entry)); ok {
			err := renameNoReplace(filepath.Join(stage, bagName), q.path(sealedDir, entry))
			if err == nil {
				return errors.Join(q.syncDir(q.path(sealedDir)), q.syncDir(stage), clearStage(stage))
			}
			if !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		r.QuarantinedAt = q.now()
	}
	if err := errors.Join(q.syncDir(stage), q.syncDir(q.path(sealedDir))); err != nil {
		return err
	}
	return q.place(stage, entry, r)
}

func (q *Queue) recoverBack(entry string) error {
	stage := q.path(puttingBack, entry)
	if _, err := os.Lstat(filepath.Join(stage, bagName)); errors.Is(err, fs.ErrNotExist) {
		return removeTree(stage, nobody{})
	} else if err != nil {
		return err
	}
	r, err := readReason(stage)
	if err != nil {
		r.QuarantinedAt = q.now()
	}
	err = q.unpackEntry(stage, entryID(entry, r))
	if errors.Is(err, ErrWaiting) || errors.Is(err, ErrNotEpisode) {
		return q.place(stage, entry, r)
	}
	return err
}

// unpackEntry is steps 2 and 3 of putting back.
func (q *Queue) unpackEntry(stage string, id episode.ID) error {
	if id.IsZero() {
		return ErrNotEpisode
	}
	err := renameNoReplace(filepath.Join(stage, bagName), q.Dir(id))
	if errors.Is(err, fs.ErrExist) {
		return ErrWaiting
	}
	if err != nil {
		return err
	}
	if err := errors.Join(q.syncDir(q.path(sealedDir)), q.syncDir(stage)); err != nil {
		return fmt.Errorf("put back, but not known to be durable: %w", err)
	}
	return removeTree(stage, nobody{}) // the reason, and what people may have left beside it
}

// List returns all that is in quarantine, oldest first, then by name. Where
// there may be very many, Entries needs no memory for them.
func (q *Queue) List() ([]Quarantined, error) { return q.collect(func(Reason) bool { return true }) }

// ListCode is List for the entries with one of the codes.
func (q *Queue) ListCode(codes ...code.Code) ([]Quarantined, error) {
	return q.collect(func(r Reason) bool { return slices.Contains(codes, r.Code) })
}

func (q *Queue) collect(want func(Reason) bool) (all []Quarantined, err error) {
	for e, err := range q.Entries() {
		if err != nil {
			return nil, err
		}
		if want(e.Reason) {
			all = append(all, e)
		}
	}
	sortQuarantined(all)
	return all, nil
}

// Entries goes through the quarantine by day, and within a day by name, which
// for episodes is by when they were made. It ends after an error. The caller may
// take away the entry that it was given.
func (q *Queue) Entries() iter.Seq2[Quarantined, error] {
	return func(yield func(Quarantined, error) bool) {
		days, err := q.quarantineDays()
		if err != nil {
			yield(Quarantined{}, err)
			return
		}
		for _, day := range days {
			for name, err := range q.sorted(day, namesAtOnce) {
				if err != nil {
					yield(Quarantined{}, fmt.Errorf("list quarantine: %w", err))
					return
				}
				if e, ok := q.entry(day, name); ok && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// namesAtOnce bounds the memory of sorted: some 5 MB.
const namesAtOnce = 50_000

// sorted gives the names in a day in order, most of them at once: for more the
// directory is read through again for each so many.
func (q *Queue) sorted(day string, most int) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for last := ""; ; {
			fd, _, err := q.openDay(day)
			if errors.Is(err, fs.ErrNotExist) {
				return
			}
			if err != nil {
				yield("", err)
				return
			}
			var batch []string // the least names after last
			cut := func() {
				slices.Sort(batch)
				batch = slices.Compact(batch)
				batch = batch[:min(len(batch), most)]
			}
			bound := "" // nothing from it on is wanted
			err = readDir(context.Background(), fd, func(name []byte, _ byte, _ uint64) {
				if string(name) <= last || bound != "" && string(name) >= bound {
					return
				}
				if batch = append(batch, string(name)); len(batch) >= 2*most {
					cut()
					bound = batch[len(batch)-1]
				}
			})
			unix.Close(fd)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				yield("", err)
				return
			}
			full := bound != "" || len(batch) > most
			cut()
			for _, n := range batch {
				if !yield(n, nil) {
					return
				}
			}
			if !full {
				return
			}
			last = batch[len(batch)-1]
		}
	}
}

func sortQuarantined(all []Quarantined) {
	slices.SortFunc(all, func(a, b Quarantined) int {
		return cmp.Or(a.Reason.QuarantinedAt.Compare(b.Reason.QuarantinedAt), strings.Compare(a.Day, b.Day), strings.Compare(a.Name, b.Name))
	})
}

// Show finds one entry by name, or by "<day>/<name>". The error is
// ErrNotQuarantined if there is none.
func (q *Queue) Show(name string) (Quarantined, error) {
	found, err := q.find(name)
	switch {
	case err != nil:
		return Quarantined{}, fmt.Errorf("quarantine: %w", err)
	case len(found) == 0:
		return Quarantined{}, fmt.Errorf("%s: %w", printable(name), ErrNotQuarantined)
	case len(found) > 1:
		var which []string
		for _, e := range found {
			which = append(which, e.Day+"/"+e.Name)
		}
		return Quarantined{}, fmt.Errorf("%s is in quarantine %d times: say which, %s", printable(name), len(found), strings.Join(which, " or "))
	}
	return found[0], nil
}

// find looks for a name in each day: a stat per day, no listing.
func (q *Queue) find(name string) ([]Quarantined, error) {
	days, err := q.quarantineDays()
	if err != nil {
		return nil, err
	}
	if day, rest, ok := strings.Cut(name, "/"); ok {
		if !slices.Contains(days, day) {
			return nil, nil
		}
		days, name = []string{day}, rest
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nil, nil
	}
	names := []string{name}
	if e := entryName(name); e != name {
		names = append(names, e) // a stray's own name
	}
	var found []Quarantined
	for _, day := range days {
		for _, n := range names {
			if e, ok := q.entry(day, n); ok {
				found = append(found, e)
			}
		}
	}
	return found, nil
}

// entry reads one entry; ok is false when it is not there (any more).
func (q *Queue) entry(day, name string) (e Quarantined, ok bool) {
	e = Quarantined{Name: name, Day: day, Dir: q.path(quarantineDir, day, name)}
	if st, err := os.Lstat(e.Dir); err != nil || !st.IsDir() {
		return e, false
	}
	e.Reason, e.Err = readReason(e.Dir)
	if e.Err != nil {
		// It may have gone between the two.
		if _, err := os.Lstat(e.Dir); err != nil {
			return e, false
		}
	}
	e.ID = entryID(name, e.Reason)
	return e, true
}

// entryID is the id of the episode in an entry; zero for a stray.
func entryID(entry string, r Reason) episode.ID {
	for _, s := range []string{entry, r.Name} {
		if id, ok := parseID([]byte(s)); ok {
			return id
		}
	}
	return episode.ID{}
}

// Requeue puts entries back into sealed/, each durably, and wholly or not at
// all. It goes on after a failure; done are those that succeeded, err joins the
// others' errors, each with its name (errors.Is: ErrNotQuarantined, ErrWaiting,
// ErrNotEpisode).
func (q *Queue) Requeue(ctx context.Context, sel Selection) (done []Quarantined, err error) {
	var errs []error
	var todo []Quarantined
	if sel.All {
		if todo, err = q.List(); err != nil {
			return nil, err
		}
	} else {
		if len(sel.Codes) > 0 {
			if todo, err = q.ListCode(sel.Codes...); err != nil {
				return nil, err
			}
		}
		for _, n := range sel.Names {
			e, err := q.Show(n)
			if err != nil {
				errs = append(errs, err)
			} else if !slices.ContainsFunc(todo, func(t Quarantined) bool { return t.Dir == e.Dir }) {
				todo = append(todo, e)
			}
		}
	}
	for _, e := range todo {
		if err := ctx.Err(); err != nil {
			return done, errors.Join(append(errs, err)...)
		}
		if err := q.putBack(e); err != nil {
			errs = append(errs, fmt.Errorf("put %s back: %w", e.Name, err))
		} else {
			done = append(done, e)
		}
	}
	return done, errors.Join(errs...)
}

func (q *Queue) putBack(e Quarantined) error {
	if e.ID.IsZero() {
		return fmt.Errorf("%w: make one of it with cis490-episode seal %s", ErrNotEpisode, e.Bag())
	}
	release, err := q.lockQuarantine(context.Background())
	if err != nil {
		return err
	}
	defer release()
	q.recoverQuarantine()
	if _, err := os.Lstat(q.Dir(e.ID)); err == nil {
		return ErrWaiting
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if st, err := os.Lstat(e.Bag()); errors.Is(err, fs.ErrNotExist) {
		return ErrNotQuarantined // another process was faster
	} else if err != nil {
		return err
	} else if !st.IsDir() {
		return fmt.Errorf("%w: %s is no directory", ErrNotEpisode, e.Bag())
	}
	stage := q.path(puttingBack, e.Name)
	if err := q.takeOut(e, stage); err != nil {
		return err
	}
	if err := errors.Join(q.syncDir(q.path(puttingBack)), q.syncDir(filepath.Dir(e.Dir))); err != nil {
		return errors.Join(err, q.putIn(stage, e))
	}
	if err := q.unpackEntry(stage, e.ID); err != nil {
		if _, serr := os.Lstat(filepath.Join(stage, bagName)); serr == nil {
			err = errors.Join(err, q.putIn(stage, e))
		}
		return err
	}
	q.dropDay(e.Day)
	return nil
}

// Discard removes one entry and the data in it for good.
func (q *Queue) Discard(name string) error {
	e, err := q.Show(name)
	if err != nil {
		return err
	}
	release, err := q.lockQuarantine(context.Background())
	if err != nil {
		return fmt.Errorf("discard %s: %w", e.Name, err)
	}
	gone, err := q.trash(e)
	if err == nil {
		q.dropDay(e.Day)
	}
	release()
	if err != nil {
		return fmt.Errorf("discard %s: %w", e.Name, err)
	}
	if gone == "" {
		return fmt.Errorf("%s: %w", e.Name, ErrNotQuarantined)
	}
	if err := removeTree(gone, nobody{}); err != nil {
		return fmt.Errorf("discard %s: out of the quarantine, but not all of it could be removed, and the next clean-up tries again: %w", e.Name, err)
	}
	return nil
}

// lockQuarantine waits for its turn to change the quarantine. A ctx that is at
// its end means not to wait.
func (q *Queue) lockQuarantine(ctx context.Context) (release func(), err error) {
	q.quarantine.Lock()
	defer func() {
		if err != nil {
			q.quarantine.Unlock()
		}
	}()
	began := time.Now()
	for {
		unlock, err := durable.Lock(q.path(quarantineLock))
		if err == nil {
			return func() { unlock(); q.quarantine.Unlock() }, nil
		}
		if !errors.Is(err, durable.ErrLocked) {
			return nil, err
		}
		if ctx.Err() != nil || time.Since(began) > lockPatience {
			return nil, fmt.Errorf("another process has been changing the quarantine for more than %s: %w", time.Since(began).Round(time.Second), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// quarantineDays lists the days that have entries, oldest first.
func (q *Queue) quarantineDays() ([]string, error) { return q.days(quarantineDir) }

func (q *Queue) days(dir string) ([]string, error) {
	names, err := readNames(q.path(dir))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		t, err := time.Parse(dayLayout, n)
		return err != nil || t.Format(dayLayout) != n
	})
	return names, nil
}

// readNames is the sorted names in a directory; one that is not there is empty.
func readNames(dir string) ([]string, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// readReason reads an entry's reason.json, which people may have edited.
func readReason(dir string) (Reason, error) {
	fail := func(err error) (Reason, error) {
		return Reason{}, fmt.Errorf("read %s: %w", filepath.Join(dir, reasonFile), err)
	}
	b, err := readSmall(filepath.Join(dir, reasonFile), maxReason)
	if err != nil {
		return fail(err)
	}
	return parseReason(b, fail)
}

func parseReason(b []byte, fail func(error) (Reason, error)) (Reason, error) {
	var r Reason
	if err := json.Unmarshal(b, &r); err != nil {
		return fail(err)
	}
	if r.Code == "" {
		return fail(errors.New("it has no code"))
	}
	if r.QuarantinedAt.IsZero() {
		return fail(errors.New("it has no quarantined_at"))
	}
	return r, nil
}

// readSmall reads a regular file of at most max bytes and never hangs on a FIFO.
func readSmall(path string, max int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, durable.ErrNotRegular
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("more than %d bytes", max)
	}
	return b, err
}

// entryName is the name of the entry of a thing that was called name in sealed/.
// Names that are no trouble to anybody stay; of others, what would be trouble is
// percent-encoded, and a hash keeps long ones apart.
func entryName(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	s := b.String()
	if len(s) > 200 {
		sum := sha256.Sum256([]byte(name))
		s = s[:180] + "~" + hex.EncodeToString(sum[:8])
	}
	return s
}

// printable is name for a message.
func printable(name string) string {
	if _, ok := parseID([]byte(name)); ok {
		return name
	}
	return fmt.Sprintf("%.100q", name)
}
