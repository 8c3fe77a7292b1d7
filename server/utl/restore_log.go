package utl

import (
	"encoding/json"
	"errors"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/wal"
	"github.com/keelson-io/keelson/wal/snap"
)

// firstTerm is the term of the configuration changes that a log begins with.
const firstTerm = 1

// index is the log index of the last configuration change.
func (r *restoration) index() uint64 { return uint64(len(r.cluster.Members())) }

// writeLog makes the log, and the snapshot that it begins with.
func (r *restoration) writeLog() (err error) {
	meta, err := proto.Marshal(&pb.Metadata{NodeID: proto.Uint64(r.self.ID), ClusterID: proto.Uint64(r.cluster.ClusterID())})
	if err != nil {
		return err
	}
	log, err := wal.Create(vfs.OS, r.walDir, meta, wal.Options{Logger: r.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	members := r.cluster.Members()
	entries, err := additions(members)
	if err != nil {
		return err
	}
	hs := &raftpb.HardState{Term: proto.Uint64(firstTerm), Vote: proto.Uint64(members[0].ID), Commit: proto.Uint64(r.index())}
	if err := log.Save(hs, entries, true); err != nil {
		return err
	}
	voters := &raftpb.ConfState{}
	for _, m := range members {
		voters.Voters = append(voters.Voters, m.ID)
	}
	if err := r.saveSnap(voters); err != nil {
		return err
	}
	return log.SaveSnapshot(&walpb.Snapshot{Index: proto.Uint64(r.index()), Term: proto.Uint64(firstTerm), ConfState: voters})
}

// additions are the log entries that add members, as a new cluster's log begins with them.
func additions(members []*membership.Member) ([]*raftpb.Entry, error) {
	var entries []*raftpb.Entry
	for i, m := range members {
		context, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: proto.Uint64(m.ID), Context: context})
		if err != nil {
			return nil, err
		}
		entries = append(entries, &raftpb.Entry{
			Type: raftpb.EntryConfChange.Enum(), Term: proto.Uint64(firstTerm), Index: proto.Uint64(uint64(i + 1)), Data: data,
		})
	}
	return entries, nil
}

func (r *restoration) saveSnap(voters *raftpb.ConfState) error {
	data, err := r.cluster.V2Snapshot()
	if err != nil {
		return err
	}
	dir, err := snap.Open(vfs.OS, filepath.Dir(dbPath(r.member)), snap.Options{Logger: r.log})
	if err != nil {
		return err
	}
	return dir.Save(&raftpb.Snapshot{
		Data:     data,
		Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(r.index()), Term: proto.Uint64(firstTerm), ConfState: voters},
	})
}
