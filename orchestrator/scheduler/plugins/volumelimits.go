package plugins

import (
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

const volumeLimitsKey framework.StateKey = "PreFilter" + config.NodeVolumeLimits

// nodeVolumeLimits keeps pods off nodes whose drivers can attach no more volumes.
type nodeVolumeLimits struct{ full *framework.Status }

func newNodeVolumeLimits() *nodeVolumeLimits {
	return &nodeVolumeLimits{full: reject(config.NodeVolumeLimits, framework.Unschedulable, "node(s) exceed max volume count")}
}

func (*nodeVolumeLimits) Name() string { return config.NodeVolumeLimits }

// attachable is a volume of a driver.
type attachable struct{ driver, handle string }

// podVolumes are the attachable volumes of a pod.
type podVolumes struct {
	table   *storage.Table
	volumes map[attachable]struct{}
}

// Clone returns the same, for it depends on no other pod.
func (s *podVolumes) Clone() framework.StateData { return s }

// addTo puts the attachable volumes of a pod into a set. Claims that are not there count nothing.
func addTo(set map[attachable]struct{}, t *storage.Table, pod *v1.Pod) {
	for i := range pod.Spec.Volumes {
		key, ok := storage.ClaimOf(pod, &pod.Spec.Volumes[i])
		if !ok {
			continue
		}
		c := t.Claim(key)
		if c == nil {
			continue
		}
		if driver, handle, ok := t.DriverOf(c); ok {
			set[attachable{driver, handle}] = struct{}{}
		}
	}
}

func (p *nodeVolumeLimits) PreFilter(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	if !usesClaims(pod.Pod) {
		return nil, skip()
	}
	d := &podVolumes{table: s.Cluster.Storage(), volumes: map[attachable]struct{}{}}
	if addTo(d.volumes, d.table, pod.Pod); len(d.volumes) == 0 {
		return nil, skip()
	}
	state.Write(volumeLimitsKey, d)
	return nil, nil
}

func (p *nodeVolumeLimits) Filter(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	d := framework.Data[*podVolumes](state, volumeLimitsKey)
	limits := limitsOf(d.table.CSINode(node.Name()))
	if len(limits) == 0 {
		return nil
	}
	all := map[attachable]struct{}{}
	for _, other := range node.Pods {
		addTo(all, d.table, other.Pod)
	}
	for _, a := range d.table.Attachments(node.Name()) {
		if name := a.Spec.Source.PersistentVolumeName; name != nil {
			if v := d.table.Volume(*name); v != nil && v.Spec.CSI != nil {
				all[attachable{v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle}] = struct{}{}
			}
		}
	}
	fresh := map[string]int{}
	for v := range d.volumes {
		if _, there := all[v]; !there {
			fresh[v.driver]++
		}
	}
	has := map[string]int{}
	for v := range all {
		has[v.driver]++
	}
	for driver, n := range fresh {
		if limit, limited := limits[driver]; limited && has[driver]+n > limit {
			return p.full
		}
	}
	return nil
}

// limitsOf are the numbers of volumes that drivers can attach to a node.
func limitsOf(n *storagev1.CSINode) map[string]int {
	if n == nil {
		return nil
	}
	var out map[string]int
	for i := range n.Spec.Drivers {
		if a := n.Spec.Drivers[i].Allocatable; a != nil && a.Count != nil {
			if out == nil {
				out = map[string]int{}
			}
			out[n.Spec.Drivers[i].Name] = int(*a.Count)
		}
	}
	return out
}

// Hints: a node may attach more, a pod or an attachment may go, a claim may come.
func (*nodeVolumeLimits) Hints() []framework.Hint {
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.CSINode, Action: framework.Add | framework.Update | framework.Delete}, Helps: func(_ *framework.PodInfo, c framework.Change) bool {
			old, _ := c.Old.(*storagev1.CSINode)
			now, _ := c.New.(*storagev1.CSINode)
			return raised(limitsOf(old), limitsOf(now))
		}},
		{Event: framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}, Helps: func(_ *framework.PodInfo, c framework.Change) bool {
			old, _ := c.Pods()
			return old == nil || usesClaims(old)
		}},
		{Event: framework.Event{Resource: framework.VolumeAttachment, Action: framework.Delete}},
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add}},
		claimHint(framework.Add | framework.Update),
	}
}

// raised tells whether one of the limits is gone or greater.
func raised(old, now map[string]int) bool {
	for driver, limit := range old {
		if n, limited := now[driver]; !limited || n > limit {
			return true
		}
	}
	return false
}
