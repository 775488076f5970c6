// Package layout holds the conventions of this source tree by tests.
package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const module = "cis490/src/"

// roles are the packages that do one unit's job. Everything else beside cmd is a noun.
var roles = map[string]bool{"ship": true, "ingest": true, "orchestrate": true, "bootstrap": true, "doctor": true}

type file struct {
	path, pkg string // slash separated, below src
	ast       *ast.File
	lines     int
	test      bool
}

func sources(t *testing.T) []file {
	t.Helper()
	var out []file
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "testdata" {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, file{filepath.ToSlash(p), filepath.ToSlash(filepath.Dir(p)), f, fset.Position(f.End()).Line, strings.HasSuffix(p, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("found only %d files: the walk is broken", len(out))
	}
	return out
}

func TestImportsGoOneWay(t *testing.T) {
	for _, f := range sources(t) {
		if f.test {
			continue // a test may bring two roles together
		}
		for _, i := range f.ast.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			to, ours := strings.CutPrefix(path, module)
			if !ours {
				continue
			}
			switch from := f.pkg; {
			case strings.HasPrefix(to, "cmd/"):
				t.Errorf("%s imports %s: nothing imports a program", f.path, to)
			case strings.HasPrefix(from, "cmd/"):
			case roles[to]:
				t.Errorf("%s imports %s: only programs import roles", f.path, to)
			case to == "cli":
				t.Errorf("%s imports cli: only programs do", f.path)
			}
		}
	}
}

func TestMainsAreShort(t *testing.T) {
	n := 0
	for _, f := range sources(t) {
		if strings.HasPrefix(f.pkg, "cmd/") && filepath.Base(f.path) == "main.go" {
			n++
			if f.lines > 100 {
				t.Errorf("%s has %d lines; a main has at most 100", f.path, f.lines)
			}
		}
	}
	if n == 0 {
		t.Error("no main.go found")
	}
}

func TestPackagesSayWhatTheyPromise(t *testing.T) {
	said := map[string]bool{}
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		said[f.pkg] = said[f.pkg] || f.ast.Doc != nil
	}
	for pkg, ok := range said {
		if !ok {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

func TestEveryDependencyHasItsReason(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	direct := regexp.MustCompile(`(?m)^\s*(?:require )?([a-z0-9.]+\.[a-z]+/\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1)
	if len(direct) == 0 {
		t.Fatal("no direct dependency found in go.mod")
	}
	for _, d := range direct {
		if !strings.Contains(string(readme), "`"+d[1]+"`") {
			t.Errorf("README.md's table of dependencies lacks `%s`", d[1])
		}
	}
	if !regexp.MustCompile(`(?m)^go 1\.26\.0$`).Match(mod) || regexp.MustCompile(`(?m)^toolchain`).Match(mod) {
		t.Error("go.mod must say go 1.26.0 and no toolchain")
	}
}

// Alert rules and dashboard ask for figures that the programs give.
func TestAlertsUseMetricsThatExist(t *testing.T) {
	var programs strings.Builder
	for _, p := range []string{"ship/figures.go", "ingest/state.go", "ingest/fleet.go"} {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		programs.Write(b)
	}
	known := regexp.MustCompile("[\"`](cis490_[a-z_]+)").FindAllStringSubmatch(programs.String(), -1)
	exists := map[string]bool{}
	for _, m := range known {
		exists[m[1]] = true
	}
	for _, p := range []string{"../modules/alerts.yaml", "../modules/dashboard.json"} {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		used := regexp.MustCompile(`cis490_[a-z_]+`).FindAllString(string(b), -1)
		if len(used) < 5 {
			t.Errorf("%s names only %d figures", p, len(used))
		}
		for _, name := range used {
			if base := strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count"); !exists[base] && !exists[name] {
				t.Errorf("%s names %s, which no program gives", p, name)
			}
		}
	}
}
