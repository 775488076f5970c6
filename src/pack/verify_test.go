package pack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
)

func sample(t testing.TB) *content {
	return makeContent(t, tree{"a/empty": nil, "a/text": telemetry(1, 2000), "b": []byte("b"), "large": mixed(2, 200_000),
		strings.Repeat("long/", 30) + "näme": []byte("PAX")})
}

func verify(b []byte, want episode.Facts) (*Verified, error) {
	return Verify(bytes.NewReader(b), want, Limits{})
}

func TestVerifyAccepts(t *testing.T) {
	c := sample(t)
	want := c.facts(t)
	b := c.tar(t)
	for name, r := range map[string]io.Reader{
		"at once":     bytes.NewReader(b),
		"in pieces":   iotest.OneByteReader(bytes.NewReader(b)),
		"with EOF":    iotest.DataErrReader(bytes.NewReader(b)),
		"one block":   io.MultiReader(bytes.NewReader(b), bytes.NewReader(make([]byte, blockSize))),
		"10 KiB":      io.MultiReader(bytes.NewReader(b), bytes.NewReader(make([]byte, recordSize-endSize))),
		"its decoder": NewDecoder(bytes.NewReader(packAll(t, b))),
	} {
		v, err := Verify(r, want, Limits{Files: want.Files, PayloadBytes: want.Size, TagBytes: 10_000, RunBytes: 1000})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if v.Facts != want || !bytes.Equal(v.Run, c.files[runFile]) || v.Info.Get(episode.LabelHost) != "lab-1" || v.Files != want.Files || v.Bytes != want.Size {
			t.Errorf("%s: %+v, want %+v", name, v, want)
		}
	}
}

// packAll packs tar bytes as a stream does.
func packAll(t testing.TB, b []byte) (packed []byte) {
	t.Helper()
	var e encoder
	for i := 0; len(b) > 0; i++ {
		n := min(len(b), FrameSize)
		out, err := e.encode(Level(1+i%3), b[:n], make([]byte, n+bufferSlack))
		if err != nil {
			t.Fatal(err)
		}
		packed, b = append(packed, out...), b[n:]
	}
	return packed
}

// What stock tar makes of an episode is accepted, in each of its formats, if the order is right.
func TestVerifyAcceptsStockTar(t *testing.T) {
	path, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("there is no tar(1)")
	}
	c := sample(t)
	dir := c.write(t)
	for _, format := range []string{"gnu", "ustar", "posix"} {
		files, dir := c, dir
		if format == "ustar" { // can't hold the long name
			files = makeContent(t, tree{"x": []byte("x"), strings.Repeat("d", 90) + "/" + strings.Repeat("f", 90): nil})
			dir = files.write(t)
		}
		args := []string{"-c", "--format=" + format, "-C", filepath.Dir(dir)}
		for _, n := range slices.Concat(tagFiles[:], files.paths()) {
			args = append(args, files.id.String()+"/"+n)
		}
		cmd := exec.Command(path, args...)
		cmd.Stderr = t.Output()
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verify(out, files.facts(t)); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

func TestVerifyNoticesEveryTruncation(t *testing.T) {
	c := sample(t)
	want, b := c.facts(t), c.tar(t)
	step := 1
	for n := 0; n < len(b); n += step {
		_, err := verify(b[:n], want)
		if codeOf(err) != code.Malformed {
			t.Fatalf("cut to %d of %d: %v", n, len(b), err)
		}
		step = 1 + n%50*13 // each residue of the block size is met, not each offset
	}
}

func TestVerifyNoticesEveryByte(t *testing.T) {
	c := makeContent(t, tree{"a/empty": nil, "text": telemetry(1, 700), strings.Repeat("long/", 30) + "näme": []byte("PAX")})
	want, b := c.facts(t), c.tar(t)
	for bit := 0; bit < 8*len(b); bit += 3 { // every byte, and every bit of some
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := verify(b, want); err == nil && !harmless(b, bit/8) {
			t.Fatalf("bit %d of byte %d (%d in its block) can change", bit%8, bit/8, bit/8%blockSize)
		} else if c := codeOf(err); err != nil && c != code.Malformed && c != code.DigestMismatch && c != code.TooLarge {
			t.Fatalf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

// harmless tells whether the byte is of a header's checksum field, where a leading zero may be a blank and a zero byte, too.
func harmless(b []byte, i int) bool {
	at := i % blockSize
	return string(b[i-at+257:i-at+262]) == "ustar" && 148 <= at && at < 156
}

// entry is one entry of a tar stream in a test.
type entry struct {
	h    tar.Header
	data []byte
}

func (c *content) entries() (e []entry) {
	add := func(name string, b []byte) {
		e = append(e, entry{tar.Header{Typeflag: tar.TypeReg, Name: c.id.String() + "/" + name, Mode: 0o644, Size: int64(len(b))}, b})
	}
	for _, n := range tagFiles {
		add(n, c.tags[n])
	}
	for _, n := range c.paths() {
		add(n, c.files[n])
	}
	return e
}

func makeTar(t testing.TB, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestVerifyRefuses(t *testing.T) {
	const first = len(tagFiles) // index of the first payload entry
	type hostile struct {
		// One of these changes an honest episode.
		content func(c *content)
		entries func(e []entry) []entry
		tar     func(b []byte) []byte
		want    func(f *episode.Facts)
		lim     Limits

		code   code.Code
		detail string
	}
	insert := func(at int, h tar.Header) func(e []entry) []entry {
		return func(e []entry) []entry {
			if h.Name == "" {
				h.Name = e[at].h.Name
			}
			return slices.Insert(e, at, entry{h: h})
		}
	}
	file := func(at int, f func(e *entry)) func(e []entry) []entry {
		return func(e []entry) []entry { f(&e[at]); return e }
	}
	resealed := func(f func(c *content)) func(c *content) {
		return func(c *content) { f(c); c.sealTags() }
	}
	edit := func(name, old, new string) func(c *content) {
		return func(c *content) { c.tags[name] = bytes.Replace(c.tags[name], []byte(old), []byte(new), 1) }
	}
	for name, h := range map[string]hostile{
		"symlink":         {entries: insert(first, tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), code: code.Malformed, detail: "symbolic link"},
		"hard link":       {entries: insert(first, tar.Header{Typeflag: tar.TypeLink, Linkname: "x"}), code: code.Malformed, detail: "hard link"},
		"device":          {entries: insert(first, tar.Header{Typeflag: tar.TypeChar}), code: code.Malformed, detail: "character device"},
		"block device":    {entries: insert(first, tar.Header{Typeflag: tar.TypeBlock}), code: code.Malformed, detail: "block device"},
		"FIFO":            {entries: insert(first, tar.Header{Typeflag: tar.TypeFifo}), code: code.Malformed, detail: "FIFO"},
		"directory":       {entries: insert(first, tar.Header{Typeflag: tar.TypeDir}), code: code.Malformed, detail: "directory"},
		"global header":   {entries: insert(first, tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": "/etc/passwd"}}), code: code.Malformed, detail: "global header"},
		"contiguous":      {entries: file(first, func(e *entry) { e.h.Typeflag = tar.TypeCont }), code: code.Malformed, detail: "contiguous"},
		"old sparse":      {tar: typeflag('S'), code: code.Malformed, detail: "sparse"},
		"long link":       {tar: typeflag('K'), code: code.Malformed, detail: "long link"},
		"unknown type":    {tar: typeflag('Z'), code: code.Malformed, detail: `type 'Z'`},
		"PAX sparse":      {entries: file(first, func(e *entry) { e.h.PAXRecords = map[string]string{"VENDOR.sparse.map": "0,1"} }), code: code.Malformed, detail: "VENDOR.sparse.map"},
		"xattr":           {entries: file(first, func(e *entry) { e.h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y"} }), code: code.Malformed, detail: "SCHILY.xattr"},
		"setuid":          {entries: file(first, func(e *entry) { e.h.Mode = 0o4755 }), code: code.Malformed, detail: "mode"},
		"link name":       {entries: file(first, func(e *entry) { e.h.Linkname = "x" }), code: code.Malformed, detail: "names a link"},
		"other name":      {entries: file(first, func(e *entry) { e.h.Name += "x" }), code: code.Malformed, detail: "where"},
		"other directory": {entries: file(first, func(e *entry) { e.h.Name = "x" + e.h.Name[1:] }), code: code.Malformed, detail: "where"},
		"absolute name":   {entries: file(first, func(e *entry) { e.h.Name = "/" + e.h.Name }), code: code.Malformed, detail: "where"},
		"dotted name":     {entries: file(first, func(e *entry) { e.h.Name = "./" + e.h.Name }), code: code.Malformed, detail: "where"},
		"climbing name":   {entries: file(first, func(e *entry) { e.h.Name = e.h.Name + "/../../x" }), code: code.Malformed, detail: "where"},
		"twice":           {entries: func(e []entry) []entry { return slices.Insert(e, first, e[first]) }, code: code.Malformed, detail: "where"},
		"missing":         {entries: func(e []entry) []entry { return slices.Delete(e, first, first+1) }, code: code.Malformed, detail: "where"},
		"last missing":    {entries: func(e []entry) []entry { return e[:len(e)-1] }, code: code.Malformed, detail: "has no"},
		"one more":        {entries: func(e []entry) []entry { return append(e, entry{h: tar.Header{Name: "x", Typeflag: tar.TypeReg}}) }, code: code.Malformed, detail: "padding"},
		"swapped":         {entries: func(e []entry) []entry { e[first], e[first+1] = e[first+1], e[first]; return e }, code: code.Malformed, detail: "where"},
		"tags swapped":    {entries: func(e []entry) []entry { e[1], e[2] = e[2], e[1]; return e }, code: code.Malformed, detail: "where"},
		"payload first":   {entries: func(e []entry) []entry { return append(e[first:], e[:first]...) }, code: code.Malformed, detail: "where"},
		"no tag files":    {entries: func(e []entry) []entry { return e[first:] }, code: code.Malformed, detail: "where"},
		"nothing":         {tar: func([]byte) []byte { return nil }, code: code.Malformed, detail: "ends at"},
		"only an end":     {tar: func([]byte) []byte { return make([]byte, endSize) }, code: code.Malformed, detail: "has no"},
		"garbage":         {tar: func(b []byte) []byte { return noise(1, len(b)) }, code: code.Malformed, detail: "checksum"},
		"garbage behind":  {tar: func(b []byte) []byte { return append(b, "garbage"...) }, code: code.Malformed, detail: "more behind"},
		"zeros behind":    {tar: func(b []byte) []byte { return append(b, make([]byte, recordSize)...) }, code: code.Malformed, detail: "more behind"},
		"twice the tar":   {tar: func(b []byte) []byte { return append(b, b...) }, code: code.Malformed, detail: "more behind"},
		"one zero block":  {tar: func(b []byte) []byte { return b[:len(b)-blockSize] }, code: code.Malformed, detail: "ends at"},

		"content of the same size": {entries: file(first+1, func(e *entry) { e.data[0] ^= 1 }), code: code.DigestMismatch, detail: "is not what manifest-sha256.txt says"},
		"shorter":                  {entries: file(first+1, func(e *entry) { e.h.Size--; e.data = e.data[1:] }), code: code.DigestMismatch, detail: "is not what"},
		"longer":                   {entries: file(len(tagFiles)+5, func(e *entry) { e.h.Size++; e.data = append(e.data, 'x') }), code: code.Malformed, detail: "more payload"},
		"tag file":                 {content: func(c *content) { c.tags[bag.Files] = []byte("x") }, code: code.DigestMismatch, detail: "files.jsonl is not what tagmanifest"},
		"manifest":                 {content: edit(bag.Manifest, "data", "DATA"), code: code.DigestMismatch, detail: "manifest-sha256.txt is not what"},
		"other digest":             {want: func(f *episode.Facts) { f.Digest[0] ^= 1 }, code: code.DigestMismatch, detail: "bag digest"},
		"other id":                 {want: func(f *episode.Facts) { f.ID[15] ^= 1 }, code: code.Malformed, detail: "where"},
		"other host":               {want: func(f *episode.Facts) { f.Host = "lab-2" }, code: code.Malformed, detail: "host was announced as lab-2, the episode says lab-1"},
		"other start":              {want: func(f *episode.Facts) { f.Started = f.Started.Add(1e9) }, code: code.Malformed, detail: "started was announced"},
		"other end":                {want: func(f *episode.Facts) { f.Ended = f.Ended.Add(-1e9) }, code: code.Malformed, detail: "ended was announced"},
		"more announced":           {want: func(f *episode.Facts) { f.Size++ }, code: code.Malformed, detail: "were announced"},
		"fewer announced":          {want: func(f *episode.Facts) { f.Files-- }, code: code.Malformed, detail: "were announced"},

		"lying Oxum":         {content: resealed(edit(bag.InfoFile, ".6", ".7")), code: code.Malformed, detail: "there are"},
		"low Oxum":           {content: resealed(edit(bag.InfoFile, ".6", ".3")), code: code.Malformed, detail: "more than the 3 files"},
		"no Oxum":            {content: resealed(edit(bag.InfoFile, bag.LabelOxum, "X")), code: code.Malformed, detail: bag.LabelOxum},
		"lying host":         {content: resealed(edit(bag.InfoFile, "lab-1", "lab-2")), code: code.Malformed, detail: "run.json has"},
		"lying identifier":   {content: resealed(edit(bag.InfoFile, bag.LabelIdentifier+": ", bag.LabelIdentifier+": x")), code: code.Malformed, detail: "run.json has"},
		"bad info":           {content: resealed(edit(bag.InfoFile, ":", " ")), code: code.Malformed, detail: "bag-info.txt"},
		"other declaration":  {content: resealed(edit(bag.Declaration, "1.0", "0.9")), code: code.Malformed, detail: "BagIt 1.0"},
		"unsorted":           {content: func(c *content) { reverseLines(c.tags, bag.Manifest); c.sealTags() }, entries: func(e []entry) []entry { slices.Reverse(e[first:]); return e }, code: code.Malformed, detail: "not sorted"},
		"climbing manifest":  {content: resealed(edit(bag.Manifest, "data/a/empty", "data/../../x")), code: code.Malformed, detail: "manifest-sha256.txt: line 1"},
		"manifest of a tag":  {content: resealed(edit(bag.Manifest, "data/a/empty", "bagit.txt")), code: code.Malformed, detail: "outside data/"},
		"bad line":           {content: resealed(edit(bag.Manifest, "  data", " *data")), code: code.Malformed, detail: "line 1"},
		"bad tag manifest":   {content: func(c *content) { c.tags[bag.TagManifest] = []byte("x\n") }, code: code.Malformed, detail: "tagmanifest-sha256.txt: line 1"},
		"short tag manifest": {content: func(c *content) { cutLine(c.tags, bag.TagManifest) }, code: code.Malformed, detail: "lists 3 files"},
		"another tag file":   {content: func(c *content) { edit(bag.TagManifest, "files.jsonl", "files.json")(c) }, code: code.Malformed, detail: "does not list files.jsonl"},
		"no run.json":        {content: func(c *content) { renameFile(c, runFile, "data/run.jsom"); c.seal(t, "lab-1") }, code: code.Malformed, detail: "no data/run.json"},
		"bad run.json":       {content: func(c *content) { c.files[runFile] = []byte("{}"); c.seal(t, "lab-1") }, code: code.Malformed, detail: "run.json"},
		"other run.json": {content: func(c *content) {
			c.files[runFile] = bytes.Replace(c.files[runFile], []byte("lab-1"), []byte("lab-2"), 1)
			c.seal(t, "lab-1")
		}, code: code.Malformed, detail: "run.json has"},
		"large tag manifest":  {content: func(c *content) { c.tags[bag.TagManifest] = make([]byte, 5000) }, code: code.TooLarge, detail: "tagmanifest"},
		"large info":          {content: func(c *content) { c.tags[bag.InfoFile] = make([]byte, 70_000); c.sealTags() }, code: code.TooLarge, detail: "bag-info"},
		"too many files":      {lim: Limits{Files: 5}, code: code.TooLarge, detail: "6 files, the limit is 5"},
		"too many bytes":      {lim: Limits{PayloadBytes: 200_000}, code: code.TooLarge, detail: "the limit is 200000"},
		"too many tag bytes":  {lim: Limits{TagBytes: 300}, code: code.TooLarge, detail: "the limit is 300"},
		"too long a run.json": {lim: Limits{RunBytes: 10}, code: code.TooLarge, detail: "data/run.json"},
		"huge run.json":       {content: func(c *content) { c.files[runFile] = make([]byte, episode.MaxRun+1); c.seal(t, "lab-1") }, code: code.TooLarge, detail: "data/run.json"},
		"header of 10 GiB":    {tar: headerSizeField(first, "\x80\x00\x00\x00\x00\x00\x00\x02\x80\x00\x00\x00"), code: code.Malformed, detail: "more payload"},
		"negative size":       {tar: headerSizeField(first, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), code: code.Malformed, detail: "no valid size"},
		"size beyond int64":   {tar: headerSizeField(first, "\x80\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff"), code: code.Malformed, detail: "no valid size"},
		"size near int64":     {tar: headerSizeField(first, "\x80\x00\x00\x00\x3f\xff\xff\xff\xff\xff\xff\xff"), code: code.Malformed, detail: "more payload"},
		"no size":             {tar: headerSizeField(first, strings.Repeat("\x00", 12)), code: code.Malformed, detail: "no valid size"},
		"tag file of 10 GiB":  {tar: headerSizeField(3, "\x80\x00\x00\x00\x00\x00\x00\x02\x80\x00\x00\x00"), lim: Limits{TagBytes: 1 << 20}, code: code.TooLarge, detail: "tag files"},
		"no magic":            {tar: headerField(first, 257, "\x00\x00\x00\x00\x00\x00\x00\x00"), code: code.Malformed, detail: "neither ustar nor GNU"},
		"two long names":      {tar: doubled, code: code.Malformed, detail: "two extended"},
		"huge extension":      {tar: hugeExtension, code: code.Malformed, detail: "a tar header of"},
	} {
		t.Run(name, func(t *testing.T) {
			c := sample(t)
			want := c.facts(t)
			if h.content != nil {
				h.content(c)
				want.Digest = bag.DigestOf(c.tags[bag.TagManifest])
				if name == "manifest" || name == "tag file" {
					want.Digest = bag.DigestOf(c.tags[bag.TagManifest])
				}
				if info, err := bag.ParseInfo(c.tags[bag.InfoFile]); err == nil {
					if octets, streams, err := info.Oxum(); err == nil {
						want.Size, want.Files = octets, streams
					}
				}
			}
			b := c.tar(t)
			if h.entries != nil {
				b = makeTar(t, h.entries(c.entries()))
			}
			if h.tar != nil {
				b = h.tar(b)
			}
			if h.want != nil {
				h.want(&want)
			}
			_, err := Verify(bytes.NewReader(b), want, h.lim)
			wantError(t, err, h.detail)
			if codeOf(err) != h.code {
				t.Errorf("code %q, want %q: %v", codeOf(err), h.code, err)
			}
		})
	}
}

// nthHeader finds the n-th file's own header.
func nthHeader(b []byte, n int) []byte {
	for at := 0; ; {
		h := b[at : at+blockSize]
		size, _ := octal(h[124:136])
		if h[156] == '0' {
			if n--; n < 0 {
				return h
			}
		}
		at += blockSize + int(size+padding(size))
	}
}

func setChecksum(h []byte) {
	copy(h[148:156], "        ")
	copy(h[148:], fmt.Sprintf("%06o\x00 ", blockSum(h)))
}

func headerField(n, at int, value string) func(b []byte) []byte {
	return func(b []byte) []byte {
		h := nthHeader(b, n)
		copy(h[at:], value)
		setChecksum(h)
		return b
	}
}

func headerSizeField(n int, value string) func(b []byte) []byte { return headerField(n, 124, value) }

func typeflag(c byte) func(b []byte) []byte {
	return headerField(len(tagFiles), 156, string([]byte{c}))
}

// doubled repeats the extended header of the long name.
func doubled(b []byte) []byte {
	for at := 0; ; {
		size, _ := octal(b[at+124 : at+136])
		end := at + blockSize + int(size+padding(size))
		if b[at+156] == 'x' {
			return slices.Concat(b[:end], b[at:end], b[end:])
		}
		at = end
	}
}

func hugeExtension(b []byte) []byte {
	for at := 0; ; {
		size, _ := octal(b[at+124 : at+136])
		if b[at+156] == 'x' {
			copy(b[at+124:], "77777777777\x00")
			setChecksum(b[at : at+blockSize])
			return b
		}
		at += blockSize + int(size+padding(size))
	}
}

func reverseLines(tags map[string][]byte, name string) {
	lines := strings.SplitAfter(string(tags[name]), "\n")
	slices.Reverse(lines)
	tags[name] = []byte(strings.Join(lines, ""))
}

func cutLine(tags map[string][]byte, name string) {
	_, tags[name], _ = bytes.Cut(tags[name], []byte("\n"))
}

func renameFile(c *content, from, to string) {
	c.files[to] = c.files[from]
	delete(c.files, from)
}

func TestVerifyPassesOnTheReadersError(t *testing.T) {
	c := sample(t)
	b := c.tar(t)
	cut := errors.New("the connection was cut")
	for _, n := range []int{0, 100, 5000, len(b) - 1, len(b)} {
		_, err := Verify(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(cut)), c.facts(t), Limits{})
		if !errors.Is(err, cut) || codeOf(err) != "" {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// A long manifest is kept in a file, and read back the same; when that can't be written, it is no verdict on the episode.
func TestLongManifest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := telemetry(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 3*keptManifest).Draw(t, "n"))
		var x text
		defer x.close()
		if err := x.open(int64(len(b)), nil); err != nil || (x.file != nil) != (len(b) > keptManifest) {
			t.Fatal(x.file, err)
		}
		for rest := b; len(rest) > 0; {
			n := min(len(rest), rapid.IntRange(1, keptManifest+1).Draw(t, "piece"))
			x.write(rest[:n])
			rest = rest[n:]
		}
		for range 2 {
			got, err := io.ReadAll(x.reader())
			if err != nil || !bytes.Equal(got, b) {
				t.Fatalf("%d bytes of %d come back, %v", len(got), len(b), err)
			}
		}
	})
	files := tree{}
	for i := range 6000 {
		files[fmt.Sprintf("d%d/f%d", i/100, i)] = nil
	}
	c := makeContent(t, files)
	if _, err := verify(c.tar(t), c.facts(t)); err != nil {
		t.Error(err)
	}
	full := errors.New("no room")
	if _, err := Verify(bytes.NewReader(c.tar(t)), c.facts(t), Limits{Spill: func(int64) (*os.File, error) { return nil, full }}); !errors.Is(err, full) || codeOf(err) != "" {
		t.Errorf("without a file: %v", err)
	}
	readOnly := func(int64) (*os.File, error) { return os.Open(os.DevNull) }
	if _, err := Verify(bytes.NewReader(c.tar(t)), c.facts(t), Limits{Spill: readOnly}); err == nil || codeOf(err) != "" {
		t.Errorf("with a file that can't be written: %v", err)
	}
}

func TestHeadersAreThoseOfArchiveTar(t *testing.T) {
	id := episode.NewID().String()
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.OneOf(
			rapid.StringMatching(`[ -~]{1,63}`), rapid.StringMatching(`[a-z]{60,66}`), rapid.StringMatching(`([a-z]{1,90}/){1,3}[a-z]{1,90}`), rapid.StringN(1, 40, 120),
		).Draw(t, "path")
		if strings.Contains(path, "\x00") || strings.HasSuffix(path, "/") {
			t.Skip("no legal path")
		}
		size := rapid.OneOf(rapid.Int64Range(0, 1<<20), rapid.Int64Range(maxUstarSize-1, maxUstarSize+1), rapid.Int64Range(0, 1<<50)).Draw(t, "size")
		got, err := appendHeader([]byte("before"), id, path, size)
		if err != nil {
			t.Fatal(err)
		}
		got = got[len("before"):]
		if n, err := headerSize(id, path, size); err != nil || n != int64(len(got)) {
			t.Fatalf("headerSize is %d, %v; the header has %d bytes", n, err, len(got))
		}
		var want bytes.Buffer
		if err := tar.NewWriter(&want).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: id + "/" + path, Size: size, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("header\n%q, archive/tar writes\n%q", got, want.Bytes())
		}
		// And the strict reader takes it.
		v := &verifier{id: id}
		v.src.r = bytes.NewReader(got)
		if n, err := v.header(path); err != nil || n != size {
			t.Fatalf("read back: %d, %v", n, err)
		}
	})
}

// Random damage to a packed archive is refused, or does not matter.
func TestDamagedArchives(t *testing.T) {
	c := sample(t)
	want, packed := c.facts(t), packAll(t, c.tar(t))
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		b := slices.Clone(packed)
		for range 1 + r.IntN(3) {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
		if r.IntN(3) == 0 {
			b = b[:r.IntN(len(b))]
		}
		d := NewDecoder(bytes.NewReader(b))
		v, err := Verify(d, want, Limits{})
		d.Close()
		if err == nil {
			if v.Facts != want {
				t.Fatal("other facts are accepted")
			}
		} else if c := codeOf(err); c != code.Malformed && c != code.TooLarge && c != code.DigestMismatch {
			t.Fatal(err)
		}
	}
}
