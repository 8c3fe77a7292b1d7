package discovery

import (
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// documents returns what is at each path, without /api, which depends on the request.
func (rs *resources) documents() map[string]runtime.Object {
	docs := map[string]runtime.Object{}
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	docs["/apis"] = list
	for _, name := range rs.groups() {
		group := metav1.APIGroup{Name: name}
		for _, version := range rs.versions(name) {
			gv := schema.GroupVersion{Group: name, Version: version}
			group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: version})
			docs[root(name)+"/"+gv.String()] = rs.list(gv)
		}
		if name == "" {
			continue
		}
		group.PreferredVersion = group.Versions[0]
		list.Groups = append(list.Groups, group)
		group.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
		docs["/apis/"+name] = &group
	}
	return docs
}

func root(group string) string {
	if group == "" {
		return "/api"
	}
	return "/apis"
}

// list is the document of one group and version. That of the core group has no apiVersion, for clients of old.
func (rs *resources) list(gv schema.GroupVersion) *metav1.APIResourceList {
	list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: gv.String(), APIResources: rs.lists[gv]}
	if gv.Group != "" {
		list.APIVersion = "v1"
	}
	return list
}

// aggregated returns everything below /api (the core group) or below /apis (the others).
func (rs *resources) aggregated(core bool) *apidiscovery.APIGroupDiscoveryList {
	list := &apidiscovery.APIGroupDiscoveryList{Items: []apidiscovery.APIGroupDiscovery{}}
	for _, name := range rs.groups() {
		if (name == "") != core {
			continue
		}
		group := apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, version := range rs.versions(name) {
			gv := schema.GroupVersion{Group: name, Version: version}
			fresh := apidiscovery.DiscoveryFreshnessCurrent
			if rs.Remote[gv].Stale {
				fresh = apidiscovery.DiscoveryFreshnessStale
			}
			group.Versions = append(group.Versions, apidiscovery.APIVersionDiscovery{
				Version: version, Freshness: fresh, Resources: nested(gv, rs.lists[gv]),
			})
		}
		list.Items = append(list.Items, group)
	}
	return list
}

// nested puts subresources into their resources, which they follow in a sorted list.
func nested(gv schema.GroupVersion, list []metav1.APIResource) []apidiscovery.APIResourceDiscovery {
	var all []apidiscovery.APIResourceDiscovery
	for _, r := range list {
		kind := &metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: r.Kind}
		if r.Version != "" {
			kind.Group, kind.Version = r.Group, r.Version
		}
		if of, name, ok := strings.Cut(r.Name, "/"); ok {
			if len(all) == 0 || all[len(all)-1].Resource != of { // other servers may have a subresource without its resource
				all = append(all, apidiscovery.APIResourceDiscovery{Resource: of, Scope: scopeOf(r)})
			}
			parent := &all[len(all)-1]
			parent.Subresources = append(parent.Subresources, apidiscovery.APISubresourceDiscovery{Subresource: name, ResponseKind: kind, Verbs: r.Verbs})
			continue
		}
		all = append(all, apidiscovery.APIResourceDiscovery{
			Resource: r.Name, ResponseKind: kind, Scope: scopeOf(r), SingularResource: r.SingularName, Verbs: r.Verbs,
			ShortNames: r.ShortNames, Categories: r.Categories,
		})
	}
	return all
}

func scopeOf(r metav1.APIResource) apidiscovery.ResourceScope {
	if r.Namespaced {
		return apidiscovery.ScopeNamespace
	}
	return apidiscovery.ScopeCluster
}
