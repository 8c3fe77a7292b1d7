package client_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/internal/fakestore"
)

func grant(t testing.TB, c *client.Client, ttl int64) client.LeaseID {
	t.Helper()
	resp, err := c.Grant(within(t, 5*time.Second), ttl)
	require.NoError(t, err)
	require.Positive(t, resp.ID)
	return client.LeaseID(resp.ID)
}

func TestLease(t *testing.T) {
	c, _ := open(t, 1)
	ctx := within(t, 10*time.Second)
	id := grant(t, c, 60)
	_, err := c.Put(ctx, "a", "1", client.WithLease(id))
	require.NoError(t, err)
	ttl, err := c.TimeToLive(ctx, id, true)
	require.NoError(t, err)
	require.EqualValues(t, 60, ttl.GrantedTTL)
	require.Equal(t, [][]byte{[]byte("a")}, ttl.Keys)
	all, err := c.Leases(ctx)
	require.NoError(t, err)
	require.Len(t, all.Leases, 1)
	once, err := c.KeepAliveOnce(ctx, id)
	require.NoError(t, err)
	require.EqualValues(t, 60, once.TTL)
	_, err = c.Revoke(ctx, id)
	require.NoError(t, err)
	_, err = c.Revoke(ctx, id)
	require.ErrorIs(t, err, rpctypes.ErrLeaseNotFound)
	_, err = c.KeepAliveOnce(ctx, id)
	require.ErrorIs(t, err, rpctypes.ErrLeaseNotFound)
	got, err := c.Get(ctx, "a")
	require.NoError(t, err)
	require.Empty(t, got.Kvs)
	_, err = c.Grant(ctx, 5, client.WithLeaseID(7))
	require.NoError(t, err)
	_, err = c.Grant(ctx, 5, client.WithLeaseID(7))
	require.ErrorIs(t, err, rpctypes.ErrLeaseExist)
}

// A grant whose answer was lost is repeated, and leaves one lease behind.
func TestGrantIsRepeated(t *testing.T) {
	c, f := open(t, 2)
	for _, m := range f.Members {
		m.SetFault(pb.Lease_LeaseGrant_FullMethodName, &fakestore.Fault{After: rpctypes.ErrGRPCTimeout, Times: 1})
	}
	resp, err := c.Grant(within(t, 5*time.Second), 60)
	require.NoError(t, err)
	require.EqualValues(t, 60, resp.TTL)
	all, err := c.Leases(within(t, 5*time.Second))
	require.NoError(t, err)
	require.Len(t, all.Leases, 1)
	require.Equal(t, resp.ID, all.Leases[0].ID)
}

func TestKeepAliveRenewsEveryThird(t *testing.T) {
	c, f := open(t, 1)
	id := grant(t, c, 3)
	start := time.Now()
	k, err := c.KeepAlive(within(t, 10*time.Second), id)
	require.NoError(t, err)
	for range 3 {
		resp := <-k.Renewed()
		require.Equal(t, int64(id), resp.ID)
	}
	took := time.Since(start)
	require.InDelta(t, 2, took.Seconds(), 0.5, "the first at once, then one a second")
	require.EqualValues(t, 3, f.Store.Renewals(int64(id)))
	require.WithinDuration(t, time.Now().Add(3*time.Second), k.Expires(), 300*time.Millisecond)
	require.NoError(t, k.Err())
	k.Close()
	<-k.Done()
	require.ErrorIs(t, k.Err(), client.ErrClosed)
}

func TestKeepAliveManyOnOneStream(t *testing.T) {
	c, f := open(t, 1)
	var wg sync.WaitGroup
	var keeps [200]*client.KeepAlive
	for i := range keeps {
		wg.Go(func() {
			resp, err := c.Grant(context.Background(), 1)
			if err == nil {
				keeps[i], err = c.KeepAlive(context.Background(), client.LeaseID(resp.ID))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// A second keep-alive of the same lease shares the renewals.
	again, err := c.KeepAlive(within(t, 5*time.Second), keeps[0].ID())
	require.NoError(t, err)
	keeps[0].Close()
	require.NoError(t, again.Err())
	time.Sleep(1200 * time.Millisecond)
	require.Equal(t, 1, f.Calls(pb.Lease_LeaseKeepAlive_FullMethodName))
	for _, k := range keeps[1:] {
		require.NoError(t, k.Err())
		n := f.Store.Renewals(int64(k.ID()))
		require.True(t, n >= 3 && n <= 7, "%d renewals", n)
	}
	require.NoError(t, again.Err())
}

func TestKeepAliveEndsWithTheLease(t *testing.T) {
	c, f := open(t, 1)
	k, err := c.KeepAlive(within(t, 10*time.Second), grant(t, c, 1))
	require.NoError(t, err)
	other, err := c.KeepAlive(within(t, 10*time.Second), grant(t, c, 1))
	require.NoError(t, err)
	f.Store.Revoke(int64(k.ID()))
	<-k.Done()
	require.ErrorIs(t, k.Err(), rpctypes.ErrLeaseNotFound)
	_, ok := <-k.Renewed()
	for ok {
		_, ok = <-k.Renewed()
	}
	require.NoError(t, other.Err())
}

func TestKeepAliveEndsWithItsContext(t *testing.T) {
	c, f := open(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	k, err := c.KeepAlive(ctx, grant(t, c, 60))
	require.NoError(t, err)
	cancel()
	<-k.Done()
	require.ErrorIs(t, k.Err(), context.Canceled)
	require.NotEqual(t, int64(-1), f.Store.Renewals(int64(k.ID())), "the lease lives on")

	f.Members[0].Stop()
	_, err = c.KeepAlive(within(t, 50*time.Millisecond), k.ID())
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A lease that cannot be renewed is reported as lost when its time is over, not before and not much later.
func TestKeepAliveDetectsExpiry(t *testing.T) {
	c, f := open(t, 1)
	k, err := c.KeepAlive(within(t, 10*time.Second), grant(t, c, 1))
	require.NoError(t, err)
	f.Members[0].Stop()
	<-k.Done()
	late := time.Since(k.Expires())
	require.ErrorIs(t, k.Err(), client.ErrLeaseExpired)
	require.GreaterOrEqual(t, late, time.Duration(0))
	require.Less(t, late, 200*time.Millisecond)
}

func TestKeepAliveSurvivesFaults(t *testing.T) {
	for name, hit := range map[string]func(m *fakestore.Member){
		"stream broken": func(m *fakestore.Member) { m.BreakStreams(status.Error(codes.Unavailable, "broken")) },
		"cut":           func(m *fakestore.Member) { m.Cut() },
		"stopped":       func(m *fakestore.Member) { m.Stop() },
		"no leader":     func(m *fakestore.Member) { m.SetNoLeader(true) },
		"no answers":    func(m *fakestore.Member) { m.SetFault("keepalive", &fakestore.Fault{Hang: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, f := open(t, 2)
			k, err := c.KeepAlive(within(t, 20*time.Second), grant(t, c, 3))
			require.NoError(t, err)
			hit(f.Members[0])
			for range 3 {
				select {
				case <-k.Renewed():
				case <-time.After(3 * time.Second):
					require.Fail(t, "no renewal", fmt.Sprint(k.Err()))
				}
			}
			require.NoError(t, k.Err())
		})
	}
}
