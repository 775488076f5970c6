package episode

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"cis490/src/bag"
	"cis490/src/durable"
)

// Spec is an episode to be made from memory.
type Spec struct {
	// Run is its run.json. Host and Workload are required; an empty ID is made, empty times are now, an empty Outcome is Complete.
	Run          Run
	Files        []File
	Organization string // as in SealOptions
	Agent        string
}

// File is a payload file to be made from memory.
type File struct {
	Path    string // below data/, as "output/result.csv" or "stdout.log"
	Data    []byte
	ModTime time.Time // default: now
	Exec    bool
}

// Make makes sealed episodes from memory in dataDir, any number at the price of one flush of the file system. It returns when all are
// under sealed/ and durable. After an error those that were not yet sealed are gone; the others are returned.
func Make(ctx context.Context, dataDir string, specs ...Spec) (_ []Sealed, err error) {
	if err := durable.MkdirAll(filepath.Join(dataDir, openDir), 0o777); err != nil {
		return nil, err
	}
	all, err := newFlusher(filepath.Join(dataDir, openDir))
	if err != nil {
		return nil, err
	}
	defer all.close()
	if len(specs) > 1 && syncfsTellsErrors() {
		all.budget.Store(0) // nothing is flushed by itself
	}
	var open []*sealing
	defer func() {
		for _, s := range open {
			s.abort()
		}
	}()
	out := make([]Sealed, 0, len(specs))
	for i := range specs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s, facts, err := specs[i].write(dataDir, all)
		if s != nil {
			open = append(open, s)
			s.root.Close() // any number may be open at once: no descriptor is held
			s.root = nil
		}
		if err != nil {
			return nil, fmt.Errorf("make episode: %w", err)
		}
		out = append(out, Sealed{Facts: facts})
	}
	if len(open) == 0 {
		return out, nil
	}
	if err := all.finish(); err != nil {
		return nil, err
	}
	done := 0
	for i, s := range open {
		if out[i].Dir, err = s.rename(); err != nil {
			break
		}
		done++
	}
	open = open[done:]
	if serr := syncQueue(dataDir); err == nil {
		err = serr
	}
	return out[:done], err
}

// write makes the episode under open/. Its flushing is put off as far as the flusher of all allows.
func (sp *Spec) write(dataDir string, all *flusher) (*sealing, Facts, error) {
	run := sp.Run
	run.Schema = Schema
	if run.ID.IsZero() {
		run.ID = NewID()
	}
	if run.Started.Realtime.IsZero() {
		run.Started = Now()
	}
	if run.Ended.Realtime.IsZero() {
		run.Ended = run.Started
	}
	if run.Outcome == "" {
		run.Outcome = Complete
	}
	s, err := begin(dataDir, run.ID, all, nil)
	if err != nil {
		return nil, Facts{}, err
	}
	made := map[string]bool{bag.PayloadDir: true}
	for _, f := range sp.Files {
		name := bag.PayloadDir + "/" + f.Path
		if err := bag.CheckPath(name); err != nil {
			return s, Facts{}, fmt.Errorf("%s: %w", bag.Quote(name), err)
		}
		for i := len(bag.PayloadDir) + 1; ; {
			n := strings.IndexByte(name[i:], '/')
			if n < 0 {
				break
			}
			i += n + 1
			if d := name[:i-1]; !made[d] {
				made[d] = true
				if err := s.mkdir(d); err != nil {
					return s, Facts{}, err
				}
				s.add(item{meta: bag.FileMeta{Path: d, Dir: true, ModTime: time.Now()}})
			}
		}
		if err := s.put(name, f.Data, f.Exec, f.ModTime); err != nil {
			return s, Facts{}, err
		}
	}
	facts, err := s.finish(&run, sp.Organization, sp.Agent)
	for _, d := range s.made {
		if err == nil {
			err = all.dir(s.root, d)
		}
	}
	return s, facts, err
}
