package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/ingest"
)

func reindexCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "reindex",
		Short: "Rebuild the catalogue from the store",
		Long: `Reads the small file beside every archive and makes the catalogue list exactly what
is there. The receiver may go on meanwhile. Exit status 1 if an episode is missing
or not whole.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				r, err := o.Reindex(ctx, func(n int64) { fmt.Fprintf(c.ErrOrStderr(), "%d episodes so far\n", n) })
				if err != nil {
					return err
				}
				for _, f := range r.Faults {
					fmt.Fprintln(c.OutOrStdout(), printable(f))
				}
				fmt.Fprintf(c.OutOrStdout(), "%s: %d added, %d changed, %d missing, %d damaged\n", cli.Count(r.Episodes, "episode", "episodes"), r.Added, r.Changed, r.Missing, r.Damaged)
				if r.Missing+r.Damaged > 0 {
					return errors.New("the store is not whole; see above")
				}
				return nil
			})
		},
	}
}
