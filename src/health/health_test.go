package health

import "testing"

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name    string
		have    []Status
		failed  string
		verdict Status
		exit    int
		strict  int
	}{
		{"all well", []Status{Green, Green}, "", Green, 0, 0},
		{"something to watch", []Status{Green, Yellow}, "", Yellow, 0, 1},
		{"broken", []Status{Red, Green, Skipped, Yellow}, "", Red, 1, 1},
		{"could not look", []Status{Green, Unknown}, "", Green, 0, 0},
		{"could not look at anything", []Status{Unknown, Unknown}, "", Unknown, 0, 0},
		{"no rows", nil, "", Unknown, 0, 0},
		{"the doctor failed", []Status{Red}, "out of paper", Unknown, 2, 2},
	} {
		r := Report{Error: c.failed}
		for _, s := range c.have {
			r.Results = append(r.Results, Result{Status: s})
		}
		r.Finish()
		if r.Schema != 1 || r.Verdict != c.verdict || r.Exit(false) != c.exit || r.Exit(true) != c.strict || r.Results == nil || r.Summary == "" {
			t.Errorf("%s: %+v, exit %d, strict %d", c.name, r, r.Exit(false), r.Exit(true))
		}
	}
}
