package doctor

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cis490/src/health"
)

var update = flag.Bool("update", false, "write ROWS.md anew")

func TestRowsAreCurrent(t *testing.T) {
	want := Rows()
	if *update {
		if err := os.WriteFile("ROWS.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile("ROWS.md"); err != nil || string(got) != want {
		t.Errorf("ROWS.md is out of date (%v): go test ./src/doctor -update", err)
	}
}

// Each check says what it looks at and how to mend it, and depends on checks that are there, without a circle.
func TestChecksAreWhole(t *testing.T) {
	for _, o := range []Options{{Host: "x"}, {Receiver: "x"}, {Host: "x", Receiver: "x"}} {
		checks := Checks(o)
		deps := map[string][]string{}
		for _, c := range checks {
			if c.ID == "" || strings.ContainsAny(c.ID, "/ ") || c.Looks == "" || c.Fix == "" || c.Role == "" || c.Run == nil {
				t.Errorf("%+v is not whole", c)
			}
			if _, twice := deps[c.ID]; twice {
				t.Errorf("%s is there twice", c.ID)
			}
			deps[c.ID] = c.DependsOn
		}
		var walk func(id string, path []string)
		walk = func(id string, path []string) {
			if slices.Contains(path, id) {
				t.Fatalf("in a circle: %s", append(path, id))
			}
			ds, ok := deps[id]
			if !ok {
				t.Fatalf("%s depends on %s, which is not there", path[len(path)-1], id)
			}
			for _, d := range ds {
				walk(d, append(slices.Clone(path), id))
			}
		}
		for id := range deps {
			walk(id, nil)
		}
	}
}

func said(f ...Finding) func(context.Context) []Finding {
	return func(context.Context) []Finding { return f }
}

func run(t *testing.T, checks ...Check) map[string]health.Result {
	t.Helper()
	r := Run(t.Context(), LabHost, checks, func(string) bool { return true })
	if _, err := json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	by := map[string]health.Result{}
	for _, x := range r.Results {
		by[x.ID] = x
	}
	return by
}

// What follows from a red row is skipped and names the first cause, whatever it says itself; what follows from a yellow or an unknown
// one is judged.
func TestCausesComeBeforeSymptoms(t *testing.T) {
	by := run(t,
		Check{ID: "cable", Run: said(red("cut", "", "mend it"))},
		Check{ID: "link", DependsOn: []string{"cable"}, Run: said(red("down", "no carrier", "look"))},
		Check{ID: "web", DependsOn: []string{"link"}, Run: said(red("gone", "", ""))},
		Check{ID: "fan", Run: said(yellow("loud", "", ""))},
		Check{ID: "heat", DependsOn: []string{"fan"}, Run: said(red("hot", "", ""))},
		Check{ID: "dark", Run: said(unknown("may not look", "", ""))},
		Check{ID: "door", DependsOn: []string{"dark"}, Run: said(green("shut"), red("open", "", "shut it").sub("back"))},
		Check{ID: "cat", DependsOn: []string{"door"}, Run: said(green("in"))},
		Check{ID: "mixed", Run: said(func() Finding { f := red("x", "", ""); f.DependsOn = []string{"web"}; return f }().sub("a"), yellow("y", "", "").sub("b"))},
	)
	for id, want := range map[string]health.Status{"cable": health.Red, "link": health.Skipped, "web": health.Skipped, "fan": health.Yellow, "heat": health.Red,
		"dark": health.Unknown, "door": health.Green, "door/back": health.Red, "cat": health.Skipped, "mixed/a": health.Skipped, "mixed/b": health.Yellow} {
		if by[id].Status != want {
			t.Errorf("%s is %s, want %s", id, by[id].Status, want)
		}
	}
	if w := by["web"]; !strings.Contains(w.Title, "cable is red") || w.Fix != "" {
		t.Errorf("%+v does not name the cause", w)
	}
	if !strings.Contains(by["cat"].Title, "door is red") {
		t.Errorf("%+v does not name the cause", by["cat"])
	}
}

// A check that panics is a row, and so is a shared value's panic in each check that asked for it.
func TestACrashIsARow(t *testing.T) {
	l := later(func(context.Context) int { panic("in common") })
	asks := func(ctx context.Context) []Finding {
		n, _ := l.get(ctx)
		return one(green("%d", n))
	}
	r := Run(t.Context(), LabHost, []Check{
		{ID: "good", Run: said(green("well"))},
		{ID: "bad", Run: func(context.Context) []Finding { panic("boo") }},
		{ID: "one", Run: asks}, {ID: "two", Run: asks}, {ID: "mute", Run: said()},
	}, func(string) bool { return true })
	for i, want := range []string{"", "boo", "in common", "in common", ""} {
		x := r.Results[i]
		if (i == 0) != (x.Status == health.Green) || i > 0 && x.Status != health.Unknown || !strings.HasPrefix(x.Evidence, want) {
			t.Errorf("%+v, want %q", x, want)
		}
	}
	if r.Exit(false) != health.ExitFailed || r.Schema != 1 {
		t.Errorf("exit %d, schema %d", r.Exit(false), r.Schema)
	}
}

// A check that ignores its context is left behind, and its row says so; the others are there.
func TestAHungCheckEndsInTime(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	began := time.Now()
	by := run(t,
		Check{ID: "stuck", Looks: "a disk", Run: func(context.Context) []Finding { <-hang; return nil }},
		Check{ID: "patient", Run: func(ctx context.Context) []Finding { <-ctx.Done(); return timedOut("the net") }},
		Check{ID: "quick", Run: said(green("well"))},
		Check{ID: "after", DependsOn: []string{"stuck"}, Run: said(green("well"))},
	)
	if took := time.Since(began); took > all {
		t.Errorf("took %s", took)
	}
	if x := by["stuck"]; x.Status != health.Unknown || !strings.Contains(x.Title, "timed out") || !strings.Contains(x.Evidence, "a disk") || x.Fix == "" {
		t.Errorf("%+v", x)
	}
	if by["patient"].Status != health.Unknown || by["quick"].Status != health.Green || by["after"].Status != health.Green {
		t.Errorf("%+v", by)
	}
}

func TestSelect(t *testing.T) {
	checks := []Check{{ID: "a", Run: said(red("x", "", ""))}, {ID: "b", DependsOn: []string{"a"}, Run: said(green("y"), green("z").sub("sub"))}, {ID: "c", Run: said(green("z"))}}
	if _, _, err := Select(checks, []string{"d"}); err == nil || !strings.Contains(err.Error(), "a, b, c") {
		t.Errorf("%v", err)
	}
	some, shown, err := Select(checks, []string{"b"})
	if err != nil || len(some) != 2 {
		t.Fatalf("%v, %v", some, err)
	}
	r := Run(t.Context(), LabHost, some, shown)
	if len(r.Results) != 2 || r.Results[0].ID != "b" || r.Results[0].Status != health.Skipped || r.Results[1].ID != "b/sub" {
		t.Errorf("%+v", r.Results)
	}
}

// What a stranger wrote does not reach a terminal as it is; the verdict is last; a word stands beside each colour.
func TestPrint(t *testing.T) {
	r := Run(t.Context(), LabHost, []Check{
		{ID: "fine", Run: said(green("well"))},
		{ID: "cable", Run: said(red("cut\x1b[2J", "seen\nby me", "mend it"))},
		{ID: "link", DependsOn: []string{"cable"}, Run: said(green("up"))},
		{ID: "web", DependsOn: []string{"cable"}, Run: said(green("up"))},
	}, func(string) bool { return true })
	var b strings.Builder
	if err := Print(&b, r, false); err != nil {
		t.Fatal(err)
	}
	want := `red      cable  cut[2J
                seen
                by me
                fix: mend it
skipped  not judged while cable is red: link, web
green    fine   well
red      1 broken, 0 to watch, 1 well, 2 skipped
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := Print(&b, r, true); err != nil || !strings.Contains(b.String(), "\x1b[31mred    \x1b[0m") {
		t.Errorf("%v %q", err, b.String())
	}
}
