package queue

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	helper "k8s.io/component-helpers/resource"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// PodChanges tells what an update of a pod means for scheduling; old may be nil. The resource is TargetPod if the
// pod's own waiting is meant.
func PodChanges(old, now *v1.Pod, r framework.Resource) []framework.Event {
	if now.Spec.NodeName != "" {
		r = framework.AssignedPod
	}
	var out []framework.Event
	if old != nil {
		add := func(a framework.Action, changed bool) {
			if changed {
				out = append(out, framework.Event{Resource: r, Action: a})
			}
		}
		down, up := scaled(old, now)
		add(framework.UpdatePodLabel, !maps.Equal(old.Labels, now.Labels))
		add(framework.UpdatePodScaleDown, down)
		add(framework.UpdatePodScaleUp, up)
		add(framework.UpdatePodGatesEliminated, len(now.Spec.SchedulingGates) == 0 && len(old.Spec.SchedulingGates) > 0)
		add(framework.UpdatePodToleration, len(now.Spec.Tolerations) != len(old.Spec.Tolerations))
	}
	if len(out) == 0 {
		out = append(out, framework.Event{Resource: r, Action: framework.Update})
	}
	return out
}

// scaled tells whether the pod requests less, or more, of something.
func scaled(old, now *v1.Pod) (down, up bool) {
	if sameRequests(old, now) {
		return false, false
	}
	o := helper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	before, after := helper.PodRequests(old, o), helper.PodRequests(now, o)
	for name, b := range before {
		if a, ok := after[name]; !ok || b.MilliValue() > a.MilliValue() {
			down = true
		}
	}
	for name, a := range after {
		if b, ok := before[name]; !ok || a.MilliValue() > b.MilliValue() {
			up = true
		}
	}
	return down, up
}

// sameRequests sees cheaply that what requests are worked out from is equal, as it is in most updates.
func sameRequests(old, now *v1.Pod) bool {
	return equality.Semantic.DeepEqual(old.Spec.Containers, now.Spec.Containers) &&
		equality.Semantic.DeepEqual(old.Spec.InitContainers, now.Spec.InitContainers) &&
		equality.Semantic.DeepEqual(old.Spec.Resources, now.Spec.Resources) &&
		equality.Semantic.DeepEqual(old.Status, now.Status)
}

// NodeChanges tells what an update of a node means for scheduling. It is empty for a mere heartbeat.
func NodeChanges(old, now *v1.Node) []framework.Event {
	var out []framework.Event
	add := func(a framework.Action, changed bool) {
		if changed {
			out = append(out, framework.Event{Resource: framework.Node, Action: a})
		}
	}
	add(framework.UpdateNodeTaint, old.Spec.Unschedulable && !now.Spec.Unschedulable || !equality.Semantic.DeepEqual(old.Spec.Taints, now.Spec.Taints))
	add(framework.UpdateNodeAllocatable, !equality.Semantic.DeepEqual(old.Status.Allocatable, now.Status.Allocatable))
	add(framework.UpdateNodeLabel, !maps.Equal(old.Labels, now.Labels))
	add(framework.UpdateNodeCondition, !maps.Equal(conditions(old), conditions(now)))
	add(framework.UpdateNodeAnnotation, !maps.Equal(old.Annotations, now.Annotations))
	return out
}

func conditions(n *v1.Node) map[v1.NodeConditionType]v1.ConditionStatus {
	out := make(map[v1.NodeConditionType]v1.ConditionStatus, len(n.Status.Conditions))
	for i := range n.Status.Conditions {
		out[n.Status.Conditions[i].Type] = n.Status.Conditions[i].Status
	}
	return out
}
