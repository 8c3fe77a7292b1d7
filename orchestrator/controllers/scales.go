package controllers

import (
	"context"
	"errors"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/util/retry"
)

// Scales reads and sets the scale of any object that has one, of custom resources, too.
type Scales struct {
	Client scale.ScalesGetter
	Mapper meta.RESTMapper
}

// find reads the scale of an object, and says which resource it is of.
func (s Scales) find(ctx context.Context, namespace, apiVersion, kind, name string) (*autoscalingv1.Scale, schema.GroupResource, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, schema.GroupResource{}, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	mappings, err := s.Mapper.RESTMappings(schema.GroupKind{Group: gv.Group, Kind: kind})
	if err != nil {
		return nil, schema.GroupResource{}, fmt.Errorf("unable to determine resource for scale target reference: %w", err)
	}
	errs := errors.New("there is no such resource")
	for i, m := range mappings {
		r := m.Resource.GroupResource()
		o, err := s.Client.Scales(namespace).Get(ctx, r, name, metav1.GetOptions{})
		if err == nil {
			return o, r, nil
		}
		if i == 0 {
			errs = err
		}
	}
	return nil, schema.GroupResource{}, errs
}

// set says how many replicas an object is to have. from is its scale as find read it; if somebody has changed it since, it is read again.
func (s Scales) set(ctx context.Context, namespace string, r schema.GroupResource, from *autoscalingv1.Scale, replicas int32) error {
	o := from.DeepCopy()
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		o.Spec.Replicas = replicas
		_, err := s.Client.Scales(namespace).Update(ctx, r, o, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			now, gerr := s.Client.Scales(namespace).Get(ctx, r, from.Name, metav1.GetOptions{})
			if gerr != nil {
				return gerr
			}
			o = now
		}
		return err
	})
}
