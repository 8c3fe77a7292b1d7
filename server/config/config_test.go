package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etcd.yaml")
	require.NoError(t, os.WriteFile(file, []byte("name: filed\nheartbeat-interval: 20\nelection-timeout: 200\nlog-outputs: [stderr]\nbackend-batch-interval: 5000000\npre-vote: false\n"), 0o600))
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	require.NoError(t, os.WriteFile(bad, []byte("nmae: x\n"), 0o600))

	for _, c := range []struct {
		name    string
		args    []string
		env     []string
		check   func(*testing.T, *Config)
		wantErr string
	}{
		{name: "defaults", check: func(t *testing.T, c *Config) {
			require.Equal(t, "default.etcd", c.DataDir)
			require.Equal(t, "default=http://localhost:2380", c.Bootstrap.Cluster)
			require.Equal(t, 10, c.Raft.ElectionTicks())
			require.Equal(t, 7*time.Second, c.RequestTimeout())
		}},
		{name: "one dash or two", args: []string{"-name", "a", "--data-dir=/d"}, check: func(t *testing.T, c *Config) {
			require.Equal(t, "a", c.Name)
			require.Equal(t, "/d/member/wal", c.WALPath())
			require.Equal(t, "a=http://localhost:2380", c.Bootstrap.Cluster)
		}},
		{name: "cluster follows the advertised URLs", args: []string{"--name=a", "--initial-advertise-peer-urls=http://10.0.0.1:2380"}, check: func(t *testing.T, c *Config) {
			require.Equal(t, "a=http://10.0.0.1:2380", c.Bootstrap.Cluster)
		}},
		{name: "environment", env: []string{"ETCD_NAME=env", "ETCD_SNAPSHOT_COUNT=7"}, check: func(t *testing.T, c *Config) {
			require.Equal(t, "env", c.Name)
			require.EqualValues(t, 7, c.Raft.SnapshotCount)
		}},
		{name: "flag before environment", args: []string{"--name=flag"}, env: []string{"ETCD_NAME=env"}, check: func(t *testing.T, c *Config) {
			require.Equal(t, "flag", c.Name)
		}},
		{name: "file alone counts", args: []string{"--config-file", file, "--name=flag"}, env: []string{"ETCD_NAME=env"}, check: func(t *testing.T, c *Config) {
			require.Equal(t, "filed", c.Name)
			require.Equal(t, 20*time.Millisecond, c.Raft.Heartbeat)
			require.Equal(t, 5*time.Millisecond, c.Backend.BatchInterval)
			require.False(t, c.Raft.PreVote)
			require.Equal(t, []string{"stderr"}, c.Log.Outputs)
		}},
		{name: "existing", args: []string{"--initial-cluster-state=existing"}, check: func(t *testing.T, c *Config) {
			require.True(t, c.Bootstrap.Existing)
		}},
		{name: "unknown flag", args: []string{"--nmae=x"}, wantErr: "unknown flag: --nmae"},
		{name: "no flag", args: []string{"start"}, wantErr: `"start" is not a valid flag`},
		{name: "unknown key in file", args: []string{"--config-file", bad}, wantErr: `unknown key "nmae"`},
		{name: "no file", args: []string{"--config-file", "/does/not/exist"}, wantErr: "no such file"},
		{name: "bad environment", env: []string{"ETCD_SNAPSHOT_COUNT=many"}, wantErr: "ETCD_SNAPSHOT_COUNT"},
		{name: "bad state", args: []string{"--initial-cluster-state=old"}, wantErr: "must be new or existing"},
		{name: "election too short", args: []string{"--election-timeout=400"}, wantErr: "should be at least as 5 times as"},
		{name: "election too long", args: []string{"--election-timeout=60000"}, wantErr: "too long"},
		{name: "listen without advertise", args: []string{"--listen-client-urls=http://127.0.0.1:1"}, wantErr: "--advertise-client-urls is required"},
		{name: "host name to bind", args: []string{"--listen-peer-urls=http://example.com:1"}, wantErr: "expected IP in URL for binding"},
		{name: "https", args: []string{"--listen-peer-urls=https://127.0.0.1:1"}, wantErr: "TLS is not available"},
		{name: "scheme", args: []string{"--listen-peer-urls=ftp://127.0.0.1:1"}, wantErr: "scheme"},
		{name: "no port", args: []string{"--listen-peer-urls=http://127.0.0.1"}, wantErr: "host:port"},
		{name: "path", args: []string{"--listen-peer-urls=http://127.0.0.1:1/x"}, wantErr: "path"},
		{name: "freelist", args: []string{"--backend-bbolt-freelist-type=tree"}, wantErr: "must be map or array"},
		{name: "level", args: []string{"--log-level=loud"}, wantErr: "--log-level"},
		{name: "logger", args: []string{"--logger=capnslog"}, wantErr: `only "zap" is supported`},
		{name: "compaction mode", args: []string{"--auto-compaction-mode=yearly"}, wantErr: `unknown auto-compaction-mode "yearly"`},
		{name: "no compaction mode", args: []string{"--auto-compaction-mode="}, wantErr: "undefined auto-compaction-mode"},
		{name: "compaction retention", args: []string{"--auto-compaction-retention=-1"}, wantErr: "error parsing CompactionRetention"},
		{name: "outputs", args: []string{"--log-outputs=default,stdout"}, wantErr: "cannot be combined"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := Parse(c.args, c.env)
			if c.wantErr != "" {
				require.ErrorContains(t, err, c.wantErr)
				return
			}
			require.NoError(t, err)
			c.check(t, cfg)
		})
	}
}

func TestAutoCompaction(t *testing.T) {
	for _, c := range []struct {
		mode, retention string
		want            time.Duration // in revision mode a number
		err             string
	}{
		{"periodic", "0", 0, ""},
		{"periodic", "", 0, ""},
		{"periodic", "1", time.Hour, ""},
		{"periodic", "72h", 72 * time.Hour, ""},
		{"periodic", "5m30s", 330 * time.Second, ""},
		{"revision", "1000", 1000, ""},
		{"revision", "0", 0, ""},
		{"revision", "1h", time.Hour, ""}, // a strange number of revisions, which etcd takes too
		{"periodic", "-1", 0, "missing unit"},
		{"periodic", "-1h", 0, "at least"},
		{"revision", "-1h", 0, "at least"},
		{"periodic", "1ns", 0, "at least"},
		{"periodic", "many", 0, "invalid duration"},
		{"", "1", 0, "undefined auto-compaction-mode"},
		{"yearly", "1", 0, "unknown auto-compaction-mode"},
	} {
		d, err := AutoCompaction{Mode: c.mode, Retention: c.retention}.Parse()
		if c.err != "" {
			require.ErrorContains(t, err, c.err, "%+v", c)
			continue
		}
		require.NoError(t, err, "%+v", c)
		require.Equal(t, c.want, d, "%+v", c)
	}
}
