package scheduler

import (
	"context"
	"encoding/json"
	"sync"

	"go.uber.org/zap"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// statusChange is what a pod's status shall say.
type statusChange struct {
	// condition is nil if no condition is to change.
	condition *v1.PodCondition
	// nominated is nil if the nomination is to stay.
	nominated *string
}

// over puts a newer change over an older one.
func (c statusChange) over(old statusChange) statusChange {
	if c.condition == nil {
		c.condition = old.condition
	}
	if c.nominated == nil {
		c.nominated = old.nominated
	}
	return c
}

type statusWrite struct {
	pod    *v1.Pod
	change statusChange
	// queued tells that change is not written yet.
	queued bool
	done   chan struct{}
}

// statusWriter writes pods' statuses: for each pod one at a time and the newest only.
type statusWriter struct {
	s     *Scheduler
	mu    sync.Mutex
	write map[types.UID]*statusWrite
}

func newStatusWriter(s *Scheduler) *statusWriter {
	return &statusWriter{s: s, write: map[types.UID]*statusWrite{}}
}

// put has a change written.
func (w *statusWriter) put(ctx context.Context, pod *v1.Pod, c statusChange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.write[pod.UID]; p != nil {
		if p.queued {
			c = c.over(p.change)
		}
		p.pod, p.change, p.queued = pod, c, true
		return
	}
	if statusPatch(pod, c, metav1.Time{}) == nil {
		return
	}
	p := &statusWrite{pod: pod, change: c, queued: true, done: make(chan struct{})}
	w.write[pod.UID] = p
	w.s.write(func() { w.work(ctx, p) })
}

// work writes until there is nothing newer.
func (w *statusWriter) work(ctx context.Context, p *statusWrite) {
	defer close(p.done)
	for {
		w.mu.Lock()
		if !p.queued {
			delete(w.write, p.pod.UID)
			w.mu.Unlock()
			return
		}
		pod, change := p.pod, p.change
		p.queued = false
		w.mu.Unlock()
		w.s.patchStatus(ctx, pod, change)
	}
}

// settle drops what is not written yet, and waits for what is being written.
func (w *statusWriter) settle(uid types.UID) {
	w.mu.Lock()
	p := w.write[uid]
	if p != nil {
		p.queued = false
	}
	w.mu.Unlock()
	if p != nil {
		<-p.done
	}
}

func (s *Scheduler) patchStatus(ctx context.Context, pod *v1.Pod, c statusChange) {
	patch := statusPatch(pod, c, metav1.NewTime(s.clock.Now()))
	if patch == nil {
		return
	}
	_, err := s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.log.Warn("writing a pod's status failed", zap.String("pod", pod.Namespace+"/"+pod.Name), zap.Error(err))
	}
}

// statusPatch is nil if the pod's status says so already.
func statusPatch(pod *v1.Pod, c statusChange, now metav1.Time) []byte {
	status := map[string]any{}
	if c.condition != nil {
		condition := *c.condition
		condition.LastTransitionTime = now
		if old := conditionOf(pod, condition.Type); old != nil && old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
			condition.LastProbeTime = old.LastProbeTime
		}
		if old := conditionOf(pod, condition.Type); old == nil || !sameCondition(old, &condition) {
			status["conditions"] = []v1.PodCondition{condition}
		}
	}
	if c.nominated != nil && *c.nominated != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = *c.nominated
		if *c.nominated == "" {
			status["nominatedNodeName"] = nil
		}
	}
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return nil
	}
	return patch
}

func conditionOf(pod *v1.Pod, t v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func sameCondition(a, b *v1.PodCondition) bool {
	return a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message && a.ObservedGeneration == b.ObservedGeneration
}
