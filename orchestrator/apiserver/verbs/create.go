package verbs

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

var errNotAnObject = errors.New("an admission plugin replaced the object by something else")

// generateAttempts is how many names are tried for an object whose name is generated.
const generateAttempts = 8

// Create stores a new object, which becomes the callee's.
func (r *Resource) Create(ctx context.Context, t *Target, o kinds.Object) (*objectstore.Item, error) {
	if r.Kind.Closed {
		err := apierrors.NewMethodNotSupported(r.Kind.GroupResource(), "create")
		err.ErrStatus.Message = "create not allowed while custom resource definition is terminating"
		return nil, err
	}
	if err := namespaceMatches(r.Kind, o, t.Namespace); err != nil {
		return nil, err
	}
	generated := o.GetName() == "" && o.GetGenerateName() != ""
	if t.Name != "" {
		if err := nameMatches(o, t.Name); err != nil {
			return nil, err
		}
	}
	if o.GetResourceVersion() != "" {
		return nil, apierrors.NewInternalError(errors.New("resourceVersion should not be set on objects to be created"))
	}
	for attempt := 1; ; attempt++ {
		item, err := r.create(ctx, t, o.DeepCopyObject().(kinds.Object))
		if generated && apierrors.IsAlreadyExists(err) {
			if attempt < generateAttempts {
				continue
			}
			err = apierrors.NewGenerateNameConflict(r.Kind.GroupResource(), o.GetGenerateName(), 1)
		}
		return item, err
	}
}

// requester is the user of a request as objects name one.
func requester(u *request.User) (by authenticationv1.UserInfo) {
	if u == nil {
		return by
	}
	by.Username, by.UID, by.Groups = u.Name, u.UID, u.Groups
	if len(u.Extra) > 0 {
		by.Extra = make(map[string]authenticationv1.ExtraValue, len(u.Extra))
	}
	for k, v := range u.Extra {
		by.Extra[k] = v
	}
	return by
}

func (r *Resource) create(ctx context.Context, t *Target, o kinds.Object) (item *objectstore.Item, err error) {
	r.applyDefaults(o)
	fillNew(r.Kind, o, r.Clock.Now())
	if o, err = r.mutate(ctx, t, admission.Create, o, nil); err != nil {
		return nil, err
	}
	if r.Kind.Create != nil {
		r.Kind.Create(o)
	}
	if r.Kind.Requested != nil {
		r.Kind.Requested(o, requester(t.User))
	}
	if !t.tracked {
		if o, err = r.track(t, nil, o); err != nil {
			return nil, err
		}
	}
	if o.GetName() == "" {
		return nil, invalid(r.Kind, o, nameRequired())
	}
	settle, err := r.reserve(ctx, t, o, nil)
	if err != nil {
		return nil, err
	}
	defer func() { settle(err == nil) }()
	if err := validateNew(r.Kind, o); err != nil {
		return nil, err
	}
	r.warn(t, o, nil)
	if err := r.Admission.Validate(ctx, r.attributes(t, admission.Create, o, nil)); err != nil {
		return nil, err
	}
	if t.DryRun {
		if _, err := r.Objects.Get(ctx, o.GetNamespace(), o.GetName(), ""); err == nil {
			return nil, apierrors.NewAlreadyExists(r.Kind.GroupResource(), o.GetName())
		} else if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("dry run: %w", err)
		}
		return objectstore.NewItem(o, 0), nil
	}
	return r.Objects.Create(ctx, o)
}
