package restore

import (
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/raftnode"
	"github.com/keelson-io/keelson/server/alarm"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/propose"
	"github.com/keelson-io/keelson/server/quota"
	"github.com/keelson-io/keelson/server/replica"
)

// state is a database that is open and the state machine on it, which is a member's without a member around it.
type state struct {
	be      *backend.Backend
	store   *mvcc.Store
	machine *replica.Machine
	raft    *configuration
	err     error // after which it is of no use
}

// openState opens a database. minTTL is the shortest time to live that leases are granted with, in seconds.
func openState(path string, minTTL int64, lg *zap.Logger) (_ *state, err error) {
	s := &state{}
	// It is a copy to work on: only when it is whole is it made durable.
	if s.be, err = backend.Open(backend.Config{Path: path, NoSync: true, Logger: lg}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.close()
		}
	}()
	leases := lease.NewTable(lease.Config{MinTTL: minTTL})
	if err := leases.Restore(replica.Rows{Backend: s.be, Bucket: backend.Lease}); err != nil {
		return nil, err
	}
	users, err := auth.Open(replica.AuthRows{Backend: s.be}, noSessions{}, 0)
	if err != nil {
		return nil, err
	}
	if s.store, err = mvcc.Open(s.be, mvcc.Config{Logger: lg}, func(key []byte, id int64) { _ = leases.Attach(lease.ID(id), key) }); err != nil {
		return nil, err
	}
	alarms, err := alarm.Open(replica.Rows{Backend: s.be, Bucket: backend.Alarm})
	if err != nil {
		return nil, err
	}
	members, err := membership.Load(membership.Config{Logger: lg}, replica.Tables{Backend: s.be})
	if err != nil {
		return nil, err
	}
	s.raft = newConfiguration(members)
	all := &replica.State{Store: s.store, Leases: leases, Alarms: alarms, Auth: users, Members: members}
	all.SetBackend(s.be)
	index, term := s.be.ConsistentIndex()
	s.machine = replica.New(replica.Config{
		State: all, Proposer: nobody{}, Raft: s.raft, Peers: nobody{}, Logger: lg,
		Applier: apply.New(apply.Config{
			Store: s.store, Leases: leases, Alarms: alarms, Auth: users, Tokens: nobody{}, Cluster: cluster{members, s.be},
			Quota:  quota.New(-1, func() int64 { return 0 }), // it decides about answers only
			Header: func() *pb.ResponseHeader { return &pb.ResponseHeader{} },
		}),
		Fatal:   func(err error) { s.err = err },
		Removed: func() {},
	}, index, term)
	return s, nil
}

// apply applies entries that follow what was applied.
func (s *state) apply(entries []*raftpb.Entry) error {
	s.machine.Apply(entries)
	return errors.Join(s.err, s.raft.err)
}

// close makes a whole file of the database.
func (s *state) close() error {
	if s.store != nil {
		s.store.Close()
	}
	return s.be.Close()
}

// cluster is the membership as commands change it, with the storage version that follows it, as on a member.
type cluster struct {
	*membership.Cluster
	be *backend.Backend
}

// SetVersion sets the version of the cluster.
func (c cluster) SetVersion(r *membershippb.ClusterVersionSetRequest) error {
	if err := c.Cluster.SetVersion(r); err != nil {
		return err
	}
	replica.SetStorageVersion(c.be, c.Version())
	return nil
}

// configuration is raft's, which the state machine asks for.
type configuration struct {
	now *raftpb.ConfState
	err error
}

func newConfiguration(members *membership.Cluster) *configuration {
	cs := &raftpb.ConfState{}
	for _, m := range members.Members() {
		if m.IsLearner {
			cs.Learners = append(cs.Learners, m.ID)
		} else {
			cs.Voters = append(cs.Voters, m.ID)
		}
	}
	return &configuration{now: cs}
}

// ApplyConfChange is replica.Raft.
func (c *configuration) ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState {
	if one, ok := cc.AsV1(); ok && one.GetNodeId() == 0 {
		return c.now // a change that was refused
	}
	next, err := raftnode.AfterConfChange(c.now, cc)
	if err != nil {
		c.err = fmt.Errorf("a change of the members cannot be made: %w", err)
		return c.now
	}
	c.now = next
	return next
}

// IsLeader is replica.Raft.
func (c *configuration) IsLeader() bool { return false }

// nobody waits for commands, has peers, or needs tokens.
type nobody struct{}

// Take is replica.Waiters.
func (nobody) Take(uint64) *propose.Waiter { return nil }

// RaiseNoSpace is replica.Waiters.
func (nobody) RaiseNoSpace(*propose.Waiter, apply.Result) {}

// AddPeer is replica.Peers.
func (nobody) AddPeer(uint64, []string) {}

// UpdatePeer is replica.Peers.
func (nobody) UpdatePeer(uint64, []string) {}

// RemovePeer is replica.Peers.
func (nobody) RemovePeer(uint64) {}

// RemoveAllPeers is replica.Peers.
func (nobody) RemoveAllPeers() {}

// Assign is apply.Tokens.
func (nobody) Assign(string, string, uint64) (string, error) { return "", nil }

// noSessions has no sessions that a change of rights could end.
type noSessions struct{}

// Forget is auth.Sessions.
func (noSessions) Forget(string) {}

// Clear is auth.Sessions.
func (noSessions) Clear() {}
