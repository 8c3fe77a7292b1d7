package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// Delays of the replacement of a daemon's pod that failed, by node.
const (
	daemonFirstRetry = time.Second
	daemonLastRetry  = 15 * time.Minute
)

// daemonController keeps one pod of each daemon set on every node that fits it.
type daemonController struct {
	*podOwners
	client  kubernetes.Interface
	nodes   cache.Indexer
	control podControl
	history history
	failed  *flowcontrol.Backoff
	clock   clock.Clock
}

// NewDaemonSet makes the controller of daemon sets.
func NewDaemonSet(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	di, pi := i.Apps().V1().DaemonSets().Informer(), i.Core().V1().Pods().Informer()
	ni, hi := i.Core().V1().Nodes().Informer(), i.Apps().V1().ControllerRevisions().Informer()
	if err := indexPodsByOwner(pi); err != nil {
		return nil, fmt.Errorf("daemonset: %w", err)
	}
	d := &daemonController{
		podOwners: &podOwners{
			loop: newLoop("daemonset", lg), kind: "DaemonSet", informer: di, expects: newExpectations(c),
			selector: func(o any) (labels.Selector, error) {
				return metav1.LabelSelectorAsSelector(o.(*appsv1.DaemonSet).Spec.Selector)
			},
		},
		client: client, nodes: ni.GetIndexer(), control: podControl{client: client, pods: pi.GetIndexer(), events: events},
		history: history{client: client, revisions: hi.GetIndexer()}, failed: flowcontrol.NewBackOff(daemonFirstRetry, daemonLastRetry), clock: c,
	}
	d.sync, d.changed = d.syncOne, d.podBecame
	return d, errors.Join(
		d.follow(pi),
		d.watch(hi, objects(func(r *appsv1.ControllerRevision) {
			if ref := metav1.GetControllerOf(r); ref != nil && ref.Kind == "DaemonSet" {
				d.queue.Add(r.Namespace + "/" + ref.Name)
			}
		})),
		d.watch(ni, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { d.nodeChanged(nil, o.(*corev1.Node)) },
			UpdateFunc: func(old, o any) { d.nodeChanged(old.(*corev1.Node), o.(*corev1.Node)) },
			DeleteFunc: func(any) { d.all() },
		}),
	)
}

// Run works until ctx ends.
func (d *daemonController) Run(ctx context.Context) error { return d.run(ctx, 2) }

// all looks at every daemon set.
func (d *daemonController) all() {
	for _, o := range d.informer.GetIndexer().List() {
		d.add(o)
	}
}

// nodeChanged looks at the daemon sets for which a node has become another. Heartbeats change none.
func (d *daemonController) nodeChanged(old, n *corev1.Node) {
	if old != nil && equality.Semantic.DeepEqual(old.Labels, n.Labels) && equality.Semantic.DeepEqual(old.Spec.Taints, n.Spec.Taints) {
		return
	}
	for _, o := range d.informer.GetIndexer().List() {
		ds := o.(*appsv1.DaemonSet)
		if old == nil || fits(ds, old) != fits(ds, n) {
			d.add(ds)
		}
	}
}

// podBecame looks again when a pod that is ready will have been so for long enough.
func (d *daemonController) podBecame(key string, old, p *corev1.Pod) {
	x, exists, err := d.informer.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return
	}
	if s := x.(*appsv1.DaemonSet).Spec.MinReadySeconds; s > 0 && !isReady(old) && isReady(p) {
		d.queue.AddAfter(key, time.Duration(s)*time.Second+time.Second)
	}
}

func (d *daemonController) syncOne(ctx context.Context, key string) error {
	x, exists, err := d.informer.GetIndexer().GetByKey(key)
	if err != nil {
		return err
	}
	if !exists {
		d.expects.forget(key)
		return nil
	}
	ds := x.(*appsv1.DaemonSet).DeepCopy()
	sel, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || sel.Empty() {
		d.control.events.Event(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if ds.DeletionTimestamp != nil {
		return nil
	}
	r := &daemonRollout{
		daemonController: d, key: key, ds: ds, nodes: d.nodes.List(),
		owner: owner{object: ds, meta: ds, kind: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), selector: sel},
	}
	if err := r.look(ctx); err != nil {
		return err
	}
	if !d.expects.fulfilled(key) {
		return r.updateStatus(ctx)
	}
	err = r.manage(ctx)
	if err == nil && d.expects.fulfilled(key) {
		err = r.update(ctx)
	}
	if err == nil {
		err = d.history.truncate(ctx, r.revisions, r.used, ptr.Deref(ds.Spec.RevisionHistoryLimit, 10))
	}
	return errors.Join(err, r.updateStatus(ctx))
}

// apply makes and deletes pods. Nodes are those that get one each.
func (r *daemonRollout) apply(ctx context.Context, nodes []string, gone []*corev1.Pod) error {
	nodes, gone = nodes[:min(len(nodes), burst)], gone[:min(len(gone), burst)]
	r.expects.expectCreations(r.key, len(nodes))
	for _, p := range gone {
		r.expects.expectDeletion(r.key, p.UID)
	}
	var mu sync.Mutex
	next := 0
	done, err := slowStart(len(nodes), func() error {
		mu.Lock()
		node := nodes[next]
		next++
		mu.Unlock()
		err := r.control.createPod(ctx, &r.owner, r.pod(node))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.expects.created(r.key)
			return nil
		}
		return err
	})
	for range len(nodes) - done {
		r.expects.created(r.key)
	}
	errs := make([]error, len(gone))
	var wg sync.WaitGroup
	for i, p := range gone {
		wg.Go(func() {
			if err := r.control.delete(ctx, &r.owner, p); err != nil {
				r.expects.deleted(r.key, p.UID)
				if !apierrors.IsNotFound(err) {
					errs[i] = err
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

// updateStatus counts the nodes and their pods.
func (r *daemonRollout) updateStatus(ctx context.Context) error {
	s := appsv1.DaemonSetStatus{ObservedGeneration: r.ds.Generation, Conditions: r.ds.Status.Conditions, CollisionCount: r.ds.Status.CollisionCount}
	if r.collisions > 0 {
		s.CollisionCount = ptr.To(r.collisions)
	}
	now, later := r.clock.Now(), false
	for _, x := range r.nodes {
		n := x.(*corev1.Node)
		pods := r.byNode[n.Name]
		if !fits(r.ds, n).run {
			if len(pods) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		p := oldest(pods)
		if isReady(p) {
			s.NumberReady++
			if isAvailable(p, r.ds.Spec.MinReadySeconds, now) {
				s.NumberAvailable++
			} else {
				later = true
			}
		}
		if r.isLatest(p) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	if later {
		r.after(r.ds, time.Duration(r.ds.Spec.MinReadySeconds)*time.Second)
	}
	if equality.Semantic.DeepEqual(s, r.ds.Status) {
		return nil
	}
	ds := r.ds.DeepCopy()
	ds.Status = s
	_, err := r.client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, ds, metav1.UpdateOptions{})
	return err
}
