package client

import (
	"context"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// class says when a call may be repeated.
type class uint8

const (
	// read: repeating does no harm. Retried on every "unavailable".
	read class = iota
	// write: retried only when it is certain that the server never had it.
	write
)

const (
	retryPause    = 25 * time.Millisecond // first pause once every endpoint was tried; doubles
	retryPauseMax = 500 * time.Millisecond
)

// callState is what one attempt hands to grpc, kept for the next call.
type callState struct {
	peer peer.Peer
	opts []grpc.CallOption
}

func newCallState() *callState {
	s := &callState{}
	s.opts = []grpc.CallOption{grpc.StaticMethod(), grpc.Peer(&s.peer)}
	return s
}

// sent says whether the last attempt got as far as a stream on a connection. grpc fills the peer in only then, and
// when it repeats an attempt itself, the server has said that it did not process the first one.
func (s *callState) sent() bool { return s.peer.Addr != nil }

// unary makes one call, on one endpoint after the other if need be.
func (c *Client) unary(ctx context.Context, method string, req, resp proto.Message, cl class) error {
	if c.view != nil {
		req = c.view.Request(req)
	}
	if err := c.invoke(ctx, method, req, resp, cl); err != nil {
		return err
	}
	if c.view != nil {
		c.view.Response(resp)
	}
	return nil
}

func (e *engine) invoke(ctx context.Context, method string, req, resp proto.Message, cl class) error {
	st := e.calls.Get().(*callState)
	defer e.calls.Put(st)
	var (
		avoid *link
		last  error
	)
	for attempt := 0; ; attempt++ {
		l, err := e.pool.pick(ctx, avoid)
		if err != nil {
			return withLast(err, last)
		}
		st.peer = peer.Peer{}
		err = l.conn.Invoke(e.outgoing(ctx), method, req, resp, st.opts...)
		if err == nil {
			l.succeeded()
			return nil
		}
		retry, rerr := e.judge(ctx, l, st, err, cl, attempt)
		if !retry {
			return withLast(rerr, last)
		}
		last, avoid = rerr, l
		if err := e.pause(ctx, attempt); err != nil {
			return withLast(err, last)
		}
	}
}

// judge decides what a failed attempt means: to try again, or the error to return.
func (e *engine) judge(ctx context.Context, l *link, st *callState, err error, cl class, attempt int) (retry bool, _ error) {
	terr := translate(ctx, err)
	if e.ctx.Err() != nil {
		return false, e.seal(ErrClosed, st, err, cl)
	}
	if ctx.Err() != nil {
		return false, e.seal(terr, st, err, cl)
	}
	if status.Code(err) == codes.Unavailable {
		l.failed()
	}
	safe := false
	switch {
	case !st.sent():
		// The connection went away before the call was on it.
		safe = status.Code(err) == codes.Unavailable
	case isStaleToken(err) && e.cfg.Username != "" && attempt < 3:
		if aerr := e.authenticate(ctx); aerr != nil {
			return false, aerr
		}
		safe = true
	case refusedByLearner(err) && e.pool.size() > 1:
		// Refused at the door. A voting member will take it.
		l.failed()
		safe = true
	case cl == read:
		safe = status.Code(err) == codes.Unavailable
	}
	if safe && attempt < e.cfg.MaxRetries {
		e.log.Debug("call failed, trying again", zap.String("endpoint", l.endpoint), zap.Int("attempt", attempt), zap.Error(err))
		return true, terr
	}
	return false, e.seal(terr, st, err, cl)
}

// seal marks terr as uncertain if it ends a write that may have happened.
func (e *engine) seal(terr error, st *callState, err error, cl class) error {
	if cl == write && st.sent() && !outcomeKnown(err) {
		return &uncertainError{terr}
	}
	return terr
}

// pause waits before the next attempt: not at all while there are endpoints that were not tried yet.
func (e *engine) pause(ctx context.Context, attempt int) error {
	if attempt+1 < e.pool.size() {
		return nil
	}
	return e.sleep(ctx, backoffFor(attempt))
}

// backoffFor is the pause after the attempt'th failure, with up to a quarter of jitter.
func backoffFor(attempt int) time.Duration {
	d := min(retryPause<<min(attempt, 10), retryPauseMax)
	return d - time.Duration(rand.Int64N(int64(d)/4))
}

func (e *engine) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return ErrClosed
	}
}

func withLast(err, last error) error {
	if last == nil || err == last {
		return err
	}
	if err == context.Canceled || err == context.DeadlineExceeded {
		return &lastError{ctx: err, last: last}
	}
	return err
}

// outgoing adds the client's metadata to ctx. Without metadata of the caller's own, a map shared by all calls is used.
func (e *engine) outgoing(ctx context.Context) context.Context {
	md := *e.md.Load()
	own, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		return metadata.NewOutgoingContext(ctx, md)
	}
	for k, v := range md {
		own[k] = v // FromOutgoingContext returned a copy
	}
	return metadata.NewOutgoingContext(ctx, own)
}

func (e *engine) setToken(token string) {
	md := metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, version.APIVersion)
	if token != "" {
		md.Set(rpctypes.TokenFieldNameGRPC, token)
	}
	e.md.Store(&md)
}

// authenticate gets a token for the configured user. A cluster without authentication needs none.
func (e *engine) authenticate(ctx context.Context) error {
	before := e.md.Load()
	e.authMu.Lock()
	defer e.authMu.Unlock()
	if e.md.Load() != before {
		return nil // another call did it meanwhile
	}
	l, err := e.pool.pick(ctx, nil)
	if err != nil {
		return err
	}
	plain := metadata.NewOutgoingContext(ctx, metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, version.APIVersion))
	resp, err := pb.NewAuthClient(l.conn).Authenticate(plain, &pb.AuthenticateRequest{Name: e.cfg.Username, Password: e.cfg.Password})
	err = translate(ctx, err)
	switch {
	case err == nil:
		e.setToken(resp.Token)
	case err == rpctypes.ErrAuthNotEnabled:
		e.setToken("")
	default:
		return err
	}
	return nil
}

// RequireLeader returns a context whose calls fail with rpctypes.ErrNoLeader on a member that has lost its
// leader, instead of waiting there. Watches and keep-alives always do so, and move to another member.
func RequireLeader(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	return metadata.NewOutgoingContext(ctx, md)
}

// requiresLeader says whether ctx came from RequireLeader.
func requiresLeader(ctx context.Context) bool {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		return false
	}
	v := md.Get(rpctypes.MetadataRequireLeaderKey)
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}
