package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/episode"
	"cis490/src/hosts"
	"cis490/src/ingest"
	"cis490/src/state"
)

func hostsCommand(file *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "hosts",
		Short: "The lab hosts that may send episodes",
	}
	c.AddCommand(hostsList(file), hostsAllow(file), hostsRevoke(file))
	return c
}

func hostsList(file *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the hosts, how they are, their keys, and what they have stored",
		Long: `Lists the hosts. VERDICT is what each last said of itself: green, yellow or red; silent when it
was not heard of for much longer than it had said, unknown when it has not reported yet. SEEN is
its last request, WAITING its queue with the age of the first episode, SKEW the receiver's clock
minus its own. Below stands what is not green, and the line that mends it on that host.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				list, err := o.Hosts(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					enc := json.NewEncoder(c.OutOrStdout())
					enc.SetIndent("", "  ")
					return enc.Encode(list)
				}
				if len(list) == 0 {
					fmt.Fprintln(c.OutOrStdout(), "No host may send episodes yet. Add a host block to receiver.hcl, or: cis490-receiver hosts allow NAME KEY")
					return nil
				}
				return printHosts(c.OutOrStdout(), list, time.Now())
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document on standard output")
	return c
}

// maxRows is how much of what is not green is shown of one host; --json has it all.
const maxRows = 5

// printHosts writes the list for people. What a host says of itself went through wire.Report.Clean: it does nothing to a terminal.
func printHosts(out io.Writer, list []hosts.Summary, now time.Time) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tSTATE\tVERDICT\tSEEN\tWAITING\tSKEW\tVERSION\tEPISODES\tSTORED\tLAST\tKEY")
	for _, h := range list {
		access, verdict, last := h.Source, string(h.Verdict), "never"
		if h.Revoked {
			access, verdict = "revoked", "-"
		}
		if !h.LastStored.IsZero() {
			last = h.LastStored.UTC().Format(time.DateTime)
		}
		seen, waiting, skew, version := "never", "-", "-", "-"
		if !h.SeenAt.IsZero() {
			seen = state.Span(max(now.Sub(h.SeenAt), 0)) + " ago"
		}
		if r := h.Report; r != nil {
			waiting, version = fmt.Sprint(r.Queue.Waiting+r.Queue.InFlight), orDash(r.Version)
			if r.Queue.OldestAge > 0 {
				waiting += ", " + state.Span(time.Duration(r.Queue.OldestAge)*time.Second)
			}
			if r.Skew != nil {
				skew = fmt.Sprintf("%+.1f s", *r.Skew)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", h.Name, access, verdict, seen, waiting, skew, version, h.Episodes, humanize.IBytes(uint64(h.Bytes)), last, h.Key)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	said := ""
	for _, h := range list {
		if h.Revoked || h.Report == nil || h.Name == said {
			continue // one host may have several keys
		}
		said = h.Name
		for i, r := range h.Report.Rows {
			if i == maxRows {
				fmt.Fprintf(&b, "\n%s: and %d more\n", h.Name, len(h.Report.Rows)-i)
				break
			}
			fmt.Fprintf(&b, "\n%s  %s  %s  %s\n", h.Name, r.Status, r.ID, r.Title)
			if r.Fix != "" {
				fmt.Fprintf(&b, "    fix, on %s: %s\n", h.Name, r.Fix)
			}
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func hostsAllow(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "allow NAME KEY",
		Short: "Let a key speak for a host, from its next request on",
		Long: `Lets KEY (sha256:…, as "cis490-shipper status" shows it on the host) speak for the
host NAME. A host may have several keys, a key belongs to one host.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if !episode.ValidHost(args[0]) {
				return cli.UsageErrorf("%q is not a host name: it must match [a-z0-9-]{1,63}", args[0])
			}
			key, err := hosts.ParseKey(args[1])
			if err != nil {
				return cli.UsageErrorf("%v", err)
			}
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				if err := o.Allow(ctx, args[0], key); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s may send episodes with the key %s.\n", args[0], key)
				return nil
			})
		},
	}
}

func hostsRevoke(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "Refuse all keys of a host, from its next request on",
		Long: `Refuses all keys of the host NAME, also those that receiver.hcl declares. What it has
stored stays. The host is told host-revoked and holds its queue.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !episode.ValidHost(args[0]) {
				return cli.UsageErrorf("%q is not a host name: it must match [a-z0-9-]{1,63}", args[0])
			}
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				n, err := o.Revoke(ctx, args[0])
				if err != nil {
					return err
				}
				what := fmt.Sprintf("Revoked %d keys of %s", n, args[0])
				switch n {
				case 0:
					what = args[0] + " was revoked already"
				case 1:
					what = "Revoked the key of " + args[0]
				}
				fmt.Fprintf(c.OutOrStdout(), "%s. To undo it: cis490-receiver hosts allow %s KEY\n", what, args[0])
				return nil
			})
		},
	}
}
