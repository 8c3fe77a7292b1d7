package config

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDiscoveryRefusals compares what is refused, and how, with etcd.
func TestDiscoveryRefusals(t *testing.T) {
	etcd, err := exec.LookPath(filepath.Join("..", "..", "bin", "peers", "etcd"))
	if err != nil {
		t.Skipf("%v: run make peers", err)
	}
	const several = "multiple discovery or bootstrap flags are set. Choose one of"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--initial-cluster=a=http://localhost:2380", "--discovery-srv=x"}, several},
		{[]string{"--initial-cluster=a=http://localhost:2380", "--discovery-endpoints=x", "--discovery-token=t"}, several},
		{[]string{"--discovery-srv=x", "--discovery-endpoints=x", "--discovery-token=t"}, several},
		{[]string{"--discovery-token=t"}, "both --discovery-token and --discovery-endpoints must be set"},
		{[]string{"--discovery-endpoints=x"}, "both --discovery-token and --discovery-endpoints must be set"},
		{[]string{"--discovery-endpoints=x,,y", "--discovery-token=t"}, "--discovery-endpoints must not contain empty endpoints"},
		{[]string{"--discovery-fallback=proxy"}, "v2 proxy is deprecated, and --discovery-fallback can't be configured as "},
	} {
		out, err := exec.Command(etcd, append(c.args, "--data-dir="+t.TempDir())...).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), c.want)
		_, err = Parse(c.args, nil)
		require.ErrorContains(t, err, c.want)
	}
}
