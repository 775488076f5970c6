package episode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Schema is the version of run.json that this package writes.
const Schema = 1

// MaxRun is the longest run.json that is read or written, in bytes.
const MaxRun = 1 << 20

// Outcome says how a run ended.
type Outcome string

const (
	Complete  Outcome = "complete"  // it ended by itself and reported success
	Failed    Outcome = "failed"    // it ended and reported failure, or was killed
	Truncated Outcome = "truncated" // its end was not seen: what is here may not be all
)

// Run is run.json, schema 1: what ran, where, and how it ended. Members that are empty are not written. Members that a
// later version adds are passed over in reading.
type Run struct {
	Schema      int               `json:"schema"`
	ID          ID                `json:"id"`
	Host        string            `json:"host"`
	Workload    string            `json:"workload"`
	Description string            `json:"description,omitempty"`
	Argv        []string          `json:"argv,omitempty"`
	Cwd         string            `json:"cwd,omitempty"`
	Environment map[string]string `json:"environment,omitempty"` // an allow-list of the run's environment, never the whole
	Source      string            `json:"source,omitempty"`      // the directory that was sealed, when no run was recorded

	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason,omitempty"` // why it is not complete, for people
	Exit    *Exit   `json:"exit,omitempty"`

	Started Moment `json:"started"`
	Ended   Moment `json:"ended"`

	Resources *Resources        `json:"resources,omitempty"`
	HostFacts *HostFacts        `json:"host_facts,omitempty"`
	NixOS     *NixOS            `json:"nixos,omitempty"`
	Versions  map[string]string `json:"versions,omitempty"` // program to version
}

// Exit is how the process ended.
type Exit struct {
	Status *int   `json:"status,omitempty"` // exit status, when it exited
	Signal string `json:"signal,omitempty"` // "SIGKILL", when a signal ended it
	Result string `json:"result,omitempty"` // systemd's Result= of the unit (org.freedesktop.systemd1(5))
}

// Moment is one point in time by every clock that may be asked for later.
type Moment struct {
	Realtime     time.Time `json:"realtime"`               // RFC 3339 with nanoseconds
	MonotonicNS  *int64    `json:"monotonic_ns,omitempty"` // CLOCK_MONOTONIC (clock_gettime(2)), comparable within one boot
	BootID       string    `json:"boot_id,omitempty"`      // /proc/sys/kernel/random/boot_id
	Synchronised *bool     `json:"synchronised,omitempty"` // whether the kernel held its clock to be synchronised (adjtimex(2))
	OffsetNS     *int64    `json:"offset_ns,omitempty"`    // the clock's offset as the kernel knew it
	MaxErrorNS   *int64    `json:"max_error_ns,omitempty"` // the kernel's bound of the clock's error
}

// Resources is what the run used, from its control group (cgroups(7)).
type Resources struct {
	CPUUsageUS      *int64 `json:"cpu_usage_us,omitempty"`
	CPUUserUS       *int64 `json:"cpu_user_us,omitempty"`
	CPUSystemUS     *int64 `json:"cpu_system_us,omitempty"`
	MemoryPeakBytes *int64 `json:"memory_peak_bytes,omitempty"`
	IOReadBytes     *int64 `json:"io_read_bytes,omitempty"`
	IOWriteBytes    *int64 `json:"io_write_bytes,omitempty"`
	PidsPeak        *int64 `json:"pids_peak,omitempty"`
}

// HostFacts is what the host was.
type HostFacts struct {
	Kernel      string `json:"kernel,omitempty"`
	Machine     string `json:"machine,omitempty"` // as uname -m
	CPUModel    string `json:"cpu_model,omitempty"`
	CPUs        int    `json:"cpus,omitempty"`
	MemoryBytes int64  `json:"memory_bytes,omitempty"`
	OS          string `json:"os,omitempty"` // PRETTY_NAME of os-release(5)
}

// NixOS says which system ran, where there is one.
type NixOS struct {
	System                string `json:"system,omitempty"` // the store path of the system closure
	ConfigurationRevision string `json:"configuration_revision,omitempty"`
}

// ParseRun reads a run.json of schema 1. It refuses what two readers could understand differently: a member given twice, text behind the
// object, invalid UTF-8.
func ParseRun(b []byte) (*Run, error) {
	if len(b) > MaxRun {
		return nil, fmt.Errorf("run.json is longer than %d bytes", MaxRun)
	}
	if !utf8.Valid(b) {
		return nil, errors.New("run.json is not valid UTF-8")
	}
	r := new(Run)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("run.json: %w", err)
	}
	if name, twice := repeatedMember(b); twice {
		return nil, fmt.Errorf("run.json: member %.80q is there twice", name)
	}
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("run.json: %w", err)
	}
	return r, nil
}

// repeatedMember finds an object that has the same member twice, on any level of the valid JSON text b. encoding/json takes members
// without regard to case, so names that differ only in it count as the same.
func repeatedMember(b []byte) (name string, twice bool) {
	var names []string // of all objects that are open
	var open []int     // where in names those of each begin; -1 for an array
	key := false       // the next string is a member's name
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{':
			open, key = append(open, len(names)), true
		case '[':
			open, key = append(open, -1), false
		case ',':
			key = open[len(open)-1] >= 0
		case '}':
			at := open[len(open)-1]
			if name, twice := repeated(names[at:]); twice {
				return name, true
			}
			names, open = names[:at], open[:len(open)-1]
		case ']':
			open = open[:len(open)-1]
		case '"':
			end := i + 1
			for ; b[end] != '"'; end++ {
				if b[end] == '\\' {
					end++
				}
			}
			if key {
				names, key = append(names, foldName(b[i:end+1])), false
			}
			i = end
		}
	}
	return "", false
}

func repeated(names []string) (string, bool) {
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			return names[i], true
		}
	}
	return "", false
}

// foldName gives names that differ only in case, as encoding/json sees it, one form.
func foldName(quoted []byte) string {
	s := string(quoted[1 : len(quoted)-1])
	if bytes.IndexByte(quoted, '\\') >= 0 {
		if err := json.Unmarshal(quoted, &s); err != nil {
			return s // it is valid, or it would not have come here
		}
	}
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return r
		}
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}

// Check says what makes r no run.json of schema 1.
func (r *Run) Check() error {
	switch {
	case r.Schema != Schema:
		return fmt.Errorf("schema is %d, and this version reads %d", r.Schema, Schema)
	case r.ID.IsZero():
		return errors.New("id is missing")
	case !ValidHost(r.Host):
		return fmt.Errorf("host %.80q is not 1 to 63 of a-z, 0-9 and -", r.Host)
	case r.Workload == "":
		return errors.New("workload is missing")
	case r.Outcome != Complete && r.Outcome != Failed && r.Outcome != Truncated:
		return fmt.Errorf("outcome %.80q is none of complete, failed and truncated", string(r.Outcome))
	case r.Started.Realtime.IsZero():
		return errors.New("started.realtime is missing")
	case r.Ended.Realtime.IsZero():
		return errors.New("ended.realtime is missing")
	}
	for name, m := range map[string]Moment{"started": r.Started, "ended": r.Ended} {
		// Beyond these, seconds would not fit a structured field's Date (RFC 9651, section 3.3.7) or a year four digits.
		if y := m.Realtime.UTC().Year(); y < 1970 || y > 9999 {
			return fmt.Errorf("%s.realtime is in the year %d", name, y)
		}
	}
	return nil
}

// Format writes run.json.
func (r *Run) Format() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("run.json: %w", err)
	}
	return formatJSON(r)
}

func formatJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}
