package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cis490/src/wire"
)

// announce writes the Cis490-Episode field for a sealed episode by what its files say, without a parser of ours.
func announce(t *testing.T, bag string) string {
	t.Helper()
	digest := sha256.Sum256([]byte(readFile(t, filepath.Join(bag, "tagmanifest-sha256.txt"))))
	oxum := regexp.MustCompile(`(?m)^Payload-Oxum: (\d+)\.(\d+)$`).FindStringSubmatch(readFile(t, filepath.Join(bag, "bag-info.txt")))
	if oxum == nil {
		t.Fatal("bag-info.txt has no Payload-Oxum")
	}
	var run struct {
		ID             string
		Started, Ended struct{ Realtime time.Time }
	}
	if err := json.Unmarshal([]byte(readFile(t, filepath.Join(bag, "data", "run.json"))), &run); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`Cis490-Episode: id="%s", digest=:%s:, sent=@%d, started=@%d, ended=@%d, size=%s, files=%s`,
		run.ID, base64.StdEncoding.EncodeToString(digest[:]), time.Now().Unix(), run.Started.Realtime.Unix(), run.Ended.Realtime.Unix(), oxum[1], oxum[2])
}

// curl asks the receiver as h and returns status, header (lower case names, as curl dumps them) and body.
func curl(t *testing.T, r *receiver, h *host, args ...string) (status int, header map[string]string, body string) {
	t.Helper()
	need(t, "curl")
	dir := tempDir(t)
	out, head := filepath.Join(dir, "body"), filepath.Join(dir, "head")
	code := command(t, "curl", append([]string{"--silent", "--show-error", "--http1.1", "--max-time", "30",
		"--cacert", r.ca(), "--cert", filepath.Join(h.data, "identity", "host.crt"), "--key", filepath.Join(h.data, "identity", "host.key"),
		"--output", out, "--dump-header", head, "--write-out", "%{http_code}"}, args...)...)
	status, err := strconv.Atoi(code)
	if err != nil {
		t.Fatal(code)
	}
	header = map[string]string{}
	for line := range strings.Lines(readFile(t, head)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			header[strings.ToLower(name)] = value
		} else if strings.HasPrefix(line, "HTTP/") {
			header["interim"] += line // each of the status lines
		}
	}
	b, err := os.ReadFile(out)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return status, header, string(b)
}

func TestPlainCurlUploadsInOnePostAndInThreePieces(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	h := newHost(t, "lab-01", "https://"+r.addr, r.ca())
	r.allow(h)
	r.start()
	src := filepath.Join(tempDir(t), "run")
	noise(t, filepath.Join(src, "capture.bin"), 3<<20)
	var packed, field [2]string
	var ids [2]string
	for i := range 2 {
		ids[i] = h.seal(src)
		bag := filepath.Join(h.data, "sealed", ids[i])
		packed[i] = filepath.Join(h.dir, ids[i]+".tar.zst")
		command(t, program("cis490-episode"), "pack", bag, "--output", packed[i])
		field[i] = announce(t, bag)
	}
	url := "https://" + r.addr
	checkReceipt := func(body, id string) wire.Receipt {
		t.Helper()
		var rc wire.Receipt
		if err := json.Unmarshal([]byte(body), &rc); err != nil || rc.Episode.String() != id || rc.Host != "lab-01" {
			t.Fatalf("the receipt is %q (%v)", body, err)
		}
		return rc
	}

	// One POST, with nothing of the draft in it.
	post := []string{"-H", field[0], "-H", "Content-Type: application/zstd", "--data-binary", "@" + packed[0], url + "/v1/episodes"}
	status, _, body := curl(t, r, h, post...)
	if status != 201 {
		t.Fatalf("POST: %d %s", status, body)
	}
	receipt := checkReceipt(body, ids[0])
	status, _, body = curl(t, r, h, post...)
	if status != 200 || checkReceipt(body, ids[0]) != receipt {
		t.Errorf("POST again: %d %s, want 200 and the same receipt", status, body)
	}

	// A third one, by two connections at once.
	third := h.seal(src)
	packed3, field3 := filepath.Join(h.dir, third+".tar.zst"), announce(t, filepath.Join(h.data, "sealed", third))
	command(t, program("cis490-episode"), "pack", filepath.Join(h.data, "sealed", third), "--output", packed3)
	var both sync.WaitGroup
	var codes [2]int
	var bodies [2]string
	for i := range 2 {
		both.Go(func() {
			codes[i], _, bodies[i] = curl(t, r, h, "-H", field3, "-H", "Content-Type: application/zstd", "--data-binary", "@"+packed3, url+"/v1/episodes")
		})
	}
	both.Wait()
	if codes[0]+codes[1] != 200+201 || checkReceipt(bodies[0], third) != checkReceipt(bodies[1], third) || len(r.archives(third)) != 1 {
		t.Errorf("the same episode by two connections at once: %v %q, want 200 and 201 and one receipt", codes, bodies)
	}

	// Three PATCHes, each from the offset that the receiver gives.
	status, header, body := curl(t, r, h, "-X", "POST", "-H", field[1], "-H", "Upload-Complete: ?0", "-H", "Content-Type: application/zstd", "-H", "Content-Length: 0", url+"/v1/episodes")
	if status != 201 || header["location"] == "" {
		t.Fatalf("create: %d %v %s", status, header, body)
	}
	upload := header["location"]
	if strings.HasPrefix(upload, "/") {
		upload = url + upload
	}
	whole := readFile(t, packed[1])
	pieces := []int{0, 1_000_001, 2_345_678, len(whole)} // none at a frame's end
	for i := range 3 {
		status, header, _ = curl(t, r, h, "--head", upload)
		if status != 204 || header["upload-offset"] != strconv.Itoa(pieces[i]) || header["upload-complete"] != "?0" {
			t.Fatalf("HEAD before piece %d: %d %v, want offset %d", i, status, header, pieces[i])
		}
		piece := filepath.Join(h.dir, "piece")
		writeFile(t, piece, []byte(whole[pieces[i]:pieces[i+1]]))
		complete, want := "?0", 204
		if i == 2 {
			complete, want = "?1", 201
		}
		status, _, body = curl(t, r, h, "-X", "PATCH", "-H", "Upload-Offset: "+header["upload-offset"], "-H", "Upload-Complete: "+complete,
			"-H", "Content-Type: application/partial-upload", "--data-binary", "@"+piece, upload)
		if status != want {
			t.Fatalf("piece %d: %d %s, want %d", i, status, body, want)
		}
	}
	checkReceipt(body, ids[1])
	for _, id := range ids {
		if len(r.archives(id)) != 1 {
			t.Fatalf("%s is not stored", id)
		}
		bag := unpackByStockTools(t, r.archives(id)[0], id)
		command(t, "diff", "-r", src, filepath.Join(bag, "data", "output"))
	}
}

func TestAHostCannotTouchAnothersUploadNorReadAnything(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	url := "https://" + r.addr
	one, two := newHost(t, "lab-01", url, r.ca()), newHost(t, "lab-02", url, r.ca())
	stranger := newHost(t, "lab-03", url, r.ca())
	r.allow(one, two)
	r.start()
	id := one.seal(smallSource(t, "mine"))
	field := announce(t, filepath.Join(one.data, "sealed", id))
	_, header, _ := curl(t, r, one, "-X", "POST", "-H", field, "-H", "Upload-Complete: ?0", "-H", "Content-Type: application/zstd", "-H", "Content-Length: 0", url+"/v1/episodes")
	upload := header["location"]
	if strings.HasPrefix(upload, "/") {
		upload = url + upload
	}
	for _, args := range [][]string{{"--head"}, {"-X", "DELETE"},
		{"-X", "PATCH", "-H", "Upload-Offset: 0", "-H", "Upload-Complete: ?1", "-H", "Content-Type: application/partial-upload", "--data-binary", "x"}} {
		if status, _, body := curl(t, r, two, append(args, upload)...); status != 404 {
			t.Errorf("lab-02, %v on lab-01's upload: %d %s", args, status, body)
		}
		if status, _, body := curl(t, r, stranger, append(args, upload)...); status != 403 {
			t.Errorf("a stranger, %v on lab-01's upload: %d %s", args, status, body)
		}
	}
	for _, path := range []string{"/v1/episodes", "/v1/episodes/" + id, "/episodes", "/v1/hosts", "/metrics", "/v1/uploads/"} {
		if status, _, body := curl(t, r, one, url+path); status < 400 {
			t.Errorf("GET %s: %d %.200s", path, status, body)
		}
	}
	if status, _, _ := curl(t, r, one, "--head", upload); status != 204 {
		t.Errorf("lab-01's upload has suffered: HEAD gives %d", status)
	}
}
