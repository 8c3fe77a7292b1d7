package fakestore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Cluster is some members on one store.
type Cluster struct {
	Store   *Store
	Members []*Member
}

// Start starts n members, which the test's end stops.
func Start(t testing.TB, n int) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake") // socket paths are short, t.TempDir's are not
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Store: NewStore()}
	for i := range n {
		m := &Member{ID: uint64(i + 1), cluster: c, path: filepath.Join(dir, fmt.Sprint(i)), calls: map[string]int{}}
		c.Members = append(c.Members, m)
		m.Start()
	}
	t.Cleanup(func() {
		for _, m := range c.Members {
			m.Stop()
		}
		os.RemoveAll(dir)
	})
	return c
}

// Endpoints returns all members' endpoints.
func (c *Cluster) Endpoints() (eps []string) {
	for _, m := range c.Members {
		eps = append(eps, m.Endpoint())
	}
	return eps
}

// Calls returns how often a method, such as "/etcdserverpb.KV/Put", was called on all members together.
func (c *Cluster) Calls(method string) (n int) {
	for _, m := range c.Members {
		n += m.Calls(method)
	}
	return n
}

// Fault is what a member does to a call.
type Fault struct {
	// Before is returned instead of running the call.
	Before error
	// After is returned after running it: the effect is there, the answer is lost.
	After error
	// Cut breaks the connection instead of answering, after the call ran.
	Cut bool
	// Hang waits for the call's context to end instead of running it.
	Hang bool
	// Times is how many calls are hit; 0 is all.
	Times int
}

// Member is one server.
type Member struct {
	ID      uint64
	cluster *Cluster
	path    string

	mu       sync.Mutex
	server   *grpc.Server
	conns    map[net.Conn]struct{}
	streams  map[int]context.CancelCauseFunc
	lastID   int
	faults   map[string]*Fault
	calls    map[string]int
	noLeader bool
	wire     WatchWire
}

// WatchWire changes what watch streams of a member look like.
type WatchWire struct {
	// FragmentEvents splits responses into fragments of so many events.
	FragmentEvents int
	// FragmentsBeforeCut breaks the stream after so many fragments, once.
	FragmentsBeforeCut int
	// HoldHistory keeps watches that read history from being caught up: events wait until it is cleared.
	HoldHistory bool
	// Token, when set, is the only one that watches are permitted with.
	Token string
}

// Endpoint is the member's client URL.
func (m *Member) Endpoint() string { return "unix://" + m.path }

// Start makes the member serve.
func (m *Member) Start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.server != nil {
		return
	}
	os.Remove(m.path)
	l, err := net.Listen("unix", m.path)
	if err != nil {
		panic(err)
	}
	m.conns = map[net.Conn]struct{}{}
	m.streams = map[int]context.CancelCauseFunc{}
	m.server = grpc.NewServer(grpc.UnaryInterceptor(m.unary), grpc.StreamInterceptor(m.stream))
	register(m.server, m)
	go m.server.Serve(&listener{Listener: l, m: m})
}

// Stop ends the member's process, so to speak.
func (m *Member) Stop() {
	m.mu.Lock()
	s := m.server
	m.server = nil
	m.mu.Unlock()
	if s == nil {
		return
	}
	m.BreakStreams(errors.New("stopped"))
	s.Stop()
	m.cluster.Store.cond.Broadcast()
}

// Cut breaks all connections. The member goes on listening.
func (m *Member) Cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.Close()
	}
}

// BreakStreams ends all streams with err.
func (m *Member) BreakStreams(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cancel := range m.streams {
		cancel(err)
	}
	m.cluster.Store.cond.Broadcast()
}

// Streams returns how many streams are open.
func (m *Member) Streams() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams)
}

// SetNoLeader makes the member lose its leader, or find it again. Calls and streams that require one fail.
func (m *Member) SetNoLeader(lost bool) {
	m.mu.Lock()
	m.noLeader = lost
	m.mu.Unlock()
	if lost {
		m.BreakStreams(rpctypes.ErrGRPCNoLeader)
	}
}

// SetFault installs a fault for a method; nil removes it.
func (m *Member) SetFault(method string, f *Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.faults == nil {
		m.faults = map[string]*Fault{}
	}
	m.faults[method] = f
}

// SetWire changes the watch streams.
func (m *Member) SetWire(w WatchWire) {
	m.mu.Lock()
	m.wire = w
	m.mu.Unlock()
	m.cluster.Store.cond.Broadcast()
}

func (m *Member) getWire() WatchWire {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wire
}

// Calls returns how often a method was called.
func (m *Member) Calls(method string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[method]
}

// fault counts the call and returns the fault that hits it, if any.
func (m *Member) fault(ctx context.Context, method string) (Fault, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[method]++
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(rpctypes.MetadataRequireLeaderKey); m.noLeader && len(v) > 0 && v[0] == rpctypes.MetadataHasLeader {
		return Fault{}, rpctypes.ErrGRPCNoLeader
	}
	f := m.faults[method]
	if f == nil {
		return Fault{}, nil
	}
	hit := *f
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(m.faults, method)
		}
	}
	return hit, hit.Before
}

func (m *Member) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	f, err := m.fault(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if f.Hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	resp, err := h(ctx, req)
	if f.Cut {
		m.Cut()
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil && f.After != nil {
		return nil, f.After
	}
	return resp, err
}

type cancelStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s cancelStream) Context() context.Context { return s.ctx }

func (m *Member) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	f, err := m.fault(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	m.mu.Lock()
	m.lastID++
	id := m.lastID
	m.streams[id] = cancel
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.streams, id)
		m.mu.Unlock()
	}()
	stop := context.AfterFunc(ctx, m.cluster.Store.cond.Broadcast)
	defer stop()
	if f.Hang {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	err = h(srv, cancelStream{ss, ctx})
	if cause := context.Cause(ctx); cause != nil && ss.Context().Err() == nil {
		return cause
	}
	return err
}

// listener notes connections, so that Cut can break them.
type listener struct {
	net.Listener
	m *Member
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.m.mu.Lock()
		l.m.conns[c] = struct{}{}
		l.m.mu.Unlock()
	}
	return c, err
}

var _ pb.KVServer = (*service)(nil)
