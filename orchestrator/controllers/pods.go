package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// podsByOwner is an index of pods: by the UID of their controller, or "orphan/<namespace>".
const podsByOwner = "controller"

// indexPodsByOwner adds that index to the informer of pods, unless somebody has.
func indexPodsByOwner(i cache.SharedIndexInformer) error {
	if i.GetIndexer().GetIndexers()[podsByOwner] != nil {
		return nil
	}
	return i.AddIndexers(cache.Indexers{podsByOwner: func(o any) ([]string, error) {
		p, ok := o.(*corev1.Pod)
		if !ok {
			return nil, nil
		}
		if ref := metav1.GetControllerOf(p); ref != nil {
			return []string{string(ref.UID)}, nil
		}
		return []string{orphans(p.Namespace)}, nil
	}})
}

func orphans(namespace string) string { return "orphan/" + namespace }

// owner is what controls pods.
type owner struct {
	object   runtime.Object // for events
	meta     metav1.Object
	kind     schema.GroupVersionKind
	selector labels.Selector
	// finalizer is what its pods have as long as they are its; "": they have none.
	finalizer string
	// fresh reads the owner from the API server.
	fresh func(ctx context.Context) (metav1.Object, error)
}

// again reads an object by the method Get of a client.
func again[T metav1.Object](get func(ctx context.Context, name string, o metav1.GetOptions) (T, error), name string) func(ctx context.Context) (metav1.Object, error) {
	return func(ctx context.Context) (metav1.Object, error) { return get(ctx, name, metav1.GetOptions{}) }
}

func (o *owner) reference() *metav1.OwnerReference { return metav1.NewControllerRef(o.meta, o.kind) }

// podControl creates, deletes and claims pods for owners.
type podControl struct {
	client kubernetes.Interface
	pods   cache.Indexer
	events record.EventRecorder
}

// claimed returns the pods of an owner: those it controls and selects, and orphans that it selects, which it adopts. Those
// that it controls and does not select any more are released. An owner that is being deleted, or was replaced, adopts nothing.
func (c *podControl) claimed(ctx context.Context, o *owner) ([]*corev1.Pod, error) {
	own, err := c.pods.ByIndex(podsByOwner, string(o.meta.GetUID()))
	if err != nil {
		return nil, err
	}
	free, err := c.pods.ByIndex(podsByOwner, orphans(o.meta.GetNamespace()))
	if err != nil {
		return nil, err
	}
	var out []*corev1.Pod
	var errs error
	for _, x := range own {
		p := x.(*corev1.Pod)
		switch {
		case o.selector.Matches(labels.Set(p.Labels)):
			out = append(out, p)
		case o.meta.GetDeletionTimestamp() == nil:
			errs = errors.Join(errs, c.release(ctx, o, p))
		}
	}
	checked := false
	for _, x := range free {
		p := x.(*corev1.Pod)
		if o.meta.GetDeletionTimestamp() != nil || p.DeletionTimestamp != nil || !o.selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		if !checked {
			if err := stillThere(ctx, o); err != nil {
				return nil, err
			}
			checked = true
		}
		if err := c.adopt(ctx, o, p); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		out = append(out, p)
	}
	return out, errs
}

// stillThere is an error if an owner is not to adopt anything any more.
func stillThere(ctx context.Context, o *owner) error {
	now, err := o.fresh(ctx)
	switch {
	case err != nil:
		return err
	case now.GetUID() != o.meta.GetUID():
		return fmt.Errorf("%s is another object now", keyOf(o.meta))
	case now.GetDeletionTimestamp() != nil:
		return fmt.Errorf("%s is being deleted", keyOf(o.meta))
	}
	return nil
}

type ownerPatch struct {
	Metadata ownerPatchMeta `json:"metadata"`
}

type ownerPatchMeta struct {
	UID              types.UID `json:"uid"`
	OwnerReferences  []any     `json:"ownerReferences"`
	Finalizers       []string  `json:"finalizers,omitempty"`
	DeleteFinalizers []string  `json:"$deleteFromPrimitiveList/finalizers,omitempty"`
}

func (c *podControl) adopt(ctx context.Context, o *owner, p *corev1.Pod) error {
	m := ownerPatchMeta{UID: p.UID, OwnerReferences: []any{o.reference()}}
	if o.finalizer != "" {
		m.Finalizers = []string{o.finalizer}
	}
	return c.patchOwner(ctx, p, m)
}

func (c *podControl) release(ctx context.Context, o *owner, p *corev1.Pod) error {
	m := ownerPatchMeta{UID: p.UID, OwnerReferences: []any{map[string]string{"$patch": "delete", "uid": string(o.meta.GetUID())}}}
	if o.finalizer != "" {
		m.DeleteFinalizers = []string{o.finalizer}
	}
	err := c.patchOwner(ctx, p, m)
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) { // it is gone, or another one of its name, or no longer ours
		return nil
	}
	return err
}

func (c *podControl) patchOwner(ctx context.Context, p *corev1.Pod, m ownerPatchMeta) error {
	b, err := json.Marshal(ownerPatch{m})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, b, metav1.PatchOptions{})
	return err
}

// podFrom is a pod of an owner, made from a template, with a name that the API server completes.
func podFrom(o *owner, t *corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.meta.GetNamespace(), GenerateName: podPrefix(o.meta.GetName()), Labels: copyMap(t.Labels),
			Annotations: copyMap(t.Annotations), Finalizers: append([]string(nil), t.Finalizers...),
			OwnerReferences: []metav1.OwnerReference{*o.reference()},
		},
		Spec: *t.Spec.DeepCopy(),
	}
}

// create makes a pod.
func (c *podControl) create(ctx context.Context, o *owner, p *corev1.Pod) error {
	made, err := c.client.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.events.Eventf(o.object, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	c.events.Eventf(o.object, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", made.Name)
	return nil
}

// delete removes a pod.
func (c *podControl) delete(ctx context.Context, o *owner, p *corev1.Pod) error {
	err := c.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return err
	}
	if err != nil {
		c.events.Eventf(o.object, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("unable to delete pods: %w", err)
	}
	c.events.Eventf(o.object, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
	return nil
}

// podPrefix is the prefix of the names of an owner's pods.
func podPrefix(name string) string {
	const longest = 253 - 5
	if len(name) >= longest {
		return name
	}
	return name + "-"
}

func copyMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// slowStart calls f n times, in batches that double in size as long as none fails: what fails once will likely fail n times.
// It returns how many succeeded.
func slowStart(n int, f func() error) (int, error) {
	done := 0
	for batch := 1; done < n; batch *= 2 {
		size := min(batch, n-done)
		var wg sync.WaitGroup
		errs := make([]error, size)
		for i := range size {
			wg.Go(func() { errs[i] = f() })
		}
		wg.Wait()
		for _, err := range errs {
			if err == nil {
				done++
			}
		}
		if err := errors.Join(errs...); err != nil {
			return done, errs[indexOfError(errs)]
		}
	}
	return done, nil
}

func indexOfError(errs []error) int {
	for i, err := range errs {
		if err != nil {
			return i
		}
	}
	return -1
}

// isActive says whether a pod counts as one of its owner's.
func isActive(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && p.DeletionTimestamp == nil
}

func podCondition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func isReady(p *corev1.Pod) bool {
	c := podCondition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// readySince is when a pod became ready; zero: it is not.
func readySince(p *corev1.Pod) time.Time {
	c := podCondition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return time.Time{}
	}
	return c.LastTransitionTime.Time
}

// isAvailable says whether a pod has been ready for long enough.
func isAvailable(p *corev1.Pod, minReady int32, now time.Time) bool {
	if !isReady(p) {
		return false
	}
	since := readySince(p)
	return minReady == 0 || !since.IsZero() && !since.Add(time.Duration(minReady)*time.Second).After(now)
}
