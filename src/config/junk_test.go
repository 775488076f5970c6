package config

import (
	"strings"
	"testing"
)

// A file that is no configuration at all has an error at each byte: it is refused at once, in a few lines.
func TestNoConfigurationAtAll(t *testing.T) {
	for _, junk := range []string{"\x17", "\x17\n", "= ", "x = y\n", "'"} {
		err := loadString(t, "receiver.hcl", "receiver {\n  url ="+strings.Repeat(junk, 5_000)+" \"https://x\"\n}")
		if err == nil {
			t.Fatalf("%q was taken", junk)
		}
		if text := err.Error(); len(text) > 4<<20 || strings.Count(text, "\n") > 500 {
			t.Errorf("%q: an error of %d bytes", junk, len(text))
		}
	}
}
