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
	"os"
	"os/signal"
	"syscall"

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

// Execute runs cmd with args and returns the exit status.
func Execute(ctx context.Context, cmd *cobra.Command, args []string) int {
	Setup(cmd)
	cmd.SetArgs(args)
	ran, err := cmd.ExecuteContextC(ctx)
	return Report(ran, err)
}

// Setup gives cmd, the root, --version and makes flag errors usage errors.
func Setup(cmd *cobra.Command) {
	cmd.Version = version.String()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &ExitError{Usage, err} })
}

// Report prints err, which cmd returned, and gives its exit status.
func Report(cmd *cobra.Command, err error) int {
	var exit *ExitError
	var bad *config.Error
	switch {
	case err == nil:
		return OK
	case errors.As(err, &bad):
		fmt.Fprint(cmd.ErrOrStderr(), bad.Error())
		return Config
	case errors.As(err, &exit):
		if exit.Err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", cmd.Root().Name(), exit.Err)
			if exit.Status == Usage {
				fmt.Fprintf(cmd.ErrOrStderr(), "See %s --help\n", cmd.CommandPath())
			}
		}
		return exit.Status
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", cmd.Root().Name(), err)
	return Failed
}

// ConfigFlag adds --config to cmd and all its subcommands.
func ConfigFlag(cmd *cobra.Command, path *string, def string) {
	cmd.PersistentFlags().StringVar(path, "config", def, "configuration `FILE`: HCL, or its JSON syntax if it ends in .json")
}
