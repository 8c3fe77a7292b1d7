package controllers

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Reasons of a deployment's condition Progressing.
const (
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
	reasonProgress  = "ReplicaSetUpdated"
	reasonAvailable = "NewReplicaSetAvailable"
	reasonTimedOut  = "ProgressDeadlineExceeded"
)

func findCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition puts a condition in; its transition time stays as long as its status does. One that says nothing new is left
// out.
func setCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	have := findCondition(s, c.Type)
	if have != nil && have.Status == c.Status && have.Reason == c.Reason {
		return
	}
	if have != nil && have.Status == c.Status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	dropCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func dropCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	var kept []appsv1.DeploymentCondition
	for _, c := range s.Conditions {
		if c.Type != t {
			kept = append(kept, c)
		}
	}
	s.Conditions = kept
}

func (r *rollout) condition(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	now := metav1.Time{Time: r.clock.Now().Truncate(time.Second)}
	return appsv1.DeploymentCondition{Type: t, Status: status, LastUpdateTime: now, LastTransitionTime: now, Reason: reason, Message: message}
}

// notePaused notes that a deployment was paused or resumed: while it is paused, its deadline does not run.
func (r *rollout) notePaused(ctx context.Context) error {
	if r.dep.Spec.ProgressDeadlineSeconds == nil {
		return nil
	}
	c := findCondition(&r.dep.Status, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == reasonTimedOut {
		return nil
	}
	switch paused := c != nil && c.Reason == reasonPaused; {
	case r.dep.Spec.Paused && !paused:
		setCondition(&r.dep.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused"))
	case !r.dep.Spec.Paused && paused:
		setCondition(&r.dep.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed"))
	default:
		return nil
	}
	return r.writeStatus(ctx)
}

// writeStatus stores the status of the copy.
func (r *rollout) writeStatus(ctx context.Context) error {
	updated, err := r.client.AppsV1().Deployments(r.dep.Namespace).UpdateStatus(ctx, r.dep, metav1.UpdateOptions{})
	if err == nil {
		r.dep = updated.DeepCopy()
	}
	return err
}

// updateStatus computes the status from the replica sets and stores it if it is news.
func (r *rollout) updateStatus(ctx context.Context) error {
	s := r.status()
	r.progress(&s)
	r.failures(&s)
	if equality.Semantic.DeepEqual(s, r.dep.Status) {
		return nil
	}
	r.dep.Status = s
	return r.writeStatus(ctx)
}

func (r *rollout) status() appsv1.DeploymentStatus {
	s := appsv1.DeploymentStatus{ObservedGeneration: r.dep.Generation, CollisionCount: r.dep.Status.CollisionCount}
	s.Conditions = append(s.Conditions, r.dep.Status.Conditions...)
	want, terminating := int32(0), int32(0)
	for _, rs := range r.all() {
		want += wanted(rs)
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
		terminating += ptr.Deref(rs.Status.TerminatingReplicas, 0)
	}
	if r.latest != nil {
		s.UpdatedReplicas = r.latest.Status.Replicas
	}
	s.TerminatingReplicas = ptr.To(terminating)
	s.UnavailableReplicas = max(0, want-s.AvailableReplicas)
	if s.AvailableReplicas >= *r.dep.Spec.Replicas-r.unavailable() {
		setCondition(&s, r.condition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability."))
	} else {
		setCondition(&s, r.condition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability."))
	}
	return s
}

// complete says that all pods are of the latest template, and available, and that no others are left.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

// progressed says that something has moved since the status was last written.
func progressed(old, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas > old.UpdatedReplicas || s.Replicas-s.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		s.ReadyReplicas > old.ReadyReplicas || s.AvailableReplicas > old.AvailableReplicas
}

// progress keeps the condition Progressing, and looks again when the deadline has passed.
func (r *rollout) progress(s *appsv1.DeploymentStatus) {
	if r.dep.Spec.ProgressDeadlineSeconds == nil {
		dropCondition(s, appsv1.DeploymentProgressing)
		return
	}
	c := findCondition(s, appsv1.DeploymentProgressing)
	done := s.Replicas == s.UpdatedReplicas && c != nil && c.Reason == reasonAvailable
	if r.dep.Spec.Paused || done {
		return
	}
	set := "deployment " + fmt.Sprintf("%q", r.dep.Name)
	if r.latest != nil {
		set = fmt.Sprintf("ReplicaSet %q", r.latest.Name)
	}
	switch {
	case complete(r.dep, s):
		setCondition(s, r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, upperFirst(set)+" has successfully progressed."))
	case progressed(&r.dep.Status, s):
		now := r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonProgress, upperFirst(set)+" is progressing.")
		if c != nil && c.Status == corev1.ConditionTrue {
			now.LastTransitionTime = c.LastTransitionTime
		}
		dropCondition(s, appsv1.DeploymentProgressing)
		s.Conditions = append(s.Conditions, now)
	case r.overdue(s):
		setCondition(s, r.condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, upperFirst(set)+" has timed out progressing."))
	}
}

func upperFirst(s string) string {
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		return string(s[0]-'a'+'A') + s[1:]
	}
	return s
}

// overdue says whether nothing has moved for longer than the deadline; if there is time left, it looks again later.
func (r *rollout) overdue(s *appsv1.DeploymentStatus) bool {
	c := findCondition(s, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == reasonAvailable {
		return false
	}
	if c.Reason == reasonTimedOut {
		return true
	}
	left := c.LastUpdateTime.Add(time.Duration(*r.dep.Spec.ProgressDeadlineSeconds) * time.Second).Sub(r.clock.Now())
	if left > 0 {
		r.after(r.dep, left+time.Second)
		return false
	}
	return true
}

// failures shows the condition of a replica set that cannot make its pods.
func (r *rollout) failures(s *appsv1.DeploymentStatus) {
	for i := len(r.all()) - 1; i >= 0; i-- {
		for _, c := range r.all()[i].Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				setCondition(s, r.condition(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message))
				return
			}
		}
	}
	dropCondition(s, appsv1.DeploymentReplicaFailure)
}
