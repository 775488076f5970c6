package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

// tool is a program like those of this project.
func tool() *cobra.Command {
	var conf string
	root := &cobra.Command{Use: "tool", Short: "A program"}
	ConfigFlag(root, &conf, LabHostConfig)
	rec := &cobra.Command{Use: "receiver", Short: "The other side"}
	rec.AddCommand(CheckReceiver(&conf))
	list := &cobra.Command{Use: "list ID...", Short: "List", Args: cobra.MinimumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		switch args[0] {
		case "none":
			return fmt.Errorf("episode %s: %w", args[0], os.ErrNotExist)
		case "quiet":
			return &ExitError{Status: 3}
		case "usage":
			return UsageErrorf("%q is not an id", args[0])
		case "interrupt":
			return fmt.Errorf("ship: %w", context.Canceled)
		}
		fmt.Fprintln(c.OutOrStdout(), "listed", args[0], conf)
		return nil
	}}
	var must string
	need := &cobra.Command{Use: "need", Short: "Needs a flag", RunE: func(*cobra.Command, []string) error { return nil }}
	need.Flags().StringVar(&must, "must", "", "has to be given")
	need.MarkFlagRequired("must")
	root.AddCommand(CheckLabHost(&conf), rec, list, need)
	return root
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tool": func() { Main(tool()) }})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"status": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Setenv("STATUS", args[0])
			err := ts.Exec(args[1], args[2:]...)
			var exit interface{ ExitCode() int }
			got := "0"
			if errors.As(err, &exit) {
				got = fmt.Sprint(exit.ExitCode())
			}
			if got != args[0] {
				ts.Fatalf("exit status %s, want %s", got, args[0])
			}
		},
	}})
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := Execute(ctx, tool(), []string{"list", "interrupt"}); got != Failed {
		t.Error(got)
	}
}

// On NixOS the configuration is /etc/cis490/lab-host.hcl.json.
func TestDefaultConfig(t *testing.T) {
	def := t.TempDir() + "/lab-host.hcl"
	given := func() string {
		var path string
		ConfigFlag(&cobra.Command{}, &path, def)
		return path
	}
	for _, step := range []struct{ make, want string }{{"", def}, {def + ".json", def + ".json"}, {def, def}} {
		if step.make != "" {
			if err := os.WriteFile(step.make, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := given(); got != step.want {
			t.Errorf("%s, want %s", got, step.want)
		}
	}
}
