package bootstrap

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/srv"
	"github.com/keelson-io/keelson/server/config"
)

// env resolves literal addresses, and the records of the domain "example".
func env(records ...*net.SRV) Env {
	return Env{
		Logger: zap.NewNop(), Peers: http.DefaultClient,
		Names: srv.Resolver{
			SRV: func(_ context.Context, service, _, domain string) (string, []*net.SRV, error) {
				if service != "etcd-server" || domain != "example" {
					return "", nil, errors.New("no such host")
				}
				return "", records, nil
			},
			Host: func(_ context.Context, host string) ([]string, error) {
				if net.ParseIP(host) == nil {
					return nil, errors.New("no such host")
				}
				return []string{host}, nil
			},
		},
	}
}

// TestNewcomerByRecords finds the members by SRV records, and refuses those without this one.
func TestNewcomerByRecords(t *testing.T) {
	self, other := &net.SRV{Target: "127.0.0.1", Port: 1}, &net.SRV{Target: "127.0.0.2", Port: 2}
	for name, c := range map[string]struct {
		domain  string
		records []*net.SRV
		err     string
	}{
		"found":      {domain: "example", records: []*net.SRV{other, self}},
		"no self":    {domain: "example", records: []*net.SRV{other}, err: `cannot find local etcd member "me" in SRV records`},
		"none":       {domain: "example", err: "--discovery-srv: "},
		"no domain":  {domain: "elsewhere", err: "no such host"},
		"twice self": {domain: "example", records: []*net.SRV{self, {Target: "127.0.0.1.", Port: 1}}, err: "duplicate url"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Parse([]string{"--name=me", "--initial-advertise-peer-urls=http://127.0.0.1:1", "--discovery-srv=" + c.domain}, nil)
			require.NoError(t, err)
			cl, id, _, err := newcomer(t.Context(), cfg, env(c.records...))
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "me", cl.Member(id).Name)
			require.Equal(t, []string{"http://127.0.0.2:2"}, cl.RemotePeerURLs("me"))

			same, err := config.Parse([]string{"--name=me", "--initial-advertise-peer-urls=http://127.0.0.1:1", "--initial-cluster=me=http://127.0.0.1:1,else=http://127.0.0.2:2"}, nil)
			require.NoError(t, err)
			configured, sameID, _, err := newcomer(t.Context(), same, env())
			require.NoError(t, err)
			require.Equal(t, configured.ClusterID(), cl.ClusterID(), "whatever names the others get")
			require.Equal(t, sameID, id)
		})
	}
}

// TestNoDiscoveryOfRunning joins no running cluster through a discovery service.
func TestNoDiscoveryOfRunning(t *testing.T) {
	cfg, err := config.Parse([]string{"--discovery-token=t", "--discovery-endpoints=127.0.0.1:1", "--initial-cluster-state=existing"}, nil)
	require.NoError(t, err)
	_, _, _, err = newcomer(t.Context(), cfg, env())
	require.EqualError(t, err, "discovery URL should not be set when joining existing initial cluster")
}
