package scheduler

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// apiVolumes tells the API server what was decided about volumes.
type apiVolumes struct{ client kubernetes.Interface }

// Promise reserves a volume for a claim.
func (a apiVolumes) Promise(ctx context.Context, volume string, c *v1.PersistentVolumeClaim) (*v1.PersistentVolume, *v1.PersistentVolumeClaim, error) {
	v, err := a.Volume(ctx, volume)
	if err != nil {
		return nil, nil, err
	}
	if v.Spec.ClaimRef != nil && !volumehelpers.IsVolumeBoundToClaim(v, c) {
		return nil, nil, fmt.Errorf("pv %q is bound to claim %s/%s meanwhile", volume, v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
	}
	n, changed, err := volumehelpers.GetBindVolumeToClaim(v, c)
	if err != nil {
		return nil, nil, err
	}
	if changed {
		if v, err = a.client.CoreV1().PersistentVolumes().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
			return nil, nil, err
		}
	}
	now, err := a.client.CoreV1().PersistentVolumeClaims(c.Namespace).Get(ctx, c.Name, metav1.GetOptions{})
	return v, now, err
}

// Select says on which node the volume of a claim is to be made.
func (a apiVolumes) Select(ctx context.Context, c *v1.PersistentVolumeClaim, node string) (*v1.PersistentVolumeClaim, error) {
	api := a.client.CoreV1().PersistentVolumeClaims(c.Namespace)
	now, err := api.Get(ctx, c.Name, metav1.GetOptions{})
	if err != nil || now.UID != c.UID || now.Spec.VolumeName != "" || now.Annotations[volumehelpers.AnnSelectedNode] != "" {
		return now, err
	}
	now = now.DeepCopy()
	metav1.SetMetaDataAnnotation(&now.ObjectMeta, volumehelpers.AnnSelectedNode, node)
	return api.Update(ctx, now, metav1.UpdateOptions{})
}

// Volume reads a volume.
func (a apiVolumes) Volume(ctx context.Context, name string) (*v1.PersistentVolume, error) {
	return a.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
}
