package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/identity"
	"cis490/src/wire"
)

// attacker is a host that the receiver knows, whose program is not the shipper.
type attacker struct {
	t    *testing.T
	name string
	key  string
	addr string
	tls  *tls.Config
	http *http.Client
}

func newAttacker(t *testing.T, r *receiver, name string) *attacker {
	t.Helper()
	cert, key, err := identity.LoadOrMakeHostKey(filepath.Join(tempDir(t), "identity"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.NewClient(cert, r.ca(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{t: t, name: name, key: key, addr: r.addr, tls: id.Config()}
	tr := &http.Transport{TLSClientConfig: a.tls, MaxIdleConnsPerHost: 4}
	t.Cleanup(tr.CloseIdleConnections)
	a.http = &http.Client{Transport: tr, Timeout: 2 * time.Minute}
	return a
}

// dial makes a connection of TLS.
func (a *attacker) dial() (*tls.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", a.addr, a.tls)
}

// reply is an answer in short; status 0 is a connection that ended without one.
type reply struct {
	status int
	code   code.Code
	header http.Header
}

func (r reply) String() string {
	switch {
	case r.status == 0:
		return "cut"
	case r.code == "":
		return fmt.Sprint(r.status)
	}
	return fmt.Sprintf("%d %s", r.status, r.code)
}

func (a *attacker) do(method, path string, header map[string]string, body io.Reader, length int64) reply {
	req, err := http.NewRequest(method, "https://"+a.addr+path, body)
	if err != nil {
		panic(err) // no test makes one that can't be
	}
	if length != 0 {
		req.ContentLength = length
	}
	req.Header.Set("Content-Type", "application/partial-upload")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return reply{}
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // the status and the header say it all
	return reply{resp.StatusCode, code.Code(resp.Header.Get(wire.HeaderCode)), resp.Header}
}

// raw sends bytes that no HTTP client would, and reads the answers until the connection ends.
func (a *attacker) raw(request string) (answers []reply) {
	c, err := a.dial()
	if err != nil {
		return []reply{{}}
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		return []reply{{}}
	}
	for b := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(b, nil)
		if err != nil {
			break
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode >= 200 {
			answers = append(answers, reply{resp.StatusCode, code.Code(resp.Header.Get(wire.HeaderCode)), resp.Header})
		}
		if err != nil || resp.Close {
			break
		}
	}
	if answers == nil {
		return []reply{{}}
	}
	return answers
}

// forged is an episode as its parts, each of which may be wrong.
type forged struct {
	facts episode.Facts
	tags  map[string][]byte
	files map[string][]byte // "data/…"
}

var tagOrder = []string{bag.TagManifest, bag.Declaration, bag.InfoFile, bag.Manifest, bag.Files}

// forge makes a sound episode of the host with the given files in data/output/.
func forge(host string, files map[string][]byte) *forged {
	id := episode.NewID()
	at := time.Now().Add(-time.Minute).UTC()
	run := &episode.Run{Schema: episode.Schema, ID: id, Host: host, Workload: "forged", Outcome: episode.Complete,
		Started: episode.Moment{Realtime: at}, Ended: episode.Moment{Realtime: at.Add(time.Second)}}
	b, err := run.Format()
	if err != nil {
		panic(err)
	}
	f := &forged{facts: episode.Facts{ID: id, Host: host, Started: at.Truncate(time.Second), Ended: at.Add(time.Second).Truncate(time.Second)},
		tags: map[string][]byte{}, files: map[string][]byte{episode.RunPath: b}}
	for name, content := range files {
		f.files["data/output/"+name] = content
	}
	return f.seal(nil)
}

// seal makes the tag files fit the rest; manifest, when given, is one that doesn't fit.
func (f *forged) seal(manifest []byte) *forged {
	size := int64(0)
	list := manifest
	for _, p := range slices.Sorted(maps.Keys(f.files)) {
		size += int64(len(f.files[p]))
		if manifest == nil {
			sum := sha256.Sum256(f.files[p])
			list = bag.AppendManifestLine(list, sum[:], p)
		}
	}
	f.describe(list, size, int64(len(f.files)))
	return f
}

// describe makes the tag files for a manifest of that many bytes in that many files.
func (f *forged) describe(manifest []byte, size, files int64) {
	info, err := bag.FormatInfo(bag.Info{{Label: bag.LabelOxum, Value: bag.FormatOxum(size, files)},
		{Label: bag.LabelIdentifier, Value: f.facts.ID.String()}, {Label: episode.LabelHost, Value: f.facts.Host}})
	if err != nil {
		panic(err)
	}
	f.tags[bag.Manifest], f.tags[bag.InfoFile] = manifest, info
	f.tags[bag.Declaration], f.tags[bag.Files] = []byte(bag.DeclarationText), nil
	f.sealTags()
	f.facts.Size, f.facts.Files = size, files
}

func (f *forged) sealTags() {
	var b []byte
	for _, n := range slices.Sorted(slices.Values(tagOrder[1:])) {
		sum := sha256.Sum256(f.tags[n])
		b = bag.AppendManifestLine(b, sum[:], n)
	}
	f.tags[bag.TagManifest] = b
	f.facts.Digest = bag.DigestOf(b)
}

// entry is one entry of a tar stream.
type entry struct {
	tar.Header
	body []byte
}

// entries are those of a sound tar stream.
func (f *forged) entries() (out []entry) {
	add := func(name string, b []byte) {
		out = append(out, entry{tar.Header{Typeflag: tar.TypeReg, Name: f.facts.ID.String() + "/" + name, Size: int64(len(b)), Mode: 0o644}, b})
	}
	for _, n := range tagOrder {
		add(n, f.tags[n])
	}
	for _, p := range slices.Sorted(maps.Keys(f.files)) {
		add(p, f.files[p])
	}
	return out
}

func tarred(entries []entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range entries {
		if err := w.WriteHeader(&entries[i].Header); err != nil {
			panic(err)
		}
		if entries[i].Size > 0 {
			if _, err := w.Write(entries[i].body); err != nil {
				panic(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// frames packs b in frames of n bytes of content.
func frames(b []byte, n int) (out []byte) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	for part := range slices.Chunk(b, n) {
		out = e.EncodeAll(part, out)
	}
	return out
}

// rawFrame is a frame that does not tell its size, with b in raw blocks and then n blocks of 128 KiB of zeros, of four bytes each.
func rawFrame(b []byte, n int) []byte {
	const maxBlock = 128 << 10
	out := binary.LittleEndian.AppendUint32(nil, 0xFD2FB528)
	out = append(out, 0, 7<<3) // a window of 128 KiB
	block := func(last bool, kind, size int) {
		h := uint32(size)<<3 | uint32(kind)<<1
		if last {
			h |= 1
		}
		out = append(out, byte(h), byte(h>>8), byte(h>>16))
	}
	for part := range slices.Chunk(b, maxBlock) {
		block(false, 0, len(part))
		out = append(out, part...)
	}
	for range n {
		block(false, 1, maxBlock)
		out = append(out, 0)
	}
	block(true, 0, 0)
	return out
}

func (f *forged) announcement() wire.Announcement {
	return wire.Announcement{Facts: f.facts, Sent: time.Now()}
}

// post sends a body in one request, as one that can't be resumed.
func (a *attacker) post(ann wire.Announcement, body []byte) reply {
	return a.stream(ann, bytes.NewReader(body), int64(len(body)))
}

// stream is post for a body of unknown length, when length is -1.
func (a *attacker) stream(ann wire.Announcement, body io.Reader, length int64) reply {
	if length == 0 {
		body = http.NoBody
	}
	return a.do("POST", wire.PathEpisodes, map[string]string{wire.HeaderEpisode: wire.FormatAnnouncement(ann), "Content-Type": wire.MediaEpisode}, body, length)
}

// begin makes an upload and gives its path.
func (a *attacker) begin(ann wire.Announcement) (string, reply) {
	r := a.do("POST", wire.PathEpisodes, map[string]string{wire.HeaderEpisode: wire.FormatAnnouncement(ann), wire.HeaderUploadComplete: "?0"}, nil, 0)
	return r.header.Get("Location"), r
}

func (a *attacker) patch(path, offset, complete string, body []byte) reply {
	return a.do("PATCH", path, map[string]string{wire.HeaderUploadOffset: offset, wire.HeaderUploadComplete: complete}, bytes.NewReader(body), 0)
}

// head is the header of a request for raw.
func (a *attacker) head(method, path string, lines ...string) string {
	return method + " " + path + " HTTP/1.1\r\nHost: " + a.addr + "\r\n" + strings.Join(append(lines, "", ""), "\r\n")
}
