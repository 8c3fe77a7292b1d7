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
	// Look describes the member.
	Look func() *insightpb.LookResponse
	// Prefixes tells what parts of the key space are used most and are largest, at most n of each.
	Prefixes func(n int) *insightpb.Prefixes
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
	if err := s.cfg.Access.Known(ctx); err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	resp := s.cfg.Look()
	resp.Header = s.cfg.Header.Fill(&pb.ResponseHeader{})
	n := int(r.Prefixes)
	if n == 0 {
		n = defaultPrefixes
	}
	switch {
	case s.cfg.Access.Admin(ctx) != nil:
		resp.Prefixes = &insightpb.Prefixes{Hidden: true}
	case n > 0:
		resp.Prefixes = s.cfg.Prefixes(min(n, maxPrefixes))
	}
	return resp, nil
}
