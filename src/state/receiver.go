package state

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/liveness"
	"cis490/src/wire"
)

// ReceiverUnit is the name of the receiver's service.
const ReceiverUnit = "cis490-receiver"

// ReceiverPath is where a receiver with that run_dir keeps its state for others
// to read.
func ReceiverPath(runDir string) string { return filepath.Join(runDir, "state.json") }

// OperatorPath is the socket on which an operator speaks to a receiver with that
// run_dir.
func OperatorPath(runDir string) string { return filepath.Join(runDir, "operator.sock") }

// Receiver is what a receiver tells of itself: in state.json, which is replaced
// whole, and over the operator's socket.
type Receiver struct {
	Schema    int       `json:"schema"` // 1
	Unit      string    `json:"unit"`
	Version   string    `json:"version"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Listen    string    `json:"listen"`

	Window              wire.Window `json:"window"`
	CertificateNotAfter time.Time   `json:"certificate_not_after"`

	LastStored *Stored             `json:"last_stored,omitempty"`
	LastCode   *Happened           `json:"last_code,omitempty"`
	Codes      map[code.Code]int64 `json:"codes"` // answers since the start

	UploadsUnderWay int    `json:"uploads_under_way"`
	PartialUploads  int    `json:"partial_uploads"`
	PartialBytes    int64  `json:"partial_bytes"`
	FreeBytes       uint64 `json:"free_bytes"`
	ReservedBytes   int64  `json:"reserved_bytes"`
	Rebuilding      bool   `json:"catalogue_rebuilding"`

	DamagedEpisodes int64     `json:"damaged_episodes"`
	OldestCheck     time.Time `json:"oldest_check,omitzero"` // no stored episode was last read and found right before

	CatalogueError string `json:"catalogue_error,omitempty"` // why it can't be asked

	// Held are hosts that hold their queue because the receiver refuses them for
	// what they are, not for an episode: the first of HeldCount.
	Held      []Happened `json:"held_hosts,omitempty"`
	HeldCount int        `json:"held_hosts_count,omitempty"`

	Workers []liveness.State `json:"workers"`
}

// Stored is an acknowledged episode in the state file.
type Stored struct {
	At      time.Time  `json:"at"`
	Episode episode.ID `json:"episode"`
	Host    string     `json:"host"`
}

// Happened is the last code that was answered.
type Happened struct {
	Code   code.Code `json:"code"`
	Since  time.Time `json:"since"` // of the first of an unbroken row of it
	At     time.Time `json:"at"`    // of the last
	Host   string    `json:"host,omitempty"`
	Detail string    `json:"detail,omitempty"`
}

// ReadReceiver reads the state that a receiver with that run_dir last wrote.
func ReadReceiver(runDir string) (Receiver, error) {
	var st Receiver
	err := read(ReceiverPath(runDir), &st, func() int { return st.Schema })
	return st, err
}

// read reads a state file.
func read(path string, into any, schema func() int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if n := schema(); n != 1 {
		return fmt.Errorf("%s: schema %d, this program reads 1: bring both to the same version", path, n)
	}
	return nil
}

// Write replaces a state file. All may read it, whatever the daemon's umask: what
// is wrong with a host is no secret on it, and the doctor runs as anybody.
func Write(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
