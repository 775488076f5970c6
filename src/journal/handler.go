package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// field is one attribute with its groups resolved.
type field struct {
	key   string // as in the text: group.key
	value slog.Value
}

type handler struct {
	level  slog.Leveler
	text   *text
	native *native
	fields []field
	group  string // prefix with its dot
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.fields = h.fields[:len(h.fields):len(h.fields)]
	for _, a := range attrs {
		n.fields = flatten(n.fields, h.group, a)
	}
	return &n
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.group += name + "."
	return &n
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	fields := h.fields[:len(h.fields):len(h.fields)]
	r.Attrs(func(a slog.Attr) bool {
		fields = flatten(fields, h.group, a)
		return true
	})
	if h.native != nil {
		err := h.native.send(r, fields)
		if err == nil {
			return nil
		}
		if h.text.prefix && errors.Is(err, os.ErrDeadlineExceeded) {
			// Standard error leads to the same journald, and a write to it would
			// wait for as long as it is stuck. The count of what is lost goes out
			// with the next entry.
			return err
		}
		fields = append(fields, field{"journal_err", slog.StringValue(err.Error())})
	}
	return h.text.write(r, fields)
}

func flatten(fields []field, prefix string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, b := range v.Group() {
			fields = flatten(fields, prefix, b)
		}
		return fields
	}
	if a.Key == "" && v.Any() == nil {
		return fields
	}
	return append(fields, field{prefix + a.Key, v})
}

func plain(v slog.Value) string {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().UTC().Format(time.RFC3339Nano)
	case slog.KindDuration:
		d := v.Duration()
		if d > time.Second || d < -time.Second {
			d = d.Round(time.Millisecond)
		}
		return d.String()
	}
	return v.String()
}

// message is the text of an entry: msg and the attributes after it.
func message(b *bytes.Buffer, msg string, fields []field) {
	b.WriteString(msg)
	for _, f := range fields {
		if f.key == keyMessageID {
			continue
		}
		s := plain(f.value)
		b.WriteByte(' ')
		b.WriteString(f.key)
		b.WriteByte('=')
		if f.key == "stack" {
			// A goroutine's stack is for reading, not for parsing.
			b.WriteByte('\n')
			b.WriteString(strings.ToValidUTF8(s, "�"))
			continue
		}
		if needsQuote(s) {
			b.WriteString(strconv.Quote(s))
		} else {
			b.WriteString(s)
		}
	}
}

func needsQuote(s string) bool {
	if s == "" || !utf8.ValidString(s) {
		return true
	}
	for _, r := range s {
		if r == ' ' || r == '"' || r == '=' || !unicode.IsPrint(r) {
			return true
		}
	}
	return false
}

// text writes lines.
type text struct {
	mu      sync.Mutex
	w       io.Writer
	prefix  bool // lines go to the journal as a stream: sd-daemon(3) priorities, no time
	timeFmt string
}

func newText(w io.Writer, stream bool) *text {
	t := &text{w: w, prefix: stream, timeFmt: "2006-01-02T15:04:05.000Z07:00"}
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			t.timeFmt = "15:04:05"
		}
	}
	return t
}

func (t *text) write(r slog.Record, fields []field) error {
	var b, m bytes.Buffer
	message(&m, r.Message, fields)
	head := ""
	if t.prefix {
		head = "<" + strconv.Itoa(priority(r.Level)) + ">"
	} else {
		if !r.Time.IsZero() {
			b.WriteString(r.Time.Format(t.timeFmt))
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%-5s ", levelName(r.Level))
	}
	for i, line := range bytes.Split(bytes.TrimRight(m.Bytes(), "\n"), []byte("\n")) {
		if i > 0 && !t.prefix {
			b.WriteString("    ")
		}
		b.WriteString(head)
		b.Write(line)
		b.WriteByte('\n')
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := t.w.Write(b.Bytes())
	return err
}

func levelName(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "error"
	case l >= slog.LevelWarn:
		return "warn"
	case l >= LevelNotice:
		return "note"
	case l >= slog.LevelInfo:
		return "info"
	}
	return "debug"
}

// How long an entry may wait for a journald that is stuck, and for how long none
// is tried after that.
const (
	patience = time.Second
	pause    = 10 * time.Second
)

// native sends entries to journald's socket.
type native struct {
	addr *net.UnixAddr
	id   string

	mu    sync.Mutex
	conn  *net.UnixConn
	lost  int
	until time.Time // after a time-out, entries are not sent before this
}

func newNative(socket, identifier string) *native {
	return &native{addr: &net.UnixAddr{Name: socket, Net: "unixgram"}, id: identifier}
}

func (n *native) send(r slog.Record, fields []field) error {
	var m, b bytes.Buffer
	message(&m, r.Message, fields)
	appendField(&b, "MESSAGE", m.String())
	appendField(&b, "PRIORITY", strconv.Itoa(priority(r.Level)))
	appendField(&b, "SYSLOG_IDENTIFIER", n.id)
	for _, f := range fields {
		name, value := journalField(f)
		appendField(&b, name, value)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Now().Before(n.until) {
		n.lost++
		return fmt.Errorf("journal: not sent after a time-out: %w", os.ErrDeadlineExceeded)
	}
	if n.lost > 0 {
		appendField(&b, "CIS490_LOST_ENTRIES", strconv.Itoa(n.lost))
	}
	if err := n.write(b.Bytes()); err != nil {
		n.lost++
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n.until = time.Now().Add(pause)
		}
		return err
	}
	n.lost = 0
	return nil
}

// write sends one entry: as a datagram, or in a sealed memfd where it is too
// long for one.
func (n *native) write(entry []byte) error {
	if n.conn == nil {
		// Unconnected, so that a journald that was restarted is found again.
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("journal: socket: %w", err)
		}
		f := os.NewFile(uintptr(fd), n.addr.Name)
		c, err := net.FilePacketConn(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		n.conn = c.(*net.UnixConn)
	}
	n.conn.SetWriteDeadline(time.Now().Add(patience))
	_, _, err := n.conn.WriteMsgUnix(entry, nil, n.addr)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		return n.writeFD(entry)
	}
	return err
}

func (n *native) writeFD(entry []byte) error {
	fd, err := unix.MemfdCreate("cis490-journal-entry", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("journal: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	if _, err := f.Write(entry); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	// journald maps the file; it insists that nobody can shrink it meanwhile.
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("journal: seal memfd: %w", err)
	}
	_, _, err = n.conn.WriteMsgUnix(nil, unix.UnixRights(int(f.Fd())), n.addr)
	return err
}

// journalField gives an attribute its field name and its value there.
func journalField(f field) (name, value string) {
	if f.key == keyMessageID {
		return "MESSAGE_ID", f.value.String()
	}
	if f.value.Kind() == slog.KindDuration {
		return fieldName(f.key) + "_US", strconv.FormatInt(f.value.Duration().Microseconds(), 10)
	}
	return fieldName(f.key), plain(f.value)
}

// fieldName makes a valid field name: upper-case letters, digits and
// underscores, at most 64 in all, not beginning with an underscore.
func fieldName(key string) string {
	b := []byte("CIS490_")
	for _, r := range strings.ToUpper(key) {
		if len(b) == 61 { // leaves room for _US
			break
		}
		if (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') {
			b = append(b, byte(r))
		} else {
			b = append(b, '_')
		}
	}
	return string(b)
}

// appendField writes a field in the native protocol: NAME=value, or with a
// length in front of the value when that has a line feed in it.
func appendField(b *bytes.Buffer, name, value string) {
	b.WriteString(name)
	if strings.IndexByte(value, '\n') < 0 {
		b.WriteByte('=')
	} else {
		b.WriteByte('\n')
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(value))))
	}
	b.WriteString(value)
	b.WriteByte('\n')
}
