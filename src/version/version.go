// Package version says which build this is. It promises a non-empty string that
// stays the same for one binary.
package version

import (
	"runtime/debug"
	"strings"
	"sync"
)

// stamped is set by the linker: -ldflags "-X cis490/src/version.stamped=1.2.3".
var stamped string

// String is the version stamped by the packager, else the module version or the
// Git revision (12 digits, "-dirty" if the tree was changed) that the Go
// toolchain recorded, else "devel".
func String() string { return get() }

var get = sync.OnceValue(func() string {
	bi, _ := debug.ReadBuildInfo()
	return from(stamped, bi)
})

func from(stamped string, bi *debug.BuildInfo) string {
	if stamped != "" {
		return stamped
	}
	if bi == nil {
		return "devel"
	}
	rev, dirty := "", false
	for _, s := range bi.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if rev == "" {
		if v := strings.TrimPrefix(bi.Main.Version, "v"); v != "" && v != "(devel)" {
			return v
		}
		return "devel"
	}
	if len(rev) > 12 {
		rev = rev[:12]
	}
	if dirty {
		rev += "-dirty"
	}
	return rev
}
