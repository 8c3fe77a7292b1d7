package config

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// gone are in the help of etcd, but etcd does not take them.
var gone = []string{"discovery", "discovery-proxy"}

// differs are defaults that the help of etcd words in another way.
var differs = map[string]string{
	"data-dir":               "${name}.etcd",
	"backend-batch-interval": "", "backend-batch-limit": "0", // the help says nothing of what is used
	"max-concurrent-streams": "math.MaxUint32",
	"initial-cluster":        "default=http://localhost:2380", // made of the others
}

// TestEveryFlag knows every flag of etcd, with its default.
func TestEveryFlag(t *testing.T) {
	etcd := filepath.Join("..", "..", "bin", "peers", "etcd")
	help, err := exec.Command(etcd, "--help").CombinedOutput()
	if err != nil {
		t.Skipf("%v: run make peers", err)
	}
	found := regexp.MustCompile(`(?m)^  --([a-z0-9-]+)(?: '?([^'\n]*)'?)?$`).FindAllStringSubmatch(string(help), -1)
	require.Greater(t, len(found), 100)
	known := Flags()
	for _, f := range found {
		name, value := f[1], f[2]
		flag := known.Lookup(name)
		if slices.Contains(gone, name) {
			require.Nil(t, flag, "--%s", name)
			continue
		}
		if flag == nil {
			t.Errorf("--%s is not known", name)
			continue
		}
		if want, ok := differs[name]; ok {
			require.Equal(t, want, value, "--%s", name)
			continue
		}
		if value != "" {
			require.Equal(t, normal(t, flag, value), flag.DefValue, "--%s", name)
		}
	}
}

// normal writes a value as a flag does.
func normal(t *testing.T, f *pflag.Flag, value string) string {
	fs := Flags()
	require.NoError(t, fs.Set(f.Name, value), "--%s", f.Name)
	return fs.Lookup(f.Name).Value.String()
}

func TestIdle(t *testing.T) {
	c, err := Parse([]string{"--v2-deprecation=gone", "--feature-gates=PriorityRequest=true"}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"PriorityRequest: revocations of leases always go first"}, c.Idle())
	require.Equal(t, []string{deprecated["v2-deprecation"]}, c.Deprecated())
	c, err = Parse(nil, nil)
	require.NoError(t, err)
	require.Empty(t, c.Idle())
	require.Empty(t, c.Deprecated())
	old := filepath.Join(t.TempDir(), "old.yaml")
	require.NoError(t, os.WriteFile(old, []byte("proxy: 'off'\ndiscovery-fallback: 'proxy'\nproxy-read-timeout: 0\ndiscovery:\n"), 0o600))
	c, err = Parse([]string{"--config-file", old}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{
		"the key discovery-fallback: it belongs to earlier versions of etcd", "the key proxy: it belongs to earlier versions of etcd",
		"the key proxy-read-timeout: it belongs to earlier versions of etcd",
	}, c.Idle())
}

func TestSettings(t *testing.T) {
	args := []string{"--snapshot-catchup-entries=1000", "--v2-deprecation=gone", "--discovery-user=u:p", "--initial-cluster=", "--discovery-token=t",
		"--discovery-endpoints=a,b", "--pre-vote=false", "--heartbeat-interval=20",
		"--auto-tls", "--peer-auto-tls"}
	c, err := Parse(args, nil)
	require.NoError(t, err)
	again, err := Parse(args, nil)
	require.NoError(t, err)
	got := map[string]any{}
	c.Settings(func(name string, value any) { got[name] = value })
	c.parsed, again.parsed = nil, nil
	require.Equal(t, again, c, "it is as it was")
	require.NotContains(t, got, "discovery-user")
	require.NotContains(t, got, "discovery-password")
	for name, want := range map[string]any{
		"snapshot-catchup-entries": int64(1000), "v2-deprecation": "write-only", "discovery-endpoints": []string{"a", "b"}, "pre-vote": false,
		"heartbeat-interval": int64(20), "quota-backend-bytes": int64(0), "auto-tls": true, "log-outputs": []string{"default"}, "listen-metrics-urls": []string{},
	} {
		require.Equal(t, want, got[name], "--%s", name)
	}
}
