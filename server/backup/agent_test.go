package backup

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/backup/agent"
	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/backup/store"
	"github.com/keelson-io/keelson/server/servertest"
)

// put makes so many revisions.
func (w *world) put(n int, value string) {
	kv := pb.NewKVClient(w.conns[0])
	for i := range n {
		_, err := kv.Put(w.t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i%7), Value: fmt.Appendf(nil, "%s %d", value, i)})
		require.NoError(w.t, err)
	}
}

// based waits until the latest chain has a base.
func (w *world) based(chains int) {
	require.Eventually(w.t, func() bool {
		cat, err := archive.Read(context.Background(), w.store)
		return err == nil && len(cat.Chains) == chains && len(cat.Latest().Bases) > 0
	}, time.Minute, 10*time.Millisecond)
}

// TestTakenOver lets a second agent begin: the first one ends, and the archive is whole.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	first := w.agent(w.store, nil)
	w.put(10, "one")
	w.archived(w.now())
	second := w.agent(w.store, nil)
	ended := make(chan error, 1)
	require.Eventually(t, func() bool {
		w.put(1, "both")
		cat := w.archived(w.now())
		return len(cat.Latest().Segments) > 4
	}, time.Minute, 50*time.Millisecond)
	go func() { ended <- first() }()
	require.ErrorIs(t, <-ended, archive.ErrTakenOver)
	w.put(10, "two")
	w.archived(w.now())
	require.NoError(t, second())
	require.NoError(t, verify(t.Context(), io.Discard, w.store, true, t.TempDir(), zap.NewNop()))
}

// TestOtherHistory restores the cluster itself from its archive. What it does then does not continue what is archived, but the agent
// goes on: with a new chain, whether the new history is shorter or longer.
func TestOtherHistory(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"shorter": 0, "longer": 200} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			stop := w.agent(w.store, nil)
			w.put(100, "old")
			w.archived(w.now())
			w.based(1)
			require.NoError(t, stop())
			m := w.cluster.Members[0]
			w.cluster.Stop(m)
			require.NoError(t, os.RemoveAll(m.Dir))
			out, err := execute("restore", "--from", w.dir, "--revision", "60", "--data-dir", m.Dir, "--name", m.Name,
				"--initial-cluster", m.Name+"="+m.PeerURL, "--initial-advertise-peer-urls", m.PeerURL)
			require.NoError(t, err, out)
			w.cluster.Run(m)
			w.cluster.WaitReady(m)
			w.put(n, "new")
			stop = w.agent(w.store, nil)
			w.based(2)
			w.put(10, "newer")
			rev := w.now()
			w.archived(rev)
			require.NoError(t, stop())
			require.EqualValues(t, 60+n+10, rev)
			require.NoError(t, verify(t.Context(), io.Discard, w.store, true, t.TempDir(), zap.NewNop()))
			out, err = execute("list", "--from", w.dir)
			require.NoError(t, err)
			require.Contains(t, out, "A gap: nothing is known between")
		})
	}
}

// TestAgentRefusals is about what an agent cannot work with.
func TestAgentRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	cfg := agent.Config{
		Endpoints: w.cluster.Addrs(), Store: w.store, SegmentAge: time.Second, SegmentBytes: 1, BaseInterval: time.Hour,
		Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	}
	require.NoError(t, archive.Found(t.Context(), w.store, 0xab))
	require.ErrorContains(t, agent.Run(t.Context(), cfg), "is the archive of cluster ab")

	other := servertest.New(t, 1)
	other.RunProgram(other.Members[0], servertest.Oracle(t, "etcd"))
	other.WaitReady(other.Members[0])
	var err error
	cfg.Store, err = store.Open(t.TempDir(), store.S3Options{})
	require.NoError(t, err)
	cfg.Endpoints, cfg.Registerer = other.Addrs(), prometheus.NewRegistry()
	require.ErrorContains(t, agent.Run(t.Context(), cfg), "do not serve their log")
}

// TestRunCommand runs the agent as a user does, and looks at its metrics.
func TestRunCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	addr := servertest.FreeAddr(t)
	cmd := Command()
	cmd.SetArgs([]string{
		"run", "--endpoints", "http://" + w.cluster.Members[0].Client, "--to", w.dir, "--segment-age", "50ms", "--keep-for", "168h",
		"--metrics-address", addr, "--log-level", "error",
	})
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	w.put(10, "x")
	w.archived(w.now())
	w.based(1)
	resp, err := http.Get("http://" + addr + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, line := range []string{"keelson_backup_connected 1", fmt.Sprint("keelson_backup_archived_revision ", w.now()), "keelson_backup_chains_total 1"} {
		require.Contains(t, string(page), line)
	}
	cancel()
	require.NoError(t, <-done)
	out, err := execute("list", "--from", w.dir)
	require.NoError(t, err)
	require.Contains(t, out, fmt.Sprintf("to %d, ", w.now()))
}
