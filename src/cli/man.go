//go:build man

package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"cis490/src/version"
)

// The man pages come from the commands themselves. What writes them is only in
// programs built with the tag man, as the package does once to fill share/man:
// a lab host does not carry a Markdown renderer.
func init() { extra = manCommand }

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "man DIR",
		Short:                 "Write the manual pages into DIR",
		Hidden:                true,
		Args:                  cobra.ExactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			root.DisableAutoGenTag = true
			root.CompletionOptions.HiddenDefaultCmd = true
			root.InitDefaultCompletionCmd()
			for _, sub := range root.Commands() {
				if sub.Name() == "completion" {
					sub.Hidden = true
				}
			}
			// The date is SOURCE_DATE_EPOCH where that is set.
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "cis490 " + version.String(), Manual: "cis490"}, args[0])
		},
	}
}
