package ingest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"cis490/src/catalog"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/wire"
)

// serveArchive answers GET /v1/episodes/{id}/archive, ranges of it too. The tag
// is of the stored copy: an archive that is stored anew may have other bytes.
func serveArchive(o Operator, w http.ResponseWriter, req *http.Request) error {
	row, err := lookup(o, req)
	if err != nil {
		return err
	}
	f, row, _, err := o.Store().OpenArchive(req.Context(), row.Facts.ID)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", wire.MediaEpisode)
	w.Header().Set("Etag", fmt.Sprintf(`"%s-%x"`, row.Facts.Digest, row.Receipt.StoredAt.UnixMicro()))
	http.ServeContent(w, req, "", time.Time{}, f)
	return nil
}

// serveFile answers GET /v1/episodes/{id}/files/{path…}: one file of a stored
// episode, or ranges of it (RFC 9110, section 14). Only the frames of the archive are
// read that hold it. Its tag and its Repr-Digest (RFC 9530) are the digest in the
// manifest. Of the whole file the last bytes are held back until it was compared with that.
func serveFile(o Operator, w http.ResponseWriter, req *http.Request) error {
	row, err := lookup(o, req)
	if err != nil {
		return err
	}
	archive, _, _, err := o.Store().OpenArchive(req.Context(), row.Facts.ID)
	if err != nil {
		return err
	}
	defer archive.Close()
	a, err := openArchive(archive, row)
	if err != nil {
		return err
	}
	defer a.Close()
	path := req.PathValue("path")
	f, err := a.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &operatorStatus{http.StatusNotFound, noSuchPath(a, row.Facts.ID, path)}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	digest, err := httpsfv.Marshal(dictionary("sha-256", f.Sum))
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Etag", `"`+hex.EncodeToString(f.Sum)+`"`)
	h.Set("Repr-Digest", digest)
	http.ServeContent(&wholeDigest{w, digest}, req, "", time.Time{}, f)
	return nil
}

func dictionary(key string, v any) *httpsfv.Dictionary {
	d := httpsfv.NewDictionary()
	d.Add(key, httpsfv.NewItem(v))
	return d
}

// wholeDigest adds Content-Digest to an answer that has the whole representation
// as its content.
type wholeDigest struct {
	http.ResponseWriter
	digest string
}

func (w *wholeDigest) WriteHeader(status int) {
	if status == http.StatusOK {
		w.Header().Set("Content-Digest", w.digest)
	}
	w.ResponseWriter.WriteHeader(status)
}

// openArchive opens the archive of a stored episode and compares its bag digest
// with that of the receipt.
func openArchive(f io.ReaderAt, row catalog.Row) (*pack.Archive, error) {
	a, err := pack.OpenArchive(f, row.Receipt.ArchiveSize)
	if err == nil && a.Digest() != row.Facts.Digest {
		a.Close()
		err = code.New(code.DigestMismatch, "the bag digest is %s, the receipt says %s", a.Digest(), row.Facts.Digest)
	}
	if err != nil {
		return nil, fmt.Errorf("episode %s of host %s: %w; see: cis490-receiver scrub", row.Facts.ID, row.Facts.Host, err)
	}
	return a, nil
}

// noSuchPath names those that may have been meant.
func noSuchPath(a *pack.Archive, id episode.ID, path string) error {
	hint := fmt.Sprintf("; see: cis490-receiver episodes files %s", id)
	if near := a.Near(path, 3); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, ", or ") + "?"
	}
	return fmt.Errorf("episode %s has no %q%s", id, path, hint)
}

// Files opens the archive of a stored episode for reading single files of it. What is
// read is compared with the receipt's bag digest here, not at the receiver.
func (c *OperatorClient) Files(ctx context.Context, id episode.ID) (*EpisodeFiles, error) {
	e, err := c.Episode(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &remoteArchive{ctx: ctx, c: c, id: id}
	row := catalog.Row{Facts: episode.Facts{ID: id, Host: e.Receipt.Host, Digest: e.Receipt.BagDigest}, Receipt: e.Receipt}
	a, err := openArchive(r, row)
	if err != nil {
		return nil, err
	}
	return &EpisodeFiles{a, id, r}, nil
}

// EpisodeFiles are the files of a stored episode.
type EpisodeFiles struct {
	*pack.Archive
	id episode.ID
	r  *remoteArchive
}

// Read is how many bytes of the archive were read.
func (f *EpisodeFiles) Read() int64 { return f.r.read }

// Extract is [pack.Archive.Extract], but names what may have been meant.
func (f *EpisodeFiles) Extract(ctx context.Context, path, dest string) (pack.Extracted, error) {
	out, err := f.Archive.Extract(ctx, path, dest)
	return out, f.named(path, err)
}

// Open is [pack.Archive.Open], but names what may have been meant.
func (f *EpisodeFiles) Open(path string) (*pack.File, error) {
	file, err := f.Archive.Open(path)
	return file, f.named(path, err)
}

func (f *EpisodeFiles) named(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return noSuchPath(f.Archive, f.id, path)
	}
	return err
}

// remoteArchive reads an archive in ranges.
type remoteArchive struct {
	ctx  context.Context
	c    *OperatorClient
	id   episode.ID
	tag  string // of the copy whose first range was read
	read int64
	at   int64 // of ahead
	buf  []byte
}

const readAhead = 128 << 10 // bytes

func (r *remoteArchive) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		if at < r.at || at >= r.at+int64(len(r.buf)) {
			if err := r.fill(at, max(len(p)-n, readAhead)); err != nil {
				return n, err
			}
			if len(r.buf) == 0 {
				return n, io.EOF
			}
		}
		n += copy(p[n:], r.buf[at-r.at:])
	}
	return n, nil
}

func (r *remoteArchive) fill(at int64, n int) error {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, operatorURL("/episodes/"+r.id.String()+"/archive"), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+int64(n)-1))
	if r.tag != "" {
		req.Header.Set("If-Match", r.tag)
	}
	resp, err := r.c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.at, r.buf = at, r.buf[:0]
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return nil // the end
	case http.StatusPreconditionFailed:
		return fmt.Errorf("episode %s was stored anew while it was read; start again", r.id)
	case http.StatusPartialContent:
	default:
		return answerError(resp)
	}
	r.tag = resp.Header.Get("Etag")
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	got, err := io.ReadFull(resp.Body, r.buf[:n])
	r.buf, r.read = r.buf[:got], r.read+int64(got)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && resp.ContentLength == int64(got) {
		err = nil
	}
	return err
}

// operatorURL is where a path of the operator's handler is.
func operatorURL(path string) string {
	return "http://receiver" + operatorPrefix + path
}
