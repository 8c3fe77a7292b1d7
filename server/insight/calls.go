package insight

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

const (
	// shortest is the bound of the first bucket, about 33 µs: a power of two in nanoseconds, as all bounds are.
	shortest = 15
	// buckets is how many bounded ones there are; the last bound is about 34 s.
	buckets = 21
	// known is how many codes gRPC has.
	known = int(codes.Unauthenticated) + 1
)

// Bounds are those of the durations of calls, in seconds.
func Bounds() []float64 {
	bounds := make([]float64, buckets)
	for i := range bounds {
		bounds[i] = math.Ldexp(1e-9, shortest+i)
	}
	return bounds
}

// Calls counts the calls of each method.
type Calls struct {
	methods map[string]*Method
}

// Method counts the calls of one method.
type Method struct {
	Stream  bool
	started atomic.Uint64
	ended   [known]atomic.Uint64
	took    [buckets + 1]atomic.Uint64 // not of streams
	nanos   atomic.Int64
}

// Init names the methods, and whether they are streams. It comes before the first call.
func (c *Calls) Init(streams map[string]bool) {
	c.methods = make(map[string]*Method, len(streams))
	for name, stream := range streams {
		c.methods[name] = &Method{Stream: stream}
	}
}

// Begin notes the begin of a call. A method that is not known is nil; the others may be called for it all the same.
func (c *Calls) Begin(method string) *Method {
	m := c.methods[method]
	if m != nil {
		m.started.Add(1)
	}
	return m
}

// End notes the end of a call that was begun.
func (m *Method) End(code codes.Code, took time.Duration) {
	if m == nil {
		return
	}
	if int(code) >= known {
		code = codes.Unknown
	}
	m.ended[code].Add(1)
	if m.Stream {
		return
	}
	m.took[bucket(took)].Add(1)
	m.nanos.Add(int64(took))
}

// bucket is the place of the first bound that is not below d.
func bucket(d time.Duration) int {
	if d <= 1<<shortest {
		return 0
	}
	return min(bits.Len64(uint64(d-1))-shortest, buckets)
}

// Counts is what was counted of a method.
type Counts struct {
	Name    string
	Stream  bool
	Started uint64
	Ended   map[codes.Code]uint64
	Took    []uint64 // cumulative, for Bounds
	Count   uint64
	Sum     time.Duration
}

// Counts returns what was counted of the methods that were called, in no order.
func (c *Calls) Counts() (all []Counts) {
	for name, m := range c.methods {
		one := Counts{Name: name, Stream: m.Stream, Ended: map[codes.Code]uint64{}, Sum: time.Duration(m.nanos.Load())}
		for i := range m.took[:buckets] {
			one.Count += m.took[i].Load()
			one.Took = append(one.Took, one.Count)
		}
		one.Count += m.took[buckets].Load()
		for code := range m.ended {
			if n := m.ended[code].Load(); n > 0 {
				one.Ended[codes.Code(code)] = n
			}
		}
		if one.Started = m.started.Load(); one.Started > 0 { // after what ended, so that it is not less
			all = append(all, one)
		}
	}
	return all
}
