package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"cis490/src/cli"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/ingest"
	"cis490/src/store"
)

func scrubCommand(file *string) *cobra.Command {
	var asJSON bool
	var opt store.ScrubOptions
	var since, rate string
	c := &cobra.Command{
		Use:   "scrub",
		Short: "Read every stored episode anew and name what is damaged",
		Long: `Reads each archive from the disk and checks every digest in it, the bag digest of the
receipt, the sidecar, the seek table and the catalogue; then looks for files that
belong to no episode. The longest unread comes first. What is damaged is marked: its
host is told, and takes the mark away by sending the episode again; so does a scrub that finds it
sound. Nothing is ever removed or moved.

It works at the lowest priority, also while the receiver runs, which does the same by
itself (the scrub block of receiver.hcl). Exit status 1 if something was found.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if opt.Host != "" && !episode.ValidHost(opt.Host) {
				return cli.UsageErrorf("--host %q is not a host name", opt.Host)
			}
			if opt.Since, err = parseSince(since, time.Now()); err != nil {
				return cli.UsageErrorf("--since: %v", err)
			}
			r, err := config.ParseRate(rate)
			if err != nil || r == config.RateOff {
				return cli.UsageErrorf("--rate %q is not a rate; allowed: 100MB/s and the like, or unlimited", rate)
			}
			opt.Rate = int64(r)
			return operate(c, *file, func(ctx context.Context, o *ingest.OperatorClient) error {
				return scrub(ctx, c, o, opt, asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document per line: each finding, at the end the report")
	c.Flags().StringVar(&opt.Host, "host", "", "only of the host `NAME`")
	c.Flags().StringVar(&since, "since", "", "pass over what was checked since `TIME`: 2026-01-31, RFC 3339, or an age as 12h or 7d; a scrub that was cut says where it goes on")
	c.Flags().StringVar(&rate, "rate", "100MB/s", "read at most so many bytes per second: 20MB/s, 1GiB/s, unlimited")
	return c
}

// parseSince reads a time, or how long ago it was.
func parseSince(s string, now time.Time) (time.Time, error) {
	if t, err := parseTime(s); err == nil {
		return t, nil
	}
	if d, err := config.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is neither a day (2026-01-31), nor an RFC 3339 time (2026-01-31T12:00:00Z), nor an age (7d)", s)
}

func scrub(ctx context.Context, c *cobra.Command, o *ingest.OperatorClient, opt store.ScrubOptions, asJSON bool) error {
	begin := time.Now()
	out, enc := c.OutOrStdout(), json.NewEncoder(c.OutOrStdout())
	bar := newScrubBar(c.ErrOrStderr())
	opt.Progress = bar.set
	kinds := map[store.Kind]int{}
	var order []store.Kind
	var failed error
	opt.Found = func(f store.Finding) {
		if kinds[f.Kind]++; kinds[f.Kind] == 1 {
			order = append(order, f.Kind)
		}
		if asJSON {
			failed = errors.Join(failed, enc.Encode(f))
			return
		}
		bar.print(out, findingText(f))
	}
	rep, err := o.Scrub(ctx, opt)
	bar.end()
	if ctx.Err() != nil {
		at := rep.Begun
		if at.IsZero() {
			at = begin
		}
		return fmt.Errorf("interrupted; it goes on with: cis490-receiver scrub --since %s", at.UTC().Truncate(time.Second).Format(time.RFC3339))
	}
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if asJSON {
		err = enc.Encode(rep)
	} else {
		_, err = io.WriteString(out, reportText(rep, order, kinds, time.Since(begin)))
	}
	if err == nil && rep.Faults() > 0 {
		err = &cli.ExitError{Status: cli.Failed}
	}
	return err
}

func findingText(f store.Finding) string {
	s := fmt.Sprintf("%s  %s\n    %s\n", f.Kind, printable(f.Path), printable(f.What))
	if f.Host != "" && !f.Episode.IsZero() {
		s = fmt.Sprintf("%s  episode %s of host %s\n    %s\n    %s\n", f.Kind, f.Episode, f.Host, printable(f.Path), printable(f.What))
	}
	if f.Since != "" {
		s += "    known since " + f.Since + "\n"
	}
	return s
}

func reportText(r store.ScrubReport, order []store.Kind, kinds map[store.Kind]int, took time.Duration) string {
	s := fmt.Sprintf("%s, %s read in %s: ", cli.Count(r.Episodes, "episode", "episodes"), bytesText(r.Bytes), took.Round(10*time.Millisecond))
	if r.Faults() == 0 {
		s += "all sound"
		if r.Mended > 0 {
			s += fmt.Sprintf(", %d of them mended", r.Mended)
		}
		return s + "\n"
	}
	s += fmt.Sprintf("%s sound", humanize.Comma(r.Sound))
	for _, k := range order {
		s += fmt.Sprintf(", %d %s", kinds[k], k)
	}
	s += "\n"
	for _, k := range order {
		if k != store.FoundMended {
			s += fmt.Sprintf("%s: %s\n", k, k.Fix())
		}
	}
	return s
}

// scrubBar shows on a terminal how far a scrub is.
type scrubBar struct {
	p   *mpb.Progress // nil: no terminal
	bar *mpb.Bar
	now atomic.Pointer[store.ScrubProgress]
}

func newScrubBar(w io.Writer) *scrubBar {
	b := &scrubBar{}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b.p = mpb.New(mpb.WithOutput(f), mpb.WithWidth(40))
	}
	return b
}

func (b *scrubBar) set(p store.ScrubProgress) {
	if b.p == nil {
		return
	}
	b.now.Store(&p)
	if b.bar == nil {
		b.bar = b.p.New(p.OfBytes, mpb.BarStyle().Rbound("|"), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
				now := b.now.Load()
				if now.Files > 0 {
					return fmt.Sprintf("%s files looked at ", humanize.Comma(now.Files))
				}
				return fmt.Sprintf("%s of %s episodes ", humanize.Comma(now.Episodes), humanize.Comma(now.OfEpisodes))
			})),
			mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1000(0), "% .1f"), decor.Name(" "), decor.AverageETA(decor.ET_STYLE_GO)))
	}
	b.bar.SetCurrent(min(p.Bytes, p.OfBytes-1)) // the walk comes after the last byte
}

// print writes above the bar where both are on the terminal.
func (b *scrubBar) print(out io.Writer, s string) {
	if f, ok := out.(*os.File); b.p != nil && ok && term.IsTerminal(int(f.Fd())) {
		out = b.p
	}
	_, _ = io.WriteString(out, strings.ReplaceAll(s, "\t", " ")) // the last line says how much there was
}

func (b *scrubBar) end() {
	if b.bar != nil {
		b.bar.Abort(true)
	}
	if b.p != nil {
		b.p.Wait()
	}
}
