package rpc

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// Quarantine keeps a member from serving data that are known to be wrong. What an operator needs is served: status, members,
// alarms, logins, hashes, and what puts it right.
type Quarantine struct {
	on      atomic.Bool
	mu      sync.Mutex
	streams map[*leaderStream]struct{}
}

// served are the services that give no data away, by the beginnings of their methods.
var served = []string{
	"/etcdserverpb.Maintenance/", "/etcdserverpb.Cluster/", "/etcdserverpb.Auth/", "/grpc.health.", "/keelson.integrity.", "/keelson.insight.",
}

// refuses says whether a method is refused in quarantine. A copy of wrong data must not become a backup.
func refuses(method string) bool {
	if method == pb.Maintenance_Snapshot_FullMethodName {
		return true
	}
	for _, s := range served {
		if strings.HasPrefix(method, s) {
			return false
		}
	}
	return true
}

// Set begins or ends quarantine. Streams that are open are ended when it begins.
func (q *Quarantine) Set(on bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.on.Store(on)
	if !on {
		return
	}
	for s := range q.streams {
		s.cancel(rpctypes.ErrGRPCCorrupt)
	}
	clear(q.streams)
}

// check refuses a call in quarantine.
func (q *Quarantine) check(method string) error {
	if q != nil && q.on.Load() && refuses(method) {
		return rpctypes.ErrGRPCCorrupt
	}
	return nil
}

// track gives a stream a context that ends when quarantine begins. done must be called when the stream ends.
func (q *Quarantine) track(method string, ss grpc.ServerStream) (_ grpc.ServerStream, done func(), err error) {
	if q == nil || !refuses(method) {
		return ss, func() {}, nil
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	s := &leaderStream{ServerStream: ss, ctx: &causeContext{ctx}, cancel: cancel}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.on.Load() {
		cancel(nil)
		return nil, nil, rpctypes.ErrGRPCCorrupt
	}
	if q.streams == nil {
		q.streams = map[*leaderStream]struct{}{}
	}
	q.streams[s] = struct{}{}
	return s, func() {
		q.mu.Lock()
		delete(q.streams, s)
		q.mu.Unlock()
		cancel(nil)
	}, nil
}
