package controllers

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/topology"
)

// Disruption says how careful the eviction of pods from nodes that are not ready is. When many nodes are lost at once, it is
// rather the network, or this program, that has a problem.
type Disruption struct {
	// EvictionRate is how many nodes of a zone are given up in a second, and SecondaryRate the same for a zone with more than
	// LargeZone nodes of which a share of at least UnhealthyShare is not ready. In a smaller such zone none is.
	EvictionRate, SecondaryRate, UnhealthyShare float64
	LargeZone                                   int
	// Period is the time between two looks at all nodes, Grace after how long of silence one is given up, and StartupGrace the
	// same for one that has never been heard from. Nodes are heard every ten seconds: a Grace of less gives up healthy ones.
	Period, Grace, StartupGrace time.Duration
}

// DefaultDisruption is Kubernetes' own.
func DefaultDisruption() Disruption {
	return Disruption{
		EvictionRate: 0.1, SecondaryRate: 0.01, UnhealthyShare: 0.55, LargeZone: 50,
		Period: nodeMonitorPeriod, Grace: nodeGrace, StartupGrace: nodeStartupGrace,
	}
}

// minUnhealthy is how many nodes that are not ready are too few to be a disruption.
const minUnhealthy = 3

// zones decides from which nodes that are not ready pods may be evicted, and when. A zone gives up one node after the other,
// at a rate that depends on how many of its nodes are not ready. A node gets its turn only after the state of its zone was
// looked at again: of several nodes that are lost at once, the first must not go before it is known that it is one of many.
//
// When no node of any zone is ready, no pod is evicted at all.
type zones struct {
	cfg Disruption

	mu    sync.Mutex
	round int // looks at all nodes
	all   map[string]*zone
	dark  bool // no node is ready

	size, health, unhealthy *prometheus.GaugeVec
	evictions               *prometheus.CounterVec
}

// zone is a part of the cluster that may fail as one.
type zone struct {
	rate    float64   // nodes a second
	last    time.Time // when one went
	line    []waiting
	granted map[string]bool // whose turn has come
}

// waiting is a node that waits for its turn.
type waiting struct {
	node  string
	since int // round
}

func newZones(cfg Disruption) *zones {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: "node_collector", Name: name, Help: help}, []string{"zone"})
	}
	return &zones{
		cfg: cfg, all: map[string]*zone{},
		size: gauge("zone_size", "Nodes of a zone."), health: gauge("zone_health", "The share of a zone's nodes that are ready, in percent."),
		unhealthy: gauge("unhealthy_nodes_in_zone", "Nodes of a zone that are not ready."),
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "node_collector", Name: "evictions_total", Help: "Nodes that were given up."}, []string{"zone"}),
	}
}

func (z *zones) metrics() []prometheus.Collector {
	return []prometheus.Collector{z.size, z.health, z.unhealthy, z.evictions}
}

// excludeLabel is on nodes that say nothing about their zone.
const excludeLabel = "node.kubernetes.io/exclude-disruption"

// look is a look at all nodes. It tells whether nodes are ready again after none was.
func (z *zones) look(nodes []*corev1.Node) (lit bool) {
	type count struct{ ready, not int }
	counts := map[string]*count{}
	for _, n := range nodes {
		key := topology.GetZoneKey(n)
		c := counts[key]
		if c == nil {
			c = &count{}
			counts[key] = c
		}
		_, excluded := n.Labels[excludeLabel]
		switch ready := nodeCondition(n, corev1.NodeReady); {
		case excluded:
		case ready != nil && ready.Status == corev1.ConditionTrue:
			c.ready++
		default:
			c.not++
		}
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.round++
	dark := len(counts) > 0
	for key := range z.all {
		if counts[key] == nil {
			delete(z.all, key)
			for _, m := range []*prometheus.GaugeVec{z.size, z.health, z.unhealthy} {
				m.DeleteLabelValues(key)
			}
		}
	}
	for key, c := range counts {
		total := c.ready + c.not
		z.zone(key).rate = z.rate(c.ready, c.not)
		dark = dark && c.ready == 0 && c.not > 0
		z.size.WithLabelValues(key).Set(float64(total))
		z.unhealthy.WithLabelValues(key).Set(float64(c.not))
		z.health.WithLabelValues(key).Set(100 * float64(c.ready) / float64(max(1, total)))
	}
	lit, z.dark = z.dark && !dark, dark
	return lit
}

func (z *zones) zone(key string) *zone {
	if z.all[key] == nil {
		z.all[key] = &zone{granted: map[string]bool{}, rate: z.cfg.EvictionRate}
	}
	return z.all[key]
}

// rate is at which nodes of a zone are given up. A zone of which nothing is left is as good as gone: its pods have to be
// elsewhere.
func (z *zones) rate(ready, not int) float64 {
	switch {
	case ready == 0, not < minUnhealthy, float64(not)/float64(ready+not) < z.cfg.UnhealthyShare:
		return z.cfg.EvictionRate
	case ready+not > z.cfg.LargeZone:
		return z.cfg.SecondaryRate
	}
	return 0
}

// darkness says whether no node is ready.
func (z *zones) darkness() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.dark
}

// turn says whether a node's turn has come to be given up. Once it has, it stays so until the node leaves.
func (z *zones) turn(n *corev1.Node, now time.Time) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	key := topology.GetZoneKey(n)
	in := z.zone(key)
	if in.granted[n.Name] {
		return true
	}
	if !slices.ContainsFunc(in.line, func(w waiting) bool { return w.node == n.Name }) {
		in.line = append(in.line, waiting{n.Name, z.round})
	}
	first := in.line[0]
	if z.dark || in.rate <= 0 || first.node != n.Name || first.since == z.round || now.Sub(in.last).Seconds() < 1/in.rate {
		return false
	}
	in.line, in.last = in.line[1:], now
	in.granted[n.Name] = true
	z.evictions.WithLabelValues(key).Inc()
	return true
}

// leave takes a node out: it is ready, or gone.
func (z *zones) leave(node string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, in := range z.all {
		in.line = slices.DeleteFunc(in.line, func(w waiting) bool { return w.node == node })
		delete(in.granted, node)
	}
}
