package hollow

import (
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// step returns the next status of a pod, nil if it stays as it is, and after how long to look again, 0 for never.
func (n *Nodes) step(p *corev1.Pod) (*corev1.PodStatus, time.Duration) {
	switch p.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		return nil, 0
	case corev1.PodRunning:
		left, over := n.left(p)
		if over != nil && left <= 0 {
			return over(p), 0
		}
		return n.observed(p), left
	}
	s := n.started(p)
	left, _ := n.left(p)
	return s, left
}

// left is for how long a running pod has still to run, and what becomes of it then; over is nil if it runs for ever.
func (n *Nodes) left(p *corev1.Pod) (left time.Duration, over func(*corev1.Pod) *corev1.PodStatus) {
	var d time.Duration
	if p.Spec.RestartPolicy != corev1.RestartPolicyAlways && p.Spec.RestartPolicy != "" {
		var err error
		if d, err = time.ParseDuration(p.Annotations[runForAnnotation]); err == nil {
			over = n.ended
		}
	}
	if s := p.Spec.ActiveDeadlineSeconds; s != nil {
		if deadline := time.Duration(*s) * time.Second; over == nil || deadline < d {
			d, over = deadline, n.late
		}
	}
	if over == nil || p.Status.StartTime == nil {
		return d, over
	}
	return p.Status.StartTime.Add(d).Sub(n.cfg.Clock.Now()), over
}

// stopping is for how long the containers of a pod that is being deleted still need to stop.
func (n *Nodes) stopping(p *corev1.Pod) time.Duration {
	d, err := time.ParseDuration(p.Annotations[stopForAnnotation])
	if err != nil {
		return 0
	}
	grace := time.Duration(ptr.Deref(p.DeletionGracePeriodSeconds, 0)) * time.Second
	return p.DeletionTimestamp.Add(min(d, grace) - grace).Sub(n.cfg.Clock.Now())
}

func (n *Nodes) address(uid string) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.addresses[uid]
	if !ok {
		a = n.next
		n.next = n.next.Next()
		n.addresses[uid] = a
	}
	return a
}

func (n *Nodes) started(p *corev1.Pod) *corev1.PodStatus {
	now := metav1.Time{Time: n.cfg.Clock.Now().Truncate(time.Second)}
	s := p.Status.DeepCopy()
	s.Phase, s.StartTime, s.ObservedGeneration = corev1.PodRunning, &now, p.Generation
	ip := n.address(string(p.UID)).String()
	s.PodIP, s.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	i, _ := n.index(p.Spec.NodeName)
	s.HostIP = nodeAddress(i)
	s.HostIPs = []corev1.HostIP{{IP: s.HostIP}}
	ready := p.Annotations[neverReadyAnnotation] != "true"
	s.InitContainerStatuses, s.ContainerStatuses = nil, nil
	for _, c := range p.Spec.InitContainers {
		if ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
			s.InitContainerStatuses = append(s.InitContainerStatuses, running(p, &c, ready, now))
			continue
		}
		s.InitContainerStatuses = append(s.InitContainerStatuses, terminated(p, &c, 0, now, now))
	}
	for _, c := range p.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, running(p, &c, ready, now))
	}
	reason := ""
	if !ready {
		reason = "ContainersNotReady"
	}
	setConditions(s, now, ready, true, reason)
	return s
}

// observed is the status of a running pod after a change of its spec, nil if there was none.
func (n *Nodes) observed(p *corev1.Pod) *corev1.PodStatus {
	if p.Status.ObservedGeneration == p.Generation {
		return nil
	}
	now := metav1.Time{Time: n.cfg.Clock.Now().Truncate(time.Second)}
	s := p.Status.DeepCopy()
	s.ObservedGeneration = p.Generation
	for i, c := range p.Spec.Containers {
		if i < len(s.ContainerStatuses) && s.ContainerStatuses[i].Image != c.Image {
			restarts := s.ContainerStatuses[i].RestartCount + 1
			s.ContainerStatuses[i] = running(p, &c, s.ContainerStatuses[i].Ready, now)
			s.ContainerStatuses[i].RestartCount = restarts
		}
	}
	for i := len(s.EphemeralContainerStatuses); i < len(p.Spec.EphemeralContainers); i++ {
		e := corev1.Container(p.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, running(p, &e, false, now))
	}
	for i := range s.Conditions {
		if s.Conditions[i].Type != corev1.PodScheduled {
			s.Conditions[i].ObservedGeneration = p.Generation
		}
	}
	return s
}

// ended is the status of a pod whose containers end by themselves.
func (n *Nodes) ended(p *corev1.Pod) *corev1.PodStatus {
	code, _ := strconv.ParseInt(p.Annotations[exitCodeAnnotation], 10, 32) // absent: 0
	return n.over(p, int32(code))
}

// killed is the exit code of containers that are killed.
const killed = 137

// late is the status of a pod that was killed at its active deadline.
func (n *Nodes) late(p *corev1.Pod) *corev1.PodStatus {
	s := n.over(p, killed)
	s.Reason, s.Message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	return s
}

func (n *Nodes) over(p *corev1.Pod, code int32) *corev1.PodStatus {
	now := metav1.Time{Time: n.cfg.Clock.Now().Truncate(time.Second)}
	s := p.Status.DeepCopy()
	s.Phase, s.ObservedGeneration = corev1.PodSucceeded, p.Generation
	reason := "PodCompleted"
	if code != 0 {
		s.Phase, reason = corev1.PodFailed, "PodFailed"
	}
	begun := ptr.Deref(s.StartTime, now)
	for i := range s.ContainerStatuses {
		s.ContainerStatuses[i] = terminated(p, &p.Spec.Containers[i], code, begun, now)
	}
	setConditions(s, now, false, true, reason)
	return s
}

func containerID(p *corev1.Pod, name string) string { return "hollow://" + string(p.UID) + "/" + name }

func running(p *corev1.Pod, c *corev1.Container, ready bool, since metav1.Time) corev1.ContainerStatus {
	return corev1.ContainerStatus{
		Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: containerID(p, c.Name), Ready: ready, Started: ptr.To(true),
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: since}},
	}
}

func terminated(p *corev1.Pod, c *corev1.Container, code int32, from, to metav1.Time) corev1.ContainerStatus {
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	return corev1.ContainerStatus{
		Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: containerID(p, c.Name), Ready: code == 0, Started: ptr.To(false),
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: code, Reason: reason, StartedAt: from, FinishedAt: to, ContainerID: containerID(p, c.Name),
		}},
	}
}

// setConditions sets the conditions that a node sets; others stay.
func setConditions(s *corev1.PodStatus, now metav1.Time, ready, initialized bool, reason string) {
	for _, c := range []struct {
		t      corev1.PodConditionType
		is     bool
		reason string
	}{
		{corev1.PodReadyToStartContainers, true, ""}, {corev1.PodInitialized, initialized, ""},
		{corev1.PodReady, ready, reason}, {corev1.ContainersReady, ready, reason},
	} {
		status := corev1.ConditionFalse
		if c.is {
			status = corev1.ConditionTrue
		}
		set(s, corev1.PodCondition{Type: c.t, Status: status, Reason: c.reason, LastTransitionTime: now, ObservedGeneration: s.ObservedGeneration})
	}
}

func set(s *corev1.PodStatus, c corev1.PodCondition) {
	for i := range s.Conditions {
		have := &s.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		*have = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}
