package main

import (
	"fmt"
	"math"
	"strconv"
)

// verdict is a measured value beside what it must be (floor) and is meant to
// become (goal).
type verdict struct {
	what        string
	value       float64
	floor, goal float64 // floor NaN: none
	unit        string
	least       bool // the value must be at least the floor; else at most
}

func (v verdict) met() bool {
	if v.least {
		return !(v.value < v.floor)
	}
	return !(v.value > v.floor)
}

// reached is how much of the goal is there, from 0 to 1.
func (v verdict) reached() float64 {
	if v.least {
		return min(1, v.value/v.goal)
	}
	return min(1, v.goal/v.value)
}

func (v verdict) String() string {
	met, goal := "met", "reached"
	if !v.met() {
		met = "NOT MET"
	}
	if r := v.reached(); r < 1 {
		goal = number(r) + " of the goal"
	}
	floor := "none"
	if !math.IsNaN(v.floor) {
		floor = number(v.floor) + " " + v.unit
	}
	return fmt.Sprintf("%s %s | %s | %s | %s %s | %s", number(v.value), v.unit, floor, met, number(v.goal), v.unit, goal)
}

// number has two digits behind the point below 10, else none.
func number(v float64) string {
	if v < 10 {
		return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// judge holds what was measured against the floors and goals. durable says
// which contenders flush each episode before they report it, over a network.
func judge(rs records, durable map[string]bool) (out []verdict) {
	times := func(what, workload, variant, peer string, floor, goal float64) {
		r := ratios(rs.of(workload, variant, oursName), rs.of(workload, variant, peer))
		if len(r) > 0 {
			out = append(out, verdict{what, quantile(r, 0.5), floor, goal, "x", true})
		}
	}
	best := func(what, workload, variant string, ok func(peer string) bool, floor, goal float64) {
		var name string
		least := math.Inf(1)
		for _, peer := range rs.names(func(r record) string { return r.Contender }) {
			if r := ratios(rs.of(workload, variant, oursName), rs.of(workload, variant, peer)); peer != oursName && ok(peer) && len(r) > 0 && quantile(r, 0.5) < least {
				name, least = peer, quantile(r, 0.5)
			}
		}
		if name != "" {
			out = append(out, verdict{what + " (" + name + ")", least, floor, goal, "x", true})
		}
	}
	none := math.NaN()
	times("W1, against rsync --fsync", "W1", "", rsyncFsync, 3.5, 6)
	times("W1, against cp -r, then sync", "W1", "", cpName, none, 1)
	times("W1, against tusd", "W1", "", tusdName, 1.2, 2.5)
	best("W2, against the best durable peer", "W2", "", func(p string) bool { return durable[p] }, 0.8, 1.2)
	times("W3, against rsync --fsync", "W3", "", rsyncFsync, 0.7, 1.1)
	for _, rate := range linkRates {
		best("W5, against the best peer at "+rate.String(), "W5", rate.String(), func(string) bool { return true }, 1, 1.3)
	}
	for _, n := range []int{1_000, 1_000_000} {
		if r := rs.of("W4", old(n), oursName); len(r) > 0 {
			out = append(out, verdict{"W4, finding the new one, " + old(n), 1e3 * r.median(func(r record) float64 { return r.Find }), 50, 5, "ms", false})
		}
	}
	if r := rs.of("W6", "", oursName); len(r) > 0 {
		out = append(out, verdict{"W6, p99 of the acknowledgement", 1e3 * r.median(func(r record) float64 { return r.P99 }), 1000, 100, "ms", false})
		cpu := func(r record) float64 { return r.ServerCPU }
		if t := rs.of("W6", "", tusdName); len(t) > 0 {
			out = append(out, verdict{"W6, receiver's CPU, of tusd's", r.median(cpu) / t.median(cpu), none, 0.5, "x", false})
		}
	}
	var shipper, receiver float64
	for _, r := range rs {
		if r.Contender == oursName {
			receiver = max(receiver, float64(r.ServerRSS))
			if r.Workload != "W6" { // there the client is a hundred shippers in one process
				shipper = max(shipper, float64(r.ClientRSS))
			}
		}
	}
	for _, v := range []verdict{{"peak RSS of the shipper", shipper / (1 << 20), 64, 32, "MiB", false}, {"peak RSS of the receiver", receiver / (1 << 20), 128, 64, "MiB", false}} {
		if v.value > 0 {
			out = append(out, v)
		}
	}
	return out
}
