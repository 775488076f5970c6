package queue

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
)

// machine does at random what is done to a queue, beside a model of it.
type machine struct {
	dir string
	q   *Queue // the daemon's
	cli *Queue // another process's
	now time.Time

	sealed    map[episode.ID]bool
	aside     map[episode.ID]Reason
	kept      map[episode.ID]bool
	recorded  map[episode.ID]int
	removed   map[episode.ID]bool // by their owner's wish
	lastClean time.Time
}

func (m *machine) open(t *rapid.T) {
	quiet := WithLog(slog.New(slog.DiscardHandler))
	var err error
	if m.q, err = Open(m.dir, quiet); err != nil {
		t.Fatal(err)
	}
	m.q.now = func() time.Time { return m.now }
	if err := m.q.Lock(); err != nil {
		t.Fatal(err)
	}
	if m.cli, err = Open(m.dir, quiet); err != nil {
		t.Fatal(err)
	}
	m.cli.now = m.q.now
}

func pick[V any](t *rapid.T, of map[episode.ID]V) episode.ID {
	if len(of) == 0 {
		t.Skip("none")
	}
	return rapid.SampledFrom(slices.SortedFunc(maps.Keys(of), episode.ID.Compare)).Draw(t, "id")
}

var someCodes = rapid.SampledFrom([]code.Code{code.Conflict, code.OutOfWindow, code.Damaged})

func (m *machine) either(t *rapid.T) *Queue {
	if rapid.Bool().Draw(t, "other process") {
		return m.cli
	}
	return m.q
}

func ok(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestQueueIsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := inMemory()
		ok(t, err)
		defer os.RemoveAll(dir)
		m := &machine{dir: dir, now: time.Date(2026, 6, 30, 20, 0, 0, 0, time.UTC), sealed: map[episode.ID]bool{}, aside: map[episode.ID]Reason{},
			kept: map[episode.ID]bool{}, recorded: map[episode.ID]int{}, removed: map[episode.ID]bool{}}
		m.open(t)
		defer func() { m.q.Close() }()
		add := func(t *rapid.T) {
			id := episode.NewID()
			_, err := sealAt(dir, id)
			ok(t, err)
			m.sealed[id] = true
		}
		t.Repeat(map[string]func(*rapid.T){
			"seal":       add,
			"seal again": add,
			"quarantine": func(t *rapid.T) {
				id := pick(t, m.sealed)
				r := Reason{Code: someCodes.Draw(t, "code")}
				ok(t, m.q.Quarantine(id.String(), r))
				r.QuarantinedAt = m.now
				delete(m.sealed, id)
				m.aside[id] = r
			},
			"quarantine what is not there": func(t *rapid.T) {
				if err := m.q.Quarantine(episode.NewID().String(), Reason{Code: code.Conflict}); !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			},
			"requeue one": func(t *rapid.T) {
				id := pick(t, m.aside)
				done, err := m.either(t).Requeue(context.Background(), Selection{Names: []string{id.String()}})
				ok(t, err)
				if len(done) != 1 || done[0].ID != id {
					t.Fatal(done)
				}
				delete(m.aside, id)
				m.sealed[id] = true
			},
			"requeue by code": func(t *rapid.T) {
				c := someCodes.Draw(t, "code")
				done, err := m.either(t).Requeue(context.Background(), Selection{Codes: []code.Code{c}})
				ok(t, err)
				n := 0
				for id, r := range m.aside {
					if r.Code == c {
						delete(m.aside, id)
						m.sealed[id] = true
						n++
					}
				}
				if len(done) != n {
					t.Fatalf("%d put back, want %d", len(done), n)
				}
			},
			"discard": func(t *rapid.T) {
				id := pick(t, m.aside)
				ok(t, m.either(t).Discard(id.String()))
				delete(m.aside, id)
				m.removed[id] = true
			},
			"acknowledge": func(t *rapid.T) {
				id := pick(t, m.sealed)
				d, err := digestOf(m.q.Dir(id))
				ok(t, err)
				keep := rapid.SampledFrom([]time.Duration{0, 48 * time.Hour}).Draw(t, "keep")
				m.q.SetKeepShipped(keep)
				ok(t, m.q.Acknowledge(context.Background(), receipt(id, d)))
				delete(m.sealed, id)
				m.recorded[id]++
				m.kept[id] = keep > 0
			},
			"acknowledge other content": func(t *rapid.T) {
				id := pick(t, m.sealed)
				if err := m.q.Acknowledge(context.Background(), receipt(id, bag.Digest{9})); !errors.Is(err, ErrOtherDigest) {
					t.Fatal(err)
				}
			},
			"time passes": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 20*24).Draw(t, "hours")) * time.Hour)
			},
			"clean up": func(t *rapid.T) {
				m.q.SetKeepShipped(1000 * 24 * time.Hour)
				agreed := rapid.Bool().Draw(t, "agreed")
				r, err := m.q.Cleanup(context.Background(), m.now, CleanupOptions{KeepDays: 30, Interval: 24 * time.Hour, ClockAgreed: agreed})
				ok(t, err)
				want := CleanupRan
				if since := m.now.Sub(m.lastClean); !m.lastClean.IsZero() && since < 24*time.Hour {
					want = CleanupNotDue
				} else if !agreed {
					want = CleanupClockUnknown
				}
				if r.Outcome != want {
					t.Fatalf("%s, want %s", r.Outcome, want)
				}
				n := 0
				if want == CleanupRan {
					m.lastClean = m.now
					for id, r := range m.aside {
						if m.now.Sub(r.QuarantinedAt) >= 30*24*time.Hour {
							delete(m.aside, id)
							m.removed[id] = true
							n++
						}
					}
				}
				if r.Removed != n {
					t.Fatalf("%d removed, want %d", r.Removed, n)
				}
			},
			"restart": func(t *rapid.T) {
				ok(t, m.q.Close())
				m.open(t)
			},
			"": m.check,
		})
	})
}

func (m *machine) check(t *rapid.T) {
	ids, strays, err := m.q.Scan(context.Background())
	ok(t, err)
	if want := slices.SortedFunc(maps.Keys(m.sealed), episode.ID.Compare); !slices.Equal(ids, want) || len(strays) != 0 {
		t.Fatalf("%v wait, want %v; strays %v", ids, want, strays)
	}
	for _, q := range []*Queue{m.q, m.cli} {
		list, err := q.List()
		ok(t, err)
		byCode := map[code.Code]int{}
		for _, e := range list {
			r, is := m.aside[e.ID]
			if !is || e.Err != nil || e.Reason.Code != r.Code || !e.Reason.QuarantinedAt.Equal(r.QuarantinedAt) {
				t.Fatalf("%+v, want %+v", e, r)
			}
			if err := whole(e.Bag(), e.ID); err != nil {
				t.Fatal(err)
			}
			byCode[r.Code]++
		}
		c, err := q.Counts()
		ok(t, err)
		if len(list) != len(m.aside) || c.Total != len(list) || !maps.Equal(c.ByCode, byCode) {
			t.Fatalf("%d entries, counts %+v; want %d", len(list), c, len(m.aside))
		}
	}
	for id := range m.sealed {
		if err := whole(m.q.Dir(id), id); err != nil {
			t.Fatal(err)
		}
	}
	shipped, err := filepath.Glob(filepath.Join(m.dir, shippedDir, "*", "*"))
	ok(t, err)
	n := 0
	for _, kept := range m.kept {
		if kept {
			n++
		}
	}
	if len(shipped) != n {
		t.Fatalf("%d kept, want %d", len(shipped), n)
	}
	recorded := map[episode.ID]int{}
	for r, err := range m.q.Receipts(time.Time{}) {
		ok(t, err)
		recorded[r.Episode]++
	}
	if !maps.Equal(recorded, m.recorded) {
		t.Fatalf("the ledger has %v, want %v", recorded, m.recorded)
	}
}
