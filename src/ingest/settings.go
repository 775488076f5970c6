package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"cis490/src/config"
	"cis490/src/episode"
	"cis490/src/pack"
	"cis490/src/wire"
)

// settings is one configuration and what follows from it. It is never changed,
// only replaced.
type settings struct {
	cfg    config.Receiver
	window wire.Window
}

func newSettings(cfg config.Receiver) *settings {
	w := wire.Window{NotBefore: cfg.Window.NotBefore, NotAfter: cfg.Window.NotAfter, MaxAge: cfg.Window.MaxAge, MaxAhead: cfg.Window.MaxAhead}
	w.ID = windowID(w)
	return &settings{cfg: cfg, window: w}
}

// windowID names a window by its bounds: the same bounds give the same id, so
// that hosts ask again only when something changed.
func windowID(w wire.Window) string {
	w.ID = ""
	for _, t := range []**time.Time{&w.NotBefore, &w.NotAfter} {
		if *t != nil {
			utc := (*t).UTC()
			*t = &utc
		}
	}
	b, err := json.Marshal(w)
	if err != nil {
		panic(err) // times and durations can be marshalled
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Bounds of what one episode may put into memory or send.
const (
	// smallBody is the longest body that is kept in memory: one raw frame with
	// some room for other packers.
	smallBody = pack.FrameSize + 64<<10
	// maxFrame is the longest content, and nearly the longest frame, that is
	// decoded in memory while the upload runs. An upload with longer frames is
	// verified as a stream from its file once it is whole.
	maxFrame           = 4 << 20
	maxCompressedFrame = maxFrame + 64<<10
	// slowBody is how long a short body may take to arrive before it is kept in a
	// file: memory is for those that are quick.
	slowBody = 2 * time.Second
	// ratioAllowance is how much may be decoded before limits.ratio counts:
	// small episodes of zeros are no bombs.
	ratioAllowance = 64 << 20
)

// bounds is what follows from the announcement for one upload.
type bounds struct {
	verify  pack.Limits
	content int64 // tar bytes
	archive int64 // bytes of the upload
	frames  int
	ratio   int64
}

func newBounds(a wire.Announcement, l config.Limits) bounds {
	const (
		mib = 1 << 20
		// perFile is the tar header and padding of a file, and the PAX records of
		// a path of maximal length.
		perFile = 512 + 511 + 512 + 4096 + 1024
	)
	tags := min(64*mib+a.Files*1024, 512*mib)
	b := bounds{
		verify: pack.Limits{Files: l.EpisodeFiles, PayloadBytes: int64(l.EpisodeSize), TagBytes: tags, RunBytes: episode.MaxRun},
		ratio:  l.Ratio,
	}
	b.content = a.Size + tags + (a.Files+5)*perFile + 1024
	b.archive = b.content + b.content/128 + mib // frames that don't compress, and a seek table
	b.frames = int(min(b.content/(64<<10)+4096, 1<<21))
	return b
}

// likely is how many bytes the upload of a takes up at most, nearly always; it
// is what room is reserved for.
func likely(a wire.Announcement) int64 { return a.Size + 1<<20 + a.Files*2048 }
