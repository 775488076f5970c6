// Package baddisk is a directory for tests, seen through FUSE, of which some
// operations hang or fail as those of a dying disk do.
//
// It promises that an operation at fault hangs until [FS.Heal], or until the process
// that waits for it is killed, or fails with the error given, and that every other
// operation is that of the directory below. Programs do not use it.
package baddisk

import (
	"context"
	"fmt"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Op is what may be at fault.
type Op string

// The operations.
const (
	Read   Op = "read"    // of a file
	Write  Op = "write"   // to a file
	Lookup Op = "look up" // of a file or directory, which can't even be found then
)

// Hang, in the place of an error, lets an operation hang.
const Hang syscall.Errno = 0

// FS is a mounted directory.
type FS struct {
	server *fuse.Server

	mu      sync.Mutex
	op      Op
	pattern string
	errno   syscall.Errno
	healed  chan struct{} // nil: there is no fault
	holding int
}

// Mount shows the directory below at the directory at, healthy. It needs root and
// /dev/fuse.
func Mount(below, at string) (*FS, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(below, &st); err != nil {
		return nil, fmt.Errorf("baddisk: %w", err)
	}
	f := &FS{}
	root := &fs.LoopbackRoot{Path: below, Dev: st.Dev}
	//lint:ignore SA1019 a NodeWrapChilder is not told which inode it wraps
	root.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &node{fs.LoopbackNode{RootData: r}, f}
	}
	//lint:ignore SA1019 as above
	root.RootNode = root.NewNode(root, nil, "", &st)
	none := time.Duration(0)
	server, err := fs.Mount(at, root.RootNode, &fs.Options{AttrTimeout: &none, EntryTimeout: &none,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "baddisk", Options: []string{"default_permissions"}, DisableXAttrs: true}})
	if err != nil {
		return nil, fmt.Errorf("baddisk: %w", err)
	}
	f.server = server
	return f, nil
}

// Unmount heals and ends it.
func (f *FS) Unmount() error {
	f.Heal()
	return f.server.Unmount()
}

// Fail begins a fault, in the place of one that was: op on what has a name that
// fits pattern ([path.Match]) fails with errno, or hangs.
func (f *FS) Fail(op Op, pattern string, errno syscall.Errno) {
	f.Heal()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.op, f.pattern, f.errno, f.healed = op, pattern, errno, make(chan struct{})
}

// Heal ends the fault; what hangs goes on.
func (f *FS) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.healed != nil {
		close(f.healed)
		f.healed = nil
	}
}

// Holding is how many operations hang.
func (f *FS) Holding() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holding
}

func (f *FS) meet(ctx context.Context, op Op, name string) syscall.Errno {
	f.mu.Lock()
	healed, errno := f.healed, f.errno
	fits, _ := path.Match(f.pattern, name)
	if healed == nil || op != f.op || !fits {
		f.mu.Unlock()
		return 0
	}
	if errno != Hang {
		f.mu.Unlock()
		return errno
	}
	f.holding++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.holding--
		f.mu.Unlock()
	}()
	select {
	case <-healed:
		return 0
	case <-ctx.Done(): // who waits was killed
		return syscall.EINTR
	}
}

type node struct {
	fs.LoopbackNode
	f *FS
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if e := n.f.meet(ctx, Lookup, name); e != 0 {
		return nil, e
	}
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fl, e := n.LoopbackNode.Open(ctx, flags)
	if lf, ok := h.(*fs.LoopbackFile); ok && e == 0 {
		h = &file{lf, n.f, path.Base(n.Path(n.Root()))}
	}
	return h, fl | fuse.FOPEN_DIRECT_IO, e
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	i, h, fl, e := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if lf, ok := h.(*fs.LoopbackFile); ok && e == 0 {
		h = &file{lf, n.f, name}
	}
	return i, h, fl, e
}

type file struct {
	*fs.LoopbackFile
	f    *FS
	name string
}

// PassthroughFd says that the kernel must come to us for each read and write,
// instead of going around to the file below.
func (f *file) PassthroughFd() (int, bool) { return 0, false }

func (f *file) Read(ctx context.Context, b []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if e := f.f.meet(ctx, Read, f.name); e != 0 {
		return nil, e
	}
	return f.LoopbackFile.Read(ctx, b, off)
}

func (f *file) Write(ctx context.Context, b []byte, off int64) (uint32, syscall.Errno) {
	if e := f.f.meet(ctx, Write, f.name); e != 0 {
		return 0, e
	}
	return f.LoopbackFile.Write(ctx, b, off)
}
