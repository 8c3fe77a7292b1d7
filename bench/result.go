package bench

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what one run measured. Latencies are in milliseconds.
type Result struct {
	Workload string    `json:"workload"`
	Ops      int64     `json:"ops"`
	Errors   int64     `json:"errors"` // operations that failed; they are not in the rest
	Seconds  float64   `json:"seconds"`
	Rate     float64   `json:"rate"` // operations a second
	P50      float64   `json:"p50_ms"`
	P90      float64   `json:"p90_ms"`
	P99      float64   `json:"p99_ms"`
	P999     float64   `json:"p999_ms"`
	Max      float64   `json:"max_ms"`
	Series   []float64 `json:"series"` // operations in each second
	Servers  *Usage    `json:"servers,omitempty"`
}

// Usage is what the servers took.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"`
	PeakBytes  int64   `json:"peak_rss_bytes"` // resident, together
}

func (r *Result) fill(h *hdrhistogram.Histogram) {
	ms := func(ns int64) float64 { return float64(ns) / 1e6 }
	r.Ops = h.TotalCount()
	r.Rate = float64(r.Ops) / r.Seconds
	r.P50, r.P90 = ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(90))
	r.P99, r.P999 = ms(h.ValueAtQuantile(99)), ms(h.ValueAtQuantile(99.9))
	r.Max = ms(h.Max())
}

// series counts operations by the second and shows progress.
type series struct {
	live *atomic.Int64
	quit chan struct{}
	done chan []float64
}

func startSeries(live *atomic.Int64, progress io.Writer, name string) *series {
	s := &series{live: live, quit: make(chan struct{}), done: make(chan []float64, 1)}
	go func() {
		var out []float64
		last := int64(0)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				n := s.live.Load()
				out = append(out, float64(n-last))
				if progress != nil {
					fmt.Fprintf(progress, "\r%-20s %4ds %10d ops %10d/s", name, len(out), n, n-last)
				}
				last = n
			case <-s.quit:
				if progress != nil {
					fmt.Fprint(progress, "\r"+strings.Repeat(" ", 60)+"\r")
				}
				s.done <- out
				return
			}
		}
	}()
	return s
}

func (s *series) end() []float64 {
	close(s.quit)
	return <-s.done
}

// procs watch the processor time and memory of processes, as Linux shows them.
type procs struct {
	pids  []int
	start float64
	peak  int64
	quit  chan struct{}
	done  chan struct{}
}

func startProcs(pids []int) *procs {
	p := &procs{pids: pids, start: cpuSeconds(pids), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			p.peak = max(p.peak, residentBytes(pids))
			select {
			case <-t.C:
			case <-p.quit:
				return
			}
		}
	}()
	return p
}

func (p *procs) end() *Usage {
	close(p.quit)
	<-p.done
	if len(p.pids) == 0 {
		return nil
	}
	return &Usage{CPUSeconds: cpuSeconds(p.pids) - p.start, PeakBytes: p.peak}
}

// clockTicks is how many ticks of /proc make a second; Linux has it fixed for programs.
const clockTicks = 100

func cpuSeconds(pids []int) (sum float64) {
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) > 12 {
			user, _ := strconv.ParseFloat(fields[11], 64)
			system, _ := strconv.ParseFloat(fields[12], 64)
			sum += (user + system) / clockTicks
		}
	}
	return sum
}

func residentBytes(pids []int) (sum int64) {
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		if fields := strings.Fields(string(data)); len(fields) > 1 {
			pages, _ := strconv.ParseInt(fields[1], 10, 64)
			sum += pages * int64(os.Getpagesize())
		}
	}
	return sum
}

// Versus is a workload on two clusters in turns.
type Versus struct {
	Workload string    `json:"workload"`
	Doc      string    `json:"doc"`
	Members  int       `json:"members,omitempty"`
	A        []*Result `json:"a"`
	B        []*Result `json:"b"`
}

// Ratio is how many times more operations A did than B: the median of the rounds, the lowest and the highest.
func (v *Versus) Ratio() (median, lowest, highest float64) {
	var ratios []float64
	for i := range v.A {
		ratios = append(ratios, v.A[i].Rate/v.B[i].Rate)
	}
	slices.Sort(ratios)
	return Median(ratios), ratios[0], ratios[len(ratios)-1]
}

// Median is the middle of sorted numbers.
func Median(sorted []float64) float64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// best is the result with the median rate.
func best(rs []*Result) *Result {
	s := slices.Clone(rs)
	slices.SortFunc(s, func(a, b *Result) int {
		if a.Rate < b.Rate {
			return -1
		}
		return 1
	})
	return s[len(s)/2]
}
