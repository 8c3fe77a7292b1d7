package apiserver

import (
	"errors"
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/media"
	"github.com/keelson-io/keelson/orchestrator/apiserver/patch"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// scaleKind describes Scale, as far as patches of it need.
func scaleKind() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), Resource: "scales", Namespaced: true,
		New: func() kinds.Object { return &autoscalingv1.Scale{} }, NewList: func() runtime.Object { return nil },
	}
}

// scaleOf shows the number of replicas of an object.
func scaleOf(k *kinds.Kind, o kinds.Object) *autoscalingv1.Scale {
	s := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{
		Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
	}}
	s.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	s.Spec.Replicas = k.Scale.Replicas(o)
	s.Status.Replicas = k.Scale.Observed(o)
	if k.Scale.Selector != nil {
		s.Status.Selector = k.Scale.Selector(o)
	}
	return s
}

// scale serves the subresource scale: an object of its own that changes one field of another.
func (c *call) scale() error {
	switch c.info.Verb {
	case "get":
		it, err := c.res.Get(c.ctx(), c.info.Namespace, c.info.Name, c.query.Get("resourceVersion"))
		if err != nil {
			return err
		}
		return c.any(http.StatusOK, scaleOf(c.res.Kind, it.Object))
	case "update":
		return c.updateScale()
	case "patch":
		return c.patchScale()
	}
	return apierrors.NewMethodNotSupported(c.res.Kind.GroupResource(), c.info.Verb)
}

func (c *call) updateScale() error {
	body, err := c.body()
	if err != nil {
		return err
	}
	var o metav1.UpdateOptions
	if err := c.options(&o); err != nil {
		return err
	}
	wanted := &autoscalingv1.Scale{}
	warnings, err := media.DecodeInto(body, c.r.Header.Get("Content-Type"), scaleKind().GroupVersionKind, wanted, o.FieldValidation)
	if err != nil {
		return err
	}
	c.warnAll(warnings)
	c.asked(scaleKind().GroupVersionKind, wanted)
	t, err := c.target(&o, o.FieldManager, o.FieldValidation, o.DryRun)
	if err != nil {
		return err
	}
	return c.setScale(t, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return wanted, nil })
}

func (c *call) patchScale() error {
	body, err := c.body()
	if err != nil {
		return err
	}
	var o metav1.PatchOptions
	if err := c.options(&o); err != nil {
		return err
	}
	kind := types.PatchType(mediaType(c.r.Header.Get("Content-Type")))
	if err := patch.Check(kind, &o); err != nil {
		return err
	}
	t, err := c.target(&o, o.FieldManager, o.FieldValidation, o.DryRun)
	if err != nil {
		return err
	}
	if kind == types.ApplyPatchType {
		kind = types.MergePatchType // a Scale has nothing but fields of one value
	}
	audit.FromContext(c.ctx()).RequestPatch(body)
	p := patch.New(scaleKind(), nil)
	return c.setScale(t, func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		out, warnings, err := p.Apply(c.ctx(), now, body, verbs.PatchOptions{Type: kind, Manager: t.Manager, Validation: t.Validation})
		if err != nil {
			return nil, err
		}
		c.warnAll(warnings)
		return out.(*autoscalingv1.Scale), nil
	})
}

// setScale changes an object by a change of its Scale.
func (c *call) setScale(t *verbs.Target, change func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error)) error {
	k := c.res.Kind
	it, err := c.res.Change(c.ctx(), t, func(current kinds.Object) (kinds.Object, error) {
		wanted, err := change(scaleOf(k, current))
		if err != nil {
			return nil, err
		}
		if err := sameScale(k, wanted, current); err != nil {
			return nil, err
		}
		o := current.DeepCopyObject().(kinds.Object)
		k.Scale.SetReplicas(o, wanted.Spec.Replicas)
		return o, nil
	})
	if err != nil {
		return err
	}
	return c.any(http.StatusOK, scaleOf(k, it.Object))
}

// sameScale checks that a Scale is one of the object, and says what is wrong with it.
func sameScale(k *kinds.Kind, s *autoscalingv1.Scale, o kinds.Object) error {
	switch {
	case s.Name != "" && s.Name != o.GetName():
		return apierrors.NewBadRequest("the name of the object (" + s.Name + ") does not match the name on the URL (" + o.GetName() + ")")
	case s.UID != "" && s.UID != o.GetUID(), s.ResourceVersion != "" && s.ResourceVersion != o.GetResourceVersion():
		return apierrors.NewConflict(k.GroupResource(), o.GetName(), errors.New("the object has been modified; please apply your changes to the latest version and try again"))
	case s.Spec.Replicas < 0:
		return apierrors.NewInvalid(schema.GroupKind{Group: autoscalingv1.GroupName, Kind: "Scale"}, o.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, "must be greater than or equal to 0")})
	}
	return nil
}
