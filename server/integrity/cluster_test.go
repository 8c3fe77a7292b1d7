package integrity_test

import (
	"bytes"
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
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/integritypb"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

type member = servertest.Member

// rig is a cluster with a connection to each member.
type rig struct {
	*servertest.Cluster
	t    *testing.T
	conn map[*member]*grpc.ClientConn
}

func start(t *testing.T, size int) *rig {
	r := &rig{servertest.Start(t, size, append(servertest.Quick(), "--integrity-interval=30ms")...), t, map[*member]*grpc.ClientConn{}}
	for _, m := range r.Members {
		r.conn[m] = r.Dial(m)
	}
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) kv(m *member) pb.KVClient           { return pb.NewKVClient(r.conn[m]) }
func (r *rig) ops(m *member) pb.MaintenanceClient { return pb.NewMaintenanceClient(r.conn[m]) }

func (r *rig) put(m *member, key, value string) {
	r.t.Helper()
	_, err := r.kv(m).Put(r.ctx(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	require.NoError(r.t, err)
}

func (r *rig) status(m *member) *pb.StatusResponse {
	r.t.Helper()
	st, err := r.ops(m).Status(r.ctx(), &pb.StatusRequest{})
	require.NoError(r.t, err)
	return st
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	require.Eventually(r.t, ok, patience, 10*time.Millisecond, what)
}

func (r *rig) quarantined(m *member) bool { return len(r.status(m).Errors) > 0 }

// leader is the member that all others follow.
func (r *rig) leader() (lead *member) {
	r.eventually("a leader", func() bool {
		for _, m := range r.Members {
			if st := r.status(m); st.Leader == st.Header.MemberId {
				lead = m
				return true
			}
		}
		return false
	})
	return lead
}

func (r *rig) other(than ...*member) *member {
	for _, m := range r.Members {
		out := false
		for _, t := range than {
			out = out || t == m
		}
		if !out {
			return m
		}
	}
	return nil
}

func (r *rig) page(m *member, path string) (int, string) {
	r.t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	resp, err := http.Get("http://" + m.Client + path)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, string(body)
}

// requireHealthy writes through a member, reads back, and compares what all members have.
func (r *rig) requireHealthy() {
	r.t.Helper()
	r.put(r.Members[0], "healthy", "yes")
	var rev int64
	for _, m := range r.Members {
		res, err := r.kv(m).Range(r.ctx(), &pb.RangeRequest{Key: []byte("healthy")})
		require.NoError(r.t, err)
		require.Len(r.t, res.Kvs, 1)
		rev = max(rev, res.Header.Revision)
	}
	hashes := map[uint32]bool{}
	for _, m := range r.Members {
		h, err := r.ops(m).HashKV(r.ctx(), &pb.HashKVRequest{Revision: rev})
		require.NoError(r.t, err)
		hashes[h.Hash] = true
		require.Empty(r.t, r.status(m).Errors)
	}
	require.Len(r.t, hashes, 1)
}

// requireQuarantine looks at everything that a member in quarantine is to refuse or to show.
func (r *rig) requireQuarantine(m *member) {
	r.t.Helper()
	corrupt := status.Code(rpctypes.ErrGRPCCorrupt)
	_, err := r.kv(m).Put(r.ctx(), &pb.PutRequest{Key: []byte("k")})
	require.Equal(r.t, corrupt, status.Code(err))
	_, err = r.kv(m).Range(r.ctx(), &pb.RangeRequest{Key: []byte("k"), Serializable: true})
	require.Equal(r.t, rpctypes.ErrGRPCCorrupt.Error(), err.Error())
	w, err := pb.NewWatchClient(r.conn[m]).Watch(r.ctx())
	require.NoError(r.t, err)
	_, err = w.Recv()
	require.Equal(r.t, corrupt, status.Code(err))
	s, err := r.ops(m).Snapshot(r.ctx(), &pb.SnapshotRequest{})
	require.NoError(r.t, err)
	_, err = s.Recv()
	require.Equal(r.t, corrupt, status.Code(err), "a copy of wrong data is no backup")
	code, body := r.page(m, "/health")
	require.Equal(r.t, http.StatusServiceUnavailable, code)
	require.Contains(r.t, body, "CORRUPT")
	code, _ = r.page(m, "/readyz/data_corruption")
	require.Equal(r.t, http.StatusServiceUnavailable, code)
	_, body = r.page(m, "/metrics")
	require.Contains(r.t, body, "keelson_integrity_quarantined 1\n")
	require.Contains(r.t, fmt.Sprint(r.status(m).Errors), "refetch")
	_, err = pb.NewClusterClient(r.conn[m]).MemberList(r.ctx(), &pb.MemberListRequest{})
	require.NoError(r.t, err)
}

func (r *rig) refetch(m *member) *integritypb.RefetchResponse {
	r.t.Helper()
	res, err := integritypb.NewIntegrityClient(r.conn[m]).Refetch(r.ctx(), &integritypb.RefetchRequest{})
	require.NoError(r.t, err)
	require.False(r.t, res.Quarantined)
	return res
}

// falsify changes a value in the database of a member that is down.
func falsify(t *testing.T, m *member, from, to string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(m.Dir, "member", "snap", "db"), 0o600, &bbolt.Options{Timeout: time.Second})
	require.NoError(t, err)
	changed := 0
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if bytes.Contains(v, []byte(from)) {
				changed++
				if err := b.Put(bytes.Clone(k), bytes.ReplaceAll(v, []byte(from), []byte(to))); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	require.NoError(t, db.Close())
	require.Equal(t, 1, changed)
}

// TestDiskThatLies changes one byte on the disk of a member that is down. It finds out after its start, serves nothing, stays
// so over a restart, and is healed by one call while the others go on and write.
func TestDiskThatLies(t *testing.T) {
	r := start(t, 3)
	lead := r.leader()
	victim, third := r.other(lead), r.other(lead, r.other(lead))
	for i := range 30 {
		r.put(lead, fmt.Sprintf("key-%02d", i%20), fmt.Sprintf("value-%02d", i))
	}
	r.Stop(victim)
	falsify(t, victim, "value-25", "value-2X")
	r.Run(victim)
	r.WaitReady(victim)
	r.eventually("quarantine", func() bool { return r.quarantined(victim) })
	r.requireQuarantine(victim)
	require.False(t, r.quarantined(lead))
	require.False(t, r.quarantined(third))
	r.put(third, "meanwhile", "1")

	r.Stop(victim)
	r.Run(victim)
	r.WaitReady(victim)
	r.requireQuarantine(victim) // from the first moment

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := r.kv(lead).Put(context.Background(), &pb.PutRequest{Key: fmt.Append(nil, "load-", i%50), Value: fmt.Append(nil, i)}); err != nil {
				t.Errorf("a write failed while a member refetched: %v", err)
				return
			}
		}
	}()
	r.refetch(victim)
	close(stop)
	<-stopped
	r.requireHealthy()
	res, err := r.kv(victim).Range(r.ctx(), &pb.RangeRequest{Key: []byte("key-05")})
	require.NoError(t, err)
	require.Equal(t, "value-25", string(res.Kvs[0].Value))
	r.Stop(victim)
	r.Run(victim)
	r.WaitReady(victim)
	r.requireHealthy()
	require.NotEqual(t, codes.OK, status.Code(func() error {
		_, err := integritypb.NewIntegrityClient(r.conn[r.leader()]).Refetch(r.ctx(), &integritypb.RefetchRequest{})
		return err
	}()), "a leader keeps its data")
}
