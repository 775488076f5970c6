package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cis490/src/bag"
	"cis490/src/cli"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/pack"
)

func verifyCommand() *cobra.Command {
	var asJSON, fetched bool
	c := &cobra.Command{
		Use:   "verify BAG...",
		Short: "Check every byte of a bag and name every fault",
		Long: "Check every byte of each BAG: the directory of an episode or of a BagIt bag of any maker (0.93 to 0.97, and\n" +
			"1.0), or the archive of an episode. Exit status 0: all are valid; 1: one is not, or can't be read.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			bad := false
			for _, path := range args {
				v, err := verifyAny(c, path, fetched)
				if err != nil {
					return err
				}
				bad = bad || !v.Valid
				if asJSON {
					err = printJSON(c.OutOrStdout(), v)
				} else {
					err = v.print(c.OutOrStdout())
				}
				if err != nil {
					return err
				}
			}
			if bad {
				return &cli.ExitError{Status: cli.Failed} // all is said
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each bag")
	c.Flags().BoolVar(&fetched, "allow-fetched", false, "accept a bag with fetch.txt if every file that it lists is there")
	return c
}

// verdict is the JSON form of what verify finds.
type verdict struct {
	Bag      string      `json:"bag"`
	Valid    bool        `json:"valid"`
	BagIt    string      `json:"bagit,omitempty"` // the version
	Episode  *episode.ID `json:"episode,omitempty"`
	Files    int64       `json:"files"` // of the payload, as Payload-Oxum says
	Size     int64       `json:"size"`
	Faults   []bag.Fault `json:"faults"`
	Warnings []bag.Fault `json:"warnings"`
}

func (v *verdict) print(w io.Writer) (err error) {
	say := func(format string, a ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, a...)
		}
	}
	switch {
	case !v.Valid:
		say("%s: invalid, %s:\n", v.Bag, cli.Count(int64(len(v.Faults)), "fault", "faults"))
	case v.Episode != nil:
		say("%s: valid, episode %s, %s, %s\n", v.Bag, v.Episode, cli.Count(v.Files, "file", "files"), size(v.Size))
	default:
		say("%s: valid, BagIt %s, %s, %s\n", v.Bag, v.BagIt, cli.Count(v.Files, "file", "files"), size(v.Size))
	}
	for _, f := range v.Faults {
		say("  %s\n", f)
	}
	for _, f := range v.Warnings {
		say("  warning: %s\n", f)
	}
	return err
}

func verifyAny(c *cobra.Command, path string, fetched bool) (*verdict, error) {
	if isFile(path) {
		return verifyArchive(c, path)
	}
	b, err := bag.Open(path)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	b.AllowFetched = fetched
	v := &verdict{Bag: path, BagIt: b.Version}
	total, _, _ := b.Info.Oxum()
	p := showProgress(c.ErrOrStderr(), "verifying", total)
	if episode.IsEpisode(b) {
		v.Faults, err = episode.Faults(c.Context(), b, p.add)
	} else {
		v.Faults, err = b.Verify(c.Context(), p.add)
	}
	p.close()
	if err != nil {
		return nil, err
	}
	v.Valid = len(v.Faults) == 0
	v.Faults = append([]bag.Fault{}, v.Faults...) // [] in JSON, not null
	v.Warnings = append([]bag.Fault{}, b.Warnings()...)
	v.Size, v.Files = b.Payload()
	if id, err := episode.ParseID(b.Info.Get(bag.LabelIdentifier)); err == nil && v.Valid && episode.IsEpisode(b) {
		v.Episode = &id
	}
	return v, nil
}

// verifyArchive checks an archive as the receiver does.
func verifyArchive(c *cobra.Command, path string) (*verdict, error) {
	v := &verdict{Bag: path, Faults: []bag.Fault{}, Warnings: []bag.Fault{}}
	a, err := openArchive(path)
	if err == nil {
		defer a.Close()
		v.BagIt, v.Files, v.Size = "1.0", a.facts.Files, a.facts.Size
		err = a.verify(c.Context(), c.ErrOrStderr())
	}
	switch _, coded := code.Of(err); {
	case err == nil:
		v.Valid, v.Episode = true, &a.facts.ID
	case errors.Is(err, context.Canceled) || !coded:
		return nil, err
	default:
		v.Faults = append(v.Faults, bag.Fault{Kind: bag.Malformed, Detail: err.Error()})
	}
	return v, nil
}

func (a *archive) verify(ctx context.Context, w io.Writer) error {
	if _, err := a.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	p := showProgress(w, "verifying", a.size)
	defer p.close()
	d := pack.NewDecoder(&watched{ctx, a.f, p.add})
	defer d.Close()
	_, err := pack.Verify(d, a.facts, pack.Limits{})
	return err
}

// watched is a reader that stops with its context and tells how far it is.
type watched struct {
	ctx context.Context
	r   io.Reader
	add func(int64)
}

func (w *watched) Read(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	n, err := w.r.Read(p)
	w.add(int64(n))
	return n, err
}
