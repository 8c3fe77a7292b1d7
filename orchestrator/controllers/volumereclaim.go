package controllers

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// syncVolume looks after a volume.
func (v *volumeController) syncVolume(ctx context.Context, key string) error {
	p, err := v.volumeNamed(key)
	if err != nil || p == nil {
		return err
	}
	if p.DeletionTimestamp != nil {
		return v.forsake(ctx, p)
	}
	ref := p.Spec.ClaimRef
	if ref == nil || ref.UID == "" { // free, or waiting for a claim of that name
		return v.volumePhase(ctx, p, corev1.VolumeAvailable, "")
	}
	if c := v.claimOf(p); c != nil {
		switch c.Spec.VolumeName {
		case p.Name:
			return v.volumePhase(ctx, p, corev1.VolumeBound, "")
		case "":
			v.claims.add(c) // it binds the other way, too
			return nil
		}
		return v.unclaim(ctx, p)
	}
	if gone, err := v.claimGone(ctx, ref); err != nil || !gone {
		return err
	}
	if err := v.volumePhase(ctx, p, corev1.VolumeReleased, ""); err != nil {
		return err
	}
	return v.reclaim(ctx, p)
}

// claimGone asks the API server: what was made just now may not have been seen yet.
func (v *volumeController) claimGone(ctx context.Context, ref *corev1.ObjectReference) (bool, error) {
	c, err := v.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && c.UID != ref.UID, err
}

// unclaim frees a volume whose claim took another.
func (v *volumeController) unclaim(ctx context.Context, p *corev1.PersistentVolume) error {
	if p.Annotations[volumehelpers.AnnDynamicallyProvisioned] != "" && p.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		return v.reclaim(ctx, p) // it was made for that claim
	}
	n := p.DeepCopy()
	if _, ours := n.Annotations[volumehelpers.AnnBoundByController]; ours {
		n.Spec.ClaimRef = nil
		delete(n.Annotations, volumehelpers.AnnBoundByController)
	} else {
		n.Spec.ClaimRef.UID = ""
	}
	n, err := v.client.CoreV1().PersistentVolumes().Update(ctx, n, metav1.UpdateOptions{})
	if err != nil {
		return ignoreGone(err)
	}
	return v.volumePhase(ctx, n, corev1.VolumeAvailable, "")
}

// reclaim does with a released volume what its policy says.
func (v *volumeController) reclaim(ctx context.Context, p *corev1.PersistentVolume) error {
	switch p.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimDelete:
		if !madeHere(p) { // its driver deletes it
			return nil
		}
		return ignoreGone(v.client.CoreV1().PersistentVolumes().Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))}))
	case corev1.PersistentVolumeReclaimRecycle:
		return v.volumePhase(ctx, p, corev1.VolumeFailed, "No recycler plugin found for the volume!")
	}
	return nil
}

// forsake lets a deleted volume go whose node is gone for good: nobody is left who could remove its file.
func (v *volumeController) forsake(ctx context.Context, p *corev1.PersistentVolume) error {
	if !madeHere(p) || !slices.Contains(p.Finalizers, nodeVolumeFinalizer) {
		return nil
	}
	for _, o := range v.nodes.List() {
		if o.(*corev1.Node).Labels[corev1.LabelHostname] == hostOf(p) {
			return nil
		}
	}
	n := p.DeepCopy()
	n.Finalizers = slices.DeleteFunc(n.Finalizers, func(f string) bool { return f == nodeVolumeFinalizer })
	_, err := v.client.CoreV1().PersistentVolumes().Update(ctx, n, metav1.UpdateOptions{})
	return ignoreGone(err)
}

// volumePhase writes the phase of a volume.
func (v *volumeController) volumePhase(ctx context.Context, p *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) error {
	if p.Status.Phase == phase && p.Status.Message == message {
		return nil
	}
	n := p.DeepCopy()
	if n.Status.Phase != phase {
		n.Status.LastPhaseTransitionTime = &metav1.Time{Time: metav1.Now().Time}
	}
	n.Status.Phase, n.Status.Message = phase, message
	_, err := v.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
	return ignoreGone(err)
}
