package kinds

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Set is kinds that can be looked up.
type Set struct {
	all        []*Kind
	byResource map[schema.GroupVersionResource]*Kind
	byKind     map[schema.GroupVersionKind]*Kind
	scheme     *runtime.Scheme
}

// NewSet makes a Set. Two kinds with the same names, or at the same place, are an error.
func NewSet(all ...*Kind) (*Set, error) {
	s := &Set{
		all:        all,
		byResource: make(map[schema.GroupVersionResource]*Kind, len(all)),
		byKind:     make(map[schema.GroupVersionKind]*Kind, len(all)),
		scheme:     runtime.NewScheme(),
	}
	places := make(map[string]*Kind, len(all))
	for _, k := range all {
		if s.byKind[k.GroupVersionKind] != nil || s.byResource[k.GroupVersionResource()] != nil {
			return nil, fmt.Errorf("kinds: %s is there twice", k.GroupVersionKind)
		}
		if other := places[k.Place]; other != nil && k.Stored == nil && other.Stored == nil {
			return nil, fmt.Errorf("kinds: %s and %s are both stored in %s", k.GroupVersionKind, other.GroupVersionKind, k.Place)
		}
		places[k.Place] = k
		s.byKind[k.GroupVersionKind], s.byResource[k.GroupVersionResource()] = k, k
		s.scheme.AddKnownTypeWithName(k.GroupVersionKind, k.New())
		s.scheme.AddKnownTypeWithName(k.List(), k.NewList())
		metav1.AddToGroupVersion(s.scheme, k.GroupVersion())
	}
	for _, k := range all {
		if k.Stored != nil {
			if other := s.byKind[k.Stored.Kind.GroupVersionKind]; other != nil && other.Place == k.Place && other.Stored == nil && other != k.Stored.Kind {
				return nil, fmt.Errorf("kinds: %s is stored as a copy of %s", k.GroupVersionKind, other.GroupVersionKind)
			}
		}
	}
	return s, nil
}

// All returns the kinds in the order in which they were given.
func (s *Set) All() []*Kind { return s.all }

// ByResource returns the kind of a resource, or nil.
func (s *Set) ByResource(r schema.GroupVersionResource) *Kind { return s.byResource[r] }

// ByKind returns the kind of a name, or nil.
func (s *Set) ByKind(k schema.GroupVersionKind) *Kind { return s.byKind[k] }

// Scheme knows the types of all kinds and of their lists, and the options and results of package metav1.
func (s *Set) Scheme() *runtime.Scheme { return s.scheme }
