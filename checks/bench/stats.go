package main

import (
	"math"
	"slices"
)

// record is what was measured of one run. A field that does not apply is 0.
type record struct {
	Workload  string  `json:"workload"`
	Variant   string  `json:"variant,omitempty"` // of the workload, as "100 Mbit/s"
	Contender string  `json:"contender"`
	Round     int     `json:"round"`
	Episodes  int     `json:"episodes,omitempty"`
	Bytes     int64   `json:"bytes,omitempty"` // of content
	Wall      float64 `json:"wall_s"`          // from sealed to acknowledged
	Find      float64 `json:"find_s,omitempty"`
	P50       float64 `json:"p50_s,omitempty"` // of the acknowledgements
	P99       float64 `json:"p99_s,omitempty"`
	ClientCPU float64 `json:"client_cpu_s,omitempty"`
	ServerCPU float64 `json:"server_cpu_s,omitempty"`
	ClientRSS int64   `json:"client_peak_rss_bytes,omitempty"`
	ServerRSS int64   `json:"server_peak_rss_bytes,omitempty"`
}

type records []record

// of are the records of one contender.
func (rs records) of(workload, variant, contender string) records {
	var out records
	for _, r := range rs {
		if r.Workload == workload && r.Variant == variant && r.Contender == contender {
			out = append(out, r)
		}
	}
	return out
}

// names are the values of f in the order in which they first come.
func (rs records) names(f func(record) string) []string {
	var out []string
	for _, r := range rs {
		if s := f(r); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func (rs records) values(f func(record) float64) []float64 {
	var out []float64
	for _, r := range rs {
		out = append(out, f(r))
	}
	return out
}

func (rs records) median(f func(record) float64) float64 { return quantile(rs.values(f), 0.5) }

// quantile is the p-quantile of v by linear interpolation between the nearest
// ranks (Hyndman and Fan's definition 7); NaN of nothing.
func quantile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	at := p * float64(len(v)-1)
	low := int(at)
	if low+1 == len(v) {
		return v[low]
	}
	return v[low] + (at-float64(low))*(v[low+1]-v[low])
}

// ratios says for each round that both have how many times as long theirs took.
func ratios(ours, theirs records) []float64 {
	var out []float64
	for _, t := range theirs {
		for _, o := range ours {
			if o.Round == t.Round {
				out = append(out, t.Wall/o.Wall)
			}
		}
	}
	return out
}
