package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cis490/src/catalog"
	"cis490/src/cli"
	"cis490/src/episode"
	"cis490/src/ingest"
)

func episodesCommand(file *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "episodes",
		Short: "The stored episodes",
	}
	c.AddCommand(episodesList(file), episodesShow(file), episodesFiles(file), episodesVerify(file), episodesExtract(file))
	return c
}

// parseIDs reads the ids of a command line.
func parseIDs(args []string) ([]episode.ID, error) {
	var ids []episode.ID
	for _, a := range args {
		id, err := episode.ParseID(a)
		if err != nil {
			return nil, cli.UsageErrorf("%v; see: cis490-receiver episodes list", err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func episodesList(file *string) *cobra.Command {
	var asJSON bool
	var f catalog.Filter
	var from, to string
	c := &cobra.Command{
		Use:   "list",
		Short: "List stored episodes, the one that started last first",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if f.Host != "" && !episode.ValidHost(f.Host) {
				return cli.UsageErrorf("--host %q is not a host name", f.Host)
			}
			if f.From, err = parseTime(from); err != nil {
				return cli.UsageErrorf("--from: %v", err)
			}
			if f.To, err = parseTime(to); err != nil {
				return cli.UsageErrorf("--to: %v", err)
			}
			if f.Limit < 0 {
				return cli.UsageErrorf("--limit %d is not a count", f.Limit)
			}
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				if asJSON {
					enc := json.NewEncoder(c.OutOrStdout())
					return o.Episodes(ctx, f, func(e ingest.OperatorEpisode) error { return enc.Encode(e) })
				}
				return listTable(ctx, c.OutOrStdout(), o, f)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document per line and episode")
	c.Flags().StringVar(&f.Host, "host", "", "only of the host `NAME`")
	c.Flags().StringVar(&from, "from", "", "only started at or after `TIME`: 2026-01-31, or RFC 3339")
	c.Flags().StringVar(&to, "to", "", "only started before `TIME`")
	c.Flags().StringVar(&f.Outcome, "outcome", "", "only of that outcome: complete, failed or truncated")
	c.Flags().StringVar(&f.Workload, "workload", "", "only of the workload `NAME`")
	c.Flags().IntVar(&f.Limit, "limit", 0, "at most so many; 0: all")
	return c
}

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither a day (2026-01-31) nor an RFC 3339 time (2026-01-31T12:00:00Z)", s)
	}
	return t, nil
}

// listTable prints in portions, so that a long list begins at once.
func listTable(ctx context.Context, out io.Writer, o *ingest.OperatorClient, f catalog.Filter) error {
	const portion = 500
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "EPISODE\tHOST\tSTARTED (UTC)\tTOOK\tOUTCOME\tFILES\tPAYLOAD\tARCHIVE\tWORKLOAD")
	var n, size, archive int64
	err := o.Episodes(ctx, f, func(e ingest.OperatorEpisode) error {
		n, size, archive = n+1, size+e.Size, archive+e.Receipt.ArchiveSize
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", e.Receipt.Episode, e.Receipt.Host, e.Started.UTC().Format(time.DateTime), e.Ended.Sub(e.Started),
			e.Outcome, e.Files, bytesText(e.Size), bytesText(e.Receipt.ArchiveSize), printable(e.Workload))
		if n%portion == 0 {
			return w.Flush()
		}
		return nil
	})
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s, payload %s, stored as %s\n", cli.Count(int64(n), "episode", "episodes"), bytesText(size), bytesText(archive))
	return err
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// printable keeps what a host sent from driving the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func episodesShow(file *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show the receipt and the run.json of a stored episode",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				e, err := o.Episode(ctx, ids[0])
				if err != nil {
					return err
				}
				out := c.OutOrStdout()
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				if asJSON {
					return enc.Encode(e)
				}
				w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
				state := "sound when last read, " + e.Checked.UTC().Format(time.RFC3339)
				if e.Damaged != "" {
					state = "damaged " + printable(e.Damaged)
				}
				for _, kv := range [][2]string{
					{"episode", e.Receipt.Episode.String()}, {"host", e.Receipt.Host}, {"bag digest", e.Receipt.BagDigest.String()},
					{"outcome", e.Outcome}, {"started", e.Started.UTC().Format(time.RFC3339)}, {"ended", e.Ended.UTC().Format(time.RFC3339)},
					{"payload", fmt.Sprintf("%s (%d bytes) in %s", bytesText(e.Size), e.Size, cli.Count(int64(e.Files), "file", "files"))},
					{"archive", fmt.Sprintf("%s (%d bytes)", e.Archive, e.Receipt.ArchiveSize)},
					{"stored", fmt.Sprintf("%s by version %s, window %s", e.Receipt.StoredAt.UTC().Format(time.RFC3339), e.Receipt.ReceiverVersion, e.Receipt.WindowID)},
					{"copy", state},
				} {
					fmt.Fprintf(w, "%s\t%s\n", kv[0], kv[1])
				}
				if err := w.Flush(); err != nil {
					return err
				}
				fmt.Fprint(out, "run.json ")
				return enc.Encode(e.Run) // JSON has no control characters left
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document on standard output")
	return c
}

func episodesVerify(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "verify ID…",
		Short: "Read stored episodes anew and check every digest in them",
		Long: `Reads each archive from the disk, unpacks it in memory and checks every digest up to
the bag digest of the receipt. Exit status 1 if one of them is not sound.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				bad := 0
				for _, id := range ids {
					s, err := o.Verify(ctx, id, func(int64) {})
					if err != nil {
						bad++
						fmt.Fprintf(c.OutOrStdout(), "%s  BAD: %s\n", id, printable(err.Error()))
						continue
					}
					fmt.Fprintf(c.OutOrStdout(), "%s  sound: %s, %s\n", id, cli.Count(int64(s.Files), "file", "files"), bytesText(s.Bytes))
				}
				if bad > 0 {
					return fmt.Errorf("%d of %d episodes are not sound", bad, len(ids))
				}
				return nil
			})
		},
	}
}
