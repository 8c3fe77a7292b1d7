package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/keelson-io/keelson/internal/clock"
)

// podsByNode is an index of pods.
const podsByNode = "node"

// indexPodsByNode adds that index to the informer of pods, unless somebody has.
func indexPodsByNode(i cache.SharedIndexInformer) error {
	if i.GetIndexer().GetIndexers()[podsByNode] != nil {
		return nil
	}
	return i.AddIndexers(cache.Indexers{podsByNode: func(o any) ([]string, error) {
		if p, ok := o.(*corev1.Pod); ok && p.Spec.NodeName != "" {
			return []string{p.Spec.NodeName}, nil
		}
		return nil, nil
	}})
}

// taintEviction deletes pods from nodes with NoExecute taints: those that do not tolerate a taint at once, others when the
// shortest time for which they tolerate one has passed since the taint was put on. A taint that does not say when that was
// counts from when the controller first saw it.
type taintEviction struct {
	*loop
	client kubernetes.Interface
	pods   cache.Indexer
	nodes  cache.Indexer
	events record.EventRecorder
	clock  clock.Clock
	seen   firstSeen
}

// firstSeen is since when nodes have taints that do not say it themselves, by node and taint.
type firstSeen struct {
	mu    sync.Mutex
	since map[string]map[corev1.Taint]time.Time
}

// note takes notice of a node's taints.
func (f *firstSeen) note(n *corev1.Node, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, is := f.since[n.Name], map[corev1.Taint]time.Time{}
	for _, t := range n.Spec.Taints {
		if t.Effect != corev1.TaintEffectNoExecute || t.TimeAdded != nil {
			continue
		}
		is[t] = now
		if before, ok := was[t]; ok {
			is[t] = before
		}
	}
	delete(f.since, n.Name)
	if len(is) > 0 {
		f.since[n.Name] = is
	}
}

// dated are a node's taints, all with the time since when they are there.
func (f *firstSeen) dated(n *corev1.Node) []corev1.Taint {
	f.mu.Lock()
	defer f.mu.Unlock()
	taints := slices.Clone(n.Spec.Taints)
	for i, t := range taints {
		if since, ok := f.since[n.Name][t]; ok {
			taints[i].TimeAdded = &metav1.Time{Time: since}
		}
	}
	return taints
}

// NewTaintEviction makes the controller that evicts pods from tainted nodes.
func NewTaintEviction(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	pods, nodes := i.Core().V1().Pods().Informer(), i.Core().V1().Nodes().Informer()
	e := &taintEviction{
		loop: newLoop("taint-eviction", lg), client: client, pods: pods.GetIndexer(), nodes: nodes.GetIndexer(), events: events, clock: c,
		seen: firstSeen{since: map[string]map[corev1.Taint]time.Time{}},
	}
	e.sync = e.syncOne
	return e, errors.Join(
		indexPodsByNode(pods),
		e.watch(pods, objects(func(p *corev1.Pod) {
			if p.Spec.NodeName != "" {
				e.add(p)
			}
		})),
		e.watch(nodes, objects(func(n *corev1.Node) {
			if _, there, _ := e.nodes.GetByKey(n.Name); !there { // by name: it does not fail
				n = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
			}
			e.seen.note(n, e.clock.Now())
			on, _ := e.pods.ByIndex(podsByNode, n.Name) // the index is there
			for _, p := range on {
				e.add(p)
			}
		})),
	)
}

// Run works until ctx ends.
func (e *taintEviction) Run(ctx context.Context) error { return e.run(ctx, 8) }

func (e *taintEviction) syncOne(ctx context.Context, key string) error {
	x, exists, err := e.pods.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	p := x.(*corev1.Pod)
	if p.DeletionTimestamp != nil {
		return nil
	}
	n, exists, err := e.nodes.GetByKey(p.Spec.NodeName)
	if err != nil || !exists {
		return err
	}
	now := e.clock.Now()
	at, ends := evictAt(e.seen.dated(n.(*corev1.Node)), p.Spec.Tolerations, now)
	switch {
	case !ends:
		return nil
	case at.After(now):
		e.after(p, at.Sub(now))
		return nil
	}
	return e.evict(ctx, p)
}

// evictAt says when a pod has to leave a node, and whether it has to.
func evictAt(taints []corev1.Taint, tolerations []corev1.Toleration, now time.Time) (at time.Time, ends bool) {
	for i := range taints {
		t := &taints[i]
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		end, forever := tolerated(t, tolerations, now)
		if !forever && (!ends || end.Before(at)) {
			at, ends = end, true
		}
	}
	return at, ends
}

// tolerated says until when a taint is tolerated: the shortest time that a matching toleration names.
func tolerated(t *corev1.Taint, tolerations []corev1.Toleration, now time.Time) (until time.Time, forever bool) {
	since := now
	if t.TimeAdded != nil {
		since = t.TimeAdded.Time
	}
	matched, shortest := false, int64(-1)
	for i := range tolerations {
		if !tolerates(&tolerations[i], t) {
			continue
		}
		matched = true
		if s := tolerations[i].TolerationSeconds; s != nil && (shortest < 0 || *s < shortest) {
			shortest = max(0, *s)
		}
	}
	switch {
	case !matched:
		return since, false
	case shortest < 0:
		return time.Time{}, true
	}
	return since.Add(time.Duration(shortest) * time.Second), false
}

// tolerates says whether a toleration is for a taint.
func tolerates(o *corev1.Toleration, t *corev1.Taint) bool {
	if o.Effect != "" && o.Effect != t.Effect || o.Key != "" && o.Key != t.Key {
		return false
	}
	switch o.Operator {
	case "", corev1.TolerationOpEqual:
		return o.Key != "" && o.Value == t.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

func (e *taintEviction) evict(ctx context.Context, p *corev1.Pod) error {
	e.events.Event(p, corev1.EventTypeNormal, "TaintManagerEviction", fmt.Sprintf("Marking for deletion Pod %s/%s", p.Namespace, p.Name))
	pods := e.client.CoreV1().Pods(p.Namespace)
	c := p.DeepCopy()
	c.Status.Conditions = append(slices.DeleteFunc(c.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget }),
		corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
			LastTransitionTime: metav1.Time{Time: e.clock.Now().Truncate(time.Second)},
		})
	_, err := pods.UpdateStatus(ctx, c, metav1.UpdateOptions{})
	if err == nil {
		err = pods.Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
