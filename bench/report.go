package bench

import (
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strings"
)

// Text writes results for people.
func Text(w io.Writer, results []*Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s %10s %12s %9s %9s %9s %9s %9s\n", "workload", "ops", "ops/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")
	for _, r := range results {
		fmt.Fprintf(&b, "%-20s %10d %12.0f %9.3f %9.3f %9.3f %9.3f %9.3f", r.Workload, r.Ops, r.Rate, r.P50, r.P90, r.P99, r.P999, r.Max)
		if r.Servers != nil {
			fmt.Fprintf(&b, "   servers: %.1f s CPU, %d MB", r.Servers.CPUSeconds, r.Servers.PeakBytes>>20)
		}
		if r.Errors > 0 {
			fmt.Fprintf(&b, "   %d failed", r.Errors)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// JSON writes results for programs.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Markdown writes comparisons as a table. a and b name the two clusters.
func Markdown(w io.Writer, all []*Versus, a, b string) error {
	var s strings.Builder
	fmt.Fprintf(&s, "| workload | members | %s ops/s | %s ops/s | ratio (lowest to highest) | %s p50 / p99 ms | %s p50 / p99 ms | %s CPU s per 10,000 ops, peak MB | %s |\n", a, b, a, b, a, b)
	s.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, v := range all {
		ra, rb := best(v.A), best(v.B)
		median, lowest, highest := v.Ratio()
		fmt.Fprintf(&s, "| %s | %d | %.0f | %.0f | **%.2f** (%.2f to %.2f) | %.2f / %.2f | %.2f / %.2f | %s | %s |\n", v.Workload, v.Members,
			ra.Rate, rb.Rate, median, lowest, highest, ra.P50, ra.P99, rb.P50, rb.P99, usage(ra), usage(rb))
	}
	_, err := io.WriteString(w, s.String())
	return err
}

func usage(r *Result) string {
	if r.Servers == nil || r.Ops == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f, %d", r.Servers.CPUSeconds*10_000/float64(r.Ops), r.Servers.PeakBytes>>20)
}

// HTML writes a page of its own, with a chart of every run's operations by the second.
func HTML(w io.Writer, title string, results []*Result) error {
	type row struct {
		*Result
		Points string
	}
	var rows []row
	for _, r := range results {
		rows = append(rows, row{r, points(r.Series)})
	}
	t, err := template.New("page").Parse(pageSource)
	if err != nil {
		return err
	}
	return t.Execute(w, map[string]any{"Title": title, "Rows": rows, "Width": chartWidth, "Height": chartHeight})
}

const (
	chartWidth  = 600
	chartHeight = 120
)

// points are the corners of a chart's line.
func points(series []float64) string {
	top := 1.0
	for _, v := range series {
		top = max(top, v)
	}
	var b strings.Builder
	for i, v := range series {
		x := float64(i) * chartWidth / float64(max(1, len(series)-1))
		fmt.Fprintf(&b, "%.1f,%.1f ", x, chartHeight-v/top*(chartHeight-10))
	}
	return strings.TrimSpace(b.String())
}

const pageSource = `<!doctype html>
<meta charset="utf-8"><title>{{.Title}}</title>
<style>body{font:15px system-ui;margin:2em;max-width:60em}table{border-collapse:collapse}td,th{padding:.3em .8em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}svg{background:#f6f8fa;margin:.5em 0}polyline{fill:none;stroke:#0a66c2;stroke-width:2}</style>
<h1>{{.Title}}</h1>
<table><tr><th>workload<th>ops/s<th>p50 ms<th>p90 ms<th>p99 ms<th>p99.9 ms<th>max ms</tr>
{{range .Rows}}<tr><td>{{.Workload}}<td>{{printf "%.0f" .Rate}}<td>{{printf "%.3f" .P50}}<td>{{printf "%.3f" .P90}}<td>{{printf "%.3f" .P99}}<td>{{printf "%.3f" .P999}}<td>{{printf "%.3f" .Max}}</tr>
{{end}}</table>
{{range .Rows}}<h3>{{.Workload}}: operations in each second</h3>
<svg width="{{$.Width}}" height="{{$.Height}}" role="img" aria-label="{{.Workload}}"><polyline points="{{.Points}}"/></svg>
{{end}}`
