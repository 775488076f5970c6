package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"cis490/src/code"
	"cis490/src/episode"
)

// A process that works on a queue and is killed has to be a process: the test
// binary runs itself, with the work named in the environment.
const (
	envWork = "QUEUE_TEST_WORK"
	envDir  = "QUEUE_TEST_DIR"
)

func TestMain(m *testing.M) {
	if work := os.Getenv(envWork); work != "" {
		// One thread, as far as it can be: strace counts calls per thread.
		runtime.LockOSThread()
		if err := doWork(work, os.Getenv(envDir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t testing.TB, dir, work string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envWork+"="+work, envDir+"="+dir, "GOMAXPROCS=1")
	return cmd
}

func doWork(work, dir string) error {
	ctx := context.Background()
	if work == "list-as-nobody" {
		for _, f := range []func() error{func() error { return syscall.Setgroups(nil) }, func() error { return syscall.Setgid(65534) }, func() error { return syscall.Setuid(65534) }} {
			if err := f(); err != nil {
				return err
			}
		}
	}
	q, err := Open(dir, WithLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	switch work {
	case "list-as-nobody":
		list, err := q.List()
		for _, e := range list {
			fmt.Println(e.ID, e.Reason.Code)
		}
		if _, rerr := q.Requeue(ctx, Selection{All: true}); errors.Is(rerr, fs.ErrPermission) {
			fmt.Println("requeue: denied")
		}
		return err
	case "quarantine":
		ids, _, err := q.Scan(ctx)
		for _, id := range ids {
			err = errors.Join(err, q.Quarantine(id.String(), Reason{Code: code.Conflict}))
		}
		return err
	case "requeue":
		_, err := q.Requeue(ctx, Selection{All: true})
		return err
	case "discard":
		list, err := q.List()
		for _, e := range list {
			err = errors.Join(err, q.Discard(e.Name))
		}
		return err
	case "acknowledge", "keep", "churn":
		if work == "keep" {
			q.SetKeepShipped(time.Hour)
		}
		if err := q.Lock(); err != nil {
			return err
		}
		if work == "churn" {
			return churn(ctx, q)
		}
		return errors.Join(acknowledgeAll(ctx, q, 4), q.Close())
	}
	return fmt.Errorf("no work called %q", work)
}

func acknowledgeAll(ctx context.Context, q *Queue, callers int) error {
	ids, _, err := q.Scan(ctx)
	if err != nil {
		return err
	}
	next := make(chan episode.ID)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for id := range next {
				d, err := digestOf(q.Dir(id))
				if err == nil {
					err = q.Acknowledge(ctx, receipt(id, d))
				}
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	for _, id := range ids {
		next <- id
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

// churn does all that is done to a queue, at once, until it is killed.
func churn(ctx context.Context, q *Queue) error {
	for i := range 4 {
		go func() {
			for {
				ids, _, err := q.Scan(ctx)
				if err != nil {
					continue
				}
				for range min(len(ids), 10) {
					id := ids[rand.IntN(len(ids))]
					if int(id[15])%4 != i {
						continue // an episode has one worker at a time, as in the shipper
					}
					q.Begin(i, id)
					switch d, err := digestOf(q.Dir(id)); {
					case err != nil:
					case rand.IntN(3) == 0:
						q.SetKeepShipped(time.Duration(rand.IntN(2)) * time.Hour)
						q.Acknowledge(ctx, receipt(id, d))
					default:
						q.Quarantine(id.String(), Reason{Code: code.OutOfWindow})
					}
					q.End(i)
				}
			}
		}()
	}
	other, err := Open(q.Root(), WithLog(slog.New(slog.DiscardHandler))) // as another process does it
	if err != nil {
		return err
	}
	fmt.Println("at work")
	for {
		list, err := other.List()
		if err != nil {
			return err
		}
		for _, e := range list {
			if rand.IntN(2) == 0 {
				other.Requeue(ctx, Selection{Names: []string{e.Name}})
			}
		}
		if _, err := other.Counts(); err != nil {
			return err
		}
	}
}

// churnFor starts a process that churns and lets it work for d.
func churnFor(t testing.TB, dir string, d time.Duration) *exec.Cmd {
	t.Helper()
	c := child(t, dir, "churn")
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the child does not come to work: %v", err)
	}
	time.Sleep(d)
	return c
}

// conserved opens the queue as the next process does and checks that every id is
// in exactly one place, whole, or has a receipt. It returns how many are in each.
func conserved(t testing.TB, dir string, all []episode.ID) (sealed, quarantined, shipped, recorded int) {
	t.Helper()
	q := open(t, dir)
	if err := q.Lock(); err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	where := map[episode.ID][]string{}
	for _, id := range scanned(t, q) {
		where[id] = append(where[id], q.Dir(id))
	}
	sealed = len(where)
	list, err := q.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Err != nil {
			t.Error(e.Err)
		}
		where[e.ID] = append(where[e.ID], e.Bag())
	}
	for _, day := range names(t, filepath.Join(dir, shippedDir)) {
		for _, n := range names(t, filepath.Join(dir, shippedDir, day)) {
			id, err := episode.ParseID(n)
			if err != nil {
				t.Error(err)
			}
			where[id] = append(where[id], filepath.Join(dir, shippedDir, day, n))
			shipped++
		}
	}
	has := map[episode.ID]bool{}
	got, bad := receipts(t, q)
	for _, r := range got {
		has[r.Episode] = true
	}
	if bad > 0 {
		t.Errorf("%d lines of the ledger are no receipts", bad)
	}
	for _, id := range all {
		switch n := len(where[id]); {
		case n > 1:
			t.Errorf("%s is in %q", id, where[id])
		case n == 0 && !has[id]:
			t.Errorf("%s is lost", id)
		case n == 1:
			if err := whole(where[id][0], id); err != nil {
				t.Errorf("%s: %v", where[id][0], err)
			}
			if filepath.Dir(where[id][0]) == filepath.Join(dir, sealedDir) && has[id] {
				t.Errorf("%s waits although it was acknowledged", id)
			}
		}
	}
	for _, d := range []string{settingAside, puttingBack} {
		if left := names(t, filepath.Join(dir, d)); len(left) > 0 {
			t.Errorf("%s still has %q", d, left)
		}
	}
	return sealed, len(list), shipped, len(has)
}

func sealMany(t testing.TB, dir string, n int) (ids []episode.ID) {
	open(t, dir)
	for range n {
		id := episode.NewID()
		seal(t, dir, id)
		ids = append(ids, id)
	}
	slices.SortFunc(ids, episode.ID.Compare)
	return ids
}

// TestKilledAtEveryCall kills a process at its n-th call that changes the disk,
// for all n.
func TestKilledAtEveryCall(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace; TestKilledAtRandom does without")
	}
	for work, n := range map[string]int{"quarantine": 2, "requeue": 2, "acknowledge": 3, "keep": 3} {
		t.Run(work, func(t *testing.T) {
			t.Parallel()
			kills := 0
			for _, call := range []string{"renameat", "renameat2", "fsync", "mkdirat", "unlinkat", "ftruncate", "pwrite64"} {
				for at := 1; ; at++ {
					if at > 100 {
						t.Fatal("it never comes to its end")
					}
					dir := t.TempDir()
					ids := sealMany(t, dir, n)
					if work == "requeue" {
						if err := doWork("quarantine", dir); err != nil {
							t.Fatal(err)
						}
					}
					c := child(t, dir, work)
					// Not with --seccomp-bpf: strace 6.1 then injects errors but no signals.
					c.Args = append([]string{strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call,
						"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, at), c.Path}, c.Args[1:]...)
					c.Path = strace
					out, err := c.CombinedOutput()
					conserved(t, dir, ids)
					if t.Failed() {
						t.Fatalf("killed at %s number %d: %v: %s", call, at, err, out)
					}
					if err == nil {
						break
					}
					if ee := (*exec.ExitError)(nil); !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
						t.Fatalf("%v: %s", err, out)
					}
					kills++
					os.RemoveAll(dir)
				}
			}
			t.Logf("killed at each of %d calls", kills)
			if kills < 8 {
				t.Errorf("only %d kills: the injection does not work", kills)
			}
		})
	}
}

func TestKilledAtRandom(t *testing.T) {
	dir := t.TempDir()
	var ids []episode.ID
	const rounds = 12
	for round := range rounds {
		ids = append(ids, sealMany(t, dir, 25)...) // more work, for as long as it is done
		c := churnFor(t, dir, time.Duration(10+rand.IntN(150))*time.Millisecond)
		c.Process.Kill()
		c.Wait()
		a, b, d, e := conserved(t, dir, ids)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		if round == rounds-1 {
			t.Logf("of %d: %d sealed, %d in quarantine, %d kept, %d in the ledger", len(ids), a, b, d, e)
			if e == 0 {
				t.Error("nothing was ever acknowledged")
			}
		}
	}
	locked(t, dir)
	eventually(t, ".removing is empty", func() bool { return len(names(t, filepath.Join(dir, removingDir))) == 0 })
}
