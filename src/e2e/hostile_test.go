package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"cis490/src/bag"
	"cis490/src/code"
	"cis490/src/episode"
	"cis490/src/wire"
)

// maxResident is what the receiver's memory is to stay below, whatever arrives.
const maxResident = 128 << 20

// campaign is a receiver under attack by a host of its own.
type campaign struct {
	t      *testing.T
	r      *receiver
	evil   *attacker
	good   *attacker
	gang   []*attacker // more of evil's kind
	places int         // at which a stream is damaged
	rng    *rand.Rand
}

// is what may be answered; "cut" is a connection that ends without an answer.
func is(want ...string) func(reply) string {
	return func(r reply) string {
		if slices.Contains(want, r.String()) {
			return ""
		}
		return fmt.Sprintf("answered %s, want %s", r, strings.Join(want, " or "))
	}
}

var (
	malformed = is("400 malformed")
	refused   = is("400 malformed", "422 digest-mismatch", "413 too-large")
)

// TestAHostileHost sends the receiver everything that a host with a valid key can think of, and looks after each that the answer is the
// right one, that nothing was stored, and that it took no more than its memory. At the end nothing of it is left.
func TestAHostileHost(t *testing.T) {
	r := newReceiver(t, `upload_max_age = "3s"`, `limits.stall_timeout = "20s"`)
	c := &campaign{t: t, r: r, places: number(t, "CIS490_E2E_HOSTILE", 40), rng: rand.New(rand.NewPCG(1, 2))}
	c.evil, c.good = newAttacker(t, r, "evil"), newAttacker(t, r, "good")
	for i := range 20 {
		c.gang = append(c.gang, newAttacker(t, r, fmt.Sprintf("evil-%02d", i)))
	}
	for _, a := range append([]*attacker{c.evil, c.good}, c.gang...) {
		r.conf.set(fmt.Sprintf("host %q", a.name), "key", fmt.Sprintf("%q", a.key))
	}
	r.start()
	if got := c.good.post(soundly("good")); got.status != 201 {
		t.Fatalf("an honest episode: %s", got)
	}
	stored := r.stored()

	for _, attack := range slices.Concat(c.tars(), c.streams(), c.announcements(), c.headers(), c.uploads(), c.connections()) {
		if !r.alive() {
			t.Fatalf("the receiver ended:\n%s", r.tail(60))
		}
		// VmHWM begins anew (proc_pid_clear_refs(5)).
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", r.cmd.Process.Pid), []byte("5"), 0); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		what, why := attack.run()
		peak := r.peak()
		now := r.stored()
		verdict := "ok"
		switch {
		case why != "":
			verdict = "FAILED: " + why
		case peak > maxResident:
			verdict = "FAILED: too much memory"
		case !slices.Equal(now, stored) && !attack.stores:
			verdict = "FAILED: something was stored"
		}
		if verdict != "ok" {
			t.Fail()
		}
		stored = now
		t.Logf("%-58s %-32s %4d MiB %6d ms  %s", attack.name, what, peak>>20, time.Since(began).Milliseconds(), verdict)
	}

	if got := c.good.post(soundly("good")); got.status != 201 {
		t.Errorf("an honest episode afterwards: %s", got)
	}
	eventually(t, 20*time.Second, func() string {
		for _, n := range names(t, filepath.Join(r.state, "incoming")) {
			if n != ".commit" {
				return n + " is left in incoming/"
			}
		}
		return ""
	})
	if out := r.output(); strings.Contains(out, "panic") {
		t.Errorf("it panicked:\n%s", r.tail(60))
	}
}

// number is a parameter of the environment.
func number(t *testing.T, name string, def int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: give a number from 1 on", name, s)
	}
	return n
}

// soundly is an honest episode.
func soundly(host string) (wire.Announcement, []byte) {
	f := forge(host, map[string][]byte{"a": []byte("a"), "b": noiseBytes(3, 30_000)})
	return f.announcement(), frames(tarred(f.entries()), 1<<20)
}

func noiseBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// attack is one kind of input.
type attack struct {
	name   string
	run    func() (what, why string) // what was answered; why that is wrong, "" when it is right
	stores bool                      // what is sound after all is stored
}

// one is an attack of one request, refused as ok says.
func one(name string, ok func(reply) string, send func() reply) attack {
	return attack{name: name, run: func() (string, string) {
		r := send()
		return r.String(), ok(r)
	}}
}

// tars are tar streams that no packer of ours makes.
func (c *campaign) tars() []attack {
	f := forge("evil", map[string][]byte{"a": []byte("a"), "b": []byte("bb")})
	id := f.facts.ID.String()
	at := func(e []entry, name string) int {
		return slices.IndexFunc(e, func(e entry) bool { return e.Name == id+"/data/output/"+name })
	}
	with := func(name string, change func(e []entry) []entry) attack {
		return one(name, malformed, func() reply {
			return c.evil.post(f.announcement(), frames(tarred(change(f.entries())), 1<<20))
		})
	}
	kind := func(name string, h tar.Header) attack {
		return with(name, func(e []entry) []entry {
			i := at(e, "a")
			h.Name, h.Mode = e[i].Name, 0o644
			e[i] = entry{Header: h}
			return e
		})
	}
	renamed := func(name, to string) attack {
		return with(name, func(e []entry) []entry { e[at(e, "a")].Name = to; return e })
	}
	// listed has the name in its manifest too.
	listed := func(name, path string) attack {
		return one(name, refused, func() reply {
			g := forge("evil", nil)
			g.files[path] = []byte("x")
			g.seal(nil)
			return c.evil.post(g.announcement(), frames(tarred(g.entries()), 1<<20))
		})
	}
	return []attack{
		renamed("a path that leaves the episode", id+"/data/output/../../../../../etc/cron.d/x"),
		renamed("a path that leaves through the id", id+"/../x"),
		renamed("an absolute path", "/etc/cron.d/x"),
		renamed("the path of another episode", episode.NewID().String()+"/data/output/a"),
		renamed("a path with a dot", id+"/data/output/./a"),
		renamed("an empty name", ""),
		renamed("a path of 8,000 bytes", id+"/data/output/"+strings.Repeat("d/", 4000)+"a"),
		listed("a path that leaves, in the manifest too", "data/../../../../etc/cron.d/x"),
		listed("an absolute path, in the manifest too", "/etc/cron.d/x"),
		listed("a path with a home, in the manifest too", "~root/x"),
		listed("a path with a line end, in the manifest too", "data/output/x\ny/../../../z"),
		kind("a symbolic link", tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}),
		kind("a hard link", tar.Header{Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}),
		kind("a character device", tar.Header{Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		kind("a block device", tar.Header{Typeflag: tar.TypeBlock, Devmajor: 8}),
		kind("a FIFO", tar.Header{Typeflag: tar.TypeFifo}),
		kind("a directory", tar.Header{Typeflag: tar.TypeDir}),
		with("a file with the setuid bit", func(e []entry) []entry { e[at(e, "a")].Mode = 0o4755; return e }),
		with("a PAX record of another format", func(e []entry) []entry {
			e[at(e, "a")].PAXRecords = map[string]string{"VENDOR.x": "y"}
			return e
		}),
		with("a name that is there twice", func(e []entry) []entry { i := at(e, "a"); return slices.Insert(e, i, e[i]) }),
		with("a file that no manifest lists", func(e []entry) []entry {
			x := e[at(e, "b")]
			x.Name = id + "/data/output/c"
			return append(e, x)
		}),
		with("a file too few", func(e []entry) []entry { return e[:len(e)-1] }),
		with("two files in the other order", func(e []entry) []entry {
			i := at(e, "a")
			e[i], e[i+1] = e[i+1], e[i]
			return e
		}),
		one("a manifest that lists a name twice", malformed, func() reply {
			g := forge("evil", map[string][]byte{"a": nil})
			g.seal(append(slices.Clone(g.tags[bag.Manifest]), lastLine(g.tags[bag.Manifest])...))
			return c.evil.post(g.announcement(), frames(tarred(g.entries()), 1<<20))
		}),
		one("bytes behind the end of the tar stream", malformed, func() reply {
			return c.evil.post(f.announcement(), frames(append(tarred(f.entries()), noiseBytes(1, 512)...), 1<<20))
		}),
		one("a byte of the payload changed", is("422 digest-mismatch"), func() reply {
			b := tarred(f.entries())
			b[bytes.LastIndex(b, []byte("bb"))] ^= 1
			return c.evil.post(f.announcement(), frames(b, 1<<20))
		}),
		one("a manifest of 300 MiB of zeros", refused, func() reply {
			e := f.entries()[:4]
			head := tarred(e[:3])
			var h bytes.Buffer
			w := tar.NewWriter(&h)
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e[3].Name, Size: 300 << 20, Mode: 0o644}) // to memory
			ann := f.announcement()
			return c.evil.post(ann, rawFrame(append(head[:len(head)-1024], h.Bytes()...), 300<<3))
		}),
	}
}

func lastLine(b []byte) []byte { return b[bytes.LastIndexByte(b[:len(b)-1], '\n')+1:] }

// streams are compressed streams that are bombs, damaged, or not zstd as it is understood here.
func (c *campaign) streams() []attack {
	f := forge("evil", map[string][]byte{"a": noiseBytes(4, 9_000), "b": bytes.Repeat([]byte("telemetry,1,2,3\n"), 500), "c": nil})
	ann := f.announcement()
	content := tarred(f.entries())
	sound := frames(content, 6_000)
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	zeros := func(n int64) (wire.Announcement, []byte) { // the tar stream up to a file of n bytes of zeros
		g := forge("evil", nil)
		sum := sha256.Sum256(g.files[episode.RunPath])
		list := bag.AppendManifestLine(nil, bytes.Repeat([]byte{7}, 32), "data/output/zeros")
		list = bag.AppendManifestLine(list, sum[:], episode.RunPath)
		g.describe(list, n+int64(len(g.files[episode.RunPath])), 2)
		e := g.entries()
		b := tarred(e[:len(tagOrder)])
		var h bytes.Buffer
		_ = tar.NewWriter(&h).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: g.facts.ID.String() + "/data/output/zeros", Size: n, Mode: 0o644}) // to memory
		return g.announcement(), append(b[:len(b)-1024], h.Bytes()...)
	}
	// damaged sends many, each refused in one of the ways in which damage is.
	damaged := func(name string, make func(int) []byte) attack {
		return attack{name: fmt.Sprintf("%s at %d random places", name, c.places), run: func() (string, string) {
			how := map[string]int{}
			for i := range c.places {
				body := make(i)
				var r reply
				if i%2 == 0 {
					r = c.evil.post(ann, body)
				} else { // the long way
					r = c.evil.stream(ann, onlyReader{bytes.NewReader(body)}, -1)
				}
				if why := refused(r); why != "" {
					return "", why
				}
				how[string(r.code)]++
			}
			return strings.TrimPrefix(fmt.Sprint(how), "map"), ""
		}}
	}
	header := func(b ...byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, 0xFD2FB528), b...) }
	return []attack{
		damaged("a stream that is cut", func(int) []byte { return sound[:1+c.rng.IntN(len(sound)-1)] }),
		damaged("a stream with a bit flipped", func(int) []byte {
			// Not every bit of a frame means something (RFC 8878: an unused one in the descriptor, what fills up a
			// byte): where the content stays the same, the episode is sound.
			for {
				b := slices.Clone(sound)
				b[c.rng.IntN(len(b))] ^= 1 << c.rng.IntN(8)
				if got, err := decoder.DecodeAll(b, nil); err != nil || !bytes.Equal(got, content) {
					return b
				}
			}
		}),
		one("10 GiB of zeros in a frame of 330 KB", is("413 too-large"), func() reply {
			ann, head := zeros(10 << 30)
			return c.evil.post(ann, rawFrame(head, 10<<13))
		}),
		one("10 GiB of zeros in frames of 4 MiB", is("413 too-large"), func() reply {
			ann, head := zeros(10 << 30)
			return c.evil.post(ann, append(frames(head, 1<<20), bytes.Repeat(frames(make([]byte, 4<<20), 4<<20), 2560)...))
		}),
		one("10 GiB of zeros where 2 files of 1 KB are announced", refused, func() reply {
			return c.evil.post(ann, append(sound, rawFrame(nil, 10<<13)...))
		}),
		one("a window of 128 MiB", refused, func() reply { return c.evil.post(ann, append(header(0, 17<<3), make([]byte, 100)...)) }),
		one("a dictionary", refused, func() reply { return c.evil.post(ann, append(header(1, 0x38, 9), make([]byte, 100)...)) }),
		one("a frame of 2^63 bytes", refused, func() reply {
			return c.evil.post(ann, append(header(3<<6|1<<5, 255, 255, 255, 255, 255, 255, 255, 127), make([]byte, 100)...))
		}),
		one("a skippable frame of 4 GiB, cut", refused, func() reply {
			return c.evil.post(ann, append([]byte{0x50, 0x2A, 0x4D, 0x18, 255, 255, 255, 255}, make([]byte, 1<<20)...))
		}),
		one("a million frames of nothing", refused, func() reply {
			e, _ := zstd.NewWriter(nil, zstd.WithZeroFrames(true), zstd.WithEncoderConcurrency(1))
			big := ann
			big.Size = 2 << 30 // a size that every disk has room for
			return c.evil.stream(big, onlyReader{bytes.NewReader(append(slices.Clone(sound), bytes.Repeat(e.EncodeAll(nil, nil), 1_000_000)...))}, -1)
		}),
		one("noise", refused, func() reply { return c.evil.post(ann, noiseBytes(9, 300_000)) }),
		{name: "16 uploads of a million frames of nothing at a time", run: func() (string, string) {
			e, _ := zstd.NewWriter(nil, zstd.WithZeroFrames(true), zstd.WithEncoderConcurrency(1))
			big := ann
			big.Size = 2 << 30 // so that there is room for sixteen
			// The verification waits behind the first header, so that it is the frames that count.
			body := append(frames(tarred(f.entries())[:512], 512), bytes.Repeat(e.EncodeAll(nil, nil), 1_000_000)...)
			return c.atOnce(16, is("400 malformed", "503 receiver-busy"), func(i int) reply {
				big := big
				big.ID = episode.NewID()
				return c.gang[i].stream(big, onlyReader{bytes.NewReader(body)}, -1)
			})
		}},
		{name: "300 short bodies of zeros, of 20 hosts, at a time", run: func() (string, string) {
			body := frames(make([]byte, 4<<20), 4<<20)
			return c.atOnce(300, is("400 malformed", "429 receiver-busy", "503 receiver-busy"), func(i int) reply {
				return c.gang[i%len(c.gang)].post(ann, body)
			})
		}},
		{name: "16 streams with windows of 8 MiB at a time", run: c.windows},
		{name: fmt.Sprintf("sound episodes of %d empty files, several at a time", c.places*1000), run: c.manyFiles, stores: true},
		one("a file more than episode_files", is("413 too-large"), func() reply {
			g := forge("evil", nil)
			ann := g.announcement()
			ann.Files = 2_000_001
			return c.evil.post(ann, sound)
		}),
	}
}

type onlyReader struct{ io.Reader }

// windows sends foreign streams, each of a window of 8 MiB, and none of them sound at its end.
func (c *campaign) windows() (string, string) {
	var body bytes.Buffer
	w, err := zstd.NewWriter(&body, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	f := forge("evil", map[string][]byte{"a": noiseBytes(5, 12<<20), "b": noiseBytes(5, 12<<20)})
	b := tarred(f.entries())
	b[len(b)-5000] ^= 1
	_, _ = w.Write(b) // to memory
	_ = w.Close()
	return c.atOnce(16, is("422 digest-mismatch"), func(i int) reply {
		return c.evil.stream(f.announcement(), onlyReader{bytes.NewReader(body.Bytes())}, -1)
	})
}

// manyFiles sends sound episodes of very many files, which are taken.
func (c *campaign) manyFiles() (string, string) {
	n := c.places * 1000
	many := 8
	if n >= 1_000_000 {
		many = 2 // what they need here is no matter of the receiver's
	}
	type packed struct {
		ann  wire.Announcement
		body []byte
	}
	var all []packed
	for range many {
		f := forge("evil", nil)
		empty := sha256.Sum256(nil)
		list := make([]byte, 0, n*100)
		for i := range n {
			list = bag.AppendManifestLine(list, empty[:], fmt.Sprintf("data/output/%03d/%07d", i/1000, i))
		}
		sum := sha256.Sum256(f.files[episode.RunPath])
		list = bag.AppendManifestLine(list, sum[:], episode.RunPath)
		f.describe(list, int64(len(f.files[episode.RunPath])), int64(n+1))
		var out bytes.Buffer
		z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err)
		}
		w := tar.NewWriter(z)
		put := func(name string, b []byte) {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.facts.ID.String() + "/" + name, Size: int64(len(b)), Mode: 0o644}); err != nil {
				panic(err)
			}
			_, _ = w.Write(b) // to memory
		}
		for _, name := range tagOrder {
			put(name, f.tags[name])
		}
		for i := range n {
			put(fmt.Sprintf("data/output/%03d/%07d", i/1000, i), nil)
		}
		put(episode.RunPath, f.files[episode.RunPath])
		_ = w.Close()
		_ = z.Close()
		all = append(all, packed{f.announcement(), out.Bytes()})
	}
	return c.atOnce(many, is("201 stored"), func(i int) reply { return c.evil.post(all[i].ann, all[i].body) })
}

// atOnce sends n at a time.
func (c *campaign) atOnce(n int, ok func(reply) string, send func(int) reply) (what, why string) {
	var wg sync.WaitGroup
	replies := make([]reply, n)
	for i := range n {
		wg.Go(func() { replies[i] = send(i) })
	}
	wg.Wait()
	how := map[string]int{}
	for _, r := range replies {
		how[r.String()]++
		if w := ok(r); w != "" {
			why = w
		}
	}
	return strings.TrimPrefix(fmt.Sprint(how), "map"), why
}

// announcements are headers that lie, or are none.
func (c *campaign) announcements() []attack {
	f := forge("evil", map[string][]byte{"a": []byte("a")})
	body := frames(tarred(f.entries()), 1<<20)
	lie := func(name string, ok func(reply) string, change func(*wire.Announcement)) attack {
		return one("a header that lies about "+name, ok, func() reply {
			ann := f.announcement()
			change(&ann)
			return c.evil.post(ann, body)
		})
	}
	field := func(name, old, new string) attack {
		return one(name, malformed, func() reply {
			v := strings.Replace(wire.FormatAnnouncement(f.announcement()), old, new, 1)
			return c.evil.do("POST", wire.PathEpisodes, map[string]string{wire.HeaderEpisode: v}, bytes.NewReader(body), 0)
		})
	}
	return []attack{
		lie("the id", malformed, func(a *wire.Announcement) { a.ID = episode.NewID() }),
		lie("the start", malformed, func(a *wire.Announcement) { a.Started = a.Started.Add(-time.Second) }),
		lie("the end", malformed, func(a *wire.Announcement) { a.Ended = a.Ended.Add(time.Second) }),
		lie("the size", malformed, func(a *wire.Announcement) { a.Size++ }),
		lie("the number of files", malformed, func(a *wire.Announcement) { a.Files-- }),
		lie("the digest", is("422 digest-mismatch"), func(a *wire.Announcement) { a.Digest[0] ^= 1 }),
		lie("its time", is("412 clock-skew"), func(a *wire.Announcement) { a.Sent = a.Sent.Add(-time.Hour) }),
		lie("when it ran, in the year 9999", is("412 out-of-window"), func(a *wire.Announcement) { a.Ended = time.Unix(253402300799, 0) }),
		lie("the size, with 10^15", is("413 too-large"), func(a *wire.Announcement) { a.Size = 999_999_999_999_999 }),
		lie("the files, with 10^15", is("413 too-large"), func(a *wire.Announcement) { a.Files = 999_999_999_999_999 }),
		one("the episode of another host", malformed, func() reply {
			g := forge("good", map[string][]byte{"a": []byte("a")})
			return c.evil.post(g.announcement(), frames(tarred(g.entries()), 1<<20))
		}),
		field("a negative size", "size=", "size=-"),
		field("a size with a fraction", "files=", "files=1."),
		field("a size of 16 digits", "size=", "size=1000000000000000"),
		field("an id that is a path", f.facts.ID.String(), "../../../../etc"),
		field("a digest of 3 bytes", "digest=:", "digest=:AAAA:, x=:"),
		field("no structured field", ", ", ";;;"),
		field("a field of 8,000 bytes", "size=", `x="`+strings.Repeat("y", 8000)+`", size=`),
	}
}

// headers are requests that HTTP does not know, or that are too many, too long or too slow.
func (c *campaign) headers() []attack {
	a := c.evil
	ann := wire.HeaderEpisode + ": " + wire.FormatAnnouncement(forge("evil", nil).announcement())
	smuggled := a.head("DELETE", "/v1/uploads/00000000000000000000000000000000")
	// raw is one that must be refused, and nothing that it carries may be taken for a request of its own.
	raw := func(name, request string) attack {
		return attack{name: name, run: func() (string, string) {
			got := a.raw(request)
			if len(got) != 1 {
				return fmt.Sprint(got), fmt.Sprintf("%d answers", len(got))
			}
			r := got[0]
			return r.String(), is("400", "cut", "400 malformed", "501", "505")(r)
		}}
	}
	flood := func(name string, lines string, ok func(reply) string) attack {
		return attack{name: name, run: func() (string, string) {
			return c.atOnce(200, ok, func(int) reply { return a.raw(a.head("GET", wire.PathSelf, lines))[0] })
		}}
	}
	return []attack{
		raw("two Content-Length", a.head("POST", wire.PathEpisodes, ann, "Content-Length: 5", "Content-Length: "+fmt.Sprint(len(smuggled)))+smuggled),
		raw("two Content-Length in one", a.head("POST", wire.PathEpisodes, ann, "Content-Length: 5, 6")+"hello"),
		raw("a negative Content-Length", a.head("POST", wire.PathEpisodes, ann, "Content-Length: -5")+smuggled),
		raw("a Content-Length with a sign", a.head("POST", wire.PathEpisodes, ann, "Content-Length: +5")+"hello"),
		raw("a Content-Length of 2^64", a.head("POST", wire.PathEpisodes, ann, "Content-Length: 18446744073709551616")+smuggled),
		raw("two Transfer-Encoding", a.head("POST", wire.PathEpisodes, ann, "Transfer-Encoding: chunked", "Transfer-Encoding: identity")+"0\r\n\r\n"+smuggled),
		raw("a Transfer-Encoding that is none", a.head("POST", wire.PathEpisodes, ann, "Transfer-Encoding: xchunked")+"0\r\n\r\n"+smuggled),
		raw("a chunk of a negative length", a.head("POST", wire.PathEpisodes, ann, "Transfer-Encoding: chunked")+"-5\r\nhello\r\n0\r\n\r\n"),
		raw("a chunk of 2^64 bytes", a.head("POST", wire.PathEpisodes, ann, "Transfer-Encoding: chunked")+"10000000000000000\r\nhello\r\n0\r\n\r\n"),
		raw("a chunk that is longer than it says", a.head("POST", wire.PathEpisodes, ann, "Transfer-Encoding: chunked")+"3\r\nhello\r\n0\r\n\r\n"),
		raw("a chunk extension without an end", a.head("POST", wire.PathEpisodes, ann, "Transfer-Encoding: chunked")+"5;"+strings.Repeat("x", 100_000)+"\r\nhello\r\n0\r\n\r\n"),
		raw("a blank before a colon", a.head("POST", wire.PathEpisodes, ann, "Content-Length : 5")+"hello"),
		raw("a field that goes on in the next line", a.head("POST", wire.PathEpisodes, ann, "Content-Length:\r\n 5, 5")+"hello"),
		raw("a method that is none", "GE T / HTTP/1.1\r\nHost: x\r\n\r\n"),
		raw("HTTP/9.9", "GET / HTTP/9.9\r\nHost: x\r\n\r\n"),
		raw("no Host", "GET /v1/hosts/self HTTP/1.1\r\n\r\n"),
		raw("no HTTP at all", string(noiseBytes(8, 20_000))+"\r\n\r\n"),
		flood("200 headers of 5,000 lines each", strings.TrimSuffix(strings.Repeat("a:\r\n", 5000), "\r\n"), is("431", "cut")),
		flood("200 headers of 3,000 short lines each", numbered(3000), is("431", "cut")),
		flood("200 headers of one line of 1 MiB each", "x: "+strings.Repeat("y", 1<<20), is("431", "cut")),
		{name: "200 headers that never end, a line at a time", run: func() (string, string) {
			return c.atOnce(200, is("cut", "408", "400", "431"), func(int) reply { return c.slowHeader() })
		}},
		{name: "64 handshakes with certificates of 200 KiB", run: c.longHandshake},
		{name: "600 connections that say nothing", run: func() (string, string) {
			var all []io.Closer
			defer func() {
				for _, conn := range all {
					conn.Close()
				}
			}()
			for range 600 {
				conn, err := tls.Dial("tcp", a.addr, a.tls)
				if err == nil {
					all = append(all, conn)
				}
			}
			got := c.good.do("GET", wire.PathSelf, nil, nil, 0)
			return fmt.Sprintf("another host: %s", got), is("200")(got)
		}},
	}
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%x:\r\n", i)
	}
	return strings.TrimSuffix(b.String(), "\r\n")
}

// slowHeader sends lines as fast as the receiver takes them for a second, and then waits.
func (c *campaign) slowHeader() reply {
	conn, err := c.evil.dial()
	if err != nil {
		return reply{}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, "GET /v1/hosts/self HTTP/1.1\r\nHost: x\r\n"+numbered(100)+"\r\n")
	for i := range 20 {
		if _, err := fmt.Fprintf(conn, "x%d: %s\r\n", i, strings.Repeat("y", 600)); err != nil {
			return reply{}
		}
		time.Sleep(20 * time.Millisecond)
	}
	var b [64]byte
	n, _ := conn.Read(b[:])
	var status int
	fmt.Sscanf(string(b[:n]), "HTTP/1.1 %d", &status)
	return reply{status: status}
}

// longHandshake presents certificates that are far too long.
func (c *campaign) longHandshake() (string, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		panic(err)
	}
	names := make([]string, 4000)
	for i := range names {
		names[i] = fmt.Sprintf("%040d.example.org", i)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour), DNSNames: names}
	der, err := x509.CreateCertificate(crand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	conf := c.evil.tls.Clone()
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}
	return c.atOnce(64, is("cut"), func(int) reply {
		conn, err := tls.Dial("tcp", c.evil.addr, conf)
		if err != nil {
			return reply{}
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, c.evil.head("GET", wire.PathSelf))
		var b [64]byte
		n, _ := conn.Read(b[:])
		var status int
		fmt.Sscanf(string(b[:n]), "HTTP/1.1 %d", &status)
		return reply{status: status}
	})
}

// uploads are requests about uploads that are wrong, or another host's.
func (c *campaign) uploads() []attack {
	f := forge("evil", map[string][]byte{"a": noiseBytes(6, 200_000)})
	body := frames(tarred(f.entries()), 50_000)
	fresh := func() string {
		path, _ := c.evil.begin(f.announcement())
		return path
	}
	patch := func(name string, ok func(reply) string, offset, complete string) attack {
		return one(name, ok, func() reply { return c.evil.patch(fresh(), offset, complete, body[:1000]) })
	}
	theirs := func(method string, header map[string]string) attack {
		return attack{name: method + " of another host's upload", run: func() (string, string) {
			g := forge("good", map[string][]byte{"a": noiseBytes(6, 2_000)})
			path, _ := c.good.begin(g.announcement())
			r := c.evil.do(method, path, header, bytes.NewReader([]byte("x")), 0)
			if why := is("404 upload-gone")(r); why != "" {
				return r.String(), why
			}
			// Its owner has felt nothing.
			if h := c.good.do("HEAD", path, nil, nil, 0); h.status != 204 || h.header.Get(wire.HeaderUploadOffset) != "0" {
				return r.String(), "the upload was touched: " + h.String()
			}
			return r.String(), ""
		}}
	}
	return []attack{
		theirs("HEAD", nil),
		theirs("GET", nil),
		theirs("DELETE", nil),
		theirs("PATCH", map[string]string{wire.HeaderUploadOffset: "0", wire.HeaderUploadComplete: "?1"}),
		one("a token that is a path", is("404 upload-gone", "404", "301"), func() reply {
			return c.evil.raw(c.evil.head("GET", wire.PathUploads+"../../../catalogue.db", "Connection: close"))[0]
		}),
		one("a token with a zero byte", is("404 upload-gone", "400"), func() reply {
			return c.evil.raw(c.evil.head("DELETE", wire.PathUploads+"%00%2e%2e%2f", "Connection: close"))[0]
		}),
		patch("an offset beyond the end", is("409 offset-mismatch"), "1000000", "?1"),
		patch("an offset of 10^15", is("409 offset-mismatch"), "999999999999999", "?1"),
		patch("an offset of 10^18", is("400"), "999999999999999999", "?1"),
		patch("a negative offset", is("400"), "-5", "?1"),
		patch("an offset in hexadecimal", is("400"), "0x10", "?1"),
		patch("an offset that is a list", is("400"), "0, 0", "?1"),
		patch("no boolean", is("400"), "0", "true"),
		one("a negative Upload-Length", is("201", "400 length-mismatch"), func() reply {
			return c.evil.do("POST", wire.PathEpisodes, map[string]string{wire.HeaderEpisode: wire.FormatAnnouncement(f.announcement()),
				wire.HeaderUploadComplete: "?0", wire.HeaderUploadLength: "-7"}, nil, 0)
		}),
		one("an Upload-Length that is less than what comes", is("400 length-mismatch"), func() reply {
			return c.evil.do("POST", wire.PathEpisodes, map[string]string{wire.HeaderEpisode: wire.FormatAnnouncement(f.announcement()),
				wire.HeaderUploadComplete: "?0", wire.HeaderUploadLength: "10"}, bytes.NewReader(body), 0)
		}),
		one("an Upload-Length of 10^15", is("413 too-large"), func() reply {
			return c.evil.do("POST", wire.PathEpisodes, map[string]string{wire.HeaderEpisode: wire.FormatAnnouncement(f.announcement()),
				wire.HeaderUploadComplete: "?0", wire.HeaderUploadLength: "999999999999999"}, nil, 0)
		}),
		{name: "8 appends to one upload at a time", run: func() (string, string) {
			path := fresh()
			what, why := c.atOnce(8, is("204", "409 offset-mismatch", "cut", "503 receiver-busy", "429 receiver-busy"), func(int) reply {
				return c.evil.patch(path, "0", "?0", body[:20_000])
			})
			h := c.evil.do("HEAD", path, nil, nil, 0)
			if n := h.header.Get(wire.HeaderUploadOffset); n != "20000" {
				why = "the upload ends at " + n
			}
			return what, why
		}},
		{name: "1,000 uploads begun and not ended", run: func() (string, string) {
			return c.atOnce(1000, is("201", "429 receiver-busy", "cut"), func(int) reply {
				g := forge("evil", nil)
				_, r := c.evil.begin(g.announcement())
				return r
			})
		}},
		one("a stranger", is("403 host-unknown"), func() reply {
			ann, body := soundly("evil")
			return newAttacker(c.t, c.r, "nobody").post(ann, body)
		}),
	}
}

// connections are bodies of which a byte comes now and then.
func (c *campaign) connections() []attack {
	return []attack{{name: "300 bodies of 1 MiB, of 20 hosts, all but their last byte", run: c.almost, stores: true}, {name: "200 bodies of a byte a second", stores: true, run: func() (string, string) {
		span := time.Duration(min(max(c.places/10, 6), 30)) * time.Second
		alone := c.honest(span)
		stop := make(chan struct{})
		var open sync.WaitGroup
		ann := forge("evil", nil).announcement()
		for i := range 200 {
			open.Go(func() {
				conn, err := c.evil.dial()
				if err != nil {
					return
				}
				defer conn.Close()
				length := []int{1000, 100_000, 1_000_000, 50_000_000}[i%4]
				ann := ann
				ann.ID, ann.Size = episode.NewID(), 60_000_000
				_, _ = io.WriteString(conn, c.evil.head("POST", wire.PathEpisodes, wire.HeaderEpisode+": "+wire.FormatAnnouncement(ann), fmt.Sprintf("Content-Length: %d", length)))
				_, _ = conn.Write([]byte{0x28, 0xB5, 0x2F, 0xFD})
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Second):
						if _, err := conn.Write([]byte{0}); err != nil {
							return
						}
					}
				}
			})
		}
		defer func() {
			close(stop)
			open.Wait()
		}()
		time.Sleep(3 * time.Second) // so that the slow ones are known as such
		for try := 1; ; try++ {
			beside := c.honest(span)
			what := fmt.Sprintf("p99 %s, alone %s", beside.Round(100*time.Microsecond), alone.Round(100*time.Microsecond))
			switch {
			case beside <= 2*alone+30*time.Millisecond:
				return what, ""
			case try == 3: // what else the machine does is in it once, not three times
				return what, "another host waits for them"
			}
		}
	}}}
}

// almost sends short bodies up to their last byte, and keeps them there.
func (c *campaign) almost() (string, string) {
	ann := forge("evil", nil).announcement()
	ann.Size = 60_000_000
	body := frames(noiseBytes(7, 1<<20), 1<<20)
	stop := make(chan struct{})
	var sent, open sync.WaitGroup
	for i := range 300 {
		sent.Add(1)
		open.Go(func() {
			a := c.gang[i%len(c.gang)]
			conn, err := a.dial()
			if err == nil {
				defer conn.Close()
				ann := ann
				ann.ID = episode.NewID()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.WriteString(conn, a.head("POST", wire.PathEpisodes, wire.HeaderEpisode+": "+wire.FormatAnnouncement(ann), fmt.Sprintf("Content-Length: %d", len(body))))
				_, _ = conn.Write(body[:len(body)-1]) // it may be refused
			}
			sent.Done()
			<-stop
		})
	}
	sent.Wait()
	got := c.good.post(soundly("good"))
	close(stop)
	open.Wait()
	return fmt.Sprintf("another host: %s", got), is("201 stored", "503 receiver-busy")(got)
}

// honest is the p99 of how long small episodes of another host take, one after the other.
func (c *campaign) honest(span time.Duration) time.Duration {
	var took []time.Duration
	for end := time.Now().Add(span); time.Now().Before(end); {
		ann, body := soundly("good")
		began := time.Now()
		if r := c.good.post(ann, body); r.code != code.Stored {
			c.t.Errorf("an honest episode: %s", r)
			break
		}
		took = append(took, time.Since(began))
	}
	runtime.GC() // of this process, not in the middle of the next round
	slices.Sort(took)
	return took[len(took)*99/100]
}
