package plugins

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// schedulingGates keeps pods with gates out of the active queue.
type schedulingGates struct{}

func newSchedulingGates() *schedulingGates { return &schedulingGates{} }

func (*schedulingGates) Name() string { return config.SchedulingGates }

func (p *schedulingGates) PreEnqueue(_ context.Context, pod *v1.Pod) *framework.Status {
	if len(pod.Spec.SchedulingGates) == 0 {
		return nil
	}
	gates := make([]string, len(pod.Spec.SchedulingGates))
	for i, g := range pod.Spec.SchedulingGates {
		gates[i] = g.Name
	}
	return reject(p.Name(), framework.UnschedulableAndUnresolvable, fmt.Sprintf("waiting for scheduling gates: %v", gates))
}

func (*schedulingGates) Hints() []framework.Hint {
	return []framework.Hint{{Event: framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodGatesEliminated}}}
}

// prioritySort puts higher priorities first, and among equals who waits longer.
type prioritySort struct{}

func newPrioritySort() *prioritySort { return &prioritySort{} }

func (*prioritySort) Name() string { return config.PrioritySort }

func (*prioritySort) Less(a, b *framework.QueuedPod) bool {
	return a.Priority > b.Priority || a.Priority == b.Priority && a.Added.Before(b.Added)
}

// nodeName keeps pods that name a node to that node.
type nodeName struct{ wrong *framework.Status }

func newNodeName() *nodeName {
	return &nodeName{wrong: reject(config.NodeName, framework.UnschedulableAndUnresolvable, "node(s) didn't match the requested node name")}
}

func (*nodeName) Name() string { return config.NodeName }

func (*nodeName) PreFilter(_ *framework.CycleState, pod *framework.PodInfo, _ *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	if name := pod.Pod.Spec.NodeName; name != "" {
		return map[string]struct{}{name: {}}, nil
	}
	return nil, skip()
}

func (p *nodeName) Filter(_ *framework.CycleState, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if name := pod.Pod.Spec.NodeName; name != "" && name != node.Name() {
		return p.wrong
	}
	return nil
}

func (*nodeName) Hints() []framework.Hint {
	return []framework.Hint{{Event: framework.Event{Resource: framework.Node, Action: framework.Add}}}
}

// nodeUnschedulable keeps pods off nodes that are cordoned.
type nodeUnschedulable struct{ cordoned *framework.Status }

func newNodeUnschedulable() *nodeUnschedulable {
	return &nodeUnschedulable{cordoned: reject(config.NodeUnschedulable, framework.UnschedulableAndUnresolvable, "node(s) were unschedulable")}
}

func (*nodeUnschedulable) Name() string { return config.NodeUnschedulable }

func (p *nodeUnschedulable) Filter(_ *framework.CycleState, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if node.Node().Spec.Unschedulable && !toleratesCordon(pod.Pod) {
		return p.cordoned
	}
	return nil
}

func toleratesCordon(pod *v1.Pod) bool {
	return toleratedBy(pod.Spec.Tolerations, &v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule})
}

func (*nodeUnschedulable) Hints() []framework.Hint {
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add | framework.UpdateNodeTaint}, Helps: func(_ *framework.PodInfo, c framework.Change) bool {
			old, now := c.Nodes()
			return now != nil && !now.Spec.Unschedulable && (old == nil || old.Spec.Unschedulable)
		}},
		{Event: framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodToleration}, Helps: func(_ *framework.PodInfo, c framework.Change) bool {
			_, now := c.Pods()
			return now != nil && toleratesCordon(now)
		}},
	}
}

// nodePorts keeps pods off nodes where one of their host ports is taken.
type nodePorts struct{ taken *framework.Status }

func newNodePorts() *nodePorts {
	return &nodePorts{taken: reject(config.NodePorts, framework.Unschedulable, "node(s) didn't have free ports for the requested pod ports")}
}

func (*nodePorts) Name() string { return config.NodePorts }

func (*nodePorts) PreFilter(_ *framework.CycleState, pod *framework.PodInfo, _ *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	if len(pod.Ports) == 0 {
		return nil, skip()
	}
	return nil, nil
}

func (p *nodePorts) Filter(_ *framework.CycleState, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if portsConflict(pod.Ports, node.Ports) {
		return p.taken
	}
	return nil
}

func portsConflict(want, taken []framework.HostPort) bool {
	for _, w := range want {
		for _, t := range taken {
			if w.Conflicts(t) {
				return true
			}
		}
	}
	return false
}

func (*nodePorts) Hints() []framework.Hint {
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}, Helps: func(pod *framework.PodInfo, c framework.Change) bool {
			old, _ := c.Pods()
			return old == nil || onNode(old) && portsConflict(pod.Ports, framework.NewPodInfo(old).Ports)
		}},
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add}},
	}
}

// onNode tells whether a pod has, or is promised, a node.
func onNode(pod *v1.Pod) bool { return pod.Spec.NodeName != "" || pod.Status.NominatedNodeName != "" }

// defaultBinder binds through the API.
type defaultBinder struct{ binder Binder }

func newDefaultBinder(b Binder) *defaultBinder { return &defaultBinder{binder: b} }

func (*defaultBinder) Name() string { return config.DefaultBinder }

func (p *defaultBinder) Bind(ctx context.Context, _ *framework.CycleState, pod *v1.Pod, node string) *framework.Status {
	b := &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}
	return framework.AsStatus(p.binder.Bind(ctx, b))
}
