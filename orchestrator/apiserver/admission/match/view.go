package match

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	celadmission "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// View is a request in one version. Its objects have apiVersion and kind, are shared, and are never changed.
type View struct {
	Version
	Object, Old runtime.Object // nil: there is none
	Options     runtime.Object // nil: there are none
	// CEL is the same for expressions.
	CEL *celadmission.VersionedAttributes
}

// Views are those of one request.
type Views struct {
	matcher *Matcher
	a       *admission.Attributes
	made    map[viewKey]*View
}

// viewKey is a Version: its resource, and the kind of its objects.
type viewKey struct{ kind, objects schema.GroupVersionKind }

// Views returns the views of a request. Who replaces or changes a.Object calls Changed.
func (m *Matcher) Views(a *admission.Attributes) *Views {
	return &Views{matcher: m, a: a, made: map[viewKey]*View{}}
}

// Changed forgets the views of an object that is no more.
func (s *Views) Changed() { clear(s.made) }

// Of returns the view in a version.
func (s *Views) Of(ctx context.Context, v Version) (*View, error) {
	key := viewKey{v.Kind.GroupVersionKind, v.ObjectKind}
	if view := s.made[key]; view != nil {
		return view, nil
	}
	view := &View{Version: v, Options: options(s.a)}
	var err error
	if view.Object, err = s.convert(ctx, s.a.Object, v); err != nil {
		return nil, err
	}
	if view.Old, err = s.convert(ctx, s.a.Old, v); err != nil {
		return nil, err
	}
	view.CEL = &celadmission.VersionedAttributes{
		Attributes: celadmission.NewAttributesRecord(s.a.Object, s.a.Old, s.a.ObjectKind, s.a.Namespace, s.a.Name, s.a.Kind.GroupVersionResource(),
			s.a.Subresource, celadmission.Operation(s.a.Operation), view.Options, s.a.DryRun, UserInfo(s.a.User)),
		VersionedKind: v.ObjectKind, VersionedObject: celadmission.NewLazyObject(view.Object), VersionedOldObject: celadmission.NewLazyObject(view.Old),
	}
	s.made[key] = view
	return view, nil
}

// Replace makes an object of a view's version the request's.
func (s *Views) Replace(ctx context.Context, v Version, o runtime.Object) error {
	if v.ObjectKind != s.a.ObjectKind {
		typed, ok := o.(kinds.Object)
		if !ok {
			return fmt.Errorf("convert %s to %s: not an object", v.ObjectKind, s.a.ObjectKind)
		}
		back, err := s.matcher.Versions.Convert(ctx, typed, v.Kind, s.a.Kind)
		if err != nil {
			return fmt.Errorf("convert %s to %s: %w", v.ObjectKind, s.a.ObjectKind, err)
		}
		o = back
	}
	s.a.Object = o
	s.Changed()
	return nil
}

func (s *Views) convert(ctx context.Context, o runtime.Object, v Version) (runtime.Object, error) {
	if o == nil {
		return nil, nil
	}
	if v.ObjectKind != s.a.ObjectKind {
		typed, ok := o.(kinds.Object)
		if !ok {
			return nil, fmt.Errorf("convert %s to %s: not an object", s.a.ObjectKind, v.ObjectKind)
		}
		out, err := s.matcher.Versions.Convert(ctx, typed, s.a.Kind, v.Kind)
		if err != nil {
			return nil, fmt.Errorf("convert %s to %s: %w", s.a.ObjectKind, v.ObjectKind, err)
		}
		o = out
	}
	return named(o, v.ObjectKind), nil
}

// named returns an object with its kind. It may be shared, so that what has to be changed is a copy.
func named(o runtime.Object, k schema.GroupVersionKind) runtime.Object {
	if o.GetObjectKind().GroupVersionKind() == k {
		return o
	}
	o = o.DeepCopyObject()
	o.GetObjectKind().SetGroupVersionKind(k)
	return o
}

// options are those of the operation that a patch comes down to.
func options(a *admission.Attributes) runtime.Object {
	switch o := a.Options.(type) {
	case nil:
		return nil
	case *metav1.PatchOptions:
		if a.Operation == admission.Create {
			return named(&metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}, metav1.SchemeGroupVersion.WithKind("CreateOptions"))
		}
		return named(&metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}, metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	case *metav1.CreateOptions:
		return named(o, metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	case *metav1.UpdateOptions:
		return named(o, metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	case *metav1.DeleteOptions:
		return named(o, metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	default:
		return o
	}
}

// UserInfo returns a user for the authorizer of expressions.
func UserInfo(u *request.User) user.Info {
	if u == nil {
		return &user.DefaultInfo{}
	}
	return &user.DefaultInfo{Name: u.Name, UID: u.UID, Groups: u.Groups, Extra: u.Extra}
}
