package bench

import (
	"fmt"
	"io"
	"time"
)

// Result is what one run measured. Latencies are in milliseconds.
type Result struct {
	Workload    string  `json:"workload"`
	Clients     int     `json:"clients"`
	TargetRate  float64 `json:"target_rate,omitempty"` // operations a second that an open loop was to begin
	Ops         int64   `json:"ops"`
	Errors      int64   `json:"errors"` // operations that failed; they are not in the rest
	LastError   string  `json:"last_error,omitempty"`
	NotBegun    int64   `json:"not_begun,omitempty"` // operations of an open loop that were due, but never begun
	Interrupted bool    `json:"interrupted,omitempty"`
	Seconds     float64 `json:"seconds"`
	Rate        float64 `json:"rate"` // operations a second
	Latency     Latency `json:"latency"`

	Series        []float64 `json:"series"` // operations a second, in each SeriesSeconds
	SeriesSeconds float64   `json:"series_seconds"`

	BenchCPUSeconds float64 `json:"bench_cpu_seconds"` // the processor time of the measuring program
	Servers         *Usage  `json:"servers,omitempty"`
}

// Latency is a distribution.
type Latency struct {
	Mean     float64    `json:"mean_ms"`
	P50      float64    `json:"p50_ms"`
	P90      float64    `json:"p90_ms"`
	P99      float64    `json:"p99_ms"`
	P999     float64    `json:"p999_ms"`
	Max      float64    `json:"max_ms"`
	Spectrum []Quantile `json:"spectrum"`
}

// Quantile is the latency that so many percent of the operations did not exceed.
type Quantile struct {
	Percent float64 `json:"percent"`
	Ms      float64 `json:"ms"`
}

// Usage is what the servers took.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"`
	PeakBytes  int64   `json:"peak_rss_bytes"` // resident, together
}

// quantiles are those of a Spectrum: equal steps towards 100 %, each a tenth of the way that was left.
func quantiles() []float64 {
	return []float64{0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 97.5, 99, 99.5, 99.75, 99.9, 99.95, 99.99, 100}
}

func (r *Result) fill(m merged) {
	ms := func(ns int64) float64 { return float64(ns) / 1e6 }
	r.Ops, r.Errors = m.h.TotalCount(), m.errors
	if m.last != nil {
		r.LastError = m.last.Error()
	}
	if r.Ops == 0 {
		return
	}
	r.Rate = float64(r.Ops) / r.Seconds
	r.Latency = Latency{
		Mean: ms(int64(m.sum)) / float64(r.Ops),
		P50:  ms(m.h.ValueAtQuantile(50)), P90: ms(m.h.ValueAtQuantile(90)),
		P99: ms(m.h.ValueAtQuantile(99)), P999: ms(m.h.ValueAtQuantile(99.9)), Max: ms(m.h.Max()),
	}
	for _, q := range quantiles() {
		r.Latency.Spectrum = append(r.Latency.Spectrum, Quantile{q, ms(m.h.ValueAtQuantile(q))})
	}
}

// series counts operations over time and shows progress.
type series struct {
	live  *live
	step  time.Duration
	say   *progress
	name  string
	until string // what the run is to reach, for the progress line
	quit  chan struct{}
	done  chan []float64
}

// A series has about so many points, but none of less than the shortest step: it would be noise.
const (
	seriesPoints   = 100
	shortestSeries = 100 * time.Millisecond
)

func startSeries(l *live, o *Options, name string) *series {
	s := &series{live: l, step: time.Second, say: ticker(o.Progress), name: name, quit: make(chan struct{}), done: make(chan []float64, 1)}
	if o.Total > 0 {
		s.until = fmt.Sprintf("of %d operations", o.Total)
	} else {
		s.until = "of " + o.Duration.String()
		s.step = max(shortestSeries, o.Duration/seriesPoints)
	}
	go s.run()
	return s
}

func (s *series) run() {
	var out []float64
	start := time.Now()
	var last, lastNanos, shown int64
	var shownAt time.Duration
	t := time.NewTicker(s.step)
	defer t.Stop()
	defer s.say.end()
	for {
		select {
		case <-s.quit:
			s.done <- out
			return
		case <-t.C:
		}
		n := s.live.ops.Load()
		out = append(out, float64(n-last)/s.step.Seconds())
		last = n
		s.say.maybe(func(w io.Writer) {
			at, nanos := time.Since(start), s.live.nanos.Load()
			mean := 0.0
			if n > shown {
				mean = float64(nanos-lastNanos) / float64(n-shown) / 1e6
			}
			fmt.Fprintf(w, "%-18s %.0fs %s  %d ops  %.0f/s  mean %.2f ms", s.name, at.Seconds(), s.until, n,
				float64(n-shown)/(at-shownAt).Seconds(), mean)
			if failed := s.live.errors.Load(); failed > 0 {
				fmt.Fprintf(w, "  %d failed", failed)
			}
			shown, shownAt, lastNanos = n, at, nanos
		})
	}
}

func (s *series) end() ([]float64, float64) {
	close(s.quit)
	return <-s.done, s.step.Seconds()
}
