package upkeep

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
)

// node is consensus and the way into its log: commands of a term that is over get lost, and nobody hears of them.
type node struct {
	mu      sync.Mutex
	term    uint64
	changed chan struct{}
	table   *lease.Table
	decided func() // before a command gets into the log
	revoked []int64
}

func (n *node) Term() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.term
}
func (n *node) IsLeader() bool                                    { return true }
func (n *node) FirstCommitInTerm() <-chan struct{}                { return nil }
func (n *node) LeaderChanged() <-chan struct{}                    { n.mu.Lock(); defer n.mu.Unlock(); return n.changed }
func (n *node) Forget(string)                                     {}
func (n *node) Clear()                                            {}
func (n *node) Get(auth.Table, []byte) []byte                     { return nil }
func (n *node) Put(auth.Table, []byte, []byte)                    {}
func (n *node) Delete(auth.Table, []byte)                         {}
func (n *node) ForEach(auth.Table, func(k, v []byte) error) error { return nil }

func (n *node) Do(ctx context.Context, r *pb.InternalRaftRequest) (apply.Result, error) {
	return n.DoIn(ctx, 0, r)
}

func (n *node) DoIn(ctx context.Context, term uint64, r *pb.InternalRaftRequest) (apply.Result, error) {
	n.decided()
	n.mu.Lock()
	if term == 0 || term == n.term {
		n.revoked = append(n.revoked, r.LeaseRevoke.ID)
		n.mu.Unlock()
		return apply.Result{}, nil
	}
	n.mu.Unlock()
	<-ctx.Done()
	return apply.Result{}, ctx.Err()
}

func (n *node) elect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.term++
	close(n.changed)
	n.changed = make(chan struct{})
}

// TestEtcd15247RevokedInItsTermOnly finds expired leases, and another leader is elected before their revocation is in the log.
// See docs/contributing/regressions.md.
func TestEtcd15247RevokedInItsTermOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{term: 5, changed: make(chan struct{}), table: lease.NewTable(lease.Config{}), decided: func() {}}
		users, err := auth.Open(n, n, 4)
		require.NoError(t, err)
		u := New(Config{Proposer: n, Raft: n, Leases: n.table, Auth: users, Timeout: time.Minute, Clock: clock.Real, Logger: zap.NewNop()})
		for id := lease.ID(1); id <= 3; id++ {
			_, err := n.table.Grant(id, 10)
			require.NoError(t, err)
		}
		n.table.Leadership(5, true)
		require.True(t, n.table.Promote(5))
		for id := lease.ID(1); id <= 3; id++ {
			_, err := n.table.TimeToLive(id, false)
			require.NoError(t, err)
		}
		time.Sleep(20 * time.Second)

		n.decided = sync.OnceFunc(n.elect) // after the table was asked
		start := time.Now()
		u.revoke(t.Context(), []lease.ID{1, 2, 3})
		require.Empty(t, n.revoked, "the new leader may have renewed them")
		require.Zero(t, time.Since(start), "it does not wait for what is lost")

		n.decided = func() {}
		u.revoke(t.Context(), []lease.ID{1, 2, 3})
		require.ElementsMatch(t, []int64{1, 2, 3}, n.revoked)
	})
}
