package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Compare runs a workload on two clusters in turns, so many rounds.
func Compare(ctx context.Context, w Workload, a, b Options, rounds int) (_ *Versus, err error) {
	if rounds <= 0 {
		return nil, fmt.Errorf("%d rounds compare nothing", rounds)
	}
	v := &Versus{Workload: w.Name, Doc: w.Doc}
	var envs [2]*Env
	for i, o := range []Options{a, b} {
		if envs[i], err = Open(ctx, w, o); err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
		defer func() { err = errors.Join(err, envs[i].Close()) }()
	}
	for range rounds {
		for i, to := range []*[]*Result{&v.A, &v.B} {
			r, err := Run(ctx, envs[i], w)
			if err != nil {
				return nil, err
			}
			*to = append(*to, r)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return v, nil
}

// Say writes a comparison in one line.
func (v *Versus) Say(w io.Writer, a, b string) {
	median, lowest, highest := v.Ratio()
	ra, rb := best(v.A), best(v.B)
	fmt.Fprintf(w, "%-20s %s %.0f/s (p99 %.2f ms)  %s %.0f/s (p99 %.2f ms)  ratio %.2f (%.2f to %.2f)\n",
		v.Workload, a, ra.Rate, ra.P99, b, rb.Rate, rb.P99, median, lowest, highest)
}
