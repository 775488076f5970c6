package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// disk is what can be seen of a directory and its file system.
type disk struct {
	path     string
	err      error // of looking at the directory
	statfs   error
	dir      bool
	readOnly bool
	free     int64 // bytes for the unprivileged
	size     int64
	inodes   int64 // free; meaningful where inodesAll > 0
	all      int64
	mount    string // where its file system is mounted; "": not known
	owners   map[string]int
}

func lookAtDisk(path string) disk {
	d := disk{path: path, owners: map[string]int{}}
	st, err := os.Stat(path)
	if err != nil {
		d.err = err
		return d
	}
	d.dir = st.IsDir()
	for _, p := range append([]string{path}, parts(path)...) {
		var s unix.Stat_t
		if unix.Lstat(p, &s) == nil {
			d.owners[p] = int(s.Uid)
		}
	}
	var f unix.Statfs_t
	if err := unix.Statfs(path, &f); err != nil {
		d.statfs = err
		return d
	}
	d.readOnly = f.Flags&unix.ST_RDONLY != 0
	d.free, d.size = int64(f.Bavail)*f.Bsize, int64(f.Blocks)*f.Bsize
	d.inodes, d.all = int64(f.Ffree), int64(f.Files)
	d.mount = mountPoint(path)
	return d
}

// parts are the directories of the daemons in their data directory.
func parts(path string) (all []string) {
	for _, p := range []string{"sealed", "quarantine", "receipts", "uploads", "shipped", "episodes", "incoming"} {
		all = append(all, filepath.Join(path, p))
	}
	return all
}

// mountPoint goes up from path for as long as it is the same file system.
func mountPoint(path string) string {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	for path != "/" {
		var up unix.Stat_t
		if unix.Stat(filepath.Dir(path), &up) != nil || up.Dev != st.Dev {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// dataDirRow judges whether the daemon can work in its directory.
func dataDirRow(path string, d disk, p process, u unit) Finding {
	const create = "systemd-tmpfiles --create"
	switch {
	case errors.Is(d.err, fs.ErrNotExist):
		return red(path+" is not there", d.err.Error(), create+"; or, if it belongs on a disk of its own: mount -a")
	case errors.Is(d.err, fs.ErrPermission):
		return unknown("may not look at "+path, d.err.Error(), "sudo cis490-doctor")
	case d.err != nil:
		return red(path+" can't be looked at", d.err.Error(), "journalctl -k -p err -n 20")
	case !d.dir:
		return red(path+" is not a directory", "", "mv "+quote(path)+" "+quote(path+".aside")+" && "+create)
	case d.statfs != nil:
		return red("the file system of "+path+" does not answer", d.statfs.Error(), "journalctl -k -p err -n 20")
	case d.readOnly:
		m := d.mount
		if m == "" {
			m = path
		}
		return red(path+" is read-only", "the file system on "+m+" is mounted read-only: by somebody, or by the kernel after an error",
			"journalctl -k -p err -n 20; if the disk is sound: mount -o remount,rw "+quote(m))
	}
	want, who := p.uid, ""
	if name := u.says["User"]; name != "" {
		if x, err := user.Lookup(name); err == nil {
			want, _ = strconv.Atoi(x.Uid) // POSIX uids are numbers
			who = name
		}
	}
	if want > 0 {
		if who == "" {
			who = strconv.Itoa(want)
			if x, err := user.LookupId(who); err == nil {
				who = x.Username
			}
		}
		var wrong []string
		for _, at := range append([]string{path}, parts(path)...) {
			if uid, ok := d.owners[at]; ok && uid != want {
				wrong = append(wrong, at)
			}
		}
		if len(wrong) > 0 {
			return red("wrong owner: "+wrong[0]+" does not belong to "+who, strings.Join(wrong, ", "), "chown "+quote(who)+" "+strings.Join(quoteAll(wrong), " "))
		}
	}
	return green("%s is there and writable", path)
}

func quoteAll(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = quote(s)
	}
	return out
}

// least is what no daemon can work below.
const least = 4 << 20

// spaceRow judges space and inodes. Below min nothing new is begun.
func spaceRow(name string, d disk, min int64, option string) Finding {
	if d.err != nil || d.statfs != nil {
		return unknown("the file system of "+name+" can't be looked at", "", "cis490-doctor --only data-dir")
	}
	free := fmt.Sprintf("%s of %s free, %s inodes free", size(d.free), size(d.size), humanize.Comma(d.inodes))
	find := "du -xhd1 " + quote(d.path) + " shows what fills it; free or add space"
	if d.all <= 0 {
		free = fmt.Sprintf("%s of %s free", size(d.free), size(d.size))
	}
	floor := max(min, least)
	near := max(2*floor, d.size/50)
	if most := int64(10 << 30); near > most && 2*floor < most {
		near = most
	}
	switch {
	case d.free < floor && min > least:
		return red(fmt.Sprintf("%s is full: %s free, and nothing is begun below %s", name, size(d.free), size(min)), free, find+", or lower "+option)
	case d.free < floor:
		return red(fmt.Sprintf("%s is full: %s free", name, size(d.free)), free, find)
	case d.all > 0 && d.inodes == 0:
		return red(name+" has no inodes left", free, "du --inodes -xd1 "+quote(d.path)+" shows where there are many files; remove some")
	case d.all > 0 && d.inodes < max(1000, d.all/100) && d.inodes < d.all/2:
		return yellow(name+" has few inodes left", free, "du --inodes -xd1 "+quote(d.path)+" shows where there are many files; remove some")
	case d.free < near:
		return yellow(fmt.Sprintf("%s is nearly full: %s free", name, size(d.free)), free, find)
	}
	return green("%s", free)
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
