package episode

import (
	"fmt"
	"time"

	"cis490/src/bag"
)

// The paths of what sealing writes into the payload, and the label of the host in bag-info.txt.
const (
	RunPath    = "data/run.json"
	CratePath  = "data/ro-crate-metadata.json"
	OutputPath = "data/output"
	LabelHost  = "Cis490-Host"
)

// Facts is what is said of an episode before its bytes are sent, and checked against them afterwards. Facts of the same
// episode are equal by ==.
type Facts struct {
	ID      ID
	Host    string
	Digest  bag.Digest
	Started time.Time // whole seconds, rounded down, UTC: the precision at which they travel (RFC 9651, section 3.3.7)
	Ended   time.Time
	Size    int64 // payload bytes, the octets of Payload-Oxum
	Files   int64 // payload files, the streams of Payload-Oxum
}

// Seconds rounds t down to what Facts holds.
func Seconds(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

// MakeFacts puts together what an episode's tag files and its run.json say, and refuses what they say differently. The error
// carries no code: whether it is damage or malice depends on where they were read.
func MakeFacts(digest bag.Digest, info bag.Info, run *Run) (Facts, error) {
	octets, streams, err := info.Oxum()
	if err != nil {
		return Facts{}, err
	}
	for _, l := range []struct{ label, want string }{{bag.LabelIdentifier, run.ID.String()}, {LabelHost, run.Host}} {
		switch all := info.All(l.label); {
		case len(all) != 1:
			return Facts{}, fmt.Errorf("bag-info.txt has %d lines %s, want 1", len(all), l.label)
		case all[0] != l.want:
			return Facts{}, fmt.Errorf("bag-info.txt has %s: %.80q, run.json has %q", l.label, all[0], l.want)
		}
	}
	return Facts{
		ID: run.ID, Host: run.Host, Digest: digest,
		Started: Seconds(run.Started.Realtime), Ended: Seconds(run.Ended.Realtime),
		Size: octets, Files: streams,
	}, nil
}

// ReadFacts reads the facts of the sealed episode at dir. It reads and checks the five tag files and run.json, and no other
// payload. The error is a *[code.Error]: Damaged when dir is no whole episode of its name, ReadFailed when the operating
// system failed or dir is not there at all (then it wraps fs.ErrNotExist).
func ReadFacts(dir string) (Facts, error) {
	e, err := Open(dir)
	if err != nil {
		return Facts{}, err
	}
	return e.Facts, nil
}
