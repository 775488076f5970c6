package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"unicode/utf8"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/pack"
)

// isFile tells an archive from a bag's directory.
func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// archive is the archive of an episode, opened, with what it says of itself.
type archive struct {
	*pack.Archive
	f     *os.File
	size  int64
	facts episode.Facts
	run   *episode.Run
}

func openArchive(path string) (_ *archive, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	a := &archive{f: f, size: st.Size()}
	if a.Archive, err = pack.OpenArchive(f, a.size); err != nil {
		return nil, err
	}
	r, err := a.Open(episode.RunPath)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, episode.MaxRun+1))
	if err != nil {
		return nil, err
	}
	if a.run, err = episode.ParseRun(b); err == nil {
		a.facts, err = episode.MakeFacts(a.Digest(), a.Info(), a.run)
	}
	if err != nil {
		return nil, code.Wrap(code.Malformed, err, "archive %s", filepath.Base(path))
	}
	return a, nil
}

func (a *archive) Close() error { return errors.Join(a.Archive.Close(), a.f.Close()) }

// eachFile reads the files.jsonl of the episode at dir.
func eachFile(dir string, fn func(bag.FileMeta) error) error {
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := durable.OpenBeneath(root, bag.Files)
	if err != nil {
		return err
	}
	defer f.Close()
	for m, err := range bag.ScanFiles(bufio.NewReaderSize(f, 64<<10)) {
		if err != nil {
			return fmt.Errorf("%s: %w", bag.Files, err)
		}
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

// asJSON quotes what a JSON string can't hold.
func asJSON(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strconv.QuoteToASCII(s)
}
