package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/backup/agent"
	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/backup/restore"
	"github.com/keelson-io/keelson/server/backup/store"
	"github.com/keelson-io/keelson/server/servertest"
)

const rootPassword = "root-password"

// world is a cluster with load on it, an agent that archives it, and a record of what happened.
type world struct {
	t       *testing.T
	cluster *servertest.Cluster
	conns   []*grpc.ClientConn
	dir     string // of the archive
	store   store.Store
	keys    int           // that are written
	pace    time.Duration // of each writer

	mu     sync.Mutex
	token  string
	events []*mvccpb.Event // in order
	last   int64           // revision up to which events has everything
	marks  []mark
}

// mark is the hash of a live member.
type mark struct {
	rev, compact int64
	hash         uint32
}

func newWorld(t *testing.T, members int) *world {
	w := &world{t: t, cluster: servertest.Start(t, members, servertest.Quick()...), dir: filepath.Join(t.TempDir(), "archive"), last: 1, keys: 40}
	for _, m := range w.cluster.Members {
		w.conns = append(w.conns, w.cluster.Dial(m))
	}
	var err error
	w.store, err = store.Open(w.dir, store.S3Options{})
	require.NoError(t, err)
	return w
}

// ctx is for calls as root, once there is one.
func (w *world) ctx(ctx context.Context) context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, w.token)
}

// agent runs an agent until stop is called, which returns what it ended with.
func (w *world) agent(st store.Store, change func(*agent.Config)) (stop func() error) {
	cfg := agent.Config{
		Endpoints: w.cluster.Addrs(), User: "root", Password: rootPassword, Store: st,
		SegmentAge: 200 * time.Millisecond, SegmentBytes: 1 << 20, BaseInterval: 400 * time.Millisecond,
		SpoolDir: w.t.TempDir(), Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	}
	if testing.Verbose() {
		cfg.Logger, _ = zap.NewDevelopment()
	}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, cfg) }()
	return func() error {
		cancel()
		return <-done
	}
}

// record watches everything until ctx ends.
func (w *world) record(ctx context.Context) {
	for ctx.Err() == nil {
		_ = w.watch(ctx)
	}
}

func (w *world) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(w.conns[0]).Watch(w.ctx(ctx))
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: w.recorded() + 1,
	}}}); err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if r.Canceled {
			return fmt.Errorf("canceled: %s", r.CancelReason)
		}
		w.mu.Lock()
		for _, e := range r.Events {
			w.events, w.last = append(w.events, e), e.Kv.ModRevision
		}
		w.mu.Unlock()
	}
}

func (w *world) recorded() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// at is what the record says of a revision.
func (w *world) at(rev int64) map[string]*mvccpb.KeyValue {
	keys := map[string]*mvccpb.KeyValue{}
	for _, e := range w.events {
		switch {
		case e.Kv.ModRevision > rev:
			return keys
		case e.Type == mvccpb.Event_DELETE:
			delete(keys, string(e.Kv.Key))
		default:
			keys[string(e.Kv.Key)] = e.Kv
		}
	}
	return keys
}

// write writes until ctx ends. Errors are those of a cluster in which leaders change.
func (w *world) write(ctx context.Context, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	conn := w.conns[int(seed)%len(w.conns)]
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	key := func() []byte { return fmt.Appendf(nil, "key/%04d", r.IntN(w.keys)) }
	value := func() []byte { return bytes.Repeat(fmt.Appendf(nil, "%d ", r.Uint32()), r.IntN(30)) }
	var granted []int64
	for ctx.Err() == nil {
		c, cancel := context.WithTimeout(w.ctx(ctx), 2*time.Second)
		switch n := r.IntN(100); {
		case n < 50:
			_, _ = kv.Put(c, &pb.PutRequest{Key: key(), Value: value()})
		case n < 60:
			if g, err := leases.LeaseGrant(c, &pb.LeaseGrantRequest{TTL: 1 + r.Int64N(100)}); err == nil {
				granted = append(granted, g.ID)
			}
		case n < 70 && len(granted) > 0:
			_, _ = kv.Put(c, &pb.PutRequest{Key: key(), Value: value(), Lease: granted[r.IntN(len(granted))]})
		case n < 75 && len(granted) > 0:
			_, _ = leases.LeaseRevoke(c, &pb.LeaseRevokeRequest{ID: granted[0]})
			granted = granted[1:]
		case n < 80:
			from := key()
			_, _ = kv.DeleteRange(c, &pb.DeleteRangeRequest{Key: from, RangeEnd: append(from, 'z')})
		case n < 81:
			if res, err := kv.Range(c, &pb.RangeRequest{Key: key()}); err == nil && res.Header.Revision > 60 {
				_, _ = kv.Compact(c, &pb.CompactionRequest{Revision: res.Header.Revision - 50})
			}
		default:
			_, _ = kv.Txn(c, txn(key(), key(), key(), value()))
		}
		cancel()
		time.Sleep(w.pace)
	}
}

// txn puts two keys and deletes one, if a key exists; otherwise it makes that.
func txn(a, b, c, value []byte) *pb.TxnRequest {
	put := func(k []byte) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k, Value: value}}}
	}
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: c}}}
	t := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: a, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{}}},
		Failure: []*pb.RequestOp{put(a)},
	}
	if !bytes.Equal(a, b) {
		t.Success = append(t.Success, put(a), put(b))
	}
	if !bytes.Equal(c, a) && !bytes.Equal(c, b) {
		t.Success = append(t.Success, del)
	}
	return t
}

// mark records the hash of a live member.
func (w *world) mark(ctx context.Context) {
	c, cancel := context.WithTimeout(w.ctx(ctx), 2*time.Second)
	defer cancel()
	h, err := pb.NewMaintenanceClient(w.conns[0]).HashKV(c, &pb.HashKVRequest{})
	if err == nil {
		w.mu.Lock()
		w.marks = append(w.marks, mark{h.HashRevision, h.CompactRevision, h.Hash})
		w.mu.Unlock()
	}
}

// enableAuth makes a root and another user, and enables authentication.
func (w *world) enableAuth() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := pb.NewAuthClient(w.conns[0])
	for _, u := range []string{"root", "reader"} {
		_, err := c.UserAdd(ctx, &pb.AuthUserAddRequest{Name: u, Password: rootPassword})
		require.NoError(w.t, err)
		_, err = c.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: u})
		require.NoError(w.t, err)
		_, err = c.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: u, Role: u})
		require.NoError(w.t, err)
	}
	_, err := c.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{
		Name: "reader", Perm: &authpb.Permission{PermType: authpb.Permission_READ, Key: []byte("key/"), RangeEnd: []byte("key0")},
	})
	require.NoError(w.t, err)
	_, err = c.AuthEnable(ctx, &pb.AuthEnableRequest{})
	require.NoError(w.t, err)
	res, err := c.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: rootPassword})
	require.NoError(w.t, err)
	w.mu.Lock()
	w.token = res.Token
	w.mu.Unlock()
}

// moveLeader makes another member the leader.
func (w *world) moveLeader() {
	ctx, cancel := context.WithTimeout(w.ctx(context.Background()), time.Minute)
	defer cancel()
	for i, conn := range w.conns {
		st, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		require.NoError(w.t, err)
		if st.Header.MemberId != st.Leader {
			continue
		}
		to, err := pb.NewMaintenanceClient(w.conns[(i+1)%len(w.conns)]).Status(ctx, &pb.StatusRequest{})
		require.NoError(w.t, err)
		_, err = pb.NewMaintenanceClient(conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: to.Header.MemberId})
		require.NoError(w.t, err)
		return
	}
}

// now is the current revision.
func (w *world) now() int64 {
	ctx, cancel := context.WithTimeout(w.ctx(context.Background()), time.Minute)
	defer cancel()
	res, err := pb.NewKVClient(w.conns[0]).Range(ctx, &pb.RangeRequest{Key: []byte("x")})
	require.NoError(w.t, err)
	return res.Header.Revision
}

// archived waits until the archive has a revision.
func (w *world) archived(rev int64) *archive.Catalog {
	var cat *archive.Catalog
	require.Eventually(w.t, func() bool {
		var err error
		if cat, err = archive.Read(context.Background(), w.store); err != nil {
			return false
		}
		spans := spansOf(cat)
		return len(spans) > 0 && spans[len(spans)-1].LastRevision >= rev
	}, time.Minute, 20*time.Millisecond)
	return cat
}

// rebuild restores a moment and compares it with the record.
func (w *world) rebuild(cat *archive.Catalog, t restore.Target) *restore.Outcome {
	w.t.Helper()
	p, err := restore.Choose(cat, t)
	require.NoError(w.t, err)
	path := filepath.Join(w.t.TempDir(), "db")
	o, err := restore.Build(context.Background(), w.store, p, path, zap.NewNop())
	require.NoError(w.t, err)
	if t.Revision > 0 {
		require.Equal(w.t, t.Revision, o.Revision)
	}
	requireKeys(w.t, w.at(o.Revision), path, o)
	return o
}

// requireKeys compares the keys of a database, and that their leases are there.
func requireKeys(t *testing.T, want map[string]*mvccpb.KeyValue, path string, o *restore.Outcome) {
	t.Helper()
	be, err := backend.Open(backend.Config{Path: path})
	require.NoError(t, err)
	defer be.Close()
	leases := lease.NewTable(lease.Config{})
	require.NoError(t, leases.Restore(rows{be}))
	s, err := mvcc.Open(be, mvcc.Config{}, func(_ []byte, id int64) { require.True(t, leases.Exists(lease.ID(id))) })
	require.NoError(t, err)
	defer s.Close()
	index, term := be.ConsistentIndex()
	require.Equal(t, []uint64{o.Index, o.Term}, []uint64{index, term})
	txn := s.Read()
	defer txn.Close()
	require.Equal(t, o.Revision, txn.Rev())
	res, err := txn.Range([]byte{0}, []byte{0}, mvcc.RangeOptions{})
	require.NoError(t, err)
	require.Len(t, res.KVs, len(want), "keys at revision %d", o.Revision)
	for _, kv := range res.KVs {
		f := kv.Parse()
		k := want[string(f.Key)]
		require.NotNil(t, k, "%s", f.Key)
		require.Equal(t, []int64{k.CreateRevision, k.ModRevision, k.Version, k.Lease}, []int64{f.CreateRev, f.ModRev, f.Version, f.Lease})
		require.True(t, bytes.Equal(k.Value, f.Value))
	}
}

// rows are the leases of a database.
type rows struct{ be *backend.Backend }

func (r rows) Put(k, v []byte) { r.be.Put(backend.Lease, k, v) }
func (r rows) Delete(k []byte) { r.be.Delete(backend.Lease, k) }
func (r rows) ForEach(fn func(k, v []byte) error) error {
	return r.be.ForEach(backend.Lease, fn)
}

// broken is a store that fails once it is told to: an agent on it loses what it has.
type broken struct {
	store.Store
	fail  chan struct{}
	tried chan struct{} // gets something when a part of the log could not be put
}

var errBroken = errors.New("the store is broken")

func (b *broken) Put(ctx context.Context, name string, r io.Reader, size int64) error {
	select {
	case <-b.fail:
		if strings.Contains(name, "/log-") {
			select {
			case b.tried <- struct{}{}:
			default:
			}
		}
		return errBroken
	default:
		return b.Store.Put(ctx, name, r, size)
	}
}

// work is load for so long. Meanwhile leaders change, authentication is enabled, agents stop and crash.
func (w *world) work(d time.Duration, change func(*agent.Config)) *archive.Catalog {
	ctx, cancel := context.WithCancel(context.Background())
	recording, stopRecord := context.WithCancel(context.Background())
	var load, record sync.WaitGroup
	record.Go(func() { w.record(recording) })
	stop := w.agent(w.store, change)
	for seed := range uint64(4) {
		load.Go(func() { w.write(ctx, seed) })
	}
	load.Go(func() {
		for ctx.Err() == nil {
			w.mark(ctx)
			time.Sleep(d / 60)
		}
	})
	end := time.Now().Add(d)
	step := min(d/4, 5*time.Minute)
	for first := true; time.Until(end) > step; first = false {
		time.Sleep(step / 2)
		w.moveLeader()
		time.Sleep(step / 2)
		require.NoError(w.t, stop(), "an agent that is stopped")
		b := &broken{Store: w.store, fail: make(chan struct{}), tried: make(chan struct{}, 1)}
		stop = w.agent(b, change)
		if first {
			w.enableAuth()
		}
		w.archived(w.now())
		close(b.fail)
		<-b.tried
		require.Error(w.t, stop(), "what it had could not be archived")
		stop = w.agent(w.store, change)
	}
	time.Sleep(time.Until(end))
	cancel()
	load.Wait()
	w.archived(w.now())
	require.NoError(w.t, stop())
	cat, err := archive.Read(context.Background(), w.store) // leases expire after the load, too
	require.NoError(w.t, err)
	last := spansOf(cat)[0].LastRevision
	require.Eventually(w.t, func() bool { return w.recorded() >= last }, time.Minute, 10*time.Millisecond)
	stopRecord()
	record.Wait()
	return cat
}

// check restores random moments and those that were marked, and compares each with what was recorded.
func (w *world) check(cat *archive.Catalog, points int) {
	spans := spansOf(cat)
	require.Len(w.t, spans, 1, "one chain without a gap")
	first, last := spans[0].FirstRevision, spans[0].LastRevision
	w.t.Logf("revisions %d to %d, %d bases, %d segments", first, last, spans[0].Bases, spans[0].Segments)
	r := rand.New(rand.NewPCG(uint64(last), 7))
	for range points {
		w.rebuild(cat, restore.Target{Revision: first + r.Int64N(last-first+1)})
	}
	compared := 0
	for range points {
		m := w.marks[r.IntN(len(w.marks))]
		if m.rev < first || m.rev > last {
			continue
		}
		if o := w.rebuild(cat, restore.Target{Revision: m.rev}); o.CompactRevision == m.compact {
			require.Equal(w.t, m.hash, o.Hash, "hash at revision %d", m.rev)
			compared++
		}
	}
	require.Positive(w.t, compared, "a hash was compared with that of a live member")
	o := w.rebuild(cat, restore.Target{})
	require.Equal(w.t, last, o.Revision)
	h, err := pb.NewMaintenanceClient(w.conns[0]).HashKV(w.ctx(context.Background()), &pb.HashKVRequest{Revision: last})
	require.NoError(w.t, err)
	require.Equal(w.t, mark{h.HashRevision, h.CompactRevision, h.Hash}, mark{o.Revision, o.CompactRevision, o.Hash})
	var out bytes.Buffer
	require.NoError(w.t, verify(context.Background(), &out, w.store, true, w.t.TempDir(), zap.NewNop()), "%s", &out)
}

// TestRestoreUnderLoad archives a cluster under load, whose leader changes and which gets users meanwhile, with agents that are
// stopped and that crash, and restores random revisions.
func TestRestoreUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.check(w.work(1500*time.Millisecond, nil), 5)
}

// TestStressBackup is TestRestoreUnderLoad for two minutes, or for as long as KEELSON_STRESS_BACKUP says: at 1h, an hour, it is the
// test of acceptance.
func TestStressBackup(t *testing.T) {
	servertest.Stress(t)
	d := 2 * time.Minute
	if text := os.Getenv("KEELSON_STRESS_BACKUP"); text != "" {
		var err error
		d, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	w := newWorld(t, 3)
	w.keys, w.pace = 2000, 15*time.Millisecond
	w.check(w.work(d, func(cfg *agent.Config) { cfg.BaseInterval, cfg.SegmentAge = d/15, time.Second }), 20)
}
