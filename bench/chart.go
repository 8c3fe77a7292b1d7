package bench

import (
	"fmt"
	"math"
	"strings"
)

// The size of a chart, and of the plot within it.
const (
	chartWidth, chartHeight = 520, 220
	plotLeft, plotTop       = 64, 8
	plotWidth, plotHeight   = chartWidth - plotLeft - 28, chartHeight - plotTop - 26
)

// chart is lines in an SVG picture.
type chart struct {
	Title         string
	Width, Height int
	Left, Right   int
	Top, Bottom   int
	X, Y          []tick
	Lines         []string // the corners of each side's line
}

// tick is a mark on an axis.
type tick struct{ At, Label string }

func newTick(at float64, label string) tick { return tick{fmt.Sprintf("%.1f", at), label} }

// axis maps values to 0 to 1.
type axis func(v float64) float64

func newChart(title string) chart {
	return chart{
		Title: title, Width: chartWidth, Height: chartHeight,
		Left: plotLeft, Right: plotLeft + plotWidth, Top: plotTop, Bottom: plotTop + plotHeight,
	}
}

type point struct{ x, y float64 }

// line adds a line, which may be empty: that keeps the colours of the sides.
func (c *chart) line(points []point, x, y axis) {
	var b strings.Builder
	for i, p := range points {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%.1f,%.1f", c.atX(x(p.x)), c.atY(y(p.y)))
	}
	c.Lines = append(c.Lines, b.String())
}

func (c *chart) atX(share float64) float64 { return float64(c.Left) + share*plotWidth }
func (c *chart) atY(share float64) float64 { return float64(c.Bottom) - share*plotHeight }

// throughputChart is operations a second over time.
func throughputChart(results []*Result) chart {
	c := newChart("operations a second over time")
	top, end := 0.0, 0.0
	for _, r := range results {
		for i, v := range r.Series {
			top, end = max(top, v), max(end, float64(i+1)*r.SeriesSeconds)
		}
	}
	stepX, stepY := niceStep(end), niceStep(top)
	top, end = math.Max(stepY, stepY*math.Ceil(top/stepY)), math.Max(end, stepX)
	x := func(v float64) float64 { return v / end }
	y := func(v float64) float64 { return v / top }
	for i := 0; float64(i)*stepX <= end*1.0001; i++ {
		c.X = append(c.X, newTick(c.atX(x(float64(i)*stepX)), short(float64(i)*stepX)+" s"))
	}
	for i := 0; float64(i)*stepY <= top*1.0001; i++ {
		c.Y = append(c.Y, newTick(c.atY(y(float64(i)*stepY)), short(float64(i)*stepY)))
	}
	for _, r := range results {
		var points []point
		for i, v := range r.Series {
			points = append(points, point{float64(i+1) * r.SeriesSeconds, v})
		}
		c.line(points, x, y)
	}
	return c
}

// latencyChart is latency by percentile. Both axes are logarithmic: each step of x leaves out a tenth of the operations that
// the step before left out.
func latencyChart(results []*Result) chart {
	const nines = 4 // up to 99.99 %
	c := newChart("latency by percentile, ms")
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, r := range results {
		for _, q := range r.Latency.Spectrum {
			if q.Percent > 0 && q.Ms > 0 {
				lowest, highest = min(lowest, math.Floor(math.Log10(q.Ms))), max(highest, math.Ceil(math.Log10(q.Ms)))
			}
		}
	}
	if lowest > highest {
		lowest, highest = 0, 1
	}
	highest = max(highest, lowest+1)
	x := func(percent float64) float64 { return min(1, -math.Log10(max(1e-9, 1-percent/100))/nines) }
	y := func(ms float64) float64 {
		return max(0, (math.Log10(max(ms, 1e-6))-lowest)/(highest-lowest))
	}
	for _, p := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		c.X = append(c.X, newTick(c.atX(x(p)), fmt.Sprintf("%g %%", p)))
	}
	for e := lowest; e <= highest; e++ {
		c.Y = append(c.Y, newTick(c.atY(y(math.Pow(10, e))), short(math.Pow(10, e))))
	}
	for _, r := range results {
		var points []point
		for _, q := range r.Latency.Spectrum {
			if q.Percent < 100 {
				points = append(points, point{q.Percent, q.Ms})
			}
		}
		c.line(points, x, y)
	}
	return c
}

// niceStep divides 0 to top into about five parts of 1, 2 or 5 times a power of ten.
func niceStep(top float64) float64 {
	if top <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(top/5)))
	for _, f := range []float64{1, 2, 5} {
		if top/(f*power) <= 6 {
			return f * power
		}
	}
	return 10 * power
}

// short is a number in few characters.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.3gk", v/1e3)
	}
	return fmt.Sprintf("%.4g", v)
}
