package plugins

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

const volumeBindingKey framework.StateKey = "PreFilter" + config.VolumeBinding

// volumeBinding keeps pods to nodes that their volumes can be on, chooses volumes for claims that wait for their first
// consumer, and has them bound before the pod is.
type volumeBinding struct {
	volumes    Volumes
	timeout    time.Duration
	conflict   *framework.Status
	gone       *framework.Status
	unmatched  *framework.Status
	noCapacity *framework.Status
	immediate  *framework.Status
}

func newVolumeBinding(a *config.VolumeBindingArgs, v Volumes) *volumeBinding {
	say := func(reason string) *framework.Status {
		return reject(config.VolumeBinding, framework.UnschedulableAndUnresolvable, reason)
	}
	return &volumeBinding{
		volumes: v, timeout: time.Duration(*a.BindTimeoutSeconds) * time.Second,
		conflict:   say("node(s) had volume node affinity conflict"),
		gone:       say("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
		unmatched:  say("node(s) didn't find available persistent volumes to bind"),
		noCapacity: say("node(s) did not have enough free storage"),
		immediate:  say("pod has unbound immediate PersistentVolumeClaims"),
	}
}

func (*volumeBinding) Name() string { return config.VolumeBinding }

// delayedClaim is a claim that gets its volume when its node is known.
type delayedClaim struct {
	*v1.PersistentVolumeClaim
	candidates []*v1.PersistentVolume
	making     *making
}

// podClaims are the claims of a pod.
type podClaims struct {
	table    *storage.Table
	snapshot *framework.Snapshot
	// bound are the requirements of the volumes that the pod has. They are on no node if one of them is gone.
	bound []*requiredNodes
	gone  bool
	// delayed are ordered by size, so that the smallest claims get the smallest volumes.
	delayed []delayedClaim
	// What follows is what Reserve leaves to PreBind.
	decision *storage.Decision
	node     *v1.Node
}

// Clone returns the same, for it depends on no other pod.
func (s *podClaims) Clone() framework.StateData { return s }

func (p *volumeBinding) PreFilter(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	if !usesClaims(pod.Pod) {
		return nil, skip()
	}
	d := &podClaims{table: s.Cluster.Storage(), snapshot: s}
	claims, err := claimsOf(d.table, pod.Pod)
	if err != nil {
		return nil, reject(p.Name(), framework.UnschedulableAndUnresolvable, err.Error())
	}
	for _, c := range claims {
		switch {
		case c.Status.Phase == v1.ClaimLost:
			return nil, reject(p.Name(), framework.UnschedulableAndUnresolvable,
				fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", c.Name, c.Spec.VolumeName))
		case c.DeletionTimestamp != nil:
			return nil, reject(p.Name(), framework.UnschedulableAndUnresolvable, fmt.Sprintf("persistentvolumeclaim %q is being deleted", c.Name))
		}
	}
	for _, c := range claims {
		if !d.add(c) {
			return nil, p.immediate
		}
	}
	slices.SortStableFunc(d.delayed, func(a, b delayedClaim) int { return cmp.Compare(sizeOf(a), sizeOf(b)) })
	state.Write(volumeBindingKey, d)
	return nil, nil
}

func sizeOf(c delayedClaim) int64 { return c.Spec.Resources.Requests.Storage().Value() }

// add takes a claim. It is false for one that somebody else is to bind, and did not yet.
func (s *podClaims) add(c *v1.PersistentVolumeClaim) bool {
	if isBound(c) {
		v := s.table.Volume(c.Spec.VolumeName)
		switch {
		case v == nil:
			s.gone = true
		case v.Spec.NodeAffinity != nil && v.Spec.NodeAffinity.Required != nil:
			s.bound = append(s.bound, requiredBy(v.Spec.NodeAffinity.Required))
		}
		return true
	}
	class := s.table.Class(volumehelpers.GetPersistentVolumeClaimClass(c))
	if class == nil || c.Spec.VolumeName != "" || ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) != storagev1.VolumeBindingWaitForFirstConsumer {
		return false
	}
	if slices.ContainsFunc(s.delayed, func(d delayedClaim) bool { return d.Name == c.Name }) {
		return true
	}
	d := delayedClaim{PersistentVolumeClaim: c, making: newMaking(s.table, class, c)}
	if c.Annotations[volumehelpers.AnnSelectedNode] == "" {
		d.candidates = s.table.Candidates(c)
	}
	s.delayed = append(s.delayed, d)
	return true
}

func (p *volumeBinding) Filter(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := framework.Data[*podClaims](state, volumeBindingKey)
	if s.gone {
		return p.gone
	}
	for _, r := range s.bound {
		if !r.matches(node.Node()) {
			return p.conflict
		}
	}
	if len(s.delayed) == 0 {
		return nil
	}
	_, status := p.decide(s, node.Node())
	return status
}

// decide works out how the delayed claims get volumes on a node.
func (p *volumeBinding) decide(s *podClaims, node *v1.Node) (*storage.Decision, *framework.Status) {
	d := &storage.Decision{}
	var chosen map[string]*v1.PersistentVolume
	for _, c := range s.delayed {
		if selected := c.Annotations[volumehelpers.AnnSelectedNode]; selected != "" && selected != node.Name {
			return nil, p.unmatched
		}
		v, err := volumehelpers.FindMatchingVolume(c.PersistentVolumeClaim, c.candidates, node, chosen, false, true)
		if err != nil {
			return nil, framework.AsStatus(err)
		}
		if v != nil {
			if chosen == nil {
				chosen = map[string]*v1.PersistentVolume{}
			}
			chosen[v.Name] = v
			d.Matches = append(d.Matches, storage.Match{Claim: c.PersistentVolumeClaim, Volume: v})
			continue
		}
		switch {
		case !c.making.possible(node):
			return nil, p.unmatched
		case !c.making.hasRoom(node):
			return nil, p.noCapacity
		}
		d.Provision = append(d.Provision, c.PersistentVolumeClaim)
	}
	return d, nil
}

// Reserve holds the volumes that were chosen.
func (p *volumeBinding) Reserve(_ context.Context, state *framework.CycleState, pod *v1.Pod, node string) *framework.Status {
	s := framework.Data[*podClaims](state, volumeBindingKey)
	if s == nil || len(s.delayed) == 0 {
		return nil
	}
	n := s.snapshot.Node(node)
	if n == nil {
		return framework.AsStatus(fmt.Errorf("node %q not found", node))
	}
	d, status := p.decide(s, n.Node())
	if !status.IsSuccess() {
		return status
	}
	s.decision, s.node = d, n.Node()
	s.table.Hold(pod.UID, node, d)
	return nil
}

// Unreserve lets them go.
func (p *volumeBinding) Unreserve(_ context.Context, state *framework.CycleState, pod *v1.Pod, _ string) {
	if s := framework.Data[*podClaims](state, volumeBindingKey); s != nil && s.decision != nil {
		s.table.Release(pod.UID)
	}
}

// Hints: volumes and classes may be what claims wait for, nodes may be where volumes are.
func (p *volumeBinding) Hints() []framework.Hint {
	const came = framework.Add | framework.Update
	return []framework.Hint{
		claimHint(came),
		{Event: framework.Event{Resource: framework.PersistentVolume, Action: came}},
		{Event: framework.Event{Resource: framework.StorageClass, Action: came}, Helps: func(_ *framework.PodInfo, c framework.Change) bool {
			return classOpens(c)
		}},
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add | framework.UpdateNodeLabel}},
		{Event: framework.Event{Resource: framework.CSIDriver, Action: came | framework.Delete}, Helps: func(_ *framework.PodInfo, c framework.Change) bool {
			return tracksCapacity(c.Old) && !tracksCapacity(c.New)
		}},
		{Event: framework.Event{Resource: framework.CSIStorageCapacity, Action: came}, Helps: func(_ *framework.PodInfo, c framework.Change) bool {
			return capacityGrew(c)
		}},
	}
}
