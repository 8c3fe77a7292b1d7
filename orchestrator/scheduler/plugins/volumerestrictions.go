package plugins

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

const volumeRestrictionsKey framework.StateKey = "PreFilter" + config.VolumeRestrictions

// volumeRestrictions keeps pods away from volumes that may be used once only: claims of one pod in the whole cluster, and old
// kinds of disks that a node attaches once.
type volumeRestrictions struct{ claimTaken, diskTaken *framework.Status }

func newVolumeRestrictions() *volumeRestrictions {
	return &volumeRestrictions{
		claimTaken: reject(config.VolumeRestrictions, framework.Unschedulable, "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"),
		diskTaken:  reject(config.VolumeRestrictions, framework.Unschedulable, "node(s) had no available disk"),
	}
}

func (*volumeRestrictions) Name() string { return config.VolumeRestrictions }

// onceOnly are the claims of a pod that one pod may use, with the number of others that do.
type onceOnly struct {
	claims []storage.Key
	taken  int
}

// Clone copies the number.
func (o *onceOnly) Clone() framework.StateData {
	c := *o
	return &c
}

// uses counts the claims that another pod uses.
func (o *onceOnly) uses(pod *framework.PodInfo) (n int) {
	for _, k := range o.claims {
		if usesClaim(pod.Pod, k) {
			n++
		}
	}
	return n
}

func (p *volumeRestrictions) PreFilter(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	if len(pod.Pod.Spec.Volumes) == 0 {
		return nil, skip()
	}
	o := &onceOnly{}
	claims, err := claimsOf(s.Cluster.Storage(), pod.Pod)
	if err != nil {
		return nil, reject(p.Name(), framework.UnschedulableAndUnresolvable, err.Error())
	}
	for _, c := range claims {
		if slices.Contains(c.Spec.AccessModes, v1.ReadWriteOncePod) {
			o.claims = append(o.claims, storage.KeyOf(c))
		}
	}
	if len(o.claims) == 0 && !hasDisk(pod.Pod) {
		return nil, skip()
	}
	if len(o.claims) > 0 {
		for _, n := range s.Nodes() {
			for _, other := range n.Pods {
				o.taken += o.uses(other)
			}
		}
	}
	state.Write(volumeRestrictionsKey, o)
	return nil, nil
}

func (*volumeRestrictions) AddPod(state *framework.CycleState, _, added *framework.PodInfo, _ *framework.NodeInfo) *framework.Status {
	o := framework.Data[*onceOnly](state, volumeRestrictionsKey)
	o.taken += o.uses(added)
	return nil
}

func (*volumeRestrictions) RemovePod(state *framework.CycleState, _, removed *framework.PodInfo, _ *framework.NodeInfo) *framework.Status {
	o := framework.Data[*onceOnly](state, volumeRestrictionsKey)
	o.taken -= o.uses(removed)
	return nil
}

func (p *volumeRestrictions) Filter(state *framework.CycleState, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if hasDisk(pod.Pod) {
		for _, other := range node.Pods {
			if disksConflict(pod.Pod, other.Pod) {
				return p.diskTaken
			}
		}
	}
	if framework.Data[*onceOnly](state, volumeRestrictionsKey).taken > 0 {
		return p.claimTaken
	}
	return nil
}

func isDisk(v *v1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

func hasDisk(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if isDisk(&pod.Spec.Volumes[i]) {
			return true
		}
	}
	return false
}

func disksConflict(a, b *v1.Pod) bool {
	for i := range a.Spec.Volumes {
		if !isDisk(&a.Spec.Volumes[i]) {
			continue
		}
		for j := range b.Spec.Volumes {
			if sameDisk(&a.Spec.Volumes[i], &b.Spec.Volumes[j]) {
				return true
			}
		}
	}
	return false
}

// sameDisk tells whether two volumes are a disk that cannot be mounted twice on a node; most can, if only read.
func sameDisk(a, b *v1.Volume) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		x, y := a.GCEPersistentDisk, b.GCEPersistentDisk
		return x.PDName == y.PDName && !(x.ReadOnly && y.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && !(a.ISCSI.ReadOnly && b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		x, y := a.RBD, b.RBD
		common := slices.ContainsFunc(x.CephMonitors, func(m string) bool { return slices.Contains(y.CephMonitors, m) })
		return common && x.RBDPool == y.RBDPool && x.RBDImage == y.RBDImage && !(x.ReadOnly && y.ReadOnly)
	}
	return false
}

// Hints: a claim may come, and the pod that has the claim, or the disk, may go.
func (*volumeRestrictions) Hints() []framework.Hint {
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}, Helps: func(pod *framework.PodInfo, c framework.Change) bool {
			old, _ := c.Pods()
			return old == nil || disksConflict(pod.Pod, old) || sharesClaim(pod.Pod, old)
		}},
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add}},
		claimHint(framework.Add | framework.Update),
	}
}

// sharesClaim tells whether two pods have volumes of one claim.
func sharesClaim(a, b *v1.Pod) bool {
	for i := range a.Spec.Volumes {
		if k, ok := storage.ClaimOf(a, &a.Spec.Volumes[i]); ok && usesClaim(b, k) {
			return true
		}
	}
	return false
}
