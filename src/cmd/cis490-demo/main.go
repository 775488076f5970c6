// Command cis490-demo is the whole system on loopback in a temporary folder: a
// receiver, a lab host, real directories, and a table at the end that says
// what was sealed, acknowledged and stored, and whether it is equal.
package main

import (
	"github.com/spf13/cobra"

	"cis490/src/cli"
)

func main() {
	var o options
	cmd := &cobra.Command{
		Use:   "cis490-demo",
		Short: "Watch real directories being sealed, shipped, verified and stored, in a temporary folder",
		Long: "cis490-demo runs a receiver and a shipper on loopback, in a temporary folder, with nothing to configure.\n" +
			"It seals real directories while you watch, unpacks what was stored and compares it with its source.\n" +
			"Nothing outside the folder is changed, and the folder is removed at the end unless --keep is given.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.out = cmd.OutOrStdout()
			return run(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.keep, "keep", false, "stay up at the end and print what to try next; the folder stays too")
	cmd.Flags().StringVar(&o.dir, "dir", "", "folder to work in, which must be empty or absent (default: a temporary one)")
	cmd.Flags().StringVar(&o.tree, "tree", "", "directory with many files to ship (default: the Go tree, /usr/share/doc or /etc)")
	cmd.Flags().Int64Var(&o.bigMiB, "big", 1024, "size in MiB of the big file that is made and shipped")
	cli.Main(cmd)
}
