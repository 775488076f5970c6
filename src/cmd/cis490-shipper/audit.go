package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cis490/src/cli"
	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/identity"
	"cis490/src/queue"
	"cis490/src/ship"
	"cis490/src/wire"
)

// couldNotAsk is audit's exit status when the receiver did not answer all of it.
const couldNotAsk = 2

func auditCommand(file *string) *cobra.Command {
	var o auditOptions
	var since string
	c := &cobra.Command{
		Use:   "audit",
		Short: "Ask the receiver whether it still has all that it acknowledged",
		Long: `Goes through this host's receipts and asks the receiver about each: is the
episode stored, with the same digest, and not known to be damaged? Prints a line
for each that is not, with what to do, and the sum of it.

With --requeue, what is missing or damaged at the receiver and still kept here
in shipped/ (see keep_shipped) goes back into the queue and is sent again.

Exit status 0: all is stored; 1: something is wrong; 2: the receiver could not be
asked, or not about all.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.since, err = parseSince(since, time.Now()); err != nil {
				return err
			}
			cfg, err := config.LoadLabHost(*file)
			if err != nil {
				return err
			}
			// Its absence is a mistake, not a reason to make it.
			if _, err := os.Stat(cfg.DataDir); err != nil {
				return hint(err)
			}
			q, err := queue.Open(cfg.DataDir)
			if err != nil {
				return hint(err)
			}
			dir := filepath.Join(cfg.DataDir, "identity")
			if _, err := os.Stat(filepath.Join(dir, identity.HostKeyFile)); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("this host has no key in %s and can't be known to a receiver: start the shipper first: systemctl start cis490-shipper", dir)
			}
			id, _, err := identify(cfg)
			if err != nil {
				return hint(err)
			}
			a := &audit{auditOptions: o, queue: q, out: c.OutOrStdout(), problems: c.ErrOrStderr()}
			a.progress = newCounter(c.ErrOrStderr())
			return a.run(c.Context(), cfg, id)
		},
	}
	c.Flags().BoolVar(&o.requeue, "requeue", false, "send again what is missing or damaged there and still here")
	c.Flags().BoolVar(&o.asJSON, "json", false, "one JSON document on standard output")
	c.Flags().StringVar(&since, "since", "", "only receipts from this `TIME` on: 2026-01-31, 2026-01-31T12:00:00Z, or how long ago: 36h, 30d")
	return c
}

// parseSince reads a date, a time or an age; "" is the zero time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if d, err := config.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	return time.Time{}, cli.UsageErrorf("--since %q is no date (2026-01-31), no time (2026-01-31T12:00:00Z) and no age (36h, 30d)", s)
}

type auditOptions struct {
	since           time.Time
	requeue, asJSON bool
}

// audit is one run of the command.
type audit struct {
	auditOptions
	queue    *queue.Queue
	out      io.Writer
	problems io.Writer
	progress *counter

	receipts   int
	verdicts   map[wire.Verdict]int
	unreadable int // lines of the ledger
	requeued   int
	begun      bool  // of the JSON
	err        error // of writing
}

// badEpisode is an episode that is not stored as acknowledged, in the JSON.
type badEpisode struct {
	Episode      episode.ID    `json:"episode"`
	Verdict      wire.Verdict  `json:"verdict"`
	Detail       string        `json:"detail,omitempty"`
	Acknowledged wire.Receipt  `json:"acknowledged"`      // this host's receipt
	Receipt      *wire.Receipt `json:"receipt,omitempty"` // the receiver's
	Kept         string        `json:"kept,omitempty"`    // where the source is
	Requeued     bool          `json:"requeued,omitempty"`
	Fix          string        `json:"fix,omitempty"`
}

func (a *audit) run(ctx context.Context, cfg config.LabHost, id *identity.Client) error {
	a.verdicts = map[wire.Verdict]int{}
	asked := ship.Audit(ctx, cfg, id, a.ledger, a.see)
	a.progress.clear()
	if a.requeued > 0 {
		poke(ctx, cfg)
	}
	if err := a.sum(asked); err != nil {
		return err
	}
	if asked != nil {
		if ctx.Err() == nil {
			var e *code.Error
			if errors.As(asked, &e) {
				fmt.Fprintf(a.problems, "cis490-shipper: the receiver could not be asked: %v\nfix: %s\n", asked, e.Code.Info().Fix)
			} else {
				fmt.Fprintf(a.problems, "cis490-shipper: the receiver could not be asked: %v\n", asked)
			}
		}
		return &cli.ExitError{Status: couldNotAsk}
	}
	if a.verdicts[wire.VerdictStored] < a.receipts || a.unreadable > 0 {
		return &cli.ExitError{Status: cli.Failed}
	}
	return nil
}

// ledger yields the receipts to ask about.
func (a *audit) ledger(yield func(wire.Receipt) bool) {
	for r, err := range a.queue.Receipts(a.since) {
		if err != nil {
			a.unreadable++
			a.progress.clear()
			fmt.Fprintf(a.problems, "not a receipt: %v\n", err)
			continue
		}
		if r.StoredAt.Before(a.since) {
			continue
		}
		if !yield(r) {
			return
		}
	}
}

// see takes one verdict.
func (a *audit) see(v ship.Audited) bool {
	a.receipts++
	a.verdicts[v.Verdict]++
	a.progress.show(a.receipts, a.receipts-a.verdicts[wire.VerdictStored])
	if v.Verdict == wire.VerdictStored {
		return true
	}
	b := badEpisode{Episode: v.Receipt.Episode, Verdict: v.Verdict, Detail: v.Detail, Acknowledged: v.Receipt, Receipt: v.Theirs}
	a.advise(&b)
	a.progress.clear()
	if a.asJSON {
		a.writeJSON(b)
		return a.err == nil
	}
	line := fmt.Sprintf("%-8s %s, acknowledged %s", b.Verdict, b.Episode, v.Receipt.StoredAt.UTC().Format("2006-01-02 15:04Z"))
	if b.Detail != "" {
		line += ": " + printable(b.Detail)
	}
	if b.Requeued {
		line += "; back in the queue"
	} else {
		line += "; fix: " + b.Fix
	}
	_, a.err = fmt.Fprintln(a.out, line)
	return a.err == nil
}

// advise finds out what can be done, and with --requeue does it.
func (a *audit) advise(b *badEpisode) {
	switch b.Verdict {
	case wire.VerdictDiffers:
		b.Fix = "find out what is stored there under this id: cis490-receiver episodes show " + b.Episode.String()
		return
	case wire.VerdictMissing, wire.VerdictDamaged:
	default:
		b.Fix = "bring this host to the version of the receiver"
		return
	}
	dir, err := a.queue.Kept(b.Acknowledged)
	switch {
	case errors.Is(err, queue.ErrWaiting):
		b.Fix = "nothing: it waits in the queue and will be sent again"
		return
	case errors.Is(err, queue.ErrNotKept):
		then := "reindex"
		if b.Verdict == wire.VerdictDamaged {
			then = "scrub"
		}
		b.Fix = "no copy is left here: restore its files there from a backup, then: cis490-receiver " + then
		return
	case err != nil:
		b.Fix = hint(err).Error()
		return
	}
	b.Kept, b.Fix = dir, "cis490-shipper audit --requeue: a copy is still here"
	if !a.requeue {
		return
	}
	if err := a.queue.SendAgain(b.Acknowledged); err != nil {
		b.Fix = hint(err).Error()
		return
	}
	b.Requeued, b.Kept, b.Fix = true, "", ""
	a.requeued++
}

// writeJSON writes one episode of the document, which is not held in memory.
func (a *audit) writeJSON(b badEpisode) {
	text, err := json.MarshalIndent(b, "    ", "  ")
	if err != nil {
		a.err = err
		return
	}
	head := ",\n    "
	if !a.begun {
		a.begun, head = true, "{\n  \"schema\": 1,\n  \"episodes\": [\n    "
	}
	_, a.err = fmt.Fprintf(a.out, "%s%s", head, text)
}

// sum writes what came of it.
func (a *audit) sum(asked error) error {
	if a.err != nil {
		return a.err
	}
	if a.asJSON {
		head := "\n  ]"
		if !a.begun {
			head = "{\n  \"schema\": 1,\n  \"episodes\": []"
		}
		text, err := json.MarshalIndent(struct {
			Complete   bool                 `json:"complete"` // all receipts were asked about
			Receipts   int                  `json:"receipts"`
			Verdicts   map[wire.Verdict]int `json:"verdicts"`
			Unreadable int                  `json:"unreadable_lines"`
			Requeued   int                  `json:"requeued"`
		}{asked == nil, a.receipts, a.verdicts, a.unreadable, a.requeued}, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s,%s\n", head, text[1:])
		return err
	}
	if a.receipts == 0 && asked == nil {
		_, err := fmt.Fprintln(a.out, "There are no receipts to ask about.")
		return err
	}
	line := fmt.Sprintf("%s receipts: %s stored", humanize.Comma(int64(a.receipts)), humanize.Comma(int64(a.verdicts[wire.VerdictStored])))
	for _, v := range []wire.Verdict{wire.VerdictMissing, wire.VerdictDiffers, wire.VerdictDamaged} {
		line += fmt.Sprintf(", %s %s", humanize.Comma(int64(a.verdicts[v])), v)
	}
	if a.requeued > 0 {
		line += fmt.Sprintf("; %s back in the queue", humanize.Comma(int64(a.requeued)))
	}
	if asked != nil {
		line += "; the rest was not asked about"
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}

// counter is a line on a terminal that says how far something is; elsewhere it is
// nothing.
type counter struct {
	out   io.Writer // nil: nothing
	at    time.Time
	shown bool
}

func newCounter(out io.Writer) *counter {
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return &counter{out: out}
	}
	return &counter{}
}

func (c *counter) show(n, bad int) {
	if c.out == nil || time.Since(c.at) < 100*time.Millisecond {
		return
	}
	c.at, c.shown = time.Now(), true
	fmt.Fprintf(c.out, "\r\x1b[K%s receipts asked about, %s not stored", humanize.Comma(int64(n)), humanize.Comma(int64(bad)))
}

// clear makes way for other lines.
func (c *counter) clear() {
	if c.shown {
		c.shown = false
		fmt.Fprint(c.out, "\r\x1b[K")
	}
}
