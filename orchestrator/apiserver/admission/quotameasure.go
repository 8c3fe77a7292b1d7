package admission

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	quota "k8s.io/apiserver/pkg/quota/v1"

	"github.com/keelson-io/keelson/orchestrator/kinds/usage"
)

// measureOf returns what measures the object of a request, nil if the request cannot change what is used.
func measureOf(a *Attributes) *usage.Measure {
	m := usage.For(a.Kind.GroupResource())
	switch {
	case m == nil || a.Object == nil:
	case a.Operation == Create && a.Subresource == "":
		return m
	case a.Operation != Update:
	case a.Kind.Group == "" && a.Kind.Resource == "pods":
		o, ok := objectOf[*corev1.Pod](a.Object)
		old, was := objectOf[*corev1.Pod](a.Old)
		if ok && was && (a.Subresource == "resize" || a.Subresource == "" && usage.Terminating(o) != usage.Terminating(old)) {
			return m
		}
	case a.Kind.Group == "" && a.Kind.Resource == "persistentvolumeclaims" && a.Subresource == "status":
		o, ok := objectOf[*corev1.PersistentVolumeClaim](a.Object)
		old, was := objectOf[*corev1.PersistentVolumeClaim](a.Old)
		if ok && was && usage.VolumeClaimTakesOther(o, old) {
			return m
		}
	case m.Updates && a.Subresource == "":
		return m
	}
	return nil
}

// takenMore is what a request takes of a quota, beyond what the old object takes of it.
func takenMore(m *usage.Measure, q *corev1.ResourceQuota, takes corev1.ResourceList, a *Attributes, now time.Time) (corev1.ResourceList, error) {
	if a.Operation != Update {
		return quota.RemoveZeros(takes), nil
	}
	if a.Old == nil {
		return nil, Forbidden(a, errors.New("unable to get previous usage since prior version of object was not found"))
	}
	if old, err := meta.Accessor(a.Old); err != nil || old.GetResourceVersion() == "" {
		return quota.RemoveZeros(takes), nil
	}
	in, err := m.Matches(q, a.Old)
	if err != nil || !in {
		return quota.RemoveZeros(takes), nil
	}
	return quota.RemoveZeros(quota.SubtractWithNonNegativeResult(takes, m.Of(a.Old, now))), nil
}
