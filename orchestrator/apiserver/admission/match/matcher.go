package match

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Versions knows in which versions the objects of a kind are served.
type Versions interface {
	// Equivalents returns all kinds whose objects are a kind's, itself among them or not.
	Equivalents(k *kinds.Kind) []*kinds.Kind
	// Convert returns an object, which it does not change, as one of another kind of its equivalents.
	Convert(ctx context.Context, o kinds.Object, from, to *kinds.Kind) (kinds.Object, error)
}

// Version is one in which a request is shown.
type Version struct {
	Kind       *kinds.Kind             // of the resource
	ObjectKind schema.GroupVersionKind // of the objects
}

// Matcher compares requests with criteria.
type Matcher struct {
	Lookup   admission.Lookup
	Versions Versions // nil: nothing is served in two versions
}

var namespacesResource = schema.GroupResource{Resource: "namespaces"}

// Match says whether a request meets criteria, and in which version. Errors are status errors.
func (m *Matcher) Match(ctx context.Context, c *Criteria, a *admission.Attributes) (v Version, ok bool, err error) {
	if !m.objectMatches(c, a) {
		return v, false, nil
	}
	if _, excluded := m.byRules(c.exclude, c.equivalent, a); excluded {
		return v, false, nil
	}
	if v, ok = m.byRules(c.include, c.equivalent, a); !ok && !c.everything {
		return v, false, nil
	} else if !ok {
		v = Version{a.Kind, a.ObjectKind}
	}
	in, err := m.namespaceMatches(ctx, c, a)
	switch {
	case err != nil:
		return v, false, err
	case !in:
		return v, false, nil
	case c.objectsErr != nil:
		return v, false, apierrors.NewInternalError(c.objectsErr)
	}
	return v, true, nil
}

func (m *Matcher) byRules(rules []namedRule, equivalent bool, a *admission.Attributes) (Version, bool) {
	if anyRule(rules, a, a.Kind.GroupVersionResource()) {
		return Version{a.Kind, a.ObjectKind}, true
	}
	if !equivalent || m.Versions == nil || len(rules) == 0 {
		return Version{}, false
	}
	others := m.Versions.Equivalents(a.Kind)
	for i := range rules {
		for _, k := range others {
			if k.GroupVersionResource() == a.Kind.GroupVersionResource() || !ruleMatches(&rules[i], a, k.GroupVersionResource()) {
				continue
			}
			v := Version{k, a.ObjectKind}
			if a.ObjectKind == a.Kind.GroupVersionKind {
				v.ObjectKind = k.GroupVersionKind
			}
			return v, true
		}
	}
	return Version{}, false
}

// objectMatches is true for selectors that cannot be read: that is an error for requests which meet all else.
func (m *Matcher) objectMatches(c *Criteria, a *admission.Attributes) bool {
	if c.objectsErr != nil || c.objects.Empty() {
		return true
	}
	matches := func(o runtime.Object) bool {
		if o == nil {
			return false
		}
		access, err := meta.Accessor(o)
		return err == nil && c.objects.Matches(labels.Set(access.GetLabels()))
	}
	return matches(a.Object) || matches(a.Old)
}

func (m *Matcher) namespaceMatches(ctx context.Context, c *Criteria, a *admission.Attributes) (bool, error) {
	isNamespace := a.Kind.Resource == namespacesResource.Resource
	if a.Namespace == "" && !isNamespace {
		return true, nil // what is in no namespace is never exempt
	}
	if c.namespacesErr != nil {
		return false, apierrors.NewInternalError(c.namespacesErr)
	}
	if c.namespaces.Empty() {
		return true, nil
	}
	// A namespace that is being written has its labels itself.
	if isNamespace && a.Subresource == "" && (a.Operation == admission.Create || a.Operation == admission.Update) {
		access, err := meta.Accessor(a.Object)
		if err != nil {
			return false, apierrors.NewInternalError(err)
		}
		return c.namespaces.Matches(labels.Set(access.GetLabels())), nil
	}
	name := a.Namespace
	if name == "" {
		name = a.Name
	}
	ns, err := m.Namespace(ctx, name)
	if err != nil {
		return false, err
	}
	return c.namespaces.Matches(labels.Set(ns.Labels)), nil
}

// Namespace returns a namespace, that may just have been made. Errors are status errors.
func (m *Matcher) Namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	o, err := m.Lookup.Get(ctx, namespacesResource, "", name, false)
	if apierrors.IsNotFound(err) {
		o, err = m.Lookup.Get(ctx, namespacesResource, "", name, true)
	}
	if err != nil {
		if apierrors.ReasonForError(err) != "" {
			return nil, err
		}
		return nil, apierrors.NewInternalError(err)
	}
	ns, ok := o.(*corev1.Namespace)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("namespace is of another type"))
	}
	return ns, nil
}
