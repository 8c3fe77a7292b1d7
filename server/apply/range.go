package apply

import (
	"bytes"
	"math"
	"slices"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keelson-io/keelson/mvcc"
)

// RangeReply is the outcome of a range request, still in stored form. Its key-values alias the reader's memory and are
// valid until the reader is closed.
type RangeReply struct {
	KVs      []mvcc.KV // in the order asked for, cut to the limit
	Count    int64     // keys in the range, not cut to the limit
	Rev      int64     // current revision of the reader: the header's revision
	More     bool      // there were more keys than the limit
	KeysOnly bool      // values are to be left out
}

// Range evaluates a range request against a reader. Errors: mvcc.ErrCompacted, mvcc.ErrFutureRev.
func Range(rd mvcc.Reader, r *pb.RangeRequest) (*RangeReply, error) {
	res, err := rd.Range(r.Key, r.RangeEnd, mvcc.RangeOptions{Rev: r.Revision, Limit: fetchLimit(r), CountOnly: r.CountOnly})
	if err != nil {
		return nil, err
	}
	kvs := filterKVs(res.KVs, r)
	sortKVs(kvs, r)
	reply := &RangeReply{KVs: kvs, Count: res.Count, Rev: res.Rev, KeysOnly: r.KeysOnly}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		reply.KVs, reply.More = kvs[:r.Limit], true
	}
	return reply, nil
}

// fetchLimit is how many keys the store must deliver: one more than asked for, to know whether there are more; all of
// them when they are to be filtered or sorted first.
func fetchLimit(r *pb.RangeRequest) int64 {
	if r.Limit <= 0 || !DefaultOrder(r) || HasRevisionFilters(r) {
		return 0
	}
	if r.Limit == math.MaxInt64 {
		return r.Limit
	}
	return r.Limit + 1
}

// DefaultOrder says whether the order asked for is the store's own: by key, ascending.
func DefaultOrder(r *pb.RangeRequest) bool {
	return r.SortOrder == pb.RangeRequest_NONE ||
		(r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND)
}

// HasRevisionFilters says whether the request bounds the revisions of the keys it wants.
func HasRevisionFilters(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

func filterKVs(kvs []mvcc.KV, r *pb.RangeRequest) []mvcc.KV {
	if !HasRevisionFilters(r) {
		return kvs
	}
	outside := func(v, lo, hi int64) bool { return lo != 0 && v < lo || hi != 0 && v > hi }
	return slices.DeleteFunc(kvs, func(kv mvcc.KV) bool {
		f := kv.Parse()
		return outside(f.ModRev, r.MinModRevision, r.MaxModRevision) ||
			outside(f.CreateRev, r.MinCreateRevision, r.MaxCreateRevision)
	})
}

// sortKVs orders by another field than the key. Ties fall as they fall in etcd: the same algorithm over the same input.
func sortKVs(kvs []mvcc.KV, r *pb.RangeRequest) {
	order := r.SortOrder
	if r.SortTarget != pb.RangeRequest_KEY && order == pb.RangeRequest_NONE {
		order = pb.RangeRequest_ASCEND
	}
	if order == pb.RangeRequest_NONE || (r.SortTarget == pb.RangeRequest_KEY && order == pb.RangeRequest_ASCEND) {
		return
	}
	s := &kvSorter{kvs: kvs, fields: make([]mvcc.Fields, len(kvs)), compare: comparators[r.SortTarget]}
	for i, kv := range kvs {
		s.fields[i] = kv.Parse()
	}
	if order == pb.RangeRequest_DESCEND {
		sort.Sort(sort.Reverse(s))
	} else {
		sort.Sort(s)
	}
}

var comparators = map[pb.RangeRequest_SortTarget]func(a, b *mvcc.Fields) int{
	pb.RangeRequest_KEY:     func(a, b *mvcc.Fields) int { return bytes.Compare(a.Key, b.Key) },
	pb.RangeRequest_VERSION: func(a, b *mvcc.Fields) int { return compare64(a.Version, b.Version) },
	pb.RangeRequest_CREATE:  func(a, b *mvcc.Fields) int { return compare64(a.CreateRev, b.CreateRev) },
	pb.RangeRequest_MOD:     func(a, b *mvcc.Fields) int { return compare64(a.ModRev, b.ModRev) },
	pb.RangeRequest_VALUE:   func(a, b *mvcc.Fields) int { return bytes.Compare(a.Value, b.Value) },
}

type kvSorter struct {
	kvs     []mvcc.KV
	fields  []mvcc.Fields
	compare func(a, b *mvcc.Fields) int
}

func (s *kvSorter) Len() int           { return len(s.kvs) }
func (s *kvSorter) Less(i, j int) bool { return s.compare(&s.fields[i], &s.fields[j]) < 0 }
func (s *kvSorter) Swap(i, j int) {
	s.kvs[i], s.kvs[j] = s.kvs[j], s.kvs[i]
	s.fields[i], s.fields[j] = s.fields[j], s.fields[i]
}

// Message is the reply as a message that outlives the reader.
func (r *RangeReply) Message() *pb.RangeResponse {
	return &pb.RangeResponse{
		Header: &pb.ResponseHeader{Revision: r.Rev},
		Kvs:    keyValues(r.KVs, r.KeysOnly),
		More:   r.More,
		Count:  r.Count,
	}
}

// keyValues copies stored key-values into messages. The copies share one allocation for all structs and one per key-value
// for its bytes.
func keyValues(kvs []mvcc.KV, keysOnly bool) []*mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	structs := make([]mvccpb.KeyValue, len(kvs))
	out := make([]*mvccpb.KeyValue, len(kvs))
	for i, kv := range kvs {
		f := mvcc.KV(bytes.Clone(kv)).Parse()
		m := &structs[i]
		m.Key, m.CreateRevision, m.ModRevision, m.Version, m.Lease = f.Key, f.CreateRev, f.ModRev, f.Version, f.Lease
		if !keysOnly {
			m.Value = f.Value
		}
		out[i] = m
	}
	return out
}
