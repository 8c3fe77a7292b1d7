package grpcproxy

import (
	"context"
	"encoding/json"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/servertest"
)

// startEtcd runs etcd's proxy and returns its address.
func startEtcd(t testing.TB, endpoints []string, args ...string) string {
	etcd := servertest.Oracle(t, "etcd")
	addr := servertest.FreeAddr(t)
	args = append([]string{"grpc-proxy", "start", "--listen-addr=" + addr, "--data-dir=" + t.TempDir(), "--endpoints=" + strings.Join(endpoints, ",")}, args...)
	cmd := exec.Command(etcd, args...)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	conn := connect(t, addr)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")})
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	return addr
}

// TestLikeEtcd compares with etcd's proxy in front of the same member: pages, names and types of metrics, and the list of members.
func TestLikeEtcd(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	p := start(t, c.Addrs(), "--advertise-client-url=127.0.0.1:4321")
	ours, theirs := p.Addr().String(), startEtcd(t, c.Addrs(), "--advertise-client-url=127.0.0.1:4321")
	for _, addr := range []string{ours, theirs} { // so that everything has been counted once
		_, err := pb.NewKVClient(connect(t, addr)).Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Serializable: true})
		require.NoError(t, err)
	}
	for _, page := range []string{"/health", "/nothing", "/debug/pprof/"} {
		want, wantCode := get(t, "http://"+theirs+page)
		got, code := get(t, "http://"+ours+page)
		require.Equal(t, wantCode, code, page)
		require.Equal(t, want, got, page)
	}
	body, _ := get(t, "http://"+ours+"/proxy/health")
	require.Equal(t, `{"health":"true","reason":""}`, body) // etcd's tries to reach 127.0.0.1:4321
	body, _ = get(t, "http://"+ours+"/metrics")
	require.Contains(t, body, "etcd_server_has_leader 1")

	mine, other := proxyMetrics(t, ours), proxyMetrics(t, theirs)
	for name := range other {
		if !strings.HasPrefix(name, "etcd_grpc_proxy_") && !strings.HasPrefix(name, "grpc_server_") {
			delete(other, name) // etcd's proxy has all that a member has, too
		}
	}
	require.Len(t, slices.Collect(maps.Keys(other)), 9)
	for name, f := range other {
		require.NotNil(t, mine[name], name)
		require.Equal(t, f.GetType(), mine[name].GetType(), name)
		require.Equal(t, f.GetHelp(), mine[name].GetHelp(), name)
		require.Equal(t, labels(f), labels(mine[name]), name)
	}

	list := func(addr string) []byte {
		resp, err := pb.NewClusterClient(connect(t, addr)).MemberList(t.Context(), &pb.MemberListRequest{})
		require.NoError(t, err)
		b, err := json.Marshal(resp)
		require.NoError(t, err)
		return b
	}
	require.JSONEq(t, string(list(theirs)), string(list(ours)))
}

func proxyMetrics(t testing.TB, addr string) map[string]*dto.MetricFamily {
	body, code := get(t, "http://"+addr+"/proxy/metrics")
	require.Equal(t, 200, code)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	require.NoError(t, err)
	return families
}

// labels are those of one call of KV.Range, if there are any.
func labels(f *dto.MetricFamily) []string {
	for _, m := range f.Metric {
		var out []string
		for _, l := range m.Label {
			out = append(out, l.GetName()+"="+l.GetValue())
		}
		if len(out) == 0 || slices.Contains(out, "grpc_method=Range") {
			return out
		}
	}
	return nil
}

// TestErrorsOfEtcd compares what etcd's proxy and Keelson's say of calls that fail. The code is the member's: etcd's proxy loses it
// at times.
func TestErrorsOfEtcd(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	p := start(t, c.Addrs())
	ours, theirs, member := connect(t, p.Addr().String()), connect(t, startEtcd(t, c.Addrs())), c.Dial(c.Members[0])
	for range 3 {
		_, err := pb.NewKVClient(ours).Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
		require.NoError(t, err)
	}
	_, err := pb.NewKVClient(member).Compact(t.Context(), &pb.CompactionRequest{Revision: 3})
	require.NoError(t, err)
	for what, call := range map[string]func(*grpc.ClientConn) error{
		"no key": func(c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Put(t.Context(), &pb.PutRequest{})
			return err
		},
		"compacted": func(c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 2})
			return err
		},
		"future": func(c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: 100})
			return err
		},
		"no lease": func(c *grpc.ClientConn) error {
			_, err := pb.NewLeaseClient(c).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 77})
			return err
		},
		"put with no lease": func(c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Lease: 77})
			return err
		},
		"compacted already": func(c *grpc.ClientConn) error {
			_, err := pb.NewKVClient(c).Compact(t.Context(), &pb.CompactionRequest{Revision: 1})
			return err
		},
		"no user": func(c *grpc.ClientConn) error {
			_, err := pb.NewAuthClient(c).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "x", Password: "y"})
			return err
		},
		"no member": func(c *grpc.ClientConn) error {
			_, err := pb.NewClusterClient(c).MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: 1})
			return err
		},
	} {
		want, got, members := status.Convert(call(theirs)), status.Convert(call(ours)), status.Convert(call(member))
		require.NotZero(t, want.Code(), what)
		require.Equal(t, want.Message(), got.Message(), what)
		require.Equal(t, members.Message(), got.Message(), what)
		require.Equal(t, members.Code(), got.Code(), what)
	}
}

// TestRegistration registers proxies of both kinds under one prefix.
func TestRegistration(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	names := []string{"--resolver-prefix=proxies", "--resolver-ttl=60", "--namespace=ns/"}
	one, stop := startStop(t, c.Addrs(), append(names, "--advertise-client-url=one:1")...)
	two := start(t, c.Addrs(), append(names, "--advertise-client-url=http://two:2")...)
	three := startEtcd(t, c.Addrs(), append(names, "--advertise-client-url=three:3")...)
	list := func(addr string) (out []string) {
		resp, err := pb.NewClusterClient(connect(t, addr)).MemberList(t.Context(), &pb.MemberListRequest{})
		require.NoError(t, err)
		for _, m := range resp.Members {
			require.NotEmpty(t, m.Name)
			out = append(out, m.ClientURLs...)
		}
		slices.Sort(out)
		return out
	}
	all := []string{"http://two:2", "one:1", "three:3"}
	for _, addr := range []string{one.Addr().String(), two.Addr().String(), three} {
		require.Eventually(t, func() bool { return slices.Equal(list(addr), all) }, time.Minute, 10*time.Millisecond, addr)
	}
	resp, err := pb.NewKVClient(c.Dial(c.Members[0])).Range(t.Context(), &pb.RangeRequest{Key: []byte("ns/proxies/one:1")})
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	require.NotZero(t, resp.Kvs[0].Lease)

	// What is no entry harms nobody, and a proxy that stops is gone at once.
	_, err = pb.NewKVClient(connect(t, two.Addr().String())).Put(t.Context(), &pb.PutRequest{Key: []byte("proxies/x"), Value: []byte("?")})
	require.NoError(t, err)
	stop()
	require.Eventually(t, func() bool { return slices.Equal(list(two.Addr().String()), []string{"http://two:2", "three:3"}) }, time.Minute, 10*time.Millisecond)
}
