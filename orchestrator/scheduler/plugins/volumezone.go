package plugins

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

const volumeZoneKey framework.StateKey = "PreFilter" + config.VolumeZone

// zoneDelimiter stands between the zones of a volume that is in several.
const zoneDelimiter = "__"

// volumeZone keeps pods to the zones and regions in the labels of their volumes.
type volumeZone struct{ elsewhere *framework.Status }

func newVolumeZone() *volumeZone {
	return &volumeZone{elsewhere: reject(config.VolumeZone, framework.UnschedulableAndUnresolvable, "node(s) had no available volume zone")}
}

func (*volumeZone) Name() string { return config.VolumeZone }

// zoneRequirement is a label of nodes with the values that a volume allows. Nodes may use its other name.
type zoneRequirement struct {
	key, other string
	values     sets.Set[string]
}

type zoneRequirements []zoneRequirement

// Clone returns the same, for it depends on no other pod.
func (z zoneRequirements) Clone() framework.StateData { return z }

// zoneKeys are the labels with their other names.
func zoneKeys() [4][2]string {
	return [4][2]string{
		{v1.LabelTopologyZone, v1.LabelFailureDomainBetaZone}, {v1.LabelTopologyRegion, v1.LabelFailureDomainBetaRegion},
		{v1.LabelFailureDomainBetaZone, v1.LabelTopologyZone}, {v1.LabelFailureDomainBetaRegion, v1.LabelTopologyRegion},
	}
}

func (p *volumeZone) PreFilter(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	if !usesClaims(pod.Pod) {
		return nil, skip()
	}
	t := s.Cluster.Storage()
	claims, err := claimsOf(t, pod.Pod)
	if err != nil {
		return nil, reject(p.Name(), framework.UnschedulableAndUnresolvable, err.Error())
	}
	var all zoneRequirements
	for _, c := range claims {
		if c.Spec.VolumeName == "" {
			if reason := unbound(t, c); reason != "" {
				return nil, reject(p.Name(), framework.UnschedulableAndUnresolvable, reason)
			}
			continue
		}
		v := t.Volume(c.Spec.VolumeName)
		if v == nil {
			return nil, reject(p.Name(), framework.UnschedulableAndUnresolvable, fmt.Sprintf("persistentvolume %q not found", c.Spec.VolumeName))
		}
		for _, key := range zoneKeys() {
			if value, has := v.Labels[key[0]]; has {
				all = append(all, zoneRequirement{key: key[0], other: key[1], values: sets.New(strings.Split(value, zoneDelimiter)...)})
			}
		}
	}
	if len(all) == 0 {
		return nil, skip()
	}
	state.Write(volumeZoneKey, all)
	return nil, nil
}

// unbound says why a claim without a volume keeps the pod waiting, or "" if it waits for the pod.
func unbound(t *storage.Table, c *v1.PersistentVolumeClaim) string {
	name := volumehelpers.GetPersistentVolumeClaimClass(c)
	if name == "" {
		return "PersistentVolumeClaim had no pv name and storageClass name"
	}
	class := t.Class(name)
	switch {
	case class == nil:
		return fmt.Sprintf("storageclass.storage.k8s.io %q not found", name)
	case ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer:
		return ""
	}
	return "PersistentVolume had no name"
}

func (p *volumeZone) Filter(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	labels := node.Node().Labels
	known := false
	for _, key := range zoneKeys() {
		if _, has := labels[key[0]]; has {
			known = true
		}
	}
	if !known { // a cluster of one zone need not say so
		return nil
	}
	for _, r := range framework.Data[zoneRequirements](state, volumeZoneKey) {
		value, has := labels[r.key]
		if !has {
			value, has = labels[r.other]
		}
		if !has || !r.values.Has(value) {
			return p.elsewhere
		}
	}
	return nil
}

// Hints: claims, volumes and classes may come, nodes may be in other zones.
func (*volumeZone) Hints() []framework.Hint {
	const came = framework.Add | framework.Update
	return []framework.Hint{
		claimHint(came),
		{Event: framework.Event{Resource: framework.PersistentVolume, Action: came}},
		{Event: framework.Event{Resource: framework.StorageClass, Action: framework.Add}},
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add | framework.UpdateNodeLabel}},
	}
}
