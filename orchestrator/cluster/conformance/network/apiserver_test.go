package network

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func apiServer() conformance.Behaviours {
	return conformance.Behaviours{
		"API Server should provide secure master service": apiServerService,
	}
}

func apiServerService(t *testing.T, e *conformance.Env) {
	s, err := e.Client.CoreV1().Services("default").Get(e.Ctx, "kubernetes", metav1.GetOptions{})
	require.NoError(t, err)
	require.Len(t, s.Spec.Ports, 1)
	require.Equal(t, "https", s.Spec.Ports[0].Name)
	require.EqualValues(t, 443, s.Spec.Ports[0].Port)
}
