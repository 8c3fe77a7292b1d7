package apimachinery

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func preferredVersions(t *testing.T, e *conformance.Env) {
	get := e.Client.Discovery().RESTClient().Get
	var all metav1.APIGroupList
	require.NoError(t, get().AbsPath("/apis/").Do(e.Ctx).Into(&all))
	require.NotEmpty(t, all.Groups)
	for _, g := range all.Groups {
		if strings.HasSuffix(g.Name, ".example.com") {
			continue // other behaviours make and remove these
		}
		var group metav1.APIGroup
		require.NoError(t, get().AbsPath("/apis/"+g.Name+"/").Do(e.Ctx).Into(&group), g.Name)
		require.Equal(t, g.Name, group.Name)
		require.Contains(t, group.Versions, group.PreferredVersion, g.Name)
	}
}

// resourceOfEach asks for the resources of every group version that every cluster has.
func resourceOfEach(t *testing.T, e *conformance.Env) {
	for path, resource := range map[string]string{
		"/api/v1": "namespaces", "/apis/admissionregistration.k8s.io/v1": "validatingwebhookconfigurations",
		"/apis/apiextensions.k8s.io/v1": "customresourcedefinitions", "/apis/apiregistration.k8s.io/v1": "apiservices", "/apis/apps/v1": "deployments",
		"/apis/authentication.k8s.io/v1": "tokenreviews", "/apis/authorization.k8s.io/v1": "selfsubjectaccessreviews",
		"/apis/autoscaling/v1": "horizontalpodautoscalers", "/apis/autoscaling/v2": "horizontalpodautoscalers", "/apis/batch/v1": "jobs",
		"/apis/certificates.k8s.io/v1": "certificatesigningrequests", "/apis/coordination.k8s.io/v1": "leases", "/apis/discovery.k8s.io/v1": "endpointslices",
		"/apis/events.k8s.io/v1": "events", "/apis/networking.k8s.io/v1": "ingresses", "/apis/node.k8s.io/v1": "runtimeclasses",
		"/apis/policy/v1": "poddisruptionbudgets", "/apis/scheduling.k8s.io/v1": "priorityclasses", "/apis/storage.k8s.io/v1": "csinodes",
	} {
		var list metav1.APIResourceList
		require.NoError(t, e.Client.Discovery().RESTClient().Get().AbsPath(path).Do(e.Ctx).Into(&list), path)
		require.Equal(t, strings.TrimPrefix(strings.TrimPrefix(path, "/apis/"), "/api/"), list.GroupVersion)
		require.True(t, slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resource }), path)
	}
}
