package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// LinkPrefix is what the names of the node's ends of pods' links start with.
const LinkPrefix = "kpod"

// TableName is the name of the nftables table.
const TableName = "keelson-pods"

// routeProtocol marks the routes that are ours, in the main table.
const routeProtocol = 75

// Backend is how packets get from node to node.
type Backend string

// The backends.
const (
	Routes Backend = "routes" // by way of the other node's address, by VXLAN where that is not on the same link
	VXLAN  Backend = "vxlan"  // always by VXLAN
)

// Defaults of a Config.
const (
	DefaultBridge = "keelson0"
	DefaultVNI    = 7533
	DefaultPort   = 4789
)

// checkEvery is how often everything is compared, tableEvery how often the table is.
const (
	checkEvery = 10 * time.Second
	tableEvery = time.Second
	settle     = 100 * time.Millisecond // for more changes of the same kind
)

// Pod is a sandbox that is attached.
type Pod struct {
	ID                   string // of the sandbox
	Namespace, Name, UID string
	Link                 string // name of the node's end of its link
	Addresses            []netip.Addr
}

// Guard isolates pods.
type Guard interface {
	// Admit is called before a pod's link is made: when it returns, what may not reach the pod does not, nor does the pod reach what
	// it may not. An error keeps the pod from being attached.
	Admit(ctx context.Context, p Pod) error
	// Resume is called by New for pods that an earlier Network had attached and that have their links.
	Resume(p Pod)
	// Forget is called when a pod's interface is gone and before its addresses are given to another one.
	Forget(p Pod)
}

// Config is what a Network is made of.
type Config struct {
	Nodes   coreinformers.NodeInformer
	Node    string // name of this node
	Dir     string // for state, of this network alone
	NetNS   string // path of the network namespace of the node; "": that of the calling thread
	Bridge  string // name; "": DefaultBridge
	Backend Backend
	VNI     int // of the VXLAN; 0: DefaultVNI
	Port    int // of the VXLAN, UDP; 0: DefaultPort
	MTU     int // of pods' interfaces; 0: that of the uplink, less what a VXLAN takes
	// ClusterRanges are destinations that see pods under their own addresses, beside the ranges of all nodes.
	ClusterRanges []netip.Prefix
	Guard         Guard // or nil
	Clock         clock.Clock
	Logger        *zap.Logger
}

// Network is the network of a node's pods.
type Network struct {
	Config
	ns    netns.NsHandle
	nl    *netlink.Handle
	table *nft.Writer
	busy  keyed

	mu      sync.Mutex
	store   *store
	leaving map[string]bool // sandboxes that are being detached
	self    []netip.Addr    // internal addresses of this node
	peers   []peer
	based   bool  // what all pods need is there
	fault   error // of the last repair
	kicked  chan struct{}
}

// New opens the network of a node. What it finds in Config.Dir goes on to be attached. It needs Close.
func New(c Config) (*Network, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	c.Nodes.Informer() // so that a factory that is started from now on starts it
	ns, err := openNS(c.NetNS)
	if err != nil {
		return nil, err
	}
	n := &Network{Config: c, ns: ns, table: nft.NewWriter(TableName, int(ns)), leaving: map[string]bool{}, kicked: make(chan struct{}, 1)}
	n.nl, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("podnet: %w", err), ns.Close())
	}
	if n.store, err = openStore(c.Dir, c.Logger); err != nil {
		n.Close()
		return nil, err
	}
	if err := n.resume(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// resume tells the guard of pods that have their links. Others it is asked for when their links are made.
func (n *Network) resume() error {
	if n.Guard == nil {
		return nil
	}
	links, err := n.podLinks()
	if err != nil {
		return err
	}
	for _, p := range n.Pods() {
		if links[p.Link] != nil {
			n.Guard.Resume(p)
		}
	}
	return nil
}

func (c *Config) complete() error {
	if c.Bridge == "" {
		c.Bridge = DefaultBridge
	}
	if c.Backend == "" {
		c.Backend = Routes
	}
	if c.VNI == 0 {
		c.VNI = DefaultVNI
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	switch {
	case c.Node == "" || c.Dir == "" || c.Nodes == nil:
		return errors.New("podnet: a name of the node, a directory and an informer of nodes are needed")
	case c.Backend != Routes && c.Backend != VXLAN:
		return fmt.Errorf("podnet: backend %q: it is %q or %q", c.Backend, Routes, VXLAN)
	case len(c.Bridge) >= unix.IFNAMSIZ || c.Bridge == vxlanName:
		return fmt.Errorf("podnet: %q cannot be the name of a bridge", c.Bridge)
	case c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535):
		return fmt.Errorf("podnet: an MTU of %d is not between 576 and 65535", c.MTU)
	}
	return nil
}

// Close lets go of what New opened. Pods stay as they are.
func (n *Network) Close() {
	n.nl.Close()
	_ = n.ns.Close()
}

// Ready says why pods cannot be attached, or nil.
func (n *Network) Ready() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.store.node.Ranges) == 0 {
		return fmt.Errorf("podnet: node %s has no range of pod addresses yet (spec.podCIDRs is empty)", n.Node)
	}
	return n.fault
}

// Ranges are the node's ranges of pod addresses, the first one of the primary family.
func (n *Network) Ranges() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.store.node.Ranges)
}

// Gateways are the node's addresses as its pods see them, one per range.
func (n *Network) Gateways() (all []netip.Addr) {
	for _, p := range n.Ranges() {
		all = append(all, gateway(p))
	}
	return all
}

// Pods lists what is attached, by sandbox id.
func (n *Network) Pods() []Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]Pod, 0, len(n.store.records))
	for _, r := range n.store.records {
		all = append(all, r.pod())
	}
	slices.SortFunc(all, func(a, b Pod) int { return compare(a.ID, b.ID) })
	return all
}

func (r *record) pod() Pod {
	return Pod{ID: r.ID, Namespace: r.Namespace, Name: r.Name, UID: r.UID, Link: r.Link, Addresses: slices.Clone(r.Addresses)}
}

// Run follows the cluster's nodes and repairs, until ctx ends. The informer of nodes is started by whom it belongs to.
func (n *Network) Run(ctx context.Context) error {
	i := n.Nodes.Informer()
	reg, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { n.kick() },
		UpdateFunc: func(was, is any) { n.changed(was.(*corev1.Node), is.(*corev1.Node)) },
		DeleteFunc: func(any) { n.kick() },
	})
	if err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	defer func() { _ = i.RemoveEventHandler(reg) }()
	if !cache.WaitForCacheSync(ctx.Done(), reg.HasSynced) {
		return ctx.Err()
	}
	stop := n.watchKernel()
	defer stop()
	check, table := n.Clock.NewTicker(checkEvery), n.Clock.NewTicker(tableEvery)
	defer check.Stop()
	defer table.Stop()
	for {
		n.reconcile(ctx)
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-check.C():
				again = true
			case <-n.kicked:
				again = n.pause(ctx, settle)
			case <-table.C():
				n.checkTable()
			}
		}
	}
}

// pause waits, and says whether it was to the end.
func (n *Network) pause(ctx context.Context, d time.Duration) bool {
	t := n.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

func (n *Network) kick() {
	select {
	case n.kicked <- struct{}{}:
	default:
	}
}

// changed kicks when what matters of a node changed; heartbeats do not.
func (n *Network) changed(was, is *corev1.Node) {
	if !slices.Equal(was.Spec.PodCIDRs, is.Spec.PodCIDRs) || !slices.Equal(was.Status.Addresses, is.Status.Addresses) {
		n.kick()
	}
}

// watchKernel kicks when links or routes are deleted. What it misses, the next check finds.
func (n *Network) watchKernel() (stop func()) {
	done := make(chan struct{})
	links, routes := make(chan netlink.LinkUpdate, 16), make(chan netlink.RouteUpdate, 16)
	var wg sync.WaitGroup
	failed := func(err error) { n.Logger.Debug("watch the kernel's network", zap.Error(err)) }
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &n.ns, ErrorCallback: failed}); err == nil {
		wg.Go(func() {
			for u := range links {
				if u.Header.Type == unix.RTM_DELLINK || u.Attrs().Flags&1 == 0 {
					n.kick()
				}
			}
		})
	}
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &n.ns, ErrorCallback: failed}); err == nil {
		wg.Go(func() {
			for u := range routes {
				if u.Type == unix.RTM_DELROUTE && u.Protocol == routeProtocol {
					n.kick()
				}
			}
		})
	}
	return func() {
		close(done)
		wg.Wait()
	}
}
