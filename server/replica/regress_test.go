package replica

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/alarm"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/propose"
	"github.com/keelson-io/keelson/server/quota"
)

// The tests named after etcd's issues are listed in docs/contributing/regressions.md.

// site is a member's state machine on a file of its own, without consensus.
type site struct {
	*Machine
	t     *testing.T
	path  string
	opens func(path string) *backend.Backend // of snapshots
	took  func()                             // before a command is executed
}

// Take and RaiseNoSpace implement Waiters: nobody waits.
func (s *site) Take(uint64) *propose.Waiter {
	if s.took != nil {
		s.took()
	}
	return nil
}

// RaiseNoSpace does nothing.
func (s *site) RaiseNoSpace(*propose.Waiter, apply.Result) {}

// ApplyConfChange returns a configuration that is not looked at.
func (s *site) ApplyConfChange(raftpb.ConfChangeI) *raftpb.ConfState { return &raftpb.ConfState{} }

// IsLeader says no.
func (s *site) IsLeader() bool { return false }

// AddPeer and those below implement Peers.
func (s *site) AddPeer(uint64, []string)    {}
func (s *site) UpdatePeer(uint64, []string) {}
func (s *site) RemovePeer(uint64)           {}
func (s *site) RemoveAllPeers()             {}

func openFile(t *testing.T, path string) *backend.Backend {
	t.Helper()
	be, err := backend.Open(backend.Config{Path: path, BatchInterval: time.Hour, NoSync: true, InitialMmapBytes: 1 << 30})
	require.NoError(t, err)
	return be
}

// newSite opens a state machine on what is in a file.
func newSite(t *testing.T, path string) *site {
	t.Helper()
	s := &site{t: t, path: path}
	be := openFile(t, path)
	leases := lease.NewTable(lease.Config{Rows: Rows{be, backend.Lease}})
	require.NoError(t, leases.Restore(Rows{be, backend.Lease}))
	users, err := auth.Open(AuthRows{be}, noSessions{}, 4)
	require.NoError(t, err)
	alarms, err := alarm.Open(Rows{be, backend.Alarm})
	require.NoError(t, err)
	members, err := membership.Load(membership.Config{MaxLearners: 1}, Tables{be})
	require.NoError(t, err)
	state := &State{Leases: leases, Alarms: alarms, Auth: users, Members: members}
	state.Store, err = mvcc.Open(be, mvcc.Config{}, state.Attach)
	require.NoError(t, err)
	state.SetBackend(be)
	index, term := be.ConsistentIndex()
	s.Machine = New(Config{
		MemberID: 1, State: state, Proposer: s, Raft: s, Peers: s, Fatal: func(err error) { t.Error(err) }, Logger: zap.NewNop(),
		OpenSnapshot: func(index uint64) (*backend.Backend, error) { return s.opens(fmt.Sprint(s.path, ".", index)), nil },
		Applier: apply.New(apply.Config{
			Store: state.Store, Leases: leases, Alarms: alarms, Auth: users,
			Quota:  quota.New(-1, func() int64 { return 0 }),
			Header: func() *pb.ResponseHeader { return &pb.ResponseHeader{} },
		}),
	}, index, term)
	t.Cleanup(s.close)
	return s
}

func (s *site) close() {
	if s.Machine != nil {
		s.cfg.State.Store.Close()
		require.NoError(s.t, s.cfg.State.Backend().Close())
		s.Machine = nil
	}
}

// summary is what members must agree on.
func (s *site) summary() string {
	s.t.Helper()
	hash, rev, err := s.cfg.State.Store.HashKV(0)
	require.NoError(s.t, err)
	index, _ := s.cfg.State.Backend().ConsistentIndex()
	return fmt.Sprintf("hash %d at revision %d, entry %d, auth %d, leases %v", hash.Hash, rev, index,
		s.cfg.State.Auth.Load().Revision(), s.cfg.State.Leases.Leases())
}

// send gives the state of a site to another one, as a snapshot at an index.
func (s *site) send(to *site, index uint64) {
	s.t.Helper()
	db, _, data, err := s.OpenDB()
	require.NoError(s.t, err)
	content, err := io.ReadAll(db)
	require.NoError(s.t, err)
	require.NoError(s.t, db.Close())
	require.NoError(s.t, os.WriteFile(fmt.Sprint(to.path, ".", index), content, 0o600))
	require.NoError(s.t, to.Restore(&raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: proto.Uint64(1)}}))
}

// history makes entries, numbered from 1 on.
type history struct {
	t       *testing.T
	entries []*raftpb.Entry
}

// add appends the command of a user, who was permitted at a revision of the permissions.
func (h *history) add(user string, authRev uint64, cmd *pb.InternalRaftRequest) {
	h.t.Helper()
	n := uint64(len(h.entries) + 1)
	cmd.Header = &pb.RequestHeader{ID: n, Username: user, AuthRevision: authRev}
	data, err := proto.Marshal(cmd)
	require.NoError(h.t, err)
	h.entries = append(h.entries, &raftpb.Entry{Index: &n, Term: proto.Uint64(1), Data: data})
}

func (h *history) change(typ raftpb.ConfChangeType, id uint64, what any) {
	h.t.Helper()
	context, err := json.Marshal(what)
	require.NoError(h.t, err)
	data, err := proto.Marshal(&raftpb.ConfChange{Type: typ.Enum(), NodeId: &id, Context: context})
	require.NoError(h.t, err)
	n := uint64(len(h.entries) + 1)
	h.entries = append(h.entries, &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Index: &n, Term: proto.Uint64(1), Data: data})
}

// from are the entries behind an index.
func (h *history) from(index uint64) []*raftpb.Entry { return h.entries[index:] }

func put(key, value string) *pb.InternalRaftRequest {
	return &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}
}

// commands makes entries of every kind that changes keys and leases.
func commands(t *testing.T, rng *rand.Rand, n int) *history {
	h := &history{t: t}
	for i := range n {
		key := fmt.Append(nil, "k", rng.IntN(8))
		switch rng.IntN(6) {
		case 0:
			h.add("", 0, &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: []byte("k5")}})
		case 1:
			h.add("", 0, &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: int64(i + 1), TTL: 1000}})
		case 2:
			h.add("", 0, &pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: int64(rng.IntN(i + 1))}})
		case 3:
			h.add("", 0, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: key, Lease: int64(rng.IntN(i + 1))}})
		default:
			h.add("", 0, &pb.InternalRaftRequest{Txn: &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: int64(i % 3)}}},
				Success: []*pb.RequestOp{putOp("k1"), putOp("k2")},
				Failure: []*pb.RequestOp{putOp(string(key))},
			}})
		}
	}
	return h
}

func putOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("v")}}}
}

func rangeOp(key string, rev int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key), Revision: rev}}}
}

// TestEtcd13766KillWhileApplying kills the process before and after every command, at the worst moment: when what was
// published has just been written to the file. In etcd the index could be there before what it counted, and entries were
// skipped after the restart.
func TestEtcd13766KillWhileApplying(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, filepath.Join(dir, "db"))
	rng := rand.New(rand.NewPCG(1, 13766))
	h := commands(t, rng, 60)
	var kills []string
	s.took = func() {
		require.NoError(t, s.cfg.State.Backend().Commit())
		data, err := os.ReadFile(s.path)
		require.NoError(t, err)
		kills = append(kills, filepath.Join(dir, fmt.Sprint("kill", len(kills))))
		require.NoError(t, os.WriteFile(kills[len(kills)-1], data, 0o600))
	}
	for left := h.from(0); len(left) > 0; {
		n := min(len(left), 1+rng.IntN(7))
		s.Apply(left[:n])
		left = left[n:]
		s.took()
	}
	want := s.summary()
	require.Greater(t, len(kills), len(h.entries))
	for _, path := range kills {
		again := newSite(t, path)
		index, _ := again.cfg.State.Backend().ConsistentIndex()
		again.Apply(h.from(index - min(index, 5))) // the log begins a little before
		require.Equal(t, want, again.summary(), "killed at entry %d", index)
		again.close()
	}
}

// TestEtcd14571And14648AuthFromASnapshot has a member take over its permissions from a snapshot. In etcd it went on with what it
// knew, so that it refused what others executed, and its keys became others.
func TestEtcd14571And14648AuthFromASnapshot(t *testing.T) {
	a, late, fresh := newSite(t, filepath.Join(t.TempDir(), "db")), newSite(t, filepath.Join(t.TempDir(), "db")), newSite(t, filepath.Join(t.TempDir(), "db"))
	for _, s := range []*site{late, fresh} {
		s.opens = func(path string) *backend.Backend {
			require.NoError(t, os.Rename(path, s.path))
			return openFile(t, s.path)
		}
	}
	h := &history{t: t}
	user := func(name string) {
		password := base64.StdEncoding.EncodeToString([]byte("hash of a password"))
		h.add("", 0, &pb.InternalRaftRequest{AuthUserAdd: &pb.AuthUserAddRequest{Name: name, HashedPassword: password}})
		h.add("", 0, &pb.InternalRaftRequest{AuthUserGrantRole: &pb.AuthUserGrantRoleRequest{User: name, Role: name}})
	}
	allow := func(role, key string) {
		h.add("root", a.cfg.State.Auth.Load().Revision(), &pb.InternalRaftRequest{AuthRoleGrantPermission: &pb.AuthRoleGrantPermissionRequest{
			Name: role, Perm: &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte(key)},
		}})
	}
	h.add("", 0, &pb.InternalRaftRequest{AuthRoleAdd: &pb.AuthRoleAddRequest{Name: "root"}})
	h.add("", 0, &pb.InternalRaftRequest{AuthRoleAdd: &pb.AuthRoleAddRequest{Name: "u"}})
	user("root")
	user("u")
	allow("u", "old")
	h.add("", 0, put("old", "1"))
	a.Apply(h.entries)
	late.Apply(h.entries) // knows users, but not yet that they count
	known := uint64(len(h.entries))

	h.add("", 0, &pb.InternalRaftRequest{AuthEnable: &pb.AuthEnableRequest{}})
	a.Apply(h.from(known))
	allow("u", "new")
	h.add("root", a.cfg.State.Auth.Load().Revision(), &pb.InternalRaftRequest{AuthRoleRevokePermission: &pb.AuthRoleRevokePermissionRequest{Role: "u", Key: []byte("old")}})
	a.Apply(h.from(known + 1))
	known = uint64(len(h.entries))
	for _, s := range []*site{late, fresh} {
		a.send(s, known)
		require.Equal(t, a.summary(), s.summary())
	}

	now := a.cfg.State.Auth.Load().Revision()
	for _, who := range []string{"u", "root", "", "nobody"} {
		for _, rev := range []uint64{0, 1, now - 1, now} {
			for _, key := range []string{"old", "new", "other"} {
				h.add(who, rev, put(key, who+key))
			}
			h.add(who, rev, &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{putOp("new"), rangeOp("old", 0)}}})
			h.add(who, rev, &pb.InternalRaftRequest{AuthUserAdd: &pb.AuthUserAddRequest{Name: "by " + who, Options: &authpb.UserAddOptions{NoPassword: true}}})
		}
	}
	for _, e := range h.from(known) {
		before := a.summary()
		for _, s := range []*site{a, late, fresh} {
			s.Apply([]*raftpb.Entry{e})
		}
		require.Equal(t, a.summary(), late.summary(), "entry %d, after %s", e.GetIndex(), before)
		require.Equal(t, a.summary(), fresh.summary(), "entry %d, after %s", e.GetIndex(), before)
	}
	require.Greater(t, a.cfg.State.Auth.Load().Revision(), now, "some were permitted")
	require.Nil(t, a.cfg.State.Auth.Load().User("by u"), "some were not")
}

// TestEtcd18667And21432And18799TxnIsAllOrNothing executes transactions that fail half way, on the member whose client waits and
// on one where nobody does. In etcd members without the client skipped the reads that failed, and kept the writes.
func TestEtcd18667And21432And18799TxnIsAllOrNothing(t *testing.T) {
	txn := func(ops ...*pb.RequestOp) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: ops}}}
	}
	leased := func(key string, id int64) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Lease: id}}}
	}
	ignoring := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("none"), IgnoreValue: true}}}
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}}
	for name, c := range map[string]struct {
		ops    []*pb.RequestOp
		failed bool
	}{
		"compacted revision":        {[]*pb.RequestOp{putOp("b"), rangeOp("a", 2), putOp("c")}, true},
		"compacted revision, first": {[]*pb.RequestOp{rangeOp("a", 2), del}, true},
		"future revision":           {[]*pb.RequestOp{putOp("b"), rangeOp("a", 1000)}, true},
		"future by the txn itself":  {[]*pb.RequestOp{putOp("b"), rangeOp("a", 8)}, true},
		"nested":                    {[]*pb.RequestOp{putOp("b"), txn(putOp("c"), txn(del, rangeOp("a", 2)))}, true},
		"read only":                 {[]*pb.RequestOp{rangeOp("a", 2)}, true},
		"no such lease":             {[]*pb.RequestOp{putOp("b"), leased("c", 77)}, true},
		"no such key":               {[]*pb.RequestOp{del, ignoring}, true},
		"old revision":              {[]*pb.RequestOp{putOp("b"), rangeOp("a", 5), del}, false},
		"present revision":          {[]*pb.RequestOp{rangeOp("a", 7), txn(putOp("b"), rangeOp("a", 0))}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var summaries, errs []string
			for _, wanted := range []bool{true, false} {
				s := newSite(t, filepath.Join(t.TempDir(), "db"))
				h := &history{t: t}
				for i := range 6 {
					h.add("", 0, put("a", fmt.Sprint(i)))
				}
				h.add("", 0, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: 4}})
				s.Apply(h.entries)
				before := s.summary()
				s.cfg.State.Store.Begin()
				res, err := s.cfg.Applier.Apply(8, &pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 9}, Txn: &pb.TxnRequest{Success: c.ops}}, wanted)
				require.NoError(t, err)
				s.cfg.State.Store.Publish()
				if c.failed {
					require.Error(t, res.Err)
					require.Equal(t, before, s.summary(), "nothing is changed")
				} else {
					require.NoError(t, res.Err)
					require.NotEqual(t, before, s.summary())
				}
				summaries, errs = append(summaries, s.summary()), append(errs, fmt.Sprint(res.Err))
			}
			require.Equal(t, summaries[0], summaries[1])
			require.Equal(t, errs[0], errs[1])
		})
	}
}

// TestEtcd20650And20271SnapshotWhileDefragRuns restores a snapshot while defragmentations of the old file begin and end at the
// worst moments. See the test of the same name in mvcc/backend.
func TestEtcd20650And20271SnapshotWhileDefragRuns(t *testing.T) {
	a, b := newSite(t, filepath.Join(t.TempDir(), "db")), newSite(t, filepath.Join(t.TempDir(), "db"))
	h := commands(t, rand.New(rand.NewPCG(1, 20650)), 80)
	b.Apply(h.entries[:10])
	old := b.cfg.State.Backend()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { // a client that defragments all the time
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = old.Defrag(context.Background())
			}
		}
	}()
	b.opens = func(path string) *backend.Backend {
		require.NoError(t, os.Rename(path, b.path))
		require.Error(t, old.Defrag(t.Context()), "retired, or already under way")
		return openFile(t, b.path)
	}
	a.Apply(h.entries[:70])
	a.send(b, 70)
	close(stop)
	<-ended
	require.Equal(t, a.summary(), b.summary())
	a.Apply(h.from(70))
	b.Apply(h.from(70))
	want := a.summary()
	require.Equal(t, want, b.summary())
	require.NoError(t, b.cfg.State.Backend().Defrag(t.Context()), "the new file can be defragmented")
	b.close()
	require.Equal(t, want, newSite(t, b.path).summary(), "what is in the file is the snapshot and what came after it")
}

// TestEtcd19557And21694LearnerIsStored adds a learner, changes its URLs and promotes it, and looks after each step, and after a
// restart, what it is. In etcd an update made it a voter by the way, and a promotion was not in the file.
func TestEtcd19557And21694LearnerIsStored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := newSite(t, path)
	h := &history{t: t}
	learner := membership.Member{ID: 2, RaftAttributes: membership.RaftAttributes{PeerURLs: []string{"http://b:1"}, IsLearner: true}}
	check := func(isLearner bool, url string) {
		t.Helper()
		s.Apply(h.from(uint64(len(h.entries) - 1)))
		for range 2 {
			m := s.cfg.State.Members.Member(2)
			require.Equal(t, isLearner, m.IsLearner)
			require.Equal(t, []string{url}, m.PeerURLs)
			require.Len(t, s.cfg.State.Members.VotingMembers(), map[bool]int{true: 1, false: 2}[isLearner])
			s.close()
			s = newSite(t, path)
		}
	}
	h.change(raftpb.ConfChangeAddNode, 1, membership.ConfigChangeContext{Member: membership.Member{ID: 1}})
	s.Apply(h.entries)
	h.change(raftpb.ConfChangeAddLearnerNode, 2, membership.ConfigChangeContext{Member: learner})
	check(true, "http://b:1")
	h.change(raftpb.ConfChangeUpdateNode, 2, membership.Member{ID: 2, RaftAttributes: membership.RaftAttributes{PeerURLs: []string{"http://b:2"}}})
	check(true, "http://b:2")
	h.change(raftpb.ConfChangeAddNode, 2, membership.ConfigChangeContext{Member: membership.Member{ID: 2}, IsPromote: true})
	check(false, "http://b:2")
	h.change(raftpb.ConfChangeUpdateNode, 2, learner) // says that it is a learner
	check(false, "http://b:1")
}
