package client

import (
	"errors"
	"io"
	"unsafe"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Op is one prepared operation, for transactions and for Do. It may be used several times.
type Op struct{ req *pb.RequestOp }

// OpPut prepares a put. The value may be a string or bytes; bytes must not change while the Op is in use.
func OpPut[V ~string | ~[]byte](key string, value V, opts ...PutOption) Op {
	var v []byte
	switch any(value).(type) {
	case string:
		v = bytesOf(string(value))
	default:
		v = []byte(value)
	}
	return Op{&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: newPut(bytesOf(key), v, opts)}}}
}

// OpGet prepares a read.
func OpGet(key string, opts ...GetOption) Op {
	return Op{&pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: newGet(bytesOf(key), opts)}}}
}

// OpDelete prepares a deletion.
func OpDelete(key string, opts ...DeleteOption) Op {
	return Op{&pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: newDelete(bytesOf(key), opts)}}}
}

// OpTxn prepares a transaction, which may be nested in another.
func OpTxn(cmps []Cmp, thenOps, elseOps []Op) Op {
	return Op{&pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
		Compare: appendCmps(nil, cmps), Success: appendOps(nil, thenOps), Failure: appendOps(nil, elseOps),
	}}}}
}

func appendOps(dst []*pb.RequestOp, ops []Op) []*pb.RequestOp {
	for _, op := range ops {
		dst = append(dst, op.req)
	}
	return dst
}

func newPut(key, value []byte, opts []PutOption) *pb.PutRequest {
	r := &pb.PutRequest{Key: key, Value: value}
	for _, o := range opts {
		o.applyPut(r)
	}
	return r
}

func newGet(key []byte, opts []GetOption) *pb.RangeRequest {
	r := &pb.RangeRequest{Key: key}
	for _, o := range opts {
		o.applyGet(r)
	}
	return r
}

func newDelete(key []byte, opts []DeleteOption) *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: key}
	for _, o := range opts {
		o.applyDelete(r)
	}
	return r
}

// Options say by their types which calls they are for.
type (
	// PutOption changes a put.
	PutOption interface{ applyPut(*pb.PutRequest) }
	// GetOption changes a read.
	GetOption interface{ applyGet(*pb.RangeRequest) }
	// DeleteOption changes a deletion.
	DeleteOption interface{ applyDelete(*pb.DeleteRangeRequest) }
	// WatchOption changes a watch.
	WatchOption interface{ applyWatch(*Watcher) }
	// RangeOption makes a range of a key, for reads, deletions and watches.
	RangeOption interface {
		GetOption
		DeleteOption
		WatchOption
	}
)

// rangeOption computes key and range end from the key.
type rangeOption func(key []byte) (from, end []byte)

func (o rangeOption) applyGet(r *pb.RangeRequest)          { r.Key, r.RangeEnd = o(r.Key) }
func (o rangeOption) applyDelete(r *pb.DeleteRangeRequest) { r.Key, r.RangeEnd = o(r.Key) }
func (o rangeOption) applyWatch(w *Watcher)                { w.req.Key, w.req.RangeEnd = o(w.req.Key) }

// WithPrefix is all keys that begin with the key; the empty key is a prefix of all.
func WithPrefix() RangeOption { return rangeOption(prefixRange) }

// WithRange is all keys from the key on, up to end and without it.
func WithRange(end string) RangeOption {
	return rangeOption(func(key []byte) ([]byte, []byte) { return key, []byte(end) })
}

// WithFromKey is all keys from the key on.
func WithFromKey() RangeOption {
	return rangeOption(func(key []byte) ([]byte, []byte) {
		if len(key) == 0 {
			key = []byte{0}
		}
		return key, []byte{0}
	})
}

func prefixRange(key []byte) ([]byte, []byte) {
	if len(key) == 0 {
		return []byte{0}, []byte{0}
	}
	return key, prefixEnd(key)
}

// prefixEnd is the first key after all that begin with prefix, or "\x00" (no end) if there is none.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}

// PrefixEnd returns the range end that WithPrefix uses.
func PrefixEnd(prefix string) string { return string(prefixEnd([]byte(prefix))) }

type putOption func(*pb.PutRequest)

func (o putOption) applyPut(r *pb.PutRequest) { o(r) }

// WithLease attaches the key to a lease: it is deleted when the lease expires or is revoked.
func WithLease(id LeaseID) PutOption {
	return putOption(func(r *pb.PutRequest) { r.Lease = int64(id) })
}

// WithIgnoreValue keeps the key's value, which must exist, and changes only its lease.
func WithIgnoreValue() PutOption { return putOption(func(r *pb.PutRequest) { r.IgnoreValue = true }) }

// WithIgnoreLease keeps the key's lease. The key must exist.
func WithIgnoreLease() PutOption { return putOption(func(r *pb.PutRequest) { r.IgnoreLease = true }) }

type getOption func(*pb.RangeRequest)

func (o getOption) applyGet(r *pb.RangeRequest) { o(r) }

// WithLimit returns at most n keys; the response's More says whether there are others.
func WithLimit(n int64) GetOption { return getOption(func(r *pb.RangeRequest) { r.Limit = n }) }

// WithSerializable reads what the member has, which may be behind, without asking the others.
func WithSerializable() GetOption {
	return getOption(func(r *pb.RangeRequest) { r.Serializable = true })
}

// WithKeysOnly leaves the values out.
func WithKeysOnly() GetOption { return getOption(func(r *pb.RangeRequest) { r.KeysOnly = true }) }

// WithCountOnly returns only the number of keys in the range.
func WithCountOnly() GetOption { return getOption(func(r *pb.RangeRequest) { r.CountOnly = true }) }

// WithMinModRev leaves out keys last modified before rev.
func WithMinModRev(rev int64) GetOption {
	return getOption(func(r *pb.RangeRequest) { r.MinModRevision = rev })
}

// WithMaxModRev leaves out keys last modified after rev.
func WithMaxModRev(rev int64) GetOption {
	return getOption(func(r *pb.RangeRequest) { r.MaxModRevision = rev })
}

// WithMinCreateRev leaves out keys created before rev.
func WithMinCreateRev(rev int64) GetOption {
	return getOption(func(r *pb.RangeRequest) { r.MinCreateRevision = rev })
}

// WithMaxCreateRev leaves out keys created after rev.
func WithMaxCreateRev(rev int64) GetOption {
	return getOption(func(r *pb.RangeRequest) { r.MaxCreateRevision = rev })
}

// SortTarget is what WithSort sorts by.
type SortTarget = pb.RangeRequest_SortTarget

// SortOrder is the direction in which WithSort sorts.
type SortOrder = pb.RangeRequest_SortOrder

// The values of SortTarget and SortOrder.
const (
	SortByKey            = pb.RangeRequest_KEY
	SortByVersion        = pb.RangeRequest_VERSION
	SortByCreateRevision = pb.RangeRequest_CREATE
	SortByModRevision    = pb.RangeRequest_MOD
	SortByValue          = pb.RangeRequest_VALUE

	SortNone    = pb.RangeRequest_NONE
	SortAscend  = pb.RangeRequest_ASCEND
	SortDescend = pb.RangeRequest_DESCEND
)

// WithSort orders the result on the server, before a limit is applied.
func WithSort(target SortTarget, order SortOrder) GetOption {
	return getOption(func(r *pb.RangeRequest) {
		if target == SortByKey && order == SortAscend {
			order = SortNone // the natural order: asking for it would make the server read the whole range
		}
		r.SortTarget, r.SortOrder = target, order
	})
}

// WithFirstCreate is the oldest key, by creation, with the prefix. There are five more of its kind.
func WithFirstCreate() GetOption { return top(SortByCreateRevision, SortAscend) }

// WithLastCreate is the youngest key, by creation, with the prefix.
func WithLastCreate() GetOption { return top(SortByCreateRevision, SortDescend) }

// WithFirstKey is the first key with the prefix.
func WithFirstKey() GetOption { return top(SortByKey, SortAscend) }

// WithLastKey is the last key with the prefix.
func WithLastKey() GetOption { return top(SortByKey, SortDescend) }

// WithFirstRev is the key with the prefix that was not modified for longest.
func WithFirstRev() GetOption { return top(SortByModRevision, SortAscend) }

// WithLastRev is the last modified key with the prefix.
func WithLastRev() GetOption { return top(SortByModRevision, SortDescend) }

func top(target SortTarget, order SortOrder) GetOption {
	sort := WithSort(target, order)
	return getOption(func(r *pb.RangeRequest) {
		r.Key, r.RangeEnd = prefixRange(r.Key)
		sort.applyGet(r)
		r.Limit = 1
	})
}

type watchOption func(*Watcher)

func (o watchOption) applyWatch(w *Watcher) { o(w) }

// WithProgressNotify asks the server for a response without events now and then while nothing happens.
func WithProgressNotify() WatchOption {
	return watchOption(func(w *Watcher) { w.req.ProgressNotify = true })
}

// WithCreatedNotify delivers a first response with Created set.
func WithCreatedNotify() WatchOption { return watchOption(func(w *Watcher) { w.created = true }) }

// WithFragment lets the server split large responses. They are joined again before they are delivered.
func WithFragment() WatchOption { return watchOption(func(w *Watcher) { w.req.Fragment = true }) }

// WithFilterPut leaves puts out.
func WithFilterPut() WatchOption {
	return watchOption(func(w *Watcher) { w.req.Filters = append(w.req.Filters, pb.WatchCreateRequest_NOPUT) })
}

// WithFilterDelete leaves deletions out.
func WithFilterDelete() WatchOption {
	return watchOption(func(w *Watcher) { w.req.Filters = append(w.req.Filters, pb.WatchCreateRequest_NODELETE) })
}

// RevOption is what WithRev returns: an option for reads and watches.
type RevOption int64

func (o RevOption) applyGet(r *pb.RangeRequest) { r.Revision = int64(o) }
func (o RevOption) applyWatch(w *Watcher)       { w.req.StartRevision = int64(o) }

// WithRev reads at a revision of the past, or watches from that revision on (itself included). 0 is now.
func WithRev(rev int64) RevOption { return RevOption(rev) }

// PrevKVOption is what WithPrevKV returns: an option for puts, deletions and watches.
type PrevKVOption struct{}

func (PrevKVOption) applyPut(r *pb.PutRequest)            { r.PrevKv = true }
func (PrevKVOption) applyDelete(r *pb.DeleteRangeRequest) { r.PrevKv = true }
func (PrevKVOption) applyWatch(w *Watcher)                { w.req.PrevKv = true }

// WithPrevKV returns what was there before the change.
func WithPrevKV() PrevKVOption { return PrevKVOption{} }

// bytesOf is s without a copy. Requests are only read, so that the string is safe.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// Request returns a copy of the operation as the API's message.
func (op Op) Request() *pb.RequestOp { return proto.CloneOf(op.req) }
