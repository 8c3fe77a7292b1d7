package controllers

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

// podOwners is a loop over objects of one kind that own pods: what happens to a pod brings its owner into the queue, or, if
// it has none, all objects that select it.
type podOwners struct {
	*loop
	kind     string
	informer cache.SharedIndexInformer // of the owners
	selector func(o any) (labels.Selector, error)
	expects  *expectations
	changed  func(key string, old, p *corev1.Pod) // called when a pod of the owner with a key has changed; nil: not
}

// follow calls the handlers for what the informers of the owners and of the pods see.
func (w *podOwners) follow(pods cache.SharedIndexInformer) error {
	return errors.Join(
		w.watch(w.informer, objects(func(o metav1.Object) { w.add(o) })),
		w.watch(pods, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { w.podCame(o.(*corev1.Pod)) },
			UpdateFunc: func(old, o any) { w.podChanged(old.(*corev1.Pod), o.(*corev1.Pod)) },
			DeleteFunc: w.podWent,
		}),
	)
}

// ownerKey is the key of the object of this kind that controls a pod, "" if there is none.
func (w *podOwners) ownerKey(p *corev1.Pod) string {
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.Kind != w.kind {
		return ""
	}
	key := p.Namespace + "/" + ref.Name
	o, exists, err := w.informer.GetIndexer().GetByKey(key)
	if err != nil || !exists || o.(metav1.Object).GetUID() != ref.UID {
		return ""
	}
	return key
}

func (w *podOwners) podCame(p *corev1.Pod) {
	if p.DeletionTimestamp != nil { // it came while this controller was not there
		w.podWent(p)
		return
	}
	if key := w.ownerKey(p); key != "" {
		w.expects.created(key)
		w.queue.Add(key)
		return
	}
	if metav1.GetControllerOf(p) == nil {
		w.wake(p)
	}
}

func (w *podOwners) podChanged(old, p *corev1.Pod) {
	if p.DeletionTimestamp != nil {
		w.podWent(p)
		return
	}
	before, key := w.ownerKey(old), w.ownerKey(p)
	if before != "" && before != key {
		w.queue.Add(before)
	}
	if key != "" {
		w.queue.Add(key)
		if w.changed != nil {
			w.changed(key, old, p)
		}
		return
	}
	if metav1.GetControllerOf(p) == nil && (before != "" || !equality.Semantic.DeepEqual(old.Labels, p.Labels)) {
		w.wake(p)
	}
}

func (w *podOwners) podWent(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	p, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	if key := w.ownerKey(p); key != "" {
		w.expects.deleted(key, p.UID)
		w.queue.Add(key)
	}
}

// wake looks at all objects that select an orphan.
func (w *podOwners) wake(p *corev1.Pod) {
	all, err := w.informer.GetIndexer().ByIndex(cache.NamespaceIndex, p.Namespace)
	if err != nil {
		return
	}
	for _, x := range all {
		if s, err := w.selector(x); err == nil && !s.Empty() && s.Matches(labels.Set(p.Labels)) {
			w.queue.Add(keyOf(x.(metav1.Object)))
		}
	}
}
