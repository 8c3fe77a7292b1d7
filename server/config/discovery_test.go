package config

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

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

// TestDiscoveryInFile reads the object that etcd's file has instead of the flags; etcd refuses the same file with the same words, so
// it understands it.
func TestDiscoveryInFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etcd.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(`
name: n
discovery-config:
  token: tok
  client:
    endpoints: ["a:1", "b:2"]
    request-timeout: 7000000000
    secure: {cacert: ca, insecure-transport: false}
    auth: {username: u, password: p}
`)
	c, err := Parse([]string{"--config-file=" + file}, nil)
	require.NoError(t, err)
	want := defaultDiscovery()
	want.Token, want.Endpoints, want.RequestTimeout = "tok", []string{"a:1", "b:2"}, 7*time.Second
	want.CAFile, want.InsecureTransport, want.User, want.Password = "ca", false, "u", "p"
	require.Equal(t, want, c.Bootstrap.Discovery)
	require.Empty(t, c.Bootstrap.Cluster)

	write("discovery-config: {tok: x}\n")
	_, err = Parse([]string{"--config-file=" + file}, nil)
	require.ErrorContains(t, err, "discovery-config")

	write("data-dir: " + t.TempDir() + "\ndiscovery-config: {client: {endpoints: [\"a:1\"]}}\n")
	_, err = Parse([]string{"--config-file=" + file}, nil)
	require.ErrorContains(t, err, "both --discovery-token and --discovery-endpoints must be set")
	if etcd, err := exec.LookPath(filepath.Join("..", "..", "bin", "peers", "etcd")); err == nil {
		out, err := exec.Command(etcd, "--config-file="+file).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "both --discovery-token and --discovery-endpoints must be set")
	}
}
