package durable

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// What is written along with a Writeback is what is read, cut back in between or not.
func TestWriteback(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	var w Writeback
	want := make([]byte, 0, 12<<20)
	part := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range 10 {
		if i == 6 {
			want = want[:100]
			must(t, f.Truncate(100))
		}
		_, err := f.WriteAt(part, int64(len(want)))
		must(t, err)
		want = append(want, part...)
		w.Wrote(f, int64(len(want)))
		if left := int64(len(want)) - w.begun; left < 0 || left >= writebackEvery {
			t.Errorf("after %d bytes, %d are left to the fsync", len(want), left)
		}
	}
	must(t, f.Sync())
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
}
