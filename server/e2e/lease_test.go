package e2e

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestEtcd15247PausedLeader pauses a leader for longer than leases live that clients renew all the time, elsewhere meanwhile. When
// it goes on it must not end them, and while it is paused nobody else may. See docs/contributing/regressions.md.
func TestEtcd15247PausedLeader(t *testing.T) {
	t.Parallel()
	pausedLeases(t, 1)
}

func TestStressEtcd15247PausedLeader(t *testing.T) {
	servertest.Stress(t)
	pausedLeases(t, 25)
}

func pausedLeases(t *testing.T, rounds int) {
	const ttl, leases = 2, 50
	c := startCluster(t, []kind{keelson, keelson, keelson})
	for range rounds {
		old := c.leader()
		var other *member
		for _, m := range c.Members {
			if m != old {
				other = m
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		var ids []int64
		for range leases {
			g, err := c.on[other].LeaseGrant(within(t, patience), &pb.LeaseGrantRequest{TTL: ttl})
			require.NoError(t, err)
			require.EqualValues(t, ttl, g.TTL)
			ids = append(ids, g.ID)
		}
		var wg sync.WaitGroup
		var renewed atomic.Int64
		wg.Go(func() {
			for ctx.Err() == nil {
				gone, err := renewAll(ctx, c.on[other], ids)
				if gone > 0 {
					t.Errorf("%d leases are gone", gone)
					return
				}
				if err == nil {
					renewed.Add(1)
				}
				pause(ctx, 200*time.Millisecond)
			}
		})
		require.Eventually(t, func() bool { return renewed.Load() > 0 }, patience, 10*time.Millisecond, "nothing is renewed")
		old.Pause()
		time.Sleep(3 * ttl * time.Second / 2)
		before := renewed.Load()
		old.Resume()
		time.Sleep(ttl * time.Second / 2)
		require.Greater(t, renewed.Load(), before, "the others renewed meanwhile")
		cancel()
		wg.Wait()
		all, err := c.on[other].LeaseLeases(within(t, patience), &pb.LeaseLeasesRequest{})
		require.NoError(t, err)
		require.Len(t, all.Leases, leases)
		for _, id := range ids {
			_, err := c.on[other].LeaseRevoke(within(t, patience), &pb.LeaseRevokeRequest{ID: id})
			require.NoError(t, err)
		}
	}
}

// renewAll renews leases once, and returns how many do not exist any more.
func renewAll(ctx context.Context, s services, ids []int64) (gone int, err error) {
	cctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	stream, err := s.LeaseKeepAlive(cctx)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			return 0, err
		}
	}
	for range ids {
		r, err := stream.Recv()
		if err != nil {
			return gone, err
		}
		if r.TTL == 0 {
			gone++
		}
	}
	if err := stream.CloseSend(); err != nil {
		return gone, err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return gone, err
	}
	return gone, nil
}
