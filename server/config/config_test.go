package config

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/tlsconfig"
)

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etcd.yaml")
	require.NoError(t, os.WriteFile(file, []byte("name: filed\nheartbeat-interval: 20\nelection-timeout: 200\nlog-outputs: [stderr]\nbackend-batch-interval: 5000000\npre-vote: false\n"), 0o600))
	secure := filepath.Join(t.TempDir(), "tls.yaml")
	require.NoError(t, os.WriteFile(secure, []byte(`
client-transport-security: {cert-file: c, key-file: k, client-cert-auth: true, trusted-ca-file: ca, allowed-hostname: [h1, h2]}
peer-transport-security: {auto-tls: true, allowed-cn: [cn], client-cert-file: pc, client-key-file: pk, skip-client-san-verification: true}
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
`), 0o600))
	noObject := filepath.Join(t.TempDir(), "no.yaml")
	require.NoError(t, os.WriteFile(noObject, []byte("peer-transport-security: on\n"), 0o600))
	badKey := filepath.Join(t.TempDir(), "key.yaml")
	require.NoError(t, os.WriteFile(badKey, []byte("client-transport-security: {certfile: x}\n"), 0o600))
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
		{name: "discovery by records", args: []string{"--discovery-srv=example", "--discovery-srv-name=blue"}, check: func(t *testing.T, c *Config) {
			require.Empty(t, c.Bootstrap.Cluster)
			require.Equal(t, "example", c.Security.Peer.ServerName)
			require.Equal(t, "blue", c.Bootstrap.Discovery.Suffix)
		}},
		{name: "discovery by a service", args: []string{"--discovery-token=t", "--discovery-endpoints=a:1,http://b:2", "--name=n", "--discovery-fallback=exit"}, env: []string{"ETCD_DISCOVERY_USER=u:p"}, check: func(t *testing.T, c *Config) {
			require.Empty(t, c.Bootstrap.Cluster)
			require.Equal(t, "n=http://localhost:2380", c.Alone())
			require.Equal(t, []string{"a:1", "http://b:2"}, c.Bootstrap.Discovery.Endpoints)
			require.Equal(t, "u:p", c.Bootstrap.Discovery.User)
			require.True(t, c.Bootstrap.Discovery.InsecureTransport)
		}},
		{name: "existing", args: []string{"--initial-cluster-state=existing"}, check: func(t *testing.T, c *Config) {
			require.True(t, c.Bootstrap.Existing)
		}},
		{name: "TLS", args: []string{"--cert-file=c", "--key-file=k", "--peer-cert-file=pc", "--peer-cert-allowed-cn=a,b", "--client-crl-file=crl",
			"--listen-peer-urls=https://127.0.0.1:1", "--listen-client-urls=https://127.0.0.1:2,unixs:///s", "--advertise-client-urls=https://h:2"},
			env: []string{"ETCD_TRUSTED_CA_FILE=ca", "ETCD_TLS_MAX_VERSION=TLS1.3"}, check: func(t *testing.T, c *Config) {
				require.Equal(t, tlsconfig.Settings{CertFile: "c", KeyFile: "k", TrustedCAFile: "ca", CRLFile: "crl", MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}, c.Security.Client)
				require.Equal(t, tlsconfig.Settings{CertFile: "pc", AllowedCNs: []string{"a", "b"}, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}, c.Security.Peer)
			}},
		{name: "TLS in a file", args: []string{"--config-file", secure}, check: func(t *testing.T, c *Config) {
			suites := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
			require.Equal(t, tlsconfig.Settings{CertFile: "c", KeyFile: "k", TrustedCAFile: "ca", ClientCertAuth: true, AllowedHostnames: []string{"h1", "h2"},
				MinVersion: tls.VersionTLS12, CipherSuites: suites}, c.Security.Client)
			require.Equal(t, tlsconfig.Settings{AutoTLS: true, AllowedCNs: []string{"cn"}, ClientCertFile: "pc", ClientKeyFile: "pk", SkipClientSANVerification: true,
				MinVersion: tls.VersionTLS12, CipherSuites: suites}, c.Security.Peer)
			require.EqualValues(t, 1, c.Security.SelfSignedYears)
		}},
		{name: "hosts and origins", args: []string{"--cors=http://a:1,https://b", "--host-whitelist=c,d"}, check: func(t *testing.T, c *Config) {
			require.Equal(t, []string{"http://a:1", "https://b"}, c.Security.CORS)
			require.Equal(t, []string{"c", "d"}, c.Security.HostWhitelist)
		}},
		{name: "origin without scheme", args: []string{"--cors=a:1"}, wantErr: "--cors"},
		{name: "origin with path", args: []string{"--cors=http://a:1/x"}, wantErr: "must not contain a path"},
		{name: "no object", args: []string{"--config-file", noObject}, wantErr: "invalid peer-transport-security"},
		{name: "unknown key of TLS", args: []string{"--config-file", badKey}, wantErr: "certfile"},
		{name: "https for clients without certificate", args: []string{"--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=http://h:1"}, wantErr: "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1"},
		{name: "unixs without certificate", args: []string{"--listen-client-http-urls=unixs:///s"}, wantErr: "must be provided for client url unixs:///s"},
		{name: "https for peers without certificate", args: []string{"--listen-peer-urls=https://127.0.0.1:1", "--cert-file=c", "--key-file=k"}, wantErr: "cannot listen on TLS for https://127.0.0.1:1"},
		{name: "https for metrics without certificate", args: []string{"--listen-metrics-urls=https://127.0.0.1:1", "--peer-auto-tls"}, wantErr: "metrics secure url"},
		{name: "same port twice", args: []string{"--listen-client-http-urls=https://localhost:2379", "--auto-tls"}, wantErr: "cannot bind both"},
		{name: "TLS version", args: []string{"--tls-min-version=TLS1.1"}, wantErr: "unexpected TLS version"},
		{name: "TLS versions", args: []string{"--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"}, wantErr: "greater than max version"},
		{name: "cipher suite", args: []string{"--cipher-suites=NONE"}, wantErr: "unexpected TLS cipher suite"},
		{name: "cipher suites of TLS 1.3", args: []string{"--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"}, wantErr: "cannot be configured"},
		{name: "value of a flag", args: []string{"--v2-deprecation=not-yet"}, wantErr: `invalid value "not-yet" for flag -v2-deprecation: invalid value "not-yet"`},
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
		{name: "scheme", args: []string{"--listen-peer-urls=ftp://127.0.0.1:1"}, wantErr: "scheme"},
		{name: "no port", args: []string{"--listen-peer-urls=http://127.0.0.1"}, wantErr: "host:port"},
		{name: "path", args: []string{"--listen-peer-urls=http://127.0.0.1:1/x"}, wantErr: "path"},
		{name: "freelist", args: []string{"--backend-bbolt-freelist-type=tree"}, wantErr: "must be map or array"},
		{name: "level", args: []string{"--log-level=loud"}, wantErr: "--log-level"},
		{name: "logger", args: []string{"--logger=capnslog"}, wantErr: `only "zap" is supported`},
		{name: "compaction mode", args: []string{"--auto-compaction-mode=yearly"}, wantErr: `unknown auto-compaction-mode "yearly"`},
		{name: "no compaction mode", args: []string{"--auto-compaction-mode="}, wantErr: "undefined auto-compaction-mode"},
		{name: "compaction retention", args: []string{"--auto-compaction-retention=-1"}, wantErr: "error parsing CompactionRetention"},
		{name: "gate", args: []string{"--feature-gates=CompactHashCheck=true"}, check: func(t *testing.T, c *Config) {
			require.True(t, c.Features.Gates.Enabled(CompactHashCheck))
			require.False(t, c.Features.Gates.Enabled(InitialCorruptCheck))
		}},
		{name: "source of peers", args: []string{"--feature-gates=SetMemberLocalAddr=true",
			"--initial-advertise-peer-urls=http://localhost:1,http://127.0.0.1:1,http://0.0.0.0:1,http://192.0.2.7:1,http://192.0.2.8:1"}, check: func(t *testing.T, c *Config) {
			require.Equal(t, "192.0.2.7:0", c.PeerSource().String())
		}},
		{name: "no source of peers", args: []string{"--initial-advertise-peer-urls=http://192.0.2.7:1"}, check: func(t *testing.T, c *Config) {
			require.Nil(t, c.PeerSource())
		}},
		{name: "no source that others see", args: []string{"--feature-gates=SetMemberLocalAddr=true"}, check: func(t *testing.T, c *Config) {
			require.Nil(t, c.PeerSource())
		}},
		{name: "unknown gate", args: []string{"--feature-gates=Wings=true"}, wantErr: "unrecognized feature gate: Wings"},
		{name: "gate without value", args: []string{"--feature-gates=CompactHashCheck"}, wantErr: "missing bool value for CompactHashCheck"},
		{name: "gate with another value", args: []string{"--feature-gates=CompactHashCheck=on"}, wantErr: "invalid value of CompactHashCheck=on"},
		{name: "gate that needs another", args: []string{"--feature-gates=LeaseCheckpointPersist=true"}, wantErr: "requires enabling feature gate LeaseCheckpoint"},
		{name: "compact hash check", args: []string{"--compact-hash-check-time=0"}, wantErr: "--compact-hash-check-time must be >0"},
		{name: "corrupt check", args: []string{"--corrupt-check-time=-1s"}, wantErr: "--corrupt-check-time must not be negative"},
		{name: "integrity", args: []string{"--integrity-interval=1ms"}, wantErr: "--integrity-interval must be 0 or at least 10ms"},
		{name: "variables without effect", args: []string{"--name=flag"}, env: []string{"ETCD_NAME=env", "ETCD_SECRET=s", "ETCD_NMAE=x", "ETCD_EMPTY=", "OTHER=1"}, check: func(t *testing.T, c *Config) {
			require.Equal(t, []string{"unrecognized environment variables: ETCD_NMAE, ETCD_SECRET", "environment variables that flags take the place of: ETCD_NAME"}, c.Deprecated())
		}},
		{name: "rotation without a file", args: []string{"--enable-log-rotation"}, wantErr: "--log-outputs requires a single file path"},
		{name: "rotation of two files", args: []string{"--enable-log-rotation", "--log-outputs=a,b"}, wantErr: "--log-outputs requires a single file path"},
		{name: "rotation that is no JSON", args: []string{"--enable-log-rotation", "--log-outputs=a,stderr", "--log-rotation-config-json={"}, wantErr: "improperly formatted log rotation config"},
		{name: "rotation", args: []string{"--enable-log-rotation", "--log-outputs=a,stderr"}, check: func(t *testing.T, c *Config) { require.True(t, c.Log.Rotate) }},
		{name: "tracing", args: []string{"--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000001"}, wantErr: "tracing sampling rate must be less than 1000000"},
		{name: "tracing, negative", args: []string{"--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"}, wantErr: "tracing sampling rate must be positive"},
		{name: "tracing is off", args: []string{"--distributed-tracing-sampling-rate=-1"}, check: func(t *testing.T, c *Config) { require.False(t, c.Tracing.Enabled) }},
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

func TestGates(t *testing.T) {
	on := func(s string) (names []string) {
		var g Gates
		require.NoError(t, g.Set(s))
		for _, k := range g.All() {
			if k.Enabled {
				names = append(names, k.Name)
			}
		}
		return names
	}
	byDefault := []string{"FastLeaseKeepAlive", "TxnModeWriteWithSharedBuffer"}
	require.Equal(t, byDefault, on(""))
	require.Equal(t, append([]string{CompactHashCheck}, byDefault...), on(" CompactHashCheck = 1 ,,FastLeaseKeepAlive=true"))
	require.Equal(t, []string{"FastLeaseKeepAlive"}, on("AllBeta=false,FastLeaseKeepAlive=true"))
	require.Len(t, on("AllAlpha=true"), 10)
	require.NotContains(t, on("AllAlpha=true,CompactHashCheck=false"), CompactHashCheck)
	var g Gates
	require.NoError(t, g.Set("LeaseCheckpoint=true,CompactHashCheck=true"))
	require.Equal(t, "CompactHashCheck=true,LeaseCheckpoint=true", g.String())
	require.Equal(t, []string{"LeaseCheckpoint: what is left of leases is always recorded"}, g.Idle())
}
