package policy

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// param is what expressions see as params, nil for a binding without.
type param = runtime.Object

// paramKind returns the kind of a policy's parameters, nil if it has none.
func (p *plugin) paramKind(r *rule) (*kinds.Kind, error) {
	if r.paramKind == nil {
		return nil, nil
	}
	gv, err := schema.ParseGroupVersion(r.paramKind.APIVersion)
	if err == nil && p.kinds != nil {
		if k := p.kinds.ByKind(gv.WithKind(r.paramKind.Kind)); k != nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gv.WithKind(r.paramKind.Kind))
}

// params returns what a binding refers to, for a request in a namespace; nothing if it is not there and that does not matter.
func (p *plugin) params(ctx context.Context, k *kinds.Kind, ref *admissionv1.ParamRef, namespace string) (out []param, err error) {
	if k == nil || ref == nil {
		return []param{nil}, nil
	}
	switch {
	case k.Namespaced && ref.Namespace != "":
		namespace = ref.Namespace
	case k.Namespaced && namespace == "":
		return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
	case !k.Namespaced && ref.Namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case !k.Namespaced:
		namespace = ""
	}
	var found []kinds.Object
	switch {
	case ref.Name != "" && ref.Selector != nil:
		return nil, errors.New("paramRef.name and paramRef.selector are mutually exclusive")
	case ref.Name != "":
		found, err = p.paramByName(ctx, k, namespace, ref.Name)
	case ref.Selector != nil:
		found, err = p.paramsBySelector(ctx, k, namespace, ref.Selector)
	default:
		return nil, errors.New("one of name or selector must be provided")
	}
	if err != nil {
		return nil, err
	}
	for _, o := range found {
		o, err := p.asParam(ctx, o, k)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	if len(out) == 0 && ptr.Deref(ref.ParameterNotFoundAction, "") == admissionv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	return out, nil
}

func (p *plugin) paramByName(ctx context.Context, k *kinds.Kind, namespace, name string) ([]kinds.Object, error) {
	o, err := p.source.lookup.Get(ctx, k.GroupResource(), namespace, name, false)
	if apierrors.IsNotFound(err) { // it may just have been made
		o, err = p.source.lookup.Get(ctx, k.GroupResource(), namespace, name, true)
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return []kinds.Object{o}, nil
}

func (p *plugin) paramsBySelector(ctx context.Context, k *kinds.Kind, namespace string, by *metav1.LabelSelector) (out []kinds.Object, err error) {
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil {
		return nil, err
	}
	all, err := p.source.lookup.List(ctx, k.GroupResource(), namespace)
	for _, o := range all {
		if selector.Matches(labels.Set(o.GetLabels())) {
			out = append(out, o)
		}
	}
	return out, err
}

// asParam returns a parameter in the version that the policy asks for, with apiVersion and kind.
func (p *plugin) asParam(ctx context.Context, o kinds.Object, k *kinds.Kind) (param, error) {
	have := o.GetObjectKind().GroupVersionKind()
	if have == k.GroupVersionKind {
		return o, nil
	}
	if from := p.kinds.ByKind(have); from != nil && p.matcher.Versions != nil {
		converted, err := p.matcher.Versions.Convert(ctx, o, from, k)
		if err != nil {
			return nil, fmt.Errorf("convert params to %s: %w", k.GroupVersionKind, err)
		}
		o = converted
	}
	out := o.DeepCopyObject()
	out.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	return out, nil
}
