package fairness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// crowd is callers of a lane, each in a goroutine, whose order of admission is noted.
type crowd struct {
	lane *Lane
	mu   sync.Mutex
	in   []string // names of those that were let in, in order
	held map[string]Ticket
	errs map[string]error
}

func newCrowd(cfg Config) *crowd {
	return &crowd{lane: New(cfg), held: map[string]Ticket{}, errs: map[string]error{}}
}

// arrive lets a caller ask, and waits until it is in or queued.
func (c *crowd) arrive(ctx context.Context, identity, name string, cost int64) {
	go func() {
		t, ok := c.lane.Try(cost)
		var err error
		if !ok {
			t, err = c.lane.Wait(ctx, identity, cost)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.errs[name] = err; err == nil {
			c.in = append(c.in, name)
			c.held[name] = t
		}
	}()
	synctest.Wait()
}

func (c *crowd) leave(name string, more int64) {
	c.mu.Lock()
	ticket := c.held[name]
	delete(c.held, name)
	c.mu.Unlock()
	ticket.Leave(more) // others come in, and note that
	synctest.Wait()
}

// TestShares fills a lane, lets identities queue, and lets one out at a time.
func TestShares(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights map[string]int
		arrive  []string // identities in the order in which they come
		more    map[string]int64
		want    []string
	}{
		{name: "one identity is served in order", arrive: []string{"a", "a", "a"}, want: []string{"a0", "a1", "a2"}},
		{name: "many of one do not delay one of another", arrive: []string{"a", "a", "a", "a", "b"}, want: []string{"a0", "b4", "a1", "a2", "a3"}},
		{name: "turns", arrive: []string{"a", "a", "a", "b", "b", "b"}, want: []string{"a0", "b3", "a1", "b4", "a2", "b5"}},
		{name: "weights", weights: map[string]int{"b": 2}, arrive: []string{"a", "a", "a", "b", "b", "b", "b"},
			want: []string{"a0", "b3", "b4", "a1", "b5", "b6", "a2"}},
		{name: "what turned out dearer is charged", arrive: []string{"a", "a", "b", "b", "b", "b"}, more: map[string]int64{"a0": 2},
			want: []string{"a0", "b2", "b3", "b4", "a1", "b5"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cr := newCrowd(Config{Capacity: 1, Weights: c.weights, MaxQueue: 100, MaxWait: time.Hour})
				cr.arrive(t.Context(), "first", "first", 1)
				for i, id := range c.arrive {
					cr.arrive(t.Context(), id, fmt.Sprint(id, i), 1)
				}
				require.Equal(t, []string{"first"}, cr.in)
				for i := 0; len(cr.held) > 0; i++ {
					name := cr.in[i]
					cr.leave(name, c.more[name])
				}
				require.Equal(t, c.want, cr.in[1:])
				require.Zero(t, cr.lane.Used())
				require.Empty(t, cr.lane.flows, "nobody competes any more")
			})
		})
	}
}

func TestLargeRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cr := newCrowd(Config{Capacity: 10, MaxQueue: 100, MaxWait: time.Hour})
		cr.arrive(t.Context(), "a", "small", 3)
		cr.arrive(t.Context(), "a", "huge", 1000)
		cr.arrive(t.Context(), "b", "tiny", 1)
		require.Equal(t, []string{"small"}, cr.in, "nobody overtakes the one whose turn it is")
		cr.leave("small", 0)
		require.Equal(t, []string{"small", "huge"}, cr.in, "alone")
		require.EqualValues(t, 10, cr.lane.Used())
		cr.leave("huge", 0)
		require.Equal(t, []string{"small", "huge", "tiny"}, cr.in)
		cr.leave("tiny", 0)
	})
}

func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		cr := newCrowd(Config{Name: "l", Capacity: 10, MaxQueue: 2, MaxWait: time.Second, Metrics: NewMetrics(reg, "test", "units")})
		cr.arrive(t.Context(), "a", "in", 5)
		ctx, cancel := context.WithCancel(t.Context())
		cr.arrive(ctx, "a", "large", 10)
		cr.arrive(t.Context(), "a", "next", 5)
		cr.arrive(t.Context(), "a", "third", 1)
		require.ErrorIs(t, cr.errs["third"], ErrRefused, "the queue is full")
		require.EqualValues(t, 1, cr.lane.Identities())
		cancel()
		synctest.Wait()
		require.ErrorIs(t, cr.errs["large"], context.Canceled)
		require.Equal(t, []string{"in", "next"}, cr.in, "who waited behind it fits")
		cr.arrive(t.Context(), "b", "late", 1)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.ErrorIs(t, cr.errs["late"], ErrRefused)
		require.Zero(t, cr.lane.Waiting())
		for reason, want := range map[string]float64{"queue": 1, "wait": 1} {
			require.Equal(t, want, testutil.ToFloat64(cr.lane.metrics.refusals.WithLabelValues(reason)), reason)
		}
		n, err := testutil.GatherAndCount(reg, "test_used", "keelson_test_used", "keelson_test_wait_seconds")
		require.NoError(t, err)
		require.Equal(t, 2, n)
		cr.leave("in", 0)
		cr.leave("next", 0)
	})
}

func TestShareOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cr := newCrowd(Config{Capacity: 20, Open: 4, Share: 8, MaxQueue: 100, MaxWait: time.Hour})
		for _, a := range []asked{{"", "open", 4}, {"a", "a1", 5}, {"a", "a2", 5}, {"a", "a3", 1}, {"b", "b1", 100}, {"b", "b2", 1}, {"c", "c1", 3}} {
			cr.arrive(t.Context(), a.identity, a.name, a.cost)
		}
		require.Equal(t, []string{"open", "a1"}, cr.in, "a has its share; b waits for room")
		require.Equal(t, 3, cr.lane.Identities())
		cr.leave("open", 0)
		require.Equal(t, []string{"open", "a1"}, cr.in, "all of it")
		cr.leave("a1", 0)
		require.ElementsMatch(t, []string{"open", "a1", "b1"}, cr.in)
		require.EqualValues(t, 20, cr.lane.Used())
		cr.held["b1"] = cr.held["b1"].Shrink(10)
		synctest.Wait()
		require.ElementsMatch(t, []string{"open", "a1", "b1", "a2", "c1", "a3"}, cr.in, "b has more than its share")
		cr.leave("b1", 0)
		require.Contains(t, cr.in, "b2")
		for _, name := range []string{"a2", "a3", "b2", "c1"} {
			cr.leave(name, 0)
		}
		require.Zero(t, cr.lane.Used())
		require.Empty(t, cr.lane.flows)
	})
}

func TestWithoutBounds(t *testing.T) {
	l := New(Config{})
	require.Nil(t, l)
	ticket, ok := l.Try(1 << 40)
	require.True(t, ok)
	ticket.Leave(1)
	ticket, err := l.Wait(t.Context(), "a", 1)
	require.NoError(t, err)
	ticket.Leave(0)
	require.Zero(t, l.Capacity())
}

// model is a lane as plainly as can be: all that wait in one list.
type model struct {
	capacity, used int64
	now            float64
	tags           map[string]float64
	inside         map[string]int
	waiting        []asked
}

type asked struct {
	identity, name string
	cost           int64
}

func (m *model) arrive(a asked) (in []string) {
	a.cost = min(a.cost, m.capacity)
	if len(m.waiting) == 0 && m.used+a.cost <= m.capacity {
		m.used += a.cost
		return []string{a.name}
	}
	if !slices.ContainsFunc(m.waiting, func(w asked) bool { return w.identity == a.identity }) {
		m.tags[a.identity] = max(m.tags[a.identity], m.now)
	}
	m.waiting = append(m.waiting, a)
	return m.admit()
}

// admit lets in the first of the identity with the smallest tag, until that one does not fit.
func (m *model) admit() (in []string) {
	for len(m.waiting) > 0 {
		best := 0
		for i, w := range m.waiting {
			b := m.waiting[best]
			if m.tags[w.identity] < m.tags[b.identity] || m.tags[w.identity] == m.tags[b.identity] && w.identity < b.identity {
				best = i
			}
		}
		w := m.waiting[best]
		if m.used+w.cost > m.capacity {
			break
		}
		m.used += w.cost
		m.now = max(m.now, m.tags[w.identity])
		m.tags[w.identity] += float64(w.cost) / weightOf(w.identity)
		m.inside[w.identity]++
		m.waiting = slices.Delete(m.waiting, best, best+1)
		in = append(in, w.name)
	}
	return in
}

func (m *model) rest() {
	if len(m.waiting) > 0 {
		return
	}
	for _, n := range m.inside {
		if n > 0 {
			return
		}
	}
	clear(m.tags)
	m.now = 0
}

func weightOf(identity string) float64 {
	return map[string]float64{"a": 1, "b": 2, "c": 1, "d": 4}[identity]
}

// TestModel makes random calls of a lane and of its model: they let in the same callers after every step.
func TestModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runModel(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func runModel(t *testing.T, rnd *rand.Rand) {
	const capacity = 20
	cr := newCrowd(Config{Capacity: capacity, Weights: map[string]int{"b": 2, "d": 4}, MaxQueue: 1000, MaxWait: time.Hour})
	m := &model{capacity: capacity, tags: map[string]float64{}, inside: map[string]int{}}
	asks := map[string]asked{}
	cancels := map[string]context.CancelFunc{}
	var want []string
	for i := range 300 {
		switch what := rnd.IntN(10); {
		case what < 5:
			a := asked{string(rune('a' + rnd.IntN(4))), fmt.Sprint(i), int64(1 + rnd.IntN(4))}
			if rnd.IntN(20) == 0 {
				a.cost = 100
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asks[a.name], cancels[a.name] = a, cancel
			cr.arrive(ctx, a.identity, a.name, a.cost)
			want = append(want, m.arrive(a)...)
		case what < 9 && len(cr.held) > 0:
			names := make([]string, 0, len(cr.held))
			for name := range cr.held {
				names = append(names, name)
			}
			slices.Sort(names)
			name := names[rnd.IntN(len(names))]
			more := int64(rnd.IntN(3))
			a := asks[name]
			m.used -= min(a.cost, capacity)
			if cr.held[name].flow != nil {
				m.inside[a.identity]--
				m.tags[a.identity] += float64(more) / weightOf(a.identity)
			}
			cr.leave(name, more)
			want = append(want, m.admit()...)
			m.rest()
		case len(m.waiting) > 0:
			j := rnd.IntN(len(m.waiting))
			cancels[m.waiting[j].name]()
			m.waiting = slices.Delete(m.waiting, j, j+1)
			synctest.Wait()
			want = append(want, m.admit()...)
			m.rest()
		}
		require.ElementsMatch(t, want, cr.in, "step %d", i) // those that are let in at once note it in any order
		require.Equal(t, m.used, cr.lane.Used(), "step %d", i)
		require.LessOrEqual(t, cr.lane.Used(), int64(capacity))
		require.EqualValues(t, len(m.waiting), cr.lane.Waiting(), "step %d", i)
	}
}

// TestBusyLane has many goroutines come and go: the capacity holds, and nobody is left behind.
func TestBusyLane(t *testing.T) {
	l := New(Config{Capacity: 5, MaxQueue: 1000, MaxWait: time.Hour})
	var inside, most, mu = int64(0), int64(0), sync.Mutex{}
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 2))
			for range 500 {
				cost := int64(1 + rnd.IntN(3))
				ctx, cancel := context.WithCancel(t.Context())
				ticket, ok := l.Try(cost)
				if !ok {
					if rnd.IntN(5) == 0 {
						go cancel()
					}
					var err error
					if ticket, err = l.Wait(ctx, fmt.Sprint(g%5), cost); err != nil {
						cancel()
						continue
					}
				}
				mu.Lock()
				inside += cost
				most = max(most, inside)
				mu.Unlock()
				mu.Lock()
				inside -= cost
				mu.Unlock()
				ticket.Leave(int64(rnd.IntN(2)))
				cancel()
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most, int64(5))
	require.Zero(t, l.Used())
	require.Zero(t, l.Waiting())
	require.Empty(t, l.ready)
}

func BenchmarkTry(b *testing.B) {
	l := New(Config{Capacity: 1 << 20})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ticket, _ := l.Try(1)
			ticket.Leave(0)
		}
	})
}
