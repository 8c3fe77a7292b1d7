package workers

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// outbox holds the status that is to be written.
type outbox struct {
	want    *corev1.PodStatus // the latest
	writing bool
	written bool // want is on the API server
}

const (
	writePause    = 200 * time.Millisecond // after the first write that failed
	maxWritePause = 10 * time.Second
)

// publish has the status of a living pod written.
func (w *worker) publish(ctx context.Context, g glance, acts actions) {
	s := w.report(g, acts).status()
	w.measureStart(g.pod, &g.last, &s)
	w.offer(ctx, s)
}

// publishEnding has the status of an ending pod written; final says that nothing runs any more. It returns whether the status is
// on the API server.
func (w *worker) publishEnding(ctx context.Context, g glance, acts actions, final bool) bool {
	if g.removed {
		return true
	}
	r := w.report(g, acts)
	r.ending, r.ended = true, final
	return w.offer(ctx, r.status())
}

func (w *worker) report(g glance, acts actions) *report {
	name, _ := w.ws.rt.prefix(context.Background()) // known by now
	r := &report{view: g.view, acts: acts, runtime: name, hostIPs: w.ws.cfg.hostIPs(), failures: g.failures, ready: map[string]bool{}, verdict: g.verdict}
	g.seen.each(func(c *container) {
		if !c.running() {
			return
		}
		_, r.ready[c.id] = w.ws.cfg.Prober.Result(c.id)
	})
	w.mu.Lock()
	r.resize = w.memory.resize
	w.mu.Unlock()
	return r
}

// offer replaces the status that is to be written, and tells users of containers that began to wait.
func (w *worker) offer(ctx context.Context, s corev1.PodStatus) bool {
	w.tell(&s)
	w.mu.Lock()
	defer w.mu.Unlock()
	if isStatic(w.base()) { // nobody sees what was written before
		w.out.written = false
	}
	if w.out.want != nil && equality.Semantic.DeepEqual(*w.out.want, s) && (w.out.written || w.out.writing) {
		return w.out.written
	}
	w.out.want, w.out.written = &s, false
	if !w.out.writing {
		w.out.writing = true
		w.ops.Go(func() { w.write(ctx) })
	}
	return false
}

// tell makes events of containers that begin to wait for another attempt.
func (w *worker) tell(s *corev1.PodStatus) {
	p := w.pod()
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			c, reason := &list[i], ""
			if list[i].State.Waiting != nil {
				reason = c.State.Waiting.Reason
			}
			if reason == w.told[c.Name] {
				continue
			}
			w.told[c.Name] = reason
			spec := specOf(p, c.Name)
			if spec == nil {
				continue
			}
			switch reason {
			case reasonCrashLoop:
				w.ws.event(p, spec, corev1.EventTypeWarning, eventBackOff, "Back-off restarting failed container %s in pod %s", c.Name, podName(p))
			case reasonPullBackOff:
				w.ws.event(p, spec, corev1.EventTypeNormal, eventBackOff, "Back-off pulling image %q", spec.Image)
			}
		}
	}
}

// write writes the latest status until it is on the API server.
func (w *worker) write(ctx context.Context) {
	defer w.kick()
	pause := writePause
	for {
		w.mu.Lock()
		want, base := w.out.want, w.base()
		if w.out.written || w.spec.removed || ctx.Err() != nil {
			w.out.writing = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		if isStatic(base) {
			if err := w.ws.makeMirror(ctx, base); err != nil {
				w.ws.log.Info("mirror of a static pod is not there", podFields(base, err)...)
				_ = sleep(ctx, w.ws.cfg.Clock, pause)
				pause = min(2*pause, maxWritePause)
			}
			continue
		}
		answer, err := w.ws.patchStatus(ctx, base, want)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsInvalid(err) {
			if ctx.Err() == nil {
				w.ws.log.Warn("status cannot be written", podFields(base, err)...)
			}
			_ = sleep(ctx, w.ws.cfg.Clock, pause)
			pause = min(2*pause, maxWritePause)
			continue
		}
		if err != nil {
			w.ws.log.Info("status is not taken", podFields(base, err)...)
		}
		w.mu.Lock()
		if answer != nil {
			w.spec.answer = answer
		}
		if w.out.want == want {
			w.out.written = true
		}
		w.mu.Unlock()
		pause = writePause
	}
}

// patchStatus writes what differs between the status of a pod and the one that it should have. Conditions of others stay. It
// returns the pod as it is then, nil if nothing had to be written.
func (ws *Workers) patchStatus(ctx context.Context, base *corev1.Pod, want *corev1.PodStatus) (*corev1.Pod, error) {
	from, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: base.UID}, Status: base.Status})
	if err != nil {
		return nil, err
	}
	to, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: base.UID}, Status: *want})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return nil, err
	}
	fields["metadata"] = map[string]any{"uid": base.UID} // of no other pod of that name
	if patch, err = json.Marshal(fields); err != nil {
		return nil, err
	}
	return ws.cfg.Client.CoreV1().Pods(base.Namespace).Patch(ctx, base.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}
