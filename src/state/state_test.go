package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A state file that is absent, cut or of another version is told apart from one that can be read.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadShipper(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if err := os.MkdirAll(filepath.Dir(ShipperPath(dir)), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(ShipperPath(dir), `{"schema": 1, "host": "lab-01", "queue": {"waiting": 3, "in_flight": 2}}`)
	if s, err := ReadShipper(dir); err != nil || s.Host != "lab-01" || s.Queue.Left() != 5 {
		t.Errorf("%+v, %v", s, err)
	}
	write(ReceiverPath(dir), `{"schema": 1, "partial_uploads": 7}`)
	if s, err := ReadReceiver(dir); err != nil || s.PartialUploads != 7 {
		t.Errorf("%+v, %v", s, err)
	}
	for text, want := range map[string]string{`{"schema": 2}`: "schema 2, this program reads 1", `{"sche`: "unexpected end"} {
		write(ShipperPath(dir), text)
		write(ReceiverPath(dir), text)
		if _, err := ReadShipper(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := ReadReceiver(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The units have a umask of 0027.
func TestAllMayReadAStateFile(t *testing.T) {
	old := syscall.Umask(0o027)
	defer syscall.Umask(old)
	path := ReceiverPath(t.TempDir())
	for range 2 {
		if err := Write(path, Receiver{Schema: 1}); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o644 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
	}
}
