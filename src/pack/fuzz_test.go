package pack

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
)

func fuzzFrames(f *testing.F) {
	content := telemetry(1, 3000)
	for level := Raw; level <= Default; level++ {
		for _, b := range [][]byte{content, make([]byte, 20_000), noise(1, 300), {1}} {
			var e encoder
			out, err := e.encode(level, b, make([]byte, len(b)+bufferSlack))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(slices.Clone(out))
		}
	}
	for name, b := range stock(f, content) {
		if !strings.HasPrefix(name, "stock") { // the corpus is the same on every machine
			f.Add(b)
		}
	}
	f.Add([]byte("\x5A\x2A\x4D\x18\x05\x00\x00\x00hello\x28\xB5\x2F\xFD\x20\x05\x28\x00\x00hello"))
}

// The scanner agrees with itself whatever the pieces, and with the decoder about where frames end.
func FuzzFrameScanner(f *testing.F) {
	fuzzFrames(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, valid, err := ScanFrames(bytes.NewReader(b))
		if err != nil && codeOf(err) != code.Malformed {
			t.Fatal(err)
		}
		sum := int64(0)
		for _, fr := range frames {
			sum += fr.Compressed
		}
		if sum != valid || valid > int64(len(b)) {
			t.Fatalf("frames of %d bytes in %d, valid %d", sum, len(b), valid)
		}
		var s FrameScanner
		var pieces []FrameInfo
		for i, p := 0, b; len(p) > 0; i++ {
			n, done, perr := s.Scan(p[:min(len(p), 1+i%7)])
			if perr != nil {
				if err == nil {
					t.Fatalf("an error only in pieces: %v", perr)
				}
				break
			}
			if p = p[n:]; done {
				pieces = append(pieces, s.Frame())
			}
		}
		if !slices.Equal(pieces, frames) {
			t.Fatalf("frames %v in pieces, %v in one", pieces, frames)
		}
	})
}

// What is decoded is what another way of decoding gives, within the bound.
func FuzzDecodeFrame(f *testing.F) {
	fuzzFrames(f)
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 18
		got, err := DecodeFrame(nil, b, limit)
		if len(got) > limit {
			t.Fatalf("%d bytes", len(got))
		}
		if c := codeOf(err); err != nil && c != code.Malformed && c != code.TooLarge {
			t.Fatal(err)
		}
		if err == nil {
			want, werr := dec.DecodeAll(b, nil)
			if werr != nil || !bytes.Equal(got, want) {
				t.Fatalf("another decoder: %d bytes, %v; here %d bytes", len(want), werr, len(got))
			}
		}
		d := NewDecoder(bytes.NewReader(b))
		streamed, serr := io.ReadAll(io.LimitReader(d, limit+1))
		d.Close()
		if err == nil && (serr != nil || !bytes.Equal(got, streamed)) {
			t.Fatalf("as a stream: %d bytes, %v; at once %d bytes", len(streamed), serr, len(got))
		}
		if serr == nil && len(streamed) <= limit && err != nil && codeOf(err) != code.TooLarge {
			t.Fatalf("as a stream all is well, at once: %v", err)
		}
	})
}

// fuzzEpisode is the same on every run, unlike sample.
func fuzzEpisode(f *testing.F, files tree) *content {
	c := makeContent(f, files)
	id, err := episode.ParseID("0197f3c1-7a2b-7c3d-8e4f-0123456789ab")
	if err != nil {
		f.Fatal(err)
	}
	c.files[runFile] = bytes.ReplaceAll(c.files[runFile], []byte(c.id.String()), []byte(id.String()))
	c.id = id
	c.seal(f, "lab-1")
	return c
}

// Nothing makes Verify panic, and what it accepts another reader of tar sees as it did.
func FuzzVerify(f *testing.F) {
	for _, c := range []*content{
		fuzzEpisode(f, tree{"a/empty": nil, "b": []byte("b")}),
		fuzzEpisode(f, tree{strings.Repeat("long/", 30) + "näme": []byte("PAX"), "text": telemetry(1, 600)}),
	} {
		f.Add(c.tar(f))
		f.Add(makeTar(f, c.entries()))
		gnu := c.entries()
		for i := range gnu {
			gnu[i].h.Format = tar.FormatGNU
			gnu[i].h.ModTime = time.Unix(1<<33, 0)
		}
		f.Add(makeTar(f, gnu))
		pax := c.entries()
		for i := range pax {
			pax[i].h.Format = tar.FormatPAX
			pax[i].h.ModTime, pax[i].h.AccessTime = time.Unix(-1, 5), time.Unix(1, 5)
		}
		f.Add(makeTar(f, pax))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := newVerifier(bytes.NewReader(b), Limits{TagBytes: 1 << 20, PayloadBytes: 1 << 20, Files: 1000})
		res, err := v.episode()
		v.free()
		if err != nil {
			if c := codeOf(err); c != code.Malformed && c != code.DigestMismatch && c != code.TooLarge {
				t.Fatal(err)
			}
			return
		}
		if again, err := Verify(bytes.NewReader(b), res.Facts, Limits{}); err != nil || again.Facts != res.Facts {
			t.Fatalf("its own facts are refused: %v", err)
		}
		r := tar.NewReader(bytes.NewReader(b))
		files, size := 0, int64(0)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("archive/tar: %v", err)
			}
			if h.Typeflag != tar.TypeReg || !strings.HasPrefix(h.Name, res.Facts.ID.String()+"/") || h.Mode&^0o777 != 0 {
				t.Fatalf("archive/tar sees %+v", h)
			}
			n, err := io.Copy(io.Discard, r)
			if err != nil || n != h.Size {
				t.Fatal(n, err)
			}
			if files++; files > len(tagFiles) {
				size += n
				if !strings.HasPrefix(h.Name[37:], bag.PayloadDir+"/") {
					t.Fatalf("archive/tar sees %q", h.Name)
				}
			}
		}
		if size != res.Bytes || int64(files-len(tagFiles)) != res.Files {
			t.Fatalf("archive/tar sees %d bytes in %d files, here it is %d in %d", size, files-len(tagFiles), res.Bytes, res.Files)
		}
	})
}

// One header alone: the strict reader and archive/tar see the same name and size.
func FuzzHeader(f *testing.F) {
	for _, path := range []string{"data/x", strings.Repeat("d", 60) + "/" + strings.Repeat("f", 90), "ü"} {
		for _, format := range []tar.Format{tar.FormatUnknown, tar.FormatGNU, tar.FormatPAX} {
			for _, size := range []int64{0, 5, maxUstarSize + 1} {
				var b bytes.Buffer
				tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "0197f3c1-7a2b-7c3d-8e4f-0123456789ab/" + path, Size: size, Format: format, Mode: 0o600, Uid: 1000, Uname: "u"})
				f.Add(b.Bytes())
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Repair the checksums, or nothing gets through.
		for at := 0; at+blockSize <= len(b); at += blockSize {
			if string(b[at+257:at+262]) == "ustar" {
				setChecksum(b[at : at+blockSize])
			}
		}
		h, err := tar.NewReader(bytes.NewReader(b)).Next()
		name := ""
		if err == nil && len(h.Name) > 37 {
			name = h.Name[37:]
		}
		if name == "" || strings.HasSuffix(name, "/") {
			return // no manifest may have it, and to archive/tar it is a directory
		}
		v := &verifier{}
		v.src.r = bytes.NewReader(b)
		size, verr := v.header(name)
		if verr != nil {
			return
		}
		if err != nil {
			t.Fatalf("archive/tar: %v; here it is a file of %d bytes", err, size)
		}
		if h.Typeflag != tar.TypeReg || h.Size != size || h.Name != v.id+"/"+name {
			t.Fatalf("archive/tar sees %+v, here it is %d bytes", h, size)
		}
	})
}
