package ship

import (
	"cis490/src/state"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// A state file that is read is of this schema, and says the same when it is written again.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"schema":1,"unit":"cis490-shipper","path":{"held":true,"code":"unreachable","since":"2026-05-01T12:00:00Z"},"queue":{"waiting":3,"postponed_by_code":{"read-failed":1}},"workers":[{"name":"w"}]}`))
	f.Add([]byte(`{"schema":2}`))
	dir := f.TempDir()
	if err := os.MkdirAll(filepath.Dir(state.ShipperPath(dir)), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(state.ShipperPath(dir), b, 0o644); err != nil {
			t.Fatal(err)
		}
		st, err := state.ReadShipper(dir)
		if err != nil {
			return
		}
		if st.Schema != 1 {
			t.Fatalf("schema %d was taken", st.Schema)
		}
		first, err := json.Marshal(st)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if err := os.WriteFile(state.ShipperPath(dir), first, 0o644); err != nil {
			t.Fatal(err)
		}
		st, err = state.ReadShipper(dir)
		if err != nil {
			t.Fatalf("%q: %v", first, err)
		}
		if again, err := json.Marshal(st); err != nil || string(again) != string(first) {
			t.Fatalf("%s became %s, %v", first, again, err)
		}
	})
}
