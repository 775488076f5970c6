// Package journal writes the log: structured entries to the systemd journal
// where standard error leads there, readable lines everywhere else.
//
// It promises that every attribute of an entry arrives as a field of its own
// (CIS490_CODE, CIS490_EPISODE, …) that journalctl can select by, whatever its
// length or content, that MESSAGE shows the same attributes to a person, and
// that a journal that is stuck holds the program up for at most a second in ten
// and is never a reason to stop.
package journal

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"

	"cis490/src/code"
)

// Socket is where systemd-journald listens for entries in its native protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
const Socket = "/run/systemd/journal/socket"

// LevelNotice stands between slog's Info and Warn, as syslog's notice does
// (PRIORITY=5).
const LevelNotice = slog.Level(2)

// Options is how New logs.
type Options struct {
	Identifier string       // SYSLOG_IDENTIFIER; "": the program's name
	Level      slog.Leveler // lowest level that is logged; nil: Info
	Native     *bool        // nil: whether w is standard error and JOURNAL_STREAM says that it leads to the journal
	Socket     string       // "": Socket
}

// New returns a logger. w, normally os.Stderr, gets readable lines when entries
// do not go to the journal's socket, and when the socket fails.
func New(w io.Writer, o Options) *slog.Logger {
	if o.Identifier == "" {
		o.Identifier = program()
	}
	if o.Socket == "" {
		o.Socket = Socket
	}
	if o.Level == nil {
		o.Level = slog.LevelInfo
	}
	stream := false
	if f, ok := w.(*os.File); ok {
		stream = isJournalStream(f, os.Getenv("JOURNAL_STREAM"))
	}
	native := stream
	if o.Native != nil {
		native = *o.Native
	}
	h := &handler{level: o.Level, text: newText(w, stream)}
	if native {
		h.native = newNative(o.Socket, o.Identifier)
	}
	return slog.New(h)
}

// Discard is a logger for tests and for code that is handed none.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func program() string {
	if len(os.Args) == 0 {
		return "cis490"
	}
	return os.Args[0][strings.LastIndexByte(os.Args[0], '/')+1:]
}

// isJournalStream says whether f is the stream that JOURNAL_STREAM=device:inode
// names (systemd.exec(5)). Only then: a child whose standard error was sent
// elsewhere inherits the variable too.
func isJournalStream(f *os.File, env string) bool {
	dev, ino, ok := strings.Cut(env, ":")
	if !ok {
		return false
	}
	d, err1 := strconv.ParseUint(dev, 10, 64)
	i, err2 := strconv.ParseUint(ino, 10, 64)
	st, err3 := f.Stat()
	if err1 != nil || err2 != nil || err3 != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && uint64(sys.Dev) == d && sys.Ino == i
}

// Event logs that c happened: CIS490_CODE, the code's MESSAGE_ID and a PRIORITY
// by its class, and the attributes. Keys: "episode" (CIS490_EPISODE), "host",
// "status" (HTTP status), "bytes", "duration" (a time.Duration; becomes
// CIS490_DURATION_US). A nil log drops it.
func Event(ctx context.Context, log *slog.Logger, c code.Code, msg string, attrs ...slog.Attr) {
	if log == nil {
		return
	}
	all := make([]slog.Attr, 0, len(attrs)+2)
	all = append(all, slog.String("code", string(c)))
	all = append(all, attrs...)
	info := c.Info()
	if info.MessageID != "" {
		all = append(all, slog.String(keyMessageID, info.MessageID))
	}
	log.LogAttrs(ctx, levelOf(info.Class), msg, all...)
}

// keyMessageID is the attribute that becomes MESSAGE_ID and is left out of the
// text.
const keyMessageID = "message_id"

func levelOf(c code.Class) slog.Level {
	switch c {
	case code.Done:
		return slog.LevelInfo
	case code.OfUpload:
		return LevelNotice
	case code.Transient:
		return slog.LevelWarn
	default: // of one episode or of the host: somebody has to do something
		return slog.LevelError
	}
}

// priority is syslog's (RFC 5424, section 6.2.1) for a level.
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError+4:
		return 2
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= LevelNotice:
		return 5
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}
