package config

import (
	"fmt"
	"strings"

	"github.com/mitchellh/go-wordwrap"
)

// example writes s as a commented configuration. What has to be set stands as it
// is; the rest is commented out, with its default or, where all is set, with a
// value that shows its form.
func example(s *block, all bool) string {
	var b strings.Builder
	comment(&b, "", s.doc)
	comment(&b, "", "What is commented out shows the default, or an example where the default says so in words. Durations: ms, s, m, h, d, w. Sizes: KiB, MiB, GiB, TiB or kB, MB, GB, TB.")
	body(&b, s, "", all)
	return b.String()
}

func body(b *strings.Builder, s *block, indent string, all bool) {
	for i, a := range s.attrs {
		if i > 0 || s.name == "" {
			b.WriteByte('\n')
		}
		comment(b, indent, a.doc)
		allowed := "Allowed: " + a.kind.allowed + "."
		if a.kind.bounds != "" {
			allowed = "Allowed: " + a.kind.bounds + "."
		}
		switch {
		case a.required:
			allowed += " It has to be set."
		case a.def == `""`:
			allowed += " Default: none."
		case a.def != "":
			allowed += " Default: " + strings.Trim(a.def, `"`) + "."
		default:
			allowed += " Default: " + a.defWords + "."
		}
		comment(b, indent, allowed)
		value := a.example
		if value == "" {
			value = a.def
		}
		mark := "# "
		if a.required || all {
			mark = ""
		}
		fmt.Fprintf(b, "%s%s%s = %s\n", indent, mark, a.name, value)
	}
	for _, sub := range s.blocks {
		b.WriteByte('\n')
		comment(b, indent, sub.doc)
		head := sub.name
		if sub.label != "" {
			head += fmt.Sprintf(" %q", sub.example)
		}
		if sub.each != nil && !all {
			// A host with a made-up key is not for taking over as it is.
			var inner strings.Builder
			body(&inner, sub, "", true)
			fmt.Fprintf(b, "%s# %s {\n", indent, head)
			for _, line := range strings.Split(strings.TrimRight(inner.String(), "\n"), "\n") {
				b.WriteString(strings.TrimRight(indent+"#   "+line, " ") + "\n")
			}
			fmt.Fprintf(b, "%s# }\n", indent)
			continue
		}
		fmt.Fprintf(b, "%s%s {\n", indent, head)
		body(b, sub, indent+"  ", all)
		fmt.Fprintf(b, "%s}\n", indent)
	}
}

func comment(b *strings.Builder, indent, text string) {
	for _, line := range strings.Split(wordwrap.WrapString(text, uint(96-len(indent))), "\n") {
		fmt.Fprintf(b, "%s# %s\n", indent, line)
	}
}
