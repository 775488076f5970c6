package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cis490/src/durable"
	"cis490/src/episode"
	"cis490/src/pack"
)

func unpackCommand() *cobra.Command {
	var into string
	var output bool
	c := &cobra.Command{
		Use:   "unpack ARCHIVE",
		Short: "Verify an archive and unpack it",
		Long: "Unpack ARCHIVE, or standard input for -, into a directory named by the episode's id, with modification times,\n" +
			"x bits and empty directories as they were. Everything is verified on the way: the directory is whole, or not there.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			in, total := c.InOrStdin(), int64(0)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				if st, err := f.Stat(); err == nil {
					total = st.Size()
				}
				in = f
			}
			p := showProgress(c.ErrOrStderr(), "unpacking", total)
			dir, err := unpack(c.Context(), &watched{c.Context(), in, p.add}, into, output)
			p.close()
			if link := (*os.LinkError)(nil); errors.As(err, &link) && errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s is there already: remove it, or give another --into DIR", link.New)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), dir)
			return err
		},
	}
	c.Flags().StringVar(&into, "into", ".", "`DIR` in which the directory is made")
	c.Flags().BoolVar(&output, "output-only", false, "only the tree that was sealed, without the bag around it")
	return c
}

func unpack(ctx context.Context, r io.Reader, into string, output bool) (dir string, err error) {
	if !output {
		return pack.Extract(ctx, r, into)
	}
	if err := durable.MkdirAll(into, 0o777); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(into, ".unpack-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	whole, err := pack.Extract(ctx, r, tmp)
	if err != nil {
		return "", err
	}
	tree := filepath.Join(whole, episode.OutputPath)
	if _, err := os.Lstat(tree); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("episode %s has no %s: unpack it without --output-only", filepath.Base(whole), episode.OutputPath)
	}
	dir = filepath.Join(into, filepath.Base(whole))
	if err := unix.Renameat2(unix.AT_FDCWD, tree, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE); err != nil {
		return "", &os.LinkError{Op: "rename", Old: tree, New: dir, Err: err}
	}
	return dir, durable.SyncDir(into)
}

// umask reads the process's umask, which can only be read by setting it.
func umask() fs.FileMode {
	m := unix.Umask(0o077)
	unix.Umask(m)
	return fs.FileMode(m)
}
