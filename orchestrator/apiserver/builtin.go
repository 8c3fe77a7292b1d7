package apiserver

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/keelson-io/keelson/orchestrator/apiserver/openapi"
	"github.com/keelson-io/keelson/orchestrator/apiserver/patch"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// serveBuiltin makes the built-in resources.
func (a *API) serveBuiltin() {
	all := a.cfg.Kinds
	extending := sync.OnceValues(func() (managedfields.TypeConverter, error) {
		types, err := openapi.Definitions(slices.DeleteFunc(slices.Clone(all), inClientGo))
		if err != nil {
			return nil, err
		}
		return managedfields.NewTypeConverter(types, false)
	})
	for _, k := range all {
		types := a.types
		if !inClientGo(k) {
			types = extending
		}
		a.builtin = append(a.builtin, a.resource(k, types, versions(all, k)...))
	}
}

// inClientGo says whether client-go has the types of a kind: it lacks those that extend the API itself.
func inClientGo(k *kinds.Kind) bool { return scheme.Scheme.Recognizes(k.GroupVersionKind) }

// versions are the kinds that are stored as a kind is, or as which it is stored.
func versions(all []*kinds.Kind, k *kinds.Kind) []*kinds.Kind {
	stored := func(k *kinds.Kind) *kinds.Kind {
		if k.Stored != nil {
			return k.Stored.Kind
		}
		return k
	}
	var out []*kinds.Kind
	for _, other := range all {
		if stored(other) == stored(k) {
			out = append(out, other)
		}
	}
	return out
}

// resource serves a kind. versions are those that are stored as it is.
func (a *API) resource(k *kinds.Kind, types func() (managedfields.TypeConverter, error), versions ...*kinds.Kind) *verbs.Resource {
	return &verbs.Resource{
		Kind: k, Objects: a.cfg.Store.Collection(k), Patcher: patch.New(k, types, versions...), Admission: a.chain, Clock: a.cfg.Clock,
	}
}
