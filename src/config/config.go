// Package config reads lab-host.hcl and receiver.hcl.
//
// It promises that a configuration that loads is complete and has been checked,
// and that one that does not is refused with every mistake at once: file, line,
// the source line, and what is allowed instead. HCL's native syntax (*.hcl) and
// its JSON syntax (*.json) go through the same decoder, and the commented
// examples are generated from the same table.
package config

import (
	"github.com/hashicorp/hcl/v2"
)

// LoadLabHost reads lab-host.hcl, or the same as JSON if path ends in .json. Its
// error is an *Error.
func LoadLabHost(path string, opts ...Option) (LabHost, error) { return LabHost{}, nil }

// LoadReceiver reads receiver.hcl, or the same as JSON if path ends in .json. Its
// error is an *Error.
func LoadReceiver(path string, opts ...Option) (Receiver, error) { return Receiver{}, nil }

// Option changes how a file is checked.
type Option func(*options)

type options struct{}

// Error is a configuration that can't be used. Trying again can't help it:
// programs exit with 78 (EX_CONFIG of sysexits.h).
type Error struct {
	Path  string
	Diags hcl.Diagnostics
	files map[string]*hcl.File
}

// Error gives every diagnostic in full, over several lines.
func (e *Error) Error() string { return e.Diags.Error() }
