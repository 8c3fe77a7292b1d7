package backup

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/backup/store"
)

// TestBucket archives to a bucket and restores from it, by the commands.
func TestBucket(t *testing.T) {
	fake := s3mem.New()
	require.NoError(t, fake.CreateBucket("backups"))
	srv := httptest.NewTLSServer(gofakes3.New(fake).Server())
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	const place = "s3://backups/cluster"
	flags := []string{"--s3-endpoint", srv.URL, "--s3-region", "us-east-1", "--s3-cacert", ca}
	on := func(args ...string) (string, error) { return execute(append(args, flags...)...) }

	w := newWorld(t, 1)
	var err error
	w.store, err = store.Open(place, store.S3Options{Endpoint: srv.URL, Region: "us-east-1", CAFile: ca})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := Command()
	cmd.SetArgs(append([]string{"run", "--endpoints", w.cluster.Members[0].Client, "--to", place, "--segment-age", "50ms", "--log-level", "error"}, flags...))
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	w.put(10, "x")
	w.based(1)
	w.put(10, "y")
	rev := w.now()
	w.archived(rev)
	cancel()
	require.NoError(t, <-done)

	out, err := on("verify", "--replay", "--from", place)
	require.NoError(t, err, out)
	require.Contains(t, out, fmt.Sprintf("revision %d", rev))
	file := filepath.Join(t.TempDir(), "snapshot.db")
	out, err = on("restore", "--from", place, "--revision", fmt.Sprint(rev-3), "--to-snapshot", file)
	require.NoError(t, err, out)
	require.Contains(t, out, fmt.Sprintf("Restored revision %d", rev-3))
	require.FileExists(t, file)
	out, err = on("prune", "--from", place, "--keep-bases", "1")
	require.NoError(t, err, out)
	_, err = on("list", "--from", "s3://backups/other")
	require.ErrorContains(t, err, "there is no archive")
}
