package workers

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Workers runs the pods of a node.
type Workers struct {
	cfg         Config
	log         *zap.Logger
	rt          *cri
	puller      *puller
	users       *users
	allocations *allocations
	mirrors     *mirrors
	hooks       *http.Client
	metrics     *metrics

	mu      sync.Mutex
	workers map[types.UID]*worker
	ctx     context.Context // of Run; nil before and after
	loops   sync.WaitGroup
	back    map[types.UID]*corev1.Pod // static pods that came back while they were being ended
	synced  chan struct{}             // closed when the API server has told all pods
	read    chan struct{}             // closed when static pods were read for the first time
	once    sync.Once
}

// New makes workers, and takes up what earlier ones recorded. They do nothing before Run.
func New(cfg Config) (*Workers, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	b := backOff{cfg.Options.BackOff, cfg.Options.MaxBackOff}
	ws := &Workers{
		cfg: cfg, log: cfg.Logger, rt: &cri{runtime: cfg.Runtime}, puller: newPuller(cfg.Images, cfg.Options.MaxPulls, b),
		users: newUsers(cfg.Dir, cfg.Options.UserRangeStart, cfg.Options.MaxPods), allocations: newAllocations(cfg.Dir), mirrors: newMirrors(),
		hooks: newHookClient(), metrics: newMetrics(), workers: map[types.UID]*worker{}, back: map[types.UID]*corev1.Pod{}, synced: make(chan struct{}), read: make(chan struct{}),
	}
	// Before any pod comes, for it may be one that has been here.
	if err := ws.users.recover(); err != nil {
		return nil, err
	}
	return ws, ws.allocations.recover()
}

// Run runs pods until ctx ends. Pods stay alive then; another Run over the same runtime takes them up again.
func (ws *Workers) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ws.mu.Lock()
	ws.ctx = ctx
	for _, w := range ws.workers {
		ws.launch(w)
	}
	ws.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { ws.watchRuntime(ctx) })
	wg.Go(func() { ws.watchProber(ctx) })
	wg.Go(func() { ws.watchStatic(ctx) })
	wg.Go(func() { ws.sweep(ctx) })
	<-ctx.Done()
	wg.Wait()
	ws.mu.Lock()
	ws.ctx = nil
	ws.mu.Unlock()
	ws.loops.Wait()
	return nil
}

// launch starts a worker's loop. The caller holds mu.
func (ws *Workers) launch(w *worker) {
	ctx := ws.ctx
	ws.loops.Go(func() { w.run(ctx) })
}

// Set takes a pod of the API server, new or changed.
func (ws *Workers) Set(p *corev1.Pod) {
	if isMirror(p) {
		ws.mirrors.set(p)
		ws.kickByName(p.Namespace, p.Name)
		return
	}
	ws.set(p)
}

// Delete takes that a pod is gone from the API server.
func (ws *Workers) Delete(p *corev1.Pod) {
	if isMirror(p) {
		ws.mirrors.remove(p)
		ws.kickByName(p.Namespace, p.Name)
		return
	}
	ws.mu.Lock()
	w := ws.workers[p.UID]
	ws.mu.Unlock()
	if w != nil {
		w.remove()
	}
}

// Synced says that Set was called for every pod that the API server has. Only then can pods that the runtime has and nobody knows
// be told from those that are still to come.
func (ws *Workers) Synced() { ws.once.Do(func() { close(ws.synced) }) }

func (ws *Workers) set(p *corev1.Pod) {
	if r := ws.add(p); r != nil {
		ws.event(p, nil, corev1.EventTypeWarning, r.Reason, "%s", r.Message)
	}
}

func (ws *Workers) add(p *corev1.Pod) *Rejection {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w := ws.workers[p.UID]; w != nil {
		if isStatic(p) {
			ws.back[p.UID] = p
		}
		w.set(p)
		return nil
	}
	w := newWorker(ws, p)
	ws.workers[p.UID] = w
	r := ws.take(p)
	if r != nil {
		w.memory.verdict = reject(r)
	}
	if ws.ctx != nil {
		ws.launch(w)
	}
	return r
}

// take admits a pod that is new to the node. What it was allocated before, it keeps. The caller holds mu.
func (ws *Workers) take(p *corev1.Pod) *Rejection {
	if terminal(p.Status.Phase) || p.DeletionTimestamp != nil || ws.allocations.has(p.UID) {
		return nil
	}
	if p.Status.Phase != corev1.PodRunning { // one that runs was admitted, whatever became of the record
		if r := ws.admit(p, ws.active(p.UID)); r != nil {
			return r
		}
	}
	if err := ws.allocations.set(p); err != nil {
		return &Rejection{"UnexpectedAdmissionError", err.Error()}
	}
	return nil
}

// Active are the pods that hold resources of the node and that nothing ends yet, with what they were allocated.
func (ws *Workers) Active() (pods []*corev1.Pod) {
	for _, w := range ws.all() {
		w.mu.Lock()
		p, ended := w.shown(), w.spec.removed || terminal(w.base().Status.Phase) || w.memory.verdict != nil
		w.mu.Unlock()
		if !ended {
			pods = append(pods, ws.allocations.apply(p))
		}
	}
	return pods
}

// MayHave is whether the node has a pod, or something is left of it, or not all pods are known yet.
func (ws *Workers) MayHave(uid types.UID) bool {
	for _, told := range []chan struct{}{ws.synced, ws.read} {
		select {
		case <-told:
		default:
			return true
		}
	}
	return ws.has(uid)
}

func (ws *Workers) has(uid types.UID) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.workers[uid] != nil
}

// Ended is whether no container of a pod runs, as far as is known.
func (ws *Workers) Ended(uid types.UID) bool {
	ws.mu.Lock()
	w := ws.workers[uid]
	ws.mu.Unlock()
	if w == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.memory.seen != nil && !w.memory.seen.alive() && w.running.up == nil
}

// active are the pods that hold resources of the node, without one. The caller holds mu.
func (ws *Workers) active(but types.UID) (pods []*corev1.Pod) {
	for uid, w := range ws.workers {
		if uid == but {
			continue
		}
		w.mu.Lock()
		p, ended := w.spec.pod, w.spec.removed || terminal(w.base().Status.Phase) || w.memory.verdict != nil && w.memory.verdict.rejected
		w.mu.Unlock()
		if !ended {
			pods = append(pods, ws.allocations.apply(p))
		}
	}
	return pods
}

// drop forgets a worker whose pod is gone.
func (ws *Workers) drop(w *worker) {
	ws.mu.Lock()
	if ws.workers[w.uid] == w {
		delete(ws.workers, w.uid)
	}
	p := ws.back[w.uid]
	delete(ws.back, w.uid)
	ws.mu.Unlock()
	if p != nil {
		ws.set(p)
	}
}

// End stops a pod for a reason of the node, such as eviction. The pod fails with the verdict. It returns false if there is no
// such pod.
func (ws *Workers) End(uid types.UID, v Verdict) bool {
	ws.mu.Lock()
	w := ws.workers[uid]
	ws.mu.Unlock()
	if w == nil {
		return false
	}
	w.condemn(&v)
	return true
}

// wakeUp asks for a sync of a pod; it returns false if there is none of that UID.
func (ws *Workers) wakeUp(uid types.UID) bool {
	ws.mu.Lock()
	w := ws.workers[uid]
	ws.mu.Unlock()
	if w == nil {
		return false
	}
	w.kick()
	return true
}

func (ws *Workers) kickByName(namespace, name string) {
	for _, w := range ws.all() {
		if p := w.pod(); p.Namespace == namespace && p.Name == name {
			w.kick()
		}
	}
}

// all are the workers, sorted by their pods' UIDs.
func (ws *Workers) all() []*worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	list := make([]*worker, 0, len(ws.workers))
	for _, w := range ws.workers {
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b *worker) int { return strings.Compare(string(a.uid), string(b.uid)) })
	return list
}

// watchProber hands results of probes to the workers.
func (ws *Workers) watchProber(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c, ok := <-ws.cfg.Prober.Changes():
			if !ok {
				return
			}
			ws.mu.Lock()
			w := ws.workers[c.UID]
			ws.mu.Unlock()
			if w != nil {
				w.result(c)
			}
		}
	}
}
