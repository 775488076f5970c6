package version

import (
	"runtime/debug"
	"testing"
)

func TestFrom(t *testing.T) {
	vcs := func(rev, modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: "v0.0.0-2026"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: rev}, {Key: "vcs.modified", Value: modified}}}
	}
	for _, c := range []struct {
		stamped string
		info    *debug.BuildInfo
		want    string
	}{
		{"1.2.3", vcs("0123456789abcdef", "true"), "1.2.3"},
		{"", nil, "devel"},
		{"", &debug.BuildInfo{}, "devel"},
		{"", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "devel"},
		{"", &debug.BuildInfo{Main: debug.Module{Version: "v1.4.0"}}, "1.4.0"},
		{"", vcs("0123456789abcdef", "false"), "0123456789ab"},
		{"", vcs("0123456789abcdef", "true"), "0123456789ab-dirty"},
		{"", vcs("0123", "true"), "0123-dirty"},
	} {
		if got := from(c.stamped, c.info); got != c.want {
			t.Errorf("from(%q, %+v) = %q, want %q", c.stamped, c.info, got, c.want)
		}
	}
	if a, b := String(), String(); a == "" || a != b {
		t.Error(a, b)
	}
}
