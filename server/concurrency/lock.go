package concurrency

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/api/v3lockpb"
)

// errSessionExpired has etcd's text, which clients see.
var errSessionExpired = errors.New("mutex: session is expired")

// Lock is v3lockpb.Lock.
type Lock struct {
	v3lockpb.UnsafeLockServer
	queues *Queues
}

// NewLock makes the Lock service.
func NewLock(q *Queues) *Lock { return &Lock{queues: q} }

// Lock waits until the lease has the lock. When the call ends before, it gives its place up.
func (l *Lock) Lock(ctx context.Context, r *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	lease, err := l.queues.lease(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	prefix := prefixOf(r.Name)
	e, err := l.queues.join(ctx, prefix, nil, lease)
	if err != nil {
		return nil, err
	}
	if e.first {
		return &v3lockpb.LockResponse{Header: e.header, Key: e.key}, nil
	}
	if err := l.queues.wait(ctx, prefix, e.place); err != nil {
		leave, cancel := afterwards(ctx)
		defer cancel()
		_, _ = l.queues.kv.DeleteRange(leave, &pb.DeleteRangeRequest{Key: e.key}) // or the lease will
		return nil, err
	}
	// It may be that all before are gone, and this key with them.
	got, err := l.queues.kv.Range(ctx, &pb.RangeRequest{Key: e.key})
	if err != nil {
		return nil, err
	}
	if len(got.Kvs) == 0 {
		return nil, errSessionExpired
	}
	return &v3lockpb.LockResponse{Header: got.Header, Key: e.key}, nil
}

// Unlock deletes the key of a lock.
func (l *Lock) Unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	resp, err := l.queues.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: r.Key})
	if err != nil {
		return nil, err
	}
	return &v3lockpb.UnlockResponse{Header: resp.Header}, nil
}

// leaveTimeout bounds giving a place up after the caller has gone.
const leaveTimeout = 5 * time.Second

// afterwards is for what is to be done though the caller has gone. It keeps the caller's rights.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
}
