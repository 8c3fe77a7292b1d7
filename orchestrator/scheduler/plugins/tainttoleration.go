package plugins

import (
	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// taintToleration keeps pods off nodes with taints that they do not tolerate, and prefers nodes without such taints
// of the soft kind.
type taintToleration struct{ untolerated *framework.Status }

func newTaintToleration() *taintToleration {
	return &taintToleration{untolerated: reject(config.TaintToleration, framework.UnschedulableAndUnresolvable, "node(s) had untolerated taint(s)")}
}

func (*taintToleration) Name() string { return config.TaintToleration }

func (p *taintToleration) Filter(_ *framework.CycleState, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if hasUntoleratedTaint(node.Node(), pod.Pod) {
		return p.untolerated
	}
	return nil
}

// Score counts the soft taints that the pod does not tolerate.
func (*taintToleration) Score(_ *framework.CycleState, pod *framework.PodInfo, node *framework.NodeInfo) (int64, *framework.Status) {
	var n int64
	taints := node.Node().Spec.Taints
	for i := range taints {
		if taints[i].Effect == v1.TaintEffectPreferNoSchedule && !toleratedBy(pod.Pod.Spec.Tolerations, &taints[i]) {
			n++
		}
	}
	return n, nil
}

func (*taintToleration) NormalizeScore(_ *framework.CycleState, _ *framework.PodInfo, scores []int64) *framework.Status {
	normalize(scores, true)
	return nil
}

func (*taintToleration) Hints() []framework.Hint {
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add | framework.UpdateNodeTaint}, Helps: func(pod *framework.PodInfo, c framework.Change) bool {
			old, now := c.Nodes()
			return now != nil && !hasUntoleratedTaint(now, pod.Pod) && (old == nil || hasUntoleratedTaint(old, pod.Pod))
		}},
		{Event: framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodToleration}},
	}
}

// hasUntoleratedTaint tells whether the node has a hard taint that the pod does not tolerate.
func hasUntoleratedTaint(node *v1.Node, pod *v1.Pod) bool {
	taints := node.Spec.Taints
	for i := range taints {
		t := &taints[i]
		if (t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute) && !toleratedBy(pod.Spec.Tolerations, t) {
			return true
		}
	}
	return false
}

func toleratedBy(tolerations []v1.Toleration, taint *v1.Taint) bool {
	for i := range tolerations {
		if tolerates(&tolerations[i], taint) {
			return true
		}
	}
	return false
}

func tolerates(t *v1.Toleration, taint *v1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case "", v1.TolerationOpEqual:
		return t.Value == taint.Value
	case v1.TolerationOpExists:
		return true
	}
	return false
}

// normalize scales scores to 0..MaxScore by the greatest of them; reverse makes the least the best.
func normalize(scores []int64, reverse bool) {
	var most int64
	for _, s := range scores {
		most = max(most, s)
	}
	for i, s := range scores {
		if most > 0 {
			s = framework.MaxScore * s / most
		}
		if reverse {
			s = framework.MaxScore - s
		}
		scores[i] = s
	}
}
