package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/ship"
	"cis490/src/state"
)

func statusCommand(file *string) *cobra.Command {
	var asJSON, live bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what is shipped, what waits and what is wrong",
		Long: `Asks the running shipper for its state. If none runs, shows the state that the
last one left, says so, and exits with status 1.

With --watch, shows it until q or Ctrl-C is pressed, drawn anew every second: what
waits, how fast it goes, each upload, the last receipt, the last problem and its
fix. Where standard output is no terminal it writes a line when something changes,
with --json a document a line every second.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.LoadLabHost(*file)
			if err != nil {
				return err
			}
			if live {
				return watch(c.Context(), cfg.RunDir, c.OutOrStdout(), asJSON)
			}
			st, live, err := current(c.Context(), cfg.RunDir)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if asJSON {
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				err = e.Encode(liveState{live, st})
			} else {
				err = printStatus(out, st, live, time.Now())
			}
			if err == nil && !live {
				err = &cli.ExitError{Status: cli.Failed}
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document on standard output")
	c.Flags().BoolVarP(&live, "watch", "w", false, "show it until q is pressed, drawn anew every second")
	return c
}

// liveState is a state as JSON.
type liveState struct {
	Live bool `json:"live"` // false: left by a shipper that is not running
	state.Shipper
}

// current asks the running shipper, or reads what the last one left.
func current(ctx context.Context, runDir string) (st state.Shipper, live bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, asked := ship.NewControl(runDir).Status(ctx)
	if asked == nil {
		return st, true, nil
	}
	// A socket that is only denied still means that one runs.
	denied := errors.Is(asked, fs.ErrPermission)
	st, err = state.ReadShipper(runDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return st, false, fmt.Errorf("the shipper is not running and has left no state in %s: systemctl start cis490-shipper", runDir)
	case err != nil:
		return st, false, hint(err)
	}
	return st, denied && time.Since(st.WrittenAt) < time.Minute, nil
}

// printStatus writes the state for people. The first line is the verdict.
func printStatus(out io.Writer, st state.Shipper, live bool, now time.Time) error {
	ago := func(t *time.Time) string {
		if t == nil {
			return "never"
		}
		return state.Span(now.Sub(*t)) + " ago"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, a ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, a...)) }
	if !live {
		fmt.Fprintf(w, "not running; the state of %s:\n", ago(&st.WrittenAt))
	}
	fmt.Fprintln(w, st.Summary)
	row("host", "%s, shipping to %s", st.Host, st.Receiver)
	if st.Key != "" {
		row("key", "%s", st.Key)
	}
	if st.Success != nil {
		row("last success", "%s, episode %s", ago(&st.Success.At), st.Success.Episode)
	} else {
		row("last success", "none since the start")
	}
	if p := st.Path; p.Held {
		row("path", "held for %s: %s; tries so far: %d", state.Span(now.Sub(*p.Since)), p.Code, p.Probes)
		row("", "%s", p.Detail)
		row("", "fix: %s", p.Fix)
	} else {
		row("path", "open")
	}
	if f := st.Poll.Failure; f != nil && !st.Path.Held {
		row("receiver", "last asked %s: %s: %s", ago(&f.At), f.Code, f.Detail)
	} else if st.Poll.LastSuccess != nil {
		row("receiver", "version %s, asked %s, knows this host as %s, its clock is %+.1f s from ours", st.Poll.ReceiverVersion, ago(st.Poll.LastSuccess), st.Poll.KnownAs, st.Poll.SkewSeconds)
	}
	if f := st.Report.Failure; f != nil && !st.Path.Held {
		row("report", "the receiver does not take how this host is, since %s: %s: %s", ago(&f.Since), f.Code, f.Detail)
	}
	if r := st.Rate; r.Limit != "" && (r.Limit != config.RateUnlimited.String() || r.Until != nil) {
		row("rate limit", "%s", r)
	}
	if d := st.Poll.Damaged; d != nil && len(d.Episodes) > 0 {
		row("stored", "%d acknowledged, and damaged at the receiver; first %s", d.Count, d.Episodes[0])
		row("", "fix: %s", code.CopyDamaged.Info().Fix)
	}
	for _, c := range slices.Sorted(maps.Keys(st.Queue.PostponedByCode)) {
		row("trouble", "%d at the end of the queue: %s", st.Queue.PostponedByCode[c], c)
		row("", "fix: %s", c.Info().Fix)
	}
	if q := st.Quarantine; q.Total > 0 {
		more := ""
		if q.Counting {
			more = " (still counting)"
		}
		row("quarantine", "%d%s, oldest %s: cis490-shipper quarantine list", q.Total, more, ago(q.Oldest))
		for _, c := range slices.Sorted(maps.Keys(q.ByCode)) {
			row("", "%d %s; fix: %s", q.ByCode[c], c, c.Info().Fix)
		}
	}
	if o := st.Open; o.LeftOver > 0 {
		row("open", "%d sealings were cut off and left in open/, the first %s", o.LeftOver, ago(o.Oldest))
		row("", "fix: %s", o.Fix())
	}
	if st.Queue.Postponed == 0 && !st.Path.Held && st.Last != nil && st.Last.Code.Class() != code.Done {
		row("last outcome", "%s, %s: %s", st.Last.Code, ago(&st.Last.At), st.Last.Detail)
	}
	for _, u := range st.Workers {
		if u.Episode == nil {
			continue
		}
		line := fmt.Sprintf("%s %s", u.Doing, u.Episode)
		if u.SizeBytes > 0 && u.SentBytes > 0 {
			line += fmt.Sprintf(", %d %% of %s", u.SentBytes*100/u.SizeBytes, size(u.SizeBytes))
		}
		if u.Attempt > 1 {
			line += fmt.Sprintf(", attempt %d", u.Attempt)
		}
		if u.Late != "" {
			line += ", STUCK: overdue by " + u.Late
		}
		row(u.Name, "%s", line)
	}
	row("disk", "%s free", size(st.Disk.FreeBytes))
	row("since start", "%d shipped, %s, started %s", st.Totals.Shipped, size(int64(st.Totals.PayloadBytes)), ago(&st.StartedAt))
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// size writes a number of bytes for people.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
