package workers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// sweepEvery is the time between searches for what belongs to no pod.
const sweepEvery = time.Minute

// sweep ends what the runtime and the node have of pods that nobody knows: they were deleted while the agent was away, or by force.
func (ws *Workers) sweep(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-ws.synced:
	}
	for ctx.Err() == nil {
		ws.adopt(ctx)
		ws.sweepCgroups()
		if sleep(ctx, ws.cfg.Clock, sweepEvery) != nil {
			return
		}
	}
}

// adopt makes workers for pods of the runtime that are not known, which end them.
func (ws *Workers) adopt(ctx context.Context) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	boxes, err := ws.cfg.Runtime.ListPodSandbox(call, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return
	}
	list, err := ws.cfg.Runtime.ListContainers(call, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return
	}
	orphans := map[types.UID]*corev1.Pod{}
	found := func(labels map[string]string) *corev1.Pod {
		uid, ok := owner(labels)
		if !ok || ws.wakeUp(uid) {
			return nil
		}
		if orphans[uid] == nil {
			orphans[uid] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: labels[labelName], Namespace: labels[labelNamespace], UID: uid}}
		}
		return orphans[uid]
	}
	for _, b := range boxes.Items {
		found(b.Labels)
	}
	for _, c := range list.Containers {
		if p := found(c.Labels); p != nil {
			if s := c.Annotations[annotationGrace]; s != "" {
				p.Spec.TerminationGracePeriodSeconds = ptr.To(int64(parseInt(s)))
			}
		}
	}
	for _, p := range orphans {
		ws.bury(p)
	}
}

// bury makes a worker for a pod that is gone from its source.
func (ws *Workers) bury(p *corev1.Pod) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.workers[p.UID] != nil || ws.ctx == nil {
		return
	}
	ws.log.Info("pod is not known any more: it is stopped", podFields(p, nil)...)
	w := newWorker(ws, p)
	w.spec.removed = true
	ws.workers[p.UID] = w
	ws.launch(w)
}

// sweepCgroups removes cgroups of pods that are not known.
func (ws *Workers) sweepCgroups() {
	uids, err := ws.cfg.Cgroups.Orphans(func(uid types.UID) bool {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		return ws.workers[uid] != nil
	})
	if err != nil {
		ws.log.Warn("cgroups cannot be listed", podFields(&corev1.Pod{}, err)...)
		return
	}
	for _, uid := range uids {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}
		if err := ws.cfg.Cgroups.Remove(uid); err != nil {
			ws.log.Warn("cgroup of a pod that is gone cannot be removed", podFields(p, err)...)
		}
		if err := ws.cfg.Volumes.Teardown(context.Background(), uid); err != nil {
			ws.log.Warn("volumes of a pod that is gone cannot be removed", podFields(p, err)...)
		}
	}
}
