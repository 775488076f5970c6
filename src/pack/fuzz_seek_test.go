package pack

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"

	"cis490/src/code"
)

// A seek table that is taken fits what it is behind, and is what would be written.
func FuzzSeekTable(f *testing.F) {
	for _, frames := range [][]FrameInfo{nil, {{5, 3}}, {{0, 0}, {12, 1 << 20}}} {
		var b bytes.Buffer
		for _, fr := range frames {
			b.Write(make([]byte, fr.Compressed))
		}
		if err := AppendSeekTable(&b, frames); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		sums := slices.Clone(b.Bytes()) // one that says it has checksums
		sums[len(sums)-5] |= seekChecksums
		f.Add(sums)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, err := ReadSeekTable(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrNoSeekTable) {
				t.Fatal(err)
			}
			return
		}
		var again bytes.Buffer
		if err := AppendSeekTable(&again, frames); err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		for _, fr := range frames {
			if fr.Compressed < 0 || fr.Content < 0 {
				t.Fatalf("%+v", fr)
			}
			sum += fr.Compressed
		}
		if b[len(b)-5] != 0 {
			return // with checksums, or bits without a meaning: not as written here
		}
		if sum+int64(again.Len()) != int64(len(b)) || !bytes.Equal(again.Bytes(), b[sum:]) {
			t.Fatalf("a table of %d bytes behind %d of frames in %d bytes would be written otherwise", again.Len(), sum, len(b))
		}
	})
}

// Whatever the seek table says, a file that is read alone is the one that the manifest lists.
func FuzzArchive(f *testing.F) {
	c := fuzzEpisode(f, tree{"a/empty": nil, "b": []byte("b"), "text": telemetry(1, 3000)})
	stream := c.tar(f)
	for _, cut := range []int{len(stream), 2000, 700} {
		var b bytes.Buffer
		var frames []FrameInfo
		var e encoder
		for part := range slices.Chunk(stream, cut) {
			out, err := e.encode(Fastest, part, make([]byte, len(part)+bufferSlack))
			if err != nil {
				f.Fatal(err)
			}
			b.Write(out)
			frames = append(frames, FrameInfo{int64(len(out)), int64(len(part))})
		}
		f.Add(slices.Clone(b.Bytes()))
		if err := AppendSeekTable(&b, frames); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := OpenArchive(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if c := codeOf(err); c != code.Malformed && c != code.DigestMismatch && c != code.TooLarge {
				t.Fatal(err)
			}
			return
		}
		n := 0
		for e, err := range a.Files() {
			if err != nil || n > 20 {
				break
			}
			n++
			file, err := a.Open(e.Path)
			if err != nil {
				continue
			}
			got, err := io.ReadAll(io.LimitReader(file, 1<<20))
			file.Close()
			if err == nil && int64(len(got)) == file.Size && [sha256.Size]byte(e.Sum) != sha256.Sum256(got) {
				t.Fatalf("%s was read without an error and is not what the manifest lists", e.Path)
			}
		}
	})
}
