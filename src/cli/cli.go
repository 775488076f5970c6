// Package cli is what the programs have in common on the command line: exit
// statuses, signals, --version, --config and check-config.
//
// It promises that 0 means done, 1 failed, 2 wrong usage and 78 a configuration
// that can't be used (EX_CONFIG of sysexits.h; units list it in
// RestartPreventExitStatus=), and that an error is one message on standard
// error that says what to do.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cis490/src/config"
	"cis490/src/version"
)

// Exit statuses.
const (
	OK     = 0
	Failed = 1
	Usage  = 2
	Config = 78
)

// Default paths of the configuration.
const (
	LabHostConfig  = "/etc/cis490/lab-host.hcl"
	ReceiverConfig = "/etc/cis490/receiver.hcl"
)

// ExitError ends the program with Status. Without Err nothing is printed: the
// command has said it all.
type ExitError struct {
	Status int
	Err    error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// UsageErrorf is an error in how the command was called: exit status 2 and a
// hint at --help.
func UsageErrorf(format string, a ...any) error {
	return &ExitError{Usage, fmt.Errorf(format, a...)}
}

// Main runs cmd with the arguments of the process and exits with the status
// that its error stands for. The first SIGINT or SIGTERM ends the context that
// commands get; the second kills.
func Main(cmd *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	status := Execute(ctx, cmd, os.Args[1:])
	stop()
	os.Exit(status)
}

// Execute runs cmd, a root command, with args, prints the error if there is
// one, and returns the exit status.
func Execute(ctx context.Context, cmd *cobra.Command, args []string) int {
	setup(cmd)
	cmd.SetArgs(args)
	ran, err := cmd.ExecuteContextC(ctx)
	return report(ctx, ran, err)
}

// failure is an error that a command itself returned; every other one is cobra's
// about how it was called.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// extra is a command that a build tag adds to every program.
var extra func() *cobra.Command

func setup(root *cobra.Command) {
	root.Version = version.String()
	if extra != nil {
		root.AddCommand(extra())
	}
	root.SilenceErrors, root.SilenceUsage = true, true
	mark(root)
}

// mark has c and its subcommands return their errors as failures.
func mark(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		// Cobra would take a misspelt subcommand for an argument, print the help
		// and call it a success.
		c.Args = cobra.ArbitraryArgs
		c.SuggestionsMinimumDistance = 2
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			msg := fmt.Sprintf("unknown command %q", args[0])
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				msg += fmt.Sprintf(", did you mean %q?", near[0])
			}
			return UsageErrorf("%s", msg)
		}
	}
	for _, f := range []*func(*cobra.Command, []string) error{&c.PersistentPreRunE, &c.PreRunE, &c.RunE, &c.PostRunE, &c.PersistentPostRunE} {
		if run := *f; run != nil {
			*f = func(c *cobra.Command, args []string) error {
				if err := run(c, args); err != nil {
					return failure{err}
				}
				return nil
			}
		}
	}
	for _, sub := range c.Commands() {
		mark(sub)
	}
}

func report(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return OK
	}
	var exit *ExitError
	var bad *config.Error
	w, name := cmd.ErrOrStderr(), cmd.Root().Name()
	if !errors.As(err, new(failure)) && !errors.As(err, &exit) {
		exit = &ExitError{Usage, err}
	}
	switch {
	case exit == nil && errors.As(err, &bad):
		if len(bad.Diags) == 0 {
			fmt.Fprintf(w, "%s: ", name)
		}
		fmt.Fprintf(w, "%s\n", bad.Error())
		return Config
	case exit != nil || errors.As(err, &exit):
		if exit.Err != nil {
			fmt.Fprintf(w, "%s: %v\n", name, exit.Err)
			if exit.Status == Usage {
				fmt.Fprintf(w, "See %s --help\n", cmd.CommandPath())
			}
		}
		return exit.Status
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintf(w, "%s: interrupted\n", name)
		return Failed
	}
	fmt.Fprintf(w, "%s: %v\n", name, err)
	return Failed
}

// ConfigFlag adds --config to cmd and all its subcommands. Without the flag it is
// def, or def.json where only that is there: the one that NixOS writes.
func ConfigFlag(cmd *cobra.Command, path *string, def string) {
	if _, err := os.Stat(def); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(def + ".json"); err == nil {
			def += ".json"
		}
	}
	cmd.PersistentFlags().StringVar(path, "config", def, "configuration `FILE`: HCL, or its JSON syntax if it ends in .json")
	_ = cmd.MarkPersistentFlagFilename("config", "hcl", "json")
}

// CheckLabHost is the command check-config for lab-host.hcl. path is what
// ConfigFlag fills in.
func CheckLabHost(path *string) *cobra.Command {
	return checkConfig(path, config.LabHostExample, func(path string, opts ...config.Option) error {
		_, err := config.LoadLabHost(path, opts...)
		return err
	})
}

// CheckReceiver is the command check-config for receiver.hcl.
func CheckReceiver(path *string) *cobra.Command {
	return checkConfig(path, config.ReceiverExample, func(path string, opts ...config.Option) error {
		_, err := config.LoadReceiver(path, opts...)
		return err
	})
}

func checkConfig(path *string, example func() string, load func(string, ...config.Option) error) *cobra.Command {
	var show, noFiles bool
	c := &cobra.Command{
		Use:   "check-config [FILE]",
		Short: "Check the configuration and name every mistake in it",
		Long: "Check FILE, or the file given by --config, and name every mistake with its line\n" +
			"and what is allowed instead. Exit status 0: it can be used; 78: it can't.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if show {
				_, err := fmt.Fprint(c.OutOrStdout(), example())
				return err
			}
			file := *path
			if len(args) > 0 {
				file = args[0]
			}
			opts := []config.Option{config.Warn(func(text string) { fmt.Fprint(c.ErrOrStderr(), text) })}
			if !noFiles {
				opts = append(opts, config.CheckFiles())
			}
			if err := load(file, opts...); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s: ok\n", file)
			return err
		},
	}
	c.Flags().BoolVar(&show, "example", false, "print a commented example instead")
	c.Flags().BoolVar(&noFiles, "no-files", false, "do not look at the files and groups that it names, as when it is for another machine")
	return c
}

// Count is a number of things for people.
func Count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(n) + " " + many
}
