package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// Annotations of a deployment's replica sets, and of a deployment.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// deploymentController keeps a replica set per version of a deployment's template, and moves pods from old to new ones.
type deploymentController struct {
	*loop
	client      kubernetes.Interface
	deployments cache.Indexer
	sets        cache.Indexer
	pods        cache.Indexer
	events      record.EventRecorder
	clock       clock.Clock
}

// NewDeployment makes the controller of deployments.
func NewDeployment(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	di, si, pi := i.Apps().V1().Deployments().Informer(), i.Apps().V1().ReplicaSets().Informer(), i.Core().V1().Pods().Informer()
	if err := indexPodsByOwner(pi); err != nil {
		return nil, fmt.Errorf("deployment: %w", err)
	}
	d := &deploymentController{
		loop: newLoop("deployment", lg), client: client, deployments: di.GetIndexer(), sets: si.GetIndexer(), pods: pi.GetIndexer(),
		events: events, clock: c,
	}
	d.sync = d.syncOne
	return d, errors.Join(
		d.watch(di, objects(func(o *appsv1.Deployment) { d.add(o) })),
		d.watch(si, cache.ResourceEventHandlerFuncs{
			AddFunc: d.setSeen, DeleteFunc: d.setSeen,
			UpdateFunc: func(old, o any) { d.setSeen(old); d.setSeen(o) },
		}),
		// A pod that goes lets a deployment of strategy Recreate go on.
		d.watch(pi, cache.ResourceEventHandlerFuncs{DeleteFunc: d.podWent}),
	)
}

// Run works until ctx ends.
func (d *deploymentController) Run(ctx context.Context) error { return d.run(ctx, 5) }

func (d *deploymentController) setSeen(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	rs, ok := o.(*appsv1.ReplicaSet)
	if !ok {
		return
	}
	if ref := metav1.GetControllerOf(rs); ref != nil {
		if ref.Kind == "Deployment" {
			d.queue.Add(rs.Namespace + "/" + ref.Name)
		}
		return
	}
	all, err := d.deployments.ByIndex(cache.NamespaceIndex, rs.Namespace)
	if err != nil {
		return
	}
	for _, x := range all {
		dep := x.(*appsv1.Deployment)
		if sel, err := metav1.LabelSelectorAsSelector(dep.Spec.Selector); err == nil && !sel.Empty() && sel.Matches(labels.Set(rs.Labels)) {
			d.add(dep)
		}
	}
}

func (d *deploymentController) podWent(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	p, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	if x, exists, err := d.sets.GetByKey(p.Namespace + "/" + ref.Name); err == nil && exists {
		d.setSeen(x)
	}
}

func (d *deploymentController) syncOne(ctx context.Context, key string) error {
	x, exists, err := d.deployments.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	dep := x.(*appsv1.Deployment).DeepCopy()
	sel, err := metav1.LabelSelectorAsSelector(dep.Spec.Selector)
	if err != nil || sel.Empty() {
		d.events.Event(dep, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return nil
	}
	sets, err := d.claimed(ctx, dep, sel)
	if err != nil {
		return err
	}
	r := &rollout{deploymentController: d, dep: dep, pods: d.podsOf(sets)}
	r.split(sets)
	if dep.DeletionTimestamp != nil {
		return r.updateStatus(ctx)
	}
	if err := r.proceed(ctx); !errors.Is(err, errTerminating) {
		return err
	}
	return nil
}

// claimed returns the replica sets of a deployment; it adopts orphans and releases what it does not select any more.
func (d *deploymentController) claimed(ctx context.Context, dep *appsv1.Deployment, sel labels.Selector) (out []*appsv1.ReplicaSet, err error) {
	all, err := d.sets.ByIndex(cache.NamespaceIndex, dep.Namespace)
	if err != nil {
		return nil, err
	}
	checked := false
	for _, x := range all {
		rs := x.(*appsv1.ReplicaSet)
		ref, matches := metav1.GetControllerOf(rs), sel.Matches(labels.Set(rs.Labels))
		switch {
		case ref != nil && ref.UID != dep.UID:
		case ref != nil && matches:
			out = append(out, rs)
		case ref != nil && dep.DeletionTimestamp == nil:
			err = errors.Join(err, ignoreGone(d.patchSet(ctx, rs, map[string]string{"$patch": "delete", "uid": string(dep.UID)})))
		case ref == nil && matches && dep.DeletionTimestamp == nil && rs.DeletionTimestamp == nil:
			if !checked {
				if err := stillThere(ctx, &owner{meta: dep, fresh: again(d.client.AppsV1().Deployments(dep.Namespace).Get, dep.Name)}); err != nil {
					return nil, err
				}
				checked = true
			}
			if perr := d.patchSet(ctx, rs, metav1.NewControllerRef(dep, deploymentKind)); perr != nil {
				err = errors.Join(err, ignoreGone(perr))
				continue
			}
			out = append(out, rs)
		}
	}
	return out, err
}

var deploymentKind = appsv1.SchemeGroupVersion.WithKind("Deployment")

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return err
}

func (d *deploymentController) patchSet(ctx context.Context, rs *appsv1.ReplicaSet, ref any) error {
	b, err := json.Marshal(ownerPatch{ownerPatchMeta{UID: rs.UID, OwnerReferences: []any{ref}}})
	if err != nil {
		return err
	}
	_, err = d.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, b, metav1.PatchOptions{})
	return err
}

// podsOf returns the pods of replica sets.
func (d *deploymentController) podsOf(sets []*appsv1.ReplicaSet) map[types.UID][]*corev1.Pod {
	out := make(map[types.UID][]*corev1.Pod, len(sets))
	for _, rs := range sets {
		own, _ := d.pods.ByIndex(podsByOwner, string(rs.UID)) // the index is there
		for _, x := range own {
			out[rs.UID] = append(out[rs.UID], x.(*corev1.Pod))
		}
	}
	return out
}

// templateHash tells templates apart. collisions is how many times that did not work.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) (string, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	h := fnv.New32a()
	_, _ = h.Write(b)
	if collisions != nil {
		_, _ = fmt.Fprint(h, *collisions)
	}
	return safe(strconv.FormatUint(uint64(h.Sum32()), 10)), nil
}

// safe writes a number without letters that could make a word.
func safe(s string) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	b := []byte(s)
	for i, c := range b {
		b[i] = alphabet[int(c)%len(alphabet)]
	}
	return string(b)
}

// sameTemplate compares templates but for the label that carries their hash.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(x, y)
}

func revisionOf(o metav1.Object) int64 {
	n, err := strconv.ParseInt(o.GetAnnotations()[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func wanted(rs *appsv1.ReplicaSet) int32 {
	if rs == nil {
		return 0
	}
	return ptr.Deref(rs.Spec.Replicas, 1)
}

// oldestFirst orders replica sets by age.
func oldestFirst(sets []*appsv1.ReplicaSet) {
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}
