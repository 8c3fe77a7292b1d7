package controllers

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// HostPathProvisioner is the provisioner of storage classes whose volumes are made here: a file on a disk of one node, of the
// size that was asked for, with a file system in it, so that a claim holds what it asked for and no more. The agent of the
// node makes, mounts, grows and removes the file. Its volumes are of the CSI driver of the same name.
const HostPathProvisioner = "hostpath.keelson.io"

// nodeVolumeFinalizer keeps a volume until the agent of its node has removed its file.
const nodeVolumeFinalizer = HostPathProvisioner + "/node"

// volumeController binds claims to volumes, has volumes made for claims, and sees to volumes whose claim is gone.
type volumeController struct {
	claims  *loop
	volumes *loop
	client  kubernetes.Interface
	claim   cache.Indexer
	volume  cache.Indexer
	class   cache.Indexer
	nodes   cache.Indexer
	events  record.EventRecorder
}

// NewPersistentVolume makes the controller of persistent volumes and their claims.
func NewPersistentVolume(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, lg *zap.Logger) (Controller, error) {
	ci, vi := i.Core().V1().PersistentVolumeClaims().Informer(), i.Core().V1().PersistentVolumes().Informer()
	si, ni := i.Storage().V1().StorageClasses().Informer(), i.Core().V1().Nodes().Informer()
	v := &volumeController{
		claims: newLoop("persistentvolumeclaim", lg), volumes: newLoop("persistentvolume", lg), client: client,
		claim: ci.GetIndexer(), volume: vi.GetIndexer(), class: si.GetIndexer(), nodes: ni.GetIndexer(), events: events,
	}
	v.claims.sync, v.volumes.sync = v.syncClaim, v.syncVolume
	return v, errors.Join(
		v.claims.watch(ci, objects(func(c *corev1.PersistentVolumeClaim) {
			v.claims.add(c)
			if c.Spec.VolumeName != "" {
				v.volumes.queue.Add(c.Spec.VolumeName)
			}
		})),
		v.volumes.watch(vi, objects(func(p *corev1.PersistentVolume) {
			v.volumes.add(p)
			if r := p.Spec.ClaimRef; r != nil {
				v.claims.queue.Add(r.Namespace + "/" + r.Name)
				return
			}
			v.unbound()
		})),
		v.claims.watch(si, objects(func(*storagev1.StorageClass) { v.unbound() })),
		v.volumes.watch(ni, cache.ResourceEventHandlerFuncs{DeleteFunc: func(any) { v.all() }}),
	)
}

// unbound looks at all claims that have no volume.
func (v *volumeController) unbound() {
	for _, o := range v.claim.List() {
		if o.(*corev1.PersistentVolumeClaim).Spec.VolumeName == "" {
			v.claims.add(o)
		}
	}
}

// all looks at all volumes.
func (v *volumeController) all() {
	for _, o := range v.volume.List() {
		v.volumes.add(o)
	}
}

// defaultClass is the storage class that a cluster without any gets.
const defaultClass = "standard"

// ensureClass makes a default storage class, if there is no class at all. One that is there is left as it is.
func (v *volumeController) ensureClass(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), v.claims.synced...) || len(v.class.List()) > 0 {
		return
	}
	_, err := v.client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: defaultClass, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: HostPathProvisioner, ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer), AllowVolumeExpansion: ptr.To(true),
	}, metav1.CreateOptions{})
	if err != nil && ctx.Err() == nil {
		v.claims.lg.Warn("the default storage class could not be made", zap.Error(err))
	}
}

// Run works until ctx ends. One worker binds: two claims would want the same volume.
func (v *volumeController) Run(ctx context.Context) error {
	v.ensureClass(ctx)
	done := make(chan error, 1)
	go func() { done <- v.volumes.run(ctx, 2) }()
	return errors.Join(v.claims.run(ctx, 1), <-done)
}

// classOf is the storage class of a claim; nil: it has none, or there is none of that name.
func (v *volumeController) classOf(c *corev1.PersistentVolumeClaim) *storagev1.StorageClass {
	name := volumehelpers.GetPersistentVolumeClaimClass(c)
	if name == "" {
		return nil
	}
	o, exists, err := v.class.GetByKey(name)
	if err != nil || !exists {
		return nil
	}
	return o.(*storagev1.StorageClass)
}

// claimOf is the claim that a volume is bound to, or bound for; nil: there is none.
func (v *volumeController) claimOf(p *corev1.PersistentVolume) *corev1.PersistentVolumeClaim {
	r := p.Spec.ClaimRef
	if r == nil {
		return nil
	}
	o, exists, err := v.claim.GetByKey(r.Namespace + "/" + r.Name)
	if err != nil || !exists {
		return nil
	}
	c := o.(*corev1.PersistentVolumeClaim)
	if r.UID != "" && r.UID != c.UID {
		return nil
	}
	return c
}

func (v *volumeController) volumeNamed(name string) (*corev1.PersistentVolume, error) {
	o, exists, err := v.volume.GetByKey(name)
	if err != nil || !exists {
		return nil, err
	}
	p, ok := o.(*corev1.PersistentVolume)
	if !ok {
		return nil, fmt.Errorf("persistentvolume: unexpected %T", o)
	}
	return p, nil
}
