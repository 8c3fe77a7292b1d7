package kinds

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/utils/ptr"
)

// lostNode is the reason in the status of a pod whose node is gone.
const lostNode = "NodeLost"

func podColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.PodSpec{}.SwaggerDoc(), corev1.PodStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		nameColumn,
		textColumn("Ready", "The aggregate readiness state of this pod for accepting traffic."),
		textColumn("Status", "The aggregate status of the containers in this pod."),
		textColumn("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		ageColumn,
		wideColumn("IP", status["podIP"]),
		wideColumn("Node", spec["nodeName"]),
		wideColumn("Nominated Node", status["nominatedNodeName"]),
		wideColumn("Readiness Gates", spec["readinessGates"]),
	}
}

// podView gathers what a table shows of a pod.
type podView struct {
	ready, total int
	reason       string
	restarts     restarts
	sidecars     restarts // of the init containers that go on running
	initializing bool
}

// restarts counts restarts, and knows the last one.
type restarts struct {
	count int
	last  metav1.Time
}

func (r *restarts) add(s *corev1.ContainerStatus) {
	r.count += int(s.RestartCount)
	if t := s.LastTerminationState.Terminated; t != nil && r.last.Before(&t.FinishedAt) {
		r.last = t.FinishedAt
	}
}

func (r *restarts) cell(now time.Time) string {
	if r.count == 0 || r.last.IsZero() {
		return strconv.Itoa(r.count)
	}
	return fmt.Sprintf("%d (%s ago)", r.count, duration.HumanDuration(now.Sub(r.last.Time)))
}

func podRow(o *corev1.Pod, now time.Time) []any {
	v := podView{total: len(o.Spec.Containers), reason: string(o.Status.Phase)}
	if o.Status.Reason != "" {
		v.reason = o.Status.Reason
	}
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			v.reason = c.Reason
		}
	}
	v.initContainers(o)
	if !v.initializing || conditionTrue(o, corev1.PodInitialized) {
		v.containers(o)
	}
	switch {
	case o.DeletionTimestamp == nil:
	case o.Status.Reason == lostNode:
		v.reason = "Unknown"
	case o.Status.Phase != corev1.PodFailed && o.Status.Phase != corev1.PodSucceeded:
		v.reason = "Terminating"
	}
	ip := ""
	if len(o.Status.PodIPs) > 0 {
		ip = o.Status.PodIPs[0].IP
	}
	return []any{
		o.Name, fmt.Sprintf("%d/%d", v.ready, v.total), v.reason, v.restarts.cell(now), age(o, now),
		orText(ip, noCell), orText(o.Spec.NodeName, noCell), orText(o.Status.NominatedNodeName, noCell), gatesCell(o),
	}
}

// initContainers looks at the init containers up to the first that has not done its work.
func (v *podView) initContainers(o *corev1.Pod) {
	sidecars := map[string]bool{}
	for i := range o.Spec.InitContainers {
		c := &o.Spec.InitContainers[i]
		if sidecars[c.Name] = isSidecar(c); sidecars[c.Name] {
			v.total++
		}
	}
	for i := range o.Status.InitContainerStatuses {
		s := &o.Status.InitContainerStatuses[i]
		v.restarts.add(s)
		if sidecars[s.Name] {
			v.sidecars.add(s)
		}
		ended, waiting := s.State.Terminated, s.State.Waiting
		switch {
		case ended != nil && ended.ExitCode == 0:
			continue
		case sidecars[s.Name] && ptr.Deref(s.Started, false):
			if s.Ready {
				v.ready++
			}
			continue
		case ended != nil:
			v.reason = "Init:" + endReason(ended)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			v.reason = "Init:" + waiting.Reason
		default:
			v.reason = fmt.Sprintf("Init:%d/%d", i, len(o.Spec.InitContainers))
		}
		v.initializing = true
		return
	}
}

// containers looks at the containers. The first has the last word.
func (v *podView) containers(o *corev1.Pod) {
	v.restarts = v.sidecars
	running, failure := false, ""
	for i := len(o.Status.ContainerStatuses) - 1; i >= 0; i-- {
		s := &o.Status.ContainerStatuses[i]
		v.restarts.add(s)
		ended, waiting := s.State.Terminated, s.State.Waiting
		switch {
		case waiting != nil && waiting.Reason != "":
			v.reason = waiting.Reason
		case ended != nil:
			v.reason = endReason(ended)
			if ended.ExitCode != 0 {
				failure = v.reason
			}
		case s.Ready && s.State.Running != nil:
			running = true
			v.ready++
		}
	}
	if v.reason != "Completed" {
		return
	}
	switch {
	case running && conditionTrue(o, corev1.PodReady):
		v.reason = "Running"
	case failure != "":
		v.reason = failure
	case running:
		v.reason = "NotReady"
	}
}

// endReason says why a container ended.
func endReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func conditionTrue(o *corev1.Pod, t corev1.PodConditionType) bool {
	for i := range o.Status.Conditions {
		if c := &o.Status.Conditions[i]; c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// gatesCell counts the readiness gates that are open.
func gatesCell(o *corev1.Pod) string {
	if len(o.Spec.ReadinessGates) == 0 {
		return noCell
	}
	open := 0
	for _, g := range o.Spec.ReadinessGates {
		if conditionTrue(o, g.ConditionType) {
			open++
		}
	}
	return fmt.Sprintf("%d/%d", open, len(o.Spec.ReadinessGates))
}

// isSidecar says that an init container goes on running beside the others.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
