package server_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestHealthService checks and watches the health, with the gate that takes a member aside while it defragments.
func TestHealthService(t *testing.T) {
	c := servertest.Start(t, 1, append(servertest.Quick(), "--feature-gates=StopGRPCServiceOnDefrag=true")...)
	conn := c.Dial(c.Members[0])
	client := healthpb.NewHealthClient(conn)
	watch, err := client.Watch(deadline(t), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	first, err := watch.Recv()
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, first.Status)
	_, err = dial(c, c.Members[0]).Defragment(deadline(t), &pb.DefragmentRequest{})
	require.NoError(t, err)
	// How it was meanwhile a watch sees only if it is fast: see rpc: TestHealthDuringDefrag.
	check, err := client.Check(deadline(t), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, check.Status)
	_, err = client.Check(deadline(t), &healthpb.HealthCheckRequest{Service: "etcdserverpb.KV"})
	require.ErrorContains(t, err, "unknown service")
}
