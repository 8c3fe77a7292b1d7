package probe

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Kind is what a check is for.
type Kind int

// The kinds.
const (
	Startup Kind = iota
	Readiness
	Liveness
)

// String is the name in events and metrics.
func (k Kind) String() string { return [...]string{"Startup", "Readiness", "Liveness"}[k] }

// Change says that the outcome of a container's check is another one.
type Change struct {
	UID         types.UID // of the pod
	Container   string
	ContainerID string
	Kind        Kind
	Ok          bool
	Message     string // of the run that made the change; "" if it succeeded
}

// Config is what a Prober works with.
type Config struct {
	Runtime runtimeapi.RuntimeServiceClient // runs commands in containers
	Clock   clock.Clock                     // nil is the system's
	Events  record.EventRecorder            // nil drops events
	Logger  *zap.Logger                     // nil drops logs
	Random  func() float64                  // in [0,1), for the first runs after a restart of the agent; nil is a random source
}

// Prober runs the checks of all containers of a node.
type Prober struct {
	cfg     Config
	lg      *zap.Logger
	began   time.Time
	metrics *metrics
	changes chan Change
	wake    chan struct{} // something is due earlier, or a change waits
	running sync.WaitGroup

	mu         sync.Mutex
	containers map[key]*target
	byID       map[string]*target
	due        queue
	pending    []Change
}

// key names a container of a pod. There is one container of a name at a time.
type key struct {
	uid  types.UID
	name string
}

// target is a container that is checked.
type target struct {
	key
	id         string
	pod        *corev1.Pod
	spec       *corev1.Container
	ip         string
	since      time.Time // when it started
	started    bool
	ready      bool
	checks     []*check
	dismissed  bool // Stop was called, or another container took the name
	terminated bool // the pod ends: only readiness goes on
}

// New makes a Prober. It works while Run runs.
func New(cfg Config) *Prober {
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Events == nil {
		cfg.Events = &record.FakeRecorder{}
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	return &Prober{
		cfg: cfg, lg: cfg.Logger.Named("probe"), began: cfg.Clock.Now(), metrics: newMetrics(),
		changes: make(chan Change), wake: make(chan struct{}, 1),
		containers: map[key]*target{}, byID: map[string]*target{},
	}
}

// Changes delivers what changed, while Run runs.
func (p *Prober) Changes() <-chan Change { return p.changes }

// Metrics are counts and durations of runs.
func (p *Prober) Metrics() []prometheus.Collector { return p.metrics.collectors() }

// Start begins the checks of a container that has started. Calling it again for the same container brings the pod and its
// address up to date; for another container of the same name it ends the checks of the former. A pod that is being deleted
// has its readiness checked only.
func (p *Prober) Start(pod *corev1.Pod, c *corev1.Container, containerID, podIP string, started time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := key{pod.UID, c.Name}
	if t := p.containers[k]; t != nil && t.id == containerID {
		t.pod, t.ip = pod, podIP
		if pod.DeletionTimestamp != nil {
			p.terminate(t)
		}
		return
	}
	p.dismiss(k)
	t := &target{key: k, id: containerID, pod: pod, spec: c, ip: podIP, since: started, started: c.StartupProbe == nil, ready: c.ReadinessProbe == nil}
	p.containers[k], p.byID[containerID] = t, t
	adopted := started.Before(p.began)
	if adopted {
		t.adopt()
	}
	for kind, spec := range map[Kind]*corev1.Probe{Startup: c.StartupProbe, Readiness: c.ReadinessProbe, Liveness: c.LivenessProbe} {
		if spec == nil || (kind == Startup && t.started) {
			continue
		}
		ck := &check{target: t, kind: kind, spec: spec, ok: kind == Liveness || (kind == Readiness && t.ready), index: -1}
		t.checks = append(t.checks, ck)
		if kind == Startup || t.started {
			p.schedule(ck, p.first(ck, adopted))
		}
	}
	if pod.DeletionTimestamp != nil {
		p.terminate(t)
	}
	p.poke()
}

// adopt takes over what the pod's status says of a container that ran before the prober did.
func (t *target) adopt() {
	for _, list := range [][]corev1.ContainerStatus{t.pod.Status.ContainerStatuses, t.pod.Status.InitContainerStatuses} {
		for i := range list {
			s := &list[i]
			if _, id, _ := strings.Cut(s.ContainerID, "://"); s.Name != t.name || (id != t.id && s.ContainerID != t.id) {
				continue
			}
			t.started = t.started || (s.Started != nil && *s.Started)
			t.ready = t.ready || s.Ready
		}
	}
}

// Terminating says that a pod ends: its liveness and startup are checked no longer, its readiness is.
func (p *Prober) Terminating(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, t := range p.containers {
		if k.uid == uid {
			p.terminate(t)
		}
	}
}

func (p *Prober) terminate(t *target) {
	t.terminated = true
	for _, c := range t.checks {
		if c.kind != Readiness {
			p.unschedule(c)
		}
	}
}

// Stop ends the checks of a container; of all containers of the pod if container is "".
func (p *Prober) Stop(uid types.UID, container string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if container != "" {
		p.dismiss(key{uid, container})
		return
	}
	for k := range p.containers {
		if k.uid == uid {
			p.dismiss(k)
		}
	}
}

// dismiss forgets a container. A run that is under way is ended, and what it finds counts no more.
func (p *Prober) dismiss(k key) {
	t := p.containers[k]
	if t == nil {
		return
	}
	t.dismissed = true
	for _, c := range t.checks {
		p.unschedule(c)
		p.metrics.forget(c)
	}
	delete(p.containers, k)
	delete(p.byID, t.id)
}

// Result says whether a container has started and is ready, as far as probes know. One without a startup probe has, one
// without a readiness probe is ready as soon as it has started, and one that Start was not called for is neither.
func (p *Prober) Result(containerID string) (started, ready bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.byID[containerID]
	if t == nil {
		return false, false
	}
	return t.started, t.started && t.ready
}

// first is when a check runs for the first time.
func (p *Prober) first(c *check, adopted bool) time.Time {
	at := c.target.since.Add(seconds(c.spec.InitialDelaySeconds, 0))
	now := p.cfg.Clock.Now()
	if at.Before(now) {
		at = now
		if period := c.period(); adopted && now.Sub(p.began) < period {
			at = now.Add(time.Duration(p.cfg.Random() * float64(period)))
		}
	}
	return at
}

func (p *Prober) schedule(c *check, at time.Time) {
	c.at = at
	if c.index < 0 {
		heap.Push(&p.due, c)
	} else {
		heap.Fix(&p.due, c.index)
	}
}

// unschedule takes a check out for good, and ends its run.
func (p *Prober) unschedule(c *check) {
	c.over = true
	if c.index >= 0 {
		heap.Remove(&p.due, c.index)
	}
	if c.cancel != nil {
		c.cancel()
	}
}

// poke makes Run look again.
func (p *Prober) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run checks until ctx ends, and returns when no check runs any more.
func (p *Prober) Run(ctx context.Context) error {
	defer p.running.Wait()
	timer := p.cfg.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, change, out := p.turn(ctx)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C():
		case <-p.wake:
		case out <- change:
			p.mu.Lock()
			p.pending = p.pending[1:]
			p.mu.Unlock()
		}
	}
}

// turn starts what is due. It returns how long nothing else is, and the change to deliver, if there is one.
func (p *Prober) turn(ctx context.Context) (wait time.Duration, change Change, out chan<- Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Clock.Now()
	for len(p.due) > 0 && !p.due[0].at.After(now) {
		c := heap.Pop(&p.due).(*check)
		run, cancel := context.WithCancel(ctx)
		c.cancel = cancel
		at := attempt{check: c, pod: c.target.pod, container: c.target.spec, id: c.target.id, ip: c.target.ip}
		p.running.Go(func() { p.run(run, at) })
	}
	wait = time.Hour
	if len(p.due) > 0 {
		wait = p.due[0].at.Sub(now)
	}
	if len(p.pending) > 0 {
		return wait, p.pending[0], p.changes
	}
	return wait, Change{}, nil
}
