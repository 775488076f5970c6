package episode

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestIDForm(t *testing.T) {
	at := time.Date(2026, 7, 1, 12, 0, 0, 123_456_789, time.UTC)
	id := newID(at)
	s := id.String()
	if len(s) != 36 || s[14] != '7' || !strings.Contains("89ab", s[19:20]) {
		t.Errorf("%s is no UUID of version 7", s)
	}
	if !id.Time().Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("%s is of %v", id, id.Time())
	}
	back, err := ParseID(s)
	if err != nil || back != id {
		t.Error(back, err)
	}
	b, err := json.Marshal(map[string]ID{"id": id})
	if err != nil || string(b) != `{"id":"`+s+`"}` {
		t.Errorf("%s, %v", b, err)
	}
	var m map[string]ID
	if err := json.Unmarshal(b, &m); err != nil || m["id"] != id {
		t.Error(m, err)
	}
	if v4, err := ParseID("f47ac10b-58cc-4372-a567-0e02b2c3d479"); err != nil || !v4.Time().IsZero() {
		t.Error(v4, err)
	}
	for _, bad := range []string{
		"", s[:35], s + "0", strings.ToUpper(s), strings.ReplaceAll(s, "-", ""), "{" + s + "}", "urn:uuid:" + s, s[:8] + "_" + s[9:], "g" + s[1:], "../" + s, s + "/",
		s[:35] + "\n",
	} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("%q was taken as %s", bad, id)
		}
	}
}

func TestIDsSortByTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64Range(0, 1<<47).Draw(t, "a")
		d := rapid.Int64Range(300, 1e12).Draw(t, "d") // the finest step is a quarter of a microsecond
		x, y := newID(time.Unix(0, a)), newID(time.Unix(0, a+d))
		if x.Compare(y) >= 0 || strings.Compare(x.String(), y.String()) >= 0 {
			t.Fatalf("%s of %d is not before %s of %d", x, a, y, a+d)
		}
	})
	ids := make([]ID, 1000)
	for i := range ids {
		ids[i] = NewID()
	}
	slices.SortFunc(ids, ID.Compare)
	if n := len(slices.Compact(ids)); n != 1000 {
		t.Errorf("%d ids of 1000 differ", n)
	}
}

func TestValidHost(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "lab-7": true, "0": true, "-": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "Lab": false, "a.b": false, "..": false, "a/b": false, "a_b": false, "ä": false, "a\n": false, "a ": false,
	} {
		if ValidHost(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestKernelReleases(t *testing.T) {
	for release, want := range map[string]bool{
		"5.8": true, "5.8.0-1-amd64": true, "5.10.0": true, "6.1.0-rc1": true, "10.0": true, "5.7.19": false, "4.19.0": false, "": false, "x": false, "5": false, "5.x": false,
	} {
		if got := atLeast(release, 5, 8); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}
