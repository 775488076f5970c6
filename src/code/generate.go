package code

import (
	"fmt"
	"strings"
)

// Markdown renders the list as CODES.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("# Codes\n\nGenerated from the list in table.go by `go test ./src/code -update`; a test holds it current.\n\n" +
		"The class says what the shipper does: `episode` sets this one aside and goes on, `host` and `transient` hold the queue and probe with\n" +
		"back-off, `upload` asks for the offset or begins anew, `done` frees the source against the receipt.\n\n" +
		"| code | HTTP | class | meaning | fix |\n|---|---|---|---|---|\n")
	for _, i := range table {
		status := "–"
		if i.Status != 0 {
			status = fmt.Sprint(i.Status)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", i.Code, status, i.Class, i.Meaning, i.Fix)
	}
	return b.String()
}

// Catalog renders the list as a message catalogue for journalctl -x
// (systemd's catalog format, journalctl(1) --update-catalog).
func Catalog() string {
	var b strings.Builder
	b.WriteString("# Generated from src/code/table.go.\n")
	for _, i := range table {
		fmt.Fprintf(&b, "\n-- %s\nSubject: %s\nDefined-By: cis490\n\n%s\n\nEpisode: @CIS490_EPISODE@\nFix: %s\n", i.MessageID, i.Title, i.Meaning, i.Fix)
	}
	return b.String()
}
