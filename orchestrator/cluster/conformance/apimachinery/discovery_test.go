package apimachinery

import (
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
