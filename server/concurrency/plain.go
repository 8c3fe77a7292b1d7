package concurrency

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// plain is an error as etcd's locks and elections tell it: they are clients of their own member, so that only the text of an
// error is left of it.
func plain(err error) error {
	switch s, ok := status.FromError(err); {
	case err == nil || !ok || s.Code() == codes.Canceled || s.Code() == codes.DeadlineExceeded:
		return err
	default:
		return errors.New(s.Message())
	}
}

// plainKV is a KV with plain errors.
type plainKV struct{ KV }

// Range reads keys.
func (p plainKV) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	resp, err := p.KV.Range(ctx, r)
	return resp, plain(err)
}

// DeleteRange deletes keys.
func (p plainKV) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	resp, err := p.KV.DeleteRange(ctx, r)
	return resp, plain(err)
}

// Txn runs a transaction.
func (p plainKV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp, err := p.KV.Txn(ctx, r)
	return resp, plain(err)
}
