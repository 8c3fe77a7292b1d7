package extension

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

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
