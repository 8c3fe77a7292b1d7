package utl

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/testkit/clihelp"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestCommandsOfEtcdutl compares all commands and their flags with those of etcdutl.
func TestCommandsOfEtcdutl(t *testing.T) {
	n := clihelp.Compare(t, servertest.Oracle(t, "etcdutl"), func(args ...string) string { return mustRun(t, args...) })
	require.Equal(t, 9, n)
}
