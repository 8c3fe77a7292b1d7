package server_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestLearnersArePromoted adds two learners, one of them a real etcd. The leader makes both voting members; without the flag
// it would not.
func TestLearnersArePromoted(t *testing.T) {
	etcd := servertest.Oracle(t, "etcd")
	// The check of additions wants connections that are five seconds old.
	flags := []string{"--heartbeat-interval=20", "--election-timeout=200", "--max-learners=2", "--strict-reconfig-check=false"}
	c := servertest.New(t, 1, append(flags, "--learner-auto-promote")...)
	c.Run(c.Members[0])
	c.WaitReady(c.Members...)
	first := dial(c, c.Members[0])
	for i := range 2 {
		m := c.Add(flags...)
		_, err := first.MemberAdd(deadline(t), &pb.MemberAddRequest{PeerURLs: []string{m.PeerURL}, IsLearner: true})
		require.NoError(t, err)
		if i == 0 {
			c.RunProgram(m, etcd)
		} else {
			c.Run(m)
		}
		c.WaitReady(m) // a member that joins must be told of all others
	}
	voters := func() int {
		list, err := first.MemberList(deadline(t), &pb.MemberListRequest{})
		require.NoError(t, err)
		n := 0
		for _, m := range list.Members {
			if !m.IsLearner {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return voters() == 3 }, time.Minute, 20*time.Millisecond)
	_, metrics := get(t, c, c.Members[0], "/metrics")
	require.Contains(t, metrics, "keelson_learners_auto_promoted_total 2\n")
	require.Contains(t, metrics, "etcd_server_learner_promote_successes 2\n")
}
