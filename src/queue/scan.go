package queue

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/episode"
)

// Stray is something in sealed/ that is not a directory named by an episode id.
type Stray struct {
	Name string // its name in sealed/, as Quarantine takes it; any bytes but / and NUL
	Why  string // for people
}

// maxStrays bounds the memory of one scan; the rest shows once these are gone.
const maxStrays = 1000

type scanner struct {
	mu     sync.Mutex
	dir    dirStamp
	ids    []episode.ID
	strays []Stray
	listed int // how often sealed/ was read through, for tests

	cost atomic.Int64 // ns of the last listing
}

// Scan returns the ids that wait, sorted, oldest first, and what is in sealed/
// that is no episode. The slices are the queue's: they may be kept, not changed.
//
// While sealed/ does not change, a scan costs one stat. A change is one listing
// (100,000 ids take some 50 ms and 1.6 MB). It looks into no episode.
func (q *Queue) Scan(ctx context.Context) ([]episode.ID, []Stray, error) {
	s := &q.scan
	s.mu.Lock()
	defer s.mu.Unlock()
	began, listing := q.now(), time.Now()
	fd, err := unix.Open(q.path(sealedDir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("scan %s: %w", q.path(sealedDir), err)
	}
	defer unix.Close(fd)
	// Before the listing: what changes during it shows as a change to the next scan.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, nil, fmt.Errorf("scan %s: %w", q.path(sealedDir), err)
	}
	if s.dir.unchanged(&st) {
		return q.withoutStuck(s.ids), s.strays, nil
	}
	s.dir = dirStamp{}
	ids := make([]episode.ID, 0, max(len(s.ids)+len(s.ids)/8, 64))
	var strays []Stray
	err = readDir(ctx, fd, func(name []byte, typ byte, _ uint64) {
		id, isID := parseID(name)
		if isID && typ == unix.DT_DIR {
			ids = append(ids, id)
			return
		}
		if len(strays) < maxStrays {
			strays = append(strays, Stray{Name: string(name), Why: strayWhy(typ)})
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("scan %s: %w", q.path(sealedDir), err)
	}
	slices.SortFunc(ids, episode.ID.Compare)
	// A directory that changes while it is read may show a name twice (getdents(2)).
	ids = slices.Compact(ids)
	slices.SortFunc(strays, func(a, b Stray) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	strays = slices.Compact(strays)
	s.ids, s.strays, s.dir = ids, strays, stampOf(&st, began)
	s.listed++
	s.cost.Store(int64(time.Since(listing)))
	return q.withoutStuck(ids), strays, nil
}

func strayWhy(typ byte) string {
	switch typ {
	case unix.DT_DIR:
		return "a directory whose name is not an episode id"
	case unix.DT_REG:
		return "a file, not a directory"
	case unix.DT_LNK:
		return "a symbolic link, not a directory"
	}
	return "not a directory"
}

// dirStamp tells whether a directory changed since it was read.
type dirStamp struct {
	dev, ino, nlink uint64
	mtim, ctim      unix.Timespec
	settled         bool
}

// settle is how old a directory's change must be, when it is read, for its mtime
// to be trusted: a second change within the clock's granularity leaves the same
// mtime. File systems have granularities of up to 2 s.
const settle = 2 * time.Second

// stampOf makes the stamp of a directory that was read after st was taken, at
// began. A clock that was set back makes the mtime lie ahead: then nothing is
// trusted, which costs listings, not episodes.
func stampOf(st *unix.Stat_t, began time.Time) dirStamp {
	d := dirStamp{dev: uint64(st.Dev), ino: st.Ino, nlink: uint64(st.Nlink), mtim: st.Mtim, ctim: st.Ctim}
	d.settled = time.Unix(st.Mtim.Unix()).Before(began.Add(-settle)) && time.Unix(st.Ctim.Unix()).Before(began.Add(-settle))
	return d
}

func (d dirStamp) unchanged(st *unix.Stat_t) bool {
	return d.settled && d.dev == uint64(st.Dev) && d.ino == st.Ino && d.nlink == uint64(st.Nlink) && d.mtim == st.Mtim && d.ctim == st.Ctim
}

// readDir calls each for every name in the directory fd but . and .., with its
// type (DT_*, never DT_UNKNOWN unless it vanished) and inode. name is only valid
// during the call. It reads the kernel's records itself (getdents64(2)), since a
// DirEntry for each of 100,000 names is an allocation for each.
func readDir(ctx context.Context, fd int, each func(name []byte, typ byte, ino uint64)) error {
	buf := make([]byte, 64<<10)
	const nameAt = int(unsafe.Offsetof(unix.Dirent{}.Name))
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("getdents: %w", err)
		}
		if n <= 0 {
			return nil
		}
		for rest := buf[:n]; len(rest) > nameAt; {
			reclen := int(binary.NativeEndian.Uint16(rest[unsafe.Offsetof(unix.Dirent{}.Reclen):]))
			if reclen <= nameAt || reclen > len(rest) {
				return fmt.Errorf("getdents: record of %d bytes", reclen)
			}
			ino := binary.NativeEndian.Uint64(rest)
			typ := rest[unsafe.Offsetof(unix.Dirent{}.Type)]
			name := rest[nameAt:reclen]
			if i := bytes.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			rest = rest[reclen:]
			if len(name) == 0 || string(name) == "." || string(name) == ".." {
				continue
			}
			if typ == unix.DT_UNKNOWN { // some file systems don't say
				var st unix.Stat_t
				if unix.Fstatat(fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT {
					continue
				}
				typ = byte(st.Mode & unix.S_IFMT >> 12)
			}
			each(name, typ, ino)
		}
	}
}

// parseID is episode.ParseID without an allocation.
func parseID(b []byte) (id episode.ID, ok bool) {
	if len(b) != 36 {
		return id, false
	}
	n := 0
	for i := 0; i < 36; {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if b[i] != '-' {
				return episode.ID{}, false
			}
			i++
			continue
		}
		hi, lo := nibble(b[i]), nibble(b[i+1])
		if hi > 15 || lo > 15 {
			return episode.ID{}, false
		}
		id[n] = hi<<4 | lo
		n++
		i += 2
	}
	return id, true
}

func nibble(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

// PayloadSize is the bytes of payload of an episode that waits, as its
// bag-info.txt has it.
func (q *Queue) PayloadSize(id episode.ID) (int64, error) {
	b, err := readSmall(filepath.Join(q.Dir(id), bag.InfoFile), bag.MaxInfo)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", id, err)
	}
	info, err := bag.ParseInfo(b)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", id, err)
	}
	n, _, err := info.Oxum()
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", id, err)
	}
	return n, nil
}
