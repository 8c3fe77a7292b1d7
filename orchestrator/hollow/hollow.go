// Package hollow simulates nodes: it registers them, sends their heartbeats, and takes pods through their lives without
// running anything. Schedulers, controllers and API servers cannot tell the difference, so thousands of nodes fit in a
// process.
//
// # What a hollow pod does
//
// A pod that is bound to a hollow node gets an address, its init containers complete, its containers start and become ready.
// With a restart policy other than Always its containers end with exit code 0 after the time that the annotation
// hollow.keelson.io/run-for says (a duration, "5s"), and stay running without it. A pod that is being deleted goes at once, or
// after the time that hollow.keelson.io/stop-for says, but not after its grace period; one with finalizers has failed then, with
// exit code 137. hollow.keelson.io/never-ready: "true"
// keeps it from being ready, as long as it is there; hollow.keelson.io/exit-code sets the code with which its containers end.
// With the restart policy OnFailure containers that failed run again: at once, and after the next failures later and later.
// hollow.keelson.io/fail-first: "2" has only the first two runs fail. An annotation with an index behind it, as in
// hollow.keelson.io/exit-code.3, is for the pods of that completion index of a job, and stands above the one for all.
//
// A pod whose host port another one has on its node is rejected, that is it fails. A pod fails at its active deadline. What is
// changed in its spec is observed: its status says which generation, containers have their new images, and new ephemeral
// containers run.
//
// # Concurrency
//
// All nodes share one informer of pods and one work queue: a node costs a few hundred bytes and a heartbeat.
package hollow

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// Annotations of hollow pods.
const (
	runForAnnotation     = "hollow.keelson.io/run-for"
	neverReadyAnnotation = "hollow.keelson.io/never-ready"
	exitCodeAnnotation   = "hollow.keelson.io/exit-code"
	failFirstAnnotation  = "hollow.keelson.io/fail-first"
	stopForAnnotation    = "hollow.keelson.io/stop-for"
)

// Config says what nodes there are.
type Config struct {
	Count    int    // of nodes
	Prefix   string // of their names; "hollow-"
	Capacity corev1.ResourceList
	Version  string // of the kubelet that they claim to be
	Zones    int    // over which nodes are spread evenly; 0: nodes are in no zone
	// Unstarted leaves pods pending for ever: they are bound, and go when they are deleted, but their status is not written.
	// It is for measurements of schedulers, which the work of thousands of nodes in the same process would distort; therefore
	// leases are renewed half as often, too.
	Unstarted bool
	Clock     clock.Clock
	Logger    *zap.Logger
}

const (
	leaseSeconds = 40
	// renewInterval is a quarter of the time after which a node that is not heard from is suspected.
	renewInterval = leaseSeconds / 4 * time.Second
	workers       = 8
	registering   = 32 // nodes at the same time
	beaters       = 64
)

// Nodes are hollow nodes.
type Nodes struct {
	cfg    Config
	client kubernetes.Interface
	pods   cache.SharedIndexInformer
	queue  workqueue.TypedRateLimitingInterface[string]
	leases []*coordinationv1.Lease // of the nodes, as the last renewal left them; each belongs to the goroutine that renews it

	mu        sync.Mutex
	addresses map[string]netip.Addr // of pods, by UID
	next      netip.Addr
}

// New makes nodes. The informers are started by the caller, after New.
func New(client kubernetes.Interface, i informers.SharedInformerFactory, cfg Config) (*Nodes, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = "hollow-"
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Capacity == nil {
		cfg.Capacity = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"),
			corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		}
	}
	n := &Nodes{
		cfg: cfg, client: client, pods: i.Core().V1().Pods().Informer(), leases: make([]*coordinationv1.Lease, cfg.Count), addresses: map[string]netip.Addr{}, next: netip.MustParseAddr("10.128.0.1"),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	_, err := n.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: n.seen, UpdateFunc: func(_, o any) { n.seen(o) }, DeleteFunc: n.gone,
	})
	return n, err
}

// Name is the name of the i-th node, from 0 on.
func (n *Nodes) Name(i int) string { return n.cfg.Prefix + strconv.Itoa(i) }

// index is the number of a node; mine is false if it is not one of these.
func (n *Nodes) index(node string) (i int, mine bool) {
	rest, ok := strings.CutPrefix(node, n.cfg.Prefix)
	if !ok {
		return 0, false
	}
	i, err := strconv.Atoi(rest)
	return i, err == nil && i >= 0 && i < n.cfg.Count
}

// nodeAddress is the address of the i-th node.
func nodeAddress(i int) string {
	i++ // 10.0.0.0 is a network
	return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
}

func (n *Nodes) seen(o any) {
	if p, ok := o.(*corev1.Pod); ok {
		if _, mine := n.index(p.Spec.NodeName); mine {
			n.queue.Add(p.Namespace + "/" + p.Name)
		}
	}
}

func (n *Nodes) gone(o any) {
	if u, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = u.Obj
	}
	if p, ok := o.(*corev1.Pod); ok {
		n.mu.Lock()
		delete(n.addresses, string(p.UID))
		n.mu.Unlock()
	}
}

// Run registers the nodes, calls registered, and runs the nodes until ctx ends.
func (n *Nodes) Run(ctx context.Context, registered func()) error {
	defer n.queue.ShutDown()
	if err := n.register(ctx); err != nil {
		return err
	}
	registered()
	if !cache.WaitForCacheSync(ctx.Done(), n.pods.HasSynced) {
		return ctx.Err()
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n.work(ctx) {
			}
		})
	}
	wg.Go(func() { n.beat(ctx) })
	<-ctx.Done()
	n.queue.ShutDown()
	wg.Wait()
	return nil
}

func (n *Nodes) register(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(registering)
	for i := range n.cfg.Count {
		g.Go(func() error {
			if err := n.registerOne(ctx, i); err != nil {
				return fmt.Errorf("hollow: registering %s: %w", n.Name(i), err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (n *Nodes) registerOne(ctx context.Context, i int) error {
	node, nodes := n.node(i), n.client.CoreV1().Nodes()
	made, err := nodes.Create(ctx, node, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	err = retry.OnError(retry.DefaultBackoff, apierrors.IsConflict, func() error { // controllers change new nodes at once
		if err != nil {
			if made, err = nodes.Get(ctx, node.Name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		made = made.DeepCopy()
		made.Status = node.Status
		_, err = nodes.UpdateStatus(ctx, made, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return n.renew(ctx, i)
}

func (n *Nodes) node(i int) *corev1.Node {
	name := n.Name(i)
	now := metav1.Time{Time: n.cfg.Clock.Now()}
	condition := func(t corev1.NodeConditionType, s corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: t, Status: s, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	labels := map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}
	if n.cfg.Zones > 0 {
		labels[corev1.LabelTopologyZone] = "zone-" + strconv.Itoa(i%n.cfg.Zones)
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status: corev1.NodeStatus{
			Capacity: n.cfg.Capacity, Allocatable: n.cfg.Capacity,
			Conditions: []corev1.NodeCondition{
				condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
				condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
				condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
				condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"),
			},
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: nodeAddress(i)},
				{Type: corev1.NodeHostName, Address: name},
			},
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: n.cfg.Version, ContainerRuntimeVersion: "hollow://1", OperatingSystem: "linux", Architecture: "amd64", OSImage: "hollow",
			},
		},
	}
}

// beat renews the leases of all nodes, evenly over time. Every beater has its own nodes, so that no late answer makes the
// others late.
func (n *Nodes) beat(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	count, every := min(beaters, n.cfg.Count), renewInterval
	if n.cfg.Unstarted {
		every *= 2
	}
	for first := range count {
		wg.Go(func() {
			t := n.cfg.Clock.NewTicker(every / time.Duration((n.cfg.Count-first+count-1)/count))
			defer t.Stop()
			for i := first; ; {
				select {
				case <-t.C():
				case <-ctx.Done():
					return
				}
				if err := n.renew(ctx, i); err != nil && ctx.Err() == nil {
					n.cfg.Logger.Warn("a node's lease was not renewed", zap.String("node", n.Name(i)), zap.Error(err))
				}
				if i += count; i >= n.cfg.Count {
					i = first
				}
			}
		})
	}
}

// renew renews the lease of the i-th node: the one that the last renewal left, as kubelets do it, or if there is none or
// somebody else changed it, the one that the API server has.
func (n *Nodes) renew(ctx context.Context, i int) error {
	name := n.Name(i)
	leases := n.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NewMicroTime(n.cfg.Clock.Now())
	var err error
	l := n.leases[i]
	n.leases[i] = nil
	if l == nil {
		if l, err = leases.Get(ctx, name, metav1.GetOptions{}); err == nil {
			l = l.DeepCopy()
		}
	}
	if apierrors.IsNotFound(err) {
		l, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: ptr.To(int32(leaseSeconds)), RenewTime: &now},
		}, metav1.CreateOptions{})
	} else if err == nil {
		l.Spec.RenewTime = &now
		l, err = leases.Update(ctx, l, metav1.UpdateOptions{})
	}
	if err != nil {
		return err
	}
	l = l.DeepCopy()
	l.ManagedFields = nil // the server knows them
	n.leases[i] = l
	return nil
}

func (n *Nodes) work(ctx context.Context) bool {
	key, quit := n.queue.Get()
	if quit {
		return false
	}
	defer n.queue.Done(key)
	again, err := n.sync(ctx, key)
	switch {
	case err == nil:
		n.queue.Forget(key)
		if again > 0 {
			n.queue.AddAfter(key, again)
		}
	case ctx.Err() == nil:
		n.queue.AddRateLimited(key)
	}
	return true
}

// sync takes a pod one step on, and says when it is to be looked at again.
func (n *Nodes) sync(ctx context.Context, key string) (again time.Duration, err error) {
	x, exists, err := n.pods.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return 0, err
	}
	p := x.(*corev1.Pod)
	if _, mine := n.index(p.Spec.NodeName); !mine {
		return 0, nil
	}
	pods := n.client.CoreV1().Pods(p.Namespace)
	if p.DeletionTimestamp != nil {
		if left := n.stopping(p); left > 0 {
			return left, nil
		}
		if s := n.stopped(p); s != nil {
			return 0, n.write(ctx, p, s)
		}
		err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			err = nil
		}
		return 0, err
	}
	if n.cfg.Unstarted {
		return 0, nil
	}
	status, again := n.step(p)
	if status == nil {
		return again, nil
	}
	return again, n.write(ctx, p, status)
}

// write writes the status of a pod.
func (n *Nodes) write(ctx context.Context, p *corev1.Pod, s *corev1.PodStatus) error {
	c := p.DeepCopy()
	c.Status = *s
	_, err := n.client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, c, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
