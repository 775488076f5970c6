package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cis490/src/bag"
	"cis490/src/cli"
	"cis490/src/episode"
)

func showCommand() *cobra.Command {
	var asJSON, files bool
	c := &cobra.Command{
		Use:   "show BAG",
		Short: "Show what a bag says of itself",
		Long: "Show what BAG, the directory of an episode or of another bag, or the archive of an episode, says of itself.\n" +
			"Nothing is checked but that it can be read: cis490-episode verify does that.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if files {
				return listFiles(c.OutOrStdout(), args[0])
			}
			s, err := look(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return s.print(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().BoolVar(&files, "files", false, "list the files instead: x bit, modification time, path")
	c.MarkFlagsMutuallyExclusive("json", "files")
	return c
}

// shown is the JSON form of what show finds.
type shown struct {
	Bag      string       `json:"bag"`
	BagIt    string       `json:"bagit"`
	Encoding string       `json:"encoding"`
	Digest   *bag.Digest  `json:"digest,omitempty"` // of an episode
	Files    int64        `json:"files"`
	Size     int64        `json:"size"`
	Info     bag.Info     `json:"info"`
	Run      *episode.Run `json:"run,omitempty"`
	LeftOut  int64        `json:"left_out"`
}

func look(path string) (*shown, error) {
	if isFile(path) {
		a, err := openArchive(path)
		if err != nil {
			return nil, err
		}
		defer a.Close()
		return &shown{Bag: path, BagIt: "1.0", Encoding: "UTF-8", Digest: &a.facts.Digest, Files: a.facts.Files, Size: a.facts.Size, Info: a.Info(), Run: a.run}, nil
	}
	b, err := bag.Open(path)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Version == "" {
		return nil, fmt.Errorf("%s is no bag: it has no %s that can be read; cis490-episode verify names what is wrong", path, bag.Declaration)
	}
	s := &shown{Bag: path, BagIt: b.Version, Encoding: b.Encoding, Info: b.Info}
	s.Size, s.Files, _ = b.Info.Oxum()
	if !episode.IsEpisode(b) {
		return s, nil
	}
	e, err := episode.OpenCopy(path)
	if err != nil {
		return nil, err
	}
	s.Digest, s.Run = &e.Facts.Digest, e.Run
	err = eachFile(path, func(m bag.FileMeta) error {
		if m.Skipped != "" {
			s.LeftOut++
		}
		return nil
	})
	return s, err
}

func (s *shown) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(label, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", label, value)
		}
	}
	shownAlready := map[string]bool{}
	if r := s.Run; r != nil {
		row("episode", r.ID.String())
		row("host", r.Host)
		row("workload", plain(r.Workload))
		row("description", plain(r.Description))
		row("argv", quoted(r.Argv))
		row("source", plain(r.Source))
		row("outcome", strings.TrimSuffix(string(r.Outcome)+": "+plain(r.Reason), ": "))
		row("started", stamp(r.Started.Realtime))
		row("ended", fmt.Sprintf("%s (after %s)", stamp(r.Ended.Realtime), r.Ended.Realtime.Sub(r.Started.Realtime).Round(1e6)))
		for _, l := range []string{bag.LabelIdentifier, episode.LabelHost, bag.LabelOxum} {
			shownAlready[l] = true
		}
	}
	row("payload", cli.Count(s.Files, "file", "files")+", "+size(s.Size))
	if s.LeftOut > 0 {
		row("left out", cli.Count(s.LeftOut, "thing", "things")+", which files.jsonl names")
	}
	if s.Digest != nil {
		row("bag digest", s.Digest.String())
	}
	row("format", "BagIt "+s.BagIt+", "+s.Encoding)
	for _, e := range s.Info {
		if !shownAlready[e.Label] {
			row(plain(e.Label), plain(e.Value))
		}
	}
	return w.Flush()
}

// plain keeps a text of outside from disturbing the terminal or the table.
func plain(s string) string {
	if s == "" {
		return ""
	}
	return bag.Quote(s)
}

func quoted(words []string) string {
	out := make([]string, 0, len(words))
	for _, w := range words {
		if q := bag.Quote(w); q != w || strings.ContainsAny(w, " \t") {
			w = fmt.Sprintf("%q", w)
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// listFiles prints files.jsonl for people.
func listFiles(out io.Writer, path string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	err := eachFile(path, func(m bag.FileMeta) error {
		what := "-"
		switch {
		case m.Skipped != "":
			what = "left out: " + m.Skipped
		case m.Dir:
			what = "directory"
		case m.Exec:
			what = "x"
		}
		name := bag.Quote(m.Path)
		if m.Target != "" {
			name += " -> " + bag.Quote(m.Target)
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%s\n", what, m.ModTime.UTC().Format("2006-01-02 15:04:05.999999999"), name)
		return err
	})
	if err != nil {
		return err
	}
	return w.Flush()
}
