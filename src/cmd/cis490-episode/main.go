// Command cis490-episode seals, verifies, shows, packs and unpacks episodes by
// hand. It also verifies the BagIt bags of other makers.
//
// Rules for the terminal: results go to standard output, and with --json they
// are one JSON object to a line; progress, warnings and errors go to standard
// error. Names of files are quoted where they could disturb a terminal.
package main

import (
	"encoding/json"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cis490/src/cli"
)

func main() { cli.Main(command()) }

func command() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "cis490-episode",
		Short: "Seal, verify, show, pack and unpack episodes",
		Long: "An episode is a directory of files that is sealed once and never changes again: a BagIt bag\n" +
			"(RFC 8493) that sha256sum -c can check too. See the README.",
	}
	cli.ConfigFlag(c, &file, cli.LabHostConfig)
	c.AddCommand(sealCommand(&file), recoverCommand(&file), verifyCommand(), showCommand(), packCommand(), unpackCommand())
	return c
}

// printJSON writes v on one line.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
