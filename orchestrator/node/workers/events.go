package workers

import (
	"fmt"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
)

// Reasons of events.
const (
	eventPulling       = "Pulling"
	eventPulled        = "Pulled"
	eventFailed        = "Failed"
	eventCreated       = "Created"
	eventStarted       = "Started"
	eventKilling       = "Killing"
	eventBackOff       = "BackOff"
	eventPostStart     = "FailedPostStartHook"
	eventPreStop       = "FailedPreStopHook"
	eventMount         = "FailedMount"
	eventSandbox       = "FailedCreatePodSandBox"
	eventSandboxGone   = "SandboxChanged"
	eventKillPod       = "FailedKillPod"
	eventDeadline      = "DeadlineExceeded"
	eventNoPullSecret  = "FailedToRetrieveImagePullSecret"
	eventResizeStarted = "ResizeStarted"
	eventResizeDone    = "ResizeCompleted"
	eventResizeError   = "ResizeError"
	eventResizeLater   = "ResizeDeferred"
	eventResizeNever   = "ResizeInfeasible"
)

// event tells users what happened to a pod, or to one of its containers if c is not nil.
func (ws *Workers) event(p *corev1.Pod, c *corev1.Container, kind, reason, format string, args ...any) {
	ref := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}
	if m := ws.mirrors.of(p); m != nil { // users see the mirror, not the file
		ref.UID = m.UID
	}
	if c != nil {
		ref.FieldPath = fieldPath(p, c.Name)
	}
	ws.cfg.Events.Eventf(ref, kind, reason, format, args...)
}

func fieldPath(p *corev1.Pod, name string) string {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return fmt.Sprintf("spec.initContainers{%s}", name)
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return fmt.Sprintf("spec.ephemeralContainers{%s}", name)
		}
	}
	return fmt.Sprintf("spec.containers{%s}", name)
}

func podFields(p *corev1.Pod, err error) []zap.Field {
	f := []zap.Field{zap.String("namespace", p.Namespace), zap.String("pod", p.Name), zap.String("uid", string(p.UID))}
	if err != nil {
		f = append(f, zap.Error(err))
	}
	return f
}
