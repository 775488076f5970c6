package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cis490/src/cli"
	"cis490/src/durable"
	"cis490/src/pack"
)

func packCommand() *cobra.Command {
	var to, level string
	c := &cobra.Command{
		Use:   "pack BAG",
		Short: "Write an episode as one archive, as it travels and is stored",
		Long: "Write the episode BAG as one archive: a tar stream in zstd frames with a seek table, as it is sent and stored.\n" +
			"zstd -d | tar x unpacks it too, without modification times, x bits and empty directories, which unpack brings back.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := pack.ParseLevel(level)
			if err != nil {
				return cli.UsageErrorf("--compression: %v", err)
			}
			plan, err := pack.NewPlan(args[0])
			if err != nil {
				return err
			}
			defer plan.Close()
			p := pack.NewPacker(pack.Options{Level: l})
			if to == "-" {
				if f, ok := c.OutOrStdout().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
					return cli.UsageErrorf("an archive would disturb the terminal: give -o FILE, or send standard output somewhere")
				}
				return pack.Write(c.Context(), c.OutOrStdout(), plan, p)
			}
			if to == "" {
				to = plan.Facts().ID.String() + ".tar.zst"
			}
			n, err := writeArchive(c.Context(), to, plan, p)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "packed %s: %s in %s, as %s\n", plan.Facts().ID, size(plan.Facts().Size), size(n), to)
			return err
		},
	}
	c.Flags().StringVarP(&to, "output", "o", "", "`FILE` to write, or - for standard output (default: the episode's id with .tar.zst)")
	c.Flags().StringVar(&level, "compression", "default", "`LEVEL`: raw, fastest, default, or auto for whatever is fastest")
	return c
}

// writeArchive writes the file under another name first: a whole archive is there, or none. A file that is there already is not touched.
func writeArchive(ctx context.Context, to string, plan *pack.Plan, p *pack.Packer) (n int64, err error) {
	if _, err := os.Lstat(to); err == nil {
		return 0, fmt.Errorf("%s is there already: remove it, or give another -o FILE", to)
	}
	f, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".tmp-*")
	if err != nil {
		return 0, err
	}
	defer func() {
		f.Close()
		os.Remove(f.Name()) // also once it has its name: the link is another
	}()
	if err := pack.Write(ctx, f, plan, p); err != nil {
		return 0, err
	}
	// CreateTemp's files are for their owner alone; this one is for whom the umask says.
	if err := f.Chmod(0o666 &^ umask()); err != nil {
		return 0, err
	}
	if n, err = f.Seek(0, io.SeekEnd); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := os.Link(f.Name(), to); errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("%s is there already: remove it, or give another -o FILE", to)
	} else if err != nil { // a file system without hard links
		if err := os.Rename(f.Name(), to); err != nil {
			return 0, err
		}
	}
	return n, durable.SyncDir(filepath.Dir(to))
}
