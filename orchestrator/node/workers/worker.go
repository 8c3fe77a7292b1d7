package workers

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/node/probe"
)

// worker runs one pod.
type worker struct {
	ws   *Workers
	uid  types.UID
	wake chan struct{} // holds one: somebody wants a sync
	done chan struct{} // closed when the loop has ended
	ops  sync.WaitGroup

	mu      sync.Mutex
	spec    podSource
	memory  memory
	running operations
	out     outbox

	// Of the loop alone.
	cache  map[string]*container // that have ended, by ID
	probed map[string]string     // container IDs by name: whose probes run
	told   map[string]string     // by container: the reason to wait that users were last told of
	timed  timing
	lean   bool // dead containers are not kept by this sync
	halt   halting
}

// podSource is what the sources say of a pod.
type podSource struct {
	pod     *corev1.Pod
	answer  *corev1.Pod // what the API server made of the last status that was written
	removed bool        // there is no such pod any more
}

// memory is what may be lost.
type memory struct {
	verdict  *Verdict
	failing  map[string]probe.Kind // by container ID: startup or liveness
	failures map[string]failure    // by container name
	seen     *observed             // by the last sync
	boxHold  time.Time             // when a sandbox that failed is tried again
	boxTries int
	volumes  time.Time   // when volumes were last set up; zero: never in this run
	mounted  *corev1.Pod // for which they were
	devices  bool        // they are allocated
	resize   resizeState
	thinning []chan struct{} // closed when dead containers were removed
}

// operations are what runs beside the loop.
//
// A sync must not act on what it saw before an operation ended: ended tells it that one did. It will be woken once more.
type operations struct {
	ended    int                // operations so far
	up       context.CancelFunc // brings containers up
	stopping map[string]bool    // by container ID
	hooking  map[string]bool    // by container ID: it is started, but its postStart hook has not ended
	resizing bool               // resources are being brought into effect

	resizeHold time.Time // when that is tried again after it failed
}

// halting is how the end of a pod gets on.
type halting struct {
	cancel   context.CancelFunc // of the operation that stops all; nil if none runs
	grace    time.Duration      // that it gives
	ended    chan struct{}      // closed when it has ended
	told     bool               // the prober knows
	released bool               // volumes, cgroup and devices are given back
	cleaned  bool               // nothing is left in the runtime and on the disk
	tries    int                // to do so, that failed
}

func newWorker(ws *Workers, p *corev1.Pod) *worker {
	return &worker{
		ws: ws, uid: p.UID, timed: timing{born: ws.cfg.Clock.Now()}, wake: make(chan struct{}, 1), done: make(chan struct{}), spec: podSource{pod: p},
		memory:  memory{failing: map[string]probe.Kind{}, failures: map[string]failure{}},
		running: operations{stopping: map[string]bool{}, hooking: map[string]bool{}},
		cache:   map[string]*container{}, probed: map[string]string{}, told: map[string]string{},
	}
}

// kick asks for a sync.
func (w *worker) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// set takes a new version of the pod.
func (w *worker) set(p *corev1.Pod) {
	w.mu.Lock()
	w.spec.pod = p
	w.mu.Unlock()
	w.kick()
}

// remove says that the pod is gone from its source.
func (w *worker) remove() {
	w.mu.Lock()
	w.spec.removed = true
	w.mu.Unlock()
	w.kick()
}

// condemn ends the pod. The first verdict stands, but its grace period may be shortened.
func (w *worker) condemn(v *Verdict) {
	w.mu.Lock()
	switch have := w.memory.verdict; {
	case have == nil:
		w.memory.verdict = v
	case v.Grace != nil && (have.Grace == nil || *v.Grace < *have.Grace):
		shorter := *have
		shorter.Grace = v.Grace
		w.memory.verdict = &shorter
	}
	w.mu.Unlock()
	w.kick()
}

// result takes a result of a probe.
func (w *worker) result(c probe.Change) {
	w.mu.Lock()
	if !c.Ok && c.Kind != probe.Readiness {
		w.memory.failing[c.ContainerID] = c.Kind
	}
	w.mu.Unlock()
	w.kick()
}

// hooking notes that a container's postStart hook runs, or has ended.
func (w *worker) hooking(id string, runs bool) {
	w.mu.Lock()
	if runs {
		w.running.hooking[id] = true
	} else {
		delete(w.running.hooking, id)
	}
	w.mu.Unlock()
	w.kick()
}

// base is the pod as the API server last showed it, whether through a source or in answer to a status. The caller holds mu.
func (w *worker) base() *corev1.Pod {
	p := w.spec.pod
	if m := w.ws.mirrors.of(p); m != nil {
		p = m
	}
	if a := w.spec.answer; a != nil && a.UID == p.UID && !newer(p, a) {
		return a
	}
	return p
}

// lastStatus is the status that the API server has, or that it is about to have: times of transitions that are on their way stand.
// The caller holds mu.
func (w *worker) lastStatus() corev1.PodStatus {
	have := w.base().Status.DeepCopy()
	if w.out.want == nil || w.out.written || w.spec.removed {
		return *have
	}
	want := w.out.want.DeepCopy()
	for _, c := range have.Conditions {
		if !slices.Contains(ownConditions, c.Type) && (w.memory.verdict == nil || c.Type != corev1.DisruptionTarget) {
			dropCondition(want, c.Type)
			want.Conditions = append(want.Conditions, c)
		}
	}
	return *want
}

// newer is whether a is a later version than b.
func newer(a, b *corev1.Pod) bool {
	va, erra := strconv.ParseUint(a.ResourceVersion, 10, 64)
	vb, errb := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return erra == nil && errb == nil && va > vb
}

// glance is what one sync works with.
type glance struct {
	view
	ended    int // operations that had ended before the look at the runtime
	removed  bool
	verdict  *Verdict
	failures map[string]failure
}

// look takes all that is shared with others at one moment.
func (w *worker) look(now time.Time) glance {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := glance{removed: w.spec.removed, verdict: w.memory.verdict, failures: maps.Clone(w.memory.failures)}
	g.pod, g.last, g.now = w.spec.pod, w.lastStatus(), now
	g.failing, g.hold = maps.Clone(w.memory.failing), map[string]time.Time{}
	for name, f := range w.memory.failures {
		g.hold[name] = f.retry
	}
	g.backOff = backOff{w.ws.cfg.Options.BackOff, w.ws.cfg.Options.MaxBackOff}
	return g
}

// run is the loop. It ends with ctx, or when nothing is left of the pod.
func (w *worker) run(ctx context.Context) {
	defer func() {
		for _, done := range w.wanting() {
			close(done)
		}
	}()
	defer close(w.done)
	defer w.ops.Wait()
	timer := w.ws.cfg.Clock.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C():
		}
		told := w.wanting()
		again, finished := w.sync(ctx)
		for _, done := range told {
			close(done)
		}
		if finished {
			return
		}
		timer.Reset(max(again, 0))
	}
}
