// Package config reads lab-host.hcl and receiver.hcl.
//
// It promises that a configuration that loads is complete and has been checked,
// and that one that does not is refused with every mistake at once: file, line,
// the source line, and what is allowed instead. HCL's native syntax (*.hcl) and
// its JSON syntax (*.json) go through the same decoder, and the commented
// examples are generated from the same table.
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Option changes how a file is checked.
type Option func(*options)

type options struct {
	watchdog time.Duration
	files    bool
	warn     func(string)

	hostname func() (string, error)
	now      func() time.Time
	cores    int
}

// WithWatchdog says that the watchdog's interval is d, whatever watchdog_sec says:
// what liveness.Notifier.WatchdogInterval found. 0 changes nothing.
func WithWatchdog(d time.Duration) Option { return func(o *options) { o.watchdog = d } }

// CheckFiles also looks at what the configuration names on this machine: files
// of certificates and keys, the operators' group. A daemon does not ask for it: a
// file that is missing now may be there in a minute, and then no restart is
// needed.
func CheckFiles() Option { return func(o *options) { o.files = true } }

// Warn is called with each warning: something that may be meant so, but looks
// like a mistake. It is text of several lines.
func Warn(f func(text string)) Option { return func(o *options) { o.warn = f } }

func newOptions(opts []Option) *options {
	o := &options{hostname: os.Hostname, now: time.Now, cores: runtime.GOMAXPROCS(0)}
	for _, f := range opts {
		f(o)
	}
	return o
}

// LoadLabHost reads lab-host.hcl, or the same as JSON if path ends in .json. Its
// error is an *Error.
func LoadLabHost(path string, opts ...Option) (LabHost, error) {
	src, err := read(path)
	if err != nil {
		return LabHost{}, err
	}
	return ParseLabHost(path, src, opts...)
}

// ParseLabHost is LoadLabHost for what has been read already.
func ParseLabHost(path string, src []byte, opts ...Option) (LabHost, error) {
	o := newOptions(opts)
	c := LabHost{File: path}
	d := decode(path, src, labHostSchema(&c))
	if !d.syntax {
		checkLabHost(&c, d, o)
	}
	if err := d.result(o); err != nil {
		return LabHost{}, err
	}
	return c, nil
}

// LoadReceiver reads receiver.hcl, or the same as JSON if path ends in .json. Its
// error is an *Error.
func LoadReceiver(path string, opts ...Option) (Receiver, error) {
	src, err := read(path)
	if err != nil {
		return Receiver{}, err
	}
	return ParseReceiver(path, src, opts...)
}

// ParseReceiver is LoadReceiver for what has been read already.
func ParseReceiver(path string, src []byte, opts ...Option) (Receiver, error) {
	o := newOptions(opts)
	c := Receiver{File: path}
	var hosts []*Host
	d := decode(path, src, receiverSchema(&c, &hosts))
	if !d.syntax {
		checkReceiver(&c, hosts, d, o)
	}
	if err := d.result(o); err != nil {
		return Receiver{}, err
	}
	return c, nil
}

func read(path string) ([]byte, error) {
	src, err := os.ReadFile(path)
	if err == nil {
		return src, nil
	}
	hint := ""
	if errors.Is(err, fs.ErrNotExist) {
		hint = "; check-config --example prints one to begin with"
	}
	return nil, &Error{Path: path, err: fmt.Errorf("configuration: %w%s", err, hint)}
}

// result is the error, if there is one, after telling the warnings.
func (d *decoder) result(o *options) error {
	diags := d.sorted()
	if diags.HasErrors() {
		return &Error{Path: d.name, Diags: diags, files: d.files}
	}
	if o.warn != nil {
		for _, w := range diags {
			o.warn(render(hcl.Diagnostics{w}, d.files))
		}
	}
	return nil
}

// Error is a configuration that can't be used. Trying again can't help it:
// programs exit with 78 (EX_CONFIG of sysexits.h).
type Error struct {
	Path  string
	Diags hcl.Diagnostics // none if the file could not be read
	files map[string]*hcl.File
	err   error
}

// maxShown is how many diagnostics are put into words: a file that is no configuration at all has one for each byte.
const maxShown = 30

// Error gives the diagnostics in full, over several lines; of very many, the first.
func (e *Error) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	if more := len(e.Diags) - maxShown; more > 0 {
		return render(e.Diags[:maxShown], e.files) + fmt.Sprintf("and %d more", more)
	}
	return strings.TrimRight(render(e.Diags, e.files), "\n")
}

func (e *Error) Unwrap() error { return e.err }

func render(diags hcl.Diagnostics, files map[string]*hcl.File) string {
	var b strings.Builder
	hcl.NewDiagnosticTextWriter(&b, files, 96, false).WriteDiagnostics(diags)
	return b.String()
}

//go:embed lab-host.hcl
var labHostExample string

//go:embed receiver.hcl
var receiverExample string

// LabHostExample is a lab-host.hcl that shows every attribute, with its meaning,
// its bounds and its default.
func LabHostExample() string { return labHostExample }

// ReceiverExample is the same for receiver.hcl.
func ReceiverExample() string { return receiverExample }
