package scheduler

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// preempt makes room for a pod.
func (s *Scheduler) preempt(ctx context.Context, pod *framework.PodInfo, p *framework.Preemption) {
	s.metrics.victims.Observe(float64(len(p.Pods)))
	// Pods of lower priority that were promised the node may no longer fit there, and are to look elsewhere.
	for _, other := range slices.Clone(s.model.queue.Nominated()[p.Node]) {
		if other.Priority < pod.Priority {
			none := ""
			s.model.queue.Unnominate(other.UID())
			s.statuses.put(ctx, other.Pod, statusChange{nominated: &none})
			s.model.queue.Activate(ctx, s.clock.Now(), other.UID())
		}
	}
	for _, victim := range p.Pods {
		switch {
		case victim.Pod.DeletionTimestamp != nil:
		case s.waiting.reject(victim.UID(), framework.NewStatus(framework.Unschedulable, "preempted").By(preemptor)):
			s.preempted(victim.Pod, pod.Pod, p.Node, " (in kube-scheduler memory).")
		default:
			s.write(func() { s.evict(ctx, victim.Pod, pod.Pod, p.Node) })
		}
	}
}

// preemptor is the plugin in whose name waiting pods are rejected.
const preemptor = "DefaultPreemption"

// evict marks a victim and deletes it.
func (s *Scheduler) evict(ctx context.Context, victim, by *v1.Pod, node string) {
	s.patchStatus(ctx, victim, statusChange{condition: &v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler, ObservedGeneration: victim.Generation,
		Message: fmt.Sprintf("%s: preempting to accommodate a higher priority pod", by.Spec.SchedulerName),
	}})
	err := s.client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
	switch {
	case err == nil:
		s.preempted(victim, by, node, "")
	case !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil:
		s.log.Warn("deleting a victim failed", zap.String("victim", victim.Namespace+"/"+victim.Name), zap.String("for", by.Namespace+"/"+by.Name), zap.Error(err))
		s.Activate(ctx, by.UID) // no deletion will be seen that could have it tried again
	}
}

func (s *Scheduler) preempted(victim, by *v1.Pod, node, where string) {
	if r := s.recorders[by.Spec.SchedulerName]; r != nil {
		r.Eventf(victim, by, v1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v%s", by.UID, node, where)
	}
}
