package rpc

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/errdefs"
)

// Backend is the database file as the Maintenance service sees it.
type Backend interface {
	Size() int64
	SizeInUse() int64
	Defrag(ctx context.Context) error
	Snapshot() (*backend.Snapshot, error)
}

// Hasher computes hashes for comparison between members.
type Hasher interface {
	// Hash covers all buckets, at the current revision.
	Hash() (hash uint32, rev int64, err error)
	// HashKV covers the keys up to a revision (0: the current one).
	HashKV(rev int64) (h mvcc.KVHash, currentRev int64, err error)
}

// MaintenanceConfig is what the Maintenance service needs.
type MaintenanceConfig struct {
	Header         *Header
	Errors         *Translator
	Proposer       Proposer
	Raft           Raft
	Backend        func() Backend // the current one: a snapshot from the leader replaces it
	Hasher         Hasher
	Alarms         func() []*pb.AlarmMember
	Troubles       func() []string // what is wrong beside alarms, in words; may be nil
	QuotaBytes     int64
	IsLearner      func() bool
	StorageVersion func() string
	Versions       Versions
	Gate           ReadGate
	MoveLeader     func(ctx context.Context, target uint64) error
	Serving        func(bool) // tells clients that ask for the health to go elsewhere during a defragmentation; nil: they stay
	Logger         *zap.Logger
	Budget         *Budget
	User           func(ctx context.Context) string // who calls
}

// Maintenance is etcdserverpb.Maintenance.
type Maintenance struct {
	pb.UnimplementedMaintenanceServer
	cfg MaintenanceConfig
}

// NewMaintenance makes the Maintenance service.
func NewMaintenance(cfg MaintenanceConfig) *Maintenance { return &Maintenance{cfg: cfg} }

// Alarm lists, raises or clears alarms.
func (s *Maintenance) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	resp, err := propose[*pb.AlarmResponse](ctx, s.cfg.Proposer, s.cfg.Errors, &pb.InternalRaftRequest{Alarm: r})
	if err != nil {
		return nil, err
	}
	if resp.Header == nil {
		resp.Header = &pb.ResponseHeader{}
	}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}

// Status describes this member.
func (s *Maintenance) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	be := s.cfg.Backend()
	resp := &pb.StatusResponse{
		Header:           s.cfg.Header.Fill(&pb.ResponseHeader{}),
		Version:          version.Version,
		Leader:           s.cfg.Raft.Lead(),
		RaftIndex:        s.cfg.Raft.Committed(),
		RaftAppliedIndex: s.cfg.Raft.Applied(),
		RaftTerm:         s.cfg.Raft.Term(),
		DbSize:           be.Size(),
		DbSizeInUse:      be.SizeInUse(),
		IsLearner:        s.cfg.IsLearner(),
		StorageVersion:   s.cfg.StorageVersion(),
		DbSizeQuota:      s.cfg.QuotaBytes,
	}
	d := s.cfg.Versions.Downgrade()
	resp.DowngradeInfo = &pb.DowngradeInfo{Enabled: d.Enabled, TargetVersion: d.TargetVersion}
	if resp.Leader == 0 {
		resp.Errors = append(resp.Errors, errdefs.ErrNoLeader.Error())
	}
	for _, a := range s.cfg.Alarms() {
		resp.Errors = append(resp.Errors, a.String())
	}
	if s.cfg.Troubles != nil {
		resp.Errors = append(resp.Errors, s.cfg.Troubles()...)
	}
	return resp, nil
}

// Defragment rewrites the database file without its holes; reads and writes go on.
func (s *Maintenance) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	s.cfg.Logger.Info("starting defragment")
	if s.cfg.Serving != nil {
		s.cfg.Serving(false)
		defer s.cfg.Serving(true)
	}
	if err := s.cfg.Backend().Defrag(ctx); err != nil {
		s.cfg.Logger.Warn("failed to defragment", zap.Error(err))
		return nil, s.cfg.Errors.GRPC(err)
	}
	s.cfg.Logger.Info("finished defragment")
	return &pb.DefragmentResponse{}, nil
}

// Hash is the hash of the whole backend.
func (s *Maintenance) Hash(context.Context, *pb.HashRequest) (*pb.HashResponse, error) {
	h, rev, err := s.cfg.Hasher.Hash()
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	return &pb.HashResponse{Header: s.cfg.Header.Fill(&pb.ResponseHeader{Revision: rev}), Hash: h}, nil
}

// HashKV is the hash of the keys up to a revision.
func (s *Maintenance) HashKV(_ context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	h, rev, err := s.cfg.Hasher.HashKV(r.Revision)
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	return &pb.HashKVResponse{
		Header:          s.cfg.Header.Fill(&pb.ResponseHeader{Revision: rev}),
		Hash:            h.Hash,
		CompactRevision: h.CompactRev,
		HashRevision:    h.Rev,
	}, nil
}

// snapshotChunk is the size of a piece of a snapshot on the stream, in bytes.
const snapshotChunk = 32 << 10

// snapshotBytes is how much of a snapshot is under way: gRPC takes 64 KiB before the client does.
const snapshotBytes = 3 * snapshotChunk

// Snapshot streams the database file, and after it its SHA-256.
func (s *Maintenance) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	room := room{budget: s.cfg.Budget}
	defer room.drop()
	if room.take(snapshotBytes) != nil {
		if err := room.wait(stream.Context(), s.cfg.User(stream.Context())); err != nil {
			return err
		}
	}
	snap, err := s.cfg.Backend().Snapshot()
	if err != nil {
		return s.cfg.Errors.GRPC(err)
	}
	pr, pw := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, err := snap.WriteTo(pw)
		_ = pw.CloseWithError(errors.Join(err, snap.Close()))
	}()
	defer func() {
		_ = pr.Close()
		<-written
	}()
	ver, sum, left := s.cfg.StorageVersion(), sha256.New(), snap.Size()
	s.cfg.Logger.Info("sending database snapshot to client", zap.Int64("total-bytes", left))
	for left > 0 {
		buf := make([]byte, min(snapshotChunk, left)) // the stream keeps it after Send
		if _, err := io.ReadFull(pr, buf); err != nil {
			return s.cfg.Errors.GRPC(err)
		}
		left -= int64(len(buf))
		sum.Write(buf)
		if err := stream.Send(&pb.SnapshotResponse{RemainingBytes: uint64(left), Blob: buf, Version: ver}); err != nil {
			return err
		}
	}
	return stream.Send(&pb.SnapshotResponse{Blob: sum.Sum(nil), Version: ver})
}

// MoveLeader hands leadership over. Only the leader can.
func (s *Maintenance) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if s.cfg.Raft.Lead() != s.cfg.Header.MemberID {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	if err := s.cfg.MoveLeader(ctx, r.TargetID); err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	return &pb.MoveLeaderResponse{}, nil
}
