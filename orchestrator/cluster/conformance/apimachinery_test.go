package conformance

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func apiMachinery() []behaviour {
	return []behaviour{
		{"server version should find the server version", serverVersion},
	}
}

func serverVersion(t *testing.T, e *env) {
	v, err := e.client.Discovery().ServerVersion()
	require.NoError(t, err)
	require.Equal(t, "1", v.Major)
	require.Regexp(t, `^\d+`, v.Minor)
}
