package controllers

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// ephemeralController makes the claims of generic ephemeral volumes of pods. They go with the pod, which owns them.
type ephemeralController struct {
	*loop
	client kubernetes.Interface
	pods   cache.Indexer
	events record.EventRecorder
}

// NewEphemeralVolume makes the controller of ephemeral volumes.
func NewEphemeralVolume(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, lg *zap.Logger) (Controller, error) {
	pi := i.Core().V1().Pods().Informer()
	e := &ephemeralController{loop: newLoop("ephemeral-volume", lg), client: client, pods: pi.GetIndexer(), events: events}
	e.sync = e.syncOne
	return e, e.watch(pi, objects(func(p *corev1.Pod) {
		for i := range p.Spec.Volumes {
			if p.Spec.Volumes[i].Ephemeral != nil && p.DeletionTimestamp == nil {
				e.add(p)
				return
			}
		}
	}))
}

// Run works until ctx ends.
func (e *ephemeralController) Run(ctx context.Context) error { return e.run(ctx, 2) }

func (e *ephemeralController) syncOne(ctx context.Context, key string) error {
	o, exists, err := e.pods.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	p := o.(*corev1.Pod)
	if p.DeletionTimestamp != nil {
		return nil
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		t := v.Ephemeral.VolumeClaimTemplate
		c := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: p.Namespace, Name: p.Name + "-" + v.Name, Labels: copyMap(t.Labels), Annotations: copyMap(t.Annotations),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))},
			},
			Spec: *t.Spec.DeepCopy(),
		}
		_, err := e.client.CoreV1().PersistentVolumeClaims(c.Namespace).Create(ctx, c, metav1.CreateOptions{})
		if err == nil {
			continue
		}
		if !apierrors.IsAlreadyExists(err) {
			e.events.Eventf(p, corev1.EventTypeWarning, "EphemeralVolumeCreateFailed", "ephemeral volume controller: create PVC %s: %v", c.Name, err)
			return err
		}
		there, err := e.client.CoreV1().PersistentVolumeClaims(c.Namespace).Get(ctx, c.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !metav1.IsControlledBy(there, p) {
			return fmt.Errorf("ephemeral-volume: PVC %s was not created for pod %s (pod is not owner)", keyOf(there), keyOf(p))
		}
	}
	return nil
}
