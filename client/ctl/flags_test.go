package ctl_test

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/testkit/clihelp"
	"github.com/keelson-io/keelson/server/servertest"
)

// ours are the lines of help of commands that etcdctl has not.
var ours = regexp.MustCompile(`(?m)^  (doctor|refetch|top) .*\n`)

// TestCommandsOfEtcdctl compares all commands and their flags with those of etcdctl.
func TestCommandsOfEtcdctl(t *testing.T) {
	n := clihelp.Compare(t, servertest.Oracle(t, "etcdctl"), func(args ...string) string {
		var out, errs bytes.Buffer
		require.Zero(t, execute(args, nil, &out, &errs), errs.String())
		return ours.ReplaceAllString(out.String(), "")
	})
	require.Greater(t, n, 55)
}
