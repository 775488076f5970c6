// Command bench times cis490 against its peers on the same workloads, in turn
// on the same machine, and prints each figure and the ratio pair by pair.
//
// Ours runs as users run it: mutual TLS 1.3, every digest verified by the
// receiver, durable before the acknowledgement. Absolute figures change from
// machine to machine and hour to hour; the ratios of one run are what counts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// The main goroutine starts all processes, from the main thread and no other: they
// are to die with it (PR_SET_PDEATHSIG is about the thread), and it does not end before.
func init() { runtime.LockOSThread() }

func main() {
	var err error
	if len(os.Args) > 1 && os.Args[1] == "tool" {
		err = tool(os.Args[2:])
	} else {
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of this program.
type bench struct {
	quick   bool
	rounds  int
	profile string // folder for profiles; "": none
	disk    disk
	bin     string // our programs
	self    string // this one
	all     []contender
	records records
	notRun  []string
}

var workloads = []string{"W1", "W2", "W3", "W4", "W5", "W6"}

func run() error {
	b := bench{}
	pflag.BoolVar(&b.quick, "quick", false, "small workloads and one round: to see that it works, not to measure")
	pflag.IntVar(&b.rounds, "rounds", 3, "rounds; every contender runs once in each, in shuffled order")
	only := pflag.StringSlice("only", workloads, "workloads")
	beside := pflag.StringArray("beside", nil, "peers, by a part of their names (default: all)")
	file := pflag.String("json", "", "file for every single measurement")
	pflag.StringVar(&b.profile, "profile", "", "folder for CPU profiles of our two programs during W1, W2 and W3; their top ten are printed")
	pflag.StringVar(&b.disk.dir, "dir", "", "folder to work in (default: a new ext4 on a loop device in $TMPDIR, where this is root)")
	pflag.Parse()
	for _, w := range *only {
		if !slices.Contains(workloads, w) {
			return fmt.Errorf("--only %s: there are %s", w, strings.Join(workloads, ", "))
		}
	}
	if b.quick && !pflag.CommandLine.Changed("rounds") {
		b.rounds = 1
	}
	if b.disk.dir == "" && os.Geteuid() != 0 {
		return errors.New("a file system of its own takes root; else name a folder with --dir")
	}
	b.disk.bytes = int64(max(12, 4*b.rounds)) << 30 // sparse
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bin, err := os.MkdirTemp("", "cis490-bench-bin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	b.bin = bin
	if err := build(ctx, bin); err != nil {
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	b.all = []contender{ours(bin)}
	for _, c := range peers(b.self) {
		if len(*beside) > 0 && !slices.ContainsFunc(*beside, func(part string) bool { return strings.Contains(c.name, part) }) {
			continue
		}
		if m := c.missing(); m != "" {
			b.skip("%s: there is no %s", c.name, m)
			continue
		}
		b.all = append(b.all, c)
	}
	for _, w := range workloads {
		if !slices.Contains(*only, w) {
			continue
		}
		if err := b.workload(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
		if *file != "" {
			text, err := json.MarshalIndent(b.records, "", "  ")
			if err == nil {
				err = os.WriteFile(*file, text, 0o644)
			}
			if err != nil {
				return err
			}
		}
	}
	b.printFloors()
	for _, line := range b.notRun {
		fmt.Println("not run:", line)
	}
	return nil
}

func (b *bench) workload(ctx context.Context, name string) error {
	small := func(quick, full int) int {
		if b.quick {
			return quick
		}
		return full
	}
	w1 := shape{small(200, 2000), 8, 8 << 10}
	w2 := shape{small(6, 60), 8, 2 << 20}
	w3 := shape{1, 20, small(256<<20, 2<<30) / 20}
	switch name {
	case "W1":
		if err := b.transfers(ctx, "W1", "", w1, b.all, loopback{}); err != nil {
			return err
		}
		b.printTransfers("W1", "", w1)
		w1.episodes *= 4 // for samples enough
		return b.profiles(ctx, "W1", w1)
	case "W2":
		if err := b.transfers(ctx, "W2", "", w2, b.all, loopback{}); err != nil {
			return err
		}
		b.printTransfers("W2", "", w2)
		return b.profiles(ctx, "W2", w2)
	case "W3":
		if err := b.transfers(ctx, "W3", "", w3, b.all, loopback{}); err != nil {
			return err
		}
		b.printTransfers("W3", "", w3)
		return b.profiles(ctx, "W3", w3)
	case "W4":
		return b.backlog(ctx)
	case "W5":
		return b.links(ctx)
	case "W6":
		return b.hosts(ctx)
	}
	return nil
}

// skip notes what is not in the tables.
func (b *bench) skip(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	b.notRun = append(b.notRun, line)
	fmt.Fprintln(os.Stderr, "not run:", line)
}

// transfers runs contenders in shuffled order, round by round, each into a fresh
// folder.
func (b *bench) transfers(ctx context.Context, workload, variant string, s shape, contenders []contender, n network) (err error) {
	dir, done, err := b.disk.fresh(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	host := filepath.Join(dir, "host")
	ids, err := s.make(ctx, host, 490)
	if err != nil {
		return err
	}
	failed := map[string]bool{}
	for round := range b.rounds {
		for _, i := range rand.Perm(len(contenders)) {
			c := contenders[i]
			if failed[c.name] || c.slow && round > 0 {
				continue
			}
			p := place{sealed: filepath.Join(host, "sealed"), ids: ids, work: filepath.Join(dir, fmt.Sprintf("%d-%d", round, i)), net: n}
			if err := os.Mkdir(p.work, 0o755); err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%s %s round %d/%d: %s\n", workload, variant, round+1, b.rounds, c.name)
			r, err := c.run(ctx, p)
			if err == nil {
				var n int64
				if n, err = p.stored(); err == nil && n < s.bytes()/8 {
					err = fmt.Errorf("of %d bytes only %d are stored", s.bytes(), n)
				}
			}
			if err != nil && (c.name == oursName || ctx.Err() != nil) {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if err != nil {
				failed[c.name] = true
				b.skip("%s %s: %s: %v", workload, variant, c.name, err)
			} else {
				b.records = append(b.records, record{Workload: workload, Variant: variant, Contender: c.name, Round: round, Episodes: s.episodes, Bytes: s.bytes(), Wall: r.wall.Seconds()}.with(r))
			}
			if s.episodes*s.files < 10_000 { // no inodes to speak of, but space
				if err := os.RemoveAll(p.work); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// with notes what both sides used.
func (r record) with(x result) record {
	r.ClientCPU, r.ServerCPU = x.client.cpu.Seconds(), x.server.cpu.Seconds()
	r.ClientRSS, r.ServerRSS = x.client.rss, x.server.rss
	return r
}
