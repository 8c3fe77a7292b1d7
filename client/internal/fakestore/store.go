package fakestore

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// Store is the state that the members share.
type Store struct {
	mu     sync.Mutex
	cond   *sync.Cond // something changed
	rev    int64
	events [][]*mvccpb.Event // by revision
	oldest int64             // compact revision
	leases map[int64]*lease
	puts   map[string]int // how often each value was put, for at-most-once checks
}

type lease struct{ ttl, renewals int64 }

// NewStore returns an empty store at revision 1.
func NewStore() *Store {
	s := &Store{rev: 1, events: make([][]*mvccpb.Event, 2), leases: map[int64]*lease{}, puts: map[string]int{}}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// Rev returns the current revision.
func (s *Store) Rev() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// Puts returns how often a value was put, to whatever key.
func (s *Store) Puts(value string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts[value]
}

// Renewals returns how often a lease was renewed, or -1 if there is no such lease.
func (s *Store) Renewals(id int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[id]; l != nil {
		return l.renewals
	}
	return -1
}

// Put is a write from outside the test's client.
func (s *Store) Put(key, value string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.begin()
	t.put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	return t.end()
}

// Delete is a deletion from outside the test's client.
func (s *Store) Delete(key string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.begin()
	t.delete(&pb.DeleteRangeRequest{Key: []byte(key)})
	return t.end()
}

// Compact is a compaction from outside the test's client.
func (s *Store) Compact(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = rev
	s.cond.Broadcast()
}

// Revoke ends a lease, as its expiry would.
func (s *Store) Revoke(id int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[id] == nil {
		return false
	}
	delete(s.leases, id)
	t := s.begin()
	for _, kv := range s.at(s.rev) {
		if kv.Lease == id {
			t.delete(&pb.DeleteRangeRequest{Key: kv.Key})
		}
	}
	t.end()
	return true
}

// at is the state of the keys at a revision.
func (s *Store) at(rev int64) map[string]*mvccpb.KeyValue {
	m := map[string]*mvccpb.KeyValue{}
	for r := int64(0); r <= rev && r < int64(len(s.events)); r++ {
		apply(m, s.events[r])
	}
	return m
}

func apply(m map[string]*mvccpb.KeyValue, evs []*mvccpb.Event) {
	for _, ev := range evs {
		if ev.Type == mvccpb.Event_DELETE {
			delete(m, string(ev.Kv.Key))
		} else {
			m[string(ev.Kv.Key)] = ev.Kv
		}
	}
}

func within(key, from, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(key, from) >= 0
	default:
		return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
	}
}

func header(rev int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: rev, RaftTerm: 3}
}

// txn is one revision in the making.
type txn struct {
	s     *Store
	state map[string]*mvccpb.KeyValue
	evs   []*mvccpb.Event
}

func (s *Store) begin() *txn { return &txn{s: s, state: s.at(s.rev)} }

// end publishes the transaction, if it changed something, and returns the revision that is current then.
func (t *txn) end() int64 {
	if len(t.evs) > 0 {
		t.s.rev++
		t.s.events = append(t.s.events, t.evs)
		t.s.cond.Broadcast()
	}
	return t.s.rev
}

func (t *txn) rev() int64 {
	if len(t.evs) > 0 {
		return t.s.rev + 1
	}
	return t.s.rev
}

func (t *txn) put(r *pb.PutRequest) *pb.PutResponse {
	t.s.puts[string(r.Value)]++
	old := t.state[string(r.Key)]
	kv := &mvccpb.KeyValue{
		Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value), Lease: r.Lease,
		CreateRevision: t.s.rev + 1, ModRevision: t.s.rev + 1, Version: 1,
	}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	ev := []*mvccpb.Event{{Type: mvccpb.Event_PUT, Kv: kv, PrevKv: old}}
	apply(t.state, ev)
	t.evs = append(t.evs, ev...)
	resp := &pb.PutResponse{Header: header(t.s.rev + 1)}
	if r.PrevKv {
		resp.PrevKv = old
	}
	return resp
}

func (t *txn) delete(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{}
	for _, kv := range sorted(t.state) {
		if !within(kv.Key, r.Key, r.RangeEnd) {
			continue
		}
		resp.Deleted++
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, kv)
		}
		ev := []*mvccpb.Event{{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: kv.Key, ModRevision: t.s.rev + 1}, PrevKv: kv}}
		apply(t.state, ev)
		t.evs = append(t.evs, ev...)
	}
	resp.Header = header(t.rev())
	return resp
}

func sorted(m map[string]*mvccpb.KeyValue) []*mvccpb.KeyValue {
	var out []*mvccpb.KeyValue
	for _, kv := range m {
		out = append(out, kv)
	}
	slices.SortFunc(out, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return out
}

func (t *txn) get(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	state := t.state
	switch {
	case r.Revision > t.rev():
		return nil, rpctypes.ErrGRPCFutureRev
	case r.Revision > 0 && r.Revision < t.s.oldest:
		return nil, rpctypes.ErrGRPCCompacted
	case r.Revision > 0:
		state = t.s.at(r.Revision)
	}
	resp := &pb.RangeResponse{Header: header(t.rev())}
	for _, kv := range sorted(state) {
		if !within(kv.Key, r.Key, r.RangeEnd) {
			continue
		}
		resp.Count++
		if r.MaxCreateRevision > 0 && kv.CreateRevision > r.MaxCreateRevision ||
			r.MinModRevision > 0 && kv.ModRevision < r.MinModRevision {
			continue
		}
		kv = proto.CloneOf(kv)
		if r.KeysOnly {
			kv.Value = nil
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	sortBy(resp.Kvs, r.SortTarget, r.SortOrder)
	if r.CountOnly {
		resp.Kvs = nil
	}
	if r.Limit > 0 && int64(len(resp.Kvs)) > r.Limit {
		resp.Kvs, resp.More = resp.Kvs[:r.Limit], true
	}
	return resp, nil
}

func sortBy(kvs []*mvccpb.KeyValue, target pb.RangeRequest_SortTarget, order pb.RangeRequest_SortOrder) {
	if order == pb.RangeRequest_NONE {
		return
	}
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) (c int) {
		switch target {
		case pb.RangeRequest_CREATE:
			c = cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			c = cmp.Compare(a.ModRevision, b.ModRevision)
		case pb.RangeRequest_VERSION:
			c = cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_VALUE:
			c = bytes.Compare(a.Value, b.Value)
		default:
			c = bytes.Compare(a.Key, b.Key)
		}
		if order == pb.RangeRequest_DESCEND {
			c = -c
		}
		return c
	})
}

func (t *txn) txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Succeeded: true}
	for _, c := range r.Compare {
		if !t.holds(c) {
			resp.Succeeded = false
		}
	}
	ops := r.Success
	if !resp.Succeeded {
		ops = r.Failure
	}
	for _, op := range ops {
		o := &pb.ResponseOp{}
		switch q := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			g, err := t.get(q.RequestRange)
			if err != nil {
				return nil, err
			}
			o.Response = &pb.ResponseOp_ResponseRange{ResponseRange: g}
		case *pb.RequestOp_RequestPut:
			o.Response = &pb.ResponseOp_ResponsePut{ResponsePut: t.put(q.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			o.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: t.delete(q.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			n, err := t.txn(q.RequestTxn)
			if err != nil {
				return nil, err
			}
			o.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: n}
		}
		resp.Responses = append(resp.Responses, o)
	}
	resp.Header = header(t.rev())
	return resp, nil
}

func (t *txn) holds(c *pb.Compare) bool {
	kv := t.state[string(c.Key)]
	var d int
	switch u := c.TargetUnion.(type) {
	case *pb.Compare_Version:
		d = cmp.Compare(kv.GetVersion(), u.Version)
	case *pb.Compare_CreateRevision:
		d = cmp.Compare(kv.GetCreateRevision(), u.CreateRevision)
	case *pb.Compare_ModRevision:
		d = cmp.Compare(kv.GetModRevision(), u.ModRevision)
	case *pb.Compare_Lease:
		d = cmp.Compare(kv.GetLease(), u.Lease)
	case *pb.Compare_Value:
		if kv == nil {
			return false
		}
		d = bytes.Compare(kv.Value, u.Value)
	default:
		panic(fmt.Sprintf("compare %v", c))
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return d == 0
	case pb.Compare_NOT_EQUAL:
		return d != 0
	case pb.Compare_GREATER:
		return d > 0
	default:
		return d < 0
	}
}
