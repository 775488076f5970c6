package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/wire"
)

// recoverUploads takes up the partial uploads that a former process left, and
// removes what is none. The bytes are looked into once a host asks for them.
func (r *Receiver) recoverUploads() error {
	dir := r.store.IncomingDir()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for partial uploads: %w", err)
	}
	there := map[string]os.FileInfo{}
	for _, e := range entries {
		if i, err := e.Info(); err == nil {
			there[e.Name()] = i
		}
	}
	for name, info := range there {
		token, isMeta := strings.CutSuffix(name, metaSuffix)
		data, hasData := there[token+dataSuffix]
		if isMeta && validToken(token) && hasData && data.Mode().IsRegular() {
			if u, err := r.readUpload(token, info, data); err == nil {
				r.uploads[token] = u
				continue
			} else {
				r.log.Warn("a partial upload can't be taken up; its host begins anew", "file", name, "error", err)
			}
		}
	}
	swept := 0
	for name, info := range there {
		token := strings.TrimSuffix(strings.TrimSuffix(name, metaSuffix), dataSuffix)
		ours := validToken(token) || strings.Contains(name, ".tmp-") // durable.WriteFile's
		if _, used := r.uploads[token]; used || !info.Mode().IsRegular() || !ours {
			continue // the store's own is a directory
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.log.Warn("sweep incoming/", "error", err)
			continue
		}
		swept++
	}
	if swept > 0 || len(r.uploads) > 0 {
		r.log.Info("took up partial uploads", "uploads", len(r.uploads), "stray_files_removed", swept)
	}
	return nil
}

func (r *Receiver) readUpload(token string, info, data os.FileInfo) (*upload, error) {
	const maxMeta = 64 << 10
	if info.Size() > maxMeta {
		return nil, errors.New("it is too long")
	}
	b, err := os.ReadFile(filepath.Join(r.store.IncomingDir(), token+metaSuffix))
	if err != nil {
		return nil, err
	}
	var m uploadFile
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.Schema != uploadSchema {
		return nil, fmt.Errorf("it has schema %d, this version reads %d", m.Schema, uploadSchema)
	}
	ann, err := wire.ParseAnnouncement([]string{m.Announcement})
	if err != nil {
		return nil, err
	}
	if ann.Host = m.Host; !episode.ValidHost(m.Host) || m.Length < -1 || m.Proper < 0 {
		return nil, fmt.Errorf("it says host %.80q, length %d, and %d bytes of a frame", m.Host, m.Length, m.Proper)
	}
	last := info.ModTime()
	if data.ModTime().After(last) {
		last = data.ModTime()
	}
	u := &upload{
		r: r, token: token, ann: ann, windowID: m.WindowID, created: m.Created, last: last,
		bounds: newBounds(ann, r.settings.Load().cfg.Limits), length: m.Length, size: data.Size(), proper: m.Proper,
		sameBoot: m.BootID != "" && m.BootID == bootID(), gen: 1,
	}
	u.more.L = &u.mu
	return u, nil
}

// load looks into what a former process left of the upload: it keeps the whole
// frames, and more where the end of a request was told. After a crash of the
// machine it also checks that the frames decode: the file may be longer than what
// was flushed. The caller has the turn.
func (u *upload) load() error {
	if err := u.open(); err != nil {
		return err
	}
	w := u.r.tracker.Worker("look into the upload of " + u.ann.ID.String())
	defer w.Done()
	w.Within(verifyWithin)
	u.scanner = pack.FrameScanner{}
	u.ends = 0
	size := u.size
	buf := make([]byte, 1<<20)
	var whole []pack.FrameInfo
	var bad error
	for at := int64(0); at < size && bad == nil; {
		n, err := u.file.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		for p := buf[:n]; len(p) > 0 && bad == nil; {
			m, done, err := u.scanner.Scan(p)
			p = p[m:]
			if done {
				whole = append(whole, u.scanner.Frame())
				if len(whole) > u.bounds.frames {
					return fmt.Errorf("more than %d frames", u.bounds.frames)
				}
			}
			bad = err
		}
		at += int64(n)
		w.Progress()
		if err != nil {
			return ioError(err, "read the partial upload")
		}
	}
	if !u.sameBoot {
		whole = u.sound(whole, w.Progress)
	}
	ends := int64(0)
	for _, f := range whole {
		ends += f.Compressed
	}
	big := bad == nil && u.sameBoot && u.inBig()
	u.mu.Lock()
	keep := max(ends, min(u.proper, size))
	if big {
		keep = size
	}
	if u.proper > keep { // less is there than was told
		u.mu.Unlock()
		return fmt.Errorf("the file has %d bytes, but offset %d was told", size, u.proper)
	}
	u.proper = keep
	u.size = size
	u.mu.Unlock()
	if size > keep {
		if err := u.file.Truncate(keep); err != nil {
			return ioError(err, "cut the partial upload back")
		}
	}
	if err := u.rescan(ends, keep); err != nil {
		return err
	}
	u.mu.Lock()
	u.size, u.loaded = keep, true
	u.mu.Unlock()
	return u.framesEnded(whole)
}

// sound gives the leading frames that decode.
func (u *upload) sound(frames []pack.FrameInfo, progress func()) []pack.FrameInfo {
	b := frameBufferPool.Get().(*frameBuffers)
	defer frameBufferPool.Put(b)
	at := int64(0)
	for i, f := range frames {
		if f.Content < 0 || f.Content > maxFrame || f.Compressed > maxCompressedFrame {
			return frames // verified as a whole at the end
		}
		acquire(u.r.decoders, f.Compressed+f.Content)
		b.packed = grow(b.packed, int(f.Compressed))
		_, err := u.file.ReadAt(b.packed, at)
		if err == nil {
			b.content, err = pack.DecodeFrame(b.content[:0], b.packed, int(f.Content))
		}
		b.trim()
		u.r.decoders.Release(f.Compressed + f.Content)
		if err != nil {
			u.r.log.Warn("the end of a partial upload was lost with the last crash", "episode", u.ann.ID.String(), "frames", i, "of", len(frames), "error", err)
			return frames[:i]
		}
		at += f.Compressed
		progress()
	}
	return frames
}

// pass is the receiver's regular work: what has grown old goes.
func (r *Receiver) pass(ctx context.Context) error {
	r.passing.Lock()
	defer r.passing.Unlock()
	now, st := r.now(), r.settings.Load()
	var expired, idle, forgotten []*upload
	ended := 0
	r.mu.Lock()
	for _, u := range r.uploads {
		u.mu.Lock()
		rest := now.Sub(u.last)
		switch {
		case u.final != nil:
			if ended++; now.Sub(u.final.at) > keepEnded {
				forgotten = append(forgotten, u)
			}
		case u.busy():
		case rest > st.cfg.UploadMaxAge:
			expired = append(expired, u)
		case rest > staleAfter:
			idle = append(idle, u)
		}
		u.mu.Unlock()
	}
	if ended-len(forgotten) > maxEnded {
		forgotten = r.oldestEnded(ended - maxEnded)
	}
	for _, u := range forgotten {
		delete(r.uploads, u.token)
	}
	r.mu.Unlock()
	if len(expired)+len(idle) > 0 {
		r.tidy(now, st, expired, idle)
	}
	r.keepFleet(now)
	_ = r.notifier.Status(r.statusText())
	return r.writeState()
}

// tidy removes uploads that have expired and lets idle ones rest. It works on the
// disk, so not in the pass itself: a disk that hangs is to be named as what holds
// things up.
func (r *Receiver) tidy(now time.Time, st *settings, expired, idle []*upload) {
	if !r.tidying.CompareAndSwap(false, true) {
		return // the next pass comes again
	}
	w := r.tracker.Worker("tidy partial uploads")
	w.Within(r.onDiskWithin)
	r.work.Add(1)
	go func() {
		defer r.work.Done()
		defer r.tidying.Store(false)
		defer w.Done()
		for _, u := range idle {
			u.rest(now)
			w.Progress()
		}
		for _, u := range expired {
			u.mu.Lock()
			size, last, busy := u.size, u.last, u.busy()
			u.mu.Unlock()
			if busy {
				continue
			}
			r.log.Info("a partial upload expired", "episode", u.ann.ID.String(), "host", u.ann.Host, "bytes", size, "last_request", last.UTC().Format(time.RFC3339))
			u.remove(code.New(code.UploadGone, "the upload expired: nothing was sent for longer than upload_max_age = %s", st.cfg.UploadMaxAge))
			w.Progress()
		}
	}()
}

const (
	// keepEnded is for how long an ended upload's last word is kept for a host
	// that did not hear it.
	keepEnded = time.Hour
	maxEnded  = 2000
)

// oldestEnded lists the n uploads that ended first. The caller holds r.mu.
func (r *Receiver) oldestEnded(n int) []*upload {
	type at struct {
		u *upload
		t time.Time
	}
	var all []at
	for _, u := range r.uploads {
		u.mu.Lock()
		if u.final != nil {
			all = append(all, at{u, u.final.at})
		}
		u.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b at) int { return a.t.Compare(b.t) })
	var out []*upload
	for _, a := range all[:min(n, len(all))] {
		out = append(out, a.u)
	}
	return out
}

// rest frees what an upload that nobody works on holds in vain: the room that was
// reserved for it, and, later, its verifier and its file's descriptor.
func (u *upload) rest(now time.Time) {
	u.mu.Lock()
	var room = u.room
	long := now.Sub(u.last) > parkAfter
	if u.busy() {
		u.mu.Unlock()
		return
	}
	u.room = nil
	u.mu.Unlock()
	if room != nil {
		room.Release()
	}
	if long {
		u.park()
	}
}

// parkAfter is how long an upload may rest before it gives back its memory. It is
// verified from its file again when it goes on.
const parkAfter = 10 * time.Minute

// stopChecks ends the verifications that wait for bytes that won't come.
func (r *Receiver) stopChecks() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.uploads {
		u.mu.Lock()
		if u.check != nil && !u.check.whole {
			u.stopCheck()
		}
		u.mu.Unlock()
	}
}

// interruptAll asks the requests that receive a body to keep what they have and to
// answer.
func (r *Receiver) interruptAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.uploads {
		u.mu.Lock()
		if t := u.turn; t != nil {
			t.stop()
		}
		u.mu.Unlock()
	}
}
