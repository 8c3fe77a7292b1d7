package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/dial"
)

// Config says how to connect.
type Config struct {
	Endpoints        []string           // see dial.Parse
	TLS              func() *tls.Config // of a connection that is made now; nil: without TLS, unless an endpoint says so
	MaxSend, MaxRecv int                // bytes of a message; 0: gRPC's own bounds
	KeepAlive        keepalive.ClientParameters
	Codec            encoding.CodecV2 // of all messages
}

// connectTimeout is how long one attempt to connect may take.
const connectTimeout = 5 * time.Second

// policy spreads calls over the endpoints.
const policy = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// Conn is described in the package comment.
type Conn struct {
	*grpc.ClientConn
	secure    bool
	resolver  *manual.Resolver
	endpoints atomic.Pointer[[]string]
}

// Dial prepares a connection; nothing is sent.
func Dial(cfg Config) (*Conn, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("there are no endpoints")
	}
	c := &Conn{secure: cfg.TLS != nil, resolver: manual.NewBuilderWithScheme("members")}
	c.SetEndpoints(cfg.Endpoints)
	secured := cfg.TLS
	if secured == nil {
		secured = func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }
	}
	calls := []grpc.CallOption{grpc.ForceCodecV2(cfg.Codec)}
	if cfg.MaxSend > 0 {
		calls = append(calls, grpc.MaxCallSendMsgSize(cfg.MaxSend))
	}
	if cfg.MaxRecv > 0 {
		calls = append(calls, grpc.MaxCallRecvMsgSize(cfg.MaxRecv))
	}
	back := backoff.DefaultConfig
	back.BaseDelay, back.MaxDelay = 100*time.Millisecond, 5*time.Second
	opts := []grpc.DialOption{
		grpc.WithResolvers(c.resolver), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDefaultServiceConfig(policy),
		grpc.WithTransportCredentials(mixed{secured}), grpc.WithContextDialer(connect), grpc.WithDefaultCallOptions(calls...),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: back, MinConnectTimeout: connectTimeout}),
	}
	if cfg.KeepAlive.Time > 0 {
		opts = append(opts, grpc.WithKeepaliveParams(cfg.KeepAlive))
	}
	cc, err := grpc.NewClient("members:///", opts...)
	if err != nil {
		return nil, err
	}
	c.ClientConn = cc
	return c, nil
}

// Endpoints are those in use.
func (c *Conn) Endpoints() []string { return *c.endpoints.Load() }

// secureKey is the attribute of addresses with TLS.
type secureKey struct{}

// SetEndpoints replaces the endpoints. Connections to those that stay are kept.
func (c *Conn) SetEndpoints(endpoints []string) {
	endpoints = slices.Clone(endpoints)
	c.endpoints.Store(&endpoints)
	var state resolver.State
	for _, ep := range endpoints {
		e := dial.Parse(ep, c.secure)
		addr := resolver.Address{Addr: e.Addr}
		if e.Network == "unix" {
			addr.Addr, addr.ServerName = "unix:"+e.Addr, "localhost"
		} else if host, _, err := net.SplitHostPort(e.Addr); err == nil {
			addr.ServerName = host
		}
		if e.Secure {
			addr.Attributes = attributes.New(secureKey{}, true)
		}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{addr}})
	}
	c.resolver.UpdateState(state)
}

// Secure says whether an endpoint is connected to with TLS.
func (c *Conn) Secure(ep string) bool { return dial.Parse(ep, c.secure).Secure }

// Sync replaces the endpoints, every interval, by those that the members advertise, until ctx ends. Learners, and members that
// have not started, are left out.
func (c *Conn) Sync(ctx context.Context, interval time.Duration, clk clock.Clock, lg *zap.Logger) {
	t := clk.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C():
		}
		once, cancel := context.WithTimeout(Caller{}.Context(ctx), connectTimeout)
		resp, err := pb.NewClusterClient(c).MemberList(once, &pb.MemberListRequest{Linearizable: true})
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				lg.Warn("cannot learn the endpoints of the members", zap.Error(err))
			}
			continue
		}
		var endpoints []string
		for _, m := range resp.Members {
			if m.Name != "" && !m.IsLearner {
				endpoints = append(endpoints, m.ClientURLs...)
			}
		}
		if have := c.Endpoints(); len(endpoints) > 0 && !slices.Equal(slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(endpoints))) {
			lg.Info("the members have other endpoints now", zap.Strings("endpoints", endpoints))
			c.SetEndpoints(endpoints)
		}
	}
}

// connect connects to an address of SetEndpoints.
func connect(ctx context.Context, addr string) (net.Conn, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// mixed are credentials of connections that are with TLS where the address says so.
type mixed struct{ tls func() *tls.Config }

// ClientHandshake secures a connection.
func (m mixed) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if at := credentials.ClientHandshakeInfoFromContext(ctx).Attributes; at == nil || at.Value(secureKey{}) == nil {
		return insecure.NewCredentials().ClientHandshake(ctx, authority, conn)
	}
	return credentials.NewTLS(m.tls()).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake fails: these are credentials of a client.
func (mixed) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("upstream: not for servers")
}

// Info names the protocol.
func (mixed) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns the same.
func (m mixed) Clone() credentials.TransportCredentials { return m }

// OverrideServerName does nothing.
func (mixed) OverrideServerName(string) error { return nil }
