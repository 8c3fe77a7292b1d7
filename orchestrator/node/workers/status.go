package workers

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
)

// report is all that a pod's status is made of.
type report struct {
	view
	acts     actions
	runtime  string // its name, as prefix of IDs
	hostIPs  []string
	failures map[string]failure // by name of container: why it was not started
	ready    map[string]bool    // by container ID: what its readiness probe says; without a probe, true
	verdict  *Verdict
	ending   bool // nothing is started any more
	ended    bool // and nothing runs
	resize   resizeState
}

// Messages of containers whose end nobody saw.
const (
	reasonUnknown  = "ContainerStatusUnknown"
	unknownMessage = "The container could not be located when the pod was terminated"
	lostMessage    = "The container could not be located when the pod was deleted.  The container used to be Running"
)

// status is the pod's status. It is a function of the report; conditions that others own stay as the last status has them.
func (r *report) status() corev1.PodStatus {
	s := *r.last.DeepCopy()
	s.ObservedGeneration = r.pod.Generation
	s.QOSClass = cgroup.QOS(r.pod)
	if s.StartTime == nil {
		s.StartTime = &metav1.Time{Time: r.now.Truncate(time.Second)}
	}
	r.addresses(&s)
	p := r.pod
	s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses = nil, nil, nil
	for i := range p.Spec.InitContainers {
		s.InitContainerStatuses = append(s.InitContainerStatuses, r.container(&p.Spec.InitContainers[i], initial))
	}
	for i := range p.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, r.container(&p.Spec.Containers[i], regular))
	}
	for i := range p.Spec.EphemeralContainers {
		s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, r.container((*corev1.Container)(&p.Spec.EphemeralContainers[i].EphemeralContainerCommon), ephemeral))
	}
	if r.ended {
		r.accountForAll(&s)
	}
	s.Phase = r.phase(&s)
	if r.verdict != nil {
		s.Reason, s.Message = r.verdict.Reason, r.verdict.Message
	}
	r.conditions(&s)
	return s
}

func (r *report) addresses(s *corev1.PodStatus) {
	if len(r.hostIPs) > 0 {
		s.HostIP, s.HostIPs = r.hostIPs[0], nil
		for _, ip := range r.hostIPs {
			s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	ips := podIPs(r.pod, r.seen.sandbox(), r.hostIPs)
	if r.pod.Spec.HostNetwork && r.seen.sandbox() == nil && s.PodIP == "" {
		return
	}
	if len(ips) == 0 {
		return // an ended pod keeps the address that it had
	}
	s.PodIP, s.PodIPs = ips[0], nil
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
}

// container is the status of one container.
func (r *report) container(c *corev1.Container, k kind) corev1.ContainerStatus {
	list := r.seen.containers[c.Name]
	if len(list) == 0 {
		return r.absent(c, k)
	}
	cur := list[0]
	s := corev1.ContainerStatus{
		Name: c.Name, RestartCount: cur.attempt, Image: c.Image, ImageID: cur.status.ImageRef, ContainerID: r.id(cur), Started: ptr.To(false),
		StopSignal: signalName(cur.status.StopSignal), User: user(cur.status.User), VolumeMounts: mountStatuses(c, cur.status.Mounts),
	}
	if old := statusOf(&r.last, c.Name); old != nil { // what the runtime has lost does not go back
		s.RestartCount = max(s.RestartCount, old.RestartCount)
		s.AllocatedResourcesStatus = old.AllocatedResourcesStatus
	}
	if s.ImageID == "" {
		s.ImageID = cur.status.ImageId
	}
	if name := cur.status.GetImage().GetImage(); name != "" && !imageID.MatchString(name) {
		s.Image = name
	}
	if len(list) > 1 && list[1].exited() {
		s.LastTerminationState.Terminated = r.terminated(list[1])
	} else if old := statusOf(&r.last, c.Name); old != nil && old.ContainerID == s.ContainerID {
		s.LastTerminationState = old.LastTerminationState // of a container that is gone
	} else if old != nil && old.State.Terminated != nil {
		s.LastTerminationState = old.State
	}
	switch {
	case cur.running():
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.Time{Time: cur.started().Truncate(time.Second)}}
		s.Started = ptr.To(r.started[cur.id])
		s.Ready = k != ephemeral && r.started[cur.id] && (c.ReadinessProbe == nil || r.ready[cur.id])
		if k == initial && !sidecar(c) {
			s.Ready = false
		}
		s.AllocatedResources, s.Resources = c.Resources.Requests, actual(c, cur.status.Resources)
	case cur.exited():
		r.exited(&s, c, cur, k)
	case cur.state == runtimeapi.ContainerState_CONTAINER_CREATED:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reasonCreating}
		r.explain(&s, c)
	default:
		s.State.Terminated = &corev1.ContainerStateTerminated{Reason: reasonUnknown, Message: unknownMessage, ExitCode: killedExit, ContainerID: s.ContainerID}
	}
	return s
}

// exited fills in the state of a container that ended, and perhaps waits for its restart.
func (r *report) exited(s *corev1.ContainerStatus, c *corev1.Container, cur *container, k kind) {
	t := r.terminated(cur)
	s.Ready = k == initial && !sidecar(c) && cur.succeeded()
	s.State.Terminated = t
	if r.ending {
		return
	}
	_, waits := r.acts.waiting[c.Name]
	f, failed := r.failures[c.Name]
	var w *corev1.ContainerStateWaiting
	switch {
	case failed && (waits || r.starting(c.Name)):
		w = f.shown(r.pod, c.Name, r.now)
		if w.Reason == reasonCrashLoop {
			w.Message = crashLoop(r.pod, c.Name, cur.backOff)
		}
	case waits:
		w = &corev1.ContainerStateWaiting{Reason: reasonCrashLoop, Message: crashLoop(r.pod, c.Name, cur.backOff)}
	default:
		return
	}
	s.State = corev1.ContainerState{Waiting: w}
	s.LastTerminationState.Terminated = t
}

func crashLoop(p *corev1.Pod, name string, wait time.Duration) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", wait, name, podName(p))
}

func (r *report) starting(name string) bool {
	for _, s := range r.acts.starts {
		if s.container.Name == name {
			return true
		}
	}
	return false
}

// explain replaces the reason of a container that waits by what is known of why.
func (r *report) explain(s *corev1.ContainerStatus, c *corev1.Container) {
	if f, ok := r.failures[c.Name]; ok && s.State.Waiting != nil {
		s.State.Waiting = f.shown(r.pod, c.Name, r.now)
	}
}

// absent is the status of a container that the runtime has nothing of.
func (r *report) absent(c *corev1.Container, k kind) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: ptr.To(false)}
	waiting := &corev1.ContainerStateWaiting{Reason: reasonCreating}
	if len(r.pod.Spec.InitContainers) > 0 && k != ephemeral {
		waiting.Reason = reasonInitializing
	}
	s.State.Waiting = waiting
	old := statusOf(&r.last, c.Name)
	if old == nil {
		r.explain(&s, c)
		return s
	}
	s.RestartCount, s.LastTerminationState, s.ContainerID, s.ImageID = old.RestartCount, old.LastTerminationState, old.ContainerID, old.ImageID
	lost := &corev1.ContainerStateTerminated{Reason: reasonUnknown, Message: lostMessage, ExitCode: killedExit}
	switch {
	case old.State.Terminated != nil:
		s.State = old.State
		s.Ready = k == initial && !sidecar(c) && old.State.Terminated.ExitCode == 0
		if r.starting(c.Name) {
			s.State, s.LastTerminationState = corev1.ContainerState{Waiting: waiting}, old.State
		}
	case old.State.Running != nil && r.ending:
		s.State = corev1.ContainerState{Terminated: lost}
	case old.State.Running != nil:
		s.LastTerminationState = corev1.ContainerState{Terminated: lost}
	}
	r.explain(&s, c)
	return s
}

// accountForAll says of the containers of an ended pod that have no end known that they ended, if they ever could have run.
func (r *report) accountForAll(s *corev1.PodStatus) {
	if r.verdict != nil && r.verdict.rejected {
		s.ContainerStatuses, s.InitContainerStatuses = nil, nil
		return
	}
	if terminal(r.last.Phase) && len(r.seen.containers) == 0 { // all is said
		s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses = r.last.InitContainerStatuses, r.last.ContainerStatuses, r.last.EphemeralContainerStatuses
		return
	}
	unknown := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reasonUnknown, Message: unknownMessage, ExitCode: killedExit}}
	last := -1 // the last init container that came to run
	for i, c := range s.InitContainerStatuses {
		if c.State.Terminated != nil || c.LastTerminationState.Terminated != nil || c.State.Running != nil {
			last = i
		}
	}
	for i := range s.ContainerStatuses {
		if s.ContainerStatuses[i].ContainerID != "" {
			last = len(s.InitContainerStatuses) - 1
		}
	}
	initialized := last == len(s.InitContainerStatuses)-1
	for i := range s.InitContainerStatuses {
		c := &s.InitContainerStatuses[i]
		if i <= last && c.State.Terminated == nil {
			c.State, c.Ready, c.Started = unknown, false, ptr.To(false)
		}
		initialized = initialized && (c.Ready || sidecar(&r.pod.Spec.InitContainers[i]))
	}
	for i := range s.ContainerStatuses {
		if c := &s.ContainerStatuses[i]; initialized && c.State.Terminated == nil {
			c.State, c.Ready, c.Started = unknown, false, ptr.To(false)
		}
	}
	for i := range s.EphemeralContainerStatuses {
		if c := &s.EphemeralContainerStatuses[i]; c.State.Terminated == nil {
			c.State, c.Ready, c.Started = unknown, false, ptr.To(false)
		}
	}
}

func (r *report) id(c *container) string { return r.runtime + "://" + c.id }

func (r *report) terminated(c *container) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.status.ExitCode, Reason: c.status.Reason, Message: c.status.Message, ContainerID: r.id(c),
		StartedAt: metav1.Time{Time: c.started().Truncate(time.Second)}, FinishedAt: metav1.Time{Time: c.finished().Truncate(time.Second)},
	}
	if c.status.StartedAt == 0 {
		t.StartedAt = metav1.Time{Time: time.Unix(0, 0)}
	}
	if t.Reason == "" {
		t.Reason = "Completed"
		if t.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	if c.said != nil && *c.said != "" {
		if t.Message != "" {
			t.Message += ": "
		}
		t.Message += *c.said
	}
	return t
}

func user(u *runtimeapi.ContainerUser) *corev1.ContainerUser {
	l := u.GetLinux()
	if l == nil {
		return nil
	}
	return &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: l.Uid, GID: l.Gid, SupplementalGroups: l.SupplementalGroups}}
}

func mountStatuses(c *corev1.Container, mounts []*runtimeapi.Mount) (all []corev1.VolumeMountStatus) {
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			s.RecursiveReadOnly = ptr.To(corev1.RecursiveReadOnlyDisabled)
			for _, have := range mounts {
				if have.ContainerPath == m.MountPath && have.RecursiveReadOnly {
					s.RecursiveReadOnly = ptr.To(corev1.RecursiveReadOnlyEnabled)
				}
			}
		}
		all = append(all, s)
	}
	return all
}

// phase sums the containers up. A pod has an end only when nothing of it runs.
func (r *report) phase(s *corev1.PodStatus) corev1.PodPhase {
	if p := r.last.Phase; p == corev1.PodSucceeded || p == corev1.PodFailed {
		return p
	}
	if !r.ended {
		if p := r.alivePhase(s); !r.ending || r.last.Phase == "" {
			return p
		}
		return r.last.Phase
	}
	if r.verdict != nil {
		return corev1.PodFailed
	}
	for i, c := range s.InitContainerStatuses {
		if t := c.State.Terminated; !sidecar(&r.pod.Spec.InitContainers[i]) && (t == nil || t.ExitCode != 0) {
			return corev1.PodFailed
		}
	}
	for _, c := range s.ContainerStatuses {
		if t := c.State.Terminated; t == nil || t.ExitCode != 0 {
			return corev1.PodFailed
		}
	}
	return corev1.PodSucceeded
}

func (r *report) alivePhase(s *corev1.PodStatus) corev1.PodPhase {
	if !r.acts.initialized && !everRan(s) {
		return corev1.PodPending
	}
	for _, c := range s.ContainerStatuses {
		if c.State.Waiting != nil && c.LastTerminationState.Terminated == nil {
			return corev1.PodPending
		}
	}
	return corev1.PodRunning
}

// everRan is whether every container of the pod has run.
func everRan(s *corev1.PodStatus) bool {
	for _, c := range s.ContainerStatuses {
		if c.ContainerID == "" {
			return false
		}
	}
	return true
}

// uidOf is the UID under which the API server knows a pod.
func (ws *Workers) uidOf(p *corev1.Pod) types.UID {
	if m := ws.mirrors.of(p); m != nil {
		return m.UID
	}
	return p.UID
}
