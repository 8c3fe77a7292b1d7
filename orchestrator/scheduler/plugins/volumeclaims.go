package plugins

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

// usesClaims tells whether a pod has volumes of claims.
func usesClaims(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return true
		}
	}
	return false
}

// usesClaim tells whether a pod has a volume of a certain claim.
func usesClaim(pod *v1.Pod, k storage.Key) bool {
	if pod.Namespace != k.Namespace {
		return false
	}
	for i := range pod.Spec.Volumes {
		if c, ok := storage.ClaimOf(pod, &pod.Spec.Volumes[i]); ok && c == k {
			return true
		}
	}
	return false
}

// claimsOf are the claims of a pod's volumes. The error says what users are told about one that is not there.
func claimsOf(t *storage.Table, pod *v1.Pod) ([]*v1.PersistentVolumeClaim, error) {
	var out []*v1.PersistentVolumeClaim
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		key, ok := storage.ClaimOf(pod, v)
		if !ok {
			continue
		}
		c := t.Claim(key)
		switch {
		case c == nil && v.Ephemeral != nil:
			return nil, fmt.Errorf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", key.Name)
		case c == nil:
			return nil, fmt.Errorf("persistentvolumeclaim %q not found", key.Name)
		case v.Ephemeral != nil:
			if err := ephemeral.VolumeIsForPod(pod, c); err != nil {
				return nil, err
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// isBound tells whether a claim has its volume for good.
func isBound(c *v1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName != "" && metav1.HasAnnotation(c.ObjectMeta, volumehelpers.AnnBindCompleted)
}

// claimHint makes pods be tried again when something happens to one of their claims.
func claimHint(a framework.Action) framework.Hint {
	return framework.Hint{Event: framework.Event{Resource: framework.PersistentVolumeClaim, Action: a}, Helps: func(pod *framework.PodInfo, c framework.Change) bool {
		now, is := c.New.(*v1.PersistentVolumeClaim)
		return is && usesClaim(pod.Pod, storage.KeyOf(now))
	}}
}
