package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"cis490/src/code"
)

// journald is a real socket that reads what the native protocol says.
type journald struct {
	path string
	conn *net.UnixConn
}

func startJournald(t testing.TB) *journald {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &journald{path, c}
}

// entry is the next entry and whether it came in a memfd.
func (j *journald) entry(t testing.TB) (fields map[string]string, viaFD bool) {
	t.Helper()
	j.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b, oob := make([]byte, 1<<20), make([]byte, 256)
	n, oobn, _, _, err := j.conn.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	b = b[:n]
	if oobn > 0 {
		msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := syscall.ParseUnixRights(&msgs[0])
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fds[0]), "memfd")
		defer f.Close()
		seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
		if err != nil || seals&(unix.F_SEAL_SHRINK|unix.F_SEAL_WRITE|unix.F_SEAL_GROW) != unix.F_SEAL_SHRINK|unix.F_SEAL_WRITE|unix.F_SEAL_GROW {
			t.Errorf("journald refuses a memfd with seals %x (%v)", seals, err)
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		b = make([]byte, st.Size())
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		viaFD = true
	}
	return parse(t, b), viaFD
}

func parse(t testing.TB, b []byte) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			t.Fatalf("no line feed at the end of %q", b)
		}
		name, value, simple := bytes.Cut(line, []byte("="))
		if !simple {
			n := binary.LittleEndian.Uint64(rest)
			value, rest = rest[8:8+n], rest[8+n:]
			if rest[0] != '\n' {
				t.Fatalf("no line feed after %s", name)
			}
			rest = rest[1:]
		}
		if !regexp.MustCompile(`^[A-Z0-9][A-Z0-9_]{0,63}$`).Match(name) {
			t.Errorf("journald drops a field named %q", name)
		}
		if _, twice := fields[string(name)]; twice {
			t.Errorf("%s twice", name)
		}
		fields[string(name)] = string(value)
		b = rest
	}
	return fields
}

func (j *journald) logger(fallback *bytes.Buffer) *slog.Logger {
	yes := true
	return New(fallback, Options{Identifier: "cis490-shipper", Native: &yes, Socket: j.path})
}

func TestEventFields(t *testing.T) {
	j := startJournald(t)
	log := j.logger(new(bytes.Buffer)).With("host", "lab-01")
	Event(context.Background(), log, code.OutOfWindow, "episode set aside",
		slog.String("episode", "0198c7b2-8f60-7c3e-9a55-0123456789ab"), slog.Int("status", 412),
		slog.Int64("bytes", 1<<40), slog.Duration("duration", 1500*time.Millisecond), slog.String("detail", "ended 2 d ago\nmax_age is 1 d"))
	got, viaFD := j.entry(t)
	info := code.OutOfWindow.Info()
	want := map[string]string{
		"MESSAGE":            `episode set aside host=lab-01 code=out-of-window episode=0198c7b2-8f60-7c3e-9a55-0123456789ab status=412 bytes=1099511627776 duration=1.5s detail="ended 2 d ago\nmax_age is 1 d"`,
		"MESSAGE_ID":         info.MessageID,
		"PRIORITY":           "3",
		"SYSLOG_IDENTIFIER":  "cis490-shipper",
		"CIS490_CODE":        "out-of-window",
		"CIS490_EPISODE":     "0198c7b2-8f60-7c3e-9a55-0123456789ab",
		"CIS490_HOST":        "lab-01",
		"CIS490_STATUS":      "412",
		"CIS490_BYTES":       "1099511627776",
		"CIS490_DURATION_US": "1500000",
		"CIS490_DETAIL":      "ended 2 d ago\nmax_age is 1 d",
	}
	if d := cmp.Diff(want, got); d != "" || viaFD {
		t.Error(d, viaFD)
	}
}

func TestEveryCodeIsAnEvent(t *testing.T) {
	j := startJournald(t)
	log := j.logger(new(bytes.Buffer))
	for _, i := range code.All() {
		Event(context.Background(), log, i.Code, "it happened")
		got, _ := j.entry(t)
		p, err := strconv.Atoi(got["PRIORITY"])
		if err != nil || got["MESSAGE_ID"] != i.MessageID || got["CIS490_CODE"] != string(i.Code) {
			t.Errorf("%s: %v", i.Code, got)
		}
		if want := map[code.Class]int{code.Done: 6, code.OfUpload: 5, code.Transient: 4, code.OfEpisode: 3, code.OfHost: 3}[i.Class]; p != want {
			t.Errorf("%s has priority %d, want %d", i.Code, p, want)
		}
	}
	Event(context.Background(), log, "code-of-tomorrow", "it happened")
	if got, _ := j.entry(t); got["CIS490_CODE"] != "code-of-tomorrow" || got["PRIORITY"] != "4" {
		t.Error(got)
	}
	Event(context.Background(), nil, code.Stored, "nobody listens")
}

func TestLongEntriesGoByMemfd(t *testing.T) {
	j := startJournald(t)
	log := j.logger(new(bytes.Buffer))
	long := strings.Repeat("goroutine 1 [running]:\n", 40_000)
	log.Error("panicked", "stack", long)
	got, viaFD := j.entry(t)
	if !viaFD || got["CIS490_STACK"] != long || !strings.Contains(got["MESSAGE"], "stack=\ngoroutine 1 [running]:\n") {
		t.Errorf("via fd %v, %d bytes of stack", viaFD, len(got["CIS490_STACK"]))
	}
}

func TestLevelsGroupsAndKinds(t *testing.T) {
	j := startJournald(t)
	log := j.logger(new(bytes.Buffer))
	log.Debug("not logged")
	at := time.Date(2026, 3, 1, 12, 0, 0, 5000, time.FixedZone("", 3600))
	log.WithGroup("upload").With("offset", uint64(7)).Warn("a", slog.Group("peer", "addr", "[::1]:1"), "at", at,
		"err", fmt.Errorf("open: %w", os.ErrPermission), "empty", "", "nothing", nil, "ok", true, "odd key-ä", 1.5, slog.Attr{})
	got, _ := j.entry(t)
	want := map[string]string{
		"MESSAGE":                 `a upload.offset=7 upload.peer.addr=[::1]:1 upload.at=2026-03-01T11:00:00.000005Z upload.err="open: permission denied" upload.empty="" upload.nothing=<nil> upload.ok=true upload.odd key-ä=1.5`,
		"PRIORITY":                "4",
		"SYSLOG_IDENTIFIER":       "cis490-shipper",
		"CIS490_UPLOAD_OFFSET":    "7",
		"CIS490_UPLOAD_PEER_ADDR": "[::1]:1",
		"CIS490_UPLOAD_AT":        "2026-03-01T11:00:00.000005Z",
		"CIS490_UPLOAD_ERR":       "open: permission denied",
		"CIS490_UPLOAD_EMPTY":     "",
		"CIS490_UPLOAD_NOTHING":   "<nil>",
		"CIS490_UPLOAD_OK":        "true",
		"CIS490_UPLOAD_ODD_KEY__": "1.5",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, c := range []struct {
		level slog.Level
		want  string
	}{{slog.LevelInfo, "6"}, {LevelNotice, "5"}, {slog.LevelWarn, "4"}, {slog.LevelError, "3"}, {slog.LevelError + 4, "2"}} {
		log.Log(context.Background(), c.level, "x")
		if got, _ := j.entry(t); got["PRIORITY"] != c.want {
			t.Errorf("%s has priority %s, want %s", c.level, got["PRIORITY"], c.want)
		}
	}
}

// Whatever stands in an attribute, it arrives as it is and in no other field.
func TestNothingBreaksOutOfItsField(t *testing.T) {
	j := startJournald(t)
	log := j.logger(new(bytes.Buffer))
	rapid.Check(t, func(rt *rapid.T) {
		key, value, msg := rapid.String().Draw(rt, "key"), string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "value")), rapid.String().Draw(rt, "msg")
		if key == keyMessageID {
			return
		}
		log.Info(msg, slog.String(key, value))
		got, _ := j.entry(t)
		if len(got) != 4 || got[fieldName(key)] != value || !strings.HasPrefix(got["MESSAGE"], msg) {
			rt.Fatalf("key %q value %q msg %q arrive as %q", key, value, msg, got)
		}
	})
}

func TestJournaldIsRestarted(t *testing.T) {
	j := startJournald(t)
	var fallback bytes.Buffer
	log := j.logger(&fallback)
	log.Info("one")
	j.entry(t)
	j.conn.Close()
	os.Remove(j.path)
	log.Error("two")
	if s := fallback.String(); !strings.Contains(s, "error two journal_err=") {
		t.Errorf("the entry is lost: %q", s)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: j.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	j.conn = c
	log.Info("three")
	if got, _ := j.entry(t); got["MESSAGE"] != "three" || got["CIS490_LOST_ENTRIES"] != "1" {
		t.Error(got)
	}
}

// A journald that does not read, as under SIGSTOP, costs a second once, not one
// for each entry, and stops nobody.
func TestStuckJournaldHoldsNobodyUp(t *testing.T) {
	j := startJournald(t)
	var fallback bytes.Buffer
	log := j.logger(&fallback)
	start := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				log.Info("x")
			}
		})
	}
	wg.Wait()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("16,000 entries took %s", d)
	}
	if !strings.Contains(fallback.String(), "i/o timeout") {
		t.Error("what journald does not take goes nowhere")
	}
}

func TestStuckJournaldBehindStandardError(t *testing.T) {
	j := startJournald(t)
	var out bytes.Buffer
	h := &handler{level: slog.LevelInfo, text: &text{w: &out, prefix: true}, native: newNative(j.path, "x")}
	h.native.until = time.Now().Add(time.Hour)
	if err := h.Handle(context.Background(), slog.Record{Message: "x"}); !errors.Is(err, os.ErrDeadlineExceeded) || out.Len() > 0 {
		t.Errorf("%v, wrote %q to a stream that may hang", err, out.String())
	}
	h.native.until = time.Time{}
	if err := h.Handle(context.Background(), slog.Record{Message: "x"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := j.entry(t); got["CIS490_LOST_ENTRIES"] != "1" {
		t.Error(got)
	}
}

func TestJournalStreamIsRecognised(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	right := fmt.Sprintf("%d:%d", sys.Dev, sys.Ino)
	for env, want := range map[string]bool{right: true, "": false, "8:1": false, fmt.Sprint(sys.Ino): false, right + "x": false, fmt.Sprintf("%d:%d", sys.Dev, sys.Ino+1): false} {
		if got := isJournalStream(f, env); got != want {
			t.Errorf("JOURNAL_STREAM=%s: %v", env, got)
		}
	}
	// Found by itself: the entry goes to the socket and not to the stream.
	j := startJournald(t)
	t.Setenv("JOURNAL_STREAM", right)
	New(f, Options{Socket: j.path}).Info("hello")
	if got, _ := j.entry(t); got["MESSAGE"] != "hello" || got["SYSLOG_IDENTIFIER"] != "journal.test" {
		t.Error(got)
	}
	// Without the socket: as lines with sd-daemon(3) priorities.
	New(f, Options{Socket: filepath.Join(t.TempDir(), "absent")}).Warn("a\nb")
	b, err := os.ReadFile(f.Name())
	if err != nil || !strings.HasPrefix(string(b), "<4>a\n<4>b journal_err=") {
		t.Errorf("%q, %v", b, err)
	}
	// Inherited by a process whose standard error leads elsewhere.
	other, err := os.Create(filepath.Join(t.TempDir(), "elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	New(other, Options{Socket: j.path}).Info("hello")
	if b, err := os.ReadFile(other.Name()); err != nil || !strings.HasSuffix(string(b), " info  hello\n") {
		t.Errorf("%q, %v", b, err)
	}
}

func TestLinesForPeople(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, Options{Level: slog.LevelDebug})
	Event(context.Background(), log, code.Stored, "stored", slog.String("episode", "0198"), slog.Int("bytes", 5), slog.Duration("duration", 12345678*time.Nanosecond))
	Event(context.Background(), log, code.Stalled, "upload stalled", slog.Duration("for", 30123456789*time.Nanosecond))
	log.Debug("two\nlines")
	got := regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d) `).ReplaceAllString(out.String(), "TIME ")
	want := `TIME info  stored code=stored episode=0198 bytes=5 duration=12.345678ms
TIME warn  upload stalled code=stalled for=30.123s
TIME debug two
    lines
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func BenchmarkEvent(b *testing.B) {
	j := startJournald(b)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			if _, err := j.conn.Read(buf); err != nil {
				return
			}
		}
	}()
	log := j.logger(new(bytes.Buffer))
	for b.Loop() {
		Event(context.Background(), log, code.Stored, "stored", slog.String("episode", "0198c7b2-8f60-7c3e-9a55-0123456789ab"), slog.Int("status", 201), slog.Int64("bytes", 65536))
	}
}
