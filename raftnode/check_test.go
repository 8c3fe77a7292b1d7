package raftnode

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func entry(term, index uint64) *raftpb.Entry { return &raftpb.Entry{Term: &term, Index: &index} }

func snapshotAt(term, index uint64, voters ...uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Term: &term, Index: &index, ConfState: &raftpb.ConfState{Voters: voters}}}
}

// nonsense is what a peer that has lost its mind, or its disk, may send to member 1 at term 2 with 24 entries.
func nonsense() map[string]*raftpb.Message {
	msg := func(t raftpb.MessageType, f func(m *raftpb.Message)) *raftpb.Message {
		m := &raftpb.Message{Type: t.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(2))}
		if f != nil {
			f(m)
		}
		return m
	}
	confChange := func(t raftpb.EntryType, data string) *raftpb.Entry {
		return &raftpb.Entry{Type: t.Enum(), Data: []byte(data)}
	}
	return map[string]*raftpb.Message{
		"for another":            msg(raftpb.MsgApp, func(m *raftpb.Message) { m.To = new(uint64(3)) }),
		"from nobody":            msg(raftpb.MsgApp, func(m *raftpb.Message) { m.From = nil }),
		"from itself":            msg(raftpb.MsgVote, func(m *raftpb.Message) { m.From = new(uint64(1)) }),
		"from the append thread": msg(raftpb.MsgHup, func(m *raftpb.Message) { m.From = new(raft.LocalAppendThread) }),
		"local":                  msg(raftpb.MsgStorageAppendResp, nil),
		"unknown type":           msg(raftpb.MessageType(99), nil),
		"forget leader":          msg(raftpb.MsgForgetLeader, nil),
		"no term":                msg(raftpb.MsgApp, func(m *raftpb.Message) { m.Term = nil }),
		"huge term":              msg(raftpb.MsgApp, func(m *raftpb.Message) { m.Term = new(uint64(1<<64 - 1)) }),
		"huge index":             msg(raftpb.MsgApp, func(m *raftpb.Message) { m.Index = new(uint64(1<<64 - 1)) }),
		"responses":              msg(raftpb.MsgApp, func(m *raftpb.Message) { m.Responses = []*raftpb.Message{{}} }),
		"proposal with a term":   msg(raftpb.MsgProp, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{}} }),
		"empty proposal":         msg(raftpb.MsgProp, func(m *raftpb.Message) { m.Term = nil }),
		"bad change": msg(raftpb.MsgProp, func(m *raftpb.Message) {
			m.Term, m.Entries = nil, []*raftpb.Entry{confChange(raftpb.EntryConfChange, "\xff")}
		}),
		"bad change 2": msg(raftpb.MsgProp, func(m *raftpb.Message) {
			m.Term, m.Entries = nil, []*raftpb.Entry{confChange(raftpb.EntryConfChangeV2, "\xff")}
		}),
		"unknown entry":          msg(raftpb.MsgProp, func(m *raftpb.Message) { m.Term, m.Entries = nil, []*raftpb.Entry{confChange(raftpb.EntryType(9), "")} }),
		"read request with term": msg(raftpb.MsgReadIndex, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{}} }),
		"gap": msg(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(uint64(24)), new(uint64(2)), []*raftpb.Entry{entry(2, 26)}
		}),
		"backwards": msg(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(uint64(24)), new(uint64(2)), []*raftpb.Entry{entry(2, 3)}
		}),
		"falling terms": msg(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(uint64(24)), new(uint64(2)), []*raftpb.Entry{entry(1, 25)}
		}),
		"entries of the future": msg(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(uint64(24)), new(uint64(2)), []*raftpb.Entry{entry(3, 25)}
		}),
		"short context":          msg(raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = []byte{1} }),
		"snapshot of nothing":    msg(raftpb.MsgSnap, nil),
		"snapshot of the future": msg(raftpb.MsgSnap, func(m *raftpb.Message) { m.Snapshot = snapshotAt(3, 50, 1, 2, 3) }),
		"snapshot, no voters":    msg(raftpb.MsgSnap, func(m *raftpb.Message) { m.Snapshot = snapshotAt(2, 50) }),
		"snapshot, voters twice": msg(raftpb.MsgSnap, func(m *raftpb.Message) { m.Snapshot = snapshotAt(2, 50, 1, 1) }),
		"snapshot, voter 0":      msg(raftpb.MsgSnap, func(m *raftpb.Message) { m.Snapshot = snapshotAt(2, 50, 0, 1) }),
		"snapshot, both": msg(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = snapshotAt(2, 50, 1)
			m.Snapshot.Metadata.ConfState.Learners = []uint64{1}
		}),
		"snapshot without database": msg(raftpb.MsgSnap, func(m *raftpb.Message) { m.Snapshot = snapshotAt(2, 50, 1, 2, 3) }),
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	l := newLab(t, newMemDisk)
	l.bootstrap(1, 2, 3)
	n := l.members[1].node
	for name, m := range nonsense() {
		require.ErrorIs(t, n.Step(t.Context(), m), ErrBadMessage, name)
	}
	require.ErrorIs(t, n.Step(t.Context(), nil), ErrBadMessage)
	l.settle()
	require.EqualValues(t, 1, n.Term())
	l.stopAll()
}

func (l *lab) stopAll() {
	for _, id := range l.ids() {
		l.members[id].stop(false)
	}
}

// TestNonsenseAgainstState sends what is wrong only for this member's log and role. Each of these makes raft panic.
func TestNonsenseAgainstState(t *testing.T) {
	position := binary.LittleEndian.AppendUint64(nil, 1000)
	for name, c := range map[string]struct {
		to uint64
		m  *raftpb.Message
	}{
		"heartbeat commits what is not there": {2, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Commit: new(uint64(1000))}},
		"answer to a read never asked":        {1, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), Context: position}},
		"acknowledges what is not there":      {1, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), Index: new(uint64(1000))}},
		"transfer at a follower":              {2, &raftpb.Message{Type: raftpb.MsgTransferLeader.Enum()}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, newMemDisk)
			l.bootstrap(1, 2, 3)
			l.command1("elect", 1)
			n := l.members[c.to].node
			for _, from := range []uint64{1, 2, 3} {
				if from == c.to {
					continue
				}
				m := proto.Clone(c.m).(*raftpb.Message)
				m.From, m.To, m.Term = new(from), new(c.to), new(n.Term())
				require.NoError(t, n.Step(t.Context(), m))
			}
			l.members[1].ask() // makes a leader count answers
			l.settle()
			require.Equal(t, "index 4", l.members[1].answer())
			l.stopAll()
		})
	}
}

// command1 makes a member start an election that it wins.
func (l *lab) command1(_ string, id uint64) {
	l.members[id].node.inbox.call(func(c *core) {
		_ = c.raft.Step(&raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(99))})
	})
	l.settle()
}

func TestConfChangesRaftWouldNotTake(t *testing.T) {
	cs := &raftpb.ConfState{Voters: []uint64{1}}
	_, err := AfterConfChange(cs, &raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(1))})
	require.Error(t, err)
	_, err = AfterConfChange(cs, &raftpb.ConfChange{Type: raftpb.ConfChangeType(9).Enum(), NodeId: new(uint64(2))})
	require.Error(t, err)
	_, err = AfterConfChange(cs, &raftpb.ConfChange{NodeId: new(raft.LocalAppendThread)})
	require.Error(t, err)
	_, err = AfterConfChange(cs, &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{NodeId: new(uint64(2))}, {NodeId: new(uint64(3))}}})
	require.Error(t, err)
	_, err = AfterConfChange(cs, &raftpb.ConfChangeV2{})
	require.Error(t, err)
	got, err := AfterConfChange(cs, &raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(2))})
	require.NoError(t, err)
	require.Equal(t, []uint64{2}, got.GetLearners())
	got, err = AfterConfChange(got, &raftpb.ConfChange{NodeId: new(uint64(0))})
	require.NoError(t, err)
	require.Equal(t, []uint64{1}, got.GetVoters())
}

// FuzzStep sends any messages to a leader, a follower and a candidate. None may panic or lose what is committed.
func FuzzStep(f *testing.F) {
	encode := func(ms ...*raftpb.Message) []byte {
		var out []byte
		for _, m := range ms {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			out = binary.AppendUvarint(out, uint64(len(b)))
			out = append(out, b...)
		}
		return out
	}
	for _, m := range nonsense() {
		f.Add(encode(m))
	}
	good := func(t raftpb.MessageType, term uint64) *raftpb.Message {
		return &raftpb.Message{Type: t.Enum(), From: new(uint64(3)), To: new(uint64(1)), Term: &term}
	}
	app := good(raftpb.MsgApp, 3)
	app.Index, app.LogTerm, app.Commit, app.Entries = new(uint64(4)), new(uint64(2)), new(uint64(9)), []*raftpb.Entry{entry(3, 5), entry(3, 6)}
	hb := good(raftpb.MsgHeartbeat, 3)
	hb.Commit = new(uint64(6))
	snap := good(raftpb.MsgSnap, 3)
	snap.Snapshot = snapshotAt(3, 9, 1, 2, 3)
	vote := good(raftpb.MsgVote, 4)
	vote.Index, vote.LogTerm = new(uint64(100)), new(uint64(4))
	f.Add(encode(app, hb, vote))
	f.Add(encode(snap, hb))
	for _, t := range []raftpb.MessageType{raftpb.MsgAppResp, raftpb.MsgHeartbeatResp, raftpb.MsgVoteResp, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow, raftpb.MsgPreVote, raftpb.MsgReadIndexResp, raftpb.MsgTransferLeader} {
		f.Add(encode(good(t, 2), good(t, 3), good(t, 2)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLab(t, newMemDisk)
		l.bootstrap(1, 2, 3)
		l.command1("elect", 1)
		for _, id := range l.ids() {
			require.NoError(t, l.members[id].snaps.saveDB(emptyState(9), 9))
		}
		var ms []*raftpb.Message
		for len(data) > 0 {
			n, k := binary.Uvarint(data)
			if k <= 0 || n > uint64(len(data)-k) {
				break
			}
			m := &raftpb.Message{}
			if proto.Unmarshal(data[k:k+int(n)], m) == nil {
				ms = append(ms, m)
			}
			data = data[k+int(n):]
		}
		for _, id := range l.ids() {
			for _, m := range ms {
				c := proto.Clone(m).(*raftpb.Message)
				c.To = &id
				_ = l.members[id].node.Step(t.Context(), c)
			}
			for l.members[id].work() {
			}
			l.members[id].tick(25)
			for l.members[id].work() {
			}
		}
		l.stopAll()
	})
}

// TestCheckReturnedRequest: a member that was sent a proposal as the leader, and follows the sender by now, sends it back.
func TestCheckReturnedRequest(t *testing.T) {
	for _, typ := range []raftpb.MessageType{raftpb.MsgProp, raftpb.MsgReadIndex} {
		m := &raftpb.Message{Type: typ.Enum(), From: new(uint64(1)), To: new(uint64(1)), Entries: []*raftpb.Entry{{Data: make([]byte, 8)}}}
		require.NoError(t, checkMessage(1, m), typ)
	}
}

// TestCheckReplacedEntries: committed entries that are not in the log yet are not compared with those they replace.
func TestCheckReplacedEntries(t *testing.T) {
	c := &core{term: 3, commit: 5, log: newLogCache(Recovered{}, 1<<20)}
	c.log.append([]*raftpb.Entry{entry(1, 1), entry(2, 2), entry(2, 3)})
	c.log.appliedTo(1)
	replace := &raftpb.Message{Term: new(uint64(3)), Entries: []*raftpb.Entry{entry(1, 1), entry(3, 2), entry(3, 3)}}
	require.NoError(t, c.checkAgainstCommitted(replace))
	c.log.appliedTo(2)
	require.Error(t, c.checkAgainstCommitted(replace))
}
