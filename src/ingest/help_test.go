package ingest

import (
	"os"
	"strings"
	"testing"
	"time"

	"cis490/src/wire"
)

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

// size is how many bytes the file of an upload has.
func size(g *rig, path string) int64 {
	i, err := os.Stat(g.r.store.IncomingDir() + "/" + strings.TrimPrefix(path, wire.PathUploads) + dataSuffix)
	if err != nil {
		return -1
	}
	return i.Size()
}

// incoming lists the files in incoming/ that are not the store's.
func incoming(t testing.TB, g *rig) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(g.r.store.IncomingDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}
