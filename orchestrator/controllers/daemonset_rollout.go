package controllers

import (
	"context"
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// templateGenerationLabel is on daemons' pods for old clients.
const templateGenerationLabel = "pod-template-generation"

// daemonTolerations are what every daemon's pod tolerates: a daemon stays on a node that is in trouble.
func daemonTolerations(hostNetwork bool) []corev1.Toleration {
	t := func(key string, e corev1.TaintEffect) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: e}
	}
	all := []corev1.Toleration{
		t(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute), t(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute),
		t(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule), t(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule),
		t(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule), t(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule),
	}
	if hostNetwork {
		all = append(all, t(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule))
	}
	return all
}

// fit says what a daemon does on a node: whether it is to run, and whether one that runs may stay.
type fit struct{ run, stay bool }

// fits tells what a daemon set's pod does on a node.
func fits(ds *appsv1.DaemonSet, n *corev1.Node) fit {
	spec := &ds.Spec.Template.Spec
	if spec.NodeName != "" && spec.NodeName != n.Name {
		return fit{}
	}
	if ok, err := nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity).Match(n); err != nil || !ok {
		return fit{}
	}
	tolerations := append(daemonTolerations(spec.HostNetwork), spec.Tolerations...)
	untolerated := func(effects ...corev1.TaintEffect) bool {
		_, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), n.Spec.Taints, tolerations, func(t *corev1.Taint) bool {
			for _, e := range effects {
				if t.Effect == e {
					return true
				}
			}
			return false
		}, true)
		return found
	}
	return fit{
		run:  !untolerated(corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute),
		stay: !untolerated(corev1.TaintEffectNoExecute),
	}
}

// daemonNode is the node that a daemon's pod is on or is meant for.
func daemonNode(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range t.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// daemonRollout is one look at a daemon set.
type daemonRollout struct {
	*daemonController
	key        string
	ds         *appsv1.DaemonSet
	owner      owner
	nodes      []any
	byNode     map[string][]*corev1.Pod // those that have not ended
	ended      map[string][]*corev1.Pod
	revisions  []*appsv1.ControllerRevision // the oldest first
	latest     *appsv1.ControllerRevision
	collisions int32
}

// look finds the pods and the revisions of the daemon set.
func (r *daemonRollout) look(ctx context.Context) error {
	pods, err := r.control.claimed(ctx, &r.owner)
	if err != nil {
		return err
	}
	r.byNode, r.ended = map[string][]*corev1.Pod{}, map[string][]*corev1.Pod{}
	for _, p := range pods {
		to := r.byNode
		if p.DeletionTimestamp == nil && !isActive(p) {
			to = r.ended
		}
		to[daemonNode(p)] = append(to[daemonNode(p)], p)
	}
	r.collisions = ptr.Deref(r.ds.Status.CollisionCount, 0)
	r.latest, r.revisions, err = r.history.latest(ctx, &r.owner, &r.ds.Spec.Template, &r.collisions)
	return err
}

// isLatest says whether a pod was made from the template that is wanted now.
func (r *daemonRollout) isLatest(p *corev1.Pod) bool {
	return p.Labels[appsv1.ControllerRevisionHashLabelKey] == r.latest.Labels[appsv1.ControllerRevisionHashLabelKey]
}

// used says whether a revision is in use.
func (r *daemonRollout) used(h *appsv1.ControllerRevision) bool {
	if h == r.latest {
		return true
	}
	for _, pods := range r.byNode {
		for _, p := range pods {
			if p.Labels[appsv1.ControllerRevisionHashLabelKey] == h.Labels[appsv1.ControllerRevisionHashLabelKey] {
				return true
			}
		}
	}
	return false
}

// pod is the daemon's pod for a node. The scheduler binds it.
func (r *daemonRollout) pod(node string) *corev1.Pod {
	p := podFrom(&r.owner, &r.ds.Spec.Template)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = r.latest.Labels[appsv1.ControllerRevisionHashLabelKey]
	p.Labels[templateGenerationLabel] = strconv.FormatInt(r.ds.Generation, 10)
	if g, ok := r.ds.Annotations[appsv1.DeprecatedTemplateGeneration]; ok {
		p.Labels[templateGenerationLabel] = g
	}
	only := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	if p.Spec.Affinity.NodeAffinity == nil {
		p.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	na := p.Spec.Affinity.NodeAffinity
	if na.RequiredDuringSchedulingIgnoredDuringExecution == nil || len(na.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms) == 0 {
		na.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}
	}
	terms := na.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i := range terms {
		terms[i].MatchFields = []corev1.NodeSelectorRequirement{only}
	}
	for _, t := range daemonTolerations(p.Spec.HostNetwork) {
		if !hasToleration(p.Spec.Tolerations, t) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, t)
		}
	}
	return p
}

func hasToleration(all []corev1.Toleration, t corev1.Toleration) bool {
	for i := range all {
		if all[i].MatchToleration(&t) {
			return true
		}
	}
	return false
}

// manage makes pods on nodes that lack one, and deletes those that are where they are not wanted, are too many or have ended.
func (r *daemonRollout) manage(ctx context.Context) error {
	var nodes []string
	var gone []*corev1.Pod
	known := map[string]bool{}
	for _, x := range r.nodes {
		n := x.(*corev1.Node)
		known[n.Name] = true
		f, pods := fits(r.ds, n), r.byNode[n.Name]
		switch {
		case !f.stay:
			gone = append(gone, alive(append(pods, r.ended[n.Name]...))...)
			continue
		case f.run && len(pods) == 0 && !r.replaceable(n.Name):
			continue // what ended is replaced later
		case f.run && len(pods) == 0:
			nodes = append(nodes, n.Name)
		}
		gone = append(gone, r.dropEnded(n.Name)...)
		gone = append(gone, r.surplus(pods)...)
	}
	for node, pods := range r.byNode {
		if node != "" && !known[node] {
			gone = append(gone, pending(pods)...) // a node that went before they were bound
		}
	}
	return r.apply(ctx, nodes, gone)
}

// replaceable says whether pods of a node that ended may be replaced already.
func (r *daemonRollout) replaceable(node string) bool {
	if len(r.ended[node]) == 0 {
		return true
	}
	id := fmt.Sprintf("%s/%s", r.ds.UID, node)
	if now := r.clock.Now(); r.failed.IsInBackOffSinceUpdate(id, now) {
		r.after(r.ds, r.failed.Get(id))
		return false
	}
	return true
}

// dropEnded is which pods of a node have ended and are to go.
func (r *daemonRollout) dropEnded(node string) []*corev1.Pod {
	ended := r.ended[node]
	if len(ended) == 0 {
		return nil
	}
	r.failed.Next(fmt.Sprintf("%s/%s", r.ds.UID, node), r.clock.Now())
	for _, p := range ended {
		if p.Status.Phase == corev1.PodFailed {
			r.control.events.Eventf(r.ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s on node %s, will try to kill it", keyOf(p), node)
		} else {
			r.control.events.Eventf(r.ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s on node %s, will try to delete it", keyOf(p), node)
		}
	}
	return ended
}

// surplus is which pods of one node are too many. While a rollout may surge, an old and a new one may run side by side, until
// the new one is available.
func (r *daemonRollout) surplus(pods []*corev1.Pod) []*corev1.Pod {
	if len(pods) < 2 {
		return nil
	}
	if surge, _ := r.limits(1); surge == 0 {
		return except(alive(pods), oldest(alive(pods)))
	}
	var before, after []*corev1.Pod
	for _, p := range alive(pods) {
		if r.isLatest(p) {
			after = append(after, p)
		} else {
			before = append(before, p)
		}
	}
	out := except(after, oldest(after))
	if len(after) > 0 && isAvailable(oldest(after), r.ds.Spec.MinReadySeconds, r.clock.Now()) {
		return append(out, before...)
	}
	return append(out, except(before, oldest(before))...)
}

// limits are the rollout's maxSurge and maxUnavailable for so many nodes.
func (r *daemonRollout) limits(desired int) (surge, unavailable int) {
	u := r.ds.Spec.UpdateStrategy
	if u.Type != appsv1.RollingUpdateDaemonSetStrategyType || u.RollingUpdate == nil {
		return 0, 1
	}
	of := func(v *intstr.IntOrString) int {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), desired, true)
		if err != nil {
			return 0
		}
		return n
	}
	surge, unavailable = of(u.RollingUpdate.MaxSurge), of(u.RollingUpdate.MaxUnavailable)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// update replaces pods of older templates, as many at a time as the strategy allows.
func (r *daemonRollout) update(ctx context.Context) error {
	if r.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return nil
	}
	desired := 0
	for _, x := range r.nodes {
		if fits(r.ds, x.(*corev1.Node)).run {
			desired++
		}
	}
	surge, unavailable := r.limits(desired)
	if surge > 0 {
		return r.surgeUpdate(ctx, surge)
	}
	now, missing := r.clock.Now(), 0
	var sick, candidates []*corev1.Pod
	for _, x := range r.nodes {
		n := x.(*corev1.Node)
		if !fits(r.ds, n).run {
			continue
		}
		p := oldest(alive(r.byNode[n.Name]))
		switch {
		case p == nil:
			missing++
		case !isAvailable(p, r.ds.Spec.MinReadySeconds, now):
			missing++
			if !r.isLatest(p) {
				sick = append(sick, p)
			}
		case !r.isLatest(p):
			candidates = append(candidates, p)
		}
	}
	return r.apply(ctx, nil, append(sick, candidates[:min(len(candidates), max(0, unavailable-missing))]...))
}

// surgeUpdate makes new pods beside old ones. manage deletes the old one once the new one is available.
func (r *daemonRollout) surgeUpdate(ctx context.Context, surge int) error {
	now := r.clock.Now()
	var first, nodes []string
	var gone []*corev1.Pod
	for _, x := range r.nodes {
		n := x.(*corev1.Node)
		if !fits(r.ds, n).run {
			continue
		}
		var before, after *corev1.Pod
		for _, p := range alive(r.byNode[n.Name]) {
			if r.isLatest(p) {
				after = p
			} else {
				before = p
			}
		}
		switch {
		case before == nil:
		case after == nil && !isAvailable(before, r.ds.Spec.MinReadySeconds, now):
			first = append(first, n.Name)
		case after == nil:
			nodes = append(nodes, n.Name)
		case isAvailable(after, r.ds.Spec.MinReadySeconds, now):
			gone = append(gone, before)
		default:
			surge--
		}
	}
	nodes = append(first, nodes...)
	return r.apply(ctx, nodes[:min(len(nodes), max(0, surge))], gone)
}

// alive are pods that are not being deleted.
func alive(pods []*corev1.Pod) (out []*corev1.Pod) {
	for _, p := range pods {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// pending are pods that are bound to no node and are not being deleted.
func pending(pods []*corev1.Pod) (out []*corev1.Pod) {
	for _, p := range alive(pods) {
		if p.Spec.NodeName == "" {
			out = append(out, p)
		}
	}
	return out
}

// oldest is the oldest of pods, those on a node before others; nil: there is none.
func oldest(pods []*corev1.Pod) (first *corev1.Pod) {
	for _, p := range pods {
		switch {
		case first == nil, first.Spec.NodeName == "" && p.Spec.NodeName != "":
			first = p
		case first.Spec.NodeName != "" && p.Spec.NodeName == "":
		case p.CreationTimestamp.Before(&first.CreationTimestamp):
			first = p
		}
	}
	return first
}

func except(pods []*corev1.Pod, one *corev1.Pod) (out []*corev1.Pod) {
	for _, p := range pods {
		if p != one {
			out = append(out, p)
		}
	}
	return out
}
