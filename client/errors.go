package client

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// ErrClosed is returned by every call on a client that was closed, and ends its watches and keep-alives.
	ErrClosed = errors.New("client: closed")
	// ErrNoEndpoints is returned by New for a configuration without endpoints.
	ErrNoEndpoints = errors.New("client: no endpoints given")
	// ErrUncertain marks a write that was sent, but whose outcome is not known: it may have happened, it may still
	// happen, and the client has not repeated it. Test with errors.Is.
	ErrUncertain = errors.New("client: outcome of the write is not known")
	// ErrLeaseExpired ends a keep-alive whose lease was not renewed within its time to live.
	ErrLeaseExpired = errors.New("client: lease was not renewed within its time to live")
)

// CompactedError ends a watch that asked for history which was compacted away. It matches rpctypes.ErrCompacted.
type CompactedError struct {
	// CompactRevision is the oldest revision that a new watch may start from.
	CompactRevision int64
	// Header is that of the response which said so.
	Header *ResponseHeader
}

// Error is the server's text for it.
func (e *CompactedError) Error() string { return rpctypes.ErrCompacted.Error() }

// Unwrap makes errors.Is(err, rpctypes.ErrCompacted) true.
func (e *CompactedError) Unwrap() error { return rpctypes.ErrCompacted }

// uncertainError is err, said of a write that may have happened. Its text is err's own.
type uncertainError struct{ err error }

func (e *uncertainError) Error() string        { return e.err.Error() }
func (e *uncertainError) Unwrap() error        { return e.err }
func (e *uncertainError) Is(target error) bool { return target == ErrUncertain }

// lastError is a context's end together with the failure that the client was busy retrying.
type lastError struct{ ctx, last error }

func (e *lastError) Error() string   { return fmt.Sprintf("%v (last failure: %v)", e.ctx, e.last) }
func (e *lastError) Unwrap() []error { return []error{e.ctx, e.last} }

// translate turns what grpc returned into what callers test for: rpctypes values for the errors that etcd
// defines, the context's own error if that is what ended the call, and a grpc status otherwise.
func translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	terr := rpctypes.Error(err)
	var known rpctypes.EtcdError
	if errors.As(terr, &known) {
		return terr
	}
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Canceled:
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return terr
}

// outcomeKnown says whether the server's answer err is a refusal, so that a write it answers did not happen.
// Everything that could also mean "the answer was lost" or "it is still in the log" is not known.
func outcomeKnown(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown, codes.Aborted, codes.DataLoss:
		return false
	default:
		return true
	}
}

// isStaleToken says that the server refused the caller's token, before anything was done.
func isStaleToken(err error) bool {
	switch rpctypes.ErrorDesc(err) {
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty):
		return true
	}
	return false
}

// refusedByLearner says that a learner was asked for what only voting members do.
func refusedByLearner(err error) bool {
	return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner)
}
