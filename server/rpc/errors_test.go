package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/errdefs"
)

// TestTranslationIsTotal finds errors of the shared vocabulary that nobody translates.
func TestTranslationIsTotal(t *testing.T) {
	table := translation()
	for _, err := range append(errdefs.All(), auth.Errors()...) {
		require.Contains(t, table, err, "%v", err)
	}
}

func TestTranslate(t *testing.T) {
	tr := NewTranslator()
	require.NoError(t, tr.GRPC(nil))
	require.Equal(t, rpctypes.ErrGRPCNoSpace, tr.GRPC(errdefs.ErrNoSpace))
	require.Equal(t, rpctypes.ErrGRPCNoSpace, tr.GRPC(fmt.Errorf("wrapped: %w", errdefs.ErrNoSpace)))
	require.Equal(t, context.Canceled, tr.GRPC(context.Canceled))
	require.Equal(t, codes.Unknown, status.Code(tr.GRPC(errors.New("strange"))))
	own := status.Error(codes.DataLoss, "own")
	require.Equal(t, own, tr.GRPC(own))
}
