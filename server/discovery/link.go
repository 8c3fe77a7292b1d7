package discovery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/dial"
)

// maxDoublings bounds the pause between rounds of attempts: 2 s, doubled so often at most.
const maxDoublings = 7

// link is a discovery service: the connections to its members, of which one is used until it fails.
type link struct {
	cfg   *config.Discovery
	lg    *zap.Logger
	conns []*conn
	used  int
}

// conn is the connection to one member.
type conn struct {
	*grpc.ClientConn
	kv    pb.KVClient
	watch pb.WatchClient
	token string // of the user, if any, once it is known
}

// connect prepares the connections; nothing is sent.
func connect(d *config.Discovery, lg *zap.Logger) (*link, error) {
	tlsConfig, err := clientTLS(d)
	if err != nil {
		return nil, err
	}
	l := &link{cfg: d, lg: lg}
	for _, ep := range d.Endpoints {
		target, creds := dial.Target(strings.TrimSpace(ep), tlsConfig)
		cc, err := grpc.NewClient(target, grpc.WithNoProxy(), grpc.WithTransportCredentials(creds),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: d.DialTimeout}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: d.KeepAliveTime, Timeout: d.KeepAliveTimeout}))
		if err != nil {
			l.close()
			return nil, fmt.Errorf("--discovery-endpoints: %w", err)
		}
		l.conns = append(l.conns, &conn{ClientConn: cc, kv: pb.NewKVClient(cc), watch: pb.NewWatchClient(cc)})
	}
	return l, nil
}

func (l *link) close() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// clientTLS is how to connect with TLS, nil: without, unless a URL says otherwise.
func clientTLS(d *config.Discovery) (*tls.Config, error) {
	files := d.CertFile != "" || d.KeyFile != "" || d.CAFile != ""
	if !files && d.InsecureTransport && !d.InsecureSkipVerify {
		return nil, nil
	}
	return dial.TLS{
		CertFile: d.CertFile, KeyFile: d.KeyFile, CAFile: d.CAFile, InsecureSkipVerify: d.InsecureSkipVerify,
	}.Config("discovery-")
}

// do calls the service until that works. It pauses when every member has failed, longer each time.
func (l *link) do(ctx context.Context, step string, f func(context.Context, *conn) error) error {
	for failed := 1; ; failed++ {
		err := l.call(ctx, l.cfg.RequestTimeout, f)
		if err == nil || ctx.Err() != nil || errors.As(err, new(dial.Denied)) {
			return err
		}
		l.lg.Warn("a request to the discovery service failed", zap.String("reason", step), zap.Error(err))
		if failed%len(l.conns) != 0 {
			continue
		}
		d := 2 * time.Second << min(failed/len(l.conns)-1, maxDoublings)
		l.lg.Warn("retry connecting to discovery service", zap.String("reason", step), zap.Duration("backoff", d))
		if err := pause(ctx, d); err != nil {
			return err
		}
	}
}

// call calls the member in use, as the user if there is one. If that fails the next one is in use. timeout 0: none.
func (l *link) call(ctx context.Context, timeout time.Duration, f func(context.Context, *conn) error) error {
	end := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		end, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	ctx, cancel := context.WithCancel(end) // ends a watch
	defer cancel()
	c := l.conns[l.used%len(l.conns)]
	err := l.authenticate(ctx, c)
	if err == nil {
		if c.token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, c.token)
		}
		err = f(ctx, c)
	}
	if err != nil {
		l.used++
		c.token = "" // it may be that it has expired
	}
	return err
}

// authenticate gets a token for the user, if one is configured and the service has users.
func (l *link) authenticate(ctx context.Context, c *conn) error {
	name, password := l.cfg.User, l.cfg.Password
	if password == "" {
		name, password, _ = strings.Cut(name, ":")
	}
	if name == "" || password == "" || c.token != "" {
		return nil
	}
	var err error
	c.token, err = dial.Authenticate(ctx, c, name, password)
	return err
}

// pause waits, or returns the error of ctx when that ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
