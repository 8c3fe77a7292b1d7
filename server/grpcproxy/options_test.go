package grpcproxy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/internal/testkit/clihelp"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestFlagsOfEtcd compares flags, types and defaults with those of the real etcd.
func TestFlagsOfEtcd(t *testing.T) {
	n := clihelp.Compare(t, servertest.Oracle(t, "etcd"), func(args ...string) string {
		var o Options
		cmd := &cobra.Command{Use: "start", Run: func(*cobra.Command, []string) {}}
		o.Flags(cmd.Flags())
		out := &bytes.Buffer{}
		cmd.SetOut(out)
		cmd.SetArgs(args[2:])
		require.NoError(t, cmd.Execute())
		return out.String()
	}, "grpc-proxy", "start")
	require.Equal(t, 1, n)
}

// TestRefusals compares what Keelson and etcd refuse to start with.
func TestRefusals(t *testing.T) {
	t.Parallel()
	etcd := servertest.Oracle(t, "etcd")
	ca := certs.New(t)
	named := ca.Issue("named", "someone", "127.0.0.1")
	addr := servertest.FreeAddr(t)
	for _, c := range []struct {
		args, want string
		ours       string // where Keelson's words are others
	}{
		{args: "--resolver-prefix=x", want: "invalid resolver-ttl 0"},
		{args: "--resolver-prefix=x --resolver-ttl=-1", want: "invalid resolver-ttl -1"},
		{args: "--resolver-ttl=1", want: `invalid resolver-prefix ""`},
		{args: "--resolver-ttl=1 --resolver-prefix=x --advertise-client-url=", want: `invalid advertise-client-url ""`},
		{args: "--auto-tls --self-signed-cert-validity=0", want: "selfSignedCertValidity is invalid,it should be greater than 0"},
		{args: "--tls-min-version=1", want: `tls-min-version is invalid: unexpected TLS version "1" (must be one of: TLS1.2, TLS1.3)`},
		{args: "--tls-max-version=1", want: `tls-max-version is invalid: unexpected TLS version "1" (must be one of: TLS1.2, TLS1.3)`},
		{args: "--tls-min-version=TLS1.3 --tls-max-version=TLS1.2", want: "min version (TLS1.3) is greater than max version (TLS1.2)"},
		{args: "--tls-min-version=TLS1.3 --listen-cipher-suites=TLS_AES_128_GCM_SHA256", want: "cipher suites cannot be configured when only TLS1.3 is enabled"},
		{args: "--auto-tls --listen-cipher-suites=x", want: `unexpected TLS cipher suite "x"`},
		{args: "--cert=" + named.Cert + " --key=" + named.Key, want: "cert has non empty Common Name (someone): " + named.Cert},
		{args: "--trusted-ca-file=" + ca.CA, want: "KeyFile and CertFile are not presented", ours: "--trusted-ca-file: there is no certificate to show to clients (--cert-file, --key-file)"},
		{args: "--listen-addr=127.0.0.1", want: "missing port in address"},
		{args: "--metrics-addr=127.0.0.1:1", want: `cannot parse "127.0.0.1:1"`},
	} {
		args := append([]string{"--listen-addr=" + addr, "--data-dir=" + t.TempDir()}, strings.Fields(c.args)...)
		out, err := exec.Command(etcd, append([]string{"grpc-proxy", "start"}, args...)...).CombinedOutput()
		require.Error(t, err, c.args)
		require.Contains(t, strings.ReplaceAll(string(out), `\"`, `"`), c.want, c.args)
		_, err = Open(t.Context(), parseFlags(t, args...), zap.NewNop())
		if c.ours != "" {
			c.want = c.ours
		}
		require.ErrorContains(t, err, c.want, c.args)
	}
	for args, want := range map[string]string{ // what etcd goes on with
		"--metrics-addr=https://127.0.0.1:0": "there is no certificate",
		"--endpoints=":                       "--endpoints: there are no endpoints",
		"--cert=" + named.Cert:               "KeyFile and CertFile must both be present",
		"--cacert=/does/not/exist":           "no such file",
	} {
		_, err := Open(t.Context(), parseFlags(t, "--listen-addr=127.0.0.1:0", args), zap.NewNop())
		require.ErrorContains(t, err, want, args)
	}
}

// TestDiscovery takes endpoints of SRV records, without Insecure only those with a certificate for the domain.
func TestDiscovery(t *testing.T) {
	lookup := func(_ context.Context, service, _, name string) (string, []*net.SRV, error) {
		switch service + " " + name {
		case "etcd-client example", "etcd-client-blue example":
			return "", []*net.SRV{{Target: "127.0.0.1.", Port: 7}}, nil
		case "etcd-client-ssl example":
			return "", []*net.SRV{{Target: "127.0.0.1.", Port: 1}}, nil
		}
		return "", nil, errors.New("no such host")
	}
	find := func(args ...string) ([]string, error) {
		o := parseFlags(t, append(args, "--endpoints=a:1")...)
		o.SRV.Lookup = lookup
		return o.endpoints(t.Context(), zap.NewNop())
	}
	for args, want := range map[string][]string{
		"--insecure-discovery":                                                   {"a:1"},
		"--discovery-srv=example --insecure-discovery":                           {"https://127.0.0.1:1", "http://127.0.0.1:7"},
		"--discovery-srv=example --discovery-srv-name=blue --insecure-discovery": {"http://127.0.0.1:7"},
		"--discovery-srv=example":                                                {"a:1"},
	} {
		got, err := find(strings.Fields(args)...)
		require.NoError(t, err)
		require.Equal(t, want, got, args)
	}
	_, err := find("--discovery-srv=other")
	require.ErrorContains(t, err, "dns lookup errors")
}
