// Package code is the one vocabulary of what can happen to an episode on its
// way from a lab host to the receiver.
//
// The same words stand in the wire's problem bodies, in the journal's
// CIS490_CODE field, in the state file, as label of the metrics and in the
// doctor's rows. [All] is the single list; CODES.md and the systemd message
// catalogue beside this file are generated from it, and a test fails when a
// code lacks a meaning, a fix or a message id, or when a generated file is
// out of date.
package code

import (
	"errors"
	"fmt"
	"time"
)

// Code names one outcome. Its text is what travels and what is logged.
type Code string

// The codes. What each means and how it is mended stands in the table below.
const (
	Stored         Code = "stored"
	AlreadyStored  Code = "already-stored"
	Malformed      Code = "malformed"
	OutOfWindow    Code = "out-of-window"
	ClockSkew      Code = "clock-skew"
	Conflict       Code = "conflict"
	TooLarge       Code = "too-large"
	DigestMismatch Code = "digest-mismatch"
	Damaged        Code = "damaged"
	OffsetMismatch Code = "offset-mismatch"
	LengthMismatch Code = "length-mismatch"
	UploadGone     Code = "upload-gone"
	HostUnknown    Code = "host-unknown"
	HostRevoked    Code = "host-revoked"
	ReceiverFull   Code = "receiver-full"
	ReceiverBusy   Code = "receiver-busy"
	ReceiverError  Code = "receiver-error"
	Unmarked4xx    Code = "unmarked-4xx"
	Unreachable    Code = "unreachable"
	DNSFailed      Code = "dns-failed"
	TimedOut       Code = "timed-out"
	Stalled        Code = "stalled"
	Cut            Code = "cut"
	TLSUntrusted   Code = "tls-untrusted"
	TLSExpired     Code = "tls-expired"
	TLSWrongName   Code = "tls-wrong-name"
	DiskFull       Code = "disk-full"
	ReadFailed     Code = "read-failed"
	AttemptDied    Code = "attempt-died"
	StoreDamaged   Code = "store-damaged"
	StoreMended    Code = "store-mended"
	StoreMismatch  Code = "store-mismatch"
	CopyDamaged    Code = "copy-damaged"
)

// Class says what a code is about, and so what the shipper does with it.
type Class string

const (
	// Done: the episode is at the receiver; its source may be freed against the receipt.
	Done Class = "done"
	// OfEpisode: this one episode is at fault; it is set aside and the rest of the queue goes on.
	OfEpisode Class = "episode"
	// OfHost: something about this host or its trust is at fault; the whole queue is held and nothing is set aside.
	OfHost Class = "host"
	// Transient: the path or the receiver is at fault for now; one probe at a time goes out with back-off.
	Transient Class = "transient"
	// OfUpload: the state of one upload is out of step; it is asked for anew or begun anew at once.
	OfUpload Class = "upload"
)

// Info is what is known of a code.
type Info struct {
	Code      Code
	Class     Class
	Status    int    // HTTP status when the receiver says it; 0 when the code never travels
	Title     string // a few words, for people
	Meaning   string // one line: what happened
	Fix       string // one line: what to do; a command where there is one
	MessageID string // MESSAGE_ID of the journal entry, 32 hex digits (systemd.journal-fields(7))
}

// Type is the problem type of RFC 9457, section 3.1.1, for codes that the
// resumable-upload draft has no type of its own for.
func (i Info) Type() string { return "urn:cis490:" + string(i.Code) }

// All returns every code in the order of the documentation.
func All() []Info { return append([]Info(nil), table...) }

// Lookup finds what is known of c.
func Lookup(c Code) (Info, bool) {
	i, ok := index[c]
	if !ok {
		return Info{}, false
	}
	return table[i], true
}

// Info returns what is known of c; an unknown code, as a later version of the
// other side may send, is a transient one without a fix.
func (c Code) Info() Info {
	if i, ok := Lookup(c); ok {
		return i
	}
	return Info{Code: c, Class: Transient, Title: string(c), Meaning: "A code that this version does not know.",
		Fix: "Bring host and receiver to the same version."}
}

// Class returns the class of c; see [Code.Info] for unknown codes.
func (c Code) Class() Class { return c.Info().Class }

// Error is an error that carries a code across layers. Detail is for the
// person who reads the log, without the code's own meaning.
type Error struct {
	Code       Code
	Detail     string
	RetryAfter time.Duration // how long the receiver asked us to wait; 0 when it did not say
	Err        error
}

func (e *Error) Error() string {
	switch {
	case e.Detail == "" && e.Err == nil:
		return string(e.Code)
	case e.Err == nil:
		return string(e.Code) + ": " + e.Detail
	case e.Detail == "":
		return string(e.Code) + ": " + e.Err.Error()
	}
	return string(e.Code) + ": " + e.Detail + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// New makes an error of code c.
func New(c Code, format string, a ...any) *Error {
	return &Error{Code: c, Detail: fmt.Sprintf(format, a...)}
}

// Wrap makes an error of code c whose cause is err.
func Wrap(c Code, err error, format string, a ...any) *Error {
	return &Error{Code: c, Detail: fmt.Sprintf(format, a...), Err: err}
}

// Of finds the code that err carries, if any.
func Of(err error) (Code, bool) {
	var e *Error
	if errors.As(err, &e) {
		return e.Code, true
	}
	return "", false
}
