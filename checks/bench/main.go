// Command bench times cis490 against its peers on the same workloads, in turn
// on the same machine, and prints each figure and the ratio pair by pair.
//
// Ours runs as users run it: mutual TLS 1.3, every digest verified by the
// receiver, durable before the acknowledgement. Absolute figures change from
// machine to machine and hour to hour; the ratios of one run are what counts.
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

func main() {
	rounds := pflag.Int("rounds", 3, "rounds; every contender runs once in each, in shuffled order")
	episodes := pflag.Int("episodes", 2000, "episodes of workload W1 (8 files, 64 KiB)")
	dir := pflag.String("dir", "", "folder for the workload and what is made of it (default: a temporary one); best on a fresh file system: ext4 is slow for minutes after many deletions")
	keep := pflag.Bool("keep", false, "leave the folder")
	pflag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *keep, *rounds, *episodes); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, keep bool, rounds, episodes int) error {
	if dir == "" {
		d, err := os.MkdirTemp("", "cis490-bench-")
		if err != nil {
			return err
		}
		dir = d
		if !keep {
			defer os.RemoveAll(d)
		}
	}
	bin := filepath.Join(dir, "bin")
	if err := build(ctx, bin); err != nil {
		return err
	}
	source := filepath.Join(dir, "w1")
	if err := makeW1(ctx, source, episodes); err != nil {
		return err
	}
	contenders := []contender{ours{bin: bin}, rsync{}, rsync{fsync: true}}
	results := map[string][]result{}
	for round := range rounds {
		order := rand.Perm(len(contenders))
		for _, i := range order {
			c := contenders[i]
			fmt.Fprintf(os.Stderr, "round %d/%d: %s\n", round+1, rounds, c.name())
			work := filepath.Join(dir, fmt.Sprintf("%d-%d", round, i))
			r, err := c.run(ctx, source, work, episodes)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name(), err)
			}
			results[c.name()] = append(results[c.name()], r)
		}
	}
	print1(contenders, results, episodes, int64(episodes)*w1Bytes)
	return nil
}

// print1 prints one row for each contender: medians, and the ratio to ours in
// each round as minimum, median and maximum.
func print1(contenders []contender, results map[string][]result, episodes int, bytes int64) {
	fmt.Printf("W1: %d episodes of 8 files, %d KiB each; medians of %d rounds\n\n", episodes, bytes/int64(episodes)/1024, len(results[contenders[0].name()]))
	fmt.Println("| contender | episodes/s | MB/s | CPU s (both sides) | peak RSS MiB client + server | ours / it: min | median | max |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	our := results[contenders[0].name()]
	for _, c := range contenders {
		rs := results[c.name()]
		var ratio []float64
		for i := range rs {
			ratio = append(ratio, rs[i].wall.Seconds()/our[i].wall.Seconds())
		}
		slices.Sort(ratio)
		wall := median(rs, func(r result) float64 { return r.wall.Seconds() })
		fmt.Printf("| %s | %.0f | %.0f | %.2f | %.0f + %.0f | %.2f | %.2f | %.2f |\n", c.name(), float64(episodes)/wall, float64(bytes)/1e6/wall,
			median(rs, func(r result) float64 { return r.cpu.Seconds() }),
			median(rs, func(r result) float64 { return float64(r.clientRSS) / (1 << 20) }),
			median(rs, func(r result) float64 { return float64(r.serverRSS) / (1 << 20) }),
			ratio[0], ratio[len(ratio)/2], ratio[len(ratio)-1])
	}
}

func median(rs []result, f func(result) float64) float64 {
	var v []float64
	for _, r := range rs {
		v = append(v, f(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// result is one run of one contender.
type result struct {
	wall                 time.Duration // from sealed episodes to the last acknowledgement
	cpu                  time.Duration // user and system, client and server
	clientRSS, serverRSS int64         // bytes, peak
}
