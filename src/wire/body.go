package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
)

// Receipt is the receiver's word that an episode is verified and stored for
// good. It is the only thing against which a source is freed.
type Receipt struct {
	Episode         episode.ID `json:"episode"`
	Host            string     `json:"host"`
	BagDigest       bag.Digest `json:"bag_digest"`   // hex SHA-256 of tagmanifest-sha256.txt
	ArchiveSize     int64      `json:"archive_size"` // bytes of the stored archive
	StoredAt        time.Time  `json:"stored_at"`    // receiver's clock
	ReceiverVersion string     `json:"receiver_version"`
	WindowID        string     `json:"window_id"`
}

// Window is the span of time that the receiver accepts episodes of. A nil
// bound is no bound; a zero duration is none.
type Window struct {
	ID        string        `json:"window_id"`
	NotBefore *time.Time    `json:"not_before,omitempty"`
	NotAfter  *time.Time    `json:"not_after,omitempty"`
	MaxAge    time.Duration `json:"max_age_ns,omitempty"`   // how long ago an episode may have ended
	MaxAhead  time.Duration `json:"max_ahead_ns,omitempty"` // how far ahead of the receiver's clock it may have ended
}

// Admits says whether an episode that ran from started to ended fits into the
// window at now, and if not, why.
func (w Window) Admits(started, ended, now time.Time) (why string, ok bool) {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case w.NotBefore != nil && started.Before(*w.NotBefore):
		return fmt.Sprintf("started %s, the window opens at not_before = %s", stamp(started), stamp(*w.NotBefore)), false
	case w.NotAfter != nil && ended.After(*w.NotAfter):
		return fmt.Sprintf("ended %s, the window closes at not_after = %s", stamp(ended), stamp(*w.NotAfter)), false
	case w.MaxAge > 0 && ended.Before(now.Add(-w.MaxAge)):
		return fmt.Sprintf("ended %s, more than max_age = %s before the receiver's time %s", stamp(ended), span(w.MaxAge), stamp(now)), false
	case w.MaxAhead > 0 && ended.After(now.Add(w.MaxAhead)):
		return fmt.Sprintf("ended %s, more than max_ahead = %s after the receiver's time %s", stamp(ended), span(w.MaxAhead), stamp(now)), false
	}
	return "", true
}

// span writes a duration as the configuration does: in whole days where it is.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

// Limits is what the receiver refuses to exceed.
type Limits struct {
	EpisodeSize  int64 `json:"episode_size"`  // payload bytes
	EpisodeFiles int64 `json:"episode_files"` // payload files
}

// Self is the answer to GET /v1/hosts/self.
type Self struct {
	Host            string        `json:"host"`
	Key             string        `json:"key"`
	Window          Window        `json:"window"`
	MaxSkew         time.Duration `json:"max_skew_ns"`
	Limits          Limits        `json:"limits"`
	ServerTime      time.Time     `json:"server_time"`
	ReceiverVersion string        `json:"receiver_version"`
	Damaged         Damaged       `json:"damaged"`
}

// Damaged says which of a host's episodes the receiver has stored and
// acknowledged and no longer holds sound. Sent again, with the same digest, each
// takes the place of the damaged copy.
type Damaged struct {
	Count    int64        `json:"count"`
	Episodes []episode.ID `json:"episodes,omitempty"` // the first MaxDamaged of them
}

// MaxDamaged is the most episodes that [Damaged] names.
const MaxDamaged = 20

// Problem is an RFC 9457 problem body with our members.
type Problem struct {
	Type       string    `json:"type"`
	Title      string    `json:"title"`
	Status     int       `json:"status"`
	Detail     string    `json:"detail,omitempty"`
	Code       code.Code `json:"code"`
	Fix        string    `json:"fix,omitempty"`
	ServerTime time.Time `json:"server_time"`
	Window     *Window   `json:"window,omitempty"`

	// Members of the draft's own problem types.
	ExpectedOffset *int64  `json:"expected-offset,omitempty"`
	ProvidedOffset *int64  `json:"provided-offset,omitempty"`
	Lengths        []int64 `json:"lengths,omitempty"`

	RetryAfter time.Duration `json:"-"` // the Retry-After field, whole seconds
}

// NewProblem makes the problem that says c.
func NewProblem(c code.Code, detail string, now time.Time) Problem {
	i := c.Info()
	p := Problem{Type: i.Type(), Title: i.Title, Status: i.Status, Detail: detail, Code: c, Fix: i.Fix, ServerTime: now.UTC()}
	switch c {
	case code.OffsetMismatch:
		p.Type = TypeMismatchingOffset
	case code.LengthMismatch:
		p.Type = TypeInconsistentLength
	}
	return p
}

// WriteProblem answers with p: its status, Cis490-Code, Cis490-Detail,
// Retry-After and, unless the request was a HEAD, the body.
func WriteProblem(w http.ResponseWriter, r *http.Request, p Problem) {
	h := w.Header()
	h.Set("Content-Type", MediaProblem)
	h.Set("Cache-Control", "no-store")
	h.Set(HeaderCode, string(p.Code))
	if p.Detail != "" {
		h.Set(HeaderDetail, FormatString(truncate(p.Detail, maxDetail)))
	}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((p.RetryAfter+time.Second-1)/time.Second), 10))
	}
	body, err := json.Marshal(p)
	if err != nil { // no member of Problem can fail to marshal
		body = []byte(`{}`)
	}
	body = append(body, '\n')
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that has gone needs no answer
	}
}

const (
	maxDetail = 1024     // bytes of Cis490-Detail
	maxBody   = 64 << 10 // bytes of a JSON body that are read
)

// ReadProblem finds our problem in an answer: in its body, or for a HEAD in
// its header. ok is false when the answer carries no code of ours: then a
// proxy spoke, or another server. The body is read but not closed.
func ReadProblem(r *http.Response) (p Problem, ok bool) {
	p.Status = r.StatusCode
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && mt == MediaProblem && r.Request.Method != http.MethodHead {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err == nil && json.Unmarshal(body, &p) == nil && p.Code != "" {
			ok = true
		}
	} else if c := r.Header.Get(HeaderCode); c != "" {
		i := code.Code(c).Info()
		p = Problem{Type: i.Type(), Title: i.Title, Code: i.Code, Fix: i.Fix}
		p.Detail, _ = ParseString(r.Header.Values(HeaderDetail))
		ok = true
	}
	// The status line is what the connection said; a body that contradicts it is not believed.
	p.Status = r.StatusCode
	if i, known := code.Lookup(p.Code); !known || i.Status == 0 {
		ok = false // no code that a receiver has: a host finds those by itself
	}
	if s, err := strconv.ParseInt(r.Header.Get("Retry-After"), 10, 32); err == nil && s > 0 {
		p.RetryAfter = time.Duration(s) * time.Second
	} else if t, err := http.ParseTime(r.Header.Get("Retry-After")); err == nil {
		p.RetryAfter = max(0, time.Until(t))
	}
	return p, ok
}

// ReadJSON decodes a bounded JSON body strictly enough to notice another
// server's answer.
func ReadJSON(r io.Reader, into any) error { return readJSON(r, maxBody, into) }

func readJSON(r io.Reader, most int64, into any) error {
	body, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return err
	}
	if int64(len(body)) > most {
		return fmt.Errorf("the JSON body has more than %d bytes", most)
	}
	return json.NewDecoder(bytes.NewReader(body)).Decode(into)
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}
