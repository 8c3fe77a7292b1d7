package leasing

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/grpcproxy/namespace"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// Next is what reads and writes go on to.
type Next interface {
	Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error)
	Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error)
	DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error)
	Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error)
	Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error)
}

// Config is what a KV needs.
type Config struct {
	Next   Next
	Prefix namespace.Prefix // of leasing keys
	Leases pb.LeaseClient
	// Watch calls f with the events of a range, from a revision on, until ctx ends or it fails.
	Watch func(ctx context.Context, key, end []byte, rev int64, f func([]*mvccpb.Event)) error
	// Anonymous says whether the client of a call has shown nothing that tells it from other clients.
	Anonymous func(ctx context.Context) bool
	Clock     clock.Clock
	Logger    *zap.Logger
}

const (
	leaseTTL   = 60 // seconds
	retryDelay = time.Second
	farewell   = 5 * time.Second // for the end of a lease
	// revokeBackoff is how long a key that somebody wanted to write is not acquired again.
	revokeBackoff = 2 * time.Second
	// pollInterval is how long a writer waits for the word that a leasing key is gone before it looks itself.
	pollInterval = 250 * time.Millisecond

	revoked = "REVOKE" // what is put into a leasing key whose owner is to give it up
)

// KV is described in the package comment.
type KV struct {
	cfg Config
	wg  sync.WaitGroup // of releases

	mu       sync.Mutex
	lease    int64     // 0: there is none, nothing is owned
	deadline time.Time // of the lease, at the earliest
	ctx      context.Context
	entries  map[string]*entry
	wanted   map[string]want
	waiting  map[string]map[chan struct{}]struct{} // writers that wait for a leasing key to go
}

// entry is a key that is owned.
type entry struct {
	rev     int64             // of the creation of the leasing key
	writers int               // under way
	gen     int64             // counts writes
	resp    *pb.RangeResponse // nil: is to be fetched
}

// want is somebody's wish to write a key that was owned.
type want struct {
	rev int64
	at  time.Time
}

// New makes a KV. It owns nothing unless Run is running.
func New(cfg Config) *KV {
	return &KV{cfg: cfg, entries: map[string]*entry{}, wanted: map[string]want{}, waiting: map[string]map[chan struct{}]struct{}{}}
}

// Run keeps a lease to own keys with, until ctx ends. It gives up all keys then.
func (k *KV) Run(ctx context.Context) {
	upstream.Again(ctx, k.cfg.Clock, k.session, func(err error) {
		k.cfg.Logger.Warn("no key can be owned at the moment", zap.Error(err))
	})
}

// session is the life of a lease.
func (k *KV) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := k.cfg.Clock.Now()
	grant, err := k.cfg.Leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: leaseTTL})
	if err != nil {
		return err
	}
	defer func() {
		k.end()
		cancel()
		k.wg.Wait()
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_, _ = k.cfg.Leases.LeaseRevoke(after, &pb.LeaseRevokeRequest{ID: grant.ID}) // deletes the leasing keys at once
	}()
	k.mu.Lock()
	k.lease, k.deadline, k.ctx = grant.ID, began.Add(time.Duration(grant.TTL)*time.Second), ctx
	k.mu.Unlock()
	ended := make(chan error, 2)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	key, end := k.cfg.Prefix.Interval(nil, []byte{0})
	next := grant.Header.GetRevision() + 1
	wg.Go(func() {
		ended <- k.insist(ctx, func() error {
			return k.cfg.Watch(ctx, key, end, next, func(events []*mvccpb.Event) {
				k.observe(events)
				next = events[len(events)-1].Kv.ModRevision + 1
			})
		})
	})
	wg.Go(func() { ended <- k.insist(ctx, func() error { return k.renew(ctx, grant.ID) }) })
	return <-ended
}

// insist calls f again when a member fails, as long as the lease is alive.
func (k *KV) insist(ctx context.Context, f func() error) error {
	for {
		err := f()
		k.mu.Lock()
		alive := k.alive()
		k.mu.Unlock()
		switch status.Code(err) {
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Internal:
		default:
			return err
		}
		if ctx.Err() != nil || !alive {
			return err
		}
		k.pause(ctx, pollInterval, nil)
	}
}

// renew renews the lease until ctx ends or that fails.
func (k *KV) renew(ctx context.Context, id int64) error {
	s, err := k.cfg.Leases.LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	t := k.cfg.Clock.NewTicker(leaseTTL * time.Second / 6)
	defer t.Stop()
	for {
		began := k.cfg.Clock.Now()
		if err := s.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			_, err = s.Recv() // says why
			return err
		}
		resp, err := s.Recv()
		if err != nil {
			return err
		}
		if resp.TTL <= 0 {
			return errors.New("the lease has expired")
		}
		k.mu.Lock()
		k.deadline = began.Add(time.Duration(resp.TTL) * time.Second)
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C():
		}
	}
}

// end gives up all keys.
func (k *KV) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lease, k.deadline = 0, time.Time{}
	clear(k.entries)
	clear(k.wanted)
	for key := range k.waiting {
		k.gone(key)
	}
}

// alive says whether the lease is, for certain. A tenth is left for clocks that run differently.
func (k *KV) alive() bool {
	return k.lease != 0 && k.cfg.Clock.Now().Before(k.deadline.Add(-leaseTTL*time.Second/10))
}

// gone wakes who waits for a leasing key to go.
func (k *KV) gone(key string) {
	for ch := range k.waiting[key] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// observe takes events of leasing keys.
func (k *KV) observe(events []*mvccpb.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, ev := range events {
		key := string(k.cfg.Prefix.Strip(ev.Kv.Key))
		switch {
		case ev.Type == mvccpb.Event_DELETE:
			if e := k.entries[key]; e != nil && e.rev < ev.Kv.ModRevision {
				delete(k.entries, key)
			}
			k.gone(key)
		case string(ev.Kv.Value) == revoked && ev.Kv.Lease == k.lease:
			k.wanted[key] = want{ev.Kv.ModRevision, k.cfg.Clock.Now()}
			k.release(key, ev.Kv.ModRevision)
		}
	}
	for key, w := range k.wanted {
		if k.cfg.Clock.Now().Sub(w.at) > revokeBackoff {
			delete(k.wanted, key)
		}
	}
}

// release gives up a key whose leasing key was made before a revision. Called under mu.
func (k *KV) release(key string, before int64) {
	if e := k.entries[key]; e != nil && e.rev < before {
		delete(k.entries, key)
	}
	if k.lease == 0 {
		return // the members delete it
	}
	ctx := k.ctx
	k.wg.Go(func() {
		lk := k.cfg.Prefix.Key([]byte(key))
		for ctx.Err() == nil {
			_, err := k.cfg.Next.Txn(ctx, &pb.TxnRequest{
				Compare: []*pb.Compare{olderThan(lk, nil, before)},
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: lk}}}},
			})
			if err == nil {
				return
			}
			k.pause(ctx, retryDelay, nil)
		}
	})
}

// olderThan compares the creation of all keys of a range with a revision. Keys that do not exist have revision 0.
func olderThan(key, end []byte, rev int64) *pb.Compare {
	return &pb.Compare{
		Key: key, RangeEnd: end, Target: pb.Compare_CREATE, Result: pb.Compare_LESS,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev},
	}
}

// pause waits for d, ctx, or early.
func (k *KV) pause(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := k.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
	case <-early:
	case <-ctx.Done():
	}
}

// Compact compacts.
func (k *KV) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return k.cfg.Next.Compact(ctx, r)
}
