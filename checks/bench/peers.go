package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Names that the floors refer to.
const (
	cpName       = "cp -r, then sync (no network)"
	rsyncFsync   = "rsync -a --fsync, daemon"
	rsyncZstd    = "rsync -a --fsync -z zstd, daemon"
	tusdName     = "tusd, 2 workers of tar.zst, then sync"
	rsyncName    = "rsync -a, daemon, then sync"
	resticName   = "restic to rclone's REST server, then sync"
	spawnedName  = "tar, zstd and curl per episode, fsynced"
	rcloneRecent = "rclone --max-age to WebDAV"
)

// peers are the contenders beside ours. self is this program.
func peers(self string) []contender {
	return []contender{
		{name: cpName, run: cp},
		rsync(rsyncName, 1, true),
		rsync("rsync -a, two streams, then sync", 2, true),
		rsync(rsyncFsync, 1, false, "--fsync"),
		rsync(rsyncZstd, 1, false, "--fsync", "-z", "--compress-choice=zstd"),
		{name: tusdName, linked: true, needs: []string{"tusd"}, run: func(ctx context.Context, p place) (result, error) { return tus(ctx, p, self) }},
		{name: resticName, linked: true, needs: []string{"restic", "rclone"}, run: restic},
		{name: "rclone to WebDAV, then sync", linked: true, slow: true, needs: []string{"rclone"}, run: func(ctx context.Context, p place) (result, error) { return rclone(ctx, p, "webdav") }},
		{name: "rclone to S3, then sync", linked: true, slow: true, needs: []string{"rclone"}, run: func(ctx context.Context, p place) (result, error) { return rclone(ctx, p, "s3") }},
		{name: spawnedName, linked: true, durable: true, needs: []string{"tar", "zstd", "curl", "xargs"}, run: func(ctx context.Context, p place) (result, error) { return spawned(ctx, p, self) }},
	}
}

func cp(ctx context.Context, p place) (result, error) {
	return transfer{clients: [][]string{{"cp", "-r", p.sealed, filepath.Join(p.work, "store")}}, sync: true}.run(ctx, p)
}

// rsync is rsync to an rsync daemon, as so many processes at once.
func rsync(name string, streams int, sync bool, options ...string) contender {
	return contender{name: name, linked: true, durable: !sync, needs: []string{"rsync"}, run: func(ctx context.Context, p place) (r result, err error) {
		t, err := rsyncDaemon(p)
		if err != nil {
			return r, err
		}
		t.sync = sync
		args := append([]string{"rsync", "-a"}, options...)
		from, to := p.sealed+"/", "rsync://"+t.address+"/store/"
		if streams == 1 {
			t.clients = [][]string{append(args, from, to)}
			return t.run(ctx, p)
		}
		lists, err := p.split(streams)
		if err != nil {
			return r, err
		}
		for _, list := range lists {
			t.clients = append(t.clients, append(args[:len(args):len(args)], "--files-from="+list, from, to))
		}
		return t.run(ctx, p)
	}}
}

// split writes lists of the files, the i-th to the i-th of n in turn.
func (p place) split(n int) ([]string, error) {
	lists, names := make([]bytes.Buffer, n), make([]string, n)
	i := 0
	err := filepath.WalkDir(p.sealed, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			fmt.Fprintln(&lists[i%n], strings.TrimPrefix(path, p.sealed+"/"))
			i++
		}
		return err
	})
	for i := range lists {
		names[i] = filepath.Join(p.work, fmt.Sprintf("list-%d", i))
		err = errors.Join(err, os.WriteFile(names[i], lists[i].Bytes(), 0o644))
	}
	return names, err
}

// rsyncDaemon has the folder store of the place's own as its module.
func rsyncDaemon(p place) (t transfer, err error) {
	store, err := p.folder("store")
	if err != nil {
		return t, err
	}
	if t.address, err = p.net.address(); err != nil {
		return t, err
	}
	conf := filepath.Join(p.work, "rsyncd.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "use chroot = no\nuid = %d\ngid = %d\n[store]\npath = %s\nread only = no\n", os.Getuid(), os.Getgid(), store), 0o644); err != nil {
		return t, err
	}
	host, port, _ := strings.Cut(t.address, ":")
	t.server = []string{"rsync", "--daemon", "--no-detach", "--config=" + conf, "--address=" + host, "--port=" + port}
	return t, nil
}

func tus(ctx context.Context, p place, self string) (r result, err error) {
	t, err := tusd(p)
	if err != nil {
		return r, err
	}
	t.clients = [][]string{{self, "tool", "tus", tusURL(t.address), p.sealed}}
	t.sync = true
	return t.run(ctx, p)
}

func tusd(p place) (t transfer, err error) {
	store, err := p.folder("store")
	if err != nil {
		return t, err
	}
	if t.address, err = p.net.address(); err != nil {
		return t, err
	}
	host, port, _ := strings.Cut(t.address, ":")
	t.server = []string{"tusd", "-host", host, "-port", port, "-upload-dir", store, "-verbose=false"}
	return t, nil
}

func tusURL(address string) string { return "http://" + address + "/files/" }

func restic(ctx context.Context, p place) (r result, err error) {
	t, err := restServer(p)
	if err != nil {
		return r, err
	}
	t.clients = [][]string{{"restic", "backup", "--quiet", p.sealed}}
	t.sync = true
	return t.run(ctx, p)
}

func restServer(p place) (t transfer, err error) {
	store, err := p.folder("store")
	if err != nil {
		return t, err
	}
	if t.address, err = p.net.address(); err != nil {
		return t, err
	}
	t.env = []string{"RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY=rest:http://" + t.address + "/", "RESTIC_CACHE_DIR=" + p.work + "/cache"}
	t.server = []string{"rclone", "serve", "restic", "--config", "/dev/null", "--quiet", "--addr", t.address, store}
	t.prepare = []string{"restic", "init", "--quiet"}
	return t, nil
}

func rclone(ctx context.Context, p place, protocol string) (r result, err error) {
	t, err := rcloneServer(p, protocol)
	if err != nil {
		return r, err
	}
	t.clients = [][]string{{"rclone", "copy", "--quiet", p.sealed, ":" + protocol + ":bucket"}}
	t.sync = true
	return t.run(ctx, p)
}

func rcloneServer(p place, protocol string) (t transfer, err error) {
	if _, err := p.folder("store/bucket"); err != nil {
		return t, err
	}
	if t.address, err = p.net.address(); err != nil {
		return t, err
	}
	t.env = []string{
		"RCLONE_CONFIG=/dev/null", "RCLONE_WEBDAV_URL=http://" + t.address, "RCLONE_WEBDAV_VENDOR=rclone",
		"RCLONE_S3_PROVIDER=Rclone", "RCLONE_S3_ENDPOINT=http://" + t.address, "RCLONE_S3_ACCESS_KEY_ID=bench", "RCLONE_S3_SECRET_ACCESS_KEY=bench-secret",
	}
	t.server = []string{"rclone", "serve", protocol, "--quiet", "--addr", t.address, p.work + "/store"}
	if protocol == "s3" {
		t.server = append(t.server, "--auth-key", "bench,bench-secret")
	}
	return t, nil
}

// spawned is what a script would do: three processes for each episode, two
// episodes at a time, to a server that flushes file and directory.
func spawned(ctx context.Context, p place, self string) (r result, err error) {
	var t transfer
	store, err := p.folder("store")
	if err != nil {
		return r, err
	}
	if t.address, err = p.net.address(); err != nil {
		return r, err
	}
	t.server = []string{self, "tool", "put", t.address, store}
	script := fmt.Sprintf("ls %q | xargs -P 2 -I ID sh -c 'tar -C %q -cf - ID | zstd -q -1 | curl -sSf -T - http://%s/ID.tar.zst'", p.sealed, p.sealed, t.address)
	t.clients = [][]string{{"sh", "-c", script}}
	return t.run(ctx, p)
}
