package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/doctor"
	"cis490/src/health"
	"cis490/src/version"
)

// file is def, or def.json where only that is there: the one that NixOS writes.
func file(def string) string {
	if _, err := os.Stat(def); err != nil {
		if _, err := os.Stat(def + ".json"); err == nil {
			return def + ".json"
		}
	}
	return def
}

// options says what is checked.
func (f *flags) options() doctor.Options {
	host, receiver := file(cli.LabHostConfig), file(cli.ReceiverConfig)
	if f.config != "" {
		host, receiver = f.config, f.config
	}
	var o doctor.Options
	switch {
	case f.host:
		o.Host = host
	case f.receiver:
		o.Receiver = receiver
	default:
		o = doctor.Configured(f.config, host, receiver)
	}
	o.Since = f.since
	return o
}

// examiner looks at what is asked for.
type examiner func(ctx context.Context, f *flags) (health.Report, error)

// here looks in this process.
func here(checks func(doctor.Options) []doctor.Check) examiner {
	return func(ctx context.Context, f *flags) (health.Report, error) {
		o := f.options()
		run, shown, err := doctor.Select(checks(o), f.only)
		if err != nil {
			return health.Report{}, err
		}
		return doctor.Run(ctx, o.Role(), run, shown), nil
	}
}

// apart looks in another process, which may hang for good: see doctor.Apart.
func apart(ctx context.Context, f *flags) (health.Report, error) {
	if f.here {
		return here(doctor.Checks)(ctx, f)
	}
	args := []string{"--here", "--json", "--since=" + f.since.String(), "--config=" + f.config}
	for name, on := range map[string]bool{"--host": f.host, "--receiver": f.receiver} {
		if on {
			args = append(args, name)
		}
	}
	for _, id := range f.only {
		args = append(args, "--only="+id)
	}
	self, err := os.Executable()
	if err != nil {
		return health.Report{}, err
	}
	return doctor.Apart(ctx, self, args...)
}

// examine has the examiner look at what makes sense.
func (f *flags) examine(c *cobra.Command, look examiner) (health.Report, error) {
	if f.host && f.receiver {
		return health.Report{}, errors.New("--host or --receiver: without both, all that is configured is checked")
	}
	if f.since <= 0 {
		return health.Report{}, fmt.Errorf("--since %s: give a duration above 0, such as 10m", f.since)
	}
	return look(c.Context(), f)
}

// fail reports that the doctor itself failed, as the document where one is asked
// for.
func (f *flags) fail(out io.Writer, err error) error {
	if f.json {
		r := health.Report{Version: version.String(), At: time.Now().UTC().Round(0), Error: err.Error()}
		r.Finish()
		return f.show(out, r)
	}
	return &cli.ExitError{Status: health.ExitFailed, Err: err}
}

// badFlag is fail for a command line that can't be parsed; --json may stand behind
// what can't.
func (f *flags) badFlag(c *cobra.Command, err error) error {
	f.json = f.json || asksForJSON(os.Args[1:])
	return f.fail(c.OutOrStdout(), err)
}

// asksForJSON looks for --json among arguments that could not be parsed.
func asksForJSON(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == "--json" || strings.HasPrefix(a, "--json=") && a != "--json=false" })
}

func reportCommand(f *flags, look examiner) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "report",
		Short: "Write a bundle for somebody who is to help, redacted, into a file",
		Long: `Examines as without a command and writes what was found, the configuration, the
state files, the units and the last warnings of the journal into a tar.gz file. Names
of hosts, addresses, keys and tokens are taken out. Nothing is sent anywhere: look
into the file before you pass it on.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := f.examine(c, look)
			if err == nil {
				if out == "" {
					out = "cis490-doctor-" + time.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
				}
				err = doctor.Bundle(c.Context(), f.options(), r, out)
			}
			if err != nil {
				return &cli.ExitError{Status: health.ExitFailed, Err: err}
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", out, r.Summary)
			return err
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "the `FILE`, which must not be there yet (default: cis490-doctor-TIME.tar.gz here)")
	return c
}
