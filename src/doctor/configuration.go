package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"cis490/src/config"
)

var errNoConfiguration = errors.New("there is no configuration")

// loaded is a configuration, or why there is none.
type loaded[T any] struct {
	v   T
	err error
}

func load[T any](file string, f func(string, ...config.Option) (T, error)) loaded[T] {
	v, err := f(file)
	return loaded[T]{v, err}
}

// configurationRow judges how reading a configuration ended.
func configurationRow(file, program, option string, err error) Finding {
	check := program + " check-config --config " + quote(file)
	onNix := ""
	if strings.HasSuffix(file, ".json") {
		onNix = "; on NixOS it is made from " + option
	}
	var bad *config.Error
	switch {
	case err == nil:
		return green("%s can be used", file)
	case errors.Is(err, fs.ErrNotExist):
		return red("there is no configuration: neither "+file+" nor "+file+".json", "",
			program+" check-config --example >"+quote(file)+", then set what it says has to be set; on NixOS: "+strings.TrimSuffix(option, ".settings")+".enable = true")
	case errors.Is(err, fs.ErrPermission):
		return unknown("may not read "+file, err.Error(), "sudo cis490-doctor")
	case errors.As(err, &bad) && len(bad.Diags) > 0:
		d := bad.Diags[0]
		where, more := filepath.Base(file), ""
		if d.Subject != nil {
			where = fmt.Sprintf("%s, line %d", where, d.Subject.Start.Line)
		}
		n := 0
		for _, d := range bad.Diags {
			if d.Severity == 1 { // hcl.DiagError
				n++
			}
		}
		if n > 1 {
			more = fmt.Sprintf(" (and %d more mistakes)", n-1)
		}
		line := "line " + strings.TrimPrefix(where, filepath.Base(file)+", line ")
		return red(where+": "+d.Summary+more, strings.Join(strings.Fields(d.Detail), " "),
			fmt.Sprintf("mend %s of %s%s; then: %s", line, file, onNix, check))
	}
	return red(file+" can't be used", firstLine(err.Error()), check)
}

// quote makes a word of a shell of s.
func quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%=,", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
