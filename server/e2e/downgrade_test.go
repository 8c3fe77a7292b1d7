package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestDowngrade lowers and raises the version of clusters whose leaders are of either kind.
func TestDowngrade(t *testing.T) {
	for name, kinds := range map[string][]kind{"etcd leads": {etcd, keelson}, "keelson leads": {keelson, etcd}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, kinds)
			for _, m := range c.Members {
				c.atVersion(m, "3.7", "3.7.0", false)
			}
			c.moveLeader(c.Members[0])
			downgrade := func(m *member, action pb.DowngradeRequest_DowngradeAction) error {
				_, err := c.on[m].Downgrade(within(t, patience), &pb.DowngradeRequest{Action: action, Version: "3.6"})
				return err
			}
			for _, m := range c.Members {
				require.NoError(t, downgrade(m, pb.DowngradeRequest_VALIDATE))
			}
			require.NoError(t, downgrade(c.Members[1], pb.DowngradeRequest_ENABLE))
			for _, m := range c.Members {
				c.atVersion(m, "3.6", "3.6.0", true)
				require.Equal(t, rpctypes.ErrGRPCInvalidDowngradeTargetVersion.Error(), fmt.Sprint(downgrade(m, pb.DowngradeRequest_VALIDATE)))
			}
			require.NoError(t, downgrade(c.Members[1], pb.DowngradeRequest_CANCEL))
			for _, m := range c.Members {
				c.atVersion(m, "3.7", "3.7.0", false)
			}
		})
	}
}

// atVersion waits until a member says so much of its cluster and of its files.
func (c *cluster) atVersion(m *member, clusterVersion, storage string, downgrading bool) {
	c.t.Helper()
	eventually(c.t, func(ctx context.Context) error {
		st, err := c.on[m].Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return err
		}
		r, err := c.on[m].Downgrade(ctx, &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.6"})
		if err == nil && r.Version != clusterVersion || err != nil && clusterVersion == "3.7" {
			return fmt.Errorf("%s (%s): the cluster's version is %q: %w", m.Name, c.kind[m], r.GetVersion(), err)
		}
		enabled, err := askPeer(ctx, m, "/downgrade/enabled")
		if err != nil {
			return err
		}
		if st.StorageVersion != storage || st.DowngradeInfo.GetEnabled() != downgrading || enabled != fmt.Sprint(downgrading) {
			return fmt.Errorf("%s (%s): storage version %s, %v, %s", m.Name, c.kind[m], st.StorageVersion, st.DowngradeInfo, enabled)
		}
		return nil
	}, "%s (%s) is at version %s", m.Name, c.kind[m], clusterVersion)
}

func askPeer(ctx context.Context, m *member, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.PeerURL+path, nil)
	if err != nil {
		return "", err
	}
	defer http.DefaultClient.CloseIdleConnections()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// TestStressDowngradeToEtcd36 replaces the members of a cluster by etcd 3.6, one after another.
func TestStressDowngradeToEtcd36(t *testing.T) {
	servertest.Stress(t)
	old := servertest.Oracle(t, "etcd36")
	c := startCluster(t, []kind{keelson, keelson, keelson})
	for _, m := range c.Members {
		c.atVersion(m, "3.7", "3.7.0", false)
	}
	populate(t, c.on[c.Members[0]], 1, 120)
	_, err := c.on[c.Members[0]].Downgrade(within(t, patience), &pb.DowngradeRequest{Action: pb.DowngradeRequest_ENABLE, Version: "3.6"})
	require.NoError(t, err)
	for _, m := range c.Members {
		c.atVersion(m, "3.6", "3.6.0", true)
	}
	before := stateOf(t, c.on[c.Members[0]])
	for _, m := range c.Members {
		c.Stop(m)
		c.RunProgram(m, old)
		c.WaitReady(m)
		st, err := c.on[m].Status(within(t, patience), &pb.StatusRequest{})
		require.NoError(t, err)
		require.Contains(t, st.Version, "3.6.")
		putValue(t, c.on[m], "during", m.Name)
	}
	eventually(t, func(ctx context.Context) error {
		enabled, err := askPeer(ctx, c.Members[0], "/downgrade/enabled")
		if err == nil && enabled != "false" {
			err = fmt.Errorf("still downgrading")
		}
		return err
	}, "the downgrade is done")
	after := stateOf(t, c.on[c.Members[0]])
	require.Equal(t, before.Keys, after.Keys)
	require.Equal(t, before.Leases, after.Leases)
	require.Equal(t, before.Revision+3, after.Revision)
}

// TestNewerStorage does not start on files of a version that it does not know.
func TestNewerStorage(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{keelson, etcd} {
		c := startCluster(t, []kind{k})
		m := c.Members[0]
		c.atVersion(m, "3.7", "3.7.0", false)
		c.Stop(m)
		db, err := bbolt.Open(filepath.Join(m.Dir, "member", "snap", "db"), 0o600, &bbolt.Options{Timeout: time.Second})
		require.NoError(t, err)
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("storageVersion"), []byte("3.8.0"))
		}))
		require.NoError(t, db.Close())
		require.Contains(t, startFails(t, c.Args(m)...), "storage version 3.8.0 is newer than 3.7")
	}
}
