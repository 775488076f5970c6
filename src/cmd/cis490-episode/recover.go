package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"cis490/src/bag"
	"cis490/src/cli"
	"cis490/src/config"
	"cis490/src/episode"
)

func recoverCommand(file *string) *cobra.Command {
	var into string
	c := &cobra.Command{
		Use:   "recover",
		Short: "Finish or undo sealings that a crash or a power cut left in open/",
		Long: "Finish or undo the sealings whose process died: a copy is taken back, for its source is where it was;\n" +
			"a move goes on from where it stopped. Sealings that still run are left alone. Each cis490-episode seal does\n" +
			"the same first, so this is for a host on which nobody seals any more. The exit status is 1 when one of them\n" +
			"could not be finished; its files stay where they are.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir := into
			if dir == "" {
				cfg, err := config.LoadLabHost(*file)
				if errors.Is(err, fs.ErrNotExist) {
					return noDataDir(*file)
				} else if err != nil {
					return err
				}
				dir = cfg.DataDir
			}
			recovered, err := episode.Recover(c.Context(), dir)
			for _, r := range recovered {
				fmt.Fprintln(c.OutOrStdout(), cutOff(r))
			}
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w\nRun this as a user who may write to the data directory", err)
			}
			if err == nil && len(recovered) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "nothing was cut off")
			}
			return err
		},
	}
	c.Flags().StringVar(&into, "into", "", "data `DIRECTORY` that they were to go into (default: data_dir of the configuration)")
	return c
}

// cutOff puts what became of a sealing that died into words.
func cutOff(r episode.Recovered) string {
	if r.Sealed {
		return fmt.Sprintf("the move of %s that was cut off is finished: %s", bag.Quote(r.Source), r.Dir)
	}
	return fmt.Sprintf("a copy of %s that was cut off is taken back; it is still where it was", bag.Quote(r.Source))
}

func noDataDir(file string) error {
	return cli.UsageErrorf("there is no configuration at %s that names the data directory: give --into DIRECTORY", file)
}
