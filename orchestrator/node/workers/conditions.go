package workers

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions sets the conditions that a node owns.
func (r *report) conditions(s *corev1.PodStatus) {
	set := func(t corev1.PodConditionType, is bool, reason, message string) {
		status := corev1.ConditionFalse
		if is {
			status, reason, message = corev1.ConditionTrue, reasonIf(reason, reason == podCompleted && t == corev1.PodInitialized), ""
		}
		r.setCondition(s, corev1.PodCondition{Type: t, Status: status, Reason: reason, Message: message})
	}
	set(corev1.PodScheduled, true, "", "")
	box := r.seen.sandbox()
	set(corev1.PodReadyToStartContainers, box != nil && (box.host || len(box.ips) > 0), "", "")
	set(r.initializedCondition(s))
	t, ready, reason, message := r.containersReady(s)
	set(t, ready, reason, message)
	if gates := r.gates(s); ready && gates != "" {
		ready, reason, message = false, "ReadinessGatesNotReady", gates
	}
	set(corev1.PodReady, ready, reason, message)
	if couldRestartAll(r.pod) {
		r.restartingCondition(s)
	}
	r.resizeConditions(s)
	if r.verdict != nil {
		for _, c := range r.verdict.Conditions {
			r.setCondition(s, c)
		}
	}
}

// ownConditions are those that only nodes write.
var ownConditions = []corev1.PodConditionType{
	corev1.PodScheduled, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady,
	corev1.AllContainersRestarting, corev1.PodResizePending, corev1.PodResizeInProgress,
}

// Reasons of conditions.
const (
	podCompleted = "PodCompleted"
	podFailed    = "PodFailed"
)

func reasonIf(reason string, keep bool) string {
	if keep {
		return reason
	}
	return ""
}

// setCondition sets one condition; its time changes only with its status.
func (r *report) setCondition(s *corev1.PodStatus, c corev1.PodCondition) {
	c.ObservedGeneration = r.pod.Generation
	c.LastTransitionTime = metav1.Time{Time: r.now.Truncate(time.Second)}
	for i := range s.Conditions {
		have := &s.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		c.LastProbeTime = have.LastProbeTime
		*have = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

func dropCondition(s *corev1.PodStatus, t corev1.PodConditionType) {
	kept := s.Conditions[:0]
	for _, c := range s.Conditions {
		if c.Type != t {
			kept = append(kept, c)
		}
	}
	s.Conditions = kept
}

func (r *report) initializedCondition(s *corev1.PodStatus) (t corev1.PodConditionType, is bool, reason, message string) {
	t = corev1.PodInitialized
	if s.Phase == corev1.PodSucceeded {
		return t, true, podCompleted, ""
	}
	if len(r.pod.Spec.InitContainers) == 0 {
		return t, true, "", ""
	}
	var incomplete []string
	for i, c := range s.InitContainerStatuses {
		if sidecar(&r.pod.Spec.InitContainers[i]) {
			if c.Started == nil || !*c.Started {
				incomplete = append(incomplete, c.Name)
			}
		} else if !c.Ready {
			incomplete = append(incomplete, c.Name)
		}
	}
	if len(incomplete) == 0 || r.acts.initialized && !r.ended || hasRun(s) && !r.acts.restarting {
		return t, true, "", ""
	}
	if s.Phase == corev1.PodFailed {
		return t, false, podFailed, ""
	}
	return t, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(incomplete, " "))
}

// hasRun is whether a container proper has run, which shows that the pod was initialized.
func hasRun(s *corev1.PodStatus) bool {
	for _, c := range s.ContainerStatuses {
		if c.ContainerID != "" {
			return true
		}
	}
	return false
}

func (r *report) containersReady(s *corev1.PodStatus) (t corev1.PodConditionType, is bool, reason, message string) {
	t = corev1.ContainersReady
	switch s.Phase {
	case corev1.PodSucceeded:
		return t, false, podCompleted, ""
	case corev1.PodFailed:
		return t, false, podFailed, ""
	}
	var unready []string
	for i, c := range s.InitContainerStatuses {
		if sidecar(&r.pod.Spec.InitContainers[i]) && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for _, c := range s.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	if len(unready) > 0 {
		return t, false, "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	}
	return t, true, "", ""
}

// gates says which readiness gates of the pod are shut.
func (r *report) gates(s *corev1.PodStatus) string {
	var shut []string
	for _, g := range r.pod.Spec.ReadinessGates {
		found := false
		for _, c := range s.Conditions {
			if c.Type != g.ConditionType {
				continue
			}
			found = true
			if c.Status != corev1.ConditionTrue {
				shut = append(shut, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, c.Status))
			}
		}
		if !found {
			shut = append(shut, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		}
	}
	return strings.Join(shut, ", ")
}

func (r *report) restartingCondition(s *corev1.PodStatus) {
	c := corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse}
	switch {
	case s.Phase == corev1.PodSucceeded:
		c.Reason = podCompleted
	case s.Phase == corev1.PodFailed:
		c.Reason = podFailed
	case r.acts.restarting:
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	r.setCondition(s, c)
}
