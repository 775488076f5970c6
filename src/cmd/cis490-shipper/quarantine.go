package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/queue"
	"cis490/src/ship"
	"cis490/src/state"
)

func quarantineCommand(file *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "quarantine",
		Short: "See, put back or remove what was set aside",
		Args:  cobra.NoArgs,
	}
	load := func() (config.LabHost, *queue.Queue, error) {
		cfg, err := config.LoadLabHost(*file)
		if err != nil {
			return cfg, nil, err
		}
		// Its absence is a mistake, not a reason to make it.
		if _, err := os.Stat(cfg.DataDir); err != nil {
			return cfg, nil, hint(err)
		}
		q, err := queue.Open(cfg.DataDir)
		if err != nil {
			return cfg, nil, hint(err)
		}
		return cfg, q, nil
	}
	c.AddCommand(quarantineList(load), quarantineShow(load), quarantineRequeue(load), quarantineRemove(load))
	return c
}

type loader func() (config.LabHost, *queue.Queue, error)

// poke tells a running shipper that something changed.
func poke(ctx context.Context, cfg config.LabHost) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	// Without it the next scan pass notices.
	_, _ = ship.NewControl(cfg.RunDir).Push(ctx)
}

func quarantineList(load loader) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List what is in quarantine, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, q, err := load()
			if err != nil {
				return err
			}
			out := bufio.NewWriter(c.OutOrStdout())
			if asJSON {
				err = writeJSON(out, q.Entries())
			} else {
				err = printQuarantine(out, q.Entries(), cfg.Shipper.QuarantineKeepDays, time.Now())
			}
			return hint(errors.Join(err, out.Flush()))
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document on standard output")
	return c
}

// entry is a Quarantined as JSON.
type entry struct {
	Name   string       `json:"name"`
	Day    string       `json:"day"`
	Dir    string       `json:"dir"`
	Reason queue.Reason `json:"reason"`
	Error  string       `json:"error,omitempty"` // why reason.json could not be read
}

func asEntry(q queue.Quarantined) entry {
	e := entry{Name: q.Name, Day: q.Day, Dir: q.Dir, Reason: q.Reason}
	if q.Err != nil {
		e.Error = q.Err.Error()
	}
	return e
}

// writeJSON writes one document without keeping it in memory.
func writeJSON(out io.Writer, entries iter.Seq2[queue.Quarantined, error]) error {
	sep := `{"schema":1,"entries":[`
	for q, err := range entries {
		if err != nil {
			return err
		}
		b, err := json.MarshalIndent(asEntry(q), "  ", "  ")
		if err == nil {
			_, err = fmt.Fprintf(out, "%s\n  %s", sep, b)
		}
		if err != nil {
			return err
		}
		sep = ","
	}
	if sep != "," {
		_, err := fmt.Fprintln(out, sep+"]}")
		return err
	}
	_, err := fmt.Fprintln(out, "\n]}")
	return err
}

// printQuarantine prints each entry as it comes: there may be a million. A name
// is mostly an id, so that fixed columns stay columns.
func printQuarantine(out io.Writer, entries iter.Seq2[queue.Quarantined, error], keepDays int, now time.Time) error {
	const format = "%-36s  %-15s  %-6s  %s\n"
	counts := map[code.Code]int{}
	var order []code.Code
	total := 0
	for e, err := range entries {
		if err != nil {
			return err
		}
		if total++; total == 1 {
			fmt.Fprintf(out, format, "NAME", "CODE", "AGE", "DETAIL")
		}
		c, why := string(e.Reason.Code), e.Reason.Detail
		if e.Err != nil {
			c, why = "?", e.Err.Error()
		} else {
			if counts[e.Reason.Code] == 0 {
				order = append(order, e.Reason.Code)
			}
			counts[e.Reason.Code]++
		}
		age := "?"
		if !e.Reason.QuarantinedAt.IsZero() {
			age = state.Span(now.Sub(e.Reason.QuarantinedAt))
		}
		if _, err := fmt.Fprintf(out, format, printable(e.Name), c, age, printable(why)); err != nil {
			return err
		}
	}
	if total == 0 {
		_, err := fmt.Fprintln(out, "Nothing is in quarantine.")
		return err
	}
	fmt.Fprintln(out)
	for _, c := range order {
		fmt.Fprintf(out, "%d %s. Fix: %s\n", counts[c], c, c.Info().Fix)
	}
	if keepDays > 0 {
		fmt.Fprintf(out, "Entries are removed after %d days (quarantine_keep_days).\n", keepDays)
	}
	return nil
}

// printable keeps what a stranger named from moving the cursor.
func printable(s string) string {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == '\uFFFD' || (r >= 0x80 && r < 0xa0) {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}

// checkName refuses what can't be the name of an entry.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return cli.UsageErrorf("%q is no name of an entry: cis490-shipper quarantine list shows them", name)
	}
	return nil
}

func quarantineShow(load loader) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show why one entry is in quarantine, where it is and what to do",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkName(args[0]); err != nil {
				return err
			}
			_, q, err := load()
			if err != nil {
				return err
			}
			e, err := q.Show(args[0])
			if err != nil {
				return hint(err)
			}
			out := c.OutOrStdout()
			if asJSON {
				j := json.NewEncoder(out)
				j.SetIndent("", "  ")
				return j.Encode(asEntry(e))
			}
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			row := func(name, value string) {
				if value != "" {
					fmt.Fprintf(w, "%s\t%s\n", name, printable(value))
				}
			}
			r := e.Reason
			row("name", e.Name)
			row("bag", e.Bag())
			if e.Err != nil {
				row("reason", "can't be read: "+e.Err.Error())
				return w.Flush()
			}
			fix := r.Fix
			if fix == "" {
				fix = r.Code.Info().Fix
			}
			row("code", string(r.Code)+": "+r.Code.Info().Meaning)
			row("detail", r.Detail)
			row("fix", fix)
			row("since", r.QuarantinedAt.Format(time.RFC3339))
			row("receiver", r.Receiver)
			if r.Status != 0 {
				row("HTTP status", fmt.Sprint(r.Status))
			}
			if r.Attempts != 0 {
				row("sent", fmt.Sprintf("%d times", r.Attempts))
			}
			row("bag digest", r.Digest)
			if r.Digest != "" {
				row("payload", fmt.Sprintf("%d files, %s", r.Files, size(r.Size)))
			}
			if r.Started != nil && r.Ended != nil {
				row("ran", r.Started.Format(time.RFC3339)+" to "+r.Ended.Format(time.RFC3339))
			}
			row("window", r.WindowID)
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document on standard output")
	return c
}

func quarantineRequeue(load loader) *cobra.Command {
	var codes []string
	var all bool
	c := &cobra.Command{
		Use:   "requeue [ID…]",
		Short: "Put entries back into the queue: those named, those with a code, or all",
		RunE: func(c *cobra.Command, args []string) error {
			sel := queue.Selection{All: all, Names: args}
			for _, s := range codes {
				if _, ok := code.Lookup(code.Code(s)); !ok {
					return cli.UsageErrorf("there is no code %q: cis490-shipper quarantine list shows those in use", s)
				}
				sel.Codes = append(sel.Codes, code.Code(s))
			}
			for _, a := range args {
				if _, err := episode.ParseID(a); err != nil {
					return cli.UsageErrorf("%q is no episode's id: %v", a, err)
				}
			}
			if !all && len(args) == 0 && len(codes) == 0 {
				return cli.UsageErrorf("say which: an ID, --code CODE or --all")
			}
			cfg, q, err := load()
			if err != nil {
				return err
			}
			done, err := q.Requeue(c.Context(), sel)
			for _, e := range done {
				fmt.Fprintf(c.OutOrStdout(), "%s put back\n", e.Name)
			}
			if len(done) > 0 {
				poke(c.Context(), cfg)
			} else if err == nil {
				fmt.Fprintln(c.OutOrStdout(), "Nothing in quarantine is of that kind.")
			}
			return hint(err)
		},
	}
	c.Flags().StringSliceVar(&codes, "code", nil, "those that were set aside for `CODE`")
	c.Flags().BoolVar(&all, "all", false, "every episode in quarantine")
	return c
}

func quarantineRemove(load loader) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME…",
		Short: "Remove entries, and the data in them, for good",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, a := range args {
				if err := checkName(a); err != nil {
					return err
				}
			}
			cfg, q, err := load()
			if err != nil {
				return err
			}
			var errs []error
			for _, a := range args {
				if err := q.Discard(a); err != nil {
					errs = append(errs, hint(fmt.Errorf("%s: %w", a, err)))
					continue
				}
				fmt.Fprintf(c.OutOrStdout(), "%s removed\n", printable(a))
			}
			if len(errs) < len(args) {
				poke(c.Context(), cfg)
			}
			return errors.Join(errs...)
		},
	}
}
