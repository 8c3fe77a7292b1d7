package keepalive

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
	"github.com/keelson-io/keelson/server/listen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// member is a member that renews any lease but forbidden; a lease gets a TTL that counts its renewals.
type member struct {
	pb.UnimplementedLeaseServer
	mu      sync.Mutex
	streams int
	renewed map[int64]int64
	broken  func() error // called before an answer; an error ends the stream
	hold    chan struct{}
}

const forbidden = 13

// LeaseKeepAlive renews leases.
func (m *member) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	m.mu.Lock()
	m.streams++
	m.mu.Unlock()
	for {
		req, err := s.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if req.ID == forbidden {
			return rpctypes.ErrGRPCPermissionDenied
		}
		if m.hold != nil {
			select {
			case <-m.hold:
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
		m.mu.Lock()
		broken := m.broken
		m.mu.Unlock()
		if broken != nil {
			if err := broken(); err != nil {
				return err
			}
		}
		m.mu.Lock()
		m.renewed[req.ID]++
		ttl := m.renewed[req.ID]
		m.mu.Unlock()
		if err := s.Send(&pb.LeaseKeepAliveResponse{ID: req.ID, TTL: ttl}); err != nil {
			return err
		}
	}
}

// front is the service of a hub.
type front struct {
	pb.UnimplementedLeaseServer
	hub *Hub
}

// LeaseKeepAlive renews leases.
func (f front) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error { return f.hub.Serve(s) }

// serve runs a service and returns a connection to it.
func serve(t *testing.T, srv pb.LeaseServer) *grpc.ClientConn {
	g := grpc.NewServer()
	pb.RegisterLeaseServer(g, srv)
	pipe := listen.NewPipe()
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(pipe) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.Dial(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(); g.Stop(); <-done })
	return conn
}

func newBench(t *testing.T, m *member) (*Hub, pb.LeaseClient) {
	m.renewed = map[int64]int64{}
	h := New(pb.NewLeaseClient(serve(t, m)), clock.Real)
	clients := pb.NewLeaseClient(serve(t, front{hub: h}))
	t.Cleanup(h.Close)
	return h, clients
}

func open(t *testing.T, c pb.LeaseClient, md ...string) pb.Lease_LeaseKeepAliveClient {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), md...), 30*time.Second)
	t.Cleanup(cancel)
	s, err := c.LeaseKeepAlive(ctx)
	require.NoError(t, err)
	return s
}

func ask(t *testing.T, s pb.Lease_LeaseKeepAliveClient, id int64) {
	t.Helper()
	require.NoError(t, s.Send(&pb.LeaseKeepAliveRequest{ID: id}))
}

func answer(t *testing.T, s pb.Lease_LeaseKeepAliveClient, id int64) int64 {
	t.Helper()
	resp, err := s.Recv()
	require.NoError(t, err)
	require.Equal(t, id, resp.ID)
	return resp.TTL
}

// TestCoalescing asks for one lease in many streams at once: the member is asked twice at most, and no answer is older than its
// question.
func TestCoalescing(t *testing.T) {
	m := &member{hold: make(chan struct{})}
	h, c := newBench(t, m)
	first := open(t, c)
	ask(t, first, 7)
	l := func() *link { h.mu.Lock(); defer h.mu.Unlock(); return h.links[upstream.Caller{}] }
	waits := func(waiting, next int) bool {
		l := l()
		if l == nil {
			return false
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		r := l.leases[7]
		return r != nil && len(r.waiting) == waiting && len(r.next) == next
	}
	require.Eventually(t, func() bool { return waits(1, 0) }, 30*time.Second, time.Millisecond)
	var others []pb.Lease_LeaseKeepAliveClient
	for range 20 {
		s := open(t, c)
		ask(t, s, 7)
		others = append(others, s)
	}
	require.Eventually(t, func() bool { return waits(1, 20) }, 30*time.Second, time.Millisecond)
	m.hold <- struct{}{}
	require.Equal(t, int64(1), answer(t, first, 7))
	m.hold <- struct{}{}
	for _, s := range others {
		require.Equal(t, int64(2), answer(t, s, 7))
	}
	ask(t, first, 8)
	m.hold <- struct{}{}
	require.Equal(t, int64(1), answer(t, first, 8))
	require.Equal(t, map[int64]int64{7: 2, 8: 1}, m.renewed)
	require.Equal(t, 1, m.streams)

	other := open(t, c, rpctypes.TokenFieldNameGRPC, "bob")
	ask(t, other, 7)
	m.hold <- struct{}{}
	require.Equal(t, int64(3), answer(t, other, 7))
	require.Equal(t, 2, m.streams, "another identity has a stream of its own")
}

// TestBreaks asks again what a broken stream has left open.
func TestBreaks(t *testing.T) {
	n := 0
	m := &member{broken: func() error {
		if n++; n == 1 || n == 3 {
			return status.Error(codes.Unavailable, "broken")
		}
		return nil
	}}
	_, c := newBench(t, m)
	s := open(t, c)
	for i := range int64(5) {
		ask(t, s, 7)
		require.Equal(t, i+1, answer(t, s, 7))
	}
	require.NoError(t, s.CloseSend())
	_, err := s.Recv()
	require.ErrorIs(t, err, io.EOF)
}

// TestRefused gives the members' refusal to those who asked for the lease that they refuse, and to nobody else.
func TestRefused(t *testing.T) {
	m := &member{hold: make(chan struct{}, 100)}
	_, c := newBench(t, m)
	good, bad := open(t, c), open(t, c)
	ask(t, good, 7)
	ask(t, bad, forbidden)
	for range 10 {
		m.hold <- struct{}{}
	}
	answer(t, good, 7)
	_, err := bad.Recv()
	require.Equal(t, status.Convert(rpctypes.ErrGRPCPermissionDenied).Proto().String(), status.Convert(err).Proto().String())
	ask(t, good, 7)
	answer(t, good, 7)
}

// TestLeaderless ends streams that want a leader when there is none; others wait.
func TestLeaderless(t *testing.T) {
	m := &member{broken: func() error { return rpctypes.ErrGRPCNoLeader }}
	_, c := newBench(t, m)
	s := open(t, c, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	ask(t, s, 7)
	_, err := s.Recv()
	require.Equal(t, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader), status.Convert(err).Message())
	patient := open(t, c)
	ask(t, patient, 7)
	m.mu.Lock()
	m.broken = nil
	m.mu.Unlock()
	require.Equal(t, int64(1), answer(t, patient, 7))
}

// TestClosing tells clients to go elsewhere.
func TestClosing(t *testing.T) {
	m := &member{hold: make(chan struct{})}
	h, c := newBench(t, m)
	s := open(t, c)
	ask(t, s, 7)
	require.Eventually(t, func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.streams == 1 }, 30*time.Second, time.Millisecond)
	h.Close()
	_, err := s.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err))
	_, err = open(t, c).Recv()
	require.Equal(t, codes.Unavailable, status.Code(err))
}
