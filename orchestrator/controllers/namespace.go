package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
)

// NamespacedResource is a resource whose objects live in namespaces.
type NamespacedResource struct {
	schema.GroupVersionResource
	DeleteCollection bool // it has that verb
}

// namespaceController empties namespaces that are being deleted, and then lets them go. Pods are first, so that nothing that
// they need goes before them.
type namespaceController struct {
	*loop
	client     kubernetes.Interface
	metadata   metadata.Interface
	resources  func() ([]NamespacedResource, error)
	namespaces cache.Indexer
	clock      clock.Clock
}

// remainingDelay is the pause before a namespace is looked at again whose content takes its time.
const remainingDelay = 5 * time.Second

var podsResource = corev1.SchemeGroupVersion.WithResource("pods")

// NewNamespace makes the controller that deletes the content of namespaces. resources lists what can be deleted; with an
// error, what it lists is not all.
func NewNamespace(client kubernetes.Interface, md metadata.Interface, resources func() ([]NamespacedResource, error), i informers.SharedInformerFactory, c clock.Clock, lg *zap.Logger) (Controller, error) {
	ni := i.Core().V1().Namespaces().Informer()
	n := &namespaceController{
		loop: newLoop("namespace", lg), client: client, metadata: md, resources: resources, namespaces: ni.GetIndexer(), clock: c,
	}
	n.sync = n.syncOne
	return n, n.watch(ni, objects(func(o *corev1.Namespace) {
		if o.DeletionTimestamp != nil {
			n.queue.Add(o.Name)
		}
	}))
}

// Run works until ctx ends.
func (n *namespaceController) Run(ctx context.Context) error { return n.run(ctx, 10) }

func (n *namespaceController) syncOne(ctx context.Context, name string) error {
	if x, exists, err := n.namespaces.GetByKey(name); err != nil || !exists || x.(*corev1.Namespace).DeletionTimestamp == nil {
		return err
	}
	ns, err := n.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return ignoreMissing(err)
	}
	if ns.DeletionTimestamp == nil || len(ns.Spec.Finalizers) == 0 {
		return nil
	}
	r := n.empty(ctx, ns)
	if ns, err = n.tell(ctx, ns, r); err != nil {
		return ignoreMissing(err)
	}
	switch {
	case r.failed() != nil:
		return r.failed()
	case len(r.remaining) > 0:
		n.queue.AddAfter(name, remainingDelay)
		return nil
	}
	ns = ns.DeepCopy()
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = n.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	return ignoreMissing(err)
}

// removal is what came of an attempt to empty a namespace.
type removal struct {
	discovery error
	content   error
	remaining map[string]int // objects by resource
	held      map[string]int // objects by finalizer
}

func (r *removal) failed() error { return errors.Join(r.discovery, r.content) }

func (n *namespaceController) empty(ctx context.Context, ns *corev1.Namespace) *removal {
	r := &removal{remaining: map[string]int{}, held: map[string]int{}}
	resources, err := n.resources()
	r.discovery = err
	first := func(x NamespacedResource) bool { return x.GroupVersionResource == podsResource }
	if slices.ContainsFunc(resources, first) {
		n.remove(ctx, ns.Name, NamespacedResource{podsResource, true}, r)
		if len(r.remaining) > 0 || r.content != nil {
			return r
		}
	}
	for _, x := range resources {
		if !first(x) {
			n.remove(ctx, ns.Name, x, r)
		}
	}
	return r
}

// remove deletes all objects of a resource, and counts those that are still there.
func (n *namespaceController) remove(ctx context.Context, namespace string, x NamespacedResource, r *removal) {
	c := n.metadata.Resource(x.GroupVersionResource).Namespace(namespace)
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	var err error
	if x.DeleteCollection {
		err = c.DeleteCollection(ctx, options, metav1.ListOptions{})
	}
	left, lerr := c.List(ctx, metav1.ListOptions{})
	if lerr != nil {
		if !apierrors.IsNotFound(lerr) && !apierrors.IsMethodNotSupported(lerr) {
			r.content = errors.Join(r.content, err, fmt.Errorf("%s: %w", x.Resource, lerr))
		}
		return
	}
	if !x.DeleteCollection || apierrors.IsMethodNotSupported(err) {
		err = nil
		for i := range left.Items {
			if derr := c.Delete(ctx, left.Items[i].Name, options); derr != nil && !apierrors.IsNotFound(derr) {
				err = errors.Join(err, derr)
			}
		}
		if left, lerr = c.List(ctx, metav1.ListOptions{}); lerr != nil {
			r.content = errors.Join(r.content, err, lerr)
			return
		}
	}
	if err != nil {
		r.content = errors.Join(r.content, fmt.Errorf("%s: %w", x.Resource, err))
	}
	if len(left.Items) == 0 {
		return
	}
	r.remaining[strings.TrimSuffix(x.Resource+"."+x.Group, ".")] += len(left.Items)
	for i := range left.Items {
		for _, f := range left.Items[i].Finalizers {
			r.held[f]++
		}
	}
}

// tell shows in a namespace's status how its deletion goes.
func (n *namespaceController) tell(ctx context.Context, ns *corev1.Namespace, r *removal) (*corev1.Namespace, error) {
	c := ns.DeepCopy()
	c.Status.Phase = corev1.NamespaceTerminating
	n.condition(c, corev1.NamespaceDeletionDiscoveryFailure, r.discovery != nil, "DiscoveryFailed", "ResourcesDiscovered",
		fmt.Sprint("Discovery failed for some groups: ", r.discovery), "All resources successfully discovered")
	n.condition(c, corev1.NamespaceDeletionGVParsingFailure, false, "", "ParsedGroupVersions", "", "All legacy kube types successfully parsed")
	n.condition(c, corev1.NamespaceDeletionContentFailure, r.content != nil, "ContentDeletionFailed", "ContentDeleted",
		fmt.Sprint("Failed to delete all resource types: ", r.content), "All content successfully deleted, may be waiting on finalization")
	n.condition(c, corev1.NamespaceContentRemaining, len(r.remaining) > 0, "SomeResourcesRemain", "ContentRemoved",
		"Some resources are remaining: "+counts(r.remaining, "%s has %d resource instances"), "All content successfully removed")
	n.condition(c, corev1.NamespaceFinalizersRemaining, len(r.held) > 0, "SomeFinalizersRemain", "ContentHasNoFinalizers",
		"Some content in the namespace has finalizers remaining: "+counts(r.held, "%s in %d resource instances"), "All content-preserving finalizers finished")
	if equality.Semantic.DeepEqual(c.Status, ns.Status) {
		return ns, nil
	}
	return n.client.CoreV1().Namespaces().UpdateStatus(ctx, c, metav1.UpdateOptions{})
}

func counts(m map[string]int, format string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf(format, k, m[k]))
	}
	return strings.Join(out, ", ")
}

// condition sets a condition that is true when something is wrong. It appears when something has been wrong, or as the
// content went.
func (n *namespaceController) condition(ns *corev1.Namespace, t corev1.NamespaceConditionType, bad bool, reason, okReason, message, okMessage string) {
	c := corev1.NamespaceCondition{
		Type: t, Status: corev1.ConditionFalse, Reason: okReason, Message: okMessage, LastTransitionTime: metav1.Time{Time: n.clock.Now().Truncate(time.Second)},
	}
	if bad {
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, reason, message
	}
	for i := range ns.Status.Conditions {
		have := &ns.Status.Conditions[i]
		if have.Type != t {
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		*have = c
		return
	}
	ns.Status.Conditions = append(ns.Status.Conditions, c)
}
