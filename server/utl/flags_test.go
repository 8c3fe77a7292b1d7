package utl

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/testkit/clihelp"
	"github.com/keelson-io/keelson/server/servertest"
)

// ours are the lines of help of commands that etcdutl has not.
var ours = regexp.MustCompile(`(?m)^  preflight .*\n`)

// TestCommandsOfEtcdutl compares all commands and their flags with those of etcdutl.
func TestCommandsOfEtcdutl(t *testing.T) {
	n := clihelp.Compare(t, servertest.Oracle(t, "etcdutl"), func(args ...string) string {
		return ours.ReplaceAllString(mustRun(t, args...), "")
	})
	require.Equal(t, 9, n)
}
