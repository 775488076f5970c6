package config

import (
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the examples and the expected output anew")

func examples(all bool) map[string]string {
	var hosts []*Host
	return map[string]string{
		"lab-host.hcl": example(labHostSchema(new(LabHost)), all),
		"receiver.hcl": example(receiverSchema(new(Receiver), &hosts), all),
	}
}

// The commented examples and the options of the NixOS modules are what the table
// says; run with -update after changing the table.
func TestExamplesAreCurrent(t *testing.T) {
	files := examples(false)
	files["../../modules/settings.json"] = string(Table())
	for name, want := range files {
		if *update {
			if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, string(got)); d != "" {
			t.Errorf("%s is out of date: go test ./src/config -update\n%s", name, d)
		}
	}
}

// What the program accepts, the modules' types accept.
func TestForms(t *testing.T) {
	var each func(path string, b tableBlock)
	each = func(path string, b tableBlock) {
		for name, a := range b.Attrs {
			if a.Type == "" {
				t.Errorf("%s%s has no form", path, name)
			}
			if a.Pattern == "" {
				continue
			}
			re := regexp.MustCompilePOSIX("^(" + a.Pattern + ")$")
			for _, v := range []json.RawMessage{a.Default, a.Example} {
				var s string
				if len(v) > 0 && (json.Unmarshal(v, &s) != nil || !re.MatchString(s)) {
					t.Errorf("%s%s: %s does not match %s", path, name, v, a.Pattern)
				}
			}
		}
		for name, sub := range b.Blocks {
			each(path+name+".", sub)
		}
	}
	var all map[string]tableBlock
	if err := json.Unmarshal(Table(), &all); err != nil {
		t.Fatal(err)
	}
	for name, b := range all {
		each(name+": ", b)
	}
	durations, sizes := regexp.MustCompilePOSIX("^("+durationPattern+")$"), regexp.MustCompilePOSIX("^("+sizePattern+")$")
	rapid.Check(t, func(t *rapid.T) {
		d := FormatDuration(time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "ms")) * time.Millisecond)
		if !durations.MatchString(d) {
			t.Errorf("%s is refused", d)
		}
		if s := Size(rapid.Int64Min(0).Draw(t, "size")).String(); !sizes.MatchString(s) {
			t.Errorf("%s is refused", s)
		}
	})
}

// The NixOS modules write ${ as $${ and %{ as %%{ (modules/common.nix), and then
// any text comes out of the JSON syntax as it went in.
func TestEscapedTemplates(t *testing.T) {
	escape := strings.NewReplacer("${", "$${", "%{", "%%{")
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.StringMatching(`[a$%{}~" ]{0,12}`).Draw(t, "text")
		src, err := json.Marshal(map[string]any{"host": "a", "organization": escape.Replace(want), "receiver": map[string]string{"url": "https://r"}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseLabHost("lab-host.hcl.json", src)
		if err != nil {
			t.Fatal(err)
		}
		if got.Organization != want {
			t.Errorf("%q came out as %q", want, got.Organization)
		}
	})
}
