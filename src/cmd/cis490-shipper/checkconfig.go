package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cis490/src/config"
)

func checkConfigCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "check-config",
		Short: "Check the configuration and the files that it names",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.LoadLabHost(*file, config.CheckFiles())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: good: host %s ships %s to %s\n", *file, cfg.Host, cfg.DataDir, cfg.Receiver.URL)
			return nil
		},
	}
}
