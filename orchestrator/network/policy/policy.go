package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/network/netns"
	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

const (
	checkEvery = time.Second           // how often the table is compared with what was written
	settle     = 50 * time.Millisecond // for more changes of the cluster
	patience   = 2 * time.Second       // for the object of a pod that is attached
	restFactor = 20                    // how many times as long as a comparison took there is none: other tables change often
)

// Config is what an Enforcer is made of. Its informers are started, after New, by whom they belong to.
type Config struct {
	Pods       cache.SharedIndexInformer // of all nodes; see Trim
	Namespaces cache.SharedIndexInformer
	Policies   cache.SharedIndexInformer
	DNS        []netip.Addr // addresses of this node under which it serves DNS
	NetNS      string       // path of the network namespace of the node; "": that of the process
	Clock      clock.Clock
	Logger     *zap.Logger
	Registerer prometheus.Registerer // or nil
}

// Enforcer enforces the NetworkPolicies of the pods of a node. It is the guard of the node's podnet.Network.
type Enforcer struct {
	clock    clock.Clock
	logger   *zap.Logger
	ns       *netns.NS
	table    *nft.Writer
	early    *nft.Writer
	metrics  *metrics
	sources  []source
	kicked   chan struct{}
	ready    chan struct{} // closed: the table was written
	patience time.Duration

	mu    sync.Mutex
	state *state
	left  map[string]bool // links that an earlier process cut off before it was ready
	wait  map[string]bool // sandboxes that were attached before ready
	fault error           // of the last write
}

// source is an informer that is listened to.
type source struct {
	informer cache.SharedIndexInformer
	reg      cache.ResourceEventHandlerRegistration
}

// New makes the enforcer of a node. It needs Close.
func New(c Config) (*Enforcer, error) {
	if c.Pods == nil || c.Namespaces == nil || c.Policies == nil {
		return nil, errors.New("policy: informers of pods, namespaces and network policies are needed")
	}
	ns, err := netns.Open(c.NetNS)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	fd := max(ns.Fd(), 0) // 0: that of the process
	e := &Enforcer{
		clock: c.Clock, logger: c.Logger, ns: ns, table: nft.NewWriter(TableName, fd), early: nft.NewWriter(waitingName, fd),
		kicked: make(chan struct{}, 1), ready: make(chan struct{}), patience: patience, state: newState(c.DNS), wait: map[string]bool{},
	}
	if e.clock == nil {
		e.clock = clock.Real
	}
	if e.logger == nil {
		e.logger = zap.NewNop()
	}
	if e.metrics, err = newMetrics(c.Registerer, e.count); err == nil {
		err = e.listen(c)
	}
	if err == nil {
		e.left, err = linksOf(fd, waitingName, links[egress])
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close lets go of what New opened. Policies go on to be enforced as they are.
func (e *Enforcer) Close() error {
	var errs []error
	for _, s := range e.sources {
		errs = append(errs, s.informer.RemoveEventHandler(s.reg))
	}
	e.metrics.unregister()
	return errors.Join(append(errs, e.ns.Close())...)
}

// listen follows the informers.
func (e *Enforcer) listen(c Config) error {
	type handlers struct {
		informer cache.SharedIndexInformer
		set      func(o any) bool
		drop     func(o any) bool
	}
	for _, h := range []handlers{
		{c.Pods, func(o any) bool { return e.state.setPod(o.(*corev1.Pod)) }, func(o any) bool {
			p, ok := o.(*corev1.Pod)
			return ok && e.state.dropPod(p.Namespace+"/"+p.Name)
		}},
		{c.Namespaces, func(o any) bool {
			n := o.(*corev1.Namespace)
			return e.state.setNamespace(n.Name, n.Labels)
		}, func(o any) bool {
			n, ok := o.(*corev1.Namespace)
			return ok && e.state.dropNamespace(n.Name)
		}},
		{c.Policies, func(o any) bool {
			e.state.setPolicy(o.(*networkingv1.NetworkPolicy))
			return true
		}, func(o any) bool {
			p, ok := o.(*networkingv1.NetworkPolicy)
			if ok {
				e.state.dropPolicy(p.Namespace, p.Name)
			}
			return ok
		}},
	} {
		reg, err := h.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { e.on(h.set, o) },
			UpdateFunc: func(was, is any) {
				if !sameSpec(was, is) {
					e.on(h.set, is)
				}
			},
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				e.on(h.drop, o)
			},
		})
		if err != nil {
			return fmt.Errorf("policy: %w", err)
		}
		e.sources = append(e.sources, source{h.informer, reg})
	}
	return nil
}

// sameSpec says that an event is about nothing that a policy says.
func sameSpec(was, is any) bool {
	a, ok := was.(*networkingv1.NetworkPolicy)
	b, also := is.(*networkingv1.NetworkPolicy)
	return ok && also && a.UID == b.UID && a.Generation == b.Generation && a.Generation != 0
}

// on takes note of something, and has the table written if it matters.
func (e *Enforcer) on(note func(o any) bool, o any) {
	e.mu.Lock()
	matters := note(o)
	e.mu.Unlock()
	if matters {
		e.kick()
	}
}

func (e *Enforcer) kick() {
	select {
	case e.kicked <- struct{}{}:
	default:
	}
}

// Trim is a transformation for an informer of pods: it leaves of a pod what an Enforcer looks at.
func Trim(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	slim := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion, Labels: p.Labels},
		Spec:       corev1.PodSpec{HostNetwork: p.Spec.HostNetwork},
		Status:     corev1.PodStatus{Phase: p.Status.Phase, PodIPs: p.Status.PodIPs},
	}
	if id, ok := p.Annotations[mirrorOf]; ok {
		slim.Annotations = map[string]string{mirrorOf: id}
	}
	for _, c := range p.Spec.Containers {
		slim.Spec.Containers = append(slim.Spec.Containers, corev1.Container{Ports: c.Ports})
	}
	for _, c := range p.Spec.InitContainers {
		slim.Spec.InitContainers = append(slim.Spec.InitContainers, corev1.Container{Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	return slim, nil
}

// Run keeps the table as policies say, until ctx ends. It leaves it in place.
func (e *Enforcer) Run(ctx context.Context) error {
	for _, s := range e.sources {
		if !cache.WaitForCacheSync(ctx.Done(), s.reg.HasSynced) {
			return ctx.Err()
		}
	}
	e.write()
	check := e.clock.NewTicker(checkEvery)
	defer check.Stop()
	var rest time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.kicked:
			e.pause(ctx, settle)
			e.write()
		case <-check.C():
			if start := e.clock.Now(); !start.Before(rest) {
				e.check()
				rest = e.clock.Now().Add(restFactor * e.clock.Now().Sub(start))
			}
		}
	}
}

func (e *Enforcer) pause(ctx context.Context, d time.Duration) {
	t := e.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
	case <-ctx.Done():
	}
}

// write writes what changed, and tells of what cannot be.
func (e *Enforcer) write() {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.writeLocked()
	if err != nil && (e.fault == nil || e.fault.Error() != err.Error()) {
		e.logger.Error("network policies are not enforced as they should be", zap.Error(err))
	}
	if err == nil && e.fault != nil {
		e.logger.Info("network policies are enforced again")
	}
	e.fault = err
}

// writeLocked writes what changed. The first time it lets pods out of the table of those that wait.
func (e *Enforcer) writeLocked() error {
	start := e.clock.Now()
	t := e.state.table()
	if err := e.table.Sync(t); err != nil {
		e.metrics.failures.Inc()
		return fmt.Errorf("policy: %w", err)
	}
	e.metrics.writes.Observe(e.clock.Now().Sub(start).Seconds())
	if e.isReady() {
		return nil
	}
	if err := e.early.Remove(); err != nil { // also one that an earlier process left
		return fmt.Errorf("policy: %w", err)
	}
	e.wait, e.left = nil, nil
	close(e.ready)
	return nil
}

func (e *Enforcer) isReady() bool {
	select {
	case <-e.ready:
		return true
	default:
		return false
	}
}

// check repairs the table when somebody changed it, and tries again what failed.
func (e *Enforcer) check() {
	e.mu.Lock()
	failed := e.fault != nil
	e.mu.Unlock()
	if failed {
		e.write()
		return
	}
	switch repaired, err := e.table.Check(); {
	case err != nil:
		e.logger.Warn("check the table", zap.Error(err))
	case repaired:
		e.metrics.repairs.Inc()
		e.logger.Warn("somebody changed the table, and it was written anew", zap.String("table", TableName))
	}
}
