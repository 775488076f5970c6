// Package doctor finds out what is broken on a lab host or a receiver and says
// how to mend it.
//
// It promises an end within ten seconds, whatever hangs; a row for every check,
// also one that panics; that a row whose cause is red already is skipped and
// names the cause; and that it changes nothing, needs no root and no network,
// and says what it could not see. ROWS.md lists the rows.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"cis490/src/config"
	"cis490/src/health"
	"cis490/src/version"
)

// How long one check may take, and all of them.
const (
	each = 3 * time.Second
	all  = 10 * time.Second
)

// Roles of a machine.
const (
	LabHost  = "lab-host"
	Receiver = "receiver"
)

// Options says what is checked.
type Options struct {
	Host     string        // lab-host.hcl; "": no lab host
	Receiver string        // receiver.hcl; "": no receiver
	Since    time.Duration // how far back the journal is read; 0: 10 minutes
}

// Role names what is checked.
func (o Options) Role() string {
	switch {
	case o.Host != "" && o.Receiver != "":
		return LabHost + "," + Receiver
	case o.Receiver != "":
		return Receiver
	}
	return LabHost
}

// Check is one thing that is looked at. It gives one row, or several whose ids
// begin with its own and a slash.
type Check struct {
	ID        string
	Role      string
	Looks     string   // what it looks at, and what makes it yellow or red
	Fix       string   // in general; a row has its own
	DependsOn []string // checks whose red is the cause of this one's
	Run       func(context.Context) []Finding
}

// Finding is what a check found.
type Finding struct {
	Sub       string // makes the id check/Sub
	Status    health.Status
	Title     string
	Evidence  string
	Fix       string
	DependsOn []string // beside the check's own
}

func green(format string, a ...any) Finding {
	return Finding{Status: health.Green, Title: fmt.Sprintf(format, a...)}
}

func unknown(title, why, fix string) Finding {
	return Finding{Status: health.Unknown, Title: title, Evidence: why, Fix: fix}
}

func yellow(title, evidence, fix string) Finding {
	return Finding{Status: health.Yellow, Title: title, Evidence: evidence, Fix: fix}
}

func red(title, evidence, fix string) Finding {
	return Finding{Status: health.Red, Title: title, Evidence: evidence, Fix: fix}
}

// after adds checks whose red is the cause.
func (f Finding) after(checks ...string) Finding {
	f.DependsOn = append(f.DependsOn, checks...)
	return f
}

// sub makes f a row of its own below its check.
func (f Finding) sub(name string) Finding {
	f.Sub = name
	return f
}

// Docs is where the rows are explained.
const Docs = "src/doctor/ROWS.md"

// Checks are those for what o says is configured.
func Checks(o Options) []Check {
	if o.Since <= 0 {
		o.Since = 10 * time.Minute
	}
	var all []Check
	if o.Host != "" {
		all = append(all, hostChecks(newLabHost(o.Host, o.Since))...)
	}
	if o.Receiver != "" {
		all = append(all, receiverChecks(newReceiver(o.Receiver, o.Since))...)
	}
	// What both roles look at is looked at once.
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(c Check) bool {
		was := seen[c.ID]
		seen[c.ID] = true
		return was
	})
}

// Select gives the checks with these ids, and those that they depend on; shown are
// the former.
func Select(checks []Check, only []string) (run []Check, shown func(id string) bool, err error) {
	if len(only) == 0 {
		return checks, func(string) bool { return true }, nil
	}
	byID := map[string]Check{}
	var ids []string
	for _, c := range checks {
		byID[c.ID] = c
		ids = append(ids, c.ID)
	}
	want := map[string]bool{}
	var add func(id string)
	add = func(id string) {
		if !want[id] {
			want[id] = true
			for _, d := range byID[id].DependsOn {
				add(d)
			}
		}
	}
	for _, id := range only {
		if _, ok := byID[id]; !ok {
			return nil, nil, fmt.Errorf("there is no row %q; there are: %s", id, strings.Join(ids, ", "))
		}
		add(id)
	}
	for _, c := range checks {
		if want[c.ID] {
			run = append(run, c)
		}
	}
	return run, func(id string) bool {
		id, _, _ = strings.Cut(id, "/")
		return slices.Contains(only, id)
	}, nil
}

// Run runs the checks, all at once, and reports on those that are shown.
func Run(ctx context.Context, role string, checks []Check, shown func(id string) bool) health.Report {
	began := time.Now()
	r := health.Report{Role: role, Version: version.String(), At: began.UTC().Round(0)}
	r.Host, _ = os.Hostname() // a report without one is one still
	ctx, cancel := context.WithTimeout(ctx, all)
	defer cancel()
	type outcome struct {
		check int
		found []Finding
		took  time.Duration
		died  string
	}
	// With room for all: a check that hangs for good holds nothing but its own goroutine.
	outcomes := make(chan outcome, len(checks))
	for i, c := range checks {
		go func() {
			o := outcome{check: i}
			o.found, o.died = guarded(ctx, c)
			o.took = time.Since(began)
			outcomes <- o
		}()
	}
	// A check that can be cancelled has ended by itself a moment before.
	late := time.NewTimer(each + 200*time.Millisecond)
	defer late.Stop()
	done := make([]*outcome, len(checks))
wait:
	for range checks {
		select {
		case o := <-outcomes:
			done[o.check] = &o
		case <-late.C:
			break wait
		case <-ctx.Done():
			break wait
		}
	}
	for i, c := range checks {
		o := done[i]
		switch {
		case o == nil && errors.Is(ctx.Err(), context.Canceled):
			o = &outcome{found: one(unknown("interrupted", "", "")), took: time.Since(began)}
		case o == nil:
			o = &outcome{found: timedOut(c.Looks), took: time.Since(began)}
		case o.died != "":
			o.found = one(unknown("the check crashed", o.died, "cis490-doctor report, and send the file to the developers; the other rows are not concerned"))
			r.Error = "the check " + c.ID + " crashed"
		case len(o.found) == 0:
			o.found = one(unknown("the check said nothing", "", ""))
		}
		for _, f := range o.found {
			id := c.ID
			if f.Sub != "" {
				id += "/" + f.Sub
			}
			r.Results = append(r.Results, health.Result{ID: id, Status: f.Status, Title: f.Title, Evidence: f.Evidence, Fix: f.Fix,
				Docs: Docs + "#" + c.ID, DependsOn: slices.Concat(c.DependsOn, f.DependsOn), Took: o.took.Seconds()})
		}
	}
	skipSymptoms(r.Results)
	r.Results = slices.DeleteFunc(r.Results, func(x health.Result) bool { return !shown(x.ID) })
	r.Took = time.Since(began).Seconds()
	r.Finish()
	return r
}

const hung = "look for a disk or a network file system that hangs: ps -eo pid,stat,wchan:32,cmd | grep ' D'"

// guarded runs a check; died is what it panicked with.
func guarded(ctx context.Context, c Check) (found []Finding, died string) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			died = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	return c.Run(ctx), ""
}

// skipSymptoms puts causes before symptoms: a row that depends on a red one,
// directly or not, is skipped and names the one that is red by itself.
func skipSymptoms(rows []health.Result) {
	deps, broken := map[string][]string{}, map[string]bool{}
	for _, r := range rows {
		check, _, _ := strings.Cut(r.ID, "/")
		deps[check] = append(deps[check], r.DependsOn...)
		broken[check] = broken[check] || r.Status == health.Red
	}
	var cause func(ids []string, seen map[string]bool) string
	cause = func(ids []string, seen map[string]bool) string {
		for _, id := range ids {
			if seen[id] {
				continue
			}
			seen[id] = true
			if c := cause(deps[id], seen); c != "" {
				return c
			}
			if broken[id] {
				return id
			}
		}
		return ""
	}
	causes := make([]string, len(rows))
	for i, r := range rows {
		check, _, _ := strings.Cut(r.ID, "/")
		causes[i] = cause(r.DependsOn, map[string]bool{check: true})
	}
	for i, c := range causes {
		if r := &rows[i]; c != "" {
			r.Status, r.Title, r.Evidence, r.Fix = health.Skipped, "not judged while "+c+" is red", "", ""
		}
	}
}

// Configured finds out what this machine is from the files that are there. A
// given file wins; which kind it is it says itself.
func Configured(given, host, receiver string) (o Options) {
	is := func(f string) bool { _, err := os.Stat(f); return err == nil }
	if given != "" {
		if _, err := config.LoadLabHost(given); err == nil {
			return Options{Host: given}
		}
		if _, err := config.LoadReceiver(given); err == nil || strings.Contains(filepath.Base(given), "receiver") {
			return Options{Receiver: given}
		}
		return Options{Host: given}
	}
	if is(host) {
		o.Host = host
	}
	if is(receiver) {
		o.Receiver = receiver
	}
	if o.Host == "" && o.Receiver == "" {
		o.Host = host // its row says what to do
	}
	return o
}
