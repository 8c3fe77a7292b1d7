package controllers

import (
	"context"
	"errors"
	"slices"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Finalizers of claims that pods use, and of volumes that are bound.
const (
	claimProtection  = "kubernetes.io/pvc-protection"
	volumeProtection = "kubernetes.io/pv-protection"
)

// podsByClaim is an index of pods, by namespace/name of their claims.
const podsByClaim = "claim"

// protectionController keeps claims that pods use, and volumes that are bound, from going when they are deleted.
type protectionController struct {
	claims, volumes *loop
	client          kubernetes.Interface
	claim, volume   cache.Indexer
	pods            cache.Indexer
}

// NewVolumeProtection makes the controller that protects claims and volumes in use.
func NewVolumeProtection(client kubernetes.Interface, i informers.SharedInformerFactory, lg *zap.Logger) (Controller, error) {
	ci, vi, pi := i.Core().V1().PersistentVolumeClaims().Informer(), i.Core().V1().PersistentVolumes().Informer(), i.Core().V1().Pods().Informer()
	p := &protectionController{
		claims: newLoop("pvc-protection", lg), volumes: newLoop("pv-protection", lg), client: client,
		claim: ci.GetIndexer(), volume: vi.GetIndexer(), pods: pi.GetIndexer(),
	}
	p.claims.sync, p.volumes.sync = p.syncClaim, p.syncVolume
	if pi.GetIndexer().GetIndexers()[podsByClaim] == nil {
		if err := pi.AddIndexers(cache.Indexers{podsByClaim: claimsOf}); err != nil {
			return nil, err
		}
	}
	wake := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		keys, _ := claimsOf(o)
		for _, key := range keys {
			p.claims.queue.Add(key)
		}
	}
	return p, errors.Join(
		p.claims.watch(ci, objects(func(c *corev1.PersistentVolumeClaim) { p.claims.add(c) })),
		p.claims.watch(pi, cache.ResourceEventHandlerFuncs{DeleteFunc: wake, UpdateFunc: func(old, o any) {
			if ended(o.(*corev1.Pod)) && !ended(old.(*corev1.Pod)) {
				wake(o)
			}
		}}),
		p.volumes.watch(vi, objects(func(v *corev1.PersistentVolume) { p.volumes.add(v) })),
	)
}

// claimsOf are the keys of the claims that a pod uses.
func claimsOf(o any) (keys []string, err error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			keys = append(keys, p.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			keys = append(keys, p.Namespace+"/"+p.Name+"-"+v.Name)
		}
	}
	return keys, nil
}

// ended says whether a pod uses its volumes no more.
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Run works until ctx ends.
func (p *protectionController) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- p.volumes.run(ctx, 1) }()
	return errors.Join(p.claims.run(ctx, 1), <-done)
}

func (p *protectionController) syncClaim(ctx context.Context, key string) error {
	o, exists, err := p.claim.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	c := o.(*corev1.PersistentVolumeClaim)
	finalizers, change := p.protect(c, claimProtection, func() bool {
		users, _ := p.pods.ByIndex(podsByClaim, key) // the index is there
		return slices.ContainsFunc(users, func(x any) bool { u := x.(*corev1.Pod); return !ended(u) && u.Spec.NodeName != "" })
	})
	if !change {
		return nil
	}
	c = c.DeepCopy()
	c.Finalizers = finalizers
	_, err = p.client.CoreV1().PersistentVolumeClaims(c.Namespace).Update(ctx, c, metav1.UpdateOptions{})
	return ignoreGone(err)
}

func (p *protectionController) syncVolume(ctx context.Context, key string) error {
	o, exists, err := p.volume.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	v := o.(*corev1.PersistentVolume)
	finalizers, change := p.protect(v, volumeProtection, func() bool { return v.Status.Phase == corev1.VolumeBound })
	if !change {
		return nil
	}
	v = v.DeepCopy()
	v.Finalizers = finalizers
	_, err = p.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
	return ignoreGone(err)
}

// protect gives an object its finalizer, or takes it from one that is deleted and not used.
func (p *protectionController) protect(o metav1.Object, finalizer string, used func() bool) (finalizers []string, change bool) {
	has := slices.Contains(o.GetFinalizers(), finalizer)
	switch {
	case o.GetDeletionTimestamp() == nil && !has:
		return append(slices.Clone(o.GetFinalizers()), finalizer), true
	case o.GetDeletionTimestamp() != nil && has && !used():
		return slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return f == finalizer }), true
	}
	return nil, false
}
