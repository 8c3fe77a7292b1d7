package workers

import (
	"context"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
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
	for _, told := range []chan struct{}{ws.synced, ws.read} {
		select {
		case <-ctx.Done():
			return
		case <-told:
		}
	}
	for cleaned := false; ctx.Err() == nil; {
		if ws.adopt(ctx) && !cleaned {
			cleaned = ws.cleanVolumes(ctx)
		}
		if sleep(ctx, ws.cfg.Clock, sweepEvery) != nil {
			return
		}
	}
}

// cleanVolumes takes away what is mounted for no pod at all: the pods themselves have workers now, which end what they use first.
func (ws *Workers) cleanVolumes(ctx context.Context) bool {
	err := ws.cfg.Volumes.CleanOrphans(ctx, ws.has)
	if err != nil && ctx.Err() == nil {
		ws.log.Warn("volumes that no pod has cannot be removed", zap.Error(err))
	}
	return err == nil
}

// adopt makes workers for pods that are not known and that something is left of. The workers end them. It is false if the runtime
// did not answer.
func (ws *Workers) adopt(ctx context.Context) bool {
	orphans := map[types.UID]*corev1.Pod{}
	found := func(uid types.UID, namespace, name string) *corev1.Pod {
		if uid == "" || ws.wakeUp(uid) {
			return nil
		}
		p := orphans[uid]
		if p == nil {
			p = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}
			orphans[uid] = p
		}
		set(&p.Namespace, namespace)
		set(&p.Name, name)
		return p
	}
	if !ws.searchRuntime(ctx, found) {
		return false
	}
	ws.searchDisk(found)
	uids, err := ws.cfg.Cgroups.Orphans(func(uid types.UID) bool { return ws.wakeUp(uid) })
	if err != nil {
		ws.log.Warn("cgroups cannot be listed", zap.Error(err))
	}
	for _, uid := range uids {
		found(uid, "", "")
	}
	for _, p := range orphans {
		ws.bury(p)
	}
	return true
}

// finder notes a pod that something is left of; nil if it is known.
type finder func(uid types.UID, namespace, name string) *corev1.Pod

func (ws *Workers) searchRuntime(ctx context.Context, found finder) bool {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	boxes, err := ws.cfg.Runtime.ListPodSandbox(call, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return false
	}
	list, err := ws.cfg.Runtime.ListContainers(call, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return false
	}
	for _, b := range boxes.Items {
		found(types.UID(b.Labels[labelUID]), b.Labels[labelNamespace], b.Labels[labelName])
	}
	for _, c := range list.Containers {
		if p := found(types.UID(c.Labels[labelUID]), c.Labels[labelNamespace], c.Labels[labelName]); p != nil {
			if s := c.Annotations[annotationGrace]; s != "" {
				p.Spec.TerminationGracePeriodSeconds = ptr.To(int64(parseInt(s)))
			}
		}
	}
	return true
}

// searchDisk looks at the directories of pods and at those of their logs, whose names are namespace_name_uid.
func (ws *Workers) searchDisk(found finder) {
	dirs, _ := os.ReadDir(ws.cfg.Dir)
	for _, d := range dirs {
		if d.IsDir() {
			found(types.UID(d.Name()), "", "")
		}
	}
	logs, _ := os.ReadDir(ws.cfg.Logs)
	for _, d := range logs {
		if parts := strings.Split(d.Name(), "_"); d.IsDir() && len(parts) == 3 {
			found(types.UID(parts[2]), parts[0], parts[1])
		}
	}
}

// bury makes a worker for a pod that is gone from its source.
func (ws *Workers) bury(p *corev1.Pod) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.workers[p.UID] != nil || ws.ctx == nil {
		return
	}
	ws.metrics.orphans.Inc()
	ws.log.Info("pod is not known any more: it is stopped", podFields(p, nil)...)
	w := newWorker(ws, p)
	w.spec.removed = true
	ws.workers[p.UID] = w
	ws.launch(w)
}
