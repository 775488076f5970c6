package episode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LeftOvers are sealings whose process died, and which nobody has recovered.
type LeftOvers struct {
	Count  int
	Oldest time.Time // when the first of them began; zero when there is none
}

// FindLeftOvers counts what [Recover] would look into and that began before the given time. It changes nothing. A sealing
// that is still going on is none, however long it takes; one whose marker may not be opened counts.
func FindLeftOvers(dataDir string, before time.Time) (LeftOvers, error) {
	var out LeftOvers
	dir := filepath.Join(dataDir, openDir)
	ents, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	} else if err != nil {
		return out, err
	}
	for _, e := range ents {
		name, ok := strings.CutSuffix(e.Name(), markerSuffix)
		if _, err := ParseID(name); err != nil || !ok || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.ModTime().Before(before) { // an error: it has just gone
			continue
		}
		held, err := isHeld(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) || held {
			continue
		} else if err != nil && !errors.Is(err, fs.ErrPermission) {
			return out, err
		}
		out.Count++
		if out.Oldest.IsZero() || info.ModTime().Before(out.Oldest) {
			out.Oldest = info.ModTime()
		}
	}
	return out, nil
}

// isHeld tells whether the process that made a marker lives. The lock that it takes to find out is shared and held for a
// moment; a [Recover] at that moment leaves the episode to the next one.
func isHeld(marker string) (bool, error) {
	f, err := os.OpenFile(marker, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return true, nil
	} else if err != nil {
		return false, fmt.Errorf("lock %s: %w", marker, err)
	}
	return false, nil
}
