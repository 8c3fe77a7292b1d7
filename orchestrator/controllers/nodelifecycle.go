package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	// Kubernetes' own times; see Disruption.
	nodeMonitorPeriod = 5 * time.Second
	nodeGrace         = 50 * time.Second
	nodeStartupGrace  = time.Minute
)

// taintOf is the taint that stands for a condition of a node with a status.
var taintOf = map[corev1.NodeConditionType]map[corev1.ConditionStatus]string{
	corev1.NodeReady:              {corev1.ConditionFalse: corev1.TaintNodeNotReady, corev1.ConditionUnknown: corev1.TaintNodeUnreachable},
	corev1.NodeMemoryPressure:     {corev1.ConditionTrue: corev1.TaintNodeMemoryPressure},
	corev1.NodeDiskPressure:       {corev1.ConditionTrue: corev1.TaintNodeDiskPressure},
	corev1.NodePIDPressure:        {corev1.ConditionTrue: corev1.TaintNodePIDPressure},
	corev1.NodeNetworkUnavailable: {corev1.ConditionTrue: corev1.TaintNodeNetworkUnavailable},
}

// ownTaints are the taints that this controller puts on and takes off.
var ownTaints = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
	corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable,
}

// nodeLifecycle watches over nodes: it notices those that fall silent, keeps the taints that follow from their conditions,
// and tells their pods' watchers that the pods are not ready. Another controller evicts the pods.
type nodeLifecycle struct {
	*loop
	client kubernetes.Interface
	nodes  cache.Indexer
	leases cache.Indexer
	pods   cache.Indexer
	events record.EventRecorder
	clock  clock.Clock
	zones  *zones
	times  Disruption

	mu    sync.Mutex
	heard map[string]sign
}

// sign is the last sign of life of a node: what it said, and when that was noticed, by this process's clock.
type sign struct {
	renewed, heartbeat time.Time
	noticed            time.Time
}

// NewNodeLifecycle makes the controller that watches over nodes.
func NewNodeLifecycle(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger, d Disruption) (Controller, error) {
	if d.Period <= 0 {
		return nil, fmt.Errorf("controllers: nodes cannot be looked at every %v", d.Period)
	}
	nodes, leases, pods := i.Core().V1().Nodes().Informer(), i.Coordination().V1().Leases().Informer(), i.Core().V1().Pods().Informer()
	n := &nodeLifecycle{
		loop: newLoop("node-lifecycle", lg), client: client, nodes: nodes.GetIndexer(), leases: leases.GetIndexer(), pods: pods.GetIndexer(),
		events: events, clock: c, zones: newZones(d), times: d, heard: map[string]sign{},
	}
	n.sync = n.syncOne
	n.synced = append(n.synced, leases.HasSynced, pods.HasSynced)
	return n, errors.Join(indexPodsByNode(pods), n.watch(nodes, objects(func(o *corev1.Node) { n.add(o) })))
}

// Metrics are those of the queue and of the zones.
func (n *nodeLifecycle) Metrics() []prometheus.Collector {
	return append(n.loop.Metrics(), n.zones.metrics()...)
}

// Run works until ctx ends.
func (n *nodeLifecycle) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { n.monitor(ctx) })
	err := n.run(ctx, 4)
	wg.Wait()
	return err
}

// monitor looks at all nodes from time to time.
func (n *nodeLifecycle) monitor(ctx context.Context) {
	t := n.clock.NewTicker(n.times.Period)
	defer t.Stop()
	for {
		select {
		case <-t.C():
		case <-ctx.Done():
			return
		}
		n.look()
	}
}

// look looks at the state of the zones, and at all nodes.
func (n *nodeLifecycle) look() {
	all := n.nodes.List()
	nodes := make([]*corev1.Node, 0, len(all))
	for _, x := range all {
		if node, ok := x.(*corev1.Node); ok {
			nodes = append(nodes, node)
		}
	}
	if n.zones.look(nodes) {
		n.lg.Info("nodes are ready again; all get their time to be heard")
		n.mu.Lock()
		for name, s := range n.heard {
			s.noticed = n.clock.Now()
			n.heard[name] = s
		}
		n.mu.Unlock()
	}
	for _, node := range nodes {
		n.add(node)
	}
}

func (n *nodeLifecycle) syncOne(ctx context.Context, name string) error {
	x, exists, err := n.nodes.GetByKey(name)
	if err != nil {
		return err
	}
	if !exists {
		n.mu.Lock()
		delete(n.heard, name)
		n.mu.Unlock()
		n.zones.leave(name)
		return nil
	}
	node := x.(*corev1.Node)
	if n.silent(node) {
		if node, err = n.giveUp(ctx, node); err != nil {
			return ignoreMissing(err)
		}
	}
	if err := n.taint(ctx, node); err != nil {
		return ignoreMissing(err)
	}
	if c := nodeCondition(node, corev1.NodeReady); c != nil && c.Status != corev1.ConditionTrue {
		return n.podsNotReady(ctx, node)
	}
	return nil
}

func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func nodeCondition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// silent says whether a node has given no sign of life for too long.
func (n *nodeLifecycle) silent(node *corev1.Node) bool {
	var s sign
	if x, exists, err := n.leases.GetByKey(corev1.NamespaceNodeLease + "/" + node.Name); err == nil && exists {
		if t := x.(*coordinationv1.Lease).Spec.RenewTime; t != nil {
			s.renewed = t.Time
		}
	}
	grace := n.times.StartupGrace
	if c := nodeCondition(node, corev1.NodeReady); c != nil {
		s.heartbeat, grace = c.LastHeartbeatTime.Time, n.times.Grace
	}
	now := n.clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	last, known := n.heard[node.Name]
	if !known || !last.renewed.Equal(s.renewed) || last.heartbeat.Before(s.heartbeat) {
		s.noticed = now
		n.heard[node.Name] = s
		return false
	}
	return now.Sub(last.noticed) > grace
}

// watched are the conditions that nobody knows of a node that is silent.
var watched = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

// giveUp says of a node that nothing is known of it.
func (n *nodeLifecycle) giveUp(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	c := node.DeepCopy()
	now := metav1.Time{Time: n.clock.Now().Truncate(time.Second)}
	for _, t := range watched {
		have := nodeCondition(c, t)
		switch {
		case have == nil:
			c.Status.Conditions = append(c.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
		case have.Status != corev1.ConditionUnknown:
			have.Status, have.LastTransitionTime = corev1.ConditionUnknown, now
			have.Reason, have.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
		}
	}
	if equality.Semantic.DeepEqual(c.Status, node.Status) {
		return node, nil
	}
	updated, err := n.client.CoreV1().Nodes().UpdateStatus(ctx, c, metav1.UpdateOptions{})
	if err == nil {
		n.lg.Warn("a node is silent", zap.String("node", node.Name))
		n.events.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	return updated, err
}

// taint gives a node the taints that follow from its conditions, and takes those off that do not.
func (n *nodeLifecycle) taint(ctx context.Context, node *corev1.Node) error {
	want := n.inTurn(node, wantedTaints(node))
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		i := slices.IndexFunc(want, func(w corev1.Taint) bool { return w.Key == t.Key && w.Effect == t.Effect })
		switch {
		case i >= 0:
			want = slices.Delete(want, i, i+1)
			taints = append(taints, t)
		case !slices.Contains(ownTaints, t.Key) || t.Effect != corev1.TaintEffectNoSchedule && t.Effect != corev1.TaintEffectNoExecute:
			taints = append(taints, t)
		}
	}
	now := metav1.Time{Time: n.clock.Now().Truncate(time.Second)}
	for _, t := range want {
		t.TimeAdded = &now
		taints = append(taints, t)
	}
	if equality.Semantic.DeepEqual(taints, node.Spec.Taints) {
		return nil
	}
	c := node.DeepCopy()
	c.Spec.Taints = taints
	_, err := n.client.CoreV1().Nodes().Update(ctx, c, metav1.UpdateOptions{})
	return err
}

// inTurn leaves out of the taints those that would evict pods before the node's turn has come. One that has its taint already
// may get the other one for it.
func (n *nodeLifecycle) inTurn(node *corev1.Node, want []corev1.Taint) []corev1.Taint {
	evicts := func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
	}
	switch {
	case !slices.ContainsFunc(want, evicts):
		n.zones.leave(node.Name)
		return want
	case n.zones.darkness():
	case slices.ContainsFunc(node.Spec.Taints, evicts), n.zones.turn(node, n.clock.Now()):
		return want
	}
	return slices.DeleteFunc(want, evicts)
}

// wantedTaints follow from a node's conditions.
func wantedTaints(node *corev1.Node) (out []corev1.Taint) {
	for _, c := range node.Status.Conditions {
		key := taintOf[c.Type][c.Status]
		if key == "" {
			continue
		}
		out = append(out, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
		if c.Type == corev1.NodeReady {
			out = append(out, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
		}
	}
	if node.Spec.Unschedulable {
		out = append(out, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	return out
}

// podsNotReady says of a node's pods that they are not ready, so that nobody sends them requests.
func (n *nodeLifecycle) podsNotReady(ctx context.Context, node *corev1.Node) error {
	on, err := n.pods.ByIndex(podsByNode, node.Name)
	if err != nil {
		return err
	}
	var errs error
	for _, x := range on {
		p := x.(*corev1.Pod)
		if !isReady(p) {
			continue
		}
		c := p.DeepCopy()
		ready := podCondition(c, corev1.PodReady)
		ready.Status, ready.LastTransitionTime = corev1.ConditionFalse, metav1.Time{Time: n.clock.Now().Truncate(time.Second)}
		if _, err := n.client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, c, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", keyOf(p), err))
			continue
		}
		n.events.Event(p, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return errs
}
