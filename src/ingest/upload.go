package ingest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/code"
	"cis490/src/durable"
	"cis490/src/hosts"
	"cis490/src/liveness"
	"cis490/src/pack"
	"cis490/src/store"
	"cis490/src/wire"
)

// upload is one upload resource: what a host has sent so far of one archive. Its
// bytes are in a file below incoming/, named by the token, beside a small file
// that says what they are.
//
// One request at a time has its turn with the upload (see turn); the fields
// under "turn" are that request's. The others are guarded by mu.
type upload struct {
	r        *Receiver
	token    string
	ann      wire.Announcement // its Host is the upload's owner
	windowID string            // of the window that admitted it
	created  time.Time
	bounds   bounds

	// turn
	file    *os.File
	scanner pack.FrameScanner
	buf     []byte // received, not yet written; nil between requests
	out     durable.Writeback

	mu       sync.Mutex
	more     sync.Cond // on mu: frames, whole or stopped changed
	turn     *turn
	last     time.Time // of the last request's end
	loaded   bool      // false: found on the disk at start, not looked into yet
	sameBoot bool      // of a loaded one: the machine did not stop since it was written
	length   int64     // told by the host; -1: not yet
	size     int64     // bytes in the file
	ends     int64     // where the last whole frame ends
	proper   int64     // where the last request ended that ended properly
	synced   int64     // bytes known to be on the disk
	gen      int       // of what the small file should say
	kept     int       // the gen that is on the disk, with the names of both files
	key      hosts.Key // that spoke last
	frames   []pack.FrameInfo
	tar      int64 // tar bytes in frames
	big      bool  // some frame is too big, or of unknown size: verified from the file at the end
	room     *store.Reservation
	check    *verifier // nil: not running
	valid    *pack.Verified
	try      *attempt // the completion under way, or the last one
	final    *outcome // nothing more is taken
	flush    *flush   // the flush under way
}

// outcome is the last word on an upload.
type outcome struct {
	code    code.Code
	receipt wire.Receipt // of stored and already-stored
	err     error        // of the others; carries code
	at      time.Time
}

// attempt is one try to complete an upload. It goes on when the request that
// began it is gone.
type attempt struct {
	done chan struct{} // closed when out is set
	out  outcome
}

// uploadFile is what is kept of an upload beside its bytes.
type uploadFile struct {
	Schema       int       `json:"schema"`
	Host         string    `json:"host"`
	Announcement string    `json:"announcement"` // as in Cis490-Episode
	WindowID     string    `json:"window_id"`
	Created      time.Time `json:"created"`
	Length       int64     `json:"length"` // -1: not told
	Proper       int64     `json:"proper"` // bytes that end in mid-frame and were told
	BootID       string    `json:"boot_id"`
}

const uploadSchema = 1

const (
	dataSuffix = ".zst"
	metaSuffix = ".json"
)

func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// validToken says whether s has the form of a token: it becomes a file's name.
func validToken(s string) bool {
	if len(s) != 32 {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}

func (u *upload) dataName() string { return u.token + dataSuffix }
func (u *upload) dataPath() string { return filepath.Join(u.r.store.IncomingDir(), u.dataName()) }
func (u *upload) metaPath() string {
	return filepath.Join(u.r.store.IncomingDir(), u.token+metaSuffix)
}

func (u *upload) path() string { return wire.PathUploads + u.token }

// newUpload makes the upload that a POST asked for.
func (x *exchange) newUpload(ann wire.Announcement, length int64) (*upload, error) {
	r, l := x.r, x.st.cfg.Limits
	u := &upload{
		r: r, token: newToken(), ann: ann, windowID: x.st.window.ID, created: x.now, bounds: newBounds(ann, l),
		last: x.now, loaded: true, length: length, gen: 1, key: x.key,
	}
	u.more.L = &u.mu
	need := likely(ann)
	if length >= 0 {
		need = length
	}
	if err := r.placeFor(x, ann, need); err != nil {
		return nil, err
	}
	var err error
	if u.room, err = r.store.Reserve(need); err != nil {
		return nil, retryLater(err)
	}
	undo := func(err error) (*upload, error) {
		u.room.Release()
		if u.file != nil {
			u.file.Close()
		}
		os.Remove(u.metaPath())
		os.Remove(u.dataPath())
		return nil, ioError(err, "begin an upload")
	}
	defer u.onDisk("begin upload of ").Done()
	if u.file, err = os.OpenFile(u.dataPath(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return undo(err)
	}
	// Not fsynced: until an offset is told, losing the upload costs nothing.
	meta, err := u.meta()
	if err != nil {
		return undo(err)
	}
	if err := os.WriteFile(u.metaPath(), meta, 0o600); err != nil {
		return undo(err)
	}
	r.mu.Lock()
	r.uploads[u.token] = u
	r.mu.Unlock()
	return u, nil
}

func (u *upload) meta() ([]byte, error) {
	m := uploadFile{
		Schema: uploadSchema, Host: u.ann.Host, Announcement: wire.FormatAnnouncement(u.ann), WindowID: u.windowID,
		Created: u.created.UTC(), Length: u.length, BootID: bootID(),
	}
	if u.proper > u.ends {
		m.Proper = u.proper
	}
	b, err := json.Marshal(m)
	return append(b, '\n'), err
}

// bootID names this boot of the machine: what a process wrote before is whole
// only as long as the machine stays up.
var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(b) < 36 {
		return ""
	}
	return string(b[:36])
})

// ioError is a failure of the receiver's own file system as a code.
func ioError(err error, doing string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		e := code.Wrap(code.ReceiverFull, err, "%s", doing)
		e.RetryAfter = retryFull
		return e
	}
	return code.Wrap(code.ReceiverError, err, "%s", doing)
}

// staleAfter is how long an upload must have been left alone before another one
// may take its place.
const staleAfter = time.Minute

// maxUploads bounds the uploads that are known, those included that ended lately.
const maxUploads = 10_000

// placeFor makes place for one more upload of the host, within the number and the
// bytes of partial uploads that it may have.
func (r *Receiver) placeFor(x *exchange, ann wire.Announcement, need int64) error {
	l := x.st.cfg.Limits
	var drop []*upload
	var oldest *upload
	var oldestLast time.Time
	count, bytes, all := 0, need, 0
	r.mu.Lock()
	for _, u := range r.uploads {
		if u.ann.Host != x.host {
			all++
			continue
		}
		u.mu.Lock()
		idle := !u.busy() && x.now.Sub(u.last) > staleAfter
		switch {
		case u.final != nil:
		case idle && u.ann.ID == ann.ID:
			// The host begins this episode anew, so it has lost the token.
			drop = append(drop, u)
		default:
			count++
			bytes += max(u.size, u.expected())
			if idle && (oldest == nil || u.last.Before(oldestLast)) {
				oldest, oldestLast = u, u.last
			}
		}
		u.mu.Unlock()
	}
	r.mu.Unlock()
	maxCount := 4 * l.UploadsPerHost
	if count >= maxCount && oldest != nil {
		drop = append(drop, oldest)
		count--
	}
	for _, u := range drop {
		u.remove(code.New(code.UploadGone, "the upload made place for another one of this host"))
	}
	var e *code.Error
	switch {
	case count+all >= maxUploads:
		e = code.New(code.ReceiverBusy, "the hosts together have %d uploads begun and not ended", count+all)
		e.RetryAfter = retryFull
		return e
	case count >= maxCount:
		e = code.New(code.ReceiverBusy, "this host has %d uploads begun and not ended", count)
		e.RetryAfter = retryBusy
		return &refusal{err: e, status: statusTooManyRequests}
	case bytes > int64(l.PartialBytesPerHost):
		e = code.New(code.ReceiverFull, "with this upload, the partial uploads of this host could take %d bytes; limits.partial_bytes_per_host is %d", bytes, int64(l.PartialBytesPerHost))
		e.RetryAfter = retryFull
		return e
	}
	return nil
}

// expected is how many bytes the upload is likely to have in the end, if room is
// held for it. The caller holds mu.
func (u *upload) expected() int64 {
	switch {
	case u.room == nil:
		return u.size
	case u.length >= 0:
		return u.length
	}
	return likely(u.ann)
}

func (a *attempt) ended() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// find returns the host's upload of that token.
func (x *exchange) find(token string) (*upload, error) {
	if validToken(token) {
		x.r.mu.Lock()
		u := x.r.uploads[token]
		x.r.mu.Unlock()
		// Another host must not even learn that the token exists.
		if u != nil && u.ann.Host == x.host {
			x.id = u.ann.ID
			return u, nil
		}
	}
	return nil, code.New(code.UploadGone, "there is no such upload; it ended, expired, or was never begun")
}

// turn is one request's exclusive use of an upload.
type turn struct {
	x    *exchange
	done chan struct{} // closed when the turn is over

	mu      sync.Mutex
	reading bool      // a read of the body has a deadline
	ended   bool      // a newer request wants it to end
	until   time.Time // for how long it may go on all the same
	judged  bool      // there is a verdict: nothing more is to be received, but an answer is due
	stopped bool      // the receiver stops: likewise
}

// interrupt makes the request give up, once it has read what has arrived already:
// the host has sent it, and would have to send it again.
func (t *turn) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.ended, t.until = true, time.Now().Add(drainTime)
	}
	if t.reading {
		_ = t.x.rc.SetReadDeadline(time.Now().Add(drainGap))
	}
}

const (
	drainGap  = 20 * time.Millisecond // without a byte, nothing more has arrived
	drainTime = time.Second
)

// verdict makes the request stop reading and answer.
func (t *turn) verdict() { t.force(&t.judged) }

// stop makes the request keep what it has and answer.
func (t *turn) stop() { t.force(&t.stopped) }

func (t *turn) force(why *bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*why = true
	// Only while the body is read: once it has ended, net/http itself reads from
	// the connection, and takes an error for the client's end.
	if t.reading {
		_ = t.x.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// deadline sets within what time the next read of the body must succeed; 0 ends the
// reading. False: the turn is to end.
func (t *turn) deadline(within time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.judged || t.stopped || (t.ended && within > 0 && now.After(t.until)) {
		t.reading = false
		return false
	}
	t.reading = within > 0
	switch {
	case within == 0:
		_ = t.x.rc.SetReadDeadline(time.Time{})
	case t.ended:
		_ = t.x.rc.SetReadDeadline(now.Add(drainGap))
	default:
		_ = t.x.rc.SetReadDeadline(now.Add(within))
	}
	return true
}

// turnTimeout bounds the wait for an older request to let go: it can be in a
// write to the disk.
const turnTimeout = 20 * time.Second

// take ends any request that works on the upload, and begins x's turn. Since a
// host sends one request at a time for an upload, the older one is a leftover of
// a broken connection (the draft, section "Concurrency").
func (u *upload) take(x *exchange) (*turn, error) {
	timeout := time.NewTimer(turnTimeout)
	defer timeout.Stop()
	t := &turn{x: x, done: make(chan struct{})}
	for {
		u.mu.Lock()
		older := u.turn
		if older == nil {
			u.turn = t
			u.key = x.key
			loaded := u.loaded
			u.mu.Unlock()
			if !loaded {
				if err := u.load(); err != nil {
					u.release(t)
					u.remove(nil)
					return nil, code.Wrap(code.UploadGone, err, "what was left of the upload can't be used")
				}
			}
			return t, nil
		}
		u.mu.Unlock()
		older.interrupt()
		select {
		case <-older.done:
		case <-timeout.C:
			e := code.New(code.ReceiverBusy, "an older request still holds this upload")
			e.RetryAfter = retryBusy
			return nil, e
		case <-x.req.Context().Done():
			return nil, x.cut(x.req.Context().Err())
		}
	}
}

func (u *upload) release(t *turn) {
	u.mu.Lock()
	if b := u.buf; b != nil {
		writeBuffers.Put(&b)
	}
	u.buf = nil
	u.turn = nil
	u.last = u.r.now()
	if u.check != nil && !u.check.whole && u.r.verifying.Load() > int64(u.r.shares.idle) {
		u.stopCheck() // places are for those that are being sent
	}
	u.mu.Unlock()
	t.mu.Lock()
	t.reading = false // nobody may touch the connection's deadline from now on
	t.mu.Unlock()
	close(t.done)
	u.closeEnded()
}

// closeEnded closes the file of an upload that has ended, once nobody uses it.
func (u *upload) closeEnded() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.final != nil && u.file != nil && !u.busy() {
		u.file.Close() // the file is gone or stored
		u.file = nil
	}
}

// busy says whether something works on the upload. The caller holds mu.
func (u *upload) busy() bool {
	return u.turn != nil || u.flush != nil || (u.try != nil && !u.try.ended())
}

// open opens the file for the turn's request, if a former one's was closed.
func (u *upload) open() error {
	if u.file != nil {
		return nil
	}
	f, err := os.OpenFile(u.dataPath(), os.O_RDWR, 0)
	if err != nil {
		return ioError(err, "open the partial upload")
	}
	u.file = f
	return nil
}

// absorb takes the next bytes of the body, at most readSize of them. Where a frame ends among them they are
// written to the file at once, so that a death of the process costs no more than
// one frame. Its error is the verdict on the upload, or a failure of the disk.
func (u *upload) absorb(p []byte) error {
	if u.buf == nil {
		u.buf = (*writeBuffers.Get().(*[]byte))[:0]
	}
	var whole []pack.FrameInfo
	var bad error
	for len(p) > 0 && bad == nil {
		n, done, err := u.scanner.Scan(p)
		u.buf = append(u.buf, p[:n]...)
		p = p[n:]
		if done {
			whole = append(whole, u.scanner.Frame())
		}
		bad = err
	}
	if len(whole) > 0 || len(u.buf) >= writeSize {
		if err := u.write(); err != nil {
			return err
		}
	}
	if err := u.framesEnded(whole); err != nil {
		return err
	}
	if bad == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	c := code.DigestMismatch // some of it was fine: these are not the bytes that the packer made
	if len(u.frames) == 0 {
		c = code.Malformed
	}
	return code.Wrap(c, bad, "near byte %d of the upload", u.size+int64(len(u.buf)))
}

// writeSize is after how many bytes of one frame they are written. Each body
// that is received has a buffer of that size, however slow it is.
const writeSize = 64 << 10

var writeBuffers = sync.Pool{New: func() any { return new(make([]byte, 0, writeSize+readSize)) }}

// write appends what was received to the file.
func (u *upload) write() error {
	if len(u.buf) == 0 {
		return nil
	}
	u.mu.Lock()
	at := u.size
	length := u.length
	u.mu.Unlock()
	n := int64(len(u.buf))
	switch {
	case length >= 0 && at+n > length:
		return &refusal{err: code.New(code.LengthMismatch, "the upload has more bytes than its length %d", length), header: incomplete}
	case at+n > u.bounds.archive:
		return code.New(code.Malformed, "the upload has more than %d bytes, which is more than the announced size = %d and files = %d can need",
			u.bounds.archive, u.ann.Size, u.ann.Files)
	}
	defer u.onDisk("write upload of ").Done()
	if _, err := u.file.WriteAt(u.buf, at); err != nil {
		return ioError(err, "write the partial upload")
	}
	u.buf = u.buf[:0]
	u.mu.Lock()
	u.size = at + n
	if u.room != nil {
		u.room.Use(n)
	}
	u.mu.Unlock()
	u.out.Wrote(u.file, at+n)
	return nil
}

// framesEnded takes account of frames that are whole and in the file.
func (u *upload) framesEnded(whole []pack.FrameInfo) error {
	if len(whole) == 0 {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.final != nil {
		return errJudged
	}
	if len(u.frames)+len(whole) > u.bounds.frames {
		return code.New(code.Malformed, "the upload has more than %d zstd frames", u.bounds.frames)
	}
	if !u.r.frames.take(u.ann.Host, int64(len(whole))) {
		return errFrames()
	}
	for _, f := range whole {
		u.frames = append(u.frames, f)
		u.ends += f.Compressed
		if f.Content > 0 {
			u.tar += f.Content
		}
		if f.Content < 0 || f.Content > maxFrame || (f.Content > 0 && f.Compressed > maxCompressedFrame) {
			u.big = true
		}
	}
	switch {
	case u.tar > u.bounds.content:
		return u.tooMuch()
	case u.tar > ratioAllowance && u.tar > u.bounds.ratio*u.ends:
		return u.tooDense(u.tar)
	}
	if u.big {
		u.stopCheck()
	} else if u.check == nil && u.valid == nil {
		u.check = u.startCheck(false)
	}
	u.more.Broadcast()
	return nil
}

func (u *upload) tooMuch() *code.Error {
	return code.New(code.Malformed, "the upload unpacks to more than %d bytes, which is more than the announced size = %d and files = %d can need",
		u.bounds.content, u.ann.Size, u.ann.Files)
}

func (u *upload) tooDense(content int64) *code.Error {
	return code.New(code.TooLarge, "the upload unpacks to more than %d times its size, which is limits.ratio (%d bytes from %d)", u.bounds.ratio, content, u.size)
}

// inBig says whether the frame under way is one that is kept in parts: it is so
// big, or its size is so unknown, that no packer of ours made it, and whoever
// sends it can go on from any byte.
func (u *upload) inBig() bool {
	const maxHeader = 18 // RFC 8878, section 3.1.1
	return u.scanner.Partial() > maxHeader && (u.scanner.Content() < 0 || u.scanner.Content() > maxFrame)
}

// cutBack drops what a cut left beyond the last whole frame or proper end.
func (u *upload) cutBack() error {
	if u.file == nil {
		return nil
	}
	if u.inBig() {
		if err := u.write(); err != nil {
			return err
		}
		u.mu.Lock()
		u.proper = u.size
		u.gen++
		u.mu.Unlock()
		return nil
	}
	u.buf = u.buf[:0]
	u.mu.Lock()
	keep, size := max(u.ends, u.proper), u.size
	u.mu.Unlock()
	if size > keep {
		defer u.onDisk("cut back upload of ").Done()
		if err := u.file.Truncate(keep); err != nil {
			return ioError(err, "cut the partial upload back")
		}
	}
	u.mu.Lock()
	u.size = keep
	u.synced = min(u.synced, keep)
	ends := u.ends
	u.mu.Unlock()
	return u.rescan(ends, keep)
}

// rescan puts the scanner where it was at byte keep, from the frame that begins at
// ends.
func (u *upload) rescan(ends, keep int64) error {
	u.scanner = pack.FrameScanner{}
	if keep == ends {
		return nil
	}
	r := io.NewSectionReader(u.file, ends, keep-ends)
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		for p := buf[:n]; len(p) > 0; {
			m, done, err := u.scanner.Scan(p)
			if err != nil || done {
				return code.New(code.ReceiverError, "the partial upload of episode %s changed on the disk (%v)", u.ann.ID, err)
			}
			p = p[m:]
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return ioError(err, "read the partial upload")
		}
	}
}

// ended marks all that was received as kept: the request ended properly.
func (u *upload) ended() error {
	if err := u.write(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.proper = u.size
	if u.proper > u.ends {
		u.gen++
	}
	return nil
}

// sync puts everything that was received on the disk, names included, so that the
// offset can be told. A flush that fails is not tried again: the upload is given up.
func (u *upload) sync() error {
	if err := u.open(); err != nil {
		return err
	}
	u.mu.Lock()
	f := u.flush
	u.mu.Unlock()
	if f != nil {
		<-f.done
	}
	u.mu.Lock()
	size, dirty, named := u.size, u.synced < u.size, u.kept == u.gen
	u.mu.Unlock()
	if !dirty && named {
		return nil
	}
	w := u.onDisk("flush upload of ")
	defer w.Done()
	if dirty {
		if err := u.file.Sync(); err != nil {
			return u.giveUp(ioError(err, "flush the partial upload"))
		}
	}
	if !named {
		w.Progress()
		if err := u.writeMeta(); err != nil {
			return u.giveUp(err)
		}
	}
	u.mu.Lock()
	u.synced = max(u.synced, size)
	u.mu.Unlock()
	return nil
}

// flushWithin is the watchdog's deadline for one fsync, and for one write, which waits for the disk just as long
// once too much is to be written to it.
const flushWithin = 2 * time.Minute

// onDisk tells the watchdog of a step that waits for the disk. Done ends it.
func (u *upload) onDisk(doing string) *liveness.Worker {
	w := u.r.tracker.Worker(doing + u.ann.ID.String())
	w.Within(u.r.onDiskWithin)
	return w
}

// writeMeta puts on the disk what the upload is, and the names of its two files.
func (u *upload) writeMeta() error {
	u.mu.Lock()
	meta, err := u.meta()
	gen := u.gen
	u.mu.Unlock()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(u.metaPath(), meta, 0o600); err != nil {
		return ioError(err, "write what the partial upload is")
	}
	u.mu.Lock()
	u.kept = max(u.kept, gen)
	u.mu.Unlock()
	return nil
}

// giveUp drops an upload whose bytes can't be trusted any more.
func (u *upload) giveUp(err error) error {
	u.r.log.Error("a partial upload is given up", "episode", u.ann.ID.String(), "host", u.ann.Host, "error", err)
	u.end(outcome{code: code.UploadGone, err: code.New(code.UploadGone, "the receiver's disk failed while it held this upload")})
	return err
}

// flush is an fsync in the background, so that little is left to flush at the end
// and the host can be told how far it got.
type flush struct {
	done chan struct{}
	at   int64 // the end of a frame, all below which is on the disk when err is nil
	err  error
}

// flushEvery is after how many bytes a flush is begun.
const flushEvery = 64 << 20

// flushSome begins a flush if it is time for one.
func (u *upload) flushSome() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.flush != nil || u.ends-u.synced < flushEvery || u.final != nil {
		return
	}
	f := &flush{done: make(chan struct{}), at: u.ends}
	u.flush = f
	file, named := u.file, u.kept == u.gen
	u.r.work.Add(1)
	go func() {
		defer u.r.work.Done()
		w := u.onDisk("flush upload of ")
		defer w.Done()
		f.err = file.Sync()
		if f.err == nil && !named {
			w.Progress()
			f.err = u.writeMeta()
		}
		u.mu.Lock()
		if f.err == nil {
			u.synced = max(u.synced, f.at)
		}
		u.flush = nil
		u.mu.Unlock()
		if f.err != nil {
			_ = u.giveUp(ioError(f.err, "flush the partial upload"))
		}
		close(f.done)
		u.closeEnded()
	}()
}

// end makes o the last word on the upload and frees all that it held. Only the
// first word counts.
func (u *upload) end(o outcome) {
	o.at = u.r.now()
	u.mu.Lock()
	if u.final != nil {
		u.mu.Unlock()
		return
	}
	u.final = &o
	check := u.check
	if check != nil {
		check.stopped = true
	}
	u.more.Broadcast()
	room := u.room
	u.room = nil
	u.dropFrames()
	u.valid = nil
	u.mu.Unlock()
	if room != nil {
		room.Release()
	}
	defer u.onDisk("remove upload of ").Done()
	// The name first: a crash in between leaves a file that the next start sweeps.
	for _, p := range []string{u.metaPath(), u.dataPath()} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			u.r.log.Warn("remove a partial upload", "error", err)
		}
	}
	u.closeEnded()
}

// remove ends the upload without a verdict, its file included. err is what later
// requests are told, nil for the usual.
func (u *upload) remove(err *code.Error) {
	if err == nil {
		err = code.New(code.UploadGone, "the upload was ended")
	}
	u.end(outcome{code: code.UploadGone, err: err})
	u.mu.Lock()
	t := u.turn
	u.mu.Unlock()
	if t != nil {
		t.interrupt()
	}
}

// dropFrames forgets the frames. The caller holds mu.
func (u *upload) dropFrames() {
	u.r.frames.give(u.ann.Host, int64(len(u.frames)))
	u.frames, u.tar = nil, 0
}

// stopCheck ends a verification that goes along with the upload; it begins anew
// when it is needed. The caller holds mu.
func (u *upload) stopCheck() {
	if u.check == nil {
		return
	}
	u.check.stopped = true
	u.check = nil
	u.more.Broadcast()
}

// park closes the file of an upload that nobody works on, once it is flushed: a
// file that is closed before can lose the news of a failed write.
func (u *upload) park() {
	u.mu.Lock()
	file, dirty := u.file, u.synced < u.size
	if file == nil || u.final != nil || u.busy() {
		u.mu.Unlock()
		return
	}
	u.file = nil
	u.stopCheck()
	if u.r.frames.scarce() {
		// As if a former process had left it.
		u.dropFrames()
		u.loaded, u.sameBoot = false, true
	}
	u.mu.Unlock()
	if dirty {
		if err := file.Sync(); err != nil {
			_ = u.giveUp(ioError(err, "flush the partial upload"))
		}
	}
	file.Close()
}
