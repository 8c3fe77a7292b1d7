package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"k8s.io/client-go/kubernetes/fake"
)

// TestLeadIsMeasured leads, and stops.
func TestLeadIsMeasured(t *testing.T) {
	r := prometheus.NewRegistry()
	leads := func() float64 {
		families, err := r.Gather()
		require.NoError(t, err)
		require.Len(t, families, 1)
		require.Equal(t, "leader_election_master_status", families[0].GetName())
		require.Equal(t, "x", families[0].Metric[0].Label[0].GetValue())
		return families[0].Metric[0].GetGauge().GetValue()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := lead(ctx, fake.NewClientset(), "x", r, zap.NewNop(), func(context.Context) error {
		require.Equal(t, 1.0, leads())
		cancel()
		return nil
	})
	require.NoError(t, err)
	require.Zero(t, leads())
}
