package episode

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/durable"
)

// Episode is a sealed episode whose tag files and run.json were read and found to agree.
type Episode struct {
	Dir         string // as it was opened
	Facts       Facts
	Info        bag.Info
	Run         *Run
	RunJSON     []byte // the bytes of run.json
	TagManifest []byte // the bytes of tagmanifest-sha256.txt
}

var tagFiles = [...]string{bag.TagManifest, bag.Declaration, bag.InfoFile, bag.Manifest, bag.Files}

// TagFiles are the names of an episode's tag files, in the order in which they are packed.
func TagFiles() []string { return slices.Clone(tagFiles[:]) }

// Bounds on the tag files that are read whole. The manifest and files.jsonl are only streamed.
const (
	maxTagManifest = 4 << 10
	maxBagInfo     = 64 << 10
)

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 64<<10) }}

// Open reads the tag files and run.json of the sealed episode at dir; see [ReadFacts] for what it checks and its errors.
func Open(dir string) (*Episode, error) { return openCoded(dir, false) }

// OpenCopy is [Open] for a directory that somebody may have given another name than the episode's id.
func OpenCopy(dir string) (*Episode, error) { return openCoded(dir, true) }

func openCoded(dir string, anyName bool) (*Episode, error) {
	e, err := openNamed(dir, anyName)
	if err == nil {
		return e, nil
	}
	name := bag.Quote(filepath.Base(dir))
	var path *fs.PathError
	switch gone := (errGone{}); {
	case errors.As(err, &gone):
		return nil, code.Wrap(code.ReadFailed, gone.error, "episode %s", name)
	case errors.Is(err, durable.ErrNotRegular), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, code.Wrap(code.Damaged, err, "episode %s", name)
	case errors.As(err, &path):
		return nil, code.Wrap(code.ReadFailed, err, "episode %s", name)
	}
	return nil, code.Wrap(code.Damaged, err, "episode %s", name)
}

// errGone marks that there is no such directory: somebody moved it, which is no damage.
type errGone struct{ error }

func openNamed(dir string, anyName bool) (*Episode, error) {
	id, err := ParseID(filepath.Base(filepath.Clean(dir)))
	if err != nil && !anyName {
		return nil, errors.New("the directory's name is not that of an episode")
	}
	root, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errGone{err}
		}
		return nil, err
	}
	defer root.Close()
	e, err := open(root, dir)
	if err == nil && e.Facts.ID != id && !anyName {
		return nil, fmt.Errorf("the directory's name is not that of its episode, %s", e.Facts.ID)
	}
	return e, err
}

// open reads the episode whose directory root is, whatever it is called.
func open(root *os.File, dir string) (*Episode, error) {
	names, err := root.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if n != bag.PayloadDir && !slices.Contains(tagFiles[:], n) {
			return nil, fmt.Errorf("%s does not belong in an episode", bag.Quote(n))
		}
	}

	e := &Episode{Dir: dir}
	if e.TagManifest, err = readWhole(root, bag.TagManifest, maxTagManifest); err != nil {
		return nil, err
	}
	sums, err := parseTagManifest(e.TagManifest)
	if err != nil {
		return nil, err
	}
	decl, err := readWhole(root, bag.Declaration, int64(len(bag.DeclarationText)))
	if err != nil {
		return nil, err
	}
	if string(decl) != bag.DeclarationText {
		return nil, fmt.Errorf("%s is not that of BagIt 1.0 in UTF-8", bag.Declaration)
	}
	info, err := readWhole(root, bag.InfoFile, maxBagInfo)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{bag.Declaration, decl}, {bag.InfoFile, info}} {
		if sum := sha256.Sum256(f.data); sum != sums[f.name] {
			return nil, sumError(f.name, bag.TagManifest)
		}
	}
	if e.Info, err = bag.ParseInfo(info); err != nil {
		return nil, fmt.Errorf("%s: %w", bag.InfoFile, err)
	}

	var runSum []byte
	var files int64
	err = readTag(root, bag.Manifest, sums, func(r *bufio.Reader) error {
		m := bag.NewManifestScanner(r, bag.SHA256, bag.Payload)
		for m.Scan() {
			files++
			if string(m.Path()) == RunPath {
				runSum = bytes.Clone(m.Sum())
			}
		}
		return m.Err()
	})
	if err != nil {
		return nil, err
	}
	if err := readTag(root, bag.Files, sums, nil); err != nil {
		return nil, err
	}

	if e.RunJSON, err = readWhole(root, RunPath, MaxRun); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(e.RunJSON); runSum == nil {
		return nil, fmt.Errorf("%s does not list %s", bag.Manifest, RunPath)
	} else if !bytes.Equal(sum[:], runSum) {
		return nil, sumError(RunPath, bag.Manifest)
	}
	if e.Run, err = ParseRun(e.RunJSON); err != nil {
		return nil, err
	}
	if e.Facts, err = MakeFacts(bag.DigestOf(e.TagManifest), e.Info, e.Run); err != nil {
		return nil, err
	}
	if e.Facts.Files != files {
		return nil, fmt.Errorf("%s has %d files, %s lists %d", bag.LabelOxum, e.Facts.Files, bag.Manifest, files)
	}
	return e, nil
}

func sumError(name, manifest string) error {
	return fmt.Errorf("%s is not what %s says", name, manifest)
}

// parseTagManifest reads the checksums of the four tag files that an episode's tag manifest must list, and no other.
func parseTagManifest(b []byte) (map[string][sha256.Size]byte, error) {
	entries, err := bag.ParseTagManifest(b, bag.SHA256)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bag.TagManifest, err)
	}
	sums := make(map[string][sha256.Size]byte, len(entries))
	for _, e := range entries {
		sums[e.Path] = [sha256.Size]byte(e.Sum)
	}
	for _, n := range tagFiles[1:] {
		if _, ok := sums[n]; !ok {
			return nil, fmt.Errorf("%s does not list %s", bag.TagManifest, n)
		}
	}
	if len(entries) != len(tagFiles)-1 {
		return nil, fmt.Errorf("%s lists %d files, want %d", bag.TagManifest, len(entries), len(tagFiles)-1)
	}
	return sums, nil
}

// readWhole reads a small file.
func readWhole(root *os.File, name string, max int64) ([]byte, error) {
	f, err := durable.OpenBeneath(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > max {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, st.Size(), max)
	}
	b := make([]byte, st.Size())
	if _, err := io.ReadFull(f, b); err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("%s shrank while it was read", name)
	} else if err != nil {
		return nil, err
	}
	return b, nil
}

// readTag streams a tag file through parse and compares its checksum with the tag manifest's, which is the better thing to
// report when both are wrong.
func readTag(root *os.File, name string, sums map[string][sha256.Size]byte, parse func(*bufio.Reader) error) error {
	f, err := durable.OpenBeneath(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	r := readers.Get().(*bufio.Reader)
	r.Reset(&hashReader{f, h})
	defer func() { r.Reset(nil); readers.Put(r) }()
	var perr error
	if parse != nil {
		perr = parse(r)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if [sha256.Size]byte(h.Sum(nil)) != sums[name] {
		return sumError(name, bag.TagManifest)
	}
	if perr != nil {
		return fmt.Errorf("%s: %w", name, perr)
	}
	return nil
}

// hashReader hashes what is read through it. It hides the file's WriteTo, with which io.Copy would pass it by.
type hashReader struct {
	r io.Reader
	h hash.Hash
}

func (r *hashReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.h.Write(p[:n])
	return n, err
}
