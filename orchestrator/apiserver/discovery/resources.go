package discovery

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Virtual is a resource that is not stored: what is created is only answered, and what is read is made for the answer.
type Virtual struct {
	schema.GroupVersionKind
	Resource   string // plural in URLs, "tokenreviews"
	Singular   string // "tokenreview"
	Verbs      []string
	Namespaced bool
	// New and NewList make an object and a list, where client-go does not have the types.
	New, NewList func() runtime.Object
}

// resources are the resources of each group and version, sorted by name, so that subresources follow their resource.
type resources struct {
	lists map[schema.GroupVersion][]metav1.APIResource
	Aggregated
}

func collect(all []*kinds.Kind, virtual []Virtual, others Aggregated) *resources {
	rs := map[schema.GroupVersion][]metav1.APIResource{}
	for _, k := range all {
		rs[k.GroupVersion()] = append(rs[k.GroupVersion()], ofKind(k)...)
	}
	for _, v := range virtual {
		rs[v.GroupVersion()] = append(rs[v.GroupVersion()], metav1.APIResource{
			Name: v.Resource, SingularName: v.Singular, Namespaced: v.Namespaced, Kind: v.Kind, Verbs: slices.Sorted(slices.Values(v.Verbs)),
		})
	}
	for gv, r := range others.Remote {
		rs[gv] = slices.Clone(r.Resources)
	}
	for _, list := range rs {
		slices.SortFunc(list, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	}
	return &resources{rs, others}
}

// ofKind is a kind's resource and its subresources.
func ofKind(k *kinds.Kind) []metav1.APIResource {
	verbs := k.Verbs
	if verbs == nil {
		verbs = kinds.AllVerbs
	}
	list := []metav1.APIResource{{
		Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind, Verbs: slices.Sorted(slices.Values(verbs)),
		ShortNames: k.ShortNames, Categories: k.Categories, StorageVersionHash: storageHash(k),
	}}
	part := func(name string, kind schema.GroupVersionKind, verbs []string) {
		r := metav1.APIResource{Name: k.Resource + "/" + name, Namespaced: k.Namespaced, Kind: kind.Kind, Verbs: slices.Sorted(slices.Values(verbs))}
		if kind.GroupVersion() != k.GroupVersion() {
			r.Group, r.Version = kind.Group, kind.Version
		}
		list = append(list, r)
	}
	change := []string{"get", "patch", "update"}
	if k.Status != nil {
		part("status", k.GroupVersionKind, change)
	}
	if k.Scale != nil {
		part("scale", schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, change)
	}
	for _, s := range k.Subresources {
		part(s.Name, s.Kind, s.Verbs)
	}
	return list
}

// storageHash names the kind that is stored. Kubernetes' hash of the same kind is equal.
func storageHash(k *kinds.Kind) string {
	for k.Stored != nil {
		k = k.Stored.Kind
	}
	sum := sha256.Sum256([]byte(k.Group + "/" + k.Version + "/" + k.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

// groups returns the groups in their order.
func (rs *resources) groups() []string {
	ranks := map[string]int32{}
	for gv := range rs.lists {
		ranks[gv.Group] = max(ranks[gv.Group], rs.rank(gv).Group)
	}
	return slices.SortedFunc(maps.Keys(ranks), func(a, b string) int { return cmp.Or(cmp.Compare(ranks[b], ranks[a]), strings.Compare(a, b)) })
}

// versions returns a group's versions, the preferred one first.
func (rs *resources) versions(group string) []string {
	var list []string
	for gv := range rs.lists {
		if gv.Group == group {
			list = append(list, gv.Version)
		}
	}
	rank := func(v string) int32 { return rs.rank(schema.GroupVersion{Group: group, Version: v}).Version }
	slices.SortFunc(list, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), version.CompareKubeAwareVersionStrings(b, a))
	})
	return list
}
