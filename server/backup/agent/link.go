package agent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/server/dial"
)

const (
	dialTimeout = 5 * time.Second
	maxMessage  = 1<<31 - 1 // bytes: members bound their entries themselves
)

// link is the connections to the members.
type link struct {
	user, password string
	conns          []*conn
}

// conn is the connection to a member.
type conn struct {
	*grpc.ClientConn
	endpoint string

	mu    sync.Mutex
	token string
}

// connect prepares the connections; nothing is sent.
func connect(cfg *Config) (*link, error) {
	l := &link{user: cfg.User, password: cfg.Password}
	for _, ep := range cfg.Endpoints {
		ep = strings.TrimSpace(ep)
		target, creds := dial.Target(ep, cfg.TLS)
		cc, err := grpc.NewClient(target, grpc.WithNoProxy(), grpc.WithTransportCredentials(creds),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
				MinConnectTimeout: dialTimeout,
			}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
		if err != nil {
			l.close()
			return nil, describe(ep, err)
		}
		l.conns = append(l.conns, &conn{ClientConn: cc, endpoint: ep})
	}
	return l, nil
}

func (l *link) close() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// as returns a context for calls as the user, if there is one. A user that is refused is fatal.
func (l *link) as(ctx context.Context, c *conn) (context.Context, error) {
	if l.user == "" {
		return ctx, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == "" {
		tctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		token, err := dial.Authenticate(tctx, c, l.user, l.password)
		if errors.As(err, new(dial.Denied)) {
			return nil, fatal{err}
		}
		if err != nil {
			return nil, err
		}
		c.token = token
	}
	if c.token == "" {
		return ctx, nil
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, c.token), nil
}

// failed forgets a token with which a call failed: it may have expired, or be older than a change of rights.
func (c *conn) failed(err error) {
	switch status.Code(err) {
	case codes.OutOfRange, codes.Aborted, codes.FailedPrecondition, codes.Unimplemented:
		return
	}
	c.mu.Lock()
	c.token = ""
	c.mu.Unlock()
}
