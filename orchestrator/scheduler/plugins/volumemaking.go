package plugins

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

// making says on which nodes a volume could be made for a claim.
type making struct {
	never bool
	class *storagev1.StorageClass
	// rooms are the parts of the cluster with room enough; it is of no meaning unless the driver tells about room.
	rooms   []labels.Selector
	tracked bool
}

func newMaking(t *storage.Table, class *storagev1.StorageClass, c *v1.PersistentVolumeClaim) *making {
	m := &making{class: class, never: class.Provisioner == "" || class.Provisioner == volumehelpers.NotSupportedProvisioner}
	size, sized := c.Spec.Resources.Requests[v1.ResourceStorage]
	if m.never || !sized || !tracksCapacity(t.Driver(class.Provisioner)) {
		return m
	}
	m.tracked = true
	for _, room := range t.Capacities(class.Name) {
		limit := limitOf(room)
		if limit < size.Value() || room.NodeTopology == nil {
			continue
		}
		if s, err := metav1.LabelSelectorAsSelector(room.NodeTopology); err == nil {
			m.rooms = append(m.rooms, s)
		}
	}
	return m
}

// possible tells whether the class lets volumes be made on a node.
func (m *making) possible(node *v1.Node) bool {
	return !m.never && inTopologies(m.class.AllowedTopologies, node)
}

// inTopologies tells whether a node has the labels of one of the terms, of which none at all allow all nodes.
func inTopologies(terms []v1.TopologySelectorTerm, node *v1.Node) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(t v1.TopologySelectorTerm) bool {
		return len(t.MatchLabelExpressions) > 0 && !slices.ContainsFunc(t.MatchLabelExpressions, func(r v1.TopologySelectorLabelRequirement) bool {
			value, has := node.Labels[r.Key]
			return !has || !slices.Contains(r.Values, value)
		})
	})
}

// hasRoom tells whether the driver has room for the volume on a node.
func (m *making) hasRoom(node *v1.Node) bool {
	return !m.tracked || slices.ContainsFunc(m.rooms, func(s labels.Selector) bool { return s.Matches(labels.Set(node.Labels)) })
}

// tracksCapacity tells whether a driver says how much room it has.
func tracksCapacity(o any) bool {
	d, _ := o.(*storagev1.CSIDriver)
	return d != nil && ptr.Deref(d.Spec.StorageCapacity, false)
}

// limitOf is the size in bytes of the largest volume that there is room for, or -1 if there is none at all.
func limitOf(c *storagev1.CSIStorageCapacity) int64 {
	switch {
	case c == nil:
	case c.MaximumVolumeSize != nil:
		return c.MaximumVolumeSize.Value()
	case c.Capacity != nil:
		return c.Capacity.Value()
	}
	return -1
}

func capacityGrew(c framework.Change) bool {
	old, _ := c.Old.(*storagev1.CSIStorageCapacity)
	now, _ := c.New.(*storagev1.CSIStorageCapacity)
	return limitOf(now) > limitOf(old)
}

// classOpens tells whether a class is new, or allows other nodes.
func classOpens(c framework.Change) bool {
	old, _ := c.Old.(*storagev1.StorageClass)
	now, _ := c.New.(*storagev1.StorageClass)
	return now != nil && (old == nil || !equality.Semantic.DeepEqual(old.AllowedTopologies, now.AllowedTopologies))
}
