package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/keelson-io/keelson/internal/clock"
)

// ownerKind is a kind of objects that own pods.
type ownerKind struct {
	kind     string
	informer cache.SharedIndexInformer
	selector func(o any) (labels.Selector, error)
	minReady func(o any) int32 // for how many seconds a pod is ready before it is available; nil: it is at once
}

// podOwners is a loop over objects of one kind that own pods: what happens to a pod brings its owner into the queue, or, if
// it has none, all objects that select it.
type podOwners struct {
	*loop
	ownerKind
	client  kubernetes.Interface
	control podControl
	expects *expectations
	clock   clock.Clock
}

// newPodOwners makes a loop that follows the objects of a kind, and pods. What a key needs is set by the caller.
func newPodOwners(k ownerKind, client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (*podOwners, error) {
	pods := i.Core().V1().Pods().Informer()
	w := &podOwners{
		loop: newLoop(strings.ToLower(k.kind), lg), ownerKind: k, client: client, expects: newExpectations(c), clock: c,
		control: podControl{client: client, pods: pods.GetIndexer(), events: events},
	}
	if err := indexPodsByOwner(pods); err != nil {
		return nil, fmt.Errorf("%s: %w", w.name, err)
	}
	return w, w.follow(pods)
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
		if !isReady(old) && isReady(p) {
			w.becameReady(key)
		}
		return
	}
	if metav1.GetControllerOf(p) == nil && (before != "" || !equality.Semantic.DeepEqual(old.Labels, p.Labels)) {
		w.wake(p)
	}
}

// becameReady looks again at an owner when a pod that has just become ready will have been so for long enough.
func (w *podOwners) becameReady(key string) {
	o, exists, err := w.informer.GetIndexer().GetByKey(key)
	if err != nil || !exists || w.minReady == nil {
		return
	}
	if m := w.minReady(o); m > 0 {
		w.queue.AddAfter(key, time.Duration(m)*time.Second+time.Second)
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

// create makes n pods of an owner, and expects to see them.
func (w *podOwners) create(ctx context.Context, key string, o *owner, n int, pod func(i int) *corev1.Pod) error {
	w.expects.expectCreations(key, n)
	var next atomic.Int64
	done, err := slowStart(n, func() error {
		err := w.control.create(ctx, o, pod(int(next.Add(1))-1))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			w.expects.created(key) // nothing will come, and there is nothing to try again for
			return nil
		}
		return err
	})
	for range n - done {
		w.expects.created(key)
	}
	return err
}

// remove deletes pods of an owner, and expects to see them go. It counts those that are going, whoever deleted them.
func (w *podOwners) remove(ctx context.Context, key string, o *owner, pods []*corev1.Pod) (going int, err error) {
	for _, p := range pods {
		w.expects.expectDeletion(key, p.UID)
	}
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			if errs[i] = w.control.delete(ctx, o, p); errs[i] == nil {
				return
			}
			w.expects.deleted(key, p.UID)
			if apierrors.IsNotFound(errs[i]) {
				errs[i] = nil
			}
		})
	}
	wg.Wait()
	for _, e := range errs {
		if e == nil {
			going++
		} else if err == nil {
			err = e
		}
	}
	return going, err
}
