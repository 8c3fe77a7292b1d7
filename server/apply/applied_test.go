package apply

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestSlowSecrets has slow commands that carry what nobody may read in a log: a token is made of what Authenticate carries and of
// a number that is easily guessed.
func TestSlowSecrets(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	m := NewMetrics(MetricsConfig{Slow: time.Hour, Logger: zap.New(core)})
	for _, r := range []*pb.InternalRaftRequest{
		{Authenticate: &pb.InternalAuthenticateRequest{Name: "alice", SimpleToken: "secret"}},
		{AuthUserAdd: &pb.AuthUserAddRequest{Name: "alice", Password: "secret", HashedPassword: "secret"}},
		{AuthUserChangePassword: &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "secret", HashedPassword: "secret"}},
		{Put: &pb.PutRequest{Key: []byte("alice"), Value: []byte("secret")}},
	} {
		m.applied(m.Now().Add(-2*time.Hour), r, &Result{})
		line := logs.TakeAll()[0].ContextMap()["request"]
		require.Contains(t, line, "alice")
		require.NotContains(t, line, "secret")
	}
}
