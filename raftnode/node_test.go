package raftnode

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
)

func singleConfig(l *memLog, sm *testSM) Config {
	return Config{ID: 1, Peers: []raft.Peer{{ID: 1}}, Log: l, Snapshots: &memSnaps{}, StateMachine: sm, Transport: nullTransport{},
		Timing: Timing{Tick: 10 * time.Millisecond, ElectionTicks: 10, PreVote: true}}
}

func startSingle(t testing.TB, cfg Config) *Node {
	t.Helper()
	n, err := New(cfg)
	require.NoError(t, err)
	cfg.StateMachine.(*testSM).node = n
	n.Start()
	t.Cleanup(func() { _ = n.Stop(context.Background()) })
	return n
}

func waitLead(t testing.TB, n *Node) {
	t.Helper()
	require.Eventually(t, n.IsLeader, 5*time.Second, time.Millisecond)
}

func TestSingleMember(t *testing.T) {
	l, sm := &memLog{}, &testSM{}
	n := startSingle(t, singleConfig(l, sm))
	waitLead(t, n)
	for i := range 100 {
		require.NoError(t, n.Propose([]byte(fmt.Sprint("x", i))))
	}
	require.Eventually(t, func() bool { return len(sm.lines()) == 100 }, 5*time.Second, time.Millisecond)
	index, err := n.ReadIndex(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 102, index) // the bootstrap entry, the leader's first, a hundred
	require.NoError(t, n.WaitApplied(t.Context(), index))
	now, err := n.StatusNow(t.Context())
	require.NoError(t, err)
	require.Equal(t, index, now.Progress[now.ID].Match)
	require.NoError(t, n.Stop(context.Background()))
	_, err = n.StatusNow(t.Context())
	require.ErrorIs(t, err, ErrStopped)
	require.ErrorIs(t, n.Propose(nil), ErrStopped)
	_, err = n.ReadIndex(t.Context())
	require.ErrorIs(t, err, ErrStopped)
}

func TestLogFailureEndsNode(t *testing.T) {
	l, sm := &memLog{}, &testSM{}
	n := startSingle(t, singleConfig(l, sm))
	waitLead(t, n)
	boom := errors.New("no space left")
	l.set(func(l *memLog) { l.fail = boom })
	require.NoError(t, n.Propose([]byte("lost")))
	<-n.Done()
	require.ErrorIs(t, n.Err(), boom)
	require.ErrorIs(t, n.Stop(context.Background()), boom)
	require.Empty(t, sm.lines())
}
