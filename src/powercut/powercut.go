// Package powercut is a file system for tests that forgets what a disk may forget
// when the power goes: all that was not fsynced.
//
// It promises that each state it shows is one that POSIX allows and that a file
// system of today may leave: the bytes of a file as of its last fsync(2), or any
// part of what was written since, zeros in place of it included; the names in a
// directory as of its last fsync, or after any number, in order, of the changes
// since; a rename in both directories or in neither. It is stricter than one file
// system is: an fsync of a file does not save its name, nor that of one directory
// another's.
//
// Programs do not use it. syncfs(2) can't be seen through FUSE and saves nothing
// here.
package powercut

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// FS is a mounted file system that remembers all that was done to it.
type FS struct {
	server *fuse.Server

	mu   sync.Mutex
	log  []op
	ids  map[uint64]uint64 // inode number below → number that is never used again
	next uint64

	fail func(path string) syscall.Errno
}

type kind int

const (
	create kind = iota // also mkdir and symlink
	link
	remove // unlink or rmdir
	rename
	write
	truncate
	chmod
	syncFile
	syncDir
	mark
)

// op is one thing that was done.
type op struct {
	kind      kind
	id        uint64 // of the file or directory
	dir, dir2 uint64
	name      string
	name2     string
	dirEntry  bool   // a directory was created
	target    string // of a symbolic link
	mode      uint32
	off       int64
	data      []byte
}

const rootID = 1

// Mount mounts an empty file system at mnt; its bytes are kept in backing. Both
// are empty directories. It needs /dev/fuse and either root or fusermount3.
func Mount(backing, mnt string) (*FS, error) {
	f := &FS{ids: map[uint64]uint64{}, next: rootID}
	var st syscall.Stat_t
	if err := syscall.Stat(backing, &st); err != nil {
		return nil, fmt.Errorf("powercut: %w", err)
	}
	root := &fs.LoopbackRoot{Path: backing, Dev: uint64(st.Dev)}
	//lint:ignore SA1019 a NodeWrapChilder is not told which inode it wraps
	root.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, st *syscall.Stat_t) fs.InodeEmbedder {
		return &node{LoopbackNode: fs.LoopbackNode{RootData: r}, fs: f, id: f.idOf(st.Ino)}
	}
	n := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, fs: f, id: f.idOf(st.Ino)}
	root.RootNode = n
	server, err := fs.Mount(mnt, n, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true, FsName: "powercut", Name: "powercut"}})
	if err != nil {
		return nil, fmt.Errorf("powercut: %w", err)
	}
	f.server = server
	return f, nil
}

// Unmount ends it. What was recorded stays and can still be crashed.
func (f *FS) Unmount() error { return f.server.Unmount() }

// FailSync has fsync fail with what fail returns for the path below the mount
// point ("." is that itself); 0 lets it succeed. nil ends it; no call of fail comes
// after that.
func (f *FS) FailSync(fail func(path string) syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Mark notes that a promise was made, at this point in the order of things.
func (f *FS) Mark(promise string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, op{kind: mark, name: promise})
}

// Ops is how many things were done; after each the power may go.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.log)
}

// idOf is called with the lock held, or before the file system is mounted.
func (f *FS) idOf(ino uint64) uint64 {
	id, ok := f.ids[ino]
	if !ok {
		id = f.next
		f.next++
		f.ids[ino] = id
	}
	return id
}

// unnamed is called when st has lost a name. The inode number of one that lost
// its last may come again, for something else.
func (f *FS) unnamed(st *syscall.Stat_t) {
	if st.Nlink <= 1 || st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		delete(f.ids, st.Ino)
	}
}

// Crash writes into dst, an empty directory, what a disk may hold if the power
// goes after the first n of Ops, and returns the promises made until then. rng
// chooses among what may be.
func (f *FS) Crash(n int, rng *rand.Rand, dst string) (promises []string, err error) {
	f.mu.Lock()
	log := f.log[:n:n]
	f.mu.Unlock()
	chance := []float64{0, 1, rng.Float64()}[rng.IntN(3)] // of what is not forced: nothing, all, some

	// Up to where each directory's changes are on the disk for sure, and up to
	// where they happen to be.
	forced, cut := map[uint64]int{}, map[uint64]int{}
	for i, o := range log {
		switch o.kind {
		case syncDir:
			forced[o.id] = i
		case mark:
			promises = append(promises, o.name)
		case create, link, remove, rename:
			cut[o.dir] = n
			if o.kind == rename {
				cut[o.dir2] = n
			}
		}
	}
	for _, d := range sorted(cut) {
		if chance == 1 {
			continue
		}
		cut[d] = forced[d]
		if chance > 0 {
			cut[d] += rng.IntN(n - forced[d] + 1)
		}
	}
	for changed := true; changed; {
		changed = false
		for i, o := range log {
			if o.kind != rename || o.dir == o.dir2 {
				continue
			}
			for _, p := range [][2]uint64{{o.dir, o.dir2}, {o.dir2, o.dir}} {
				a, b := p[0], p[1]
				if i < forced[a] && i >= forced[b] {
					forced[b], changed = i+1, true
					cut[b] = max(cut[b], i+1)
				} else if i < cut[a] && i >= cut[b] {
					cut[a], changed = i, true
				}
			}
		}
	}

	tree := map[uint64]map[string]uint64{rootID: {}}
	inodes := map[uint64]op{rootID: {dirEntry: true, mode: 0o755}}
	for i, o := range log {
		switch o.kind {
		case create:
			inodes[o.id] = o
			if o.dirEntry {
				tree[o.id] = map[string]uint64{}
			}
		}
		switch o.kind {
		case create, link, remove, rename:
			if i >= cut[o.dir] || o.kind == rename && i >= cut[o.dir2] {
				continue
			}
		}
		switch o.kind {
		case create, link:
			tree[o.dir][o.name] = o.id
		case remove:
			delete(tree[o.dir], o.name)
		case rename:
			delete(tree[o.dir], o.name)
			tree[o.dir2][o.name2] = o.id
		}
	}
	return promises, lay(dst, rootID, tree, inodes, contents(log, chance, rng))
}

type content struct {
	data []byte
	mode uint32
}

// contents is what each file may hold.
func contents(log []op, chance float64, rng *rand.Rand) map[uint64]content {
	synced := map[uint64]int{}
	for i, o := range log {
		if o.kind == syncFile {
			synced[o.id] = i
		}
	}
	kept := map[uint64]content{}
	lost := map[uint64]bool{} // of the rest of this file's changes nothing is kept
	for i, o := range log {
		c := kept[o.id]
		pending := i >= synced[o.id]
		if pending && o.kind != create && (lost[o.id] || rng.Float64() >= chance) {
			if o.kind == write || o.kind == truncate {
				lost[o.id] = true
				// The length may be on the disk before the bytes are, or some of them.
				if o.kind == write && chance > 0 {
					switch rng.IntN(3) {
					case 0:
						c.data = put(c.data, o.off, make([]byte, len(o.data)))
					case 1:
						c.data = put(c.data, o.off, o.data[:rng.IntN(len(o.data)+1)])
					}
					kept[o.id] = c
				}
			}
			continue
		}
		switch o.kind {
		case create:
			c.mode = o.mode
		case write:
			c.data = put(c.data, o.off, o.data)
		case truncate:
			c.data = append(slices.Clone(c.data[:min(len(c.data), int(o.off))]), make([]byte, max(0, int(o.off)-len(c.data)))...)
		case chmod:
			c.mode = o.mode
		default:
			continue
		}
		kept[o.id] = c
	}
	return kept
}

func put(b []byte, off int64, data []byte) []byte {
	out := make([]byte, max(len(b), int(off)+len(data)))
	copy(out, b)
	copy(out[off:], data)
	return out
}

func lay(path string, id uint64, tree map[uint64]map[string]uint64, inodes map[uint64]op, files map[uint64]content) error {
	for _, name := range sorted(tree[id]) {
		child := tree[id][name]
		o, p := inodes[child], filepath.Join(path, name)
		var err error
		switch {
		case o.dirEntry:
			if err = os.Mkdir(p, 0o755); err == nil {
				err = lay(p, child, tree, inodes, files)
			}
		case o.target != "":
			err = os.Symlink(o.target, p)
		default:
			c := files[child]
			if err = os.WriteFile(p, c.data, 0o600); err == nil {
				err = os.Chmod(p, os.FileMode(c.mode&0o777))
			}
		}
		if err != nil {
			return fmt.Errorf("powercut: %w", err)
		}
	}
	return nil
}

func sorted[K interface{ ~string | ~uint64 }, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// node is a file or directory. Each change is done and recorded under one lock,
// so that the record is in the order in which things happened.
type node struct {
	fs.LoopbackNode
	fs *FS
	id uint64
}

func (n *node) at(name string) string {
	return filepath.Join(n.RootData.Path, n.Path(n.Root()), name)
}

func (n *node) record(o op) { n.fs.log = append(n.fs.log, o) }

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *node) Create(ctx context.Context, name string, flags uint32, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	_, err := os.Lstat(n.at(name))
	inode, h, ff, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	h = visible(h)
	if errno == 0 && err != nil {
		n.record(op{kind: create, id: inode.Operations().(*node).id, dir: n.id, name: name, mode: out.Mode})
	}
	return inode, h, ff, errno
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	inode, errno := n.LoopbackNode.Mkdir(ctx, name, mode, out)
	if errno == 0 {
		n.record(op{kind: create, id: inode.Operations().(*node).id, dir: n.id, name: name, dirEntry: true})
	}
	return inode, errno
}

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	inode, errno := n.LoopbackNode.Symlink(ctx, target, name, out)
	if errno == 0 {
		n.record(op{kind: create, id: inode.Operations().(*node).id, dir: n.id, name: name, target: target})
	}
	return inode, errno
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	inode, errno := n.LoopbackNode.Link(ctx, &target.(*node).LoopbackNode, name, out)
	if errno == 0 {
		n.record(op{kind: link, id: target.(*node).id, dir: n.id, name: name})
	}
	return inode, errno
}

func (n *node) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.ENOTSUP
}

func (n *node) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.ENOTSUP
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.remove(name, func() syscall.Errno { return n.LoopbackNode.Unlink(ctx, name) })
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.remove(name, func() syscall.Errno { return n.LoopbackNode.Rmdir(ctx, name) })
}

func (n *node) remove(name string, do func() syscall.Errno) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	var st syscall.Stat_t
	err := syscall.Lstat(n.at(name), &st)
	errno := do()
	if errno == 0 {
		if err == nil {
			n.fs.unnamed(&st)
		}
		n.record(op{kind: remove, dir: n.id, name: name})
	}
	return errno
}

func (n *node) Rename(ctx context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	const noReplace = 1
	if flags&^noReplace != 0 {
		return syscall.EINVAL
	}
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	to := newParent.(*node)
	var st, over syscall.Stat_t
	if err := syscall.Lstat(n.at(name), &st); err != nil {
		return fs.ToErrno(err)
	}
	replaced := syscall.Lstat(to.at(newName), &over) == nil
	if replaced && flags&noReplace != 0 {
		return syscall.EEXIST
	}
	if err := syscall.Rename(n.at(name), to.at(newName)); err != nil {
		return fs.ToErrno(err)
	}
	if replaced && over.Ino != st.Ino {
		n.fs.unnamed(&over)
	}
	n.record(op{kind: rename, id: n.fs.idOf(st.Ino), dir: n.id, name: name, dir2: to.id, name2: newName})
	return 0
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	h, ff, errno := n.LoopbackNode.Open(ctx, flags)
	h = visible(h)
	if errno == 0 && flags&syscall.O_TRUNC != 0 {
		n.record(op{kind: truncate, id: n.id})
	}
	return h, ff, errno
}

func (n *node) Write(ctx context.Context, h fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	done, errno := h.(fs.FileWriter).Write(ctx, data, off)
	if errno == 0 {
		n.record(op{kind: write, id: n.id, off: off, data: slices.Clone(data[:done])})
	}
	return done, errno
}

func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	errno := n.LoopbackNode.Setattr(ctx, h, in, out)
	if errno != 0 {
		return errno
	}
	if size, ok := in.GetSize(); ok {
		n.record(op{kind: truncate, id: n.id, off: int64(size)})
	}
	if mode, ok := in.GetMode(); ok {
		n.record(op{kind: chmod, id: n.id, mode: mode})
	}
	return 0
}

// Allocate and CopyFileRange are not offered: callers fall back on writes.
func (n *node) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.ENOTSUP
}

func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOTSUP
}

func (n *node) Fsync(_ context.Context, _ fs.FileHandle, _ uint32) syscall.Errno {
	return n.sync(syncFile)
}

func (n *node) sync(k kind) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if fail := n.fs.fail; fail != nil {
		path := n.Path(n.Root())
		if path == "" {
			path = "."
		}
		if errno := fail(path); errno != 0 {
			return errno
		}
	}
	n.record(op{kind: k, id: n.id})
	return 0
}

func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, ff, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &dir{h, n}, ff, 0
}

// file is an open file that does not let the kernel write past this program.
type file struct{ *fs.LoopbackFile }

func (file) PassthroughFd() (int, bool) { return 0, false }

func visible(h fs.FileHandle) fs.FileHandle {
	if l, ok := h.(*fs.LoopbackFile); ok {
		return file{l}
	}
	return h
}

// dir is an open directory whose fsync is recorded.
type dir struct {
	fs.FileHandle
	n *node
}

func (d *dir) Fsyncdir(context.Context, uint32) syscall.Errno { return d.n.sync(syncDir) }

func (d *dir) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	return d.FileHandle.(fs.FileReaddirenter).Readdirent(ctx)
}

func (d *dir) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	return d.FileHandle.(fs.FileSeekdirer).Seekdir(ctx, off)
}

func (d *dir) Releasedir(ctx context.Context, flags uint32) {
	d.FileHandle.(fs.FileReleasedirer).Releasedir(ctx, flags)
}
