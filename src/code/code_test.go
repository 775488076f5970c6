package code_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"cis490/src/code"
)

var update = flag.Bool("update", false, "write the generated files")

func TestEveryCodeIsWhole(t *testing.T) {
	ids := map[string]code.Code{}
	for _, i := range code.All() {
		if i.Code == "" || i.Class == "" || i.Title == "" || i.Meaning == "" || i.Fix == "" {
			t.Errorf("%s: a field is missing: %+v", i.Code, i)
		}
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(i.MessageID) {
			t.Errorf("%s: message id %q is not 32 hex digits", i.Code, i.MessageID)
		}
		if other, taken := ids[i.MessageID]; taken {
			t.Errorf("%s and %s share a message id", i.Code, other)
		}
		ids[i.MessageID] = i.Code
		if i.Status != 0 && i.Class != code.Done && i.Status < 400 {
			t.Errorf("%s: status %d is no refusal", i.Code, i.Status)
		}
		if got, ok := code.Lookup(i.Code); !ok || got != i {
			t.Errorf("%s: Lookup gives %+v", i.Code, got)
		}
	}
}

// The constants are read from the source, so that one without a row is seen.
func TestEveryConstantHasARow(t *testing.T) {
	src, err := os.ReadFile("code.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\t\w+\s+Code = "([a-z0-9-]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(found) != len(code.All()) {
		t.Errorf("%d constants, %d rows", len(found), len(code.All()))
	}
	for _, f := range found {
		if _, ok := code.Lookup(code.Code(f[1])); !ok {
			t.Errorf("%s has no row", f[1])
		}
	}
}

func TestGeneratedFilesAreCurrent(t *testing.T) {
	for name, want := range map[string]string{"CODES.md": code.Markdown(), "cis490.catalog": code.Catalog()} {
		if *update {
			if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is out of date: go test ./src/code -update", name)
		}
	}
	for _, i := range code.All() {
		if strings.Count(code.Catalog(), "-- "+i.MessageID+"\n") != 1 {
			t.Errorf("%s is not once in the catalogue", i.Code)
		}
	}
}

func TestErrorCarriesItsCode(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("sending: %w", code.Wrap(code.Cut, cause, "after %d bytes", 7))
	if c, ok := code.Of(err); !ok || c != code.Cut {
		t.Errorf("Of = %q, %v", c, ok)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
	if err.Error() != "sending: cut: after 7 bytes: cause" {
		t.Error(err)
	}
	if _, ok := code.Of(cause); ok {
		t.Error("a plain error has no code")
	}
	if code.Code("from-the-future").Class() != code.Transient {
		t.Error("an unknown code must be transient: it never sets an episode aside")
	}
}
