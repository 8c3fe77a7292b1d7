package hollow

import (
	"cmp"
	"net/netip"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// said is what an annotation says of a pod: for a pod of a job's index the one with that index behind it, if there is one.
func said(p *corev1.Pod, key string) string {
	if index, ok := p.Annotations[batchv1.JobCompletionIndexAnnotation]; ok {
		if v, ok := p.Annotations[key+"."+index]; ok {
			return v
		}
	}
	return p.Annotations[key]
}

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
	if n.portTaken(p) {
		return n.rejected(p), 0
	}
	s := n.started(p)
	left, _ := n.left(&corev1.Pod{ObjectMeta: p.ObjectMeta, Spec: p.Spec, Status: *s})
	return s, left
}

// left is for how long a running pod still stays as it is, and what becomes of it then; over is nil if it stays so for ever.
func (n *Nodes) left(p *corev1.Pod) (left time.Duration, over func(*corev1.Pod) *corev1.PodStatus) {
	var at time.Time
	d, err := time.ParseDuration(said(p, runForAnnotation))
	switch restarts := p.Spec.RestartPolicy == corev1.RestartPolicyAlways || p.Spec.RestartPolicy == ""; {
	case len(p.Status.ContainerStatuses) == 0:
	case p.Status.ContainerStatuses[0].State.Waiting != nil:
		at, over = restartAt(&p.Status.ContainerStatuses[0]), n.restarted
	case !restarts && err == nil && p.Status.ContainerStatuses[0].State.Running != nil:
		at, over = p.Status.ContainerStatuses[0].State.Running.StartedAt.Add(d), n.ended
	}
	if s := p.Spec.ActiveDeadlineSeconds; s != nil && p.Status.StartTime != nil {
		if deadline := p.Status.StartTime.Add(time.Duration(*s) * time.Second); over == nil || deadline.Before(at) {
			at, over = deadline, n.late
		}
	}
	if over == nil {
		return 0, nil
	}
	return at.Sub(n.cfg.Clock.Now()), over
}

// Delays of the restart of containers that failed again, doubling. The first restart is at once.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 5 * time.Minute
)

// restartAt is when a container that failed starts again.
func restartAt(c *corev1.ContainerStatus) time.Time {
	var end time.Time
	if t := c.LastTerminationState.Terminated; t != nil {
		end = t.FinishedAt.Time
	}
	switch n := c.RestartCount; {
	case n == 0:
		return end
	case n < 6:
		return end.Add(min(firstBackoff<<(n-1), lastBackoff))
	}
	return end.Add(lastBackoff)
}

// stopping is for how long the containers of a pod that is being deleted still need to stop.
func (n *Nodes) stopping(p *corev1.Pod) time.Duration {
	d, err := time.ParseDuration(said(p, stopForAnnotation))
	if err != nil {
		return 0
	}
	grace := time.Duration(ptr.Deref(p.DeletionGracePeriodSeconds, 0)) * time.Second
	return p.DeletionTimestamp.Add(min(d, grace) - grace).Sub(n.cfg.Clock.Now())
}

// stopped is the status of a pod whose containers were stopped because it is being deleted; nil: it is as it should be. Only
// that of pods that somebody holds back is written: nobody would see that of the others.
func (n *Nodes) stopped(p *corev1.Pod) *corev1.PodStatus {
	if n.cfg.Unstarted || len(p.Finalizers) == 0 || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	return n.over(p, killed)
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
	ready := canBeReady(p)
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
	setReady(s, now, ready)
	return s
}

// canBeReady says whether the containers of a pod are ready while they run.
func canBeReady(p *corev1.Pod) bool { return said(p, neverReadyAnnotation) != "true" }

// setReady sets the conditions of a pod whose containers run, or will run again.
func setReady(s *corev1.PodStatus, now metav1.Time, ready bool) {
	reason := ""
	if !ready {
		reason = "ContainersNotReady"
	}
	setConditions(s, now, ready, true, reason)
}

// observed is the status of a running pod after a change of its spec or of its readiness, nil if there was none.
func (n *Nodes) observed(p *corev1.Pod) *corev1.PodStatus {
	ready, turned := canBeReady(p), false
	for _, c := range p.Status.ContainerStatuses {
		turned = turned || c.State.Running != nil && c.Ready != ready
	}
	if p.Status.ObservedGeneration == p.Generation && !turned {
		return nil
	}
	now := metav1.Time{Time: n.cfg.Clock.Now().Truncate(time.Second)}
	s := p.Status.DeepCopy()
	s.ObservedGeneration = p.Generation
	if turned {
		for i := range s.ContainerStatuses {
			s.ContainerStatuses[i].Ready = ready
		}
		setReady(s, now, ready)
	}
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
	code := exitCode(p)
	if code != 0 && p.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
		return n.crashed(p, code)
	}
	return n.over(p, code)
}

// exitCode is the code with which containers end by themselves.
func exitCode(p *corev1.Pod) int32 {
	code, _ := strconv.ParseInt(said(p, exitCodeAnnotation), 10, 32) // absent: 0
	first, err := strconv.ParseInt(said(p, failFirstAnnotation), 10, 32)
	switch {
	case err != nil:
		return int32(code)
	case int64(p.Status.ContainerStatuses[0].RestartCount) < first:
		return int32(cmp.Or(code, 1))
	}
	return 0
}

// crashed is the status of a pod whose containers failed and will be restarted.
func (n *Nodes) crashed(p *corev1.Pod, code int32) *corev1.PodStatus {
	now := metav1.Time{Time: n.cfg.Clock.Now().Truncate(time.Second)}
	s := p.Status.DeepCopy()
	for i := range s.ContainerStatuses {
		c := &s.ContainerStatuses[i]
		end := terminated(p, &p.Spec.Containers[i], code, ptr.Deref(c.State.Running, corev1.ContainerStateRunning{}).StartedAt, now)
		c.LastTerminationState, c.Ready, c.Started = end.State, false, ptr.To(false)
		c.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "restarting failed container " + c.Name}}
	}
	setReady(s, now, false)
	return s
}

// restarted is the status of a pod whose containers start again.
func (n *Nodes) restarted(p *corev1.Pod) *corev1.PodStatus {
	now, ready := metav1.Time{Time: n.cfg.Clock.Now().Truncate(time.Second)}, canBeReady(p)
	s := p.Status.DeepCopy()
	for i := range s.ContainerStatuses {
		before := s.ContainerStatuses[i]
		c := running(p, &p.Spec.Containers[i], ready, now)
		c.RestartCount, c.LastTerminationState = before.RestartCount+1, before.LastTerminationState
		s.ContainerStatuses[i] = c
	}
	setReady(s, now, ready)
	return s
}

// portTaken says whether a pod that has not started asks for a port of its node that a pod there has.
func (n *Nodes) portTaken(p *corev1.Pod) bool {
	want := hostPorts(p)
	if len(want) == 0 {
		return false
	}
	for _, x := range n.pods.GetIndexer().List() {
		o := x.(*corev1.Pod)
		if o.Spec.NodeName != p.Spec.NodeName || o.UID == p.UID || o.Status.Phase != corev1.PodRunning {
			continue
		}
		for _, b := range hostPorts(o) {
			for _, a := range want {
				anyAddress := a.HostIP == "" || a.HostIP == "0.0.0.0" || b.HostIP == "" || b.HostIP == "0.0.0.0"
				if a.HostPort == b.HostPort && a.Protocol == b.Protocol && (anyAddress || a.HostIP == b.HostIP) {
					return true
				}
			}
		}
	}
	return false
}

// hostPorts are the ports of its node that a pod has.
func hostPorts(p *corev1.Pod) (out []corev1.ContainerPort) {
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort != 0 {
				out = append(out, port)
			}
		}
	}
	return out
}

// rejected is the status of a pod that its node does not admit.
func (n *Nodes) rejected(p *corev1.Pod) *corev1.PodStatus {
	now := metav1.Time{Time: n.cfg.Clock.Now().Truncate(time.Second)}
	s := p.Status.DeepCopy()
	s.Phase, s.StartTime, s.ObservedGeneration = corev1.PodFailed, &now, p.Generation
	s.Reason, s.Message = "NodePorts", "Pod was rejected: Predicate NodePorts failed: a host port is taken"
	return s
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
		before := s.ContainerStatuses[i]
		c := terminated(p, &p.Spec.Containers[i], code, begun, now)
		c.RestartCount, c.LastTerminationState, c.Ready = before.RestartCount, before.LastTerminationState, false
		s.ContainerStatuses[i] = c
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
