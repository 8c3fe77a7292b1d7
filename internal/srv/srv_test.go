package srv

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// names is a name server.
type names struct {
	records map[string][]*net.SRV
	hosts   map[string][]string
}

func (n names) resolver() Resolver {
	return Resolver{
		SRV: func(_ context.Context, service, proto, domain string) (string, []*net.SRV, error) {
			if r, ok := n.records["_"+service+"._"+proto+"."+domain]; ok {
				return "", r, nil
			}
			return "", nil, errors.New("no such records")
		},
		Host: func(_ context.Context, host string) ([]string, error) {
			if net.ParseIP(host) != nil {
				return []string{host}, nil
			}
			if a, ok := n.hosts[host]; ok {
				return a, nil
			}
			return nil, errors.New("no such host: " + host)
		},
	}
}

func TestMembers(t *testing.T) {
	hosts := map[string][]string{"a.example": {"::1", "10.0.0.1"}, "b.example": {"10.0.0.2"}, "c.example": {"10.0.0.3"}, "six.example": {"::6"}, "nothing.example": {}}
	a, b, c := &net.SRV{Target: "a.example.", Port: 2380}, &net.SRV{Target: "b.example.", Port: 2380}, &net.SRV{Target: "c.example.", Port: 2380}
	const secure, plain = "_etcd-server-ssl._tcp.example", "_etcd-server._tcp.example"
	for name, tc := range map[string]struct {
		records    map[string][]*net.SRV
		suffix     string
		advertised string
		want       []string
		err        string
	}{
		"plain":           {records: map[string][]*net.SRV{plain: {b, a, c}}, advertised: "http://10.0.0.1:2380", want: []string{"0=http://b.example:2380", "me=http://a.example:2380", "1=http://c.example:2380"}, err: "_etcd-server-ssl"},
		"by name":         {records: map[string][]*net.SRV{plain: {a, b}}, advertised: "http://b.example:2380", want: []string{"0=http://a.example:2380", "me=http://b.example:2380"}, err: "_etcd-server-ssl"},
		"TLS":             {records: map[string][]*net.SRV{secure: {a, b}}, advertised: "https://10.0.0.2:2380", want: []string{"0=https://a.example:2380", "me=https://b.example:2380"}, err: "_etcd-server "},
		"both":            {records: map[string][]*net.SRV{secure: {a}, plain: {b, c}}, advertised: "http://10.0.0.2:2380", want: []string{"0=https://a.example:2380", "me=http://b.example:2380", "0=http://c.example:2380"}},
		"suffix":          {records: map[string][]*net.SRV{"_etcd-server-blue._tcp.example": {a}, plain: {b}}, suffix: "blue", advertised: "http://10.0.0.1:2380", want: []string{"me=http://a.example:2380"}, err: "_etcd-server-ssl-blue"},
		"IPv6":            {records: map[string][]*net.SRV{secure: {}, plain: {{Target: "six.example.", Port: 1}}}, advertised: "http://[::6]:1", want: []string{"me=http://six.example:1"}},
		"other port":      {records: map[string][]*net.SRV{secure: {}, plain: {a}}, advertised: "http://10.0.0.1:1", want: []string{"0=http://a.example:2380"}},
		"other scheme":    {records: map[string][]*net.SRV{secure: {a, b}, plain: {}}, advertised: "http://10.0.0.1:2380", want: []string{"0=https://b.example:2380"}, err: "scheme mismatch"},
		"unknown host":    {records: map[string][]*net.SRV{secure: {}, plain: {{Target: "x.example.", Port: 1}, a}}, advertised: "http://10.0.0.1:2380", want: []string{"me=http://a.example:2380"}, err: "no such host"},
		"without address": {records: map[string][]*net.SRV{secure: {}, plain: {{Target: "nothing.example.", Port: 1}}}, advertised: "http://10.0.0.1:2380", err: "no addresses"},
		"no records":      {advertised: "http://10.0.0.1:2380", err: "error querying DNS SRV records for _etcd-server no such"},
		"unknown self":    {records: map[string][]*net.SRV{plain: {a}}, advertised: "http://x.example:2380", err: "no such host"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Members(t.Context(), names{tc.records, hosts}.resolver(), "example", tc.suffix, "me", []string{tc.advertised})
			require.Equal(t, tc.want, got)
			if tc.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.err)
			}
		})
	}
}

func TestClients(t *testing.T) {
	r := names{records: map[string][]*net.SRV{"_etcd-client-ssl._tcp.example": {{Target: "a.", Port: 1}}, "_etcd-client._tcp.example": {{Target: "::1", Port: 2}}, "_etcd-client-x._tcp.example": {}}}.resolver()
	found, err := Clients(t.Context(), r.SRV, "example", "")
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.Equal(t, "https://a:1", found[0].URL())
	require.Equal(t, "http://[::1]:2", found[1].URL())
	found, err = Clients(t.Context(), r.SRV, "example", "x")
	require.NoError(t, err, "one of the kinds is enough")
	require.Empty(t, found)
	_, err = Clients(t.Context(), r.SRV, "other", "")
	require.ErrorContains(t, err, "dns lookup errors")
}
