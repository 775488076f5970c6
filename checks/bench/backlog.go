package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cis490/src/ship"
)

const (
	tries    = 20              // new episodes, one after the other
	patience = 3 * time.Minute // with one peer, or with making the old ones
)

// old names a variant of W4.
func old(n int) string { return fmt.Sprintf("%d old", n) }

// backlog is W4: one new episode beside many that were shipped before and kept.
// The peers walk the same tree, and those that compare with what the other side
// has find it there.
func (b *bench) backlog(ctx context.Context) (err error) {
	sizes := []int{1_000, 100_000, 1_000_000}
	if b.quick {
		sizes = []int{1_000, 10_000}
	}
	dir, done, err := b.disk.fresh(ctx, "-O", "inline_data") // a directory of one entry then is no block
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	h := history{dir: dir}
	staged := filepath.Join(dir, "staged")
	ids, err := shape{len(sizes) * (tries + 3), 2, 2 << 10}.make(ctx, staged, 490)
	if err != nil {
		return err
	}
	next := func() string {
		id := ids[0]
		ids = ids[1:]
		return filepath.Join(staged, "sealed", id)
	}
	for _, n := range sizes {
		fmt.Fprintf(os.Stderr, "W4: making %d old episodes\n", n)
		if err := h.grow(ctx, n); err != nil {
			b.skip("W4 beside %d: %v", n, err)
			break
		}
		fmt.Fprintf(os.Stderr, "W4 beside %d: %s\n", n, oursName)
		if err := b.findOurs(ctx, h, n, next); err != nil {
			return fmt.Errorf("%s beside %d: %w", oursName, n, err)
		}
		for _, p := range []struct {
			name string
			most int // episodes, beyond which it would take too long
			plan func(place, string) (transfer, error)
		}{
			{rsyncName, 1_000_000, findRsync},
			{resticName, 100_000, findRestic},
			{rcloneRecent, 100_000, findRclone},
		} {
			if n <= sizes[0] || n > p.most || !b.has(p.name) {
				continue
			}
			fmt.Fprintf(os.Stderr, "W4 beside %d: %s\n", n, p.name)
			limited, cancel := context.WithTimeout(ctx, patience)
			r, err := h.find(limited, p.plan, p.name == rsyncName, next())
			if limited.Err() != nil && ctx.Err() == nil {
				err = fmt.Errorf("more than %s", patience)
			}
			cancel()
			if err != nil {
				b.skip("W4 beside %d: %s: %v", n, p.name, err)
				continue
			}
			b.records = append(b.records, record{Workload: "W4", Variant: old(n), Contender: p.name, Episodes: 1, Wall: r.wall.Seconds(), Find: r.wall.Seconds()}.with(r))
		}
	}
	b.printBacklog()
	return nil
}

// has says whether the programs of a peer are there.
func (b *bench) has(name string) bool {
	if name == rcloneRecent {
		return contender{needs: []string{"rclone"}}.missing() == ""
	}
	for _, c := range b.all {
		if c.name == name {
			return true
		}
	}
	return false
}

// history is old episodes of one small file each, in the folder of those that a
// host has shipped and kept, and for a peer that compares in its store.
type history struct {
	dir  string
	have int
}

func (h *history) host() string  { return filepath.Join(h.dir, "lab-host") }
func (h *history) kept() string  { return filepath.Join(h.host(), "shipped") }
func (h *history) store() string { return filepath.Join(h.dir, "peer", "store") }

// grow makes them up to n. The files are hard links to a few: an inode less.
func (h *history) grow(ctx context.Context, n int) error {
	const perDay = 1000
	began := time.Now()
	var makers sync.WaitGroup
	var day atomic.Int64
	day.Store(int64(h.have/perDay) - 1)
	failed := make([]error, 2)
	for w := range failed {
		makers.Go(func() {
			for failed[w] == nil {
				d := int(day.Add(1))
				if d >= n/perDay {
					return
				}
				if ctx.Err() != nil || time.Since(began) > patience {
					failed[w] = errors.Join(ctx.Err(), fmt.Errorf("made only about %d old ones in %s", d*perDay, patience))
					return
				}
				for _, top := range []string{h.kept(), h.store()} {
					failed[w] = errors.Join(failed[w], makeDay(top, d, perDay))
				}
			}
		})
	}
	makers.Wait()
	h.have = n
	return errors.Join(failed...)
}

// makeDay makes the old episodes of the d-th day before today.
func makeDay(top string, d, n int) error {
	then := time.Now().AddDate(0, 0, -1-d).UTC()
	dir := filepath.Join(top, then.Format("2006-01-02"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	then = then.Truncate(time.Hour) // of one content and time on both sides, for a peer that compares
	first := ""
	for i := range n {
		episode := filepath.Join(dir, fmt.Sprintf("%08x-0000-7000-8000-%012x", d, i))
		if err := os.Mkdir(episode, 0o755); err != nil {
			return err
		}
		file := filepath.Join(episode, "data.jsonl")
		if first != "" {
			if err := os.Link(first, file); err != nil {
				return err
			}
			continue
		}
		first = file
		if err := errors.Join(os.WriteFile(file, []byte("{}\n"), 0o644), os.Chtimes(file, then, then)); err != nil {
			return err
		}
	}
	return nil
}

// findOurs seals one episode after the other beside a running shipper: found is
// when the shipper opens its directory, acknowledged when the receipt is in the
// ledger.
func (b *bench) findOurs(ctx context.Context, h history, n int, next func() string) (err error) {
	l := lab{bin: b.bin, net: loopback{}, dir: h.host(), keep: "3650d", work: filepath.Join(h.dir, fmt.Sprintf("ours-%d", n))}
	sealed := filepath.Join(h.host(), "sealed")
	if err := errors.Join(os.Mkdir(l.work, 0o755), os.MkdirAll(sealed, 0o755)); err != nil {
		return err
	}
	if err := l.receive(ctx); err != nil {
		return err
	}
	shipper, err := launch(ctx, nil, l.shipper("run")...)
	if err != nil {
		return err
	}
	var got records
	defer func() {
		var r result
		var cerr, serr error
		r.client, cerr = shipper.stop()
		r.server, serr = l.receiver.stop()
		if err = errors.Join(err, cerr, serr); err == nil {
			got[0] = got[0].with(r) // of all tries together
			b.records = append(b.records, got...)
		}
	}()
	control := ship.NewControl(l.work + "/run")
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if st, err := control.Status(ctx); err == nil && st.Queue.Scanned {
			break
		} else if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("the shipper does not come up: %w", errors.Join(err, ctx.Err()))
		}
	}
	receipts := ledger{dir: filepath.Join(h.host(), "receipts")}
	for i := range tries {
		time.Sleep(100 * time.Millisecond) // each is a new one to an idle shipper
		from := next()
		opened, err := watchOpen(from)
		if err != nil {
			return err
		}
		before := receipts.count()
		began := time.Now()
		if err := os.Rename(from, filepath.Join(sealed, filepath.Base(from))); err != nil {
			return err
		}
		find := make(chan time.Duration, 1)
		go func() { find <- opened(began) }()
		limited, cancel := context.WithTimeout(ctx, 30*time.Second)
		receipts.wait(limited, before+1)
		err = limited.Err()
		cancel()
		if err != nil {
			return fmt.Errorf("no acknowledgement: %w", err)
		}
		wall := time.Since(began)
		got = append(got, record{Workload: "W4", Variant: old(n), Contender: oursName, Round: i, Episodes: 1, Wall: wall.Seconds(), Find: (<-find).Seconds()})
	}
	return nil
}

// watchOpen waits with inotify(7) for somebody to open a directory, wherever it
// is moved, and says how long that took.
func watchOpen(dir string) (opened func(began time.Time) time.Duration, err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return func(began time.Time) time.Duration {
		defer unix.Close(fd)
		_, _ = unix.Read(fd, make([]byte, 4096)) // the first event is all that counts
		return time.Since(began)
	}, nil
}

// find has a peer find and bring over the one episode that is put among the old
// ones at the last moment.
func (h *history) find(ctx context.Context, plan func(place, string) (transfer, error), stored bool, episode string) (r result, err error) {
	work, err := os.MkdirTemp(h.dir, "find-")
	if err != nil {
		return r, err
	}
	if stored { // it compares with what the other side has
		work = filepath.Dir(h.store())
	}
	today := filepath.Join(h.kept(), time.Now().UTC().Format("2006-01-02"))
	t, err := plan(place{work: work, net: loopback{}, sealed: h.kept()}, today)
	if err != nil {
		return r, err
	}
	t.before = func() error {
		return errors.Join(os.MkdirAll(today, 0o755), os.Rename(episode, filepath.Join(today, filepath.Base(episode))))
	}
	return t.run(ctx, place{work: work, net: loopback{}})
}

// findRsync has brought over what was shipped today before.
func findRsync(p place, today string) (t transfer, err error) {
	if t, err = rsyncDaemon(p); err != nil {
		return t, err
	}
	to := "rsync://" + t.address + "/store/"
	t.prepare = []string{"rsync", "-a", today, to}
	t.clients = [][]string{{"rsync", "-a", "--omit-dir-times", p.sealed + "/", to}}
	return t, nil
}

func findRestic(p place, _ string) (t transfer, err error) {
	if t, err = restServer(p); err != nil {
		return t, err
	}
	t.prepare = []string{"sh", "-c", `restic init --quiet && restic backup --quiet "$0"`, p.sealed}
	t.clients = [][]string{{"restic", "backup", "--quiet", p.sealed}}
	return t, nil
}

func findRclone(p place, _ string) (t transfer, err error) {
	if t, err = rcloneServer(p, "webdav"); err != nil {
		return t, err
	}
	t.prepare = []string{"rclone", "copy", "--quiet", "--max-age", "6h", "--no-traverse", p.sealed, ":webdav:bucket"}
	t.clients = [][]string{t.prepare}
	return t, nil
}
