package kube

import (
	"fmt"
	"io"
)

// Head writes the heads of the columns of Line.
func Head(w io.Writer) {
	fmt.Fprintf(w, "%-14s %8s %9s %8s %9s %9s %12s %8s\n", "phase", "ops", "ops/s", "errors", "p50 ms", "p99 ms", "CPU us/op", "RSS MB")
}

// Line writes the result of a phase for people.
func (r *Result) Line(w io.Writer) {
	fmt.Fprintf(w, "%-14s %8d %9.0f %8d %9.2f %9.2f %12.0f %8d\n", r.Workload, r.Ops, r.Rate, r.Errors, r.Latency.P50, r.Latency.P99,
		r.CPUMicros, r.Servers.PeakBytes>>20)
	for _, n := range r.Notes {
		fmt.Fprintf(w, "  %s\n", n)
	}
	if r.LastError != "" {
		fmt.Fprintf(w, "  the last error: %s\n", r.LastError)
	}
}
