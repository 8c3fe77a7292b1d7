// Package clientv3 runs etcd's own Go client against Keelson, and against the real etcd to keep the suite honest.
package clientv3

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/peers/platform"
)

// servers are the programs under test, as the Makefile builds them.
var servers = map[string][]string{
	"keelson": {"../../bin/keelson", "server"},
	"etcd":    {"../../bin/peers/etcd"},
}

func freeURL(t *testing.T) string {
	t.Helper()
	port, err := platform.FreePort()
	must(t, err)
	return "http://127.0.0.1:" + strconv.Itoa(port)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, want, got T) {
	t.Helper()
	if want != got {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// start runs a cluster of programs and returns a client of all members.
func start(t *testing.T, program []string, size int) *clientv3.Client {
	t.Helper()
	if _, err := os.Stat(program[0]); err != nil {
		t.Skipf("%s is not built", program[0])
	}
	var clients, peers []string
	initial := ""
	for i := range size {
		clients, peers = append(clients, freeURL(t)), append(peers, freeURL(t))
		initial += fmt.Sprintf(",m%d=%s", i, peers[i])
	}
	for i := range size {
		args := append(append([]string{}, program[1:]...), fmt.Sprintf("--name=m%d", i), "--data-dir="+filepath.Join(t.TempDir(), "data"),
			"--listen-client-urls="+clients[i], "--advertise-client-urls="+clients[i], "--listen-peer-urls="+peers[i],
			"--initial-advertise-peer-urls="+peers[i], "--initial-cluster="+initial[1:])
		cmd := exec.Command(program[0], args...)
		var log bytes.Buffer
		cmd.Stderr = &log
		must(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGKILL)
			_ = cmd.Wait()
			if t.Failed() {
				t.Log(log.String())
			}
		})
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: clients, DialTimeout: 20 * time.Second, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err = c.Get(ctx, "ready", clientv3.WithRev(0))
	must(t, err)
	return c
}

var suite = map[string]func(*testing.T, context.Context, *clientv3.Client){
	"kv": testKV, "txn": testTxn, "watch": testWatch, "lease": testLease, "lock": testLock, "election": testElection,
	"stm": testSTM, "maintenance": testMaintenance, "errors": testErrors, "stream": testStream,
}

func TestSuite(t *testing.T) {
	for name, program := range servers {
		for _, size := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				c := start(t, program, size)
				for test, fn := range suite {
					t.Run(test, func(t *testing.T) {
						ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
						defer cancel()
						fn(t, ctx, c)
					})
				}
			})
		}
	}
}

func testKV(t *testing.T, ctx context.Context, c *clientv3.Client) {
	for i := range 20 {
		_, err := c.Put(ctx, fmt.Sprintf("kv/%02d", i), fmt.Sprint(i))
		must(t, err)
	}
	resp, err := c.Get(ctx, "kv/", clientv3.WithPrefix(), clientv3.WithLimit(5), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	must(t, err)
	equal(t, 5, len(resp.Kvs))
	equal(t, true, resp.More)
	equal(t, 20, resp.Count)
	equal(t, "kv/19", string(resp.Kvs[0].Key))
	old := resp.Header.Revision
	put, err := c.Put(ctx, "kv/00", "new", clientv3.WithPrevKV())
	must(t, err)
	equal(t, "0", string(put.PrevKv.Value))
	resp, err = c.Get(ctx, "kv/00", clientv3.WithRev(old))
	must(t, err)
	equal(t, "0", string(resp.Kvs[0].Value))
	del, err := c.Delete(ctx, "kv/1", clientv3.WithPrefix(), clientv3.WithPrevKV())
	must(t, err)
	equal(t, 10, del.Deleted)
	equal(t, 10, len(del.PrevKvs))
	resp, err = c.Get(ctx, "kv/", clientv3.WithFromKey(), clientv3.WithKeysOnly(), clientv3.WithSerializable())
	must(t, err)
	equal(t, 0, len(resp.Kvs[0].Value))
}

func testTxn(t *testing.T, ctx context.Context, c *clientv3.Client) {
	resp, err := c.Txn(ctx).If(clientv3.Compare(clientv3.Version("txn/a"), "=", 0)).
		Then(clientv3.OpPut("txn/a", "1"), clientv3.OpGet("txn/a"),
			clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("txn/b", "2")}, nil)).
		Else(clientv3.OpGet("txn/a")).Commit()
	must(t, err)
	equal(t, true, resp.Succeeded)
	equal(t, "1", string(resp.Responses[1].GetResponseRange().Kvs[0].Value))
	_, err = c.Txn(ctx).Then(clientv3.OpPut("txn/c", "1"), clientv3.OpPut("txn/c", "2")).Commit()
	equal(t, rpctypes.ErrDuplicateKey, err)
}

func testWatch(t *testing.T, ctx context.Context, c *clientv3.Client) {
	first, err := c.Put(ctx, "watch/a", "1")
	must(t, err)
	_, err = c.Put(ctx, "watch/a", "2")
	must(t, err)
	w := c.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision), clientv3.WithPrevKV())
	_, err = c.Delete(ctx, "watch/a")
	must(t, err)
	var got []string
	for len(got) < 3 {
		r := <-w
		must(t, r.Err())
		for _, ev := range r.Events {
			prev := ""
			if ev.PrevKv != nil {
				prev = string(ev.PrevKv.Value)
			}
			got = append(got, fmt.Sprintf("%s %s<-%s", ev.Type, ev.Kv.Value, prev))
		}
	}
	equal(t, "[PUT 1<- PUT 2<-1 DELETE <-2]", fmt.Sprint(got))
	must(t, c.RequestProgress(ctx))
}

func testLease(t *testing.T, ctx context.Context, c *clientv3.Client) {
	l, err := c.Grant(ctx, 60)
	must(t, err)
	_, err = c.Put(ctx, "lease/a", "1", clientv3.WithLease(l.ID))
	must(t, err)
	alive, err := c.KeepAlive(ctx, l.ID)
	must(t, err)
	equal(t, 60, (<-alive).TTL)
	ttl, err := c.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
	must(t, err)
	equal(t, "lease/a", string(ttl.Keys[0]))
	_, err = c.Revoke(ctx, l.ID)
	must(t, err)
	resp, err := c.Get(ctx, "lease/a")
	must(t, err)
	equal(t, 0, resp.Count)
	_, err = c.Put(ctx, "lease/a", "1", clientv3.WithLease(l.ID))
	equal(t, rpctypes.ErrLeaseNotFound, err)
	short, err := c.Grant(ctx, 2)
	must(t, err)
	_, err = c.Put(ctx, "lease/b", "1", clientv3.WithLease(short.ID))
	must(t, err)
	for r := range c.Watch(ctx, "lease/b", clientv3.WithFilterPut()) {
		must(t, r.Err())
		if len(r.Events) > 0 {
			break
		}
	}
}

func testLock(t *testing.T, ctx context.Context, c *clientv3.Client) {
	var wg sync.WaitGroup
	inside, total := 0, 0
	for range 4 {
		wg.Go(func() {
			s, err := concurrency.NewSession(c, concurrency.WithTTL(10))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			m := concurrency.NewMutex(s, "lock/")
			for range 3 {
				if err := m.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				inside++ // guarded by nothing but the lock
				if inside != 1 {
					t.Error("two inside")
				}
				total++
				inside--
				if err := m.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	equal(t, 12, total)
}

func testElection(t *testing.T, ctx context.Context, c *clientv3.Client) {
	s, err := concurrency.NewSession(c)
	must(t, err)
	defer s.Close()
	e := concurrency.NewElection(s, "elect/")
	must(t, e.Campaign(ctx, "me"))
	l, err := e.Leader(ctx)
	must(t, err)
	equal(t, "me", string(l.Kvs[0].Value))
	must(t, e.Resign(ctx))
	_, err = e.Leader(ctx)
	equal(t, concurrency.ErrElectionNoLeader, err)
}

func testSTM(t *testing.T, ctx context.Context, c *clientv3.Client) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
					var n int
					_, _ = fmt.Sscan(s.Get("stm/n"), &n)
					s.Put("stm/n", fmt.Sprint(n+1))
					return nil
				}, concurrency.WithAbortContext(ctx))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	resp, err := c.Get(ctx, "stm/n")
	must(t, err)
	equal(t, "20", string(resp.Kvs[0].Value))
}

func testMaintenance(t *testing.T, ctx context.Context, c *clientv3.Client) {
	for _, ep := range c.Endpoints() {
		st, err := c.Status(ctx, ep)
		must(t, err)
		equal(t, "3.7.3", st.Version)
		_, err = c.Defragment(ctx, ep)
		must(t, err)
	}
	snap, err := c.SnapshotWithVersion(ctx)
	must(t, err)
	n, err := io.Copy(io.Discard, snap.Snapshot)
	must(t, err)
	if n%512 != 32 {
		t.Fatalf("snapshot of %d bytes has no hash behind it", n)
	}
	members, err := c.MemberList(ctx)
	must(t, err)
	equal(t, len(c.Endpoints()), len(members.Members))
	put, err := c.Put(ctx, "compact/a", "1")
	must(t, err)
	_, err = c.Compact(ctx, put.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)
	_, err = c.Get(ctx, "compact/a", clientv3.WithRev(put.Header.Revision-1))
	equal(t, rpctypes.ErrCompacted, err)
	alarms, err := c.AlarmList(ctx)
	must(t, err)
	equal(t, 0, len(alarms.Alarms))
}

func testErrors(t *testing.T, ctx context.Context, c *clientv3.Client) {
	_, err := c.Put(ctx, "", "x")
	equal(t, rpctypes.ErrEmptyKey, err)
	_, err = c.Get(ctx, "x", clientv3.WithRev(1<<40))
	equal(t, rpctypes.ErrFutureRev, err)
	_, err = c.Put(ctx, "x", string(make([]byte, 1600<<10)))
	equal(t, rpctypes.ErrRequestTooLarge, err)
	_, err = c.MemberRemove(ctx, 42)
	equal(t, rpctypes.ErrMemberNotFound, err)
	var ops []clientv3.Op
	for i := range 129 {
		ops = append(ops, clientv3.OpPut(fmt.Sprint(i), ""))
	}
	_, err = c.Txn(ctx).Then(ops...).Commit()
	equal(t, rpctypes.ErrTooManyOps, err)
}

func testStream(t *testing.T, ctx context.Context, c *clientv3.Client) {
	for i := range 100 {
		_, err := c.Put(ctx, fmt.Sprintf("stream/%03d", i), string(make([]byte, 1000)))
		must(t, err)
	}
	kv := pb.NewKVClient(c.ActiveConnection())
	stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("stream/"), RangeEnd: []byte("stream0")})
	must(t, err)
	n := 0
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		must(t, err)
		n += len(r.RangeResponse.Kvs)
	}
	equal(t, 100, n)
}
