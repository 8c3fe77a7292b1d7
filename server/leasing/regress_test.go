package leasing

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/lease"
)

// The tests named after etcd's issues are listed in docs/contributing/regressions.md.

// TestEtcd20615RenewedAfterRevocation renews leases while they are revoked: a renewal that begins after the revocation was
// committed must not succeed, wherever the revocation is at that moment. In etcd it could.
func TestEtcd20615RenewedAfterRevocation(t *testing.T) {
	m := newFake(t, true)
	apply := make(chan lease.ID, 1)
	m.catchUp = func() { // what is committed is applied
		select {
		case id := <-apply:
			_, _ = m.table.Revoke(id)
		default:
		}
	}
	for id := lease.ID(100); id < 400; id++ {
		_, err := m.table.Grant(id, 10)
		require.NoError(t, err)
		ttl, err := m.Renew(t.Context(), id)
		require.NoError(t, err)
		require.EqualValues(t, 10, ttl)
		apply <- id // its revocation is committed
		if id%2 == 0 {
			_, err = m.Renew(t.Context(), id)
			require.ErrorIs(t, err, lease.ErrLeaseNotFound)
		} else {
			ttls, err := m.RenewAll(t.Context(), []lease.ID{1, id})
			require.NoError(t, err)
			require.Equal(t, []int64{10, Pending}, ttls)
			_, err = m.Renew(t.Context(), id)
			require.ErrorIs(t, err, lease.ErrLeaseNotFound)
		}
	}

	// The lease goes away between the moment when it is found and the moment when it is renewed.
	m.catchUp = func() {}
	for id := lease.ID(400); id < 900; id++ {
		_, err := m.table.Grant(id, 10)
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := m.Renew(context.Background(), id)
			if err != nil && !errors.Is(err, lease.ErrLeaseNotFound) {
				t.Error(err)
			}
		})
		_, err = m.table.Revoke(id)
		require.NoError(t, err)
		_, err = m.Renew(t.Context(), id)
		require.ErrorIs(t, err, lease.ErrLeaseNotFound)
		wg.Wait()
	}
}

// TestEtcd15247RenewedByAnOldLeader renews at a leader that is stuck and does not know that it was replaced. In etcd it said that
// the lease was renewed, and the new leader, which had not heard of that, let it expire.
func TestEtcd15247RenewedByAnOldLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newFake(t, true)
		_, err := m.Renew(t.Context(), 1)
		require.NoError(t, err)
		// The others elect another leader. This one still believes in itself, but its questions are not answered.
		m.confirm = func() error { return errors.New("nobody answers") }
		time.Sleep(fresh + 1)
		_, err = m.Renew(t.Context(), 1)
		require.ErrorIs(t, err, lease.ErrNotPrimary)
		_, err = m.renewAllHere(t.Context(), []lease.ID{1, 2})
		require.ErrorIs(t, err, lease.ErrNotPrimary)

		// The answer comes, late, from a cluster with another leader.
		m.confirm = func() error { m.unseat(1); return nil }
		_, err = m.renewHere(t.Context(), 1)
		require.ErrorIs(t, err, lease.ErrNotPrimary)

		// What it had found to be expired is not revoked by it any more.
		require.Empty(t, m.table.StillExpired([]lease.ID{1, 2, 3}))
	})
}

// TestEtcd15247LeaderHangs renews through a follower whose leader hangs, and does not answer any more when another one is elected.
// The leases must not end for that.
func TestEtcd15247LeaderHangs(t *testing.T) {
	leader, follower := newFake(t, true), newFake(t, false)
	release, asked := make(chan struct{}), make(chan struct{}, 10)
	hung := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-release
	}))
	t.Cleanup(hung.Close)
	t.Cleanup(func() { close(release) })
	next := httptest.NewServer(leader.Handler())
	t.Cleanup(next.Close)
	follower.leader.Store(hung.URL)
	var wg sync.WaitGroup
	for id := lease.ID(1); id <= 2; id++ {
		wg.Go(func() {
			ttls, err := follower.RenewAll(context.Background(), []lease.ID{id})
			if err != nil || len(ttls) != 1 || ttls[0] != 10 {
				t.Errorf("%v, %v", ttls, err)
			}
		})
	}
	wg.Go(func() {
		if ttl, err := follower.Renew(context.Background(), 3); err != nil || ttl != 10 {
			t.Errorf("%d, %v", ttl, err)
		}
	})
	<-asked
	<-asked
	follower.leader.Store(next.URL)
	close(follower.changed.Swap(make(chan struct{})).(chan struct{}))
	wg.Wait()
}
