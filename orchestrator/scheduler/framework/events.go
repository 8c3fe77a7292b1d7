package framework

import v1 "k8s.io/api/core/v1"

// Action tells what happened to an object; actions are bits.
type Action uint32

// The actions. Update is any change, those after it say which.
const (
	Add Action = 1 << iota
	Delete
	UpdateNodeAllocatable
	UpdateNodeLabel
	UpdateNodeTaint
	UpdateNodeCondition
	UpdateNodeAnnotation
	UpdatePodLabel
	UpdatePodScaleDown
	UpdatePodScaleUp
	UpdatePodToleration
	UpdatePodGatesEliminated
	updateOther

	All    = updateOther<<1 - 1
	Update = All &^ (Add | Delete)
)

// Resource is a kind of object, as far as the scheduler tells them apart.
type Resource uint8

// The resources. A TargetPod is the waiting pod itself, an UnscheduledPod another one that waits.
const (
	AnyResource Resource = iota
	AssignedPod
	UnscheduledPod
	TargetPod
	Node
	PersistentVolumeClaim
	PersistentVolume
	StorageClass
	CSINode
	CSIDriver
	CSIStorageCapacity
	VolumeAttachment
	OtherObject
)

// Event is a change in the cluster that may let a waiting pod be scheduled.
type Event struct {
	Resource Resource
	Action   Action
	// Label names the special events of the queue.
	Label string
}

// Covers tells whether an event that somebody waits for comprises one that happened. A plain Update happened if nothing
// is known of what changed; it is comprised by Update only, not by parts of it.
func (e Event) Covers(o Event) bool {
	return (e.Resource == AnyResource || e.Resource == o.Resource) && e.Action&o.Action == o.Action
}

// String is the event's name in metrics and logs.
func (e Event) String() string {
	if e.Label != "" {
		return e.Label
	}
	resource := [...]string{
		"*", "AssignedPod", "UnscheduledPod", "TargetPod", "Node", "PersistentVolumeClaim", "PersistentVolume",
		"StorageClass", "CSINode", "CSIDriver", "CSIStorageCapacity", "VolumeAttachment", "Other",
	}[e.Resource]
	switch e.Action {
	case All:
		return resource + "All"
	case Update:
		return resource + "Update"
	}
	names := [...]string{
		"Add", "Delete", "UpdateNodeAllocatable", "UpdateNodeLabel", "UpdateNodeTaint", "UpdateNodeCondition",
		"UpdateNodeAnnotation", "UpdatePodLabel", "UpdatePodScaleDown", "UpdatePodScaleUp", "UpdatePodToleration",
		"UpdatePodSchedulingGatesEliminated", "Update",
	}
	for i, name := range names {
		if e.Action&(1<<i) != 0 {
			resource += name
		}
	}
	return resource
}

// Wildcard tells whether the event concerns every pod that waits.
func (e Event) Wildcard() bool { return e.Resource == AnyResource && e.Action == All }

// Change carries the object of an event: Old is nil when it was added, New when it was deleted.
type Change struct {
	Old, New any
}

// Nodes returns the nodes of a change of a node.
func (c Change) Nodes() (old, now *v1.Node) {
	old, _ = c.Old.(*v1.Node)
	now, _ = c.New.(*v1.Node)
	return old, now
}

// Pods returns the pods of a change of a pod.
func (c Change) Pods() (old, now *v1.Pod) {
	old, _ = c.Old.(*v1.Pod)
	now, _ = c.New.(*v1.Pod)
	return old, now
}

// Hint is an event after which a pod that the plugin rejected is worth another try.
type Hint struct {
	Event Event
	// Helps looks closer: may the change let the pod pass? Nil means that it always may.
	Helps func(pod *PodInfo, c Change) bool
}
