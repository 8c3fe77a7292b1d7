package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	// suspectFor is how long an endpoint that answered "unavailable" is passed over while there are others. It
	// doubles with every further failure up to suspectMax, and one success ends it.
	suspectFor = 250 * time.Millisecond
	suspectMax = 8 * time.Second
)

// link is one connection to one endpoint.
type link struct {
	endpoint string
	conn     *grpc.ClientConn
	cancel   context.CancelFunc

	suspectUntil atomic.Int64 // unix nanoseconds; 0 while healthy
	failures     atomic.Int32
	lastErr      atomic.Pointer[error] // why the last attempt to connect failed
}

func (l *link) suspect() bool {
	until := l.suspectUntil.Load()
	return until != 0 && time.Now().UnixNano() < until
}

func (l *link) failed() {
	n := min(l.failures.Add(1)-1, 5)
	l.suspectUntil.Store(time.Now().Add(min(suspectFor<<n, suspectMax)).UnixNano())
}

func (l *link) succeeded() {
	if l.suspectUntil.Load() != 0 {
		l.failures.Store(0)
		l.suspectUntil.Store(0)
	}
}

// pool keeps connections to all endpoints open and deals calls out over those that are ready, in turn. Picking
// takes no lock: the ready links are an immutable slice behind a pointer.
type pool struct {
	cfg *Config
	log *zap.Logger
	ctx context.Context // ends with the client
	wg  sync.WaitGroup

	ready  atomic.Pointer[[]*link]
	leader atomic.Pointer[link] // set only with Config.PreferLeader
	turn   atomic.Uint32

	mu        sync.Mutex
	endpoints []string
	links     []*link
	changed   chan struct{} // closed and replaced when ready changes
}

func newPool(ctx context.Context, cfg *Config, log *zap.Logger) *pool {
	p := &pool{cfg: cfg, log: log, ctx: ctx, changed: make(chan struct{})}
	p.ready.Store(&[]*link{})
	p.turn.Store(rand.Uint32()) // clients that start together should not all begin with the same member
	return p
}

// set makes the given endpoints the pool's. Links of endpoints that stay are kept.
func (p *pool) set(endpoints []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var links []*link
	for range max(1, p.cfg.Connections) {
		for _, ep := range endpoints {
			i := slices.IndexFunc(p.links, func(l *link) bool { return l.endpoint == ep })
			if i >= 0 {
				links = append(links, p.links[i])
				p.links = slices.Delete(p.links, i, i+1)
				continue
			}
			l, err := p.open(ep)
			if err != nil {
				for _, l := range links {
					if !slices.Contains(p.links, l) {
						p.links = append(p.links, l) // what was there stays usable
					}
				}
				return err
			}
			links = append(links, l)
		}
	}
	for _, l := range p.links {
		l.close()
	}
	p.links, p.endpoints = links, slices.Clone(endpoints)
	p.publishLocked()
	return nil
}

func (p *pool) open(ep string) (*link, error) {
	ctx, cancel := context.WithCancel(p.ctx)
	l := &link{endpoint: ep, cancel: cancel}
	conn, err := p.dial(ep, l)
	if err != nil {
		cancel()
		return nil, err
	}
	l.conn = conn
	conn.Connect()
	p.wg.Go(func() { p.follow(ctx, l) })
	return l, nil
}

// follow keeps a link connected and the ready set true to its state.
func (p *pool) follow(ctx context.Context, l *link) {
	for {
		s := l.conn.GetState()
		if s == connectivity.Idle {
			l.conn.Connect()
		}
		p.mu.Lock()
		p.publishLocked()
		p.mu.Unlock()
		if !l.conn.WaitForStateChange(ctx, s) {
			return
		}
	}
}

// publishLocked rebuilds the ready set if it changed. The caller holds mu.
func (p *pool) publishLocked() {
	var ready []*link
	for _, l := range p.links {
		if l.conn.GetState() == connectivity.Ready {
			ready = append(ready, l)
		}
	}
	if slices.Equal(ready, *p.ready.Load()) {
		return
	}
	p.ready.Store(&ready)
	if ld := p.leader.Load(); ld != nil && !slices.Contains(ready, ld) {
		p.leader.CompareAndSwap(ld, nil)
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// pick returns a ready link: the leader's if the client prefers it, else the next in turn that is neither avoid
// nor under suspicion, else any. While none is ready it waits for ctx.
func (p *pool) pick(ctx context.Context, avoid *link) (*link, error) {
	if l := p.try(avoid); l != nil {
		return l, nil
	}
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if l := p.try(avoid); l != nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, p.unreachable(ctx.Err())
		case <-p.ctx.Done():
			return nil, ErrClosed
		}
	}
}

func (p *pool) try(avoid *link) *link {
	ready := *p.ready.Load()
	n := uint32(len(ready))
	if n == 0 {
		return nil
	}
	if l := p.leader.Load(); l != nil && l != avoid && !l.suspect() {
		return l
	}
	if n == 1 {
		return ready[0]
	}
	start := p.turn.Add(1)
	var fallback *link
	for i := range n {
		l := ready[(start+i)%n]
		other := avoid == nil || l.endpoint != avoid.endpoint
		if other && !l.suspect() {
			return l
		}
		if fallback == nil || other {
			fallback = l
		}
	}
	return fallback
}

// unreachable is err with the reasons why no endpoint could be reached.
func (p *pool) unreachable(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if le := l.lastErr.Load(); le != nil {
			return &lastError{ctx: err, last: fmt.Errorf("endpoint %s: %w", l.endpoint, *le)}
		}
	}
	return err
}

// byEndpoint returns the pool's first link to ep, or nil.
func (p *pool) byEndpoint(ep string) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if l.endpoint == ep {
			return l
		}
	}
	return nil
}

func (p *pool) size() int { return len(*p.ready.Load()) }

func (p *pool) close() {
	p.mu.Lock()
	for _, l := range p.links {
		l.close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (l *link) close() {
	l.cancel()
	l.conn.Close()
}

// dial prepares a connection to one endpoint. It does not connect yet.
func (p *pool) dial(ep string, l *link) (*grpc.ClientConn, error) {
	a, err := parseEndpoint(ep)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: p.cfg.DialTimeout}
	creds := insecure.NewCredentials()
	if a.security == securityRequired || a.security == securityOptional && p.cfg.TLS != nil {
		tc := p.cfg.TLS
		if tc == nil {
			tc = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		creds = &notingCreds{TransportCredentials: credentials.NewTLS(tc), link: l}
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, a.network, a.addr)
			l.note(err)
			return c, err
		}),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: p.cfg.DialTimeout,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallSendMsgSize(p.cfg.MaxSendBytes),
			grpc.MaxCallRecvMsgSize(p.cfg.MaxRecvBytes),
		),
	}
	if a.network == "unix" && (p.cfg.TLS == nil || p.cfg.TLS.ServerName == "") {
		opts = append(opts, grpc.WithAuthority(a.serverName))
	}
	if p.cfg.KeepAliveTime > 0 {
		opts = append(opts, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: p.cfg.KeepAliveTime, Timeout: p.cfg.KeepAliveTimeout, PermitWithoutStream: p.cfg.KeepAliveIdle,
		}))
	}
	opts = append(opts, p.cfg.DialOptions...)
	return grpc.NewClient("passthrough:///"+a.addr, opts...)
}

func (l *link) note(err error) {
	if err == nil {
		l.lastErr.Store(nil)
		return
	}
	l.lastErr.Store(&err)
}

// notingCreds remembers why a TLS handshake failed.
type notingCreds struct {
	credentials.TransportCredentials
	link *link
}

func (c *notingCreds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	c.link.note(err)
	return conn, info, err
}

func (c *notingCreds) Clone() credentials.TransportCredentials {
	return &notingCreds{TransportCredentials: c.TransportCredentials.Clone(), link: c.link}
}
