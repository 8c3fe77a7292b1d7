package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/integritypb"
	"github.com/keelson-io/keelson/server/integrity"
)

// Integrity is keelson.integrity.Integrity.
type Integrity struct {
	integritypb.UnsafeIntegrityServer
	Header  *Header
	Errors  *Translator
	Access  *Access
	Replace func(context.Context) (integrity.Refetched, error)
}

// Refetch replaces the data of this member.
func (s *Integrity) Refetch(ctx context.Context, _ *integritypb.RefetchRequest) (*integritypb.RefetchResponse, error) {
	if err := s.Access.Admin(ctx); err != nil {
		return nil, s.Errors.GRPC(err)
	}
	done, err := s.Replace(ctx)
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return nil, s.Errors.GRPC(err)
	case err != nil:
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &integritypb.RefetchResponse{
		ClusterId: s.Header.ClusterID, MemberId: s.Header.MemberID, SourceId: done.From, Index: done.Index, Bytes: uint64(done.Bytes),
		Revision: s.Header.Rev(), Quarantined: done.Quarantined,
	}, nil
}
