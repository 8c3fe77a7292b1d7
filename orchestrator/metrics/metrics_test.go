package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var begin = time.Unix(1_700_000_000, 0)

// nodes are nodes that tell what they are told to tell.
type nodes struct {
	mu      sync.Mutex
	answers map[string]string
	asked   int
}

func (n *nodes) Nodes(context.Context) (names []string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.answers {
		names = append(names, name)
	}
	return names, nil
}

func (n *nodes) AskNode(_ context.Context, name, path string) (io.ReadCloser, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if path != "/metrics/resource" || n.answers[name] == "" {
		return nil, errors.New("no")
	}
	return io.NopCloser(strings.NewReader(n.answers[name])), nil
}

type hand struct {
	clock.Clock
	now time.Time
}

func (h *hand) Now() time.Time { return h.now }

// answer is what a node tells at a number of seconds: what it and its containers have used, and when these were begun.
func answer(at int, node float64, containers ...string) string {
	ms := begin.Add(time.Duration(at) * time.Second).UnixMilli()
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total %v %d\n", node, ms)
	_, _ = fmt.Fprintf(&b, "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes 1e6 %d\n", ms)
	var cpu, memory, start strings.Builder
	for _, c := range containers {
		var pod, name string
		var used, begun int
		_, _ = fmt.Sscanf(c, "%s %s %d %d", &pod, &name, &used, &begun)
		labels := fmt.Sprintf(`{container=%q,namespace="ns",pod=%q}`, name, pod)
		_, _ = fmt.Fprintf(&cpu, "container_cpu_usage_seconds_total%s %d %d\n", labels, used, ms)
		_, _ = fmt.Fprintf(&memory, "container_memory_working_set_bytes%s %d %d\n", labels, 1000*used, ms)
		_, _ = fmt.Fprintf(&start, "container_start_time_seconds%s %d\n", labels, begin.Unix()+int64(begun))
	}
	return b.String() + "# TYPE container_cpu_usage_seconds_total counter\n" + cpu.String() + "# TYPE container_memory_working_set_bytes gauge\n" + memory.String() +
		"# TYPE container_start_time_seconds gauge\n" + start.String()
}

func TestCollector(t *testing.T) {
	h := &hand{clock.Real, begin}
	c, due := New(Config{Clock: h}), map[string]time.Time{}
	n := &nodes{answers: map[string]string{"n1": answer(0, 100, "p a 10 -1000", "p b 20 -1000", "q a 0 -3"), "silent": ""}}
	pass := func(at int) {
		h.now = begin.Add(time.Duration(at) * time.Second)
		require.NoError(t, c.pass(t.Context(), n, due))
	}
	pass(0)
	require.Nil(t, c.NodeMetrics("n1"), "one sample is not enough")
	require.Nil(t, c.PodMetrics("ns", "p"))
	require.NotNil(t, c.PodMetrics("ns", "q"), "but for what is young")
	require.Nil(t, c.NodeMetrics("silent"))

	n.answers["n1"] = answer(2, 103, "p a 11 -1000", "p b 20 -1000")
	pass(2)
	m := c.NodeMetrics("n1")
	require.NotNil(t, m)
	require.EqualValues(t, 1500, m.Usage.Cpu().MilliValue())
	require.EqualValues(t, 1_000_000, m.Usage.Memory().Value())
	require.Equal(t, 2*time.Second, m.Window.Duration)
	require.True(t, m.Timestamp.Time.Equal(begin.Add(2*time.Second)))
	p := c.PodMetrics("ns", "p")
	require.Len(t, p.Containers, 2)
	require.Equal(t, "a", p.Containers[0].Name)
	require.EqualValues(t, 500, p.Containers[0].Usage.Cpu().MilliValue())
	require.EqualValues(t, 0, p.Containers[1].Usage.Cpu().MilliValue())
	require.EqualValues(t, 11_000, p.Containers[0].Usage.Memory().Value())
	require.Nil(t, c.PodMetrics("ns", "q"), "it is gone")

	asked := n.asked
	pass(4)
	require.Equal(t, asked+1, n.asked, "only the one that does not answer is asked so soon")
	n.answers["n1"] = answer(17, 103, "p a 26 -1000", "p b 4 9", "young a 2 16")
	pass(17)
	p = c.PodMetrics("ns", "p")
	require.EqualValues(t, 1000, p.Containers[0].Usage.Cpu().MilliValue())
	require.EqualValues(t, 500, p.Containers[1].Usage.Cpu().MilliValue(), "it was restarted, and counts from there")
	require.NotNil(t, c.PodMetrics("ns", "young"))
	require.EqualValues(t, 2000, c.PodMetrics("ns", "young").Containers[0].Usage.Cpu().MilliValue())
	require.Zero(t, c.NodeMetrics("n1").Usage.Cpu().MilliValue())

	pass(40) // it tells the same again
	require.Equal(t, 15*time.Second, c.NodeMetrics("n1").Window.Duration)
	delete(n.answers, "n1")
	pass(170)
	require.Nil(t, c.NodeMetrics("n1"), "what is old is forgotten")
	require.Nil(t, c.PodMetrics("ns", "p"))
	require.Empty(t, c.pods)
}

// Run asks at once, and soon again.
func TestRun(t *testing.T) {
	c := New(Config{Every: 5 * time.Millisecond})
	n := &nodes{answers: map[string]string{"n1": answer(0, 100)}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		c.Run(ctx, n)
		close(done)
	}()
	require.Eventually(t, func() bool { return c.seen("n1") }, time.Minute, time.Millisecond)
	n.mu.Lock()
	n.answers["n1"] = answer(10, 105)
	n.mu.Unlock()
	require.Eventually(t, func() bool { return c.NodeMetrics("n1") != nil }, time.Minute, time.Millisecond)
	cancel()
	<-done
}

func FuzzParse(f *testing.F) {
	f.Add(answer(1, 2, "p a 3 4"))
	f.Add("container_cpu_usage_seconds_total{pod=\"x\"} NaN\nnode_cpu_usage_seconds_total{} -1 -5\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse(strings.NewReader(text), begin)
		if err != nil {
			return
		}
		c := New(Config{})
		c.keep("n", s)
		c.keep("n", s)
		_ = c.NodeMetrics("n")
		for p := range s.pods {
			_ = c.PodMetrics(p.namespace, p.name)
		}
	})
}
