package apimachinery

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Behaviours{
		"server version should find the server version": serverVersion,
	})
}

func serverVersion(t *testing.T, e *conformance.Env) {
	v, err := e.Client.Discovery().ServerVersion()
	require.NoError(t, err)
	require.Equal(t, "1", v.Major)
	require.Regexp(t, `^\d+`, v.Minor)
}
