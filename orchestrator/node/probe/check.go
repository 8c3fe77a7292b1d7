package probe

import (
	"context"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
)

// check is one probe of one container. All fields but the run's are under the Prober's lock.
type check struct {
	target *target
	kind   Kind
	spec   *corev1.Probe
	at     time.Time // when it is due, or was when it runs
	index  int       // in the queue; -1 while it runs or waits for the container to start
	cancel context.CancelFunc
	over   bool // it will not run again

	ok   bool // what it is taken for
	last bool // what the last run found
	row  int  // how many runs in a row did
}

func (c *check) period() time.Duration { return seconds(c.spec.PeriodSeconds, 10) }

func (c *check) timeout() time.Duration { return seconds(c.spec.TimeoutSeconds, 1) }

// threshold is how many runs in a row it takes.
func (c *check) threshold(ok bool) int {
	if ok {
		return int(max(c.spec.SuccessThreshold, 1))
	}
	if c.spec.FailureThreshold < 1 {
		return 3
	}
	return int(c.spec.FailureThreshold)
}

func seconds(n, unset int32) time.Duration {
	if n <= 0 {
		n = unset
	}
	return time.Duration(n) * time.Second
}

// attempt is a run of a check, with what it needs to know as of its beginning.
type attempt struct {
	*check
	pod       *corev1.Pod
	container *corev1.Container
	id, ip    string
}

// tries is how often a run whose outcome is not known is made in a row.
const tries = 3

func (p *Prober) run(ctx context.Context, a attempt) {
	begin := p.cfg.Clock.Now()
	var out outcome
	for range tries {
		if out = p.ask(ctx, a); out.known() || ctx.Err() != nil {
			break
		}
	}
	p.settle(a, out, ctx.Err() != nil, p.cfg.Clock.Now().Sub(begin))
}

// settle counts what a run found, and says when the next is due.
func (p *Prober) settle(a attempt, out outcome, cancelled bool, took time.Duration) {
	p.mu.Lock()
	c := a.check
	c.cancel() // frees the context
	c.cancel = nil
	if c.over || cancelled {
		p.mu.Unlock()
		return
	}
	p.metrics.count(a, out, took)
	c.advance(p, out)
	if !c.over {
		next, now := c.at.Add(c.period()), p.cfg.Clock.Now()
		if next.Before(now) {
			next = now
		}
		p.schedule(c, next)
	}
	p.poke()
	p.mu.Unlock()
	p.report(a, out)
}

// advance counts a run.
func (c *check) advance(p *Prober, out outcome) {
	if !out.known() {
		return
	}
	if c.last != out.ok() || c.row == 0 {
		c.last, c.row = out.ok(), 0
	}
	c.row++
	t := c.target
	if c.row < c.threshold(out.ok()) {
		return
	}
	changed := c.ok != out.ok()
	c.ok = out.ok()
	switch c.kind {
	case Readiness:
		t.ready = c.ok
	case Startup:
		c.over = true // passed, or failed: the next one is for the next container
		changed = true
		if c.ok {
			t.started = true
			for _, other := range t.checks {
				if other != c && !other.over {
					p.schedule(other, p.first(other, false))
				}
			}
		}
	case Liveness:
		c.over = !c.ok
	}
	if changed {
		ch := Change{UID: t.uid, Container: t.name, ContainerID: t.id, Kind: c.kind, Ok: c.ok}
		if !c.ok {
			ch.Message = c.kind.String() + " probe failed: " + out.message
		}
		p.pending = append(p.pending, ch)
	}
}

// report tells the pod of what went wrong.
func (p *Prober) report(a attempt, out outcome) {
	if out.state == success {
		return
	}
	p.lg.Debug("a probe", zap.Stringer("kind", a.kind), zap.String("pod", a.pod.Namespace+"/"+a.pod.Name), zap.String("container", a.container.Name),
		zap.Int("state", int(out.state)), zap.String("message", out.message))
	ref := refTo(a.pod, a.container.Name)
	switch out.state {
	case failure:
		p.cfg.Events.Eventf(ref, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", a.kind, out.message)
	case warning:
		p.cfg.Events.Eventf(ref, corev1.EventTypeWarning, "ProbeWarning", "%s probe warning: %s", a.kind, out.message)
	default:
		p.cfg.Events.Eventf(ref, corev1.EventTypeWarning, "Unhealthy", "%s probe errored and resulted in unknown state: %s", a.kind, out.message)
	}
}

// refTo names a container of a pod as the object of an event.
func refTo(pod *corev1.Pod, container string) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	field := func(list string, i int, of []corev1.Container) {
		if of[i].Name == container {
			ref.FieldPath = "spec." + list + "{" + container + "}"
		}
	}
	for i := range pod.Spec.Containers {
		field("containers", i, pod.Spec.Containers)
	}
	for i := range pod.Spec.InitContainers {
		field("initContainers", i, pod.Spec.InitContainers)
	}
	return ref
}

// queue is a heap of checks by when they are due.
type queue []*check

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for container/heap.
func (q *queue) Push(x any) {
	c := x.(*check)
	c.index = len(*q)
	*q = append(*q, c)
}

// Pop is for container/heap.
func (q *queue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	c.index = -1
	return c
}
