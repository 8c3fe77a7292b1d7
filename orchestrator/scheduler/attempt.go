package scheduler

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/scheduler/core"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// try is an attempt to place a pod.
type try struct {
	pod       *framework.QueuedPod
	profile   *core.Profile
	began     time.Time
	placement *core.Placement
}

// attempt tries to place a pod.
func (s *Scheduler) attempt(ctx context.Context, pod *framework.QueuedPod) {
	m := &s.model
	t := &try{pod: pod, profile: s.profiles[pod.Pod.Spec.SchedulerName], began: s.clock.Now()}
	_, node := m.cache.Pod(pod.UID())
	if t.profile == nil || node != "" || pod.Pod.DeletionTimestamp != nil {
		if pod.Pod.DeletionTimestamp != nil {
			s.event(pod.Pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", fmt.Sprintf("skip schedule deleting pod: %s", pod.Name()))
		}
		m.queue.Done(pod.UID())
		return
	}
	m.cache.Update(m.snapshot)
	m.snapshot.Nominated = m.queue.Nominated()
	d := m.core.Schedule(ctx, t.profile, pod.PodInfo, m.queue.NominatedNode(pod.UID()), m.snapshot)
	s.metrics.algorithm.Observe(s.clock.Now().Sub(t.began).Seconds())
	if d.Failure != nil {
		s.fail(ctx, t, d.Failure, d.Preemption)
		return
	}
	assumed, err := m.cache.Assume(pod.PodInfo, d.Node)
	if err != nil {
		s.fail(ctx, t, core.FailureOf(framework.AsStatus(err)), &framework.Preemption{})
		return
	}
	m.queue.Unnominate(pod.UID())
	t.placement = &core.Placement{Profile: t.profile, State: d.State, Pod: assumed, Node: d.Node}
	if st := t.placement.Reserve(ctx); !st.IsSuccess() {
		s.unplace(ctx, t, st)
		return
	}
	waits, st := t.placement.Permit(ctx)
	if !st.IsSuccess() {
		t.placement.Unreserve(ctx)
		s.unplace(ctx, t, st)
		return
	}
	var wanted context.Context // until the pod is gone
	wanted, m.binding[pod.UID()] = context.WithCancel(ctx)
	if len(waits) > 0 {
		s.waiting.add(assumed, waits)
		s.wg.Go(func() { s.waitAndBind(ctx, wanted, t) })
		return
	}
	m.queue.Placed(pod.UID())
	s.wg.Go(func() { s.bind(ctx, wanted, t) })
}

// waitAndBind waits until all Permit plugins agree.
func (s *Scheduler) waitAndBind(ctx, wanted context.Context, t *try) {
	began := s.clock.Now()
	st := s.waiting.wait(ctx, t.pod.UID())
	s.metrics.permitWait.WithLabelValues(st.Code().String()).Observe(s.clock.Now().Sub(began).Seconds())
	if !st.IsSuccess() {
		s.giveUp(ctx, t, st)
		return
	}
	s.mail.post(func() { s.model.queue.Placed(t.pod.UID()) })
	s.bind(ctx, wanted, t)
}

// giveUp takes a placement back after all.
func (s *Scheduler) giveUp(ctx context.Context, t *try, st *framework.Status) {
	s.mail.post(func() {
		s.settled(t)
		held := s.model.cluster.storage.Held()
		t.placement.Unreserve(ctx)
		s.unplace(ctx, t, st)
		if s.model.cluster.storage.Held() < held { // others may have the volumes
			s.move(ctx, framework.Event{Resource: framework.PersistentVolume, Action: framework.Update}, framework.Change{}, nil)
		}
	})
}

// settled ends what was kept while a pod was being bound.
func (s *Scheduler) settled(t *try) {
	if cancel := s.model.binding[t.pod.UID()]; cancel != nil {
		cancel()
		delete(s.model.binding, t.pod.UID())
	}
}

// bind prepares the node and writes the binding.
func (s *Scheduler) bind(ctx, wanted context.Context, t *try) {
	s.statuses.settle(t.pod.UID())
	s.metrics.goroutines.WithLabelValues("binding").Inc()
	defer s.metrics.goroutines.WithLabelValues("binding").Dec()
	st := t.placement.Prepare(wanted)
	if st.IsSuccess() {
		s.writes <- struct{}{}
		st = t.placement.Bind(wanted)
		<-s.writes
	}
	if !st.IsSuccess() {
		s.giveUp(ctx, t, st)
		return
	}
	pod := t.placement.Pod
	s.log.Debug("bound pod", zap.String("pod", t.pod.Name()), zap.String("node", t.placement.Node))
	s.event(pod, nil, v1.EventTypeNormal, "Scheduled", "Binding", fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, t.placement.Node))
	s.metrics.scheduled(t, s.clock.Now())
	t.placement.Bound(ctx)
	s.mail.post(func() {
		s.settled(t)
		s.model.queue.Done(t.pod.UID())
	})
}

// unplace takes an assumption back.
func (s *Scheduler) unplace(ctx context.Context, t *try, st *framework.Status) {
	m := &s.model
	if m.cache.Forget(t.pod.UID()) {
		others := func(p *v1.Pod) bool { return !st.IsRejected() || p.UID != t.pod.UID() }
		change := framework.Change{Old: t.placement.Pod}
		deleted := framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}
		defer m.queue.Move(ctx, deleted, change, others, s.clock.Now())
	}
	s.fail(ctx, t, core.FailureOf(st), &framework.Preemption{})
}

// fail puts a pod back into the queue, says why, and makes room for it if that was proposed.
func (s *Scheduler) fail(ctx context.Context, t *try, f *core.Failure, p *framework.Preemption) {
	m, pod := &s.model, t.pod
	now := s.clock.Now()
	s.metrics.failed(t, f, now)
	switch {
	case f.Rejected():
		s.log.Debug("pod does not fit", zap.String("pod", pod.Name()), zap.String("reason", f.Error()))
	case apierrors.IsNotFound(f):
		s.log.Debug("pod was deleted meanwhile", zap.String("pod", pod.Name()), zap.Error(f))
	default:
		s.log.Error("scheduling a pod failed", zap.String("pod", pod.Name()), zap.Error(f))
	}
	pod.RejectedBy, pod.PendingBy = f.RejectedBy, f.PendingBy
	if !m.queue.Return(ctx, pod, now) {
		return
	}
	message := f.Error()
	change := statusChange{condition: &v1.PodCondition{
		Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: f.Reason(), Message: message, ObservedGeneration: pod.Pod.Generation,
	}}
	if p != nil {
		m.queue.Nominate(pod.PodInfo, p.Node)
		change.nominated = &p.Node
	}
	s.event(pod.Pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", truncated(message))
	s.statuses.put(ctx, pod.Pod, change)
	if p != nil && p.Node != "" {
		s.preempt(ctx, pod.PodInfo, p)
	}
}

// truncated shortens a message to what an event may carry.
func truncated(message string) string {
	const limit, suffix = 1024, " ..."
	if len(message) <= limit {
		return message
	}
	return message[:limit-len(suffix)] + suffix
}

func (s *Scheduler) event(pod *v1.Pod, related *v1.Pod, kind, reason, action, note string) {
	r := s.recorders[pod.Spec.SchedulerName]
	if r == nil {
		return
	}
	if related != nil {
		r.Eventf(pod, related, kind, reason, action, "%s", note)
		return
	}
	r.Eventf(pod, nil, kind, reason, action, "%s", note)
}

// Activate has waiting pods tried soon, for plugins that know that something they wait for happened.
func (s *Scheduler) Activate(ctx context.Context, pods ...types.UID) {
	s.mail.post(func() { s.model.queue.Activate(ctx, s.clock.Now(), pods...) })
}
