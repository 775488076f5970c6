package main

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		v       []float64
		p, want float64
	}{
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{7}, 0.99, 7},
		{[]float64{0, 10}, 0.99, 9.9},
		{[]float64{5, 1}, 1, 5},
		{nil, 0.5, math.NaN()},
	} {
		if got := quantile(c.v, c.p); !cmp.Equal(got, c.want, cmpopts.EquateNaNs(), cmpopts.EquateApprox(1e-12, 0)) {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.v, c.p, got, c.want)
		}
	}
}

func TestRatiosPairRounds(t *testing.T) {
	ours := records{{Round: 0, Wall: 1}, {Round: 1, Wall: 2}}
	theirs := records{{Round: 1, Wall: 6}, {Round: 2, Wall: 9}, {Round: 0, Wall: 2}}
	if d := cmp.Diff([]float64{3, 2}, ratios(ours, theirs)); d != "" {
		t.Error(d)
	}
}

func TestFloors(t *testing.T) {
	rs := records{
		{Workload: "W1", Contender: oursName, Wall: 1, ClientRSS: 40 << 20, ServerRSS: 20 << 20},
		{Workload: "W1", Contender: rsyncFsync, Wall: 4},
		{Workload: "W1", Contender: tusdName, Wall: 1.1},
		{Workload: "W2", Contender: oursName, Wall: 2, ClientRSS: 10 << 20, ServerRSS: 30 << 20},
		{Workload: "W2", Contender: rsyncFsync, Wall: 3},
		{Workload: "W2", Contender: spawnedName, Wall: 1},
		{Workload: "W2", Contender: cpName, Wall: 0.1},
		{Workload: "W4", Variant: old(1_000_000), Contender: oursName, Wall: 0.02, Find: 0.004},
		{Workload: "W6", Contender: oursName, Wall: 60, P99: 0.3, ServerCPU: 10},
		{Workload: "W6", Contender: tusdName, Wall: 60, P99: 0.2, ServerCPU: 16},
	}
	durable := map[string]bool{rsyncFsync: true, spawnedName: true}
	got := map[string]string{}
	for _, v := range judge(rs, durable) {
		got[v.what] = v.String()
	}
	want := map[string]string{
		"W1, against rsync --fsync": "4 x | 3.5 x | met | 6 x | 0.67 of the goal",
		"W1, against tusd":          "1.1 x | 1.2 x | NOT MET | 2.5 x | 0.44 of the goal",
		"W2, against the best durable peer (tar, zstd and curl per episode, fsynced)": "0.5 x | 0.8 x | NOT MET | 1.2 x | 0.42 of the goal",
		"W4, finding the new one, 1000000 old":                                        "4 ms | 50 ms | met | 5 ms | reached",
		"W6, p99 of the acknowledgement":                                              "300 ms | 1000 ms | met | 100 ms | 0.33 of the goal",
		"W6, receiver's CPU, of tusd's":                                               "0.63 x | none | met | 0.5 x | 0.8 of the goal",
		"peak RSS of the shipper":                                                     "40 MiB | 64 MiB | met | 32 MiB | 0.8 of the goal",
		"peak RSS of the receiver":                                                    "30 MiB | 128 MiB | met | 64 MiB | reached",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
