package bootstrap

import (
	"encoding/json"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/membership"
)

// forceNewCluster makes this member the only one of its cluster, for when the others are lost: the end of the log that nobody
// is known to have committed is given up, and the removal of all other members is committed after the rest.
func (r *Result) forceNewCluster(lg *zap.Logger) error {
	hs, rec := r.Recovered.HardState, &r.Recovered
	if hs == nil {
		return nil // nothing has happened yet
	}
	applied, _ := r.Backend.ConsistentIndex()
	start := rec.Snapshot.GetMetadata().GetIndex()
	last := start + uint64(len(rec.Entries))
	commit := max(hs.GetCommit(), applied) // what was applied was committed, even if the log does not say so yet
	if commit > last {
		return fmt.Errorf("--force-new-cluster: the database holds the effects of entry %d, but the log ends at entry %d; restore the member from a snapshot", commit, last)
	}
	committed := rec.Entries[:commit-start]
	changes, err := r.soleMember(committed, applied)
	if err != nil {
		return err
	}
	entries := make([]*raftpb.Entry, len(changes))
	for i, cc := range changes {
		data, err := proto.Marshal(cc)
		if err != nil {
			return err
		}
		entries[i] = &raftpb.Entry{
			Type: raftpb.EntryConfChange.Enum(), Term: proto.Uint64(hs.GetTerm()), Index: proto.Uint64(commit + uint64(i) + 1), Data: data,
		}
	}
	next := &raftpb.HardState{Term: proto.Uint64(hs.GetTerm()), Vote: proto.Uint64(hs.GetVote()), Commit: proto.Uint64(commit + uint64(len(entries)))}
	lg.Warn("forcing a new cluster of this member alone", zap.String("local-member-id", hex(r.MemberID)), zap.Uint64("commit-index", commit),
		zap.Uint64("entries-given-up", last-commit), zap.Int("changes", len(changes)))
	if err := r.Log.Save(next, entries, true); err != nil {
		return err
	}
	rec.HardState, rec.Entries = next, append(slices.Clip(committed), entries...)
	return nil
}

// soleMember are the changes that leave this member alone: it votes from then on, and then the others go. Members are those of
// the database, and what the committed entries behind it change.
func (r *Result) soleMember(committed []*raftpb.Entry, applied uint64) ([]*raftpb.ConfChange, error) {
	voters := map[uint64]bool{} // false: a learner
	for _, m := range r.Members.Members() {
		voters[m.ID] = !m.IsLearner
	}
	for _, e := range committed {
		if e.GetType() != raftpb.EntryConfChange || e.GetIndex() <= applied {
			continue
		}
		cc := &raftpb.ConfChange{}
		if err := proto.Unmarshal(e.Data, cc); err != nil {
			return nil, fmt.Errorf("entry %d: not a configuration change: %w", e.GetIndex(), err)
		}
		switch cc.GetType() {
		case raftpb.ConfChangeAddNode:
			voters[cc.GetNodeId()] = true
		case raftpb.ConfChangeAddLearnerNode:
			voters[cc.GetNodeId()] = false
		case raftpb.ConfChangeRemoveNode:
			delete(voters, cc.GetNodeId())
		}
	}
	votes, member := voters[r.MemberID]
	if !member {
		return nil, fmt.Errorf("--force-new-cluster: member %s was removed from the cluster; restore it from a snapshot", hex(r.MemberID))
	}
	var changes []*raftpb.ConfChange
	if !votes {
		self := membership.ConfigChangeContext{Member: membership.Member{ID: r.MemberID}, IsPromote: true}
		data, err := json.Marshal(self)
		if err != nil {
			return nil, err
		}
		changes = append(changes, &raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: proto.Uint64(r.MemberID), Context: data})
	}
	var others []uint64
	for id := range voters {
		if id != r.MemberID {
			others = append(others, id)
		}
	}
	slices.Sort(others)
	for _, id := range others {
		changes = append(changes, &raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(id)})
	}
	return changes, nil
}
