package ship

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"cis490/src/code"
	"cis490/src/health"
	"cis490/src/state"
	"cis490/src/wire"
)

// reportGap is the least time between two reports, however often the verdict
// changes.
const reportGap = 10 * time.Second

// reportOf is what the receiver is told of a state.
func reportOf(st state.Shipper, interval time.Duration, now time.Time) wire.Report {
	r := wire.Report{Schema: 1, Host: st.Host, Version: st.Version, SentAt: now.UTC().Round(0), StartedAt: st.StartedAt, Interval: int64(interval / time.Second)}
	r.Rows, r.Verdict = st.Rows(now)
	if st.Success != nil {
		r.LastSuccess = &st.Success.At
	}
	r.Queue.Waiting, r.Queue.InFlight, r.Queue.Postponed = int64(st.Queue.Waiting), int64(st.Queue.InFlight), int64(st.Queue.Postponed)
	if o := st.Queue.Oldest; o != nil {
		r.Queue.OldestAge = max(o.AgeSeconds, 1)
	}
	r.Quarantine.Total = int64(st.Quarantine.Total)
	for c, n := range st.Quarantine.ByCode {
		if r.Quarantine.ByCode == nil {
			r.Quarantine.ByCode = map[code.Code]int64{}
		}
		r.Quarantine.ByCode[c] = int64(n)
	}
	r.Path.Held, r.Path.Code, r.Path.Since = st.Path.Held, st.Path.Code, st.Path.Since
	r.Disk.Free, r.Disk.Min = st.Disk.FreeBytes, st.Disk.MinFreeBytes
	if st.Poll.LastSuccess != nil {
		r.Skew = &st.Poll.SkewSeconds
	}
	r.Clean() // what it would be cut to at the receiver need not travel
	return r
}

// reportIn is for how long the next report has time; false when none are sent.
func (s *Shipper) reportIn(now time.Time) (time.Duration, bool) {
	every := s.cfg.Shipper.ReportInterval
	if every <= 0 {
		return 0, false
	}
	tried, _ := s.facts.lastReport()
	return max(tried.Add(every).Sub(now), 0), true
}

// news says whether the verdict is another one than in the last report, and the
// next one may go out already.
func (s *Shipper) news(st state.Shipper, now time.Time) bool {
	tried, said := s.facts.lastReport()
	if s.cfg.Shipper.ReportInterval <= 0 || !tellable(st) || now.Sub(tried) < reportGap {
		return false
	}
	_, worst := st.Rows(now)
	return worst != said
}

// tellable says whether there is something to tell, and a way: before the first
// scan has ended, all looks well.
func tellable(st state.Shipper) bool { return !st.Scan.At.IsZero() && !st.Path.Held }

// report tells the receiver how this host is, if that is due. It goes out after a
// poll that succeeded, on the poll's connection: never while the path is held, and
// never in the place of an upload. Nothing follows from its failure.
func (p *poller) report(ctx context.Context) {
	s := p.s
	now := time.Now()
	in, on := s.reportIn(now)
	st := s.State()
	if !on || !tellable(st) || in > 0 && !s.news(st, now) {
		return
	}
	rep := reportOf(st, s.cfg.Shipper.ReportInterval, now)
	fail := s.client.report(ctx, p.meter, rep)
	if fail != nil && fail.parked {
		return
	}
	s.facts.told(rep.Verdict, fail, now)
	var err error
	if fail != nil {
		err = fail.why
	}
	p.reporting.report(s.log, "tell the receiver how this host is", err)
	poke(s.changed)
}

// report puts a report.
func (c *client) report(ctx context.Context, m *meter, rep wire.Report) *failure {
	body, err := json.Marshal(rep)
	if err != nil { // it was cleaned
		return local(err)
	}
	again := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	first, _ := again()
	return c.do(ctx, m, request{
		method: http.MethodPut, url: c.reports, length: int64(len(body)), body: first, again: again,
		header: http.Header{"Content-Type": {wire.MediaJSON}, "X-Idempotency-Key": nil},
	}, func(r *http.Response) *failure {
		switch {
		case success(r):
			return nil
		case r.StatusCode == http.StatusNotFound && r.Header.Get(wire.HeaderWindow) != "":
			return &failure{status: r.StatusCode, why: code.New(code.Unmarked4xx, "this receiver is of a version without reports: bring it to that of this host, or set shipper.report_interval = \"0s\"")}
		}
		return refused(r)
	})
}

// lastReport is when a report was last sent, and its verdict, whatever came of it.
func (f *facts) lastReport() (at time.Time, said health.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tried, f.said
}

// told notes what came of a report.
func (f *facts) told(h health.Status, fail *failure, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried, f.said = now, h
	if fail == nil {
		f.report = state.Report{SentAt: timeOrNil(now), Verdict: h}
		return
	}
	at := now.UTC().Round(0)
	c := state.Code{Code: fail.code(), Detail: detail(fail.why), Since: at, At: at}
	if old := f.report.Failure; old != nil && old.Code == c.Code {
		c.Since = old.Since
	}
	f.report.Failure = &c
}
