package ctl

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDiscovery(t *testing.T) {
	records := map[string][]*net.SRV{
		"_etcd-client-ssl._tcp.example":     {{Target: "a.example.", Port: 2379}},
		"_etcd-client._tcp.example":         {{Target: "b.example.", Port: 1}, {Target: "::1", Port: 2}},
		"_etcd-client-blue._tcp.example":    {{Target: "c.example.", Port: 3}},
		"_etcd-client-ssl._tcp.tls.example": {},
	}
	lookup := func(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
		if r, ok := records["_"+service+"._"+proto+"."+name]; ok {
			return "", r, nil
		}
		return "", nil, errors.New("no such host")
	}
	for _, c := range []struct {
		d       discoveryFlags
		want    []string
		said    int
		server  string
		wantErr bool
	}{
		{d: discoveryFlags{}},
		{d: discoveryFlags{domain: "example", insecure: true}, want: []string{"https://a.example:2379", "http://b.example:1", "http://[::1]:2"}},
		{d: discoveryFlags{domain: "example"}, want: []string{"https://a.example:2379"}, said: 2, server: "example"},
		{d: discoveryFlags{domain: "example", name: "blue", insecure: true}, want: []string{"http://c.example:3"}},
		{d: discoveryFlags{domain: "tls.example"}, server: "tls.example"},
		{d: discoveryFlags{domain: "other"}, wantErr: true, server: "other"},
	} {
		said := 0
		got, err := c.d.find(t.Context(), lookup, func(string) { said++ })
		require.Equal(t, c.wantErr, err != nil)
		require.Equal(t, c.want, got)
		require.Equal(t, c.said, said)
		require.Equal(t, c.server, c.d.serverName())
	}
}
