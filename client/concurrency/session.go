package concurrency

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
)

// DefaultTTL is a session's time to live in seconds, if no other is given.
const DefaultTTL = 60

// ErrSessionExpired says that the session's lease was lost, and everything bound to it with it.
var ErrSessionExpired = errors.New("session is expired")

// Session is a lease that is kept alive until the session is closed.
type Session struct {
	c     *client.Client
	ttl   int64
	alive *client.KeepAlive

	ctx  context.Context
	once sync.Once
	err  error // of the revocation
}

type sessionOptions struct {
	ttl   int64
	lease client.LeaseID
}

// SessionOption changes a session.
type SessionOption func(*sessionOptions)

// WithTTL sets the time to live, in seconds: how long what is bound to the session outlives its process at most.
func WithTTL(seconds int64) SessionOption {
	return func(o *sessionOptions) {
		if seconds > 0 {
			o.ttl = seconds
		}
	}
}

// WithLease makes the session of an existing lease, for instance the one that the process had before it restarted.
func WithLease(id client.LeaseID) SessionOption { return func(o *sessionOptions) { o.lease = id } }

// NewSession makes a session. ctx bounds the making, not the session, which lives until Close, Orphan or the end of
// the client.
func NewSession(ctx context.Context, c *client.Client, opts ...SessionOption) (*Session, error) {
	o := sessionOptions{ttl: DefaultTTL}
	for _, opt := range opts {
		opt(&o)
	}
	id := o.lease
	if id == client.NoLease {
		resp, err := c.Grant(ctx, o.ttl)
		if err != nil {
			return nil, err
		}
		id = client.LeaseID(resp.ID)
	}
	// The wait for the first renewal is ctx's, what follows is not.
	kctx, kcancel := context.WithCancel(c.Context())
	unbind := context.AfterFunc(ctx, kcancel)
	alive, err := c.KeepAlive(kctx, id)
	if !unbind() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		kcancel()
		return nil, err
	}
	s := &Session{c: c, ttl: o.ttl, alive: alive}
	sctx, cancel := context.WithCancelCause(c.Context())
	s.ctx = sctx
	go func() {
		<-alive.Done()
		cancel(fmt.Errorf("%w: %w", ErrSessionExpired, alive.Err()))
		kcancel()
	}()
	return s, nil
}

// Client returns the session's client.
func (s *Session) Client() *client.Client { return s.c }

// Lease returns the lease's ID.
func (s *Session) Lease() client.LeaseID { return s.alive.ID() }

// Done is closed when the lease is not kept alive any more.
func (s *Session) Done() <-chan struct{} { return s.alive.Done() }

// Context ends when the session does; its cause matches ErrSessionExpired.
func (s *Session) Context() context.Context { return s.ctx }

// Orphan ends the renewals and leaves the lease, and what is bound to it, to expire or to another holder.
func (s *Session) Orphan() { s.alive.Close() }

// Close ends the session and revokes its lease, which deletes what is bound to it.
func (s *Session) Close() error {
	s.once.Do(func() {
		s.Orphan()
		// If it takes longer than the time to live, the lease has expired anyway.
		ctx, cancel := context.WithTimeout(s.c.Context(), time.Duration(s.ttl)*time.Second)
		defer cancel()
		_, s.err = s.c.Revoke(ctx, s.Lease())
		if errors.Is(s.err, rpctypes.ErrLeaseNotFound) {
			s.err = nil
		}
	})
	return s.err
}

// within returns a context that ends with ctx or with the session.
func (s *Session) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// afterwards returns a context for clean-up after a caller's own has ended.
func (s *Session) afterwards() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.c.Context(), min(time.Duration(s.ttl)*time.Second, 10*time.Second))
}

// repeat runs f until its outcome is known.
func repeat(ctx context.Context, f func() error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := f()
		if !errors.Is(err, client.ErrUncertain) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}
