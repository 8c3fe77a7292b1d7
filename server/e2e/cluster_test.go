package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestMain lets some tests run side by side also on a small machine: they wait for elections most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("KEELSON_STRESS") == "" && runtime.GOMAXPROCS(0) < 3 {
		_ = flag.Set("test.parallel", "3")
	}
	goleak.VerifyTestMain(m)
}

type member = servertest.Member

// services are the gRPC clients of one member, without any retries.
type services struct {
	pb.KVClient
	pb.LeaseClient
	pb.ClusterClient
	pb.MaintenanceClient
	pb.AuthClient
	pb.WatchClient
	conn *grpc.ClientConn
}

func dialAddr(t testing.TB, addr string, opts ...grpc.DialOption) services {
	conn, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return services{
		pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewClusterClient(conn), pb.NewMaintenanceClient(conn),
		pb.NewAuthClient(conn), pb.NewWatchClient(conn), conn,
	}
}

// kind is what a member runs.
type kind string

const (
	keelson kind = "keelson"
	etcd    kind = "etcd"
)

// other is the other kind.
func (k kind) other() kind {
	if k == keelson {
		return etcd
	}
	return keelson
}

// cluster are members that run as programs.
type cluster struct {
	*servertest.Cluster
	t    testing.TB
	on   map[*member]services
	kind map[*member]kind
	lied bool // the test sends nonsense in the name of members
}

// newCluster prepares members of the given kinds without starting them.
func newCluster(t testing.TB, kinds []kind, flags ...string) *cluster {
	servertest.Keelson(t)
	servertest.Oracle(t, "etcd")
	flags = append(append(servertest.Quick(), "--log-level=info"), flags...)
	c := &cluster{Cluster: servertest.New(t, len(kinds), flags...), t: t, on: map[*member]services{}, kind: map[*member]kind{}}
	for i, m := range c.Members {
		c.kind[m] = kinds[i]
		c.on[m] = dialAddr(t, m.Client)
	}
	t.Cleanup(c.keep)
	t.Cleanup(c.complaints)
	return c
}

// complaints fails the test if a member of Keelson logged what it never should.
func (c *cluster) complaints() {
	for _, m := range c.Members {
		if c.kind[m] != keelson {
			continue
		}
		log, _ := os.ReadFile(m.Dir + ".log")
		for line := range strings.Lines(string(log)) {
			nonsense := !c.lied && strings.Contains(line, "dropped a message that makes no sense")
			if nonsense || strings.Contains(line, "panic") || strings.Contains(line, "DATA RACE") {
				c.t.Errorf("%s logged: %s", m.Name, line)
			}
		}
	}
}

// startCluster prepares members and starts them.
func startCluster(t testing.TB, kinds []kind, flags ...string) *cluster {
	c := newCluster(t, kinds, flags...)
	c.run(c.Members...)
	return c
}

// run starts members as what they are, and waits until they serve.
func (c *cluster) run(members ...*member) {
	c.t.Helper()
	for _, m := range members {
		c.launch(m)
	}
	c.WaitReady(members...)
}

func (c *cluster) launch(m *member) {
	c.t.Helper()
	program := []string{servertest.Oracle(c.t, "etcd")}
	if c.kind[m] == keelson {
		program = []string{servertest.Keelson(c.t), "server"}
	}
	c.RunProgram(m, program...)
}

// keep prints the ends of the logs of a failed test, or keeps everything where KEELSON_E2E_KEEP says.
func (c *cluster) keep() {
	if !c.t.Failed() {
		return
	}
	for _, m := range c.Members {
		if dir := os.Getenv("KEELSON_E2E_KEEP"); dir != "" {
			to := filepath.Join(dir, strings.ReplaceAll(c.t.Name(), "/", "_"), m.Name)
			_ = os.MkdirAll(to, 0o700)
			_ = exec.Command("cp", "-r", m.Dir, m.Dir+".log", to).Run()
			continue
		}
		log, _ := os.ReadFile(m.Dir + ".log")
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		c.t.Logf("%s (%s) ends with:\n%s", m.Name, c.kind[m], strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// within is a context for one call or some.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

const patience = 30 * time.Second

// eventually repeats f until it returns nil.
func eventually(t testing.TB, f func(ctx context.Context) error, what string, args ...any) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err = f(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	require.NoError(t, err, append([]any{what}, args...)...)
}

// leader waits until some member leads and others agree.
func (c *cluster) leader(among ...*member) *member {
	c.t.Helper()
	if len(among) == 0 {
		among = c.Members
	}
	var lead *member
	eventually(c.t, func(ctx context.Context) error {
		for _, m := range among {
			st, err := c.on[m].Status(ctx, &pb.StatusRequest{})
			if err == nil && st.Leader == st.Header.MemberId && st.Leader != 0 {
				lead = m
				return nil
			}
		}
		return fmt.Errorf("nobody leads")
	}, "leader")
	return lead
}

// id is a member's own id.
func (c *cluster) id(m *member) uint64 {
	c.t.Helper()
	var id uint64
	eventually(c.t, func(ctx context.Context) error {
		st, err := c.on[m].Status(ctx, &pb.StatusRequest{})
		id = st.GetHeader().GetMemberId()
		return err
	}, "status of %s", m.Name)
	return id
}

// moveLeader makes a member the leader.
func (c *cluster) moveLeader(to *member) {
	c.t.Helper()
	id := c.id(to)
	eventually(c.t, func(ctx context.Context) error {
		lead := c.leader()
		if lead == to {
			return nil
		}
		_, err := c.on[lead].MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: id})
		return err
	}, "move leader to %s", to.Name)
	eventually(c.t, func(ctx context.Context) error {
		st, err := c.on[to].Status(ctx, &pb.StatusRequest{})
		if err == nil && st.Leader != id {
			return fmt.Errorf("%s does not lead", to.Name)
		}
		return err
	}, "%s leads", to.Name)
}

// agree waits until the members have the same revision and compares their hashKV. There must be no writes meanwhile.
func (c *cluster) agree(members ...*member) *pb.HashKVResponse {
	c.t.Helper()
	if len(members) == 0 {
		members = c.Members
	}
	var first *pb.HashKVResponse
	eventually(c.t, func(ctx context.Context) error {
		_, err := c.on[members[0]].Range(ctx, &pb.RangeRequest{Key: []byte("x")}) // brings it up to date
		if err != nil {
			return err
		}
		if first, err = c.on[members[0]].HashKV(ctx, &pb.HashKVRequest{}); err != nil {
			return err
		}
		for _, m := range members[1:] {
			h, err := c.on[m].HashKV(ctx, &pb.HashKVRequest{})
			if err != nil {
				return err
			}
			if h.Header.Revision != first.Header.Revision || h.CompactRevision != first.CompactRevision {
				return fmt.Errorf("%s is at revision %d, compacted %d, %s at %d, compacted %d", members[0].Name, first.Header.Revision,
					first.CompactRevision, m.Name, h.Header.Revision, h.CompactRevision)
			}
			if h.Hash != first.Hash {
				return fmt.Errorf("hashKV at revision %d: %d on %s, %d on %s", first.Header.Revision, first.Hash, members[0].Name, h.Hash, m.Name)
			}
		}
		return nil
	}, "the members agree")
	return first
}
