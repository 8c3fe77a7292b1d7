package workers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// end takes a pod that is not to run any more a step further: what brings it up is cancelled, what runs is stopped, the final
// status is written, and what it had is given back.
func (w *worker) end(ctx context.Context, g glance, acts actions) (again time.Duration, finished bool) {
	if !w.halt.told {
		w.halt.told = true
		w.watchProbes(g)
		w.ws.cfg.Prober.Terminating(w.uid)
	}
	w.mu.Lock()
	up := w.running.up
	w.mu.Unlock()
	if up != nil {
		up() // it wakes the loop when it has ended
		w.publishEnding(ctx, g, acts, false)
		return w.ws.cfg.Options.Resync, false
	}
	if w.halting(ctx, g) {
		w.publishEnding(ctx, g, acts, false)
		return w.ws.cfg.Options.Resync, false
	}
	if !g.removed && !w.publishEnding(ctx, g, acts, true) {
		return w.ws.cfg.Options.Resync, false // its writing wakes the loop
	}
	if err := w.release(ctx, g); err != nil {
		return w.pause(ctx, g.pod, "what a pod had cannot be given back", err), false
	}
	if !g.removed && g.pod.DeletionTimestamp == nil {
		w.thin(ctx, g)
		return w.ws.cfg.Options.Resync, false
	}
	if err := w.clean(ctx, g); err != nil {
		return w.pause(ctx, g.pod, "what a pod left cannot be removed", err), false
	}
	if g.removed {
		w.ws.drop(w)
		return 0, true
	}
	if err := w.deleteObject(ctx, g.pod); err != nil {
		return w.pause(ctx, g.pod, "pod cannot be deleted", err), false
	}
	return w.ws.cfg.Options.Resync, false
}

// pause is how long to wait after a step of the end failed.
func (w *worker) pause(ctx context.Context, p *corev1.Pod, what string, err error) time.Duration {
	if ctx.Err() == nil {
		w.ws.log.Warn(what, podFields(p, err)...)
	}
	w.halt.tries = min(w.halt.tries+1, 6)
	return time.Second << (w.halt.tries - 1)
}

// halting is whether anything of the pod still runs. If so it sees to it that it is being stopped.
func (w *worker) halting(ctx context.Context, g glance) bool {
	h := &w.halt
	if h.cancel != nil {
		select {
		case <-h.ended:
			h.cancel()
			h.cancel = nil
		default:
		}
	}
	if w.endedOps() != g.ended {
		return true
	}
	alive := g.seen.alive()
	for _, b := range g.seen.sandboxes {
		alive = alive || b.ready
	}
	grace := w.ws.grace(g.pod, g.verdict)
	if h.cancel != nil {
		if grace >= h.grace {
			return true
		}
		h.cancel() // less time than before
		<-h.ended
		h.cancel = nil
		return true // the end of the operation wakes the loop
	}
	if !alive {
		return w.stopsRunning()
	}
	stopCtx, cancel := context.WithCancel(ctx)
	h.cancel, h.grace, h.ended = cancel, grace, make(chan struct{})
	ended := h.ended
	w.ops.Go(func() {
		defer w.kick()
		defer func() {
			w.mu.Lock()
			w.running.ended++
			w.mu.Unlock()
			close(ended)
		}()
		if err := w.ws.killPod(stopCtx, g.pod, g.seen, grace, false); err != nil && stopCtx.Err() == nil {
			w.ws.event(g.pod, nil, corev1.EventTypeWarning, eventKillPod, "error killing pod: %s", message(err))
			w.ws.log.Warn("pod cannot be stopped", podFields(g.pod, err)...)
			_ = sleep(stopCtx, w.ws.cfg.Clock, runtimePause)
		}
	})
	return true
}

// stopsRunning is whether single containers are still being stopped.
func (w *worker) stopsRunning() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.running.stopping) > 0
}

// release gives back what a pod needs only while it runs. Its containers stay, for their logs.
func (w *worker) release(ctx context.Context, g glance) error {
	if w.halt.released {
		return nil
	}
	ws := w.ws
	ws.cfg.Prober.Stop(w.uid, "")
	if err := ws.cfg.Volumes.Teardown(ctx, w.uid); err != nil {
		return err
	}
	if err := ws.cfg.Cgroups.Remove(w.uid); err != nil {
		return err
	}
	if ws.cfg.Devices != nil {
		ws.cfg.Devices.Free(w.uid)
	}
	ws.puller.forget(w.uid)
	if err := ws.allocations.free(w.uid); err != nil {
		return err
	}
	w.halt.released = true
	ws.retryDeferred()
	return nil
}

// clean removes what is left of a pod in the runtime and on the disk.
func (w *worker) clean(ctx context.Context, g glance) error {
	if w.halt.cleaned {
		return nil
	}
	ws := w.ws
	var errs []error
	g.seen.each(func(c *container) { errs = append(errs, ws.dropContainer(ctx, g.pod, c)) })
	for _, b := range g.seen.sandboxes {
		errs = append(errs, ws.rt.removeSandbox(ctx, b.id))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := ws.users.free(w.uid); err != nil {
		return err
	}
	if err := os.RemoveAll(ws.LogDir(g.pod)); err != nil {
		return err
	}
	if err := ws.cfg.Volumes.Remove(ctx, w.uid); err != nil {
		return err
	}
	w.halt.cleaned = true
	return nil
}

// dropContainer removes a dead container with its log and its message.
func (ws *Workers) dropContainer(ctx context.Context, p *corev1.Pod, c *container) error {
	if err := ws.rt.removeContainer(ctx, c.id); err != nil {
		return err
	}
	if log := c.status.LogPath; log != "" {
		rotated, _ := filepath.Glob(log + ".*")
		for _, f := range append(rotated, log) {
			_ = os.Remove(f)
		}
	}
	_ = os.Remove(ws.messagePath(p, c.name, c.attempt))
	ws.unlinkLog(c.id)
	return nil
}

// deleteObject deletes the API object of a pod of which nothing is left.
func (w *worker) deleteObject(ctx context.Context, p *corev1.Pod) error {
	if isStatic(p) {
		return nil
	}
	err := w.ws.cfg.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
