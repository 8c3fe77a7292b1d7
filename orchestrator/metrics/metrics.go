package metrics

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Nodes are the nodes that can be asked.
type Nodes interface {
	// Nodes returns the names of the nodes that have servers.
	Nodes(ctx context.Context) ([]string, error)
	// AskNode gets something from a node's server.
	AskNode(ctx context.Context, name, path string) (io.ReadCloser, error)
}

// Config is what a Collector is made of. Its zero value is good.
type Config struct {
	Every  time.Duration // between two samples; 0: 15 s
	Clock  clock.Clock   // nil: clock.Real
	Logger *zap.Logger   // nil: none
}

const (
	defaultEvery = 15 * time.Second
	// soon is when a node is asked again that was asked once.
	soon = 2 * time.Second
	// patience is how long what a node told is believed.
	patience = 2 * time.Minute
	// youth is how long a container must have run to count from its beginning.
	youth      = time.Second
	atOnce     = 16 // nodes
	askTimeout = 10 * time.Second
	maxAnswer  = 64 << 20 // bytes
	path       = "/metrics/resource"
)

// Collector is described in the package comment.
type Collector struct {
	cfg Config

	mu    sync.Mutex
	nodes map[string]*history
	pods  map[podName]string // the node of each
}

// history is what a node told the last two times.
type history struct {
	before, last *sample // before may be nil
	at           time.Time
}

// New makes a Collector. Run it.
func New(cfg Config) *Collector {
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Collector{cfg: cfg, nodes: map[string]*history{}, pods: map[podName]string{}}
}

// Run collects until the context ends.
func (c *Collector) Run(ctx context.Context, nodes Nodes) {
	due := map[string]time.Time{}
	t := c.cfg.Clock.NewTicker(min(soon, c.cfg.Every))
	defer t.Stop()
	for {
		if err := c.pass(ctx, nodes, due); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Info("what nodes use is not known", zap.Error(err))
		}
		select {
		case <-t.C():
		case <-ctx.Done():
			return
		}
	}
}

// pass asks the nodes that it is time for.
func (c *Collector) pass(ctx context.Context, nodes Nodes, due map[string]time.Time) error {
	names, err := nodes.Nodes(ctx)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	now := c.cfg.Clock.Now()
	g := errgroup.Group{}
	g.SetLimit(atOnce)
	for _, name := range names {
		if now.Before(due[name]) {
			continue
		}
		due[name] = now.Add(c.cfg.Every - soon/2) // ticks are not exact
		if !c.seen(name) {
			due[name] = now
		}
		g.Go(func() error {
			if err := c.ask(ctx, nodes, name); err != nil && ctx.Err() == nil {
				c.cfg.Logger.Info("a node does not tell what it uses", zap.String("node", name), zap.Error(err))
			}
			return nil
		})
	}
	_ = g.Wait() // what went wrong is logged
	maps.DeleteFunc(due, func(name string, _ time.Time) bool { return !slices.Contains(names, name) })
	c.forget(c.cfg.Clock.Now())
	return nil
}

func (c *Collector) seen(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name] != nil
}

// ask takes a sample of a node.
func (c *Collector) ask(ctx context.Context, nodes Nodes, name string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	body, err := nodes.AskNode(ctx, name, path)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was only read
	s, err := parse(io.LimitReader(body, maxAnswer), c.cfg.Clock.Now())
	if err != nil {
		return err
	}
	c.keep(name, s)
	return nil
}

func (c *Collector) keep(name string, s *sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.nodes[name]
	if h == nil {
		h = &history{}
		c.nodes[name] = h
	}
	h.at = c.cfg.Clock.Now()
	if h.last != nil && !s.node.at.After(h.last.node.at) {
		return // it has not measured since
	}
	h.before, h.last = h.last, s
	for pod := range s.pods {
		c.pods[pod] = name
	}
	if h.before != nil {
		for pod := range h.before.pods {
			if s.pods[pod] == nil && c.pods[pod] == name {
				delete(c.pods, pod)
			}
		}
	}
}

// forget drops what was not told for long.
func (c *Collector) forget(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.nodes, func(_ string, h *history) bool { return now.Sub(h.at) > patience })
	maps.DeleteFunc(c.pods, func(_ podName, node string) bool { return c.nodes[node] == nil })
}

// usage is what is used between two points, false if that is not known.
func usage(before, last *point) (used corev1.ResourceList, window time.Duration, ok bool) {
	if last == nil || !last.whole() {
		return nil, 0, false
	}
	from, cpu := last.begun, 0.0
	if before != nil && before.hasCPU && before.cpu <= last.cpu && !last.begun.After(before.at) {
		from, cpu = before.at, before.cpu
	} else if last.begun.IsZero() || last.at.Sub(last.begun) < youth {
		return nil, 0, false
	}
	window = last.at.Sub(from)
	if window <= 0 {
		return nil, 0, false
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64((last.cpu-cpu)/window.Seconds()*1e9), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(last.memory), resource.BinarySI),
	}, window, true
}

// NodeMetrics is what a node uses, nil if it is not known.
func (c *Collector) NodeMetrics(name string) *metricsv1beta1.NodeMetrics {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.nodes[name]
	if h == nil || h.before == nil {
		return nil
	}
	used, window, ok := usage(&h.before.node, &h.last.node)
	if !ok {
		return nil
	}
	return &metricsv1beta1.NodeMetrics{Timestamp: metav1.Time{Time: h.last.node.at}, Window: metav1.Duration{Duration: window}, Usage: used}
}

// PodMetrics is what a pod uses, nil if it is not known of all its containers.
func (c *Collector) PodMetrics(namespace, name string) *metricsv1beta1.PodMetrics {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod := podName{namespace, name}
	h := c.nodes[c.pods[pod]]
	if h == nil {
		return nil
	}
	var before map[string]*point
	if h.before != nil {
		before = h.before.pods[pod]
	}
	out := &metricsv1beta1.PodMetrics{}
	for container, last := range h.last.pods[pod] {
		from := before[container]
		if h.before == nil && c.cfg.Clock.Now().Sub(last.begun) > c.cfg.Every {
			return nil // what it has used in all its life says nothing of the present
		}
		used, window, ok := usage(from, last)
		if !ok {
			return nil
		}
		out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: container, Usage: used})
		if at := last.at; out.Timestamp.IsZero() || at.Before(out.Timestamp.Time) {
			out.Timestamp, out.Window = metav1.Time{Time: at}, metav1.Duration{Duration: window}
		}
	}
	if len(out.Containers) == 0 {
		return nil
	}
	slices.SortFunc(out.Containers, func(a, b metricsv1beta1.ContainerMetrics) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
