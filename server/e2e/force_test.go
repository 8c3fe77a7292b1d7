package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestForceNewCluster goes on with one member when the others are lost, and grows again.
func TestForceNewCluster(t *testing.T) {
	for name, kinds := range map[string][]kind{"among etcd": {keelson, etcd, etcd}, "among keelson": {keelson, keelson, keelson}, "etcd": {etcd, keelson, keelson}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, kinds, "--snapshot-count=50", "--snapshot-catchup-entries=10", "--strict-reconfig-check=false")
			left := c.Members[0]
			c.moveLeader(left)
			populate(t, c.on[left], 1, 120)
			c.agree()
			before := stateOf(t, c.on[left])
			for _, m := range c.Members[1:] {
				c.Kill(m)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			_, err := c.on[left].Put(ctx, &pb.PutRequest{Key: []byte("a/lost")})
			cancel()
			require.Error(t, err, "it is in its log, but not committed")
			c.Kill(left)
			for _, m := range slices.Clone(c.Members[1:]) {
				c.Forget(m)
			}

			flags := left.Flags
			left.Flags = append([]string{"--force-new-cluster"}, flags...)
			c.run(left)
			after := stateOf(t, c.on[left])
			require.Len(t, after.Members, 1)
			before.Members = after.Members
			require.Equal(t, before, after)
			putValue(t, c.on[left], "a/new", "1")

			left.Flags = flags
			c.Stop(left)
			c.run(left)
			c.join(kinds[0].other(), false)
			c.agree()
		})
	}
}

// TestForceLearner makes a learner the only member.
func TestForceLearner(t *testing.T) {
	t.Parallel()
	c := startCluster(t, []kind{keelson})
	first := c.Members[0]
	m := c.join(keelson, true)
	populate(t, c.on[first], 1, 20)
	eventually(t, func(ctx context.Context) error { return behind(ctx, c, m, first) }, "the learner follows")
	eventually(t, func(ctx context.Context) error {
		r, err := c.on[m].Range(ctx, &pb.RangeRequest{Key: []byte("a/0"), Serializable: true})
		if err == nil && len(r.Kvs) == 0 {
			err = errors.New("it has no keys yet")
		}
		return err
	}, "the learner has keys")
	c.Kill(first)
	c.Stop(m)
	m.Flags = append(m.Flags, "--force-new-cluster")
	c.run(m)
	members, err := c.on[m].MemberList(within(t, patience), &pb.MemberListRequest{Linearizable: true})
	require.NoError(t, err)
	require.Len(t, members.Members, 1)
	require.False(t, members.Members[0].IsLearner)
	require.NotZero(t, putValue(t, c.on[m], "a/new", fmt.Sprint(1)))
}
