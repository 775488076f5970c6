package doctor

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"cis490/src/health"
)

var colours = map[health.Status]string{health.Green: "\x1b[32m", health.Yellow: "\x1b[33m", health.Red: "\x1b[31m", health.Unknown: "\x1b[36m", health.Skipped: "\x1b[2m"}

// Print writes a report for people: a row with its status as a word, its evidence
// and its fix below it, what is broken first; the verdict last.
func Print(w io.Writer, r health.Report, colour bool) error {
	width := 0
	for _, x := range r.Results {
		width = max(width, len(x.ID))
	}
	var b strings.Builder
	for _, s := range []health.Status{health.Red, health.Yellow, health.Unknown, health.Skipped, health.Green} {
		if s == health.Skipped {
			printSkipped(&b, r, colour)
			continue
		}
		for _, x := range r.Results {
			if x.Status != s {
				continue
			}
			fmt.Fprintf(&b, "%s  %-*s  %s\n", paint(string(s), s, colour), width, x.ID, line(x.Title))
			indent := strings.Repeat(" ", statusWidth+2+width+2)
			if x.Evidence != "" {
				for l := range strings.Lines(x.Evidence) {
					fmt.Fprintf(&b, "%s%s\n", indent, line(l))
				}
			}
			if x.Fix != "" {
				fmt.Fprintf(&b, "%sfix: %s\n", indent, line(x.Fix))
			}
		}
	}
	fmt.Fprintf(&b, "%s  %s\n", paint(string(r.Verdict), r.Verdict, colour), line(r.Summary))
	_, err := io.WriteString(w, b.String())
	return err
}

// printSkipped writes the symptoms of each cause on one line.
func printSkipped(b *strings.Builder, r health.Report, colour bool) {
	var causes []string
	by := map[string][]string{}
	for _, x := range r.Results {
		if x.Status == health.Skipped {
			if by[x.Title] == nil {
				causes = append(causes, x.Title)
			}
			by[x.Title] = append(by[x.Title], x.ID)
		}
	}
	for _, c := range causes {
		fmt.Fprintf(b, "%s  %s: %s\n", paint(string(health.Skipped), health.Skipped, colour), line(c), strings.Join(by[c], ", "))
	}
}

const statusWidth = len("unknown")

func paint(word string, s health.Status, colour bool) string {
	word = fmt.Sprintf("%-*s", statusWidth, word)
	if !colour {
		return word
	}
	return colours[s] + word + "\x1b[0m"
}

// line keeps what a stranger may have written (a server's name, a file's) from
// reaching a terminal as it is.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.TrimRight(s, "\n"))
}

// PrintList writes what is looked at.
func PrintList(w io.Writer, checks []Check) error {
	width := 0
	for _, c := range checks {
		width = max(width, len(c.ID))
	}
	for _, c := range checks {
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width, c.ID, c.Looks); err != nil {
			return err
		}
	}
	return nil
}

// Rows is ROWS.md: all that there is, as a page.
func Rows() string {
	var b strings.Builder
	b.WriteString(`# The doctor's rows

Generated from the checks by ` + "`go test ./src/doctor -update`" + `; a test holds it current. A row below a check, as quarantine/conflict is, has the check's id
before the slash. What depends on a row that is red is skipped, and says so.
`)
	for _, role := range []struct{ name, title string }{{LabHost, "On a lab host"}, {Receiver, "On a receiver"}} {
		fmt.Fprintf(&b, "\n## %s\n\n| row | looks at | fix | depends on |\n|---|---|---|---|\n", role.title)
		o := Options{Host: "x"}
		if role.name == Receiver {
			o = Options{Receiver: "x"}
		}
		for _, c := range Checks(o) {
			deps := strings.Join(c.DependsOn, ", ")
			if deps == "" {
				deps = "–"
			}
			fmt.Fprintf(&b, "| <a id=%q></a>`%s` | %s | %s | %s |\n", c.ID, c.ID, cell(c.Looks), cell(c.Fix), deps)
		}
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
