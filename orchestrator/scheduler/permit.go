package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// waitingPod has a node, and waits for Permit plugins.
type waitingPod struct {
	pod     *v1.Pod
	pending map[string]time.Duration
	// answer takes one status.
	answer chan *framework.Status
}

// waiting are the pods that Permit plugins let wait.
type waiting struct {
	clock clock.Clock
	mu    sync.Mutex
	pods  map[types.UID]*waitingPod
}

func newWaiting(c clock.Clock) *waiting { return &waiting{clock: c, pods: map[types.UID]*waitingPod{}} }

func (w *waiting) add(pod *v1.Pod, waits map[string]time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[pod.UID] = &waitingPod{pod: pod, pending: waits, answer: make(chan *framework.Status, 1)}
}

// wait returns success once all plugins allowed the pod.
func (w *waiting) wait(ctx context.Context, uid types.UID) *framework.Status {
	w.mu.Lock()
	p := w.pods[uid]
	plugin, least := "", time.Duration(0)
	for name, d := range p.pending {
		if plugin == "" || d < least || d == least && name < plugin {
			plugin, least = name, d
		}
	}
	w.mu.Unlock()
	timer := w.clock.NewTimer(least)
	defer timer.Stop()
	defer w.drop(uid)
	select {
	case st := <-p.answer:
		return st
	case <-timer.C():
		return framework.NewStatus(framework.Unschedulable, fmt.Sprintf("rejected due to timeout after waiting %v at plugin %v", least, plugin)).By(plugin)
	case <-ctx.Done():
		return framework.AsStatus(ctx.Err())
	}
}

func (w *waiting) drop(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, uid)
}

// allow takes one plugin off those that a pod waits for.
func (w *waiting) allow(uid types.UID, plugin string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pods[uid]
	if p == nil {
		return false
	}
	if delete(p.pending, plugin); len(p.pending) == 0 {
		p.tell(nil)
	}
	return true
}

// reject ends a pod's waiting.
func (w *waiting) reject(uid types.UID, st *framework.Status) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pods[uid]
	return p != nil && p.tell(st)
}

func (p *waitingPod) tell(st *framework.Status) bool {
	select {
	case p.answer <- st:
		return true
	default:
		return false
	}
}

// Waiting lists the pods that wait for Permit plugins.
func (s *Scheduler) Waiting() []*v1.Pod {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	var out []*v1.Pod
	for _, p := range s.waiting.pods {
		out = append(out, p.pod)
	}
	return out
}

// Allow tells that a Permit plugin no longer lets a pod wait. It returns false if the pod does not wait.
func (s *Scheduler) Allow(pod types.UID, plugin string) bool { return s.waiting.allow(pod, plugin) }

// Reject tells that a Permit plugin rejects a pod that waits. It returns false if the pod does not wait.
func (s *Scheduler) Reject(pod types.UID, plugin, message string) bool {
	return s.waiting.reject(pod, framework.NewStatus(framework.Unschedulable, message).By(plugin))
}
