package episode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/durable"
)

// SealOptions says what the files can't. The zero value of a field stands for its default.
type SealOptions struct {
	ID           ID        // default: a new one
	Host         string    // required
	Workload     string    // default: the base name of the source
	Description  string    // for people
	Organization string    // Source-Organization; default "unspecified"
	Agent        string    // Bag-Software-Agent, a program and its version; default "cis490"
	Started      time.Time // of the run that left the files; default: when sealing began
	Ended        time.Time // default: when sealing ended
	Outcome      Outcome   // default Complete
	Reason       string    // of an outcome that is not Complete

	// Move takes the source by rename instead of copying it. What can't travel stays at the source's place.
	Move bool
	// AllowChanged seals a file that is written to while it is copied as it was read, and says so in files.jsonl. It does nothing with Move.
	AllowChanged bool
	Workers      int               // files copied and hashed at a time; default: one for each CPU
	Progress     func(bytes int64) // called as bytes are hashed, from several goroutines
}

// Sealed is what sealing made.
type Sealed struct {
	Facts
	Dir     string         // the episode, below sealed/
	Skipped []bag.FileMeta // what was left out
	Changed []string       // what was written to while it was copied, with AllowChanged; below the source
}

// maxNamed is how many changed files an error names.
const maxNamed = 10

// SealDir makes an episode of the tree below src and puts it into the queue of dataDir, whose directories it makes where they
// are missing. When it returns without an error, the episode is under sealed/ and durable. When it fails, the source is
// as it was, and what was made so far is gone; if not even that worked, the error says where the source's files are.
// It fails with [ErrChanged] when the source is written to meanwhile. What a process that dies leaves, [Recover] finishes or undoes.
func SealDir(ctx context.Context, src, dataDir string, opt SealOptions) (_ Sealed, err error) {
	given := src
	defer func() {
		if err != nil {
			err = fmt.Errorf("seal %s: %w", given, err)
		}
	}()
	if src, err = realPath(src); err != nil {
		return Sealed{}, err
	}
	if opt.Workload == "" {
		opt.Workload = strings.ToValidUTF8(filepath.Base(src), "?")
	}
	if opt.ID.IsZero() {
		opt.ID = NewID()
	}
	started := momentOr(opt.Started)
	run := &Run{
		Schema: Schema, ID: opt.ID, Host: opt.Host, Workload: opt.Workload, Description: opt.Description,
		Source:  strings.ToValidUTF8(src, "?"),
		Outcome: Outcome(orElse(string(opt.Outcome), string(Complete))), Reason: opt.Reason,
		Started: started, Ended: started, HostFacts: ThisHost(), NixOS: ThisSystem(),
	}
	if err := run.Check(); err != nil { // before the work, not after
		return Sealed{}, err
	}
	if err := durable.MkdirAll(filepath.Join(dataDir, openDir), 0o777); err != nil {
		return Sealed{}, err
	}

	root, err := os.OpenFile(src, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return Sealed{}, err
	}
	defer root.Close()
	fl, err := newFlusher(filepath.Join(dataDir, openDir))
	if err != nil {
		return Sealed{}, err
	}
	defer fl.close()
	if opt.Move {
		if err := movable(src, root, dataDir); err != nil {
			return Sealed{}, err
		}
	}
	s, err := begin(dataDir, opt.ID, fl, &marker{Source: src, Move: opt.Move})
	if err != nil {
		return Sealed{}, err
	}
	defer func() {
		if err != nil {
			s.abort()
		} else {
			s.close()
		}
	}()
	in := &intake{sealing: s, src: root, copy: !opt.Move, lenient: opt.AllowChanged && !opt.Move, progress: opt.Progress}
	if err := in.knowDataDir(); err != nil {
		return Sealed{}, err
	}
	if err := in.take(ctx, opt.Workers); err != nil {
		return Sealed{}, err
	}
	if in.copy {
		if err := in.settle(src); err != nil {
			return Sealed{}, err
		}
	}
	run.Ended = momentOr(opt.Ended)
	facts, err := s.finish(run, opt.Organization, opt.Agent)
	if err != nil {
		return Sealed{}, err
	}
	if err := s.flushAll(); err != nil {
		return Sealed{}, err
	}
	if opt.Move {
		if err := in.move(src); err != nil {
			return Sealed{}, err
		}
	}
	out := Sealed{Facts: facts}
	for _, it := range s.items {
		if it.meta.Skipped != "" {
			out.Skipped = append(out.Skipped, it.meta)
		}
		if it.meta.Changed {
			out.Changed = append(out.Changed, strings.TrimPrefix(it.meta.Path, OutputPath+"/"))
		}
	}
	if out.Dir, err = s.rename(); err != nil {
		return Sealed{}, err
	}
	s.holds = true // from here on it is the queue's: never to be removed
	if err := syncQueue(dataDir); err != nil {
		return Sealed{}, err
	}
	s.dropMarker()
	return out, nil
}

// realPath is the absolute path of src without links, for a link can't be renamed in place of what it points to.
func realPath(src string) (string, error) {
	abs, err := filepath.Abs(src)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

func momentOr(t time.Time) Moment {
	if t.IsZero() {
		return Now()
	}
	return Moment{Realtime: t.UTC()}
}

func (in *intake) knowDataDir() error {
	var st unix.Stat_t
	if err := unix.Stat(in.dataDir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: in.dataDir, Err: err}
	}
	in.dataDev, in.dataIno = st.Dev, st.Ino
	return nil
}

// settle looks at the whole source once more after the last file was copied: the episode is the tree as it stood at one
// moment, or the caller is told.
func (in *intake) settle(src string) error {
	max := maxNamed
	if in.lenient {
		max = len(in.items) + 1<<20
	}
	differ, err := in.changes(in.src, max)
	if err != nil {
		return err
	}
	if len(differ) > 0 && !in.lenient {
		return changedError(src, differ, max)
	}
	changed := make(map[string]bool, len(differ))
	for _, p := range differ {
		changed[OutputPath+"/"+p] = true
	}
	for i := range in.items {
		if m := &in.items[i].meta; changed[m.Path] && m.Skipped == "" && !m.Dir {
			m.Changed = true
		}
	}
	return in.keepDirTimes()
}

// movable says before any work why the source can't be taken by rename.
func movable(src string, root *os.File, dataDir string) error {
	data, err := realPath(dataDir)
	if err != nil {
		return err
	}
	if src == data || strings.HasPrefix(src, data+"/") {
		return fmt.Errorf("it is in the data directory %s, and only what is outside can be moved into it", dataDir)
	}
	var a, b unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &a); err != nil {
		return &os.PathError{Op: "stat", Path: src, Err: err}
	}
	if err := unix.Stat(dataDir, &b); err != nil {
		return &os.PathError{Op: "stat", Path: dataDir, Err: err}
	}
	if a.Dev != b.Dev {
		return errOtherFS(dataDir)
	}
	return nil
}

func errOtherFS(dataDir string) error {
	return fmt.Errorf("it is on another file system than %s and can't be moved there: seal it without --move, then remove it", dataDir)
}

// move takes the source, which was hashed where it is, into the payload, and gives back what does not travel.
func (in *intake) move(src string) error {
	to := filepath.Join(in.dir, OutputPath)
	if err := renameNoReplace(unix.AT_FDCWD, src, unix.AT_FDCWD, to); err != nil {
		if errors.Is(err, unix.EXDEV) {
			return errOtherFS(in.dataDir)
		}
		return &os.LinkError{Op: "rename", Old: src, New: to, Err: err}
	}
	in.holds = true
	if err := in.moved(src, to); err != nil {
		return in.moveBack(src, to, err)
	}
	if err := in.giveBack(src); err != nil {
		return fmt.Errorf("%w; its files are in %s, and the next cis490-episode seal will go on from there", err, to)
	}
	return nil
}

// moved makes the move durable and looks whether the tree is still what was hashed.
func (in *intake) moved(src, to string) error {
	for _, d := range []string{filepath.Dir(to), filepath.Dir(src)} {
		if err := durable.SyncDir(d); err != nil {
			return err
		}
	}
	differ, err := in.changes(in.src, maxNamed)
	if err == nil && len(differ) > 0 {
		err = changedError(src, differ, maxNamed)
	}
	if err == nil {
		err = in.hand()
	}
	return err
}

// moveBack undoes a move that can't be finished because of why.
func (in *intake) moveBack(src, to string, why error) error {
	err := renameNoReplace(unix.AT_FDCWD, to, unix.AT_FDCWD, src)
	if err == nil {
		err = durable.SyncDir(filepath.Dir(src))
	}
	if err != nil {
		return fmt.Errorf("%w; and it could not be put back (%w): its files are in %s", why, err, to)
	}
	in.holds = false
	return why
}

// giveBack puts what does not travel where the source was.
func (in *intake) giveBack(src string) error {
	var out *os.File
	for _, it := range in.items {
		if it.meta.Skipped == "" {
			continue
		}
		if out == nil {
			made := os.Mkdir(src, 0o777)
			if made != nil && !errors.Is(made, os.ErrExist) {
				return made
			}
			var err error
			if out, err = os.OpenFile(src, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
				return err
			}
			defer out.Close()
			// Before anything is moved into them: what is in a directory whose name a power cut takes away is lost.
			if made != nil {
				if err := syncTree(out); err != nil {
					return err
				}
			}
			if err := durable.SyncDir(filepath.Dir(src)); err != nil {
				return err
			}
		}
		err := renameAt(in.root, it.meta.Path, out, strings.TrimPrefix(it.meta.Path, OutputPath+"/"))
		if errors.Is(err, unix.ENOENT) {
			continue // given back by the sealing that this one goes on from
		}
		if err != nil {
			return err
		}
	}
	return nil
}
