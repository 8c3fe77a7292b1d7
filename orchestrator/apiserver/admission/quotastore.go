package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// StoredQuotas is a QuotaWriter.
type StoredQuotas struct {
	Objects *objectstore.Collection // of resource quotas
}

var errQuotaChanged = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// SetUsed stores what is used of a quota.
func (s StoredQuotas) SetUsed(ctx context.Context, q *corev1.ResourceQuota) (*corev1.ResourceQuota, error) {
	it, err := s.Objects.Update(ctx, q.Namespace, q.Name, func(current *objectstore.Item) (kinds.Object, error) {
		if current.Object.GetResourceVersion() != q.ResourceVersion {
			return nil, apierrors.NewConflict(resourceQuotas, q.Name, errQuotaChanged)
		}
		o, ok := current.Object.DeepCopyObject().(*corev1.ResourceQuota)
		if !ok {
			return nil, fmt.Errorf("resource quota %s/%s is a %T", q.Namespace, q.Name, current.Object)
		}
		o.Status.Used = q.Status.Used
		return o, nil
	})
	if err != nil {
		return nil, err
	}
	stored, ok := objectOf[*corev1.ResourceQuota](it.Object)
	if !ok {
		return nil, fmt.Errorf("resource quota %s/%s is a %T", q.Namespace, q.Name, it.Object)
	}
	return stored, nil
}
