package main

import (
	"fmt"
	"slices"
)

// printTransfers prints one row for each contender: medians of its rounds, and how
// many times as long as ours it took in the same round.
func (b *bench) printTransfers(workload, variant string, s shape) {
	ours := b.records.of(workload, variant, oursName)
	head := workload
	if variant != "" {
		head += ", " + variant
	}
	fmt.Printf("\n%s: %s\n\n", head, s)
	fmt.Println("| contender | wall s | CPU s, client + server | peak RSS MiB, client + server | MB/s | episodes/s | its time / ours: median | min to max | rounds |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, c := range b.all {
		rs := b.records.of(workload, variant, c.name)
		if len(rs) == 0 {
			continue
		}
		wall := rs.median(func(r record) float64 { return r.Wall })
		ratio := ratios(ours, rs)
		fmt.Printf("| %s | %.2f | %s | %s | %s | %s | %.2f | %.2f to %.2f | %d |\n", c.name, wall, rs.cpu(), rs.rss(), number(float64(rs[0].Bytes)/1e6/wall), number(float64(rs[0].Episodes)/wall),
			quantile(ratio, 0.5), slices.Min(ratio), slices.Max(ratio), len(rs))
	}
}

func contenderOf(r record) string { return r.Contender }

func (rs records) cpu() string {
	return fmt.Sprintf("%.2f + %.2f", rs.median(func(r record) float64 { return r.ClientCPU }), rs.median(func(r record) float64 { return r.ServerCPU }))
}

func (rs records) rss() string {
	return fmt.Sprintf("%.0f + %.0f", rs.median(func(r record) float64 { return float64(r.ClientRSS) })/(1<<20), rs.median(func(r record) float64 { return float64(r.ServerRSS) })/(1<<20))
}

// printBacklog prints W4.
func (b *bench) printBacklog() {
	fmt.Printf("\nW4: one new episode beside old ones\n\n")
	fmt.Println("| contender | beside | found after ms, median | worst | acknowledged after ms, median | worst | times |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, variant := range b.records.names(func(r record) string { return r.Variant }) {
		for _, name := range b.records.names(contenderOf) {
			rs := b.records.of("W4", variant, name)
			if len(rs) == 0 {
				continue
			}
			find, wall := rs.values(func(r record) float64 { return 1e3 * r.Find }), rs.values(func(r record) float64 { return 1e3 * r.Wall })
			fmt.Printf("| %s | %s | %s | %s | %s | %s | %d |\n", name, variant, number(quantile(find, 0.5)), number(slices.Max(find)), number(quantile(wall, 0.5)), number(slices.Max(wall)), len(rs))
		}
	}
}

// printHosts prints W6.
func (b *bench) printHosts(hosts, seconds int) {
	fmt.Printf("\nW6: %d hosts at once, each an episode of 1 MiB a second, for %d s\n\n", hosts, seconds)
	fmt.Println("| contender | acknowledged after ms: p50 | p99 | CPU s, all clients + server | peak RSS MiB, all clients + server | episodes |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, name := range b.records.names(contenderOf) {
		if rs := b.records.of("W6", "", name); len(rs) > 0 {
			fmt.Printf("| %s | %.1f | %.1f | %s | %s | %d |\n", name, 1e3*rs.median(func(r record) float64 { return r.P50 }), 1e3*rs.median(func(r record) float64 { return r.P99 }), rs.cpu(), rs.rss(), rs[0].Episodes)
		}
	}
}

// printFloors prints how far all of it is from what it is meant to be.
func (b *bench) printFloors() {
	durable := map[string]bool{}
	for _, c := range b.all {
		durable[c.name] = c.durable && c.linked
	}
	fmt.Printf("\nFloors and goals\n\n| | measured | floor | floor met? | goal | goal reached? |\n|---|---|---|---|---|---|\n")
	for _, v := range judge(b.records, durable) {
		fmt.Printf("| %s | %s |\n", v.what, v)
	}
}
