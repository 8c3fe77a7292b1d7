package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestDataDirectory hands a data directory from one kind to the other and back, after a clean stop and after kill -9.
func TestDataDirectory(t *testing.T) {
	for _, first := range []kind{etcd, keelson} {
		for how, end := range ends {
			t.Run(string(first)+"/"+how, func(t *testing.T) {
				t.Parallel()
				handOver(t, first, end, 2)
			})
		}
	}
}

func TestStressDataDirectory(t *testing.T) {
	servertest.Stress(t)
	for _, first := range []kind{etcd, keelson} {
		for how, end := range ends {
			t.Run(string(first)+"/"+how, func(t *testing.T) { handOver(t, first, end, 12) })
		}
	}
}

// ends are the ways in which a member ends.
var ends = map[string]func(*cluster, *member){
	"stop": func(c *cluster, m *member) { c.Stop(m) },
	"kill": func(c *cluster, m *member) { c.Kill(m) },
}

// handOver lets one kind write, with restarts, and the other one go on, by turns.
func handOver(t *testing.T, first kind, end func(*cluster, *member), turns int) {
	c := newCluster(t, []kind{first}, "--snapshot-count=50", "--snapshot-catchup-entries=10")
	m := c.Members[0]
	c.run(m)
	for turn := range turns {
		populate(t, c.on[m], 2*turn+1, 120)
		if turn%2 == 0 {
			fill(t, c.on[m])
		}
		end(c, m)
		c.run(m)
		populate(t, c.on[m], 2*turn+2, 120)
		before := stateOf(t, c.on[m])
		requireLog(t, m)
		end(c, m)
		c.kind[m] = c.kind[m].other()
		c.run(m)
		require.Equal(t, before, stateOf(t, c.on[m]), "%s after %s", c.kind[m], c.kind[m].other())
	}
}

// TestHundredThousandKeys hands over a directory of some size, with history that was compacted, and leases.
func TestHundredThousandKeys(t *testing.T) {
	t.Parallel()
	for _, first := range []kind{etcd, keelson} {
		c := startCluster(t, []kind{first})
		m := c.Members[0]
		loadKeys(t, c.on[m], 100_000)
		populate(t, c.on[m], 1, 120)
		loadKeys(t, c.on[m], 20_000)
		populate(t, c.on[m], 2, 120)
		before := stateOf(t, c.on[m])
		require.Greater(t, len(before.Keys), 95_000)
		require.Greater(t, before.Compact, int64(1000))
		c.Stop(m)
		c.kind[m] = first.other()
		c.run(m)
		require.Equal(t, before, stateOf(t, c.on[m]), "%s after %s", c.kind[m], first)
	}
}

// loadKeys puts so many keys, a hundred in a transaction.
func loadKeys(t testing.TB, s services, n int) {
	t.Helper()
	ctx := within(t, 4*patience)
	for i := 0; i < n; i += 100 {
		txn := &pb.TxnRequest{}
		for k := i; k < i+100; k++ {
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
				RequestPut: &pb.PutRequest{Key: fmt.Appendf(nil, "a/z%08d", k), Value: fmt.Append(nil, k)},
			}})
		}
		_, err := s.Txn(ctx, txn)
		require.NoError(t, err)
	}
}

// requireLog requires that the directory is of the interesting kind: snapshots, and a log that went on in another segment.
func requireLog(t *testing.T, m *member) {
	t.Helper()
	snaps, err := filepath.Glob(filepath.Join(m.Dir, "member", "snap", "*.snap"))
	require.NoError(t, err)
	require.NotEmpty(t, snaps)
	segments, err := filepath.Glob(filepath.Join(m.Dir, "member", "wal", "*.wal"))
	require.NoError(t, err)
	require.NotEmpty(t, segments)
	require.NotContains(t, filepath.Base(segments[len(segments)-1]), "0000000000000000-0000000000000000", "one segment only")
}

// TestDataDirectoryUnderLoad kills the writer in the middle of its work; the other kind goes on with its directory.
func TestDataDirectoryUnderLoad(t *testing.T) {
	t.Parallel()
	takeTurns(t, 4)
}

func TestStressDataDirectoryUnderLoad(t *testing.T) {
	servertest.Stress(t)
	takeTurns(t, 60)
}

func takeTurns(t *testing.T, turns int) {
	c := startCluster(t, []kind{etcd}, "--snapshot-count=100", "--snapshot-catchup-entries=20")
	m := c.Members[0]
	l := startLoad(t, c, 4)
	for range turns {
		c.Kill(m)
		c.kind[m] = c.kind[m].other()
		c.run(m)
		l.progress(200)
	}
	l.stop(c)
}
