package rpc

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/api/insightpb"
)

// InsightConfig is what the Insight service needs.
type InsightConfig struct {
	Header *Header
	Errors *Translator
	Access *Access
	// Look describes the member, with at most n of the prefixes that are used most and are largest; none if n is negative.
	Look func(n int) *insightpb.LookResponse
	// All describes all members.
	All func(ctx context.Context, n int) []*insightpb.MemberLook
}

// Insight is insightpb.Insight.
type Insight struct {
	insightpb.UnsafeInsightServer
	cfg InsightConfig
}

// NewInsight makes the Insight service.
func NewInsight(cfg InsightConfig) *Insight { return &Insight{cfg: cfg} }

const (
	defaultPrefixes = 20
	maxPrefixes     = 1000
)

// Look describes this member. Prefixes are parts of keys: only root sees them.
func (s *Insight) Look(ctx context.Context, r *insightpb.LookRequest) (*insightpb.LookResponse, error) {
	n, hidden, err := s.prefixes(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := s.cfg.Look(n)
	resp.Header = s.cfg.Header.Fill(&pb.ResponseHeader{})
	if hidden {
		resp.Prefixes = &insightpb.Prefixes{Hidden: true}
	}
	return resp, nil
}

// LookAll describes all members.
func (s *Insight) LookAll(ctx context.Context, r *insightpb.LookRequest) (*insightpb.LookAllResponse, error) {
	n, hidden, err := s.prefixes(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := &insightpb.LookAllResponse{Header: s.cfg.Header.Fill(&pb.ResponseHeader{}), Members: s.cfg.All(ctx, n)}
	for _, m := range resp.Members {
		if hidden && m.Look != nil {
			m.Look.Prefixes = &insightpb.Prefixes{Hidden: true}
		}
	}
	return resp, nil
}

// prefixes is how many of them a caller is told of.
func (s *Insight) prefixes(ctx context.Context, r *insightpb.LookRequest) (n int, hidden bool, err error) {
	if err := s.cfg.Access.Known(ctx); err != nil {
		return 0, false, s.cfg.Errors.GRPC(err)
	}
	if s.cfg.Access.Admin(ctx) != nil {
		return -1, true, nil
	}
	if r.Prefixes == 0 {
		return defaultPrefixes, false, nil
	}
	return min(int(r.Prefixes), maxPrefixes), false, nil
}
