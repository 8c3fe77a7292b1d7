package concurrency_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/v3electionpb"
	"github.com/keelson-io/keelson/api/v3lockpb"
	"github.com/keelson-io/keelson/server/servertest"
)

// What the calls answer is in the scripts of server/conformance. Here: who goes while waiting leaves nothing in the queue.
func TestLeaving(t *testing.T) {
	conn, err := grpc.NewClient(servertest.Start(t, 1).Members[0].Client, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for id := int64(1); id <= 2; id++ {
		_, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 600})
		require.NoError(t, err)
	}
	lock, election := v3lockpb.NewLockClient(conn), v3electionpb.NewElectionClient(conn)
	for name, join := range map[string]func(ctx context.Context, lease int64) error{
		"q1": func(ctx context.Context, lease int64) error {
			_, err := lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("q1"), Lease: lease})
			return err
		},
		"q2": func(ctx context.Context, lease int64) error {
			_, err := election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("q2"), Lease: lease})
			return err
		},
	} {
		require.NoError(t, join(ctx, 1))
		queue := func() int64 {
			resp, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(name + "/"), RangeEnd: []byte(name + "0"), CountOnly: true})
			require.NoError(t, err)
			return resp.Count
		}
		short, leave := context.WithCancel(ctx)
		done := make(chan error)
		go func() { done <- join(short, 2) }()
		require.Eventually(t, func() bool { return queue() == 2 }, 20*time.Second, 10*time.Millisecond)
		leave()
		require.Equal(t, codes.Canceled, status.Code(<-done))
		require.Eventually(t, func() bool { return queue() == 1 }, 20*time.Second, 10*time.Millisecond)
	}
}
