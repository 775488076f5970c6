package episode

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/durable"
)

// The directories of a lab host's tree that sealing knows.
const (
	openDir   = "open"
	sealedDir = "sealed"
)

// A marker stands beside an episode under open/ while it is sealed from a directory, as <id>.sealing, and is locked with flock(2).
// Whoever finds one that is not locked knows that the sealing died, and how to finish or undo it.
type marker struct {
	Source string `json:"source"` // absolute
	Move   bool   `json:"move"`
}

const markerSuffix = ".sealing"

// item is one file, directory or left-out thing of the payload.
type item struct {
	meta  bag.FileMeta
	sum   [sha256.Size]byte
	size  int64
	stamp stamp
}

// stamp tells whether something was changed.
type stamp struct {
	ino          uint64
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{st.Ino, st.Size, st.Mtim, st.Ctim}
}

// A sealing is one episode on its way from open/ to sealed/.
type sealing struct {
	id      ID
	dataDir string
	dir     string   // open/<id>
	root    *os.File // dir
	marker  *os.File // nil when there is no source to care for
	flush   *flusher
	made    []string // directories below dir, to be flushed
	move    bool     // the source is to be moved into dir
	holds   bool     // dir holds the source itself, moved there: never to be removed
	sharing

	mu    sync.Mutex
	items []item
}

// begin makes open/<id>, and its marker first when there is one to make.
func begin(dataDir string, id ID, fl *flusher, m *marker) (_ *sealing, err error) {
	for _, d := range []string{openDir, sealedDir} {
		if err := durable.MkdirAll(filepath.Join(dataDir, d), 0o777); err != nil {
			return nil, err
		}
	}
	if _, err := os.Lstat(filepath.Join(dataDir, sealedDir, id.String())); err == nil {
		return nil, fmt.Errorf("episode %s is sealed already", id)
	}
	s := &sealing{id: id, dataDir: dataDir, dir: filepath.Join(dataDir, openDir, id.String()), flush: fl, made: []string{"."}}
	if m != nil {
		s.move = m.Move
		if s.marker, err = makeMarker(s.dir+markerSuffix, m); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(s.dir, 0o777); err != nil {
		s.dropMarker()
		return nil, err
	}
	defer func() {
		if err != nil {
			s.abort()
		}
	}()
	if s.root, err = os.OpenFile(s.dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return nil, err
	}
	if m != nil {
		if err := durable.SyncDir(filepath.Dir(s.dir)); err != nil {
			return nil, err
		}
	}
	if err := s.share(); err != nil {
		return nil, err
	}
	return s, s.mkdir(bag.PayloadDir)
}

// makeMarker makes and locks a marker whose content is durable; its name is made so together with the episode's directory.
func makeMarker(path string, m *marker) (_ *os.File, err error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path)
		}
	}()
	// Whoever shares the queue must be able to tell whether this sealing lives, whatever the umask.
	if open, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, err
	} else if open.Mode()&fs.ModeSetgid != 0 {
		if err := f.Chmod(0o640); err != nil {
			return nil, err
		}
	}
	// Somebody who recovers may hold the lock for a moment, and leaves the empty marker alone.
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if _, err := f.Write(b); err != nil {
		return nil, err
	}
	return f, f.Sync()
}

func (s *sealing) dropMarker() {
	if s.marker != nil {
		// One that is left behind by a crash costs a look, so its removal need not be durable.
		os.Remove(s.marker.Name())
		s.marker.Close()
		s.marker = nil
	}
}

// flushAll makes everything below dir durable.
func (s *sealing) flushAll() error {
	for _, d := range s.made {
		if err := s.flush.dir(s.root, d); err != nil {
			return err
		}
	}
	return s.flush.finish()
}

// abort takes away what was made, unless the source itself is in it: then the marker stays too, for [Recover].
func (s *sealing) abort() {
	if s.move && !s.holds {
		// Whatever a rename said: what is there is looked at before it is removed.
		_, err := os.Lstat(filepath.Join(s.dir, OutputPath))
		s.holds = !errors.Is(err, fs.ErrNotExist)
	}
	if !s.holds {
		os.RemoveAll(s.dir)
		s.dropMarker()
	}
	s.close()
}

func (s *sealing) close() {
	if s.root != nil {
		s.root.Close()
		s.root = nil
	}
	if s.marker != nil {
		s.marker.Close()
		s.marker = nil
	}
}

func (s *sealing) add(it item) {
	s.mu.Lock()
	s.items = append(s.items, it)
	s.mu.Unlock()
}

func (s *sealing) mkdir(name string) error {
	s.made = append(s.made, name)
	if err := mkdirAt(s.root, name); err != nil || s.dirs == 0 {
		return err
	}
	if err := unix.Fchmodat(int(s.root.Fd()), name, s.dirs, 0); err != nil {
		return &fs.PathError{Op: "chmod", Path: s.dir + "/" + name, Err: err}
	}
	return nil
}

// write puts a small file of our own below dir.
func (s *sealing) write(name string, data []byte, exec bool, mtime time.Time) error {
	f, err := s.create(name, exec)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if !mtime.IsZero() {
		if err := setModTime(s.root, name, mtime); err != nil {
			return err
		}
	}
	return s.flush.file(f, int64(len(data)))
}

// put is write of a payload file.
func (s *sealing) put(name string, data []byte, exec bool, mtime time.Time) error {
	if mtime.IsZero() {
		mtime = time.Now()
	}
	if err := s.write(name, data, exec, mtime); err != nil {
		return err
	}
	s.add(item{meta: bag.FileMeta{Path: name, Exec: exec, ModTime: mtime}, sum: sha256.Sum256(data), size: int64(len(data))})
	return nil
}

// setModTime sets a file's or directory's modification time, to the nanosecond and in any year.
func setModTime(root *os.File, name string, t time.Time) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: t.Unix(), Nsec: int64(t.Nanosecond())}}
	if err := unix.UtimesNanoAt(int(root.Fd()), name, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: root.Name() + "/" + name, Err: err}
	}
	return nil
}

// finish writes run.json, the crate and the tag files. Nothing is added to the payload afterwards.
func (s *sealing) finish(run *Run, organization, agent string) (Facts, error) {
	now := time.Now()
	runJSON, err := run.Format()
	if err != nil {
		return Facts{}, err
	}
	crate, err := formatCrate(run, organization, now, s.crateFiles(int64(len(runJSON))))
	if err != nil {
		return Facts{}, err
	}
	if err := s.put(CratePath, crate, false, now); err != nil {
		return Facts{}, err
	}
	if err := s.put(RunPath, runJSON, false, now); err != nil {
		return Facts{}, err
	}
	slices.SortFunc(s.items, func(a, b item) int { return strings.Compare(a.meta.Path, b.meta.Path) })

	var octets, streams int64
	for i := range s.items {
		if m := &s.items[i].meta; !m.Dir && m.Skipped == "" {
			octets += s.items[i].size
			streams++
		}
	}
	info, err := bag.FormatInfo(bag.Info{
		{Label: bag.LabelOrganization, Value: orElse(organization, "unspecified")},
		{Label: bag.LabelBaggingDate, Value: now.UTC().Format(time.DateOnly)},
		{Label: bag.LabelOxum, Value: bag.FormatOxum(octets, streams)},
		{Label: bag.LabelIdentifier, Value: s.id.String()},
		{Label: LabelHost, Value: run.Host},
		{Label: bag.LabelAgent, Value: orElse(agent, "cis490")},
	})
	if err != nil {
		return Facts{}, err
	}
	var tags []byte
	for _, t := range []struct {
		name  string
		write func(*bufio.Writer)
	}{ // in the order of the tag manifest
		{bag.InfoFile, func(w *bufio.Writer) { w.Write(info) }},
		{bag.Declaration, func(w *bufio.Writer) { w.WriteString(bag.DeclarationText) }},
		{bag.Files, s.writeFiles},
		{bag.Manifest, s.writeManifest},
	} {
		sum, err := s.writeTag(t.name, t.write)
		if err != nil {
			return Facts{}, err
		}
		tags = bag.AppendManifestLine(tags, sum, t.name)
	}
	if err := s.write(bag.TagManifest, tags, false, time.Time{}); err != nil {
		return Facts{}, err
	}
	return Facts{
		ID: s.id, Host: run.Host, Digest: bag.DigestOf(tags),
		Started: Seconds(run.Started.Realtime), Ended: Seconds(run.Ended.Realtime),
		Size: octets, Files: streams,
	}, nil
}

// crateFiles are what stands directly in data/.
func (s *sealing) crateFiles(runSize int64) []crateFile {
	files := []crateFile{{filepath.Base(RunPath), runSize}}
	seen := map[string]bool{}
	for _, it := range s.items {
		name, below, nested := strings.Cut(strings.TrimPrefix(it.meta.Path, bag.PayloadDir+"/"), "/")
		if it.meta.Skipped != "" && !nested {
			continue
		}
		if nested && below != "" || it.meta.Dir {
			name += "/"
		}
		if !seen[name] {
			seen[name] = true
			files = append(files, crateFile{name, it.size})
		}
	}
	slices.SortFunc(files[1:], func(a, b crateFile) int { return strings.Compare(a.path, b.path) })
	return files
}

func (s *sealing) writeManifest(w *bufio.Writer) {
	var line []byte
	for i := range s.items {
		if it := &s.items[i]; !it.meta.Dir && it.meta.Skipped == "" {
			line = bag.AppendManifestLine(line[:0], it.sum[:], it.meta.Path)
			w.Write(line)
		}
	}
}

func (s *sealing) writeFiles(w *bufio.Writer) {
	var line []byte
	for i := range s.items {
		line = bag.AppendFile(line[:0], s.items[i].meta)
		w.Write(line)
	}
}

// writeTag streams a tag file and gives its checksum. Errors of the writer stick in it and show when it is flushed.
func (s *sealing) writeTag(name string, write func(*bufio.Writer)) ([]byte, error) {
	f, err := s.create(name, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, hash.Hash(h)), 64<<10)
	write(w)
	if err := w.Flush(); err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return h.Sum(nil), s.flush.file(f, st.Size())
}

// rename moves the finished episode to sealed/ without making that durable: syncQueue does, once for any number.
func (s *sealing) rename() (dir string, err error) {
	dir = filepath.Join(s.dataDir, sealedDir, s.id.String())
	if err := renameNoReplace(unix.AT_FDCWD, s.dir, unix.AT_FDCWD, dir); err != nil {
		return "", &os.LinkError{Op: "rename", Old: s.dir, New: dir, Err: err}
	}
	return dir, nil
}

// syncQueue makes renames from open/ to sealed/ durable: the new names first, so that a power cut between the two shows an
// episode twice rather than not at all.
func syncQueue(dataDir string) error {
	if err := durable.SyncDir(filepath.Join(dataDir, sealedDir)); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Join(dataDir, openDir))
}
