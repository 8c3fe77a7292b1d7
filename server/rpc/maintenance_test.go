package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
)

// defragmented is a database that can be defragmented and nothing else.
type defragmented struct {
	Backend
	defrag func() error
}

func (d defragmented) Defrag(context.Context) error { return d.defrag() }

// TestHealthDuringDefrag asks clients to go elsewhere from the begin of a defragmentation to its end, also if it fails.
func TestHealthDuringDefrag(t *testing.T) {
	for _, outcome := range []error{nil, errors.New("no space")} {
		var said []string
		s := NewMaintenance(MaintenanceConfig{
			Errors: NewTranslator(), Logger: zap.NewNop(),
			Backend: func() Backend {
				return defragmented{defrag: func() error {
					said = append(said, "defrag")
					return outcome
				}}
			},
			Serving: func(is bool) { said = append(said, fmt.Sprint(is)) },
		})
		_, err := s.Defragment(t.Context(), &pb.DefragmentRequest{})
		require.Equal(t, outcome == nil, err == nil)
		require.Equal(t, []string{"false", "defrag", "true"}, said)
		s.cfg.Serving, said = nil, nil
		_, _ = s.Defragment(t.Context(), &pb.DefragmentRequest{})
		require.Equal(t, []string{"defrag"}, said)
	}
}
