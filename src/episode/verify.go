package episode

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/durable"
)

// IsEpisode tells whether a bag says of itself that it is an episode, by its bag-info.txt.
func IsEpisode(b *bag.Bag) bool { return b.Info.Get(LabelHost) != "" }

// Faults checks the whole bag b, as [bag.Bag.Verify] does, and what an episode must be beyond that. A directory whose name is not the episode's
// id is no fault here: a copy may be called anything, though the queue will not take it.
func Faults(ctx context.Context, b *bag.Bag, progress func(bytes int64)) ([]bag.Fault, error) {
	faults, err := b.Verify(ctx, progress)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenFile(b.Dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if len(faults) == 0 {
		// What is wrong with the tag files by themselves would only be said twice.
		if _, err := open(root, b.Dir); err != nil {
			faults = append(faults, bag.Fault{Kind: bag.ProfileBreach, Detail: "a valid bag, but no episode: " + err.Error()})
		}
	}
	return append(faults, filesFaults(root)...), nil
}

// filesFaults compares files.jsonl with the manifest: both are sorted, and each payload file is in both.
func filesFaults(root *os.File) (faults []bag.Fault) {
	add := func(line int, path, format string, a ...any) {
		faults = append(faults, bag.Fault{Kind: bag.ProfileBreach, File: bag.Files, Line: line, Path: path, Detail: fmt.Sprintf(format, a...)})
	}
	manifest, err := durable.OpenBeneath(root, bag.Manifest)
	if err != nil {
		return nil // reported already, by its absence
	}
	defer manifest.Close()
	files, err := durable.OpenBeneath(root, bag.Files)
	if err != nil {
		return nil
	}
	defer files.Close()
	m := bag.NewManifestScanner(bufio.NewReaderSize(manifest, 64<<10), bag.SHA256, bag.Payload)
	more := m.Scan()
	line, last := 0, ""
	for f, err := range bag.ScanFiles(bufio.NewReaderSize(files, 64<<10)) {
		line++
		if le := (*bag.LineError)(nil); errors.As(err, &le) {
			add(le.Line, "", "%v", le.Err)
			return faults
		} else if err != nil {
			return append(faults, bag.Fault{Kind: bag.Unreadable, Path: bag.Files, Detail: err.Error(), Err: err})
		}
		if f.Path <= last {
			add(line, f.Path, "the lines are not sorted by their paths, or one is there twice")
			return faults
		}
		last = f.Path
		if f.Dir || f.Skipped != "" {
			continue
		}
		for more && bytes.Compare(m.Path(), []byte(f.Path)) < 0 {
			add(0, string(m.Path()), "is in the payload and has no line")
			more = m.Scan()
		}
		if !more || string(m.Path()) != f.Path {
			add(line, f.Path, "is not in the payload")
			continue
		}
		more = m.Scan()
	}
	for ; more; more = m.Scan() {
		add(0, string(m.Path()), "is in the payload and has no line")
	}
	return faults
}

// Verify checks the whole sealed episode at dir, every byte of it. The error is a *[code.Error]: Damaged, with the first of the faults, when the episode
// is not what it says it is; ReadFailed when the operating system failed, so that nobody knows. An error of ctx is
// returned as it is.
func Verify(ctx context.Context, dir string, progress func(bytes int64)) (Facts, error) {
	e, err := Open(dir)
	if err != nil {
		return Facts{}, err
	}
	name := bag.Quote(filepath.Base(dir))
	b, err := bag.Open(dir)
	if err != nil {
		return Facts{}, code.Wrap(code.ReadFailed, err, "episode %s", name)
	}
	defer b.Close()
	faults, err := Faults(ctx, b, progress)
	switch unreadable := bag.Unreadables(faults); {
	case ctx.Err() != nil:
		return Facts{}, context.Cause(ctx)
	case err != nil:
		return Facts{}, code.Wrap(code.ReadFailed, err, "episode %s", name)
	case len(unreadable) > 0:
		return Facts{}, code.Wrap(code.ReadFailed, unreadable[0], "episode %s", name)
	case len(faults) == 1:
		return Facts{}, code.New(code.Damaged, "episode %s: %v", name, faults[0])
	case len(faults) > 1:
		return Facts{}, code.New(code.Damaged, "episode %s: %v, and %d more faults", name, faults[0], len(faults)-1)
	}
	return e.Facts, nil
}
