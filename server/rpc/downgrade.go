package rpc

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/membership"
)

// Versions is the version of the cluster and the downgrade of it that is under way.
type Versions interface {
	Version() string // "": not decided yet
	Downgrade() membership.DowngradeInfo
	CheckDowngrade(target string) error
}

// Downgrade checks, begins or calls off a downgrade of the cluster's version by one minor. The leader does the rest.
func (s *Maintenance) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	var err error
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE:
		_, err = s.checkDowngrade(ctx, r.Version)
	case pb.DowngradeRequest_ENABLE:
		err = s.enableDowngrade(ctx, r.Version)
	case pb.DowngradeRequest_CANCEL:
		if err = s.cancelDowngrade(ctx); errors.Is(err, errdefs.ErrNoInflightDowngrade) {
			s.cfg.Logger.Warn("failed to cancel downgrade", zap.Error(err)) // it is as the client wants it, as in etcd
			err = nil
		}
	default:
		err = errdefs.ErrUnknownMethod
	}
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	return &pb.DowngradeResponse{Header: s.cfg.Header.Fill(&pb.ResponseHeader{}), Version: clusterVersion(s.cfg.Versions)}, nil
}

// clusterVersion is major and minor number.
func clusterVersion(v Versions) string {
	full := v.Version()
	if full == "" {
		return ""
	}
	return version.Cluster(full)
}

func (s *Maintenance) checkDowngrade(ctx context.Context, target string) (string, error) {
	target, err := membership.ParseTarget(target)
	if err != nil {
		return "", err
	}
	if s.cfg.Versions.Version() == "" {
		return "", errdefs.ErrClusterVersionUnavailable
	}
	if err := s.cfg.Gate.Wait(ctx); err != nil {
		return "", err
	}
	return target, s.cfg.Versions.CheckDowngrade(target)
}

func (s *Maintenance) enableDowngrade(ctx context.Context, target string) error {
	target, err := s.checkDowngrade(ctx, target)
	if err != nil {
		s.cfg.Logger.Warn("reject downgrade request", zap.Error(err))
		return err
	}
	return s.setDowngrade(ctx, &membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: target})
}

func (s *Maintenance) cancelDowngrade(ctx context.Context) error {
	if err := s.cfg.Gate.Wait(ctx); err != nil {
		return err
	}
	if !s.cfg.Versions.Downgrade().Enabled {
		return errdefs.ErrNoInflightDowngrade
	}
	return s.setDowngrade(ctx, &membershippb.DowngradeInfoSetRequest{Enabled: false})
}

func (s *Maintenance) setDowngrade(ctx context.Context, r *membershippb.DowngradeInfoSetRequest) error {
	res, err := s.cfg.Proposer.Do(ctx, &pb.InternalRaftRequest{DowngradeInfoSet: r})
	return errors.Join(err, res.Err)
}
