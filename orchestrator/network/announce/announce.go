//go:build linux

package announce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/network/netns"
)

// Config is what an Announcer is made of.
type Config struct {
	Client                  kubernetes.Interface
	Nodes, Services, Slices cache.SharedIndexInformer
	Node                    string                // name of this node
	Pool                    func(netip.Addr) bool // which addresses are announced
	Sink                    string                // link for packets to ports that no service has
	NetNS                   string                // path of the network namespace of the node; "": that of the process
	Clock                   clock.Clock
	Logger                  *zap.Logger
}

const (
	settle     = 100 * time.Millisecond // for more changes
	checkEvery = 5 * time.Second
	repeats    = 3 // how often what is new is told
)

// Announcer answers for addresses.
type Announcer struct {
	Config
	ns     *netns.NS
	nl     *netlink.Handle
	kicked chan struct{}
	untold map[netip.Addr]int // how often addresses are still to be told
	fault  string             // of the last time
}

// New makes an announcer. It needs Close. The informers are started by whom they belong to.
func New(c Config) (*Announcer, error) {
	if c.Client == nil || c.Nodes == nil || c.Services == nil || c.Slices == nil || c.Node == "" || c.Pool == nil || c.Sink == "" {
		return nil, errors.New("announce: a client, informers, the name of the node, a pool and a sink are needed")
	}
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	ns, err := netns.Open(c.NetNS)
	if err != nil {
		return nil, fmt.Errorf("announce: %w", err)
	}
	n := &Announcer{Config: c, ns: ns, kicked: make(chan struct{}, 1), untold: map[netip.Addr]int{}}
	if ns == nil {
		n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	} else {
		n.nl, err = netlink.NewHandleAt(vnetns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("announce: %w", err), ns.Close())
	}
	return n, nil
}

// Close lets go of what New opened.
func (n *Announcer) Close() {
	n.nl.Close()
	_ = n.ns.Close()
}

// Run answers until ctx ends, and then no more.
func (n *Announcer) Run(ctx context.Context) error {
	for _, i := range []cache.SharedIndexInformer{n.Nodes, n.Services, n.Slices} {
		r, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { n.kick(o) }, UpdateFunc: func(_, o any) { n.kick(o) }, DeleteFunc: func(any) { n.kick(nil) },
		})
		if err != nil {
			return fmt.Errorf("announce: %w", err)
		}
		defer func() { _ = i.RemoveEventHandler(r) }()
		if !cache.WaitForCacheSync(ctx.Done(), r.HasSynced) {
			return ctx.Err()
		}
	}
	defer func() { _ = n.reconcile(nil) }()
	for {
		n.note(errors.Join(n.tell(ctx), n.reconcile(n.world().mine(n.Node))))
		if !n.pause(ctx) {
			return ctx.Err()
		}
	}
}

// kick wakes Run. Slices and services that no load balancer has to do with are most.
func (n *Announcer) kick(o any) {
	if s, ok := o.(*corev1.Service); ok && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	select {
	case n.kicked <- struct{}{}:
	default:
	}
}

// pause waits for something to do, and says whether there is.
func (n *Announcer) pause(ctx context.Context) bool {
	every := checkEvery
	if len(n.untold) > 0 {
		every = time.Second
	}
	t := n.Clock.NewTimer(every)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-n.kicked:
		t.Reset(settle)
	case <-ctx.Done():
		return false
	}
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

func (n *Announcer) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != n.fault {
		n.Logger.Warn("addresses of load balancers are not announced as they should be", zap.Error(err))
	}
	n.fault = text
}

func (n *Announcer) world() *world {
	w := &world{pool: n.Pool}
	for _, o := range n.Nodes.GetStore().List() {
		w.nodes = append(w.nodes, o.(*corev1.Node))
	}
	local := false
	for _, o := range n.Services.GetStore().List() {
		if s := o.(*corev1.Service); s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			w.services = append(w.services, s)
			local = local || s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
		}
	}
	if local {
		for _, o := range n.Slices.GetStore().List() {
			w.slices = append(w.slices, o.(*discoveryv1.EndpointSlice))
		}
	}
	return w
}

// tell lets the other nodes know that this one announces.
func (n *Announcer) tell(ctx context.Context) error {
	o, exists, err := n.Nodes.GetStore().GetByKey(n.Node)
	if err != nil || !exists {
		return err
	}
	if _, told := o.(*corev1.Node).Annotations[Annotation]; told {
		return nil
	}
	return annotate(ctx, n.Client, n.Node, `"true"`)
}

func annotate(ctx context.Context, client kubernetes.Interface, node, value string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%s}}}`, Annotation, value)
	if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}

// Withdraw lets the other nodes know that a node, if there is one of that name, announces no more.
func Withdraw(ctx context.Context, client kubernetes.Interface, node string) error {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	if _, told := n.Annotations[Annotation]; !told {
		return nil
	}
	return annotate(ctx, client, node, "null")
}
