package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

// tool runs what this program is for a peer, as a process of its own, so that
// its CPU and memory can be told: `bench tool NAME ARG…`.
func tool(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) == 3 && args[0] == "put":
		return putServer(ctx, args[1], args[2])
	case len(args) == 3 && args[0] == "tus":
		return tusUpload(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == "hosts":
		return hostsTool(ctx, args[1])
	}
	return fmt.Errorf("tool: %q", args)
}

// putServer stores the body of PUT /NAME as dir/NAME, flushed before the answer.
func putServer(ctx context.Context, address, dir string) error {
	srv := &http.Server{Addr: address, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := put(filepath.Join(dir, filepath.Base(r.URL.Path)), r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func put(name string, body io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(name), "part-")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, body); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// tusUpload sends each episode below dir as a tar.zst, two at a time.
func tusUpload(ctx context.Context, url, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	todo := make(chan string)
	var workers sync.WaitGroup
	failed := make([]error, 2)
	for i := range failed {
		workers.Go(func() {
			c := newTusClient(url)
			for name := range todo {
				if failed[i] == nil {
					failed[i] = c.send(ctx, filepath.Join(dir, name))
				}
			}
		})
	}
	for _, e := range entries {
		todo <- e.Name()
	}
	close(todo)
	workers.Wait()
	return errors.Join(failed...)
}

// tusClient is a client of the tus protocol 1.0.0 with the extensions
// creation-with-upload and creation-defer-length.
type tusClient struct {
	url  string
	http http.Client
	zstd *zstd.Encoder
}

func newTusClient(url string) *tusClient {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		panic(err) // the options are fixed
	}
	return &tusClient{url: url, http: http.Client{Transport: &http.Transport{WriteBufferSize: 64 << 10}}, zstd: e}
}

// inOne is the most that is sent as one request; more is streamed.
const inOne = 32 << 20

// send uploads one directory.
func (c *tusClient) send(ctx context.Context, dir string) error {
	r, w := io.Pipe()
	go func() {
		c.zstd.Reset(w)
		err := writeTar(c.zstd, dir)
		w.CloseWithError(errors.Join(err, c.zstd.Close()))
	}()
	defer r.Close()
	var head bytes.Buffer
	n, err := io.CopyN(&head, r, inOne)
	if err != nil && err != io.EOF {
		return err
	}
	if err == io.EOF {
		_, err := c.do(ctx, "POST", c.url, &head, http.Header{"Upload-Length": {strconv.FormatInt(n, 10)}})
		return err
	}
	at, err := c.do(ctx, "POST", c.url, nil, http.Header{"Upload-Defer-Length": {"1"}})
	if err != nil {
		return err
	}
	count := &counter{r: io.MultiReader(&head, r)}
	if _, err := c.do(ctx, "PATCH", at, count, http.Header{"Upload-Offset": {"0"}}); err != nil {
		return err
	}
	size := strconv.FormatInt(count.n, 10)
	_, err = c.do(ctx, "PATCH", at, bytes.NewReader(nil), http.Header{"Upload-Offset": {size}, "Upload-Length": {size}})
	return err
}

func (c *tusClient) do(ctx context.Context, method, url string, body io.Reader, h http.Header) (location string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return "", err
	}
	req.Header = h
	h.Set("Tus-Resumable", "1.0.0")
	if body != nil {
		h.Set("Content-Type", "application/offset+octet-stream")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return resp.Header.Get("Location"), err
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// writeTar writes what is below dir.
func writeTar(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(filepath.Dir(dir), path); err != nil {
			return err
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
	return errors.Join(err, t.Close())
}
