package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Config says where the cluster is and how to talk to it. Only Endpoints must be set.
type Config struct {
	// Endpoints are client URLs of members (http, https, unix, unixs), or bare host:port addresses.
	Endpoints []string
	// Connections is how many connections are kept to each endpoint. One (the default) carries thousands of
	// concurrent calls; more help when a single connection's reader or writer is the bottleneck.
	Connections int
	// PreferLeader sends calls to the leader while it is known and healthy, instead of to all members in turn. It
	// saves a member-to-member hop at the price of balance.
	PreferLeader bool
	// AutoSyncInterval is how often the endpoints are replaced by what the cluster's member list says; 0 is never.
	AutoSyncInterval time.Duration

	// DialTimeout bounds one attempt to connect, and the first authentication. Default 5 s.
	DialTimeout time.Duration
	// KeepAliveTime and KeepAliveTimeout: a connection that was quiet for the first is pinged, and closed when no
	// answer came within the second. Default 10 s and 6 s; a negative KeepAliveTime turns pings off.
	KeepAliveTime, KeepAliveTimeout time.Duration
	// KeepAliveIdle pings connections without a call in flight too.
	KeepAliveIdle bool
	// MaxSendBytes and MaxRecvBytes limit one message. Default 2 MiB and 2 GiB.
	MaxSendBytes, MaxRecvBytes int
	// MaxRetries is how often one call is repeated at most, when that is safe. Default 100; negative is never.
	MaxRetries int
	// WatchBuffer is how many events a watch holds for a consumer that does not call Next. A watch that is full
	// is taken off the stream, and resumes where it was when the consumer has caught up. Default 16384.
	WatchBuffer int

	// TLS is used for https and unixs endpoints, and for bare addresses when set.
	TLS *tls.Config
	// Username and Password, or a ready-made Token.
	Username, Password, Token string

	// DialOptions are appended to the client's own, for instance to install interceptors.
	DialOptions []grpc.DialOption
	// Logger receives connection trouble and retries. Nil is silence.
	Logger *zap.Logger
}

func (c Config) withDefaults() Config {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.DialTimeout, 5*time.Second)
	def(&c.KeepAliveTime, 10*time.Second)
	def(&c.KeepAliveTimeout, 6*time.Second)
	defInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	defInt(&c.Connections, 1)
	defInt(&c.MaxSendBytes, 2<<20)
	defInt(&c.MaxRecvBytes, math.MaxInt32)
	defInt(&c.MaxRetries, 100)
	defInt(&c.WatchBuffer, 16384)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return c
}

// Client is a connection to a cluster. All methods may be called from many goroutines at once.
type Client struct {
	*engine
	view Rewriter // nil for the client that New made
}

// engine is what a client and its views share.
type engine struct {
	cfg    Config
	log    *zap.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pool   *pool

	md     atomic.Pointer[metadata.MD] // sent with every call: API version and token
	authMu sync.Mutex
	calls  sync.Pool // *callState

	watches watchHub
	leases  keeper
}

// New returns a client. It does not wait for a connection; it does authenticate when given a user name.
func New(cfg Config) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, ErrNoEndpoints
	}
	if cfg.Token != "" && (cfg.Username != "" || cfg.Password != "") {
		return nil, fmt.Errorf("client: a token and a user name exclude each other")
	}
	cfg = cfg.withDefaults()
	if cfg.MaxSendBytes > cfg.MaxRecvBytes {
		return nil, fmt.Errorf("client: MaxRecvBytes (%d) must not be less than MaxSendBytes (%d)", cfg.MaxRecvBytes, cfg.MaxSendBytes)
	}
	e := &engine{cfg: cfg, log: cfg.Logger}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.calls.New = func() any { return newCallState() }
	e.setToken(cfg.Token)
	e.pool = newPool(e.ctx, &e.cfg, e.log)
	e.watches.init(e)
	e.leases.init(e)
	c := &Client{engine: e}
	if err := e.pool.set(cfg.Endpoints); err != nil {
		c.Close()
		return nil, err
	}
	if cfg.Username != "" {
		ctx, cancel := context.WithTimeout(e.ctx, cfg.DialTimeout)
		defer cancel()
		if err := e.authenticate(ctx); err != nil {
			c.Close()
			return nil, err
		}
	}
	if cfg.AutoSyncInterval > 0 {
		e.wg.Go(func() { c.autoSync() })
	}
	if cfg.PreferLeader {
		e.wg.Go(func() { c.followLeader() })
	}
	return c, nil
}

// Close ends all watches and keep-alives and closes the connections. Leases are left to expire. Closing a view
// does nothing.
func (c *Client) Close() error {
	if c.view != nil {
		return nil
	}
	c.cancel()
	c.watches.close()
	c.leases.close()
	c.pool.close()
	c.wg.Wait()
	return nil
}

// Done is closed when the client is.
func (c *Client) Done() <-chan struct{} { return c.ctx.Done() }

// Context ends when the client is closed. It is for clean-up calls that must outlive a caller's own context.
func (c *Client) Context() context.Context { return c.ctx }

// Endpoints returns the endpoints in use.
func (c *Client) Endpoints() []string {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return slices.Clone(c.pool.endpoints)
}

// SetEndpoints replaces the endpoints. Calls and streams on endpoints that stay are not disturbed.
func (c *Client) SetEndpoints(endpoints ...string) error {
	if len(endpoints) == 0 {
		return ErrNoEndpoints
	}
	return c.pool.set(endpoints)
}

// Sync replaces the endpoints by the client URLs of the cluster's started voting members.
func (c *Client) Sync(ctx context.Context) error {
	resp, err := c.MemberList(ctx)
	if err != nil {
		return err
	}
	var eps []string
	for _, m := range resp.Members {
		if m.Name != "" && !m.IsLearner {
			eps = append(eps, m.ClientURLs...)
		}
	}
	if len(eps) == 0 {
		return nil
	}
	return c.pool.set(eps)
}

func (c *Client) autoSync() {
	t := time.NewTicker(c.cfg.AutoSyncInterval)
	defer t.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-t.C:
			ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
			if err := c.Sync(ctx); err != nil && c.ctx.Err() == nil {
				c.log.Warn("could not refresh the endpoints", zap.Error(err))
			}
			cancel()
		}
	}
}

// Rewriter changes requests on their way out and responses on their way in, for a View. Request returns a changed
// copy, because an Op may be used several times; Response changes in place. Both see the messages of
// etcdserverpb; those that they do not know they leave alone.
type Rewriter interface {
	Request(m proto.Message) proto.Message
	Response(m proto.Message)
}

// View returns a client that shares c's connections, streams and lease keep-alives, and whose requests and
// responses go through rw. See package client/namespace.
func (c *Client) View(rw Rewriter) *Client {
	if c.view != nil {
		rw = stacked{outer: rw, inner: c.view}
	}
	return &Client{engine: c.engine, view: rw}
}

// stacked is a view of a view.
type stacked struct{ outer, inner Rewriter }

func (s stacked) Request(m proto.Message) proto.Message { return s.inner.Request(s.outer.Request(m)) }
func (s stacked) Response(m proto.Message)              { s.inner.Response(m); s.outer.Response(m) }
