package workers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/probe"
)

const (
	// runtimePause is how long a sync waits after the runtime did not answer.
	runtimePause = time.Second
	// startPause is the time between attempts to start a container that fail for reasons that pass or that users mend.
	startPause = 10 * time.Second
	// preparePause is the time after the first failure to make a pod's volumes, which often lack something that is about to come;
	// maxPause is the longest.
	preparePause = time.Second
	maxPause     = time.Minute
	// deadlineMessage is what a pod says that was active for too long.
	deadlineMessage = "Pod was active on the node longer than the specified deadline"
)

// sync brings the pod closer to what it should be. It returns after how long to look again, and whether nothing is left.
func (w *worker) sync(ctx context.Context) (again time.Duration, finished bool) {
	ws := w.ws
	defer w.measure(ws.cfg.Clock.Now())
	ended := w.endedOps()
	seen, err := ws.rt.observe(ctx, w.uid, w.cache)
	if err == nil {
		_, err = ws.rt.prefix(ctx)
	}
	if err != nil {
		if ctx.Err() == nil {
			ws.log.Warn("runtime does not answer", podFields(w.pod(), err)...)
		}
		return runtimePause, false
	}
	g := w.look(ws.cfg.Clock.Now())
	g.pod, g.seen, g.ended = ws.allocations.apply(g.pod), seen, ended
	w.hear(g.pod, seen)
	w.forgetOld(seen)
	g.started = w.startedIn(g.pod, seen, &g.last)
	if ending(&g) {
		return w.end(ctx, g, actions{})
	}
	if ws.waitsForNamesake(w, g.pod) {
		return runtimePause, false
	}
	if late, left := overdue(g.pod, &g.last, g.now); late {
		ws.event(g.pod, nil, corev1.EventTypeNormal, eventDeadline, deadlineMessage)
		w.condemn(&Verdict{Reason: "DeadlineExceeded", Message: deadlineMessage})
		return 0, false
	} else if left > 0 {
		again = left
	}
	g.pod = w.grant(w.pod())
	_, g.resize = w.resizable(g.pod, seen)
	acts := plan(g.view)
	if acts.end {
		return w.end(ctx, g, acts)
	}
	w.act(ctx, g, acts)
	w.resizeStep(ctx, g)
	w.watchProbes(g)
	w.tidy(ctx, seen)
	w.publish(ctx, g, acts)
	return w.next(g, acts, again), false
}

func (w *worker) endedOps() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running.ended
}

func (w *worker) pod() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spec.pod
}

// ending is whether the pod is not to run any more.
func ending(g *glance) bool {
	return g.removed || g.pod.DeletionTimestamp != nil || g.verdict != nil || terminal(g.last.Phase)
}

func terminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// overdue is whether a pod has been active for longer than it may, or for how long it still may; 0: for ever.
func overdue(p *corev1.Pod, last *corev1.PodStatus, now time.Time) (late bool, left time.Duration) {
	if p.Spec.ActiveDeadlineSeconds == nil || last.StartTime == nil {
		return false, 0
	}
	left = last.StartTime.Add(time.Duration(*p.Spec.ActiveDeadlineSeconds) * time.Second).Sub(now)
	return left <= 0, left
}

// next is after how long a sync is due without any other cause.
func (w *worker) next(g glance, acts actions, again time.Duration) time.Duration {
	d := w.ws.cfg.Options.Resync
	if again > 0 {
		d = min(d, again)
	}
	if !acts.wake.IsZero() {
		d = min(d, acts.wake.Sub(g.now))
	}
	for _, f := range g.failures {
		if left := f.at.Add(patience).Sub(g.now); left > 0 {
			d = min(d, left)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range []time.Time{w.memory.boxHold, w.running.resizeHold} {
		if left := t.Sub(g.now); left > 0 {
			d = min(d, left)
		}
	}
	return d
}

// hear reads what containers said when they ended, once.
func (w *worker) hear(p *corev1.Pod, seen *observed) {
	seen.each(func(c *container) {
		if c.exited() && c.said == nil {
			c.said = ptr.To(w.ws.lastWords(p, c))
		}
	})
}

// forgetOld drops what is remembered of containers that are no more, and lets others look at what was seen.
func (w *worker) forgetOld(seen *observed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory.seen = seen
	maps.DeleteFunc(w.memory.failing, func(id string, _ probe.Kind) bool { return !runs(seen, id) })
}

func runs(seen *observed, id string) (is bool) {
	seen.each(func(c *container) { is = is || c.id == id && c.running() })
	return is
}

// startedIn says of running containers whether they have passed their postStart hook and their startup probe. A container that
// the last status says has started is not thrown back by a prober that has just begun.
func (w *worker) startedIn(p *corev1.Pod, seen *observed, last *corev1.PodStatus) map[string]bool {
	w.mu.Lock()
	hooking := maps.Clone(w.running.hooking)
	w.mu.Unlock()
	started := map[string]bool{}
	seen.each(func(c *container) {
		spec := specOf(p, c.name)
		if !c.running() || hooking[c.id] || spec == nil {
			return
		}
		started[c.id] = true
		if spec.StartupProbe != nil {
			passed, _ := w.ws.cfg.Prober.Result(c.id)
			if s := statusOf(last, c.name); s != nil && idOf(s.ContainerID) == c.id && ptr.Deref(s.Started, false) {
				passed = true
			}
			started[c.id] = passed
		}
	})
	return started
}

// act starts the operations that the plan asks for and that do not run yet.
func (w *worker) act(ctx context.Context, g glance, acts actions) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running.ended != g.ended {
		return
	}
	for _, s := range acts.stops {
		w.stop(ctx, g.pod, s)
	}
	wanted := acts.newSandbox || len(acts.starts) > 0 || w.volumesDue(g.pod, g.now)
	if !wanted || w.running.up != nil || g.now.Before(w.memory.boxHold) {
		return
	}
	upCtx, cancel := context.WithCancel(ctx)
	w.running.up = cancel
	w.ops.Go(func() {
		defer w.kick()
		defer func() {
			cancel()
			w.mu.Lock()
			w.running.up = nil
			w.running.ended++
			w.mu.Unlock()
		}()
		w.up(upCtx, g, acts)
	})
}

// volumesDue is whether volumes have to be looked at again: there are files in them that follow the pod. The caller holds mu.
func (w *worker) volumesDue(p *corev1.Pod, now time.Time) bool {
	was := w.memory.mounted
	return was == nil || now.Sub(w.memory.volumes) >= w.ws.cfg.Options.Resync || !maps.Equal(p.Labels, was.Labels) ||
		!maps.Equal(p.Annotations, was.Annotations) || p.Generation != was.Generation
}

// stop starts to stop a container, unless that is under way. The caller holds mu.
func (w *worker) stop(ctx context.Context, p *corev1.Pod, s stop) {
	id := s.container.id
	if w.running.stopping[id] {
		return
	}
	w.running.stopping[id] = true
	w.ops.Go(func() {
		defer w.kick()
		defer func() {
			w.mu.Lock()
			delete(w.running.stopping, id)
			w.running.ended++
			w.mu.Unlock()
		}()
		w.ws.kill(ctx, p, s, w.ws.probeGrace(p, s))
	})
}

// up brings the pod's sandbox up, or its containers, one after the other.
func (w *worker) up(ctx context.Context, g glance, acts actions) {
	ws, p := w.ws, g.pod
	if err := w.prepare(ctx, p, g.now); err != nil {
		w.holdUp(preparePause)
		if len(acts.starts) > 0 && ctx.Err() == nil {
			for _, s := range acts.starts {
				w.noteFailure(s.container.Name, &failure{reason: reasonCreating, message: err.Error()})
			}
		}
		return
	}
	if acts.newSandbox {
		w.box(ctx, g, acts)
		return
	}
	box := g.seen.sandbox()
	for _, s := range acts.starts {
		if ctx.Err() != nil {
			return
		}
		f := ws.startContainer(ctx, w, p, s, box)
		if ctx.Err() != nil {
			return
		}
		ws.metrics.containerStarted(p, s.container.Name, f)
		w.noteFailure(s.container.Name, f)
		w.kick()
	}
}

// noteFailure remembers why a container was not started; nil: it was.
func (w *worker) noteFailure(name string, f *failure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f == nil {
		delete(w.memory.failures, name)
		return
	}
	noted := *f
	noted.at = w.ws.cfg.Clock.Now()
	if noted.retry.IsZero() && noted.reason != reasonPostStartError {
		noted.retry = noted.at.Add(startPause)
	}
	w.memory.failures[name] = noted
}

// prepare makes ready what the pod needs from the node before anything of it runs, and keeps its volumes up to date.
func (w *worker) prepare(ctx context.Context, p *corev1.Pod, now time.Time) error {
	ws := w.ws
	if err := ws.users.take(p); err != nil {
		ws.event(p, nil, corev1.EventTypeWarning, eventSandbox, "Failed to create pod sandbox: %v", err)
		return err
	}
	w.mu.Lock()
	due, allocated := w.volumesDue(p, now), w.memory.devices
	w.mu.Unlock()
	if ws.cfg.Devices != nil && !allocated {
		if err := ws.cfg.Devices.Allocate(ctx, p); err != nil {
			if ctx.Err() == nil {
				w.condemn(reject(&Rejection{"UnexpectedAdmissionError", fmt.Sprintf("Allocate failed due to %v, which is unexpected", err)}))
			}
			return err
		}
		w.mu.Lock()
		w.memory.devices = true
		w.mu.Unlock()
	}
	if !due {
		return nil
	}
	if _, err := ws.cfg.Cgroups.Ensure(p); err != nil {
		return err
	}
	if err := ws.cfg.Volumes.Setup(ctx, p); err != nil {
		if ctx.Err() == nil {
			for _, e := range parts(err) {
				ws.event(p, nil, corev1.EventTypeWarning, eventMount, "%v", e)
			}
			ws.log.Info("volumes are not ready", podFields(p, err)...)
		}
		return err
	}
	w.mu.Lock()
	w.memory.volumes, w.memory.mounted, w.memory.boxTries = now, p, 0
	w.mu.Unlock()
	return nil
}

// parts are the errors that an error joins.
func parts(err error) []error {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		return several.Unwrap()
	}
	return []error{err}
}

// box replaces the pod's sandbox.
func (w *worker) box(ctx context.Context, g glance, acts actions) {
	ws, p := w.ws, g.pod
	if acts.attempt > 0 {
		ws.event(p, nil, corev1.EventTypeNormal, eventSandboxGone, "Pod sandbox changed, it will be killed and re-created.")
	}
	err := ws.killPod(ctx, p, g.seen, ws.grace(p, nil), false)
	if err == nil {
		ws.metrics.podsStarted.Inc()
		if err = ws.runSandbox(ctx, p, acts.attempt); err != nil && ctx.Err() == nil {
			ws.metrics.podErrors.Inc()
		}
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		ws.event(p, nil, corev1.EventTypeWarning, eventSandbox, "Failed to create pod sandbox: %s", message(err))
		ws.log.Info("sandbox cannot be made", podFields(p, err)...)
	}
	if err != nil {
		w.holdUp(startPause)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory.boxHold, w.memory.boxTries = time.Time{}, 0
}

// holdUp puts off what brings the pod up after it failed, for longer with every failure.
func (w *worker) holdUp(pause time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := backOff{pause, maxPause}
	for range w.memory.boxTries {
		pause = b.after(pause)
	}
	w.memory.boxTries = min(w.memory.boxTries+1, 8)
	w.memory.boxHold = w.ws.cfg.Clock.Now().Add(pause)
}

// watchProbes has the prober probe the containers that run.
func (w *worker) watchProbes(g glance) {
	box := g.seen.sandbox()
	if box == nil {
		return
	}
	w.mu.Lock()
	hooking, stopping := maps.Clone(w.running.hooking), maps.Clone(w.running.stopping)
	w.mu.Unlock()
	ips := podIPs(g.pod, box, w.ws.cfg.hostIPs())
	for name := range g.seen.containers {
		c, spec := g.seen.newest(name), specOf(g.pod, name)
		if spec == nil || !c.running() || hooking[c.id] || stopping[c.id] || w.probed[name] == c.id || len(ips) == 0 {
			continue
		}
		if spec.LivenessProbe == nil && spec.ReadinessProbe == nil && spec.StartupProbe == nil {
			continue
		}
		w.probed[name] = c.id
		p := *g.pod
		p.Status = g.last // from which a prober that has just begun knows what was
		w.ws.cfg.Prober.Start(&p, spec, c.id, ips[0], c.started())
	}
}

// tidy removes what nobody will ask for: all dead containers of a name but the newest, and sandboxes without containers. On a node
// that is short of disk the newest goes, too, if another runs.
func (w *worker) tidy(ctx context.Context, seen *observed) {
	keep := map[string]bool{} // sandboxes
	for _, list := range seen.containers {
		dead := false
		for i, c := range list {
			if i == 0 || !c.exited() || !dead && !w.lean {
				dead = dead || c.exited()
				keep[c.sandbox] = true
				continue
			}
			if err := w.ws.dropContainer(ctx, w.pod(), c); err != nil && ctx.Err() == nil {
				w.ws.log.Warn("dead container cannot be removed", podFields(w.pod(), err)...)
			}
		}
	}
	for i, b := range seen.sandboxes {
		if i == 0 || b.ready || keep[b.id] {
			continue
		}
		if err := w.ws.rt.removeSandbox(ctx, b.id); err != nil && ctx.Err() == nil {
			w.ws.log.Warn("dead sandbox cannot be removed", podFields(w.pod(), err)...)
		}
	}
}
