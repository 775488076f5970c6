package wire

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"cis490/src/bag"
	"cis490/src/episode"
)

// Announcement is what a host says of an episode before any byte of it: the
// Cis490-Episode field. Times travel as whole seconds (RFC 9651, section
// 3.3.7).
type Announcement struct {
	episode.Facts
	Sent time.Time // the host's clock when the request was made
}

// FormatAnnouncement renders a as the value of Cis490-Episode. The host is
// not in it: the host is the one whose key speaks, and Host of the parsed
// announcement is for the receiver to fill in.
func FormatAnnouncement(a Announcement) string {
	var b strings.Builder
	b.Grow(192)
	fmt.Fprintf(&b, `id="%s", digest=`, a.ID)
	b.WriteString(byteSequence(a.Digest[:]))
	fmt.Fprintf(&b, ", sent=@%d, started=@%d, ended=@%d, size=%d, files=%d",
		a.Sent.Unix(), a.Started.Unix(), a.Ended.Unix(), a.Size, a.Files)
	return b.String()
}

// ParseAnnouncement reads the values of Cis490-Episode. Every member must be
// there once, with its own type, and in range; members that it does not know
// are ignored, as RFC 9651 asks of extensible dictionaries.
func ParseAnnouncement(values []string) (Announcement, error) {
	var a Announcement
	d, err := dictionary(HeaderEpisode, values)
	if err != nil {
		return a, err
	}
	var id string
	var digest []byte
	for _, m := range []struct {
		name string
		into any
	}{
		{"id", &id}, {"digest", &digest}, {"sent", &a.Sent}, {"started", &a.Started}, {"ended", &a.Ended},
		{"size", &a.Size}, {"files", &a.Files},
	} {
		if err := member(d, m.name, m.into); err != nil {
			return a, fmt.Errorf("%s: %w", HeaderEpisode, err)
		}
	}
	if a.ID, err = episode.ParseID(id); err != nil {
		return a, fmt.Errorf("%s: id: %w", HeaderEpisode, err)
	}
	if len(digest) != len(a.Digest) {
		return a, fmt.Errorf("%s: digest has %d bytes; a SHA-256 has %d", HeaderEpisode, len(digest), len(a.Digest))
	}
	a.Digest = bag.Digest(digest)
	switch {
	case a.Size < 0 || a.Files < 0:
		return a, fmt.Errorf("%s: size and files can't be negative", HeaderEpisode)
	case a.Ended.Before(a.Started):
		return a, fmt.Errorf("%s: ended is before started", HeaderEpisode)
	}
	return a, nil
}

// Held says how much of an upload the receiver holds in whole zstd frames:
// the Cis490-Held field. The packer goes on from tar byte Content.
type Held struct {
	Frames  int64 // whole frames
	Content int64 // tar bytes in them
}

// FormatHeld renders h as the value of Cis490-Held.
func FormatHeld(h Held) string {
	return fmt.Sprintf("frames=%d, content=%d", h.Frames, h.Content)
}

// ParseHeld reads the values of Cis490-Held.
func ParseHeld(values []string) (Held, error) {
	var h Held
	d, err := dictionary(HeaderHeld, values)
	if err != nil {
		return h, err
	}
	for name, into := range map[string]*int64{"frames": &h.Frames, "content": &h.Content} {
		if err := member(d, name, into); err != nil {
			return h, fmt.Errorf("%s: %w", HeaderHeld, err)
		}
	}
	if h.Frames < 0 || h.Content < 0 {
		return h, fmt.Errorf("%s: negative", HeaderHeld)
	}
	return h, nil
}

// UploadLimit is the draft's Upload-Limit field, as far as the receiver sets
// limits. A zero member is left out.
type UploadLimit struct {
	MaxSize int64         // bytes of the whole upload
	MaxAge  time.Duration // remaining lifetime of the upload, told in whole seconds
}

// FormatUploadLimit renders l; with no limit at all it is min-size=0, as the
// draft asks.
func FormatUploadLimit(l UploadLimit) string {
	var parts []string
	if l.MaxSize > 0 {
		parts = append(parts, fmt.Sprintf("max-size=%d", l.MaxSize))
	}
	if l.MaxAge > 0 {
		parts = append(parts, fmt.Sprintf("max-age=%d", int64(l.MaxAge/time.Second)))
	}
	if parts == nil {
		return "min-size=0"
	}
	return strings.Join(parts, ", ")
}

// ParseUploadLimit reads the values of Upload-Limit. Unknown members are
// ignored; a known one of another type, or a negative one, makes the whole field
// invalid.
func ParseUploadLimit(values []string) (UploadLimit, error) {
	var l UploadLimit
	d, err := dictionary(HeaderUploadLimit, values)
	if err != nil {
		return l, err
	}
	var age int64
	for name, into := range map[string]*int64{"max-size": &l.MaxSize, "max-age": &age} {
		if _, ok := d.Get(name); !ok {
			continue
		}
		if err := member(d, name, into); err != nil {
			return UploadLimit{}, fmt.Errorf("%s: %w", HeaderUploadLimit, err)
		}
	}
	if l.MaxSize < 0 || age < 0 {
		return UploadLimit{}, fmt.Errorf("%s: negative", HeaderUploadLimit)
	}
	l.MaxAge = time.Duration(min(age, int64(math.MaxInt64/time.Second))) * time.Second
	return l, nil
}

// FormatBool renders a structured boolean (RFC 9651, section 3.3.6).
func FormatBool(b bool) string {
	if b {
		return "?1"
	}
	return "?0"
}

// ParseBool reads a field whose value is one structured boolean. ok is false
// when the field is absent or anything else, which the draft tells us to
// treat as absent.
func ParseBool(values []string) (b, ok bool) {
	item, err := httpsfv.UnmarshalItem(values)
	if err != nil {
		return false, false
	}
	b, ok = item.Value.(bool)
	return b, ok
}

// ParseInteger reads a field whose value is one non-negative structured
// integer; ok as in [ParseBool].
func ParseInteger(values []string) (n int64, ok bool) {
	item, err := httpsfv.UnmarshalItem(values)
	if err != nil {
		return 0, false
	}
	n, ok = item.Value.(int64)
	return n, ok && n >= 0
}

// FormatString renders s as a structured display string (RFC 9651, section
// 3.3.8), which can hold any text.
func FormatString(s string) string {
	v, err := httpsfv.Marshal(httpsfv.NewItem(httpsfv.DisplayString(strings.ToValidUTF8(s, "�"))))
	if err != nil {
		return `%""`
	}
	return v
}

// ParseString reads what [FormatString] made.
func ParseString(values []string) (string, bool) {
	item, err := httpsfv.UnmarshalItem(values)
	if err != nil {
		return "", false
	}
	s, ok := item.Value.(httpsfv.DisplayString)
	return string(s), ok
}

func byteSequence(b []byte) string {
	v, err := httpsfv.Marshal(httpsfv.NewItem(b))
	if err != nil {
		panic(err) // a byte sequence has no value that cannot be rendered
	}
	return v
}

// maxField bounds what is handed to the structured-field parser, in bytes.
const maxField = 4096

func dictionary(name string, values []string) (*httpsfv.Dictionary, error) {
	n := 0
	for _, v := range values {
		n += len(v)
	}
	switch {
	case n == 0:
		return nil, fmt.Errorf("%s is missing", name)
	case n > maxField:
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", name, n, maxField)
	}
	d, err := httpsfv.UnmarshalDictionary(values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

func member(d *httpsfv.Dictionary, name string, into any) error {
	m, ok := d.Get(name)
	if !ok {
		return fmt.Errorf("%s is missing", name)
	}
	item, ok := m.(httpsfv.Item)
	if !ok {
		return fmt.Errorf("%s is a list", name)
	}
	wrong := errors.New("")
	switch p := into.(type) {
	case *string:
		*p, ok = item.Value.(string)
		wrong = errors.New("a string")
	case *[]byte:
		*p, ok = item.Value.([]byte)
		wrong = errors.New("a byte sequence")
	case *int64:
		*p, ok = item.Value.(int64)
		wrong = errors.New("an integer")
	case *time.Time:
		*p, ok = item.Value.(time.Time)
		*p = p.UTC()
		wrong = errors.New("a date")
	}
	if !ok {
		return fmt.Errorf("%s must be %w", name, wrong)
	}
	return nil
}
