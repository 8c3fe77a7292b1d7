package reconfig

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/raftnode"
	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/membership"
)

// The test named after etcd's issue is listed in docs/contributing/regressions.md.

// fakeRaft is a leader that knows how far the others are, and takes every change.
type fakeRaft struct {
	progress map[uint64]raftnode.Progress
	proposed int
	applied  chan error
}

func (f *fakeRaft) ProposeConfChange(context.Context, raftpb.ConfChangeI) error {
	f.proposed++
	f.applied <- nil
	return nil
}

func (f *fakeRaft) StatusNow(context.Context) (raftnode.Status, error) {
	return raftnode.Status{ID: 1, Lead: 1, Progress: f.progress}, nil
}
func (f *fakeRaft) Lead() uint64             { return 1 }
func (f *fakeRaft) IsLeader() bool           { return true }
func (f *fakeRaft) Wait(uint64) <-chan error { return f.applied }
func (f *fakeRaft) Forget(uint64)            {}

// rows is a table of members in memory.
type rows map[string][]byte

func (r rows) Get(b membership.Bucket, key []byte) []byte { return r[string(b)+string(key)] }
func (r rows) Put(b membership.Bucket, key, v []byte)     { r[string(b)+string(key)] = v }
func (r rows) Delete(b membership.Bucket, key []byte)     { delete(r, string(b)+string(key)) }
func (r rows) ForEach(membership.Bucket, func(key, v []byte) error) error {
	return nil
}

// TestEtcd15096UnstartedLearner promotes learners that have not started, or lag behind. etcd promoted one that had not started,
// and a cluster of one then had no quorum any more.
func TestEtcd15096UnstartedLearner(t *testing.T) {
	for name, c := range map[string]struct {
		progress map[uint64]raftnode.Progress
		strict   bool
		want     error
	}{
		"not started":            {map[uint64]raftnode.Progress{1: {Match: 5}, 2: {Match: 0, Learner: true}}, true, errdefs.ErrLearnerNotReady},
		"not started, new":       {map[uint64]raftnode.Progress{1: {Match: 1}, 2: {Match: 0, Learner: true}}, true, errdefs.ErrLearnerNotReady},
		"not started, lax":       {map[uint64]raftnode.Progress{1: {Match: 5}, 2: {Match: 0, Learner: true}}, false, errdefs.ErrLearnerNotReady},
		"leader does not know":   {map[uint64]raftnode.Progress{1: {Match: 5}}, false, membership.ErrIDNotFound},
		"too far behind":         {map[uint64]raftnode.Progress{1: {Match: 1000}, 2: {Match: 899, Learner: true}}, true, errdefs.ErrLearnerNotReady},
		"near enough":            {map[uint64]raftnode.Progress{1: {Match: 1000}, 2: {Match: 900, Learner: true}}, true, nil},
		"this is not the leader": {nil, true, errdefs.ErrNotLeader},
	} {
		t.Run(name, func(t *testing.T) {
			members, err := membership.Load(membership.Config{MaxLearners: 1}, rows{})
			require.NoError(t, err)
			require.NoError(t, members.Add(&membership.Member{ID: 1, Attributes: membership.Attributes{Name: "one"}}))
			require.NoError(t, members.Add(&membership.Member{ID: 2, RaftAttributes: membership.RaftAttributes{IsLearner: true}}))
			raft := &fakeRaft{progress: c.progress, applied: make(chan error, 1)}
			r := New(Config{Members: members, Raft: raft, Waiters: raft, NextID: func() uint64 { return 1 }, Strict: c.strict, Timeout: time.Second, Clock: clock.Real})
			_, err = r.Promote(t.Context(), 2)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
				require.Zero(t, raft.proposed)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 1, raft.proposed)
		})
	}
}
