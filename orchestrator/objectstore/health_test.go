package objectstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestHealth(t *testing.T) {
	members := servertest.Start(t, 1, servertest.Quick()...)
	c, err := client.New(client.Config{Endpoints: members.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	s := New(Config{Client: c})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.NoError(t, s.Health(t.Context()))
	members.Stop(members.Members[0])
	require.Eventually(t, func() bool { return s.Health(t.Context()) != nil }, time.Minute, 10*time.Millisecond)
	err = s.Health(t.Context())
	require.True(t, apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err), "%v", err)
	members.Run(members.Members[0])
	require.Eventually(t, func() bool { return s.Health(t.Context()) == nil }, time.Minute, 10*time.Millisecond)
}
