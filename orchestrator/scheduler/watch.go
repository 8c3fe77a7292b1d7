package scheduler

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	corehelper "k8s.io/component-helpers/scheduling/corev1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/queue"
)

// watch starts the informers and waits until all that they list has come by mail.
func (s *Scheduler) watch(ctx context.Context) (stop func(), err error) {
	core, apps, storage := s.informers.Core().V1(), s.informers.Apps().V1(), s.informers.Storage().V1()
	sources := []struct {
		informer toolscache.SharedIndexInformer
		changed  func(ctx context.Context, old, now any)
	}{
		{core.Nodes().Informer(), s.nodeChanged},
		{core.Namespaces().Informer(), s.clusterChanged},
		{core.Services().Informer(), s.clusterChanged},
		{core.ReplicationControllers().Informer(), s.clusterChanged},
		{apps.ReplicaSets().Informer(), s.clusterChanged},
		{apps.StatefulSets().Informer(), s.clusterChanged},
		{core.PersistentVolumeClaims().Informer(), s.storageChanged(framework.PersistentVolumeClaim)},
		{core.PersistentVolumes().Informer(), s.storageChanged(framework.PersistentVolume)},
		{storage.StorageClasses().Informer(), s.storageChanged(framework.StorageClass)},
		{storage.CSINodes().Informer(), s.storageChanged(framework.CSINode)},
		{storage.CSIDrivers().Informer(), s.storageChanged(framework.CSIDriver)},
		{storage.CSIStorageCapacities().Informer(), s.storageChanged(framework.CSIStorageCapacity)},
		{storage.VolumeAttachments().Informer(), s.storageChanged(framework.VolumeAttachment)},
		{core.Pods().Informer(), s.podChanged},
	}
	if served, err := s.servesBudgets(); err != nil {
		return func() {}, err
	} else if served {
		sources = append(sources, sources[1])
		sources[len(sources)-1].informer = s.informers.Policy().V1().PodDisruptionBudgets().Informer()
	}
	var undo []func()
	stop = func() {
		for _, f := range undo {
			f()
		}
	}
	var synced []toolscache.InformerSynced
	for _, source := range sources {
		r, err := source.informer.AddEventHandler(s.handler(ctx, source.changed))
		if err != nil {
			return stop, fmt.Errorf("watch: %w", err)
		}
		undo = append(undo, func() { _ = source.informer.RemoveEventHandler(r) })
		synced = append(synced, r.HasSynced)
	}
	s.informers.Start(ctx.Done())
	if !toolscache.WaitForCacheSync(ctx.Done(), synced...) {
		return stop, fmt.Errorf("wait for informers: %w", ctx.Err())
	}
	return stop, nil
}

// servesBudgets tells whether the API server has disruption budgets.
func (s *Scheduler) servesBudgets() (bool, error) {
	list, err := s.client.Discovery().ServerResourcesForGroupVersion("policy/v1")
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("discover disruption budgets: %w", err)
	}
	for i := range list.APIResources {
		if list.APIResources[i].Name == "poddisruptionbudgets" {
			return true, nil
		}
	}
	return false, nil
}

// handler posts what an informer sees.
func (s *Scheduler) handler(ctx context.Context, changed func(ctx context.Context, old, now any)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(now any) { s.mail.post(func() { changed(ctx, nil, now) }) },
		UpdateFunc: func(old, now any) { s.mail.post(func() { changed(ctx, old, now) }) },
		DeleteFunc: func(old any) {
			if unknown, is := old.(toolscache.DeletedFinalStateUnknown); is {
				old = unknown.Obj
			}
			s.mail.post(func() { changed(ctx, old, nil) })
		},
	}
}

func (s *Scheduler) clusterChanged(ctx context.Context, old, now any) {
	if now == nil {
		s.model.cluster.remove(old)
		return
	}
	s.model.cluster.set(now)
	ns, is := now.(*v1.Namespace)
	before, _ := old.(*v1.Namespace)
	if is && (before == nil || queueLabels(before, ns)) {
		action := framework.Add
		if before != nil {
			action = framework.Update
		}
		s.move(ctx, framework.Event{Resource: framework.OtherObject, Action: action}, framework.Change{Old: old, New: now}, nil)
	}
}

// storageChanged takes an object of storage that came, changed or went.
func (s *Scheduler) storageChanged(r framework.Resource) func(ctx context.Context, old, now any) {
	return func(ctx context.Context, old, now any) {
		event := framework.Event{Resource: r, Action: framework.Update}
		switch {
		case now == nil:
			event.Action = framework.Delete
			s.model.cluster.remove(old)
		case old == nil:
			event.Action = framework.Add
			s.model.cluster.set(now)
		default:
			s.model.cluster.set(now)
		}
		s.move(ctx, event, framework.Change{Old: old, New: now}, nil)
	}
}

func queueLabels(a, b *v1.Namespace) bool {
	if len(a.Labels) != len(b.Labels) {
		return true
	}
	for k, v := range a.Labels {
		if w, ok := b.Labels[k]; !ok || v != w {
			return true
		}
	}
	return false
}

func (s *Scheduler) move(ctx context.Context, e framework.Event, c framework.Change, only func(*v1.Pod) bool) {
	began := s.clock.Now()
	s.model.queue.Move(ctx, e, c, only, began)
	s.metrics.events.WithLabelValues(e.String()).Observe(s.clock.Now().Sub(began).Seconds())
}

func (s *Scheduler) nodeChanged(ctx context.Context, old, now any) {
	before, _ := old.(*v1.Node)
	node, _ := now.(*v1.Node)
	change := framework.Change{Old: old, New: now}
	event := framework.Event{Resource: framework.Node, Action: framework.Add}
	switch {
	case node == nil:
		event.Action = framework.Delete
		s.move(ctx, event, change, nil)
		s.model.cache.RemoveNode(before.Name)
	case before == nil:
		s.model.cache.SetNode(node)
		s.move(ctx, event, change, nil)
	case before.ResourceVersion == node.ResourceVersion && node.ResourceVersion != "":
	default:
		s.model.cache.SetNode(node)
		for _, e := range queue.NodeChanges(before, node) {
			s.move(ctx, e, change, nil)
		}
	}
}

// podChanged takes pods that came, changed or went. Pods that have ended are as good as gone.
func (s *Scheduler) podChanged(ctx context.Context, old, now any) {
	before, pod := alive(old), alive(now)
	switch {
	case before == nil && pod == nil:
	case before != nil && pod != nil && before.UID != pod.UID:
		s.podChanged(ctx, old, nil)
		s.podChanged(ctx, nil, now)
	case before != nil && pod != nil && before.ResourceVersion == pod.ResourceVersion && pod.ResourceVersion != "":
	case pod == nil:
		s.podGone(ctx, before)
	case pod.Spec.NodeName != "":
		s.podOnNode(ctx, before, pod)
	case s.profiles[pod.Spec.SchedulerName] != nil:
		s.podWaits(ctx, before, pod)
	}
}

// alive returns nil for pods that no longer take room.
func alive(obj any) *v1.Pod {
	pod, _ := obj.(*v1.Pod)
	if pod == nil || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return nil
	}
	return pod
}

func (s *Scheduler) podOnNode(ctx context.Context, before, pod *v1.Pod) {
	m := &s.model
	m.cache.SetPod(pod)
	if before == nil || before.Spec.NodeName == "" {
		m.queue.Delete(pod.UID)
		s.move(ctx, framework.Event{Resource: framework.AssignedPod, Action: framework.Add}, framework.Change{New: pod}, nil)
		return
	}
	for _, e := range queue.PodChanges(before, pod, framework.AssignedPod) {
		s.move(ctx, e, framework.Change{Old: before, New: pod}, nil)
	}
}

func (s *Scheduler) podWaits(ctx context.Context, before, pod *v1.Pod) {
	m := &s.model
	if m.cache.IsAssumed(pod.UID) {
		if m.queue.Knows(pod.UID) {
			m.queue.Update(ctx, before, pod, s.clock.Now())
		}
		if pod.DeletionTimestamp != nil && (before == nil || before.DeletionTimestamp == nil) {
			s.assumedGone(ctx, pod.UID)
		}
		return
	}
	m.queue.Update(ctx, before, pod, s.clock.Now())
	if before != nil && before.Status.NominatedNodeName != "" && before.Status.NominatedNodeName != pod.Status.NominatedNodeName {
		s.move(ctx, roomMade(), framework.Change{Old: before}, notAbove(before))
	}
}

func (s *Scheduler) podGone(ctx context.Context, pod *v1.Pod) {
	m := &s.model
	m.queue.Delete(pod.UID)
	switch {
	case m.cache.IsAssumed(pod.UID):
		s.assumedGone(ctx, pod.UID)
	case m.cache.RemovePod(pod.UID):
		s.move(ctx, roomMade(), framework.Change{Old: pod}, nil)
	case pod.Status.NominatedNodeName != "":
		s.move(ctx, roomMade(), framework.Change{Old: pod}, notAbove(pod))
	}
}

// assumedGone gives back the room of a pod whose binding, if it is under way, will fail.
func (s *Scheduler) assumedGone(ctx context.Context, uid types.UID) {
	info, _ := s.model.cache.Pod(uid)
	if !s.waiting.reject(uid, framework.NewStatus(framework.Unschedulable, "pod was deleted")) {
		s.model.cache.Forget(uid)
	}
	if cancel := s.model.binding[uid]; cancel != nil {
		cancel()
	}
	s.move(ctx, roomMade(), framework.Change{Old: info.Pod}, nil)
}

func roomMade() framework.Event {
	return framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}
}

// notAbove accepts pods that had to yield to a pod with a nomination.
func notAbove(pod *v1.Pod) func(*v1.Pod) bool {
	limit := corehelper.PodPriority(pod)
	return func(p *v1.Pod) bool { return corehelper.PodPriority(p) <= limit }
}
