package config

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the examples and the expected output anew")

func examples(all bool) map[string]string {
	var hosts []*Host
	return map[string]string{
		"lab-host.hcl": example(labHostSchema(new(LabHost)), all),
		"receiver.hcl": example(receiverSchema(new(Receiver), &hosts), all),
	}
}

// The commented examples are what the table says; run with -update after
// changing the table.
func TestExamplesAreCurrent(t *testing.T) {
	for name, want := range examples(false) {
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
