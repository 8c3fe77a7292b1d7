package workers

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
)

// resizeState is how far a change of a pod's resources has come: asked for, granted, in effect.
type resizeState struct {
	pending string // reason why it is not granted, "" if it is
	message string
	active  bool   // granted, but not in effect yet
	failed  string // why not
}

// grant grants a living pod what its spec asks for now, if the node has it. It returns the pod as it is granted.
func (w *worker) grant(spec *corev1.Pod) *corev1.Pod {
	ws := w.ws
	granted := ws.allocations.apply(spec)
	if !ws.allocations.has(spec.UID) || sameResources(spec, granted) {
		w.noteResize(func(r *resizeState) { r.pending, r.message = "", "" })
		return granted
	}
	reason, why := ws.regrant(spec)
	if reason == "" {
		raw, _ := json.Marshal(allocationOf(spec))
		ws.event(spec, nil, corev1.EventTypeNormal, eventResizeStarted, "Pod resize started: %s", raw)
	}
	w.mu.Lock()
	told := w.memory.resize.pending
	w.mu.Unlock()
	w.noteResize(func(r *resizeState) { r.pending, r.message = reason, why })
	switch {
	case reason == told:
	case reason == corev1.PodReasonDeferred:
		ws.event(spec, nil, corev1.EventTypeWarning, eventResizeLater, "Pod resize deferred: %s", why)
	case reason == corev1.PodReasonInfeasible:
		ws.event(spec, nil, corev1.EventTypeWarning, eventResizeNever, "Pod resize infeasible: %s", why)
	}
	return ws.allocations.apply(spec)
}

func (w *worker) noteResize(f func(*resizeState)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.memory.resize)
}

// regrant decides about a change of resources, next to what the other pods have. An empty reason: it is granted.
func (ws *Workers) regrant(p *corev1.Pod) (reason, message string) {
	if isStatic(p) {
		return corev1.PodReasonInfeasible, "In-place resize of static-pods is not supported"
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if node := ws.cfg.Node(); node != nil {
		want := helpers.PodRequests(p, helpers.PodResourcesOptions{})
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			capacity, has := node.Status.Allocatable[name]
			if q := want[name]; has && q.Cmp(capacity) > 0 {
				return corev1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, amount(name, q), amount(name, capacity))
			}
		}
		if r := fits(p, node, ws.active(p.UID)); r != nil {
			return corev1.PodReasonDeferred, r.Message
		}
	}
	if err := ws.allocations.set(p); err != nil {
		return corev1.PodReasonDeferred, err.Error()
	}
	return "", ""
}

// retryDeferred wakes the pods that wait for resources of others.
func (ws *Workers) retryDeferred() {
	for _, w := range ws.all() {
		w.mu.Lock()
		waits := w.memory.resize.pending == corev1.PodReasonDeferred
		w.mu.Unlock()
		if waits {
			w.kick()
		}
	}
}

// sameResources is whether two versions of a pod ask for the same.
func sameResources(a, b *corev1.Pod) bool {
	same := a.Spec.Resources == nil && b.Spec.Resources == nil || a.Spec.Resources != nil && b.Spec.Resources != nil && equalResources(a.Spec.Resources, b.Spec.Resources)
	for i := range a.Spec.Containers {
		same = same && equalResources(&a.Spec.Containers[i].Resources, &b.Spec.Containers[i].Resources)
	}
	for i := range a.Spec.InitContainers {
		same = same && equalResources(&a.Spec.InitContainers[i].Resources, &b.Spec.InitContainers[i].Resources)
	}
	return same
}

func equalResources(a, b *corev1.ResourceRequirements) bool {
	return len(changedResources(a, b)) == 0
}

// changedResources are the resources, of those that can change in place, that differ.
func changedResources(a, b *corev1.ResourceRequirements) (names []corev1.ResourceName) {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		ra, rb, la, lb := a.Requests[name], b.Requests[name], a.Limits[name], b.Limits[name]
		if ra.Cmp(rb) != 0 || la.Cmp(lb) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// resizable are the running containers whose resources are not in effect; restart is whether they have to be restarted for that.
func (w *worker) resizable(p *corev1.Pod, seen *observed) (update []*corev1.Container, restart map[string]bool) {
	restart = map[string]bool{}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := &list[i]
			cur := seen.newest(c.Name)
			if cur == nil || !cur.running() {
				continue
			}
			have, known := w.ws.allocations.inEffect(p.UID, c.Name)
			if !known {
				continue
			}
			changed := changedResources(&have, &c.Resources)
			if len(changed) == 0 {
				continue
			}
			update = append(update, c)
			for _, policy := range c.ResizePolicy {
				for _, name := range changed {
					if policy.ResourceName == name && policy.RestartPolicy == corev1.RestartContainer {
						restart[c.Name] = true
					}
				}
			}
		}
	}
	return update, restart
}

// resizeStep brings granted resources into effect, in the background.
func (w *worker) resizeStep(ctx context.Context, g glance) {
	update, restart := w.resizable(g.pod, g.seen)
	w.mu.Lock()
	defer w.mu.Unlock()
	state := &w.memory.resize
	if len(update) == 0 {
		if state.active {
			state.active, state.failed = false, ""
			w.ws.event(g.pod, nil, corev1.EventTypeNormal, eventResizeDone, "Pod resize completed")
		}
		return
	}
	state.active = true
	if w.running.resizing || w.running.ended != g.ended || g.now.Before(w.running.resizeHold) {
		return
	}
	var inPlace []*corev1.Container
	for _, c := range update {
		if !restart[c.Name] {
			inPlace = append(inPlace, c)
		}
	}
	if len(inPlace) == 0 {
		return
	}
	w.running.resizing = true
	w.ops.Go(func() {
		defer w.kick()
		err := w.ws.actuate(ctx, g, inPlace)
		w.mu.Lock()
		w.running.resizing = false
		w.running.ended++
		told := w.memory.resize.failed
		w.memory.resize.failed = ""
		if err != nil && ctx.Err() == nil {
			w.memory.resize.failed = message(err)
			w.running.resizeHold = w.ws.cfg.Clock.Now().Add(startPause)
		}
		failed := w.memory.resize.failed
		w.mu.Unlock()
		if failed != "" && failed != told {
			w.ws.event(g.pod, nil, corev1.EventTypeWarning, eventResizeError, "Pod resize error: %s", failed)
		}
	})
}

// actuate gives running containers their new resources. The pod's own limits are widened first and narrowed last, so that they
// never stand in the way.
func (ws *Workers) actuate(ctx context.Context, g glance, containers []*corev1.Container) error {
	wide := g.pod.DeepCopy()
	for _, list := range [][]corev1.Container{wide.Spec.InitContainers, wide.Spec.Containers} {
		for i := range list {
			if have, known := ws.allocations.inEffect(wide.UID, list[i].Name); known {
				list[i].Resources = widest(&list[i].Resources, &have)
			}
		}
	}
	if err := ws.cfg.Cgroups.Update(wide); err != nil {
		return err
	}
	for _, c := range containers {
		cur := g.seen.newest(c.Name)
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := ws.cfg.Runtime.UpdateContainerResources(call, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: cur.id, Linux: ws.cfg.Cgroups.Resources(g.pod, c)})
		cancel()
		if err != nil {
			return fmt.Errorf("container %s: %s", c.Name, message(err))
		}
		if err := ws.allocations.applied(g.pod.UID, c.Name, c.Resources); err != nil {
			return err
		}
	}
	if err := ws.cfg.Cgroups.Update(g.pod); err != nil {
		return err
	}
	if box := g.seen.sandbox(); box != nil { // it may keep accounts; that it does not is no failure
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_, _ = ws.cfg.Runtime.UpdatePodSandboxResources(call, &runtimeapi.UpdatePodSandboxResourcesRequest{
			PodSandboxId: box.id, Overhead: cgroup.Resources(g.pod.Spec.Overhead, g.pod.Spec.Overhead), Resources: cgroup.PodResources(g.pod),
		})
	}
	return nil
}

// widest is the greater of two amounts for each resource.
func widest(a, b *corev1.ResourceRequirements) corev1.ResourceRequirements {
	out := *a.DeepCopy()
	most := func(into, from corev1.ResourceList) {
		for name, q := range from {
			if have, ok := into[name]; ok && q.Cmp(have) > 0 {
				into[name] = q
			}
		}
	}
	most(out.Requests, b.Requests)
	most(out.Limits, b.Limits)
	return out
}

// resizeConditions says how far a change of resources has come. Conditions that no longer hold go.
func (r *report) resizeConditions(s *corev1.PodStatus) {
	dropIf := func(drop bool, c corev1.PodCondition) {
		if drop {
			dropCondition(s, c.Type)
			return
		}
		c.Status = corev1.ConditionTrue
		r.setCondition(s, c)
	}
	dropIf(r.resize.pending == "" || r.ending, corev1.PodCondition{Type: corev1.PodResizePending, Reason: r.resize.pending, Message: r.resize.message})
	reason := ""
	if r.resize.failed != "" {
		reason = corev1.PodReasonError
	}
	dropIf(!r.resize.active || r.ending, corev1.PodCondition{Type: corev1.PodResizeInProgress, Reason: reason, Message: r.resize.failed})
}

// actual are the resources that a running container has: what the runtime says, or what it was given.
func actual(c *corev1.Container, have *runtimeapi.ContainerResources) *corev1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	l := have.GetLinux()
	if l == nil {
		return r
	}
	if l.MemoryLimitInBytes > 0 && r.Limits != nil {
		replace(r.Limits, corev1.ResourceMemory, *resource.NewQuantity(l.MemoryLimitInBytes, resource.BinarySI))
	}
	if l.CpuQuota > 0 && l.CpuPeriod > 0 && r.Limits != nil && cgroup.Quota(r.Limits.Cpu().MilliValue()) != l.CpuQuota*cgroup.Period/l.CpuPeriod {
		replace(r.Limits, corev1.ResourceCPU, *resource.NewMilliQuantity(l.CpuQuota*1000/l.CpuPeriod, resource.DecimalSI))
	}
	if l.CpuShares > 0 && r.Requests != nil && cgroup.Shares(r.Requests.Cpu().MilliValue()) != l.CpuShares {
		replace(r.Requests, corev1.ResourceCPU, *resource.NewMilliQuantity(cgroup.MilliOfShares(l.CpuShares), resource.DecimalSI))
	}
	return r
}

// replace puts what is in effect in place of what was asked for, if they differ.
func replace(l corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if have, ok := l[name]; ok && have.Cmp(q) != 0 {
		l[name] = q
	}
}
