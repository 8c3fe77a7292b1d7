package workers

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/probe"
)

const (
	defaultGrace = 30 * time.Second
	// leastGrace is what is left for SIGTERM when hooks have used the grace period up, unless there was less from the beginning.
	leastGrace = 2 * time.Second
	// forcedGrace is what a pod gets that is deleted with a grace period of 0.
	forcedGrace = time.Second
)

// grace is how long a pod may take to stop: what it was deleted with, or what somebody who ends it says, or what its spec says.
func (ws *Workers) grace(p *corev1.Pod, v *Verdict) time.Duration {
	g := defaultGrace
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		g = time.Duration(*s) * time.Second
	}
	if v != nil && v.Grace != nil {
		g = *v.Grace
	}
	if s := p.DeletionGracePeriodSeconds; p.DeletionTimestamp != nil && s != nil {
		deleted := time.Duration(*s) * time.Second
		if v == nil || v.Grace == nil || deleted < g {
			g = deleted
		}
	}
	return max(g, forcedGrace)
}

// probeGrace is the grace period of a container that a probe condemned.
func (ws *Workers) probeGrace(p *corev1.Pod, s stop) time.Duration {
	var by *corev1.Probe
	switch {
	case s.failed != nil && *s.failed == probe.Liveness:
		by = s.spec.LivenessProbe
	case s.failed != nil && *s.failed == probe.Startup:
		by = s.spec.StartupProbe
	}
	if by != nil && by.TerminationGracePeriodSeconds != nil {
		return time.Duration(*by.TerminationGracePeriodSeconds) * time.Second
	}
	return ws.grace(p, nil)
}

// kill stops a container: its preStop hook, then its signal, then, when the grace period is over, SIGKILL. It returns when the
// container has ended or ctx has.
func (ws *Workers) kill(ctx context.Context, p *corev1.Pod, s stop, grace time.Duration) {
	ws.killInTurn(ctx, p, s, grace, nil)
}

// killInTurn is kill with a wait for those that have to end before; turn is closed when they have.
func (ws *Workers) killInTurn(ctx context.Context, p *corev1.Pod, s stop, grace time.Duration, turn <-chan struct{}) {
	said := s.message
	if said == "" {
		said = "Stopping container " + s.container.name
	}
	ws.event(p, &corev1.Container{Name: s.container.name}, corev1.EventTypeNormal, eventKilling, "%s", said)
	begun := ws.cfg.Clock.Now()
	left := func() time.Duration { return grace - ws.cfg.Clock.Now().Sub(begun) }
	if h := preStop(s); h != nil && grace > 0 && !s.now && s.container.running() {
		ws.preStop(ctx, p, s, h, grace)
	}
	if turn != nil && left() > 0 {
		timer := ws.cfg.Clock.NewTimer(left())
		select {
		case <-turn:
		case <-timer.C():
		case <-ctx.Done():
		}
		timer.Stop()
	}
	if ctx.Err() != nil {
		return
	}
	if err := ws.rt.stopContainer(ctx, s.container.id, max(left(), min(leastGrace, grace))); err != nil && ctx.Err() == nil {
		ws.log.Warn("container cannot be stopped", podFields(p, err)...)
	}
}

// preStop is a container's hook, from its spec or, if that is lost, from what the runtime keeps.
func preStop(s stop) *corev1.LifecycleHandler {
	if s.spec != nil {
		if s.spec.Lifecycle == nil {
			return nil
		}
		return s.spec.Lifecycle.PreStop
	}
	raw := s.container.status.Annotations[annotationPreStop]
	if raw == "" {
		return nil
	}
	h := &corev1.LifecycleHandler{}
	if json.Unmarshal([]byte(raw), h) != nil {
		return nil
	}
	return h
}

// preStop runs a hook for as long as the grace period lasts.
func (ws *Workers) preStop(ctx context.Context, p *corev1.Pod, s stop, h *corev1.LifecycleHandler, grace time.Duration) {
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := ws.cfg.Clock.NewTimer(grace)
	defer timer.Stop()
	done := make(chan error, 1)
	spec := s.spec
	if spec == nil {
		spec = &corev1.Container{Name: s.container.name}
	}
	go func() { done <- ws.hook(hctx, p, spec, s.container.id, ws.lastIPs(p), h) }()
	select {
	case err := <-done:
		if err != nil && ctx.Err() == nil {
			ws.log.Info("preStop hook failed", podFields(p, err)...)
			ws.event(p, spec, corev1.EventTypeWarning, eventPreStop, "PreStopHook failed")
		}
	case <-timer.C():
		ws.log.Info("preStop hook did not end within the grace period", podFields(p, nil)...)
		cancel()
		<-done
	case <-ctx.Done():
		<-done
	}
}

// killPod stops all that a pod has in the runtime. Sidecars go after all other containers, the last of the spec first.
func (ws *Workers) killPod(ctx context.Context, p *corev1.Pod, seen *observed, grace time.Duration, now bool) error {
	var stops []stop
	seen.each(func(c *container) {
		if !c.over() {
			stops = append(stops, stop{container: c, spec: specOf(p, c.name), now: now})
		}
	})
	ended := make([]chan struct{}, len(stops))
	for i := range ended {
		ended[i] = make(chan struct{})
	}
	var wg sync.WaitGroup
	for i, s := range stops {
		wg.Go(func() {
			defer close(ended[i])
			ws.killInTurn(ctx, p, s, grace, ws.turn(ctx, &wg, p, stops, ended, i))
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, b := range seen.sandboxes {
		if err := ws.rt.stopSandbox(ctx, b.id); err != nil {
			return err
		}
	}
	return nil
}

// turn is closed when all that have to end before a sidecar have ended; nil for other containers.
func (ws *Workers) turn(ctx context.Context, wg *sync.WaitGroup, p *corev1.Pod, stops []stop, ended []chan struct{}, i int) <-chan struct{} {
	rank := sidecarRank(p, stops[i].container.name)
	if rank < 0 {
		return nil
	}
	turn := make(chan struct{})
	wg.Go(func() {
		defer close(turn)
		for j := range stops {
			if before := sidecarRank(p, stops[j].container.name); before < 0 || before > rank {
				select {
				case <-ended[j]:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	return turn
}

// sidecarRank is the place of a sidecar among the init containers, -1 for other containers.
func sidecarRank(p *corev1.Pod, name string) int {
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.Name == name && sidecar(c) {
			return i
		}
	}
	return -1
}

// Verdict ends a pod for a reason of the node: eviction, a deadline, a rejection.
type Verdict struct {
	Reason     string
	Message    string
	Grace      *time.Duration // nil: the pod's own
	Conditions []corev1.PodCondition
	rejected   bool // it never ran
}

// reject is the verdict on a pod that the node does not take.
func reject(r *Rejection) *Verdict {
	return &Verdict{Reason: r.Reason, Message: "Pod was rejected: " + r.Message, Grace: ptr.To(time.Duration(0)), rejected: true}
}
