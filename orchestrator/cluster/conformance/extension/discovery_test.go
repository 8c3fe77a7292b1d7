package extension

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// discovers looks for resources in the discovery documents: that of all groups, of their group and of their version.
func discovers(t *testing.T, e *conformance.Env, gv schema.GroupVersion, resources ...string) {
	t.Helper()
	client := e.Client.Discovery().RESTClient()
	groups, group, list := &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{}
	require.NoError(t, client.Get().AbsPath("/apis").Do(e.Ctx).Into(groups))
	i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
	require.GreaterOrEqual(t, i, 0, "the group in /apis")
	want := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
	require.Contains(t, groups.Groups[i].Versions, want)

	require.NoError(t, client.Get().AbsPath("/apis/"+gv.Group).Do(e.Ctx).Into(group))
	require.Equal(t, gv.Group, group.Name)
	require.Contains(t, group.Versions, want)

	require.NoError(t, client.Get().AbsPath("/apis/"+gv.String()).Do(e.Ctx).Into(list))
	require.Equal(t, gv.String(), list.GroupVersion)
	var names []string
	for _, r := range list.APIResources {
		names = append(names, r.Name)
	}
	for _, r := range resources {
		require.Contains(t, names, r)
	}
}

// aggregation is behaviours of aggregated discovery.
func aggregation() conformance.Behaviours {
	return conformance.Behaviours{
		"AggregatedDiscovery should support aggregated discovery interface":                   aggregatedBuiltin,
		"AggregatedDiscovery should support aggregated discovery interface for CRDs":          aggregatedInterface,
		"AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers": aggregatedHeaders,
		"AggregatedDiscovery should support raw aggregated discovery request for CRDs":        aggregatedRequest,
	}
}

// everywhere are resources that every cluster has: one of each group version.
func everywhere() []schema.GroupVersionResource {
	of := func(group, version, resource string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
	}
	return []schema.GroupVersionResource{
		of("", "v1", "namespaces"), of("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
		of("apiextensions.k8s.io", "v1", "customresourcedefinitions"), of("apiregistration.k8s.io", "v1", "apiservices"),
		of("apps", "v1", "deployments"), of("authentication.k8s.io", "v1", "tokenreviews"), of("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
		of("autoscaling", "v1", "horizontalpodautoscalers"), of("autoscaling", "v2", "horizontalpodautoscalers"), of("batch", "v1", "jobs"),
		of("certificates.k8s.io", "v1", "certificatesigningrequests"), of("coordination.k8s.io", "v1", "leases"),
		of("discovery.k8s.io", "v1", "endpointslices"), of("events.k8s.io", "v1", "events"), of("networking.k8s.io", "v1", "ingresses"),
		of("node.k8s.io", "v1", "runtimeclasses"), of("policy", "v1", "poddisruptionbudgets"), of("scheduling.k8s.io", "v1", "priorityclasses"),
		of("storage.k8s.io", "v1", "csinodes"),
	}
}

func aggregatedBuiltin(t *testing.T, e *conformance.Env) {
	aggregated, ok := e.Client.Discovery().(discovery.AggregatedDiscoveryInterface)
	require.True(t, ok)
	groups, resources, failed, err := aggregated.GroupsAndMaybeResources()
	require.NoError(t, err)
	require.Empty(t, failed)
	for _, r := range everywhere() {
		list := resources[r.GroupVersion()]
		require.NotNil(t, list, r)
		require.True(t, slices.ContainsFunc(list.APIResources, func(a metav1.APIResource) bool { return a.Name == r.Resource }), r)
		require.True(t, slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool {
			return g.Name == r.Group && slices.Contains(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: r.GroupVersion().String(), Version: r.Version})
		}), r)
	}
}

func aggregatedHeaders(t *testing.T, e *conformance.Env) {
	others, err := aggregatedDocument(e, "/apis")
	require.NoError(t, err)
	core, err := aggregatedDocument(e, "/api")
	require.NoError(t, err)
	for _, r := range everywhere() {
		list := others
		if r.Group == "" {
			list = core
		}
		require.Equal(t, "APIGroupDiscoveryList", list.Kind)
		require.True(t, aggregates(list, r.Group, r.Version, r.Resource), r)
	}
}

func aggregatedInterface(t *testing.T, e *conformance.Env) {
	d := define(t, e, definition(apiextensions.NamespaceScoped, ""))
	aggregated, ok := e.Client.Discovery().(discovery.AggregatedDiscoveryInterface)
	require.True(t, ok)
	poll(t, e.Ctx, func() (bool, error) {
		groups, resources, failed, err := aggregated.GroupsAndMaybeResources()
		if err != nil || len(failed) > 0 || resources == nil {
			return false, errors.Join(err, errors.New("not aggregated"))
		}
		list := resources[schema.GroupVersion{Group: d.Spec.Group, Version: "v1"}]
		return list != nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == d.Spec.Names.Plural }) &&
			slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == d.Spec.Group }), nil
	})
}

func aggregatedRequest(t *testing.T, e *conformance.Env) {
	d := define(t, e, definition(apiextensions.NamespaceScoped, ""))
	poll(t, e.Ctx, func() (bool, error) {
		list, err := aggregatedDocument(e, "/apis")
		return err == nil && aggregates(list, d.Spec.Group, "v1", d.Spec.Names.Plural), err
	})
	undefine(t, e, d.Name)
	poll(t, e.Ctx, func() (bool, error) {
		list, err := aggregatedDocument(e, "/apis")
		return err == nil && !slices.ContainsFunc(list.Items, func(g apidiscovery.APIGroupDiscovery) bool { return g.Name == d.Spec.Group }), err
	})
}

// aggregatedDocument asks for the aggregated form of a discovery document.
func aggregatedDocument(e *conformance.Env, path string) (*apidiscovery.APIGroupDiscoveryList, error) {
	list := &apidiscovery.APIGroupDiscoveryList{}
	text, err := e.Client.Discovery().RESTClient().Get().AbsPath(path).
		SetHeader("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").Do(e.Ctx).Raw()
	if err != nil {
		return nil, err
	}
	return list, json.Unmarshal(text, list)
}

func aggregates(list *apidiscovery.APIGroupDiscoveryList, group, version, resource string) bool {
	for _, g := range list.Items {
		for _, v := range g.Versions {
			if g.Name == group && v.Version == version &&
				slices.ContainsFunc(v.Resources, func(r apidiscovery.APIResourceDiscovery) bool { return r.Resource == resource }) {
				return true
			}
		}
	}
	return false
}
