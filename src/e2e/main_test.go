package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bin is where the programs are, built as the README says.
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// atOnce is how many tests run at a time: most of them wait for something most of the time.
const atOnce = "8"

func run(m *testing.M) int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", atOnce)
	}
	dir, err := os.MkdirTemp("", "cis490-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	args := []string{"build", "-o", dir}
	// What the programs do counts as covered too. "go test -cover" has a GOCOVERDIR of its own, so it has another name here.
	if cover := os.Getenv("CIS490_E2E_COVERDIR"); cover != "" {
		args = append(args, "-cover", "-coverpkg=cis490/src/...")
		os.Setenv("GOCOVERDIR", cover)
	}
	build := exec.Command("go", append(args, "cis490/src/cmd/cis490-episode", "cis490/src/cmd/cis490-shipper", "cis490/src/cmd/cis490-receiver", "cis490/src/cmd/cis490-doctor")...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func program(name string) string { return filepath.Join(bin, name) }
