package bench

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Histograms cover a microsecond to ten minutes with three digits. Values are nanoseconds.
const (
	minLatency = int64(time.Microsecond)
	maxLatency = int64(10 * time.Minute)
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(minLatency, maxLatency, 3) }

// live is what the progress line and the charts over time see of a run that is under way.
type live struct {
	ops, errors, nanos atomic.Int64
}

// Recorder notes latencies of one worker. Watchers go on with it while the result is made.
type Recorder struct {
	mu     sync.Mutex // of all but live and inRow
	h      *hdrhistogram.Histogram
	live   *live
	sum    time.Duration
	errors int64
	inRow  int // errors since the last success
	last   error
}

func newRecorder(l *live) *Recorder { return &Recorder{h: newHistogram(), live: l} }

// Record notes one operation.
func (r *Recorder) Record(d time.Duration) {
	r.mu.Lock()
	_ = r.h.RecordValue(min(max(int64(d), minLatency), maxLatency))
	r.sum += d
	r.mu.Unlock()
	r.inRow = 0
	r.live.ops.Add(1)
	r.live.nanos.Add(int64(d))
}

// Fail notes an operation that failed.
func (r *Recorder) Fail(err error) {
	r.mu.Lock()
	r.errors++
	r.last = err
	r.mu.Unlock()
	r.inRow++
	r.live.errors.Add(1)
}

// merged is what all recorders of a run say together.
type merged struct {
	h      *hdrhistogram.Histogram
	sum    time.Duration
	errors int64
	last   error
}

func merge(recorders []*Recorder) merged {
	m := merged{h: newHistogram()}
	for _, r := range recorders {
		r.mu.Lock()
		m.h.Merge(r.h)
		m.sum += r.sum
		m.errors += r.errors
		if r.last != nil {
			m.last = r.last
		}
		r.mu.Unlock()
	}
	return m
}
