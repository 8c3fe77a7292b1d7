package insight

import (
	"cmp"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// fade is how long it takes a count to fall to 1/e.
	fade = 10 * time.Second
	// tableSize is how many prefixes of a depth are counted at most.
	tableSize = 128
	// enough is how many samples a second are taken at most, about.
	enough = 1000
	// faint is what is not worth telling, in calls per second, and slight in parts of all calls.
	faint  = 0.05
	slight = 1.0 / 500
	// renewAfter is after how many fades the weights begin at 1 again, long before they leave float64.
	renewAfter = 300
)

// Use is what a call does with keys.
type Use int

// What calls do.
const (
	Read Use = iota
	Write
	uses
)

// Hot is a prefix and how often it is used.
type Hot struct {
	Prefix        string
	Key           bool    // it is a whole key
	Reads, Writes float64 // per second
}

func (h *Hot) both() float64 { return h.Reads + h.Writes }

// Heat is described in the package comment.
type Heat struct {
	mask atomic.Uint32 // calls are counted whose random number is 0 in these bits

	mu      sync.Mutex
	started time.Time
	epoch   time.Time // when the weight of a call was 1
	second  time.Time // when the samples began to be counted
	samples int
	tables  [uses][maxDepth + 1]table // by depth; the last one is of whole keys
	totals  [uses]float64
	scratch []int
}

// NewHeat makes a Heat without any use.
func NewHeat(now time.Time) *Heat { return &Heat{started: now, epoch: now, second: now} }

// Sampled says whether a call is to be counted, with how much weight.
func (h *Heat) Sampled() (weight float64, ok bool) {
	mask := h.mask.Load()
	return float64(mask) + 1, mask == 0 || rand.Uint32()&mask == 0
}

// Count notes the use of a key, or of a range of keys, by a call that was Sampled.
func (h *Heat) Count(now time.Time, u Use, key, end []byte, weight float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.adapt(now)
	if now.Sub(h.epoch) > renewAfter*fade {
		h.renew(now)
	}
	w := weight * math.Exp(float64(now.Sub(h.epoch))/float64(fade))
	whole := len(end) == 0 && isKey(key)
	if len(end) > 0 {
		key = span(key, end)
	}
	h.scratch = ends(h.scratch[:0], key)
	tables := &h.tables[u]
	h.totals[u] += w
	for depth, at := range h.scratch {
		tables[depth].add(key[:at], w)
	}
	if whole {
		tables[maxDepth].add(key, w)
	}
}

// adapt keeps the number of samples within bounds.
func (h *Heat) adapt(now time.Time) {
	h.samples++
	mask := h.mask.Load()
	switch passed := now.Sub(h.second); {
	case h.samples > 2*enough && passed < time.Second:
		mask = min(mask<<1|1, 1<<16-1)
	case passed < time.Second:
		return
	case float64(h.samples) < enough/2*passed.Seconds():
		mask >>= 1
	}
	h.mask.Store(mask)
	h.second, h.samples = now, 0
}

// renew lets the weight of a call be 1 again.
func (h *Heat) renew(now time.Time) {
	by := math.Exp(-float64(now.Sub(h.epoch)) / float64(fade))
	h.epoch = now
	for u := range h.tables {
		h.totals[u] *= by
		for d := range h.tables[u] {
			t := &h.tables[u][d]
			for i := range t.counters {
				t.counters[i].count *= by
				t.counters[i].off *= by
			}
		}
	}
}

// Hottest returns the prefixes that are used most, the first n by reads and the first n by writes, sorted by both together.
func (h *Heat) Hottest(now time.Time, n int) []Hot {
	found := map[string]*Hot{}
	for u := range uses {
		for _, one := range h.rates(now, u) {
			sum := found[one.Prefix]
			if sum == nil {
				sum = &Hot{Prefix: one.Prefix, Key: one.Key}
				found[one.Prefix] = sum
			}
			sum.Reads += one.Reads
			sum.Writes += one.Writes
		}
	}
	all := make([]Hot, 0, len(found))
	for _, one := range found {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b Hot) int { return strings.Compare(a.Prefix, b.Prefix) })
	all = distinct(all, func(h *Hot) string { return h.Prefix }, (*Hot).both)
	chosen := map[string]Hot{}
	for _, by := range []func(h *Hot) float64{func(h *Hot) float64 { return h.Reads }, func(h *Hot) float64 { return h.Writes }} {
		slices.SortStableFunc(all, func(a, b Hot) int { return cmp.Compare(by(&b), by(&a)) })
		for _, one := range all[:min(n, len(all))] {
			if by(&one) > 0 {
				chosen[one.Prefix] = one
			}
		}
	}
	return slices.SortedFunc(maps.Values(chosen), func(a, b Hot) int {
		return cmp.Or(cmp.Compare(b.both(), a.both()), strings.Compare(a.Prefix, b.Prefix))
	})
}

// rates returns what is counted for a use, as far as it is certain.
func (h *Heat) rates(now time.Time, u Use) (all []Hot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seconds := fade.Seconds() * (1 - math.Exp(-float64(max(now.Sub(h.started), time.Millisecond))/float64(fade)))
	scale := math.Exp(-float64(now.Sub(h.epoch))/float64(fade)) / seconds
	for depth := range h.tables[u] {
		for _, c := range h.tables[u][depth].counters {
			one := Hot{Prefix: c.prefix, Key: depth == maxDepth}
			rate := (c.count - c.off) * scale
			if rate < max(faint, h.totals[u]*scale*slight) {
				continue
			}
			if u == Read {
				one.Reads = rate
			} else {
				one.Writes = rate
			}
			all = append(all, one)
		}
	}
	return all
}

// table is a space-saving sketch.
type table struct {
	at       map[string]int // places in counters
	counters []counter
}

type counter struct {
	prefix string
	count  float64
	off    float64 // by how much count may be too high
}

func (t *table) add(prefix []byte, w float64) {
	if i, ok := t.at[string(prefix)]; ok {
		t.counters[i].count += w
		return
	}
	if t.at == nil {
		t.at = make(map[string]int, tableSize)
	}
	c := counter{prefix: string(prefix), count: w}
	if len(t.counters) < tableSize {
		t.at[c.prefix] = len(t.counters)
		t.counters = append(t.counters, c)
		return
	}
	least := 0
	for i := range t.counters {
		if t.counters[i].count < t.counters[least].count {
			least = i
		}
	}
	gone := &t.counters[least]
	delete(t.at, gone.prefix)
	t.at[c.prefix] = least
	c.count, c.off = gone.count+w, gone.count
	*gone = c
}
