package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/state"
)

// The live view fits every terminal, and has what one looks for.
func TestView(t *testing.T) {
	now := time.Now()
	since, next := now.Add(-4*time.Minute), now.Add(7*time.Second)
	id := episode.NewID()
	key := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	held := state.Shipper{Host: "lab-01", Receiver: "https://receiver.example.org:8490", WrittenAt: now, StartedAt: since,
		Path:  state.Path{Held: true, Code: code.HostUnknown, Detail: "no host has the key " + key, Fix: "allow it", Since: &since, NextProbe: &next},
		Queue: state.Queue{Scanned: true, Waiting: 37}, Rate: state.Rate{Limit: "2MB/s", Window: "office"}}
	busy := held
	busy.Path = state.Path{}
	busy.Problem = &state.Code{Code: code.Cut, Detail: "a\x1b[2Jb", At: since}
	for range 40 {
		busy.Workers = append(busy.Workers, state.Worker{Doing: "send", Episode: &id, Attempt: 2, SizeBytes: 2 << 30, SentBytes: 1 << 30})
	}
	h := &history{}
	for i := range 20 {
		st := busy
		st.WrittenAt = now.Add(time.Duration(i-20) * time.Second)
		st.Rate.WireBytes = int64(i) << 20
		st.Workers = []state.Worker{{Episode: &id, SentBytes: int64(i+1) << 20}}
		h.add(st)
	}
	if n := len(h.samples); n > 12 {
		t.Errorf("%d samples are kept", n)
	}
	for _, width := range []int{1, 24, 49, 50, 80, 200} {
		for _, height := range []int{1, 5, 24, 60} {
			for _, st := range []state.Shipper{{}, held, busy} {
				lines := view(st, true, h, now, width, height)
				if len(lines) > height {
					t.Errorf("%d lines of %d", len(lines), height)
				}
				for _, l := range lines {
					if utf8.RuneCountInString(l) > max(width, 10) || strings.ContainsRune(l, '\x1b') {
						t.Errorf("width %d: %q", width, l)
					}
				}
			}
		}
	}
	has := func(st state.Shipper, width int, want ...string) {
		t.Helper()
		all := strings.Join(view(st, true, h, now, width, 60), "\n")
		for _, w := range want {
			if !strings.Contains(all, w) {
				t.Errorf("no %q in\n%s", w, all)
			}
		}
	}
	has(held, 90, "held for 4 min: host-unknown, next try in 7 s", "fix: allow it", key, "37 waiting", "limit 2MB/s, by rate_window office")
	has(busy, 80, "path     open", "1.0 MiB/s; limit", "cut, 4 min ago", " 50 % of 2.0 GiB, 1.0 MiB/s", " left", "[=====")
	has(held, 30, "path: held for 4 min:")
	if all := strings.Join(view(busy, true, h, now, 80, 20), "\n"); !strings.Contains(all, "… and ") || !strings.HasSuffix(all, "q: quit") {
		t.Error(all)
	}
}

// Without a terminal it is lines; the end of the context is its end, and no error.
func TestWatchWithoutATerminal(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var out bytes.Buffer
		if err := watch(ctx, t.TempDir(), &out, asJSON); err != nil {
			t.Error(err)
		}
		if n := strings.Count(out.String(), "not running"); n != 1 {
			t.Errorf("%q", out.String())
		}
	}
}

// What is no row of its own in a healthy shipper's status stands there when it is so.
func TestStatusSaysWhatIsLeftAndWhatIsNotTaken(t *testing.T) {
	now := time.Now()
	old, since := now.Add(-49*time.Hour), now.Add(-2*time.Hour)
	st := state.Shipper{StartedAt: now, Open: state.Open{LeftOver: 2, Oldest: &old}, Report: state.Report{Failure: &state.Code{Code: code.Unmarked4xx, Detail: "an old receiver", Since: since, At: now}}}
	var b strings.Builder
	if err := printStatus(&b, st, true, now); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"open +2 sealings were cut off and left in open/, the first 2 d ago", "fix: cis490-episode recover",
		"report +the receiver does not take how this host is, since 2 h ago: unmarked-4xx: an old receiver",
	} {
		if !regexp.MustCompile(line).MatchString(b.String()) {
			t.Errorf("no %s in\n%s", line, &b)
		}
	}
	b.Reset()
	if err := printStatus(&b, state.Shipper{StartedAt: now}, true, now); err != nil || regexp.MustCompile(`(?m)^(open|report) `).MatchString(b.String()) {
		t.Errorf("%v\n%s", err, &b)
	}
}
