package raftnode

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// raft trusts its messages: one out of order makes it panic. So every message of a peer passes two checks before raft
// sees it: checkMessage, which knows nothing of this member's state and runs where the message came in, and
// core.checkAgainstState on the loop.

// maxNumber bounds terms and indices, so that adding to them cannot overflow.
const maxNumber = 1 << 62

// checkMessage tells what is wrong with a message from a peer in itself; self is this member.
func checkMessage(self uint64, m *raftpb.Message) error {
	switch {
	case m == nil:
		return errors.New("no message")
	case m.GetTo() != self:
		return fmt.Errorf("it is for member %x", m.GetTo())
	case m.GetFrom() == raft.None || raft.IsLocalMsgTarget(m.GetFrom()):
		return errors.New("it is from nobody")
	case m.GetTerm() > maxNumber || m.GetIndex() > maxNumber || m.GetCommit() > maxNumber || m.GetLogTerm() > maxNumber || m.GetRejectHint() > maxNumber:
		return errors.New("a term or an index is beyond all bounds")
	case len(m.GetResponses()) > 0:
		return errors.New("it carries local messages")
	}
	switch t := m.GetType(); t {
	case raftpb.MsgProp, raftpb.MsgReadIndex:
		return checkForwarded(m)
	case raftpb.MsgTransferLeader: // From is the transferee, which may be this member
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgSnap, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow, raftpb.MsgReadIndexResp:
		if m.GetFrom() == self {
			return errors.New("it claims to be from this member")
		}
	default:
		return fmt.Errorf("members do not send messages of type %v", t)
	}
	if m.GetTerm() == 0 {
		return errors.New("it has no term")
	}
	switch m.GetType() {
	case raftpb.MsgApp:
		return checkEntries(m)
	case raftpb.MsgSnap:
		return checkSnapshotMeta(m)
	case raftpb.MsgHeartbeatResp:
		if n := len(m.GetContext()); n != 0 && n < 8 {
			return fmt.Errorf("its context is of %d bytes", n)
		}
	}
	return nil
}

// checkForwarded looks at proposals and read requests that a follower passes on. They may be this member's own: sent to a
// leader that meanwhile follows this member, and sends them back.
func checkForwarded(m *raftpb.Message) error {
	if m.GetTerm() != 0 {
		return errors.New("it has a term, which forwarded requests do not have")
	}
	if len(m.GetEntries()) == 0 {
		return errors.New("it is empty")
	}
	if m.GetType() == raftpb.MsgReadIndex {
		return nil
	}
	for _, e := range m.GetEntries() {
		if err := checkEntry(e); err != nil {
			return err
		}
	}
	return nil
}

// checkEntry looks at the kind of an entry, and at its data where raft will decode it.
func checkEntry(e *raftpb.Entry) error {
	switch e.GetType() {
	case raftpb.EntryNormal:
		return nil
	case raftpb.EntryConfChange:
		if err := proto.Unmarshal(e.GetData(), &raftpb.ConfChange{}); err != nil {
			return fmt.Errorf("entry %d: membership change: %w", e.GetIndex(), err)
		}
		return nil
	case raftpb.EntryConfChangeV2:
		if err := proto.Unmarshal(e.GetData(), &raftpb.ConfChangeV2{}); err != nil {
			return fmt.Errorf("entry %d: membership change: %w", e.GetIndex(), err)
		}
		return nil
	default:
		return fmt.Errorf("entry %d has the unknown type %d", e.GetIndex(), e.GetType())
	}
}

// checkEntries tells whether the entries of a MsgApp follow its index without a gap and with rising terms.
func checkEntries(m *raftpb.Message) error {
	index, term := m.GetIndex(), m.GetLogTerm()
	for _, e := range m.GetEntries() {
		if e.GetIndex() != index+1 {
			return fmt.Errorf("entry %d follows entry %d", e.GetIndex(), index)
		}
		if e.GetTerm() < term || e.GetTerm() == 0 {
			return fmt.Errorf("entry %d of term %d follows one of term %d", e.GetIndex(), e.GetTerm(), term)
		}
		if err := checkEntry(e); err != nil {
			return err
		}
		index, term = e.GetIndex(), e.GetTerm()
	}
	if term > m.GetTerm() {
		return fmt.Errorf("entries of term %d in a message of term %d", term, m.GetTerm())
	}
	return nil
}

func checkSnapshotMeta(m *raftpb.Message) error {
	meta := m.GetSnapshot().GetMetadata()
	switch {
	case meta.GetIndex() == 0 || meta.GetTerm() == 0:
		return errors.New("the snapshot has no index or no term")
	case meta.GetIndex() > maxNumber:
		return errors.New("the snapshot's index is beyond all bounds")
	case meta.GetTerm() > m.GetTerm():
		return fmt.Errorf("a snapshot of term %d in a message of term %d", meta.GetTerm(), m.GetTerm())
	}
	return nil
}

// checkConfState tells whether raft could take cs.
func checkConfState(cs *raftpb.ConfState) error {
	if cs == nil || len(cs.GetVoters()) == 0 {
		return errors.New("a membership without voters")
	}
	for _, ids := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()} {
		for _, id := range ids {
			if id == raft.None || raft.IsLocalMsgTarget(id) {
				return fmt.Errorf("member id %x is reserved", id)
			}
		}
	}
	cfg, progress, err := confchange.Restore(newChanger(), cs)
	if err != nil {
		return fmt.Errorf("membership %s: %w", raft.DescribeConfState(cs), err)
	}
	t := tracker.ProgressTracker{Config: cfg, Progress: progress}
	if err := cs.Equivalent(t.ConfState()); err != nil {
		return fmt.Errorf("membership %s: %w", raft.DescribeConfState(cs), err)
	}
	return nil
}

func newChanger() confchange.Changer {
	return confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: 1}
}

// AfterConfChange returns the membership that a change makes of cs, or why raft would not take the change.
func AfterConfChange(cs *raftpb.ConfState, cc raftpb.ConfChangeI) (*raftpb.ConfState, error) {
	c := newChanger()
	var err error
	c.Tracker.Config, c.Tracker.Progress, err = confchange.Restore(c, cs)
	if err != nil {
		return nil, fmt.Errorf("membership %s: %w", raft.DescribeConfState(cs), err)
	}
	v2 := cc.AsV2()
	for _, single := range v2.GetChanges() {
		if raft.IsLocalMsgTarget(single.GetNodeId()) {
			return nil, fmt.Errorf("member id %x is reserved", single.GetNodeId())
		}
	}
	if len(v2.GetChanges()) != 1 || v2.GetTransition() != raftpb.ConfChangeTransition_ConfChangeTransitionAuto {
		return nil, errors.New("members are changed one at a time")
	}
	c.Tracker.Config, c.Tracker.Progress, err = c.Simple(v2.GetChanges()...)
	if err != nil {
		return nil, err
	}
	return c.Tracker.ConfState(), nil
}

// checkAgainstState tells what is wrong with a message given this member's log and role.
func (c *core) checkAgainstState(m *raftpb.Message) error {
	switch m.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgTransferLeader, raftpb.MsgSnap:
		c.drain()
	default:
		if m.GetTerm() != 0 && m.GetTerm() != c.term {
			c.drain() // what this loop knows of raft is as of the last Ready
		}
	}
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		ignored := m.GetTerm() < c.term || m.GetTerm() == c.term && c.state == raft.StateLeader
		if !ignored && m.GetCommit() > c.last {
			return fmt.Errorf("commits %d, but this log ends at %d: entries that this member has acknowledged are gone", m.GetCommit(), c.last)
		}
	case raftpb.MsgAppResp:
		if m.GetTerm() == c.term && c.state == raft.StateLeader && !m.GetReject() && m.GetIndex() > c.last {
			return fmt.Errorf("acknowledges %d, but this log ends at %d", m.GetIndex(), c.last)
		}
	case raftpb.MsgHeartbeatResp:
		if ctx := m.GetContext(); len(ctx) >= 8 && m.GetTerm() == c.term && readPosition(ctx) > c.read.maxPosition {
			return fmt.Errorf("answers read request %d, but only %d were sent", readPosition(ctx), c.read.maxPosition)
		}
	case raftpb.MsgTransferLeader:
		if c.state != raft.StateLeader {
			return errors.New("this member does not lead")
		}
	case raftpb.MsgApp:
		return c.checkAgainstCommitted(m)
	}
	return nil
}

// checkAgainstCommitted refuses entries that contradict what is committed here. raft itself only looks at the entries
// after its commit index, so this is not for raft's sake: such a leader must not go unnoticed. What is committed but not
// applied yet may still be on its way to the log, which then knows the entries that are being replaced.
func (c *core) checkAgainstCommitted(m *raftpb.Message) error {
	if m.GetTerm() < c.term {
		return nil
	}
	sure := min(c.commit, c.log.applied)
	for _, e := range m.GetEntries() {
		if e.GetIndex() > sure {
			break
		}
		if t, err := c.log.Term(e.GetIndex()); err == nil && t != e.GetTerm() {
			return fmt.Errorf("entry %d of term %d, where term %d is committed", e.GetIndex(), e.GetTerm(), t)
		}
	}
	return nil
}
