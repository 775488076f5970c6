package config

import (
	"net/url"
	"time"
)

// LabHost is what lab-host.hcl says, with defaults filled in and checked.
type LabHost struct {
	// File is the path it was loaded from.
	File string

	Host         string // [a-z0-9-]{1,63}
	DataDir      string // absolute
	RunDir       string // absolute
	Organization string // "" if not set
	MinFree      Size

	Receiver ReceiverAddress
	Shipper  Shipper
}

// ReceiverAddress is the receiver block of lab-host.hcl.
type ReceiverAddress struct {
	URL        *url.URL // https, or http to a loopback address; no path but "", no query
	CAFile     string   // absolute, or "" for the system's roots
	ServerName string   // name that the receiver's certificate must have; "" means URL.Hostname()
}

// Name is the name that the receiver's certificate must have.
func (r ReceiverAddress) Name() string {
	if r.ServerName != "" {
		return r.ServerName
	}
	return r.URL.Hostname()
}

// Shipper is the shipper block of lab-host.hcl.
type Shipper struct {
	ScanInterval    time.Duration
	Watchdog        time.Duration // watchdog_sec
	UploadWorkers   int
	PackWorkers     int    // never 0: the number of cores when not set
	Compression     string // auto, raw, fastest or default
	ConnectTimeout  time.Duration
	StallTimeout    time.Duration
	ResponseTimeout time.Duration
	BackoffMin      time.Duration
	BackoffMax      time.Duration
	PollInterval    time.Duration
	ReportInterval  time.Duration // 0: none are sent
	StopTimeout     time.Duration
	RateLimit       RateLimit     // of all uploads together
	KeepShipped     time.Duration // 0: removed once acknowledged

	QuarantineKeepDays        int           // 0: never cleaned up
	QuarantineCleanupInterval time.Duration // quarantine_cleanup_interval_s

	MetricsListen string // host:port, or "" for none
}

// Receiver is what receiver.hcl says, with defaults filled in and checked.
type Receiver struct {
	// File is the path it was loaded from.
	File string

	StateDir      string // absolute
	RunDir        string // absolute
	Listen        string // host:port or :port
	MetricsListen string // host:port, or "" for none
	MaxSkew       time.Duration
	UploadMaxAge  time.Duration
	OperatorGroup string // group that may use the operator socket; "" for only the receiver's own user

	TLS    TLS
	Window Window
	Limits Limits
	Scrub  Scrub
	Hosts  []Host // in the order of the file; names and keys are distinct
}

// TLS is the tls block of receiver.hcl. Either CertFile and KeyFile are both
// set, or neither, and then the receiver's own CA issues the certificate.
type TLS struct {
	Names      []string // DNS names and IP addresses for the certificate
	CACertFile string   // absolute; StateDir/ca/ca.crt when not set
	CAKeyFile  string   // absolute; StateDir/ca/ca.key when not set
	CertFile   string
	KeyFile    string
}

// Window is the window block of receiver.hcl: which episodes are let in by the
// time at which they ran.
type Window struct {
	NotBefore *time.Time    // nil: no bound
	NotAfter  *time.Time    // nil: no bound
	MaxAge    time.Duration // 0: no bound
	MaxAhead  time.Duration
}

// Limits is the limits block of receiver.hcl.
type Limits struct {
	EpisodeSize         Size  // payload bytes of one episode
	EpisodeFiles        int64 // payload files of one episode
	Ratio               int64 // decompressed bytes per compressed byte
	Uploads             int   // uploads at once, all hosts together
	UploadsPerHost      int
	PartialBytesPerHost Size // bytes of unfinished uploads kept per host
	MinFree             Size // free space kept on the store's file system
	Memory              Size // of the receiver as a whole
	Connections         int  // at once
	HeaderBytes         int
	StallTimeout        time.Duration
}

// Scrub is the scrub block of receiver.hcl.
type Scrub struct {
	Every time.Duration // 0: never
	Rate  Rate          // of reading archives; RateOff: never
}

// Host is one host block of receiver.hcl.
type Host struct {
	Name string // [a-z0-9-]{1,63}
	Key  string // sha256:<64 lower-case hex digits>
}
