package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/network/netns"
	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// Config is what a Proxy is made of.
type Config struct {
	Services cache.SharedIndexInformer // of *corev1.Service
	Slices   cache.SharedIndexInformer // of *discoveryv1.EndpointSlice
	Nodes    cache.SharedIndexInformer // of *corev1.Node
	Node     string                    // name of this node
	// ClusterRanges are addresses of pods, beside the ranges of all nodes (spec.podCIDRs).
	ClusterRanges []netip.Prefix
	// ServiceRanges are where cluster IPs are from. What is sent to one that no service has is dropped.
	ServiceRanges []netip.Prefix
	// NodePortAddresses are the node's addresses that have node ports. Where there is none of a family, all have, except for
	// loopback addresses.
	NodePortAddresses []netip.Prefix
	// MinInterval is the least time between two changes of the table; 0: 50 ms.
	MinInterval time.Duration
	NetNS       string // path of the network namespace of the node; "": that of the process
	Registerer  prometheus.Registerer
	Clock       clock.Clock
	Logger      *zap.Logger
}

const (
	defaultInterval = 50 * time.Millisecond
	checkEvery      = time.Second
	retryAfter      = time.Second
	// checkShare is which part of the time may go into looking at the table: one in so many.
	checkShare = 20
)

// Proxy serves the services of a cluster on a node.
type Proxy struct {
	Config
	ns      *netns.NS
	nl      *netlink.Handle
	table   *nft.Writer
	state   *State
	health  *checker
	metrics *metrics
	kicked  chan struct{}

	// Run's alone.
	whole    bool   // the next sync writes the whole table
	again    bool   // the last sync left something undone
	told     string // what was said about it
	triggers []time.Time
	flows    []flow // to be forgotten
	checks   bool   // health checks are to be looked at
	nextLook time.Time

	mu     sync.Mutex
	synced bool
	fault  error // of the last sync
}

var errNotSynced = errors.New("proxy: nothing was written yet")

// New makes a proxy. It needs Close, after which the table stays as it is. The informers are started by whom they belong to.
func New(c Config) (*Proxy, error) {
	if c.Services == nil || c.Slices == nil || c.Nodes == nil || c.Node == "" {
		return nil, errors.New("proxy: informers of services, slices and nodes, and the name of the node are needed")
	}
	if c.MinInterval <= 0 {
		c.MinInterval = defaultInterval
	}
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	ns, err := netns.Open(c.NetNS)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{Config: c, ns: ns, whole: true, kicked: make(chan struct{}, 1), metrics: newMetrics(), fault: errNotSynced}
	p.table = nft.NewWriter(TableName, max(ns.Fd(), 0))
	p.state = newState(c.Node, surroundings{cluster: c.ClusterRanges, ranges: c.ServiceRanges, nodeAddresses: c.NodePortAddresses})
	p.health = newChecker(ns, p.Healthy, c.Logger)
	if p.nl, err = handle(ns); err != nil {
		return nil, errors.Join(fmt.Errorf("proxy: %w", err), ns.Close())
	}
	if err := p.metrics.register(c.Registerer); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func handle(ns *netns.NS) (*netlink.Handle, error) {
	if ns == nil {
		return netlink.NewHandle(unix.NETLINK_NETFILTER)
	}
	return netlink.NewHandleAt(vnetns.NsHandle(ns.Fd()), unix.NETLINK_NETFILTER)
}

// Close lets go of what New opened.
func (p *Proxy) Close() {
	p.nl.Close()
	_ = p.ns.Close()
}

// Synced says whether the table was written once.
func (p *Proxy) Synced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.synced
}

// Healthy says why the table is not what it should be, or nil.
func (p *Proxy) Healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// Remove deletes the table, for a node that is none any more.
func (p *Proxy) Remove() error { return p.table.Remove() }

// Run keeps the table up to date until ctx ends. The table stays.
func (p *Proxy) Run(ctx context.Context) error {
	stop, synced, err := p.follow()
	defer stop()
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	defer p.health.close()
	look := p.Clock.NewTicker(checkEvery)
	defer look.Stop()
	retry := p.Clock.NewTimer(retryAfter)
	defer retry.Stop()
	p.kick()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C():
			p.look()
			continue
		case <-p.kicked:
		case <-retry.C():
			if !p.again {
				continue
			}
		}
		if p.sync(); p.again {
			retry.Reset(retryAfter)
		}
		if !p.pause(ctx, p.MinInterval) {
			return ctx.Err()
		}
	}
}

// pause waits, and says whether it was to the end.
func (p *Proxy) pause(ctx context.Context, d time.Duration) bool {
	t := p.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *Proxy) kick() {
	p.metrics.queued.Set(seconds(p.Clock.Now()))
	select {
	case p.kicked <- struct{}{}:
	default:
	}
}

// sync writes what changed.
func (p *Proxy) sync() {
	begun := p.Clock.Now()
	c := p.state.Change()
	p.flows, p.triggers, p.checks = append(p.flows, c.flows...), append(p.triggers, c.Triggers...), p.checks || c.health
	fault := p.write(c.Patch)
	p.mu.Lock()
	p.synced, p.fault = p.synced || fault == nil, fault
	p.mu.Unlock()
	err := fault
	if err == nil {
		p.metrics.wrote(begun, p.Clock.Now(), p.state.take(), p.triggers)
		p.triggers = nil
		err = p.after()
	}
	text := ""
	if p.again = err != nil; p.again {
		text = err.Error()
	}
	if p.again && text != p.told {
		p.Logger.Warn("services are not as they should be", zap.Error(err))
	}
	p.told = text
}

// write writes a change, or the whole table.
func (p *Proxy) write(c *nft.Patch) error {
	var err error
	if p.whole {
		err = p.table.Sync(p.state.Table())
	} else {
		err = p.table.Patch(c)
	}
	p.whole = err != nil
	if err != nil {
		p.metrics.failures.Inc()
	}
	return err
}

// after does what follows a change of the table. What fails is left for the next time.
func (p *Proxy) after() (err error) {
	if len(p.flows) > 0 {
		if err = forget(p.nl, p.flows); err == nil {
			p.flows = nil
		}
	}
	if p.checks {
		failed := p.health.set(p.state.checks())
		p.checks = failed != nil
		err = errors.Join(err, failed)
	}
	return err
}

// look repairs the table when somebody changed it.
func (p *Proxy) look() {
	begun := p.Clock.Now()
	if begun.Before(p.nextLook) {
		return
	}
	repaired, err := p.table.Check()
	now := p.Clock.Now()
	p.nextLook = now.Add(checkShare * now.Sub(begun))
	switch {
	case err != nil:
		p.whole = true
		p.Logger.Warn("check the table", zap.Error(err))
		p.kick()
	case repaired:
		p.metrics.repairs.Inc()
		p.Logger.Warn("somebody changed the table, and it was written anew", zap.String("table", TableName))
	}
}

// follow takes what informers see. stop takes the handlers away again.
func (p *Proxy) follow() (stop func(), synced []cache.InformerSynced, err error) {
	type registered struct {
		informer cache.SharedIndexInformer
		handle   cache.ResourceEventHandlerRegistration
	}
	var all []registered
	stop = func() {
		for _, r := range all {
			_ = r.informer.RemoveEventHandler(r.handle)
		}
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{p.Services, handlers(p, p.state.SetService, p.state.DropService)},
		{p.Slices, handlers(p, p.state.SetSlice, p.state.DropSlice)},
		{p.Nodes, handlers(p, p.state.SetNode, p.state.DropNode)},
	} {
		r, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return stop, nil, fmt.Errorf("proxy: %w", err)
		}
		all = append(all, registered{w.informer, r})
		synced = append(synced, r.HasSynced)
	}
	return stop, synced, nil
}

// object is what the informers have.
type object interface {
	*corev1.Service | *discoveryv1.EndpointSlice | *corev1.Node
}

// handlers are two functions as an informer calls them.
func handlers[T object](p *Proxy, set, drop func(T) bool) cache.ResourceEventHandler {
	on := func(f func(T) bool) func(any) {
		return func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if t, ok := o.(T); ok && f(t) {
				p.kick()
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: on(set), DeleteFunc: on(drop), UpdateFunc: func(_, o any) { on(set)(o) }}
}
