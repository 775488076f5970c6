package queue

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cis490/src/code"
)

// What will have gone in three days, by code, without a change to anything.
func TestExpiring(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2026, 7, 20, 12, 0, 0, 0, time.UTC)
	if n, whole, err := Expiring(context.Background(), dir, 240*time.Hour, now, 10); len(n) != 0 || !whole || err != nil {
		t.Errorf("without a quarantine: %v %v %v", n, whole, err)
	}
	for name, at := range map[string]time.Time{
		"a": now.Add(-9 * 24 * time.Hour), "b": now.Add(-7*24*time.Hour - time.Minute), "c": now.Add(-7*24*time.Hour + time.Minute), "d": now,
	} {
		d := filepath.Join(dir, quarantineDir, at.Format(dayLayout), name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		c := code.Malformed
		if name == "b" {
			c = code.Conflict
		}
		if err := os.WriteFile(filepath.Join(d, reasonFile), []byte(`{"code":"`+string(c)+`","quarantined_at":"`+at.Format(time.RFC3339)+`"}`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n, whole, err := Expiring(context.Background(), dir, 10*24*time.Hour, now.Add(3*24*time.Hour), 10)
	if err != nil || !whole || len(n) != 2 || n[code.Malformed] != 1 || n[code.Conflict] != 1 {
		t.Errorf("%v %v %v, want one malformed and one conflict", n, whole, err)
	}
	if _, whole, err := Expiring(context.Background(), dir, 10*24*time.Hour, now.Add(3*24*time.Hour), 1); whole || err != nil {
		t.Errorf("with most 1: whole %v, %v", whole, err)
	}
}
