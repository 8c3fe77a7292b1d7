package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Versus is a workload on two clusters in turns.
type Versus struct {
	Workload string    `json:"workload"`
	Doc      string    `json:"doc"`
	Members  int       `json:"members,omitempty"`
	Of       string    `json:"ratio_of"` // what Ratio compares: ofRate or ofLatency
	Ratio    *Spread   `json:"ratio"`    // nil if there was no round with operations on both sides
	A        []*Result `json:"a"`
	B        []*Result `json:"b"`
}

// What a ratio compares. Above 1 A is better.
const (
	ofRate    = "operations a second, A to B"
	ofLatency = "mean latency, B to A"
)

// Spread is the median, the lowest and the highest of some numbers.
type Spread struct {
	Median  float64 `json:"median"`
	Lowest  float64 `json:"lowest"`
	Highest float64 `json:"highest"`
}

// Compare runs a workload on two clusters in turns, so many rounds. When ctx ends early, what was measured so far is
// returned.
func Compare(ctx context.Context, w Workload, a, b Options, rounds int) (_ *Versus, err error) {
	if rounds <= 0 {
		return nil, fmt.Errorf("%d rounds compare nothing", rounds)
	}
	v := &Versus{Workload: w.Name, Doc: w.Doc, Of: ofRate}
	var envs [2]*Env
	for i, o := range []Options{a, b} {
		if envs[i], err = Open(ctx, w, o); err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
		defer func() { err = errors.Join(err, envs[i].Close()) }()
	}
	if envs[0].Options.Rate > 0 {
		v.Of = ofLatency
	}
	everybody := slices.Concat(a.Pids, b.Pids)
	for range rounds {
		for i, to := range []*[]*Result{&v.A, &v.B} {
			rest(ctx, everybody)
			if ctx.Err() != nil {
				break
			}
			r, err := Run(ctx, envs[i], w)
			if err != nil {
				return nil, err
			}
			*to = append(*to, r)
		}
	}
	v.compute()
	return v, nil
}

// compute makes the ratio of the rounds that came to their end.
func (v *Versus) compute() {
	var ratios []float64
	for i := range min(len(v.A), len(v.B)) {
		a, b := v.A[i], v.B[i]
		switch {
		case a.Ops == 0 || b.Ops == 0 || a.Interrupted || b.Interrupted:
		case v.Of == ofLatency && a.Latency.Mean > 0:
			ratios = append(ratios, b.Latency.Mean/a.Latency.Mean)
		case v.Of == ofRate:
			ratios = append(ratios, a.Rate/b.Rate)
		}
	}
	v.Ratio = spread(ratios)
}

// spread is nil for no numbers.
func spread(xs []float64) *Spread {
	if len(xs) == 0 {
		return nil
	}
	s := slices.Sorted(slices.Values(xs))
	return &Spread{Median: median(s), Lowest: s[0], Highest: s[len(s)-1]}
}

// median is the middle of sorted numbers.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// typical is the result with the median rate, for figures that are not ratios. It is an empty one if there is none.
func typical(rs []*Result) *Result {
	if len(rs) == 0 {
		return &Result{}
	}
	s := slices.SortedFunc(slices.Values(rs), func(a, b *Result) int { return cmp.Compare(a.Rate, b.Rate) })
	return s[len(s)/2]
}
