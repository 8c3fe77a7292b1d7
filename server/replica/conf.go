package replica

import (
	"encoding/json"
	"fmt"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/membership"
)

// ConfWaiters holds those who wait for a change of the cluster's members to be applied.
type ConfWaiters struct {
	mu      sync.Mutex
	waiting map[uint64]chan error
}

// NewConfWaiters makes an empty set.
func NewConfWaiters() *ConfWaiters { return &ConfWaiters{waiting: make(map[uint64]chan error)} }

// Wait returns a channel that receives the outcome of the change with an ID, once. Forget ends the wait.
func (c *ConfWaiters) Wait(id uint64) <-chan error {
	ch := make(chan error, 1)
	c.mu.Lock()
	c.waiting[id] = ch
	c.mu.Unlock()
	return ch
}

// Forget drops the wait for a change.
func (c *ConfWaiters) Forget(id uint64) {
	c.mu.Lock()
	delete(c.waiting, id)
	c.mu.Unlock()
}

func (c *ConfWaiters) deliver(r confResult) {
	c.mu.Lock()
	ch := c.waiting[r.id]
	delete(c.waiting, r.id)
	c.mu.Unlock()
	if ch != nil {
		ch <- r.err
	}
}

type confResult struct {
	id  uint64
	err error
}

// applyConf applies a change of the members. A change that the members' rules refuse becomes an empty one for raft, on
// every member alike; the error goes to the client.
func (m *Machine) applyConf(e *raftpb.Entry, replayed bool) (confResult, error) {
	cc := &raftpb.ConfChange{}
	if err := proto.Unmarshal(e.Data, cc); err != nil {
		return confResult{}, fmt.Errorf("not a configuration change: %w", err)
	}
	res := confResult{id: cc.GetId()}
	if replayed { // raft started with the configuration that the backend holds
		cc.NodeId = proto.Uint64(0)
		m.cfg.Raft.ApplyConfChange(cc)
		return res, nil
	}
	members := m.cfg.State.Members
	if err := members.ValidateConfigurationChange(cc); err != nil {
		m.cfg.Logger.Error("refused a configuration change", zap.Error(err))
		cc.NodeId = proto.Uint64(0)
		m.cfg.Raft.ApplyConfChange(cc)
		res.err = err
		return res, nil
	}
	if err := m.saveConfState(m.cfg.Raft.ApplyConfChange(cc)); err != nil {
		return res, err
	}
	return res, m.changeMembers(cc)
}

func (m *Machine) changeMembers(cc *raftpb.ConfChange) error {
	members, self := m.cfg.State.Members, m.cfg.MemberID
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		var ctx membership.ConfigChangeContext
		if err := json.Unmarshal(cc.GetContext(), &ctx); err != nil {
			return fmt.Errorf("configuration change: %w", err)
		}
		if ctx.ID != cc.GetNodeId() {
			return fmt.Errorf("configuration change for member %x describes member %x", cc.GetNodeId(), ctx.ID)
		}
		if ctx.IsPromote {
			return members.Promote(ctx.ID)
		}
		if err := members.Add(&ctx.Member); err != nil {
			return err
		}
		if ctx.ID != self {
			m.cfg.Peers.AddPeer(ctx.ID, ctx.PeerURLs)
		}
	case raftpb.ConfChangeRemoveNode:
		if err := members.Remove(cc.GetNodeId()); err != nil {
			return err
		}
		if cc.GetNodeId() == self {
			m.cfg.Removed()
			return nil
		}
		m.cfg.Peers.RemovePeer(cc.GetNodeId())
	case raftpb.ConfChangeUpdateNode:
		var mem membership.Member
		if err := json.Unmarshal(cc.GetContext(), &mem); err != nil {
			return fmt.Errorf("configuration change: %w", err)
		}
		if err := members.UpdateRaftAttributes(cc.GetNodeId(), mem.RaftAttributes); err != nil {
			return err
		}
		if cc.GetNodeId() != self {
			m.cfg.Peers.UpdatePeer(cc.GetNodeId(), mem.PeerURLs)
		}
	}
	return nil
}
