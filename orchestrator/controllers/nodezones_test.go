package controllers

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/node/topology"
)

// zoneNodes makes nodes of a zone, the first of which are not ready.
func zoneNodes(zone string, not, all int) (out []*corev1.Node) {
	for i := range all {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(zone, i), Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
		status := corev1.ConditionTrue
		if i < not {
			status = corev1.ConditionUnknown
		}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
		out = append(out, n)
	}
	return out
}

// gone goes on for an hour, and returns how many of the nodes have their turn in it, and after how long the first has.
func gone(z *zones, nodes []*corev1.Node, all ...*corev1.Node) (n int, first time.Duration) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	had := map[string]bool{}
	for at := time.Duration(0); at <= time.Hour; at += nodeMonitorPeriod {
		z.look(all)
		for _, node := range nodes {
			if z.turn(node, now.Add(at)) && !had[node.Name] {
				had[node.Name] = true
				if len(had) == 1 {
					first = at
				}
			}
		}
	}
	return len(had), first
}

func TestZoneRates(t *testing.T) {
	for name, c := range map[string]struct {
		not, all, want int
	}{
		"few":                   {2, 4, 2},
		"few of few":            {2, 3, 2},
		"most of a small zone":  {30, 50, 0},
		"less than most of it":  {20, 50, 20},
		"all of a zone":         {40, 40, 40},
		"most of a large zone":  {100, 110, 36},   // one in 100 s
		"a part of a large one": {500, 1000, 360}, // one in 10 s
	} {
		t.Run(name, func(t *testing.T) {
			nodes := zoneNodes("a", c.not, c.all)
			n, first := gone(newZones(DefaultDisruption()), nodes[:c.not], append(nodes, zoneNodes("b", 0, 1)...)...)
			require.InDelta(t, c.want, n, 1)
			if c.want > 0 {
				require.Equal(t, nodeMonitorPeriod, first, "after the next look")
			}
		})
	}
}

// TestZonesInParallel has two zones, which do not wait for each other.
func TestZonesInParallel(t *testing.T) {
	a, b := zoneNodes("a", 500, 1000), zoneNodes("b", 500, 1000)
	n, _ := gone(newZones(DefaultDisruption()), append(a[:500:500], b[:500]...), append(a, b...)...)
	require.InDelta(t, 720, n, 2)
}

// TestDarkness has no node that is ready, then some that are again.
func TestDarkness(t *testing.T) {
	z := newZones(DefaultDisruption())
	a, b := zoneNodes("a", 3, 3), zoneNodes("b", 2, 2)
	n, _ := gone(z, a, append(a, b...)...)
	require.Zero(t, n)
	require.True(t, z.darkness())
	require.False(t, z.look(append(a, b...)))
	require.True(t, z.look(append(a, zoneNodes("b", 1, 2)...)))
	require.False(t, z.darkness())
	n, _ = gone(z, a, append(a, zoneNodes("b", 1, 2)...)...)
	require.Equal(t, 3, n)
	require.False(t, newZones(DefaultDisruption()).look(nil))
}

// TestTurnStays keeps the turn of a node until it is ready.
func TestTurnStays(t *testing.T) {
	z := newZones(DefaultDisruption())
	nodes := zoneNodes("a", 1, 4)
	now := time.Now()
	z.look(nodes)
	require.False(t, z.turn(nodes[0], now))
	z.look(nodes)
	require.True(t, z.turn(nodes[0], now))
	require.True(t, z.turn(nodes[0], now))
	z.leave(nodes[0].Name)
	require.False(t, z.turn(nodes[0], now))
	z.look(nodes)
	require.False(t, z.turn(nodes[0], now.Add(time.Second)))
	require.True(t, z.turn(nodes[0], now.Add(10*time.Second)))
}

// TestExcluded has nodes that do not count.
func TestExcluded(t *testing.T) {
	z := newZones(DefaultDisruption())
	nodes := zoneNodes("a", 3, 4)
	for _, n := range nodes[:3] {
		n.Labels[excludeLabel] = ""
	}
	z.look(nodes)
	require.InDelta(t, DefaultDisruption().EvictionRate, z.zone(topology.GetZoneKey(nodes[0])).rate, 1e-9)
	z.look(zoneNodes("a", 3, 4))
	require.Zero(t, z.zone(topology.GetZoneKey(nodes[0])).rate)
}
