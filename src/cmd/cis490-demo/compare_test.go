package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCompareSeesEveryDifference(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 6789, time.UTC)
	build := func(t *testing.T) string {
		d := t.TempDir()
		for _, p := range []string{"a/b", "empty"} {
			if err := os.MkdirAll(filepath.Join(d, p), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range []string{"x", "a/y", "a/b/z"} {
			f := filepath.Join(d, p)
			if err := os.WriteFile(f, []byte("data of "+p), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(f, when, when); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	same, err := compare(build(t), build(t))
	if err != nil || same != "" {
		t.Fatalf("equal trees differ: %q, %v", same, err)
	}
	for name, change := range map[string]func(d string) error{
		"byte": func(d string) error {
			f := filepath.Join(d, "a/y")
			if err := os.WriteFile(f, []byte("dbta of a/y"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(f, when, when)
		},
		"longer": func(d string) error { return os.WriteFile(filepath.Join(d, "x"), []byte("data of x and more"), 0o644) },
		"mtime":  func(d string) error { return os.Chtimes(filepath.Join(d, "x"), when, when.Add(1)) },
		"x bit":  func(d string) error { return os.Chmod(filepath.Join(d, "x"), 0o755) },
		"gone":   func(d string) error { return os.Remove(filepath.Join(d, "a/b/z")) },
		"more":   func(d string) error { return os.WriteFile(filepath.Join(d, "more"), nil, 0o644) },
		"dir":    func(d string) error { return os.Remove(filepath.Join(d, "empty")) },
	} {
		got := build(t)
		if err := change(got); err != nil {
			t.Fatal(err)
		}
		diff, err := compare(build(t), got)
		if err != nil || diff == "" {
			t.Errorf("%s: not seen (%v)", name, err)
		}
	}
}
