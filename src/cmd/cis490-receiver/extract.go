package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/episode"
	"cis490/src/ingest"
	"cis490/src/pack"
)

func episodesFiles(file *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "files ID [PATH]",
		Short: "List the files of a stored episode, or those below PATH",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := parseIDs(args[:1])
			if err != nil {
				return err
			}
			below := strings.TrimSuffix(append(args, "")[1], "/")
			match := func(p string) bool {
				rest, ok := strings.CutPrefix(p, below)
				return ok && (below == "" || rest == "" || rest[0] == '/')
			}
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				a, err := o.Files(ctx, ids[0])
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
				enc := json.NewEncoder(c.OutOrStdout())
				var n, size int64
				err = a.Walk(match, func(f *pack.File) error {
					n, size = n+1, size+f.Size
					if asJSON {
						return enc.Encode(map[string]any{"path": f.Path, "size_bytes": f.Size, "sha256": hex.EncodeToString(f.Sum)})
					}
					fmt.Fprintf(w, "%s\t  %s\n", bytesText(f.Size), printable(f.Path))
					if n%500 == 0 {
						return w.Flush()
					}
					return nil
				})
				if err = errors.Join(err, w.Flush()); err != nil || asJSON {
					return err
				}
				if n == 0 {
					_, err := a.Open(below)
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "%s, %s\n", cli.Count(int64(n), "file", "files"), bytesText(size))
				return err
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document per line and file")
	return c
}

func episodesExtract(file *string) *cobra.Command {
	var into string
	c := &cobra.Command{
		Use:   "extract ID… --into DIR | extract ID PATH [--into FILE|DIR|-]",
		Short: "Unpack stored episodes, or one file or directory of one, verified",
		Long: `With ids alone, unpacks each episode into DIR/ID.

With a PATH of "cis490-receiver episodes files ID", takes only that file or directory, without
unpacking the rest: into FILE, below a directory that is there, or, a file, to
standard output. What is written is compared with the episode's manifest: a file or directory gets its
name only once it is right; of a file on standard output the last bytes are missing
otherwise, and the exit status is 1.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil && len(args) == 2 {
				if ids, err = parseIDs(args[:1]); err == nil {
					return extractPath(c, *file, ids[0], args[1], into)
				}
			}
			if err != nil {
				return err
			}
			if into == "" {
				return cli.UsageErrorf("say where to: --into DIR")
			}
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				for _, id := range ids {
					dir, err := extract(ctx, o, id, into)
					if err != nil {
						return fmt.Errorf("extract episode %s: %w", id, err)
					}
					fmt.Fprintln(c.OutOrStdout(), dir)
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&into, "into", "", "where to: the directory `DIR` that the episodes are unpacked into; with a PATH, the name it gets, or - for standard output")
	return c
}

// extract unpacks here, as the user who asks: the receiver writes nothing outside
// its own directories.
func extract(ctx context.Context, o *ingest.OperatorClient, id episode.ID, into string) (string, error) {
	archive, _, err := o.Archive(ctx, id)
	if err != nil {
		return "", err
	}
	defer archive.Close()
	return pack.Extract(ctx, archive, into)
}

func extractPath(c *cobra.Command, file string, id episode.ID, name, into string) error {
	return operate(c, file, func(ctx context.Context, o *ingest.OperatorClient) error {
		a, err := o.Files(ctx, id)
		if err != nil {
			return err
		}
		if into == "" || into == "-" {
			f, err := a.Open(name)
			if err != nil {
				for e, ferr := range a.Files() {
					if ferr == nil && strings.HasPrefix(e.Path, strings.TrimSuffix(name, "/")+"/") {
						return cli.UsageErrorf("%s is a directory; say where to: --into DIR", name)
					}
				}
				return err
			}
			defer f.Close()
			if _, err := io.Copy(c.OutOrStdout(), f); err != nil {
				return fmt.Errorf("extract %s: what was written is not to be used: %w", name, err)
			}
			return nil
		}
		if fi, err := os.Stat(into); err == nil && fi.IsDir() {
			into = filepath.Join(into, path.Base(name))
		}
		out, err := a.Extract(ctx, name, into)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s  %s, %s, verified\n", into, cli.Count(int64(out.Files), "file", "files"), bytesText(out.Bytes))
		return err
	})
}
