package controllers

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
	nodes   cache.Indexer
	history history
	failed  *flowcontrol.Backoff
}

// NewDaemonSet makes the controller of daemon sets.
func NewDaemonSet(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	ni, hi := i.Core().V1().Nodes().Informer(), i.Apps().V1().ControllerRevisions().Informer()
	owners, err := newPodOwners(ownerKind{
		kind: "DaemonSet", informer: i.Apps().V1().DaemonSets().Informer(),
		selector: func(o any) (labels.Selector, error) {
			return metav1.LabelSelectorAsSelector(o.(*appsv1.DaemonSet).Spec.Selector)
		},
		minReady: func(o any) int32 { return o.(*appsv1.DaemonSet).Spec.MinReadySeconds },
	}, client, i, events, c, lg)
	if err != nil {
		return nil, err
	}
	d := &daemonController{
		podOwners: owners, nodes: ni.GetIndexer(), history: history{client: client, revisions: hi.GetIndexer()},
		failed: flowcontrol.NewBackOff(daemonFirstRetry, daemonLastRetry),
	}
	d.sync = d.syncOne
	return d, errors.Join(
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
		owner: owner{
			object: ds, meta: ds, kind: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), selector: sel,
			fresh: again(d.client.AppsV1().DaemonSets(ds.Namespace).Get, ds.Name),
		},
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
	err := r.create(ctx, r.key, &r.owner, len(nodes), func(i int) *corev1.Pod { return r.pod(nodes[i]) })
	_, failed := r.remove(ctx, r.key, &r.owner, gone)
	return errors.Join(err, failed)
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
