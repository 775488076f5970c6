package ingest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cis490/src/bag"
	"cis490/src/episode"
	"cis490/src/wire"
)

// What is taken up of a former process is an upload of a host's, within its own file, and is kept as it was read.
func FuzzUploadFile(f *testing.F) {
	ann := wire.Announcement{Facts: episode.Facts{ID: episode.ID{6: 0x70, 8: 0x80}, Digest: bag.Digest{1}, Started: time.Unix(1, 0), Ended: time.Unix(2, 0), Size: 5, Files: 1}, Sent: time.Unix(3, 0)}
	good, _ := json.Marshal(uploadFile{Schema: uploadSchema, Host: "lab-1", Announcement: wire.FormatAnnouncement(ann), WindowID: "w", Created: time.Unix(4, 0).UTC(), Length: -1, BootID: bootID()})
	f.Add(good)
	for _, m := range []uploadFile{
		{Schema: uploadSchema, Host: "../lab", Announcement: wire.FormatAnnouncement(ann), Length: 5, Proper: 2},
		{Schema: uploadSchema, Host: "lab-1", Announcement: wire.FormatAnnouncement(ann), Length: -5, Proper: -2},
		{Schema: uploadSchema, Host: "lab-1", Announcement: wire.FormatAnnouncement(ann), Length: 1 << 62, Proper: 1 << 62},
	} {
		b, _ := json.Marshal(m)
		f.Add(b)
	}
	g := newRig(f)
	const token = "0123456789abcdef0123456789abcdef"
	dir := g.r.store.IncomingDir()
	data, meta := filepath.Join(dir, token+dataSuffix), filepath.Join(dir, token+metaSuffix)
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, content := range map[string][]byte{meta: b, data: make([]byte, 100)} {
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		info, err := os.Stat(meta)
		if err != nil {
			t.Fatal(err)
		}
		there, err := os.Stat(data)
		if err != nil {
			t.Fatal(err)
		}
		u, err := g.r.readUpload(token, info, there)
		if err != nil {
			return
		}
		if !episode.ValidHost(u.ann.Host) || u.length < -1 || u.proper < 0 || u.size != 100 || u.bounds.archive <= 0 || u.bounds.content <= 0 || u.bounds.frames <= 0 {
			t.Fatalf("%q was taken as %+v", b, u)
		}
		u.gen = 1
		again, err := u.meta()
		if err != nil {
			return // a time that JSON can't have
		}
		if err := os.WriteFile(meta, again, 0o600); err != nil {
			t.Fatal(err)
		}
		if info, err = os.Stat(meta); err != nil {
			t.Fatal(err)
		}
		v, err := g.r.readUpload(token, info, there)
		if err != nil || v.ann != u.ann || v.length != u.length || v.windowID != u.windowID || !v.created.Equal(u.created) {
			t.Fatalf("%q became %q: %+v, %v", b, again, v, err)
		}
	})
}
