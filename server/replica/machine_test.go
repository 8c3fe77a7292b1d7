package replica

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/alarm"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/propose"
	"github.com/keelson-io/keelson/server/quota"
)

// nobody waits for commands. It counts the alarms that are raised.
type nobody struct{ raised int }

func (*nobody) Take(uint64) *propose.Waiter                  { return nil }
func (n *nobody) RaiseNoSpace(*propose.Waiter, apply.Result) { n.raised++ }

// noSessions has no sessions that could end.
type noSessions struct{}

func (noSessions) Forget(string) {}
func (noSessions) Clear()        {}

func newMachine(t *testing.T, quotaBytes int64) (*Machine, *nobody) {
	t.Helper()
	be, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db")})
	require.NoError(t, err)
	store, err := mvcc.Open(be, mvcc.Config{}, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		store.Close()
		require.NoError(t, be.Close())
	})
	alarms, err := alarm.Open(Rows{Backend: be, Bucket: backend.Alarm})
	require.NoError(t, err)
	users, err := auth.Open(AuthRows{be}, noSessions{}, 0)
	require.NoError(t, err)
	leases := lease.NewTable(lease.Config{})
	state := &State{Store: store, Leases: leases, Alarms: alarms, Auth: users}
	state.SetBackend(be)
	waiters := &nobody{}
	return New(Config{
		State: state, Proposer: waiters, Fatal: func(err error) { t.Error(err) },
		Applier: apply.New(apply.Config{
			Store: store, Leases: leases, Alarms: alarms, Auth: users, Quota: quota.New(quotaBytes, be.SizeInUse),
			Header: func() *pb.ResponseHeader { return &pb.ResponseHeader{} },
		}),
	}, 0, 0), waiters
}

func entries(t *testing.T, cmds ...*pb.InternalRaftRequest) []*raftpb.Entry {
	t.Helper()
	es := make([]*raftpb.Entry, len(cmds))
	for i, c := range cmds {
		c.Header = &pb.RequestHeader{ID: uint64(i + 1)}
		data, err := proto.Marshal(c)
		require.NoError(t, err)
		es[i] = &raftpb.Entry{Index: proto.Uint64(uint64(i + 1)), Term: proto.Uint64(1), Data: data}
	}
	return es
}

// A member raises the alarm when its own quota is passed, not because it refused what a member's alarm refuses, even if that
// alarm is cleared by a later entry of the same batch.
func TestNoSpaceIsRaisedOnce(t *testing.T) {
	put := &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}}
	change := func(a pb.AlarmRequest_AlarmAction) *pb.InternalRaftRequest {
		return &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{MemberID: 1, Action: a, Alarm: pb.AlarmType_NOSPACE}}
	}
	m, w := newMachine(t, -1)
	m.Apply(entries(t, change(pb.AlarmRequest_ACTIVATE), put, change(pb.AlarmRequest_DEACTIVATE)))
	require.Zero(t, w.raised)

	m, w = newMachine(t, 1)
	m.Apply(entries(t, put))
	require.Equal(t, 1, w.raised)
}

func TestCommandID(t *testing.T) {
	for _, c := range []struct {
		cmd  *pb.InternalRaftRequest
		want uint64
	}{
		{&pb.InternalRaftRequest{ID: 7, Put: &pb.PutRequest{Key: []byte("k")}}, 7},
		{&pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 1 << 63}, Put: &pb.PutRequest{Key: []byte("k")}}, 1 << 63},
		{&pb.InternalRaftRequest{ID: 7, Header: &pb.RequestHeader{ID: 8}}, 7},
	} {
		data, err := proto.Marshal(c.cmd)
		require.NoError(t, err)
		id, err := commandID(data)
		require.NoError(t, err)
		require.Equal(t, c.want, id)
	}
	_, err := commandID([]byte{0xff})
	require.Error(t, err)
}

// FuzzCommandID looks at bytes that may be no command.
func FuzzCommandID(f *testing.F) {
	seed, err := proto.Marshal(&pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 9}, DeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}})
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte{0x08})
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := commandID(b); err != nil && id != 0 {
			t.Errorf("id %d and %v", id, err)
		}
	})
}
