package leasing

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Put writes a key.
func (k *KV) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if len(r.Key) == 0 {
		return k.cfg.Next.Put(ctx, r) // is refused
	}
	resp, header, err := k.write(ctx, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}})
	if err != nil {
		return nil, err
	}
	out := resp.GetResponsePut()
	out.Header = header
	return out, nil
}

// DeleteRange deletes keys.
func (k *KV) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if len(r.Key) == 0 {
		return k.cfg.Next.DeleteRange(ctx, r) // is refused
	}
	resp, header, err := k.write(ctx, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}})
	if err != nil {
		return nil, err
	}
	out := resp.GetResponseDeleteRange()
	out.Header = header
	return out, nil
}

// Txn runs a transaction. One that only reads is not looked at.
func (k *KV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	op := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
	if len(changes(nil, op)) == 0 {
		return k.cfg.Next.Txn(ctx, r)
	}
	resp, header, err := k.write(ctx, op)
	if err != nil {
		return nil, err
	}
	out := resp.GetResponseTxn()
	out.Header = header
	return out, nil
}

// change is a range that an operation may write.
type change struct {
	key, end string
	hangs    bool // on a lease afterwards, or may do so
}

// changes adds what an operation may write, whichever way it goes.
func changes(out []change, op *pb.RequestOp) []change {
	switch r := op.GetRequest().(type) {
	case *pb.RequestOp_RequestPut:
		out = append(out, change{key: string(r.RequestPut.GetKey()), hangs: r.RequestPut.GetLease() != 0 || r.RequestPut.GetIgnoreLease()})
	case *pb.RequestOp_RequestDeleteRange:
		out = append(out, change{key: string(r.RequestDeleteRange.GetKey()), end: string(r.RequestDeleteRange.GetRangeEnd())})
	case *pb.RequestOp_RequestTxn:
		for _, op := range r.RequestTxn.GetSuccess() {
			out = changes(out, op)
		}
		for _, op := range r.RequestTxn.GetFailure() {
			out = changes(out, op)
		}
	}
	return out
}

// write makes an operation once nobody else owns what it changes.
func (k *KV) write(ctx context.Context, op *pb.RequestOp) (*pb.ResponseOp, *pb.ResponseHeader, error) {
	cs := changes(nil, op)
	for ctx.Err() == nil {
		guards, done := k.begin(cs)
		look := make([]*pb.RequestOp, 0, len(guards))
		for _, g := range guards {
			look = append(look, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: g.Key, RangeEnd: g.RangeEnd}}})
		}
		resp, err := k.cfg.Next.Txn(ctx, &pb.TxnRequest{Compare: guards, Success: []*pb.RequestOp{op}, Failure: look})
		done(err)
		if err != nil {
			return nil, nil, err
		}
		if resp.Succeeded {
			return resp.Responses[0], resp.Header, nil
		}
		if err := k.revokeAll(ctx, guards, resp); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, status.FromContextError(ctx.Err()).Err()
}

// begin says under which conditions ranges may be written, and stops answering for those of them that are owned until done is
// called. Of ranges of more than one key nothing must be owned; keys that will hang on a lease must not be either.
func (k *KV) begin(cs []change) (guards []*pb.Compare, done func(err error)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	writing := map[string]*entry{}
	seen := map[change]bool{}
	for _, c := range cs {
		if c.hangs = c.hangs || c.end != ""; seen[c] {
			continue
		}
		seen[c] = true
		key, end := k.cfg.Prefix.Interval([]byte(c.key), []byte(c.end))
		rev := int64(1)
		if e := k.entries[c.key]; e != nil && !c.hangs {
			rev = e.rev + 1
			if writing[c.key] == nil {
				writing[c.key] = e
				e.writers++
			}
		}
		if c.hangs {
			for own, e := range k.entries {
				if own == c.key || c.end != "" && own >= c.key && (c.end == "\x00" || own < c.end) {
					k.release(own, e.rev+1)
				}
			}
		}
		guards = append(guards, olderThan(key, end, rev))
	}
	return guards, func(err error) { k.wrote(writing, err) }
}

// wrote lets keys be answered for again. If it is not known whether they were written, they are not owned any more.
func (k *KV) wrote(writing map[string]*entry, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, e := range writing {
		e.writers--
		e.gen++
		e.resp = nil
		if !certain(err) && k.entries[key] == e {
			k.release(key, e.rev+1)
		}
	}
}

// certain says whether an error, or none, tells for certain what became of a write.
func certain(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.NotFound, codes.OutOfRange:
		return true
	}
	return false
}

// revokeAll takes leasing keys away from their owners: those that a transaction found, when its guards did not hold.
func (k *KV) revokeAll(ctx context.Context, guards []*pb.Compare, found *pb.TxnResponse) error {
	for i, g := range guards {
		for _, kv := range found.Responses[i].GetResponseRange().GetKvs() {
			if kv.CreateRevision < g.GetCreateRevision() {
				continue
			}
			if err := k.revoke(ctx, kv); err != nil {
				return err
			}
		}
	}
	return nil
}

// revoke asks the owner of a leasing key to delete it, and waits for that.
func (k *KV) revoke(ctx context.Context, kv *mvccpb.KeyValue) error {
	key := string(k.cfg.Prefix.Strip(kv.Key))
	ch := make(chan struct{}, 1)
	k.mu.Lock()
	if k.waiting[key] == nil {
		k.waiting[key] = map[chan struct{}]struct{}{}
	}
	k.waiting[key][ch] = struct{}{}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if delete(k.waiting[key], ch); len(k.waiting[key]) == 0 {
			delete(k.waiting, key)
		}
	}()
	if string(kv.Value) != revoked {
		resp, err := k.cfg.Next.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{
				Key: kv.Key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: kv.ModRevision},
			}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: kv.Key, Value: []byte(revoked), IgnoreLease: true}}}},
		})
		if err != nil || !resp.Succeeded {
			return err // something has changed already
		}
	}
	k.pause(ctx, pollInterval, ch)
	return nil
}
