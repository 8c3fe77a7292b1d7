package node

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// claimGauges show how full the volumes of claims are, by the names of the kubelet.
type claimGauges struct {
	p     *pods
	descs []*prometheus.Desc // in the order in which Collect counts
}

func newClaimGauges(p *pods) *claimGauges {
	g := &claimGauges{p: p}
	for _, of := range [][2]string{
		{"capacity_bytes", "Size of a volume."}, {"available_bytes", "What is left of a volume."}, {"used_bytes", "What a volume holds."},
		{"inodes", "Inodes of a volume."}, {"inodes_free", "Inodes of a volume that are left."}, {"inodes_used", "Inodes of a volume that are used."},
	} {
		g.descs = append(g.descs, prometheus.NewDesc("kubelet_volume_stats_"+of[0], of[1], []string{"namespace", "persistentvolumeclaim"}, nil))
	}
	return g
}

// Describe implements prometheus.Collector.
func (g *claimGauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range g.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector. Claims are file systems of their own, so that nothing has to be counted.
func (g *claimGauges) Collect(to chan<- prometheus.Metric) {
	done := map[types.NamespacedName]bool{}
	for _, pod := range g.p.workers.Active() {
		claims, err := g.p.volumes.ClaimStats(pod.UID)
		if err != nil {
			continue // it has no volumes yet
		}
		for _, v := range claims {
			if done[*v.Claim] {
				continue // several pods share it
			}
			done[*v.Claim] = true
			for i, n := range []int64{v.Capacity, v.Available, v.Used, v.Inodes, v.InodesFree, v.InodesUsed} {
				to <- prometheus.MustNewConstMetric(g.descs[i], prometheus.GaugeValue, float64(n), v.Claim.Namespace, v.Claim.Name)
			}
		}
	}
}
