package bag

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"cis490/src/durable"
	"cis490/src/tree"
)

// sum is one checksum that a file must have.
type sum struct {
	manifest *manifest
	line     int
	value    []byte
}

type manifest struct {
	name string
	alg  Algorithm
	kind Kind
}

// wanted is one file that manifests list.
type wanted struct {
	sums []sum
	raw  string // the path as written, when that differs from the decoded one
	seen bool
}

// verification is the state of one run of Verify.
type verification struct {
	*Bag
	manifests []*manifest
	payload   int // how many of them list the payload
	want      map[string]*wanted
	unlisted  []string // payload files that are there and not listed
	octets    int64
	streams   int64
	hasData   bool

	progress func(int64)
	jobs     chan job
	mu       sync.Mutex
	bad      []Fault // found by the workers
}

type job struct {
	path string
	want *wanted
}

// Verify checks the whole bag, payload included, and gives every fault in a fixed order: none means that the bag is
// complete and valid (RFC 8493, section 3). Files are hashed in parallel, each once for all manifests that list it; memory is bounded by the
// manifests, not by the payload. progress, when it is not nil, is called with the number of bytes hashed since its last call,
// from several goroutines. The error is ctx's, or that the directory itself can't be walked.
func (b *Bag) Verify(ctx context.Context, progress func(bytes int64)) ([]Fault, error) {
	b.faults, b.warnings = b.faults[:b.opened.faults], b.warnings[:b.opened.warnings]
	v := &verification{Bag: b, want: map[string]*wanted{}, progress: progress, jobs: make(chan job, 64)}
	if err := v.readManifests(); err != nil {
		return nil, err
	}

	workers := b.Workers
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), 16)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { v.work(ctx) })
	}
	err := tree.Walk(b.root, func(e *tree.Entry) error { return v.visit(ctx, e) })
	if err == nil {
		err = v.matchRest(ctx)
	}
	close(v.jobs)
	wg.Wait()
	if cerr := context.Cause(ctx); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, fmt.Errorf("walk bag: %w", err)
	}

	b.found.octets, b.found.streams = v.octets, v.streams
	v.missing()
	v.checkOxum()
	return sortFaults(append(slices.Clone(b.faults), v.bad...)), nil
}

// readManifests finds and reads the manifests and fetch.txt of the base directory.
func (v *verification) readManifests() error {
	names, err := baseNames(v.root)
	if err != nil {
		return err
	}
	for _, name := range names {
		kind, prefix := Payload, "manifest-"
		switch {
		case isTagManifest(name):
			kind, prefix = Tag, "tagmanifest-"
		case !isManifest(name):
			continue
		}
		alg, ok := ParseAlgorithm(strings.TrimSuffix(strings.TrimPrefix(name, prefix), ".txt"))
		if !ok {
			v.faultf(Unsupported, name, 0, "", "its checksum algorithm is not known, so that it can't be checked")
			continue
		}
		m := &manifest{name: name, alg: alg, kind: kind}
		if slices.ContainsFunc(v.manifests, func(o *manifest) bool { return o.alg == alg && o.kind == kind }) {
			v.faultf(Duplicate, name, 0, "", "is a second manifest of the same algorithm")
			continue
		}
		v.manifests = append(v.manifests, m)
		if kind == Payload {
			v.payload++
		}
		if f, ok := v.openTag(name); ok {
			for l := range v.scanManifest(name, f, alg, kind) {
				v.list(m, l)
			}
			f.Close()
		}
	}
	if v.payload == 0 {
		v.faultf(Missing, "", 0, "", "no payload manifest (manifest-ALGORITHM.txt) is there that can be checked")
	}
	v.checkManifestsListed()
	v.readFetch()
	return nil
}

func baseNames(root *os.File) ([]string, error) {
	dir, err := os.OpenFile(root.Name(), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open bag: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read bag: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// list adds one line of a manifest to what is wanted.
func (v *verification) list(m *manifest, l listed) {
	w := v.want[l.path]
	if w == nil {
		w = &wanted{}
		v.want[l.path] = w
	}
	if l.raw != l.path {
		w.raw = l.raw
	}
	for _, s := range w.sums {
		switch {
		case s.manifest != m:
		case string(s.value) != string(l.sum):
			v.faultf(Duplicate, m.name, l.line, l.path, "is listed on line %d too, with another checksum", s.line)
			return
		case v.v1:
			v.faultf(Duplicate, m.name, l.line, l.path, "is listed on line %d too", s.line)
			return
		default:
			v.warnf(Duplicate, m.name, l.line, l.path, "is listed on line %d too, with the same checksum", s.line)
			return
		}
	}
	w.sums = append(w.sums, sum{m, l.line, l.sum})
}

// checkManifestsListed: each tag manifest must list every payload manifest (RFC 8493, section 2.2.1); before 1.0 it should.
func (v *verification) checkManifestsListed() {
	for _, t := range v.manifests {
		for _, p := range v.manifests {
			if t.kind != Tag || p.kind != Payload || v.isListed(p.name, t) {
				continue
			}
			if v.v1 {
				v.faultf(Unlisted, t.name, 0, p.name, "is not listed, and every payload manifest must be")
			} else {
				v.warnf(Unlisted, t.name, 0, p.name, "is not listed")
			}
		}
	}
}

func (v *verification) isListed(path string, m *manifest) bool {
	w := v.want[path]
	return w != nil && slices.ContainsFunc(w.sums, func(s sum) bool { return s.manifest == m })
}

func (v *verification) readFetch() {
	f, ok := v.openTag(FetchFile)
	if !ok {
		return
	}
	defer f.Close()
	lines, absent := 0, 0
	for l := range v.scanFetch(f) {
		lines++
		if v.want[l.path] == nil {
			v.faultf(Unlisted, FetchFile, l.line, l.path, "is to be fetched, and no payload manifest lists it")
		}
		if g, err := durable.OpenBeneath(v.root, l.path); err == nil {
			g.Close()
		} else {
			absent++
			v.faultf(Incomplete, FetchFile, l.line, l.path, "is still to be fetched")
		}
	}
	if lines > 0 && absent == 0 && !v.AllowFetched {
		v.faultf(Incomplete, FetchFile, 0, "", "a bag to be completed by fetching is refused; all %d files that this one lists are here, and --allow-fetched accepts it", lines)
	} else if lines == 0 {
		v.faultf(Incomplete, FetchFile, 0, "", "a bag to be completed by fetching is refused")
	}
}

// visit takes one thing that is in the bag's directory.
func (v *verification) visit(ctx context.Context, e *tree.Entry) error {
	if e.Path == PayloadDir && e.IsDir() {
		v.hasData = true
	}
	below := strings.HasPrefix(e.Path, PayloadDir+"/")
	if e.IsDir() {
		if w := v.want[e.Path]; w != nil {
			w.seen = true
			v.faultf(NotRegular, w.sums[0].manifest.name, w.sums[0].line, e.Path, "is a directory, and listed as a file")
		}
		return nil
	}
	if below && e.IsRegular() {
		v.octets += e.Stat.Size
		v.streams++
	}
	w := v.want[e.Path]
	if !e.IsRegular() {
		switch {
		case below || w != nil:
			v.faultf(NotRegular, "", 0, e.Path, "is a %s: a bag has regular files and directories only, and no link is followed", e.Kind())
		default:
			v.warnf(NotRegular, "", 0, e.Path, "is a %s and was passed over", e.Kind())
		}
		if w != nil {
			w.seen = true
		}
		return nil
	}
	if w == nil {
		if below {
			v.unlisted = append(v.unlisted, e.Path)
		}
		return nil
	}
	return v.send(ctx, e.Path, w)
}

func (v *verification) send(ctx context.Context, path string, w *wanted) error {
	w.seen = true
	v.checkEveryManifest(path, w)
	select {
	case v.jobs <- job{path, w}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkEveryManifest: from 1.0 on every payload manifest must list every payload file (RFC 8493, section 3).
func (v *verification) checkEveryManifest(path string, w *wanted) {
	if !v.v1 || !strings.HasPrefix(path, PayloadDir+"/") {
		return
	}
	for _, m := range v.manifests {
		if m.kind == Payload && !slices.ContainsFunc(w.sums, func(s sum) bool { return s.manifest == m }) {
			v.faultf(Unlisted, m.name, 0, path, "is not listed, and every payload manifest must list every file")
		}
	}
}

// matchRest pairs listed files that are not there with files that are there and not listed, when their names differ only in
// Unicode normalisation, as file systems of other makers change it (RFC 8493, section 6.2), or in that their maker did not
// percent-encode them.
func (v *verification) matchRest(ctx context.Context) error {
	if len(v.unlisted) == 0 {
		return nil
	}
	byForm := map[string]*wanted{}
	name := map[*wanted]string{}
	for path, w := range v.want {
		if w.seen || !strings.HasPrefix(path, PayloadDir+"/") {
			continue
		}
		name[w] = path
		for _, form := range []string{norm.NFC.String(path), w.raw} {
			if form == "" {
				continue
			}
			if other, twice := byForm[form]; twice && other != w {
				byForm[form] = nil // ambiguous: neither is taken
				continue
			}
			byForm[form] = w
		}
	}
	for _, path := range v.unlisted {
		w := byForm[path]
		if w == nil {
			w = byForm[norm.NFC.String(v.decodeName(path))]
		}
		if w == nil || w.seen {
			v.faultf(Unlisted, "", 0, path, "is in the payload, and no manifest lists it")
			continue
		}
		v.warnf(NameDifference, "", 0, path, "is listed as %s", Quote(name[w]))
		if err := v.send(ctx, path, w); err != nil {
			return err
		}
	}
	return nil
}

// decodeName reads a name that is still in the encoding of the tag files, as an archive from an old system leaves it.
func (v *verification) decodeName(name string) string {
	if v.decoder != nil && !utf8.ValidString(name) {
		if s, err := v.decoder.NewDecoder().String(name); err == nil {
			return s
		}
	}
	return name
}

// missing reports what is listed and was not found.
func (v *verification) missing() {
	if !v.hasData {
		v.faultf(Missing, "", 0, PayloadDir, "the payload directory is not there")
	}
	for path, w := range v.want {
		if other := v.sameForm(path, w); other != "" {
			v.warnf(Duplicate, w.sums[0].manifest.name, w.sums[0].line, path, "is %s again, in another Unicode form", Quote(other))
		} else if !w.seen {
			v.faultf(Missing, w.sums[0].manifest.name, w.sums[0].line, path, "is listed and not there")
		}
	}
}

// sameForm finds, for a listed file that is not there, one that is there under the other Unicode normalisation and listed with the same
// checksums. Before 1.0 that is a file listed twice, which was no fault.
func (v *verification) sameForm(path string, w *wanted) string {
	if w.seen || v.v1 {
		return ""
	}
	same := func(a, b sum) bool { return a.manifest == b.manifest && string(a.value) == string(b.value) }
	for _, f := range []norm.Form{norm.NFC, norm.NFD} {
		other := f.String(path)
		if o := v.want[other]; other != path && o != nil && o.seen && slices.EqualFunc(o.sums, w.sums, same) {
			return other
		}
	}
	return ""
}

func (v *verification) checkOxum() {
	octets, streams, err := v.Info.Oxum()
	switch {
	case errors.Is(err, ErrNoOxum):
	case err != nil:
		v.faultf(Malformed, v.infoName(), 0, "", "%v", err)
	case octets != v.octets || streams != v.streams:
		v.faultf(OxumMismatch, v.infoName(), 0, "", "%s is %s, the payload is %s", LabelOxum, FormatOxum(octets, streams), FormatOxum(v.octets, v.streams))
	}
}

// work hashes files until there are no more.
func (v *verification) work(ctx context.Context) {
	buf := make([]byte, 256<<10)
	for j := range v.jobs {
		if ctx.Err() != nil {
			continue // the walk is told by its own look at ctx
		}
		if faults := v.hashFile(ctx, j, buf); len(faults) > 0 {
			v.mu.Lock()
			v.bad = append(v.bad, faults...)
			v.mu.Unlock()
		}
	}
}

func (v *verification) hashFile(ctx context.Context, j job, buf []byte) []Fault {
	f, err := durable.OpenBeneath(v.root, j.path)
	if err != nil {
		return []Fault{openFault(j.path, err)}
	}
	defer f.Close()
	hashes := map[Algorithm]hash.Hash{}
	var all []io.Writer
	for _, s := range j.want.sums {
		if hashes[s.manifest.alg] == nil {
			hashes[s.manifest.alg] = s.manifest.alg.New()
			all = append(all, hashes[s.manifest.alg])
		}
	}
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		for _, h := range all {
			h.Write(buf[:n])
		}
		if n > 0 && v.progress != nil {
			v.progress(int64(n))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return []Fault{readFault(j.path, err)}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	var faults []Fault
	for _, s := range j.want.sums {
		if got := hashes[s.manifest.alg].Sum(nil); string(got) != string(s.value) {
			faults = append(faults, Fault{Kind: Mismatch, Path: j.path, File: s.manifest.name, Line: s.line,
				Detail: fmt.Sprintf("the manifest says %x, the file's %s is %x", s.value, s.manifest.alg, got)})
		}
	}
	return faults
}

// Unreadables are the system's errors among faults: then the bag may be sound and the disk is not.
func Unreadables(faults []Fault) []error {
	var errs []error
	for _, f := range faults {
		if f.Kind == Unreadable {
			errs = append(errs, &fs.PathError{Op: "read", Path: f.Path, Err: f.Err})
		}
	}
	return errs
}

// Payload is the size in bytes and the number of files that the last Verify found in the payload.
func (b *Bag) Payload() (octets, streams int64) { return b.found.octets, b.found.streams }
