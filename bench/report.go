package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Text writes results for people.
func Text(w io.Writer, results []*Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-18s %10s %10s %9s %9s %9s %9s %9s\n", "workload", "ops", "ops/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")
	for _, r := range results {
		l := &r.Latency
		fmt.Fprintf(&b, "%-18s %10d %10.0f %9.3f %9.3f %9.3f %9.3f %9.3f\n", r.Workload, r.Ops, r.Rate, l.P50, l.P90, l.P99, l.P999, l.Max)
		for _, note := range notes(r) {
			fmt.Fprintf(&b, "  %s\n", note)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// notes are what is to be said of a run besides its figures.
func notes(r *Result) (out []string) {
	if s := r.Servers; s != nil {
		out = append(out, fmt.Sprintf("servers: %.2f s CPU, %s s per 1000 operations, %d MB resident at most; this program: %.2f s CPU",
			s.CPUSeconds, perThousand(r), s.PeakBytes>>20, r.BenchCPUSeconds))
	}
	if r.Errors > 0 {
		out = append(out, fmt.Sprintf("%d operations failed, the last with: %s", r.Errors, r.LastError))
	}
	if r.NotBegun > 0 {
		out = append(out, fmt.Sprintf("%d operations were due and never begun: the rate is more than the cluster does", r.NotBegun))
	}
	if r.Interrupted {
		out = append(out, fmt.Sprintf("interrupted after %.1f s", r.Seconds))
	}
	return out
}

// perThousand is the servers' processor time for 1000 operations.
func perThousand(r *Result) string {
	if r.Servers == nil || r.Ops == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g", r.Servers.CPUSeconds*1000/float64(r.Ops))
}

// JSON writes results for programs.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Say writes a comparison in one line. a and b name the two clusters.
func (v *Versus) Say(w io.Writer, a, b string) {
	ra, rb := typical(v.A), typical(v.B)
	fmt.Fprintf(w, "%-18s %s %.0f/s (p50 %.2f, p99 %.2f ms)  %s %.0f/s (p50 %.2f, p99 %.2f ms)  ratio %s\n",
		v.Workload, a, ra.Rate, ra.Latency.P50, ra.Latency.P99, b, rb.Rate, rb.Latency.P50, rb.Latency.P99, v.ratio())
	for _, r := range append(append([]*Result{}, v.A...), v.B...) {
		if r.Errors > 0 || r.NotBegun > 0 {
			for _, note := range notes(r) {
				fmt.Fprintf(w, "  %s\n", note)
			}
		}
	}
}

// ratio is the ratio and its spread, and what it is of if that is not the usual.
func (v *Versus) ratio() string {
	if v.Ratio == nil {
		return "-"
	}
	of := ""
	if v.Of == ofLatency {
		of = ", of latencies"
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f%s)", v.Ratio.Median, v.Ratio.Lowest, v.Ratio.Highest, of)
}

// Markdown writes comparisons as a table. a and b name the two clusters.
func Markdown(w io.Writer, all []*Versus, a, b string) error {
	var s strings.Builder
	heads := []string{"workload", "members", "ratio, median (lowest to highest)"}
	for _, side := range []string{a, b} {
		heads = append(heads, side+" ops/s", side+" p50 / p99 ms", side+" CPU s per 1000 ops", side+" peak MB")
	}
	fmt.Fprintf(&s, "| %s |\n|%s\n", strings.Join(heads, " | "), strings.Repeat(" --- |", len(heads)))
	for _, v := range all {
		cells := []string{v.Workload, fmt.Sprint(v.Members), v.ratio()}
		for _, rs := range [][]*Result{v.A, v.B} {
			r := typical(rs)
			peak := "-"
			if r.Servers != nil {
				peak = fmt.Sprint(r.Servers.PeakBytes >> 20)
			}
			cells = append(cells, fmt.Sprintf("%.0f", r.Rate), fmt.Sprintf("%.2f / %.2f", r.Latency.P50, r.Latency.P99), perThousand(r), peak)
		}
		fmt.Fprintf(&s, "| %s |\n", strings.Join(cells, " | "))
	}
	_, err := io.WriteString(w, s.String())
	return err
}
