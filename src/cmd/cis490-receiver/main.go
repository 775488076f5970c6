// Command cis490-receiver takes in the episodes of the lab hosts, verifies them
// and stores them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/config"
	"cis490/src/durable"
	"cis490/src/ingest"
)

func main() { cli.Main(command()) }

func command() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "cis490-receiver",
		Short: "Receive, verify and store the episodes of lab hosts",
		Args:  cobra.NoArgs,
	}
	cli.ConfigFlag(c, &file, cli.ReceiverConfig)
	c.AddCommand(serveCommand(&file), episodesCommand(&file), hostsCommand(&file), caCommand(&file), reindexCommand(&file), scrubCommand(&file), cli.CheckReceiver(&file))
	return c
}

// operate calls f with a client of the receiver's operator socket, or, when no
// receiver runs, of its store.
func operate(c *cobra.Command, file string, f func(context.Context, *ingest.OperatorClient) error) error {
	cfg, err := config.LoadReceiver(file)
	if err != nil {
		return err
	}
	client, err := ingest.DialOperator(c.Context(), cfg)
	if err != nil {
		return hint(err)
	}
	return errors.Join(f(c.Context(), client), client.Close())
}

// hint says who may do what was denied, and who holds what is locked.
func hint(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run this as the user of cis490-receiver.service, as a member of operator_group, or as root", err)
	case errors.Is(err, durable.ErrLocked):
		return fmt.Errorf("another receiver, or a command that reads the store, has it: systemctl status cis490-receiver (%w)", err)
	}
	return err
}
