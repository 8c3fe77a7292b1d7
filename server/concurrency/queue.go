package concurrency

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keelson-io/keelson/mvcc/watch"
)

// defaultTTL is that of a lease which a caller did not bring, in seconds.
const defaultTTL = 60

// KV is the member's keys.
type KV interface {
	Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error)
	DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error)
	Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error)
}

// Leases makes leases.
type Leases interface {
	LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error)
}

// Watches gives streams of watches.
type Watches interface{ NewStream() *watch.Stream }

// Queues is the member as locks and elections see it. Calls have the caller's context, and so the caller's rights.
type Queues struct {
	kv      KV
	leases  Leases
	watches Watches
}

// New makes Queues.
func New(kv KV, leases Leases, watches Watches) *Queues { return &Queues{plainKV{kv}, leases, watches} }

// place is a lease's key in a queue.
type place struct {
	key []byte
	rev int64 // creation revision
}

// prefixOf is what the keys of a queue begin with.
func prefixOf(name []byte) []byte { return append(bytes.Clone(name), '/') }

// endOf is the first key after all that begin with prefix, which ends in a slash.
func endOf(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	return end
}

// firstOf asks for the key of a queue that was created first.
func firstOf(prefix []byte) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: prefix, RangeEnd: endOf(prefix), Limit: 1, SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND,
	}
}

func (q *Queues) lease(ctx context.Context, id int64) (int64, error) {
	if id != 0 {
		return id, nil
	}
	resp, err := q.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: defaultTTL})
	if err != nil {
		return 0, plain(err)
	}
	return resp.ID, nil
}

// entry is the outcome of joining a queue.
type entry struct {
	place
	header *pb.ResponseHeader
	old    *mvccpb.KeyValue // the key, if it was there before
	first  bool
}

// join puts the lease's key into the queue, or finds it there.
func (q *Queues) join(ctx context.Context, prefix, value []byte, lease int64) (*entry, error) {
	key := fmt.Appendf(bytes.Clone(prefix), "%x", lease)
	owner := opRange(firstOf(prefix))
	resp, err := q.kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(key, 0)},
		Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: lease}}}, owner,
		},
		Failure: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: key}), owner},
	})
	if err != nil {
		return nil, err
	}
	e := &entry{place: place{key, resp.Header.Revision}, header: resp.Header}
	if !resp.Succeeded {
		e.old = resp.Responses[0].GetResponseRange().Kvs[0]
		e.rev = e.old.CreateRevision
	}
	kvs := resp.Responses[1].GetResponseRange().Kvs
	e.first = len(kvs) == 0 || kvs[0].CreateRevision == e.rev
	return e, nil
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// createdAt holds if key exists since a revision; 0: if it does not exist.
func createdAt(key []byte, rev int64) *pb.Compare {
	return &pb.Compare{
		Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev},
	}
}

// wait returns when no key of the queue was created before p.
func (q *Queues) wait(ctx context.Context, prefix []byte, p place) error {
	for {
		resp, err := q.kv.Range(ctx, &pb.RangeRequest{
			Key: prefix, RangeEnd: endOf(prefix), Limit: 1, SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_DESCEND,
			MaxCreateRevision: p.rev - 1,
		})
		if err != nil || len(resp.Kvs) == 0 {
			return err
		}
		before := resp.Kvs[0].Key
		_, err = q.next(ctx, watch.Request{Key: before, StartRev: resp.Header.Revision + 1, NoPut: true})
		if err != nil && !errors.Is(err, errCompacted) { // compacted: look again
			return err
		}
	}
}

// errCompacted means that the revision to watch from is gone.
var errCompacted = errors.New("compacted")

// next waits for the next events of a watch.
func (q *Queues) next(ctx context.Context, r watch.Request) (watch.Response, error) {
	s := q.watches.NewStream()
	defer s.Close()
	if err := s.Watch(ctx, r); err != nil {
		return watch.Response{}, err
	}
	return nextOf(ctx, s)
}

// nextOf waits for the next events of a stream with one watch.
func nextOf(ctx context.Context, s *watch.Stream) (watch.Response, error) {
	for {
		resp, err := s.Next(ctx)
		switch {
		case err != nil || len(resp.Events) > 0:
			return resp, err
		case resp.CompactRev != 0:
			return resp, errCompacted
		case resp.Canceled:
			return resp, errors.New(resp.Reason)
		}
	}
}
