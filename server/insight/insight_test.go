package insight

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/keelson-io/keelson/mvcc"
)

var begin = time.Unix(1_700_000_000, 0)

func TestPrefixesOfAKey(t *testing.T) {
	for key, want := range map[string][]string{
		"":                                     {},
		"a":                                    {},
		"/":                                    {},
		"/a":                                   {},
		"a/":                                   {"a/"},
		"/registry/pods/ns/name":               {"/registry/", "/registry/pods/", "/registry/pods/ns/"},
		"//a//b":                               {"//", "//a/", "//a//"},
		"1/2/3/4/5/6/7/8":                      {"1/", "1/2/", "1/2/3/", "1/2/3/4/", "1/2/3/4/5/", "1/2/3/4/5/6/"},
		"x/" + strings.Repeat("y", 300) + "/z": {"x/"},
	} {
		got := []string{}
		for _, end := range ends(nil, []byte(key)) {
			got = append(got, key[:end])
		}
		require.Equal(t, want, got, key)
	}
}

func TestSpanOfARange(t *testing.T) {
	for _, c := range []struct{ key, end, want string }{
		{"/registry/pods/", "/registry/pods0", "/registry/pods/"},
		{"/registry/pods/ns/name\x00", "/registry/pods0", "/registry/pods/"},
		{"/registry/pods/ns/a", "/registry/pods/ns/b", "/registry/pods/ns/"},
		{"/registry/pods", "/registry/pode", "/registry/"},
		{"a", "b", ""},
		{"\x00", "\x00", ""},
		{"a/b", "\x00", ""},
		{"a/b", "a/", "a/"}, // empty, but it says where
		{"a/\xff", "a0", "a/"},
	} {
		require.Equal(t, c.want, string(span([]byte(c.key), []byte(c.end))), "%q", c)
	}
}

// traffic is what a test lets happen each second.
type traffic struct {
	use      Use
	key, end string
	perSec   int
}

// run lets traffic happen for some seconds, evenly, and returns the time after.
func run(h *Heat, now time.Time, seconds int, what ...traffic) time.Time {
	for range seconds {
		for _, w := range what {
			for i := range w.perSec {
				if weight, ok := h.Sampled(); ok {
					at := now.Add(time.Duration(i) * time.Second / time.Duration(w.perSec))
					key := strings.ReplaceAll(w.key, "*", fmt.Sprint(rand.IntN(100_000)))
					h.Count(at, w.use, []byte(key), []byte(w.end), weight)
				}
			}
		}
		now = now.Add(time.Second)
	}
	return now
}

func TestHottest(t *testing.T) {
	for _, c := range []struct {
		name    string
		traffic []traffic
		want    []Hot
		within  float64 // of each rate, in parts of it
	}{
		{"few calls are counted exactly", []traffic{
			{Write, "/registry/leases/kube-system/controller", "", 2},
			{Read, "/registry/leases/kube-system/controller", "", 1},
			{Read, "/registry/pods/", "/registry/pods0", 10},
		}, []Hot{
			{"/registry/", false, 11, 2},
			{"/registry/pods/", false, 10, 0},
			{"/registry/leases/kube-system/controller", true, 1, 2},
		}, 0.1},
		{"many calls of many keys", []traffic{
			{Write, "/registry/events/*", "", 9000},
			{Write, "/registry/pods/*", "", 900},
			{Read, "config", "", 2500},
		}, []Hot{
			{"/registry/", false, 0, 9900},
			{"/registry/events/", false, 0, 9000},
			{"config", true, 2500, 0},
			{"/registry/pods/", false, 0, 900},
		}, 0.25},
		{"nothing stands out", []traffic{{Write, "*", "", 5000}, {Read, "", "\x00", 10}}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := NewHeat(begin)
			now := run(h, begin, 20, c.traffic...)
			got := h.Hottest(now, 10)
			if c.name == "many calls of many keys" {
				// /registry/events/ has 90 % of /registry/: which of them is told depends on the samples.
				got = slices.DeleteFunc(got, func(h Hot) bool { return h.Prefix == "/registry/" })
				c.want = c.want[1:]
			}
			require.Len(t, got, len(c.want), "%v", got)
			for i, want := range c.want {
				require.Equal(t, want.Prefix, got[i].Prefix)
				require.Equal(t, want.Key, got[i].Key)
				require.InDelta(t, want.Reads, got[i].Reads, want.Reads*c.within+0.1)
				require.InDelta(t, want.Writes, got[i].Writes, want.Writes*c.within+0.1)
			}
		})
	}
}

// What was hot once fades, and the weights begin again before they overflow.
func TestHeatFades(t *testing.T) {
	h := NewHeat(begin)
	now := run(h, begin, 10, traffic{Write, "a/b/c", "", 100})
	require.InDelta(t, 100, h.Hottest(now, 1)[0].Writes, 15)
	later := now.Add(2 * fade)
	require.InDelta(t, 100*math.Exp(-2)*(1-math.Exp(-1)), h.Hottest(later, 1)[0].Writes, 3)
	require.Empty(t, h.Hottest(now.Add(20*fade), 1))
	for range 5 {
		now = now.Add(renewAfter/2*fade + fade)
		now = run(h, now, 10, traffic{Write, "a/b/c", "", 100})
		got := h.Hottest(now, 1)
		require.Equal(t, "a/b/c", got[0].Prefix)
		require.InDelta(t, 63, got[0].Writes, 15) // of ten seconds
	}
	now = run(h, now.Add(2*renewAfter*fade), 10, traffic{Write, "a/b/d", "", 100})
	require.Equal(t, "a/b/d", h.Hottest(now, 10)[0].Prefix)
	require.Len(t, h.Hottest(now, 10), 1)
}

// The samples are bounded whatever the calls, and all calls are counted again when there are few.
func TestSamples(t *testing.T) {
	h := NewHeat(begin)
	now := run(h, begin, 5, traffic{Write, "a/*", "", 50_000})
	before := h.samples
	_ = run(h, now, 1, traffic{Write, "a/*", "", 50_000})
	require.Less(t, h.samples-before, 4*enough)
	require.Greater(t, h.mask.Load(), uint32(7))
	_ = run(h, now.Add(time.Minute), 40, traffic{Write, "a/*", "", 10})
	require.Zero(t, h.mask.Load())
}

// The memory does not depend on the number of keys.
func TestHeatIsBounded(t *testing.T) {
	h := NewHeat(begin)
	for i := range 100_000 {
		h.Count(begin, Use(i%2), fmt.Appendf(nil, "%d/%d/%d/%d", i%500, i%700, i, i), nil, 1)
	}
	for u := range h.tables {
		for _, tab := range h.tables[u] {
			require.LessOrEqual(t, len(tab.counters), tableSize)
			require.Len(t, tab.at, len(tab.counters))
		}
	}
}

// row is a sorted list of keys and their sizes.
type row []struct {
	key  string
	size int64
}

func (r row) Weigh(from string, to *string) (keys, bytes int64) {
	for _, k := range r {
		if k.key >= from && (to == nil || k.key < *to) {
			keys, bytes = keys+1, bytes+k.size
		}
	}
	return keys, bytes
}

func (r row) KeyAt(offset int64) (string, bool) {
	for _, k := range r {
		if offset < k.size {
			return k.key, true
		}
		offset -= k.size
	}
	return "", false
}

func TestBiggest(t *testing.T) {
	var r row
	add := func(key string, size int64) {
		r = append(r, struct {
			key  string
			size int64
		}{key, size})
	}
	for i := range 300 {
		add(fmt.Sprintf("/registry/pods/ns%d/p%03d", i%3, i), 1000)
		add(fmt.Sprintf("/registry/events/e%03d", i), 100)
	}
	add("/registry/secrets/helm", 200_000)
	add("flat", 30_000)
	add("z\xff\xff", 30_000)
	slices.SortFunc(r, func(a, b struct {
		key  string
		size int64
	}) int {
		return strings.Compare(a.key, b.key)
	})
	require.Equal(t, []Big{
		{"/registry/", false, 601, 530_000},
		{"/registry/pods/", false, 300, 300_000},
		{"/registry/secrets/helm", true, 1, 200_000},
		{"/registry/pods/ns0/", false, 100, 100_000},
		{"/registry/pods/ns1/", false, 100, 100_000},
		{"/registry/pods/ns2/", false, 100, 100_000},
		{"/registry/events/", false, 300, 30_000},
	}, Biggest(r, 7))
	require.Empty(t, Biggest(row{}, 7))
	require.Equal(t, []Big{{"k", true, 1, 3}}, Biggest(row{{"k", 3}}, 7))
}

// Whatever has a hundredth of the bytes is found.
func TestBiggestFindsAll(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var r row
		for i := range 2000 {
			r = append(r, struct {
				key  string
				size int64
			}{fmt.Sprintf("%02d/%04d", rng.IntN(40), i), rng.Int64N(1000)})
		}
		slices.SortFunc(r, func(a, b struct {
			key  string
			size int64
		}) int {
			return strings.Compare(a.key, b.key)
		})
		_, total := r.Weigh("", nil)
		got := map[string]int64{}
		for _, b := range Biggest(r, 1000) {
			got[b.Prefix] = b.Bytes
		}
		for i := range 40 {
			prefix := fmt.Sprintf("%02d/", i)
			if _, bytes := r.Weigh(prefix, mvcc.PrefixEnd(prefix)); bytes*100 >= total {
				require.Equal(t, bytes, got[prefix], prefix)
			}
		}
	}
}

func TestSizesAreKept(t *testing.T) {
	var s Sizes
	asked := 0
	find := func(n int) []Big {
		asked++
		return []Big{{Prefix: "a"}, {Prefix: "b"}}[:min(n, 2)]
	}
	for _, c := range []struct {
		after      time.Duration
		n          int
		asked, got int
		at         time.Duration
	}{
		{0, 1, 1, 1, 0},
		{time.Second, 1, 1, 1, 0},
		{2 * time.Second, 3, 2, 2, 2 * time.Second},
		{3 * time.Second, 1, 2, 1, 2 * time.Second},
		{2*time.Second + keep, 1, 3, 1, 2*time.Second + keep},
		{0, 1, 4, 1, 0}, // the clock was set back
	} {
		got, at := s.Biggest(begin.Add(c.after), c.n, find)
		require.Equal(t, c.asked, asked)
		require.Len(t, got, c.got)
		require.Equal(t, begin.Add(c.at), at)
	}
}

func TestCalls(t *testing.T) {
	var c Calls
	c.Init(map[string]bool{"/a": false, "/b": true, "/never": false})
	c.Begin("/a").End(codes.OK, 0)
	c.Begin("/a").End(codes.NotFound, time.Millisecond)
	c.Begin("/a").End(codes.Code(4711), time.Hour)
	c.Begin("/a")
	c.Begin("/b").End(codes.Canceled, time.Hour)
	c.Begin("/unknown").End(codes.OK, 0)
	all := c.Counts()
	slices.SortFunc(all, func(a, b Counts) int { return strings.Compare(a.Name, b.Name) })
	require.Len(t, all, 2)
	a, b := all[0], all[1]
	require.EqualValues(t, 4, a.Started)
	require.Equal(t, map[codes.Code]uint64{codes.OK: 1, codes.NotFound: 1, codes.Unknown: 1}, a.Ended)
	require.EqualValues(t, 3, a.Count)
	require.Equal(t, time.Hour+time.Millisecond, a.Sum)
	for i, bound := range Bounds() {
		want := uint64(1)
		if bound >= 0.001 {
			want = 2
		}
		require.Equal(t, want, a.Took[i], "%v", bound)
	}
	require.True(t, b.Stream)
	require.Zero(t, b.Count)
}

func TestBuckets(t *testing.T) {
	for i, bound := range Bounds() {
		d := time.Duration(math.Round(bound * 1e9))
		require.Equal(t, i, bucket(d))
		require.Equal(t, i+1, bucket(d+1))
	}
	require.Equal(t, 0, bucket(-1))
	require.Equal(t, buckets, bucket(math.MaxInt64))
}

// TestTogether lets everything be called at once, for the race detector.
func TestTogether(t *testing.T) {
	var c Calls
	c.Init(map[string]bool{"/a": false})
	h := NewHeat(begin)
	var sizes Sizes
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 2000 {
				call := c.Begin("/a")
				if weight, ok := h.Sampled(); ok {
					h.Count(begin.Add(time.Duration(i)*time.Millisecond), Use(w%2), fmt.Appendf(nil, "a/%d", i), nil, weight)
				}
				call.End(codes.OK, time.Duration(i))
				if i%500 == 0 {
					h.Hottest(begin.Add(time.Second), 10)
					c.Counts()
					sizes.Biggest(begin.Add(time.Duration(i)*time.Second), 5, func(int) []Big { return nil })
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 8000, c.Counts()[0].Count)
}

func BenchmarkCall(b *testing.B) {
	var c Calls
	c.Init(map[string]bool{"/etcdserverpb.KV/Put": false})
	h := NewHeat(time.Now())
	key := []byte("/registry/pods/namespace/name")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			call := c.Begin("/etcdserverpb.KV/Put")
			if w, ok := h.Sampled(); ok {
				h.Count(time.Now(), Write, key, nil, w)
			}
			call.End(codes.OK, time.Millisecond)
		}
	})
}
