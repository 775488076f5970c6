package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cis490/src/bag"
	"cis490/src/cli"
	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/tree"
	"cis490/src/version"
)

type sealFlags struct {
	into, host, workload, description string
	started, ended                    string
	move, skipped, changing, json     bool
}

func sealCommand(file *string) *cobra.Command {
	var f sealFlags
	c := &cobra.Command{
		Use:   "seal DIR",
		Short: "Make an episode of a directory and put it into the queue",
		Long: "Copy DIR into an episode and put it into the queue of the data directory, from which the shipper\n" +
			"takes it. Regular files and directories travel, with their modification times and x bits; links,\n" +
			"devices, sockets, FIFOs and names that are not UTF-8 are left out and named, and the exit status is\n" +
			"then 1 unless --allow-skipped is given, though the episode is sealed. With --move, DIR is taken by rename, and only\n" +
			"what was left out stays there.",
		Example: "  cis490-episode seal results/run-17\n  cis490-episode seal /scratch/run-17 --into /var/lib/cis490 --move",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c, *file, args[0])
		},
	}
	c.Flags().StringVar(&f.into, "into", "", "data `DIRECTORY` whose queue it goes into (default: data_dir of the configuration)")
	c.Flags().StringVar(&f.host, "host", "", "`NAME` of the lab host (default: host of the configuration, else the system's host name)")
	c.Flags().StringVar(&f.workload, "workload", "", "`NAME` of what made the files (default: the name of DIR)")
	c.Flags().StringVar(&f.description, "description", "", "`TEXT` for people, kept in the episode")
	c.Flags().StringVar(&f.started, "started", "", "`TIME` at which the run began, as 2026-01-31T08:00:00Z (default: now)")
	c.Flags().StringVar(&f.ended, "ended", "", "`TIME` at which the run ended (default: when sealing ends)")
	c.Flags().BoolVar(&f.move, "move", false, "take DIR by rename instead of copying it")
	c.Flags().BoolVar(&f.skipped, "allow-skipped", false, "exit 0 though something had to be left out")
	c.Flags().BoolVar(&f.changing, "allow-changing", false, "take files that are written to while they are copied as they were read")
	c.Flags().BoolVar(&f.json, "json", false, "print the result as JSON")
	return c
}

// sealed is the JSON form of the result.
type sealed struct {
	ID      episode.ID `json:"id"`
	Dir     string     `json:"dir"` // absolute
	Host    string     `json:"host"`
	Digest  bag.Digest `json:"digest"`
	Started time.Time  `json:"started"`
	Ended   time.Time  `json:"ended"`
	Size    int64      `json:"size"`
	Files   int64      `json:"files"`
	Skipped []leftOut  `json:"skipped"`
	Changed []string   `json:"changed"`
}

type leftOut struct {
	Path   string `json:"path"` // below DIR; quoted as a Go string when JSON can't hold it
	Why    string `json:"why"`
	Target string `json:"target,omitempty"`
}

func (f *sealFlags) run(c *cobra.Command, file, dir string) error {
	opt, into, err := f.options(c, file)
	if err != nil {
		return err
	}
	done, err := f.goOn(c, dir, into)
	if err != nil {
		return err
	}
	if done != nil {
		return f.report(c, *done)
	}
	p := showProgress(c.ErrOrStderr(), "sealing", 0)
	opt.Progress = p.add
	s, err := episode.SealDir(c.Context(), dir, into, opt)
	p.close()
	if err != nil {
		return sealHint(err)
	}
	return f.report(c, s)
}

// sealHint names what to do next.
func sealHint(err error) error {
	switch {
	case errors.Is(err, episode.ErrChanged):
		return fmt.Errorf("%w\nSeal it when nothing writes to it any more, or give --allow-changing to take files as they are", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w\nRun this as a user who may read the directory and write to the data directory", err)
	}
	return err
}

// options puts together flags, configuration and defaults. A configuration that is not there or not for our eyes is none;
// one with a mistake in it counts only where it is needed.
func (f *sealFlags) options(c *cobra.Command, file string) (opt episode.SealOptions, into string, err error) {
	cfg, err := config.LoadLabHost(file)
	switch given := c.Flags().Changed("config"); {
	case err == nil:
	case !given && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
		cfg = config.LabHost{}
	case !given && f.into != "" && f.host != "":
		cfg = config.LabHost{}
	default:
		return opt, "", err
	}
	opt = episode.SealOptions{
		Host: f.host, Workload: f.workload, Description: f.description, Organization: cfg.Organization,
		Agent: "cis490-episode " + version.String(), Move: f.move, AllowChanged: f.changing,
	}
	if into = f.into; into == "" {
		into = cfg.DataDir
	}
	if into == "" {
		return opt, "", noDataDir(file)
	}
	if opt.Host == "" {
		opt.Host = cfg.Host
	}
	if opt.Host == "" {
		name, _ := os.Hostname()
		opt.Host, _, _ = strings.Cut(strings.ToLower(name), ".")
	}
	if !episode.ValidHost(opt.Host) {
		return opt, "", cli.UsageErrorf("%q can't be the name of a lab host, which is 1 to 63 of a-z, 0-9 and -: give --host NAME", opt.Host)
	}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"started", f.started, &opt.Started}, {"ended", f.ended, &opt.Ended}} {
		if t.text == "" {
			continue
		}
		if *t.to, err = time.Parse(time.RFC3339, t.text); err != nil {
			return opt, "", cli.UsageErrorf("--%s %q is not a time such as 2026-01-31T08:00:00Z", t.flag, t.text)
		}
	}
	if !opt.Started.IsZero() && !opt.Ended.IsZero() && opt.Ended.Before(opt.Started) {
		return opt, "", cli.UsageErrorf("--ended %s is before --started %s", f.ended, f.started)
	}
	return opt, into, nil
}

// goOn finishes or undoes what died in this data directory. When that was the move of this very DIR, it is the result: DIR is in the queue.
func (f *sealFlags) goOn(c *cobra.Command, dir, into string) (*episode.Sealed, error) {
	recovered, err := episode.Recover(c.Context(), into)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil { // of another episode than the one that is to be sealed
		fmt.Fprintf(c.ErrOrStderr(), "cis490-episode: warning: %v\n", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil { // DIR itself may be gone
		abs = filepath.Join(parent, filepath.Base(abs))
	}
	var done *episode.Sealed
	for _, r := range recovered {
		fmt.Fprintf(c.ErrOrStderr(), "cis490-episode: %s\n", cutOff(r))
		if !r.Sealed || !f.move || r.Source != abs {
			continue
		}
		s, err := asSealed(r.Dir)
		if err != nil {
			return nil, err
		}
		if !holdsMore(abs, s.Skipped) {
			done = s
		}
	}
	return done, nil
}

// holdsMore tells whether there are files in dir beside those that were left out of its episode and are there again.
func holdsMore(dir string, leftOut []bag.FileMeta) bool {
	root, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer root.Close()
	known := make(map[string]bool, len(leftOut))
	for _, m := range leftOut {
		known[below(m.Path)] = true
	}
	err = tree.Walk(root, func(e *tree.Entry) error {
		switch {
		case known[e.Path] && e.IsDir():
			return tree.SkipDir
		case e.IsRegular() && !known[e.Path]:
			return fs.SkipAll
		}
		return nil
	})
	return errors.Is(err, fs.SkipAll)
}

func asSealed(dir string) (*episode.Sealed, error) {
	facts, err := episode.ReadFacts(dir)
	if err != nil {
		return nil, err
	}
	s := &episode.Sealed{Facts: facts, Dir: dir}
	err = eachFile(dir, func(m bag.FileMeta) error {
		if m.Skipped != "" {
			s.Skipped = append(s.Skipped, m)
		}
		return nil
	})
	return s, err
}

// maxListed is how many things are named on a terminal; --json has them all.
const maxListed = 20

func (f *sealFlags) report(c *cobra.Command, s episode.Sealed) error {
	var err error
	if f.json {
		if s.Dir, err = filepath.Abs(s.Dir); err == nil {
			err = printJSON(c.OutOrStdout(), resultOf(s))
		}
	} else {
		_, err = fmt.Fprintf(c.OutOrStdout(), "sealed %s: %s, %s, in %s\n", s.ID, cli.Count(s.Files, "file", "files"), size(s.Size), s.Dir)
	}
	if err != nil {
		return err
	}
	w := c.ErrOrStderr()
	list(w, len(s.Changed), func(i int) string { return "changed meanwhile: " + bag.Quote(s.Changed[i]) })
	list(w, len(s.Skipped), func(i int) string {
		m := s.Skipped[i]
		text := "left out: " + bag.Quote(below(m.Path)) + " (" + m.Skipped
		if m.Target != "" {
			text += " to " + bag.Quote(m.Target)
		}
		return text + ")"
	})
	if n := int64(len(s.Skipped)); n > 0 && !f.skipped {
		return fmt.Errorf("the episode is sealed, but %s could not travel; with --allow-skipped that is no failure", cli.Count(n, "thing in it", "things in it"))
	}
	return nil
}

func list(w io.Writer, n int, text func(int) string) {
	for i := range min(n, maxListed) {
		fmt.Fprintln(w, text(i))
	}
	if n > maxListed {
		fmt.Fprintf(w, "and %d more, which files.jsonl in the episode names\n", n-maxListed)
	}
}

func below(path string) string { return strings.TrimPrefix(path, episode.OutputPath+"/") }

func resultOf(s episode.Sealed) sealed {
	out := sealed{ID: s.ID, Dir: s.Dir, Host: s.Host, Digest: s.Digest, Started: s.Started, Ended: s.Ended, Size: s.Size, Files: s.Files,
		Skipped: []leftOut{}, Changed: append([]string{}, s.Changed...)}
	for _, m := range s.Skipped {
		out.Skipped = append(out.Skipped, leftOut{asJSON(below(m.Path)), m.Skipped, asJSON(m.Target)})
	}
	return out
}
