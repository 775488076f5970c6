// Command cis490-doctor checks a lab host or a receiver: green, yellow and red
// rows, each with its fix.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cis490/src/cli"
	"cis490/src/doctor"
	"cis490/src/health"
)

func main() { cli.Main(command(apart)) }

// flags are the command line's.
type flags struct {
	config         string
	host, receiver bool
	only           []string
	since          time.Duration
	json, strict   bool
	here           bool // look in this process
}

// command is the program; look is how it looks.
func command(look examiner) *cobra.Command {
	var f flags
	var list bool
	c := &cobra.Command{
		Use:   "cis490-doctor",
		Short: "Say what is broken on this lab host or receiver, and how to mend it",
		Long: `Checks what is configured here, a lab host, a receiver, or both, and prints a row
for each thing that it looked at, with the fix for what is not well: green, yellow
(works, but not for long), red (broken), unknown (could not look) or skipped (its
cause is red). The last line is the verdict. It ends within ten seconds whatever
hangs, needs neither root nor the network, and changes nothing; what it could not
see without root it says.

Exit status: 0 no row is red; 1 one is; 2 the doctor itself failed. With --json
standard output is exactly one document, with "schema": 1, whatever happens.`,
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return f.fail(c.OutOrStdout(), fmt.Errorf("unknown command %q: see cis490-doctor --help", args[0]))
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if list {
			return doctor.PrintList(c.OutOrStdout(), doctor.Checks(f.options()))
		}
		r, err := f.examine(c, look)
		if err != nil {
			return f.fail(c.OutOrStdout(), err)
		}
		return f.show(c.OutOrStdout(), r)
	}
	c.SetFlagErrorFunc(f.badFlag)
	p := c.PersistentFlags()
	p.StringVar(&f.config, "config", "", "configuration `FILE`, of a lab host or a receiver (default: those in /etc/cis490)")
	p.BoolVar(&f.host, "host", false, "check the lab host, whatever else is configured")
	p.BoolVar(&f.receiver, "receiver", false, "check the receiver, whatever else is configured")
	p.DurationVar(&f.since, "since", 10*time.Minute, "how far back the journal is read")
	c.Flags().StringSliceVar(&f.only, "only", nil, "only the rows with these `ID`s; see --list")
	c.Flags().BoolVar(&f.json, "json", false, "one JSON document on standard output")
	c.Flags().BoolVar(&f.strict, "strict", false, "yellow counts as red for the exit status")
	c.Flags().BoolVar(&list, "list", false, "list what is looked at, and look at nothing")
	c.Flags().BoolVar(&f.here, "here", false, "look in this process, which a disk that hangs may keep from ending")
	_ = c.Flags().MarkHidden("here")
	_ = c.MarkPersistentFlagFilename("config", "hcl", "json")
	c.AddCommand(reportCommand(&f, look))
	return c
}

// show writes the report and makes the exit status of it.
func (f *flags) show(out io.Writer, r health.Report) error {
	var err error
	if f.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		file, ok := out.(*os.File)
		err = doctor.Print(out, r, ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
	}
	if err != nil {
		return &cli.ExitError{Status: health.ExitFailed, Err: fmt.Errorf("write the report: %w", err)}
	}
	if status := r.Exit(f.strict); status != health.ExitWell {
		return &cli.ExitError{Status: status}
	}
	return nil
}
