// Package readgate lets linearizable reads pass.
//
// A read first learns from consensus an index that was committed when it asked (one round of ReadIndex serves all who
// wait, see raftnode), then waits until this member has applied up to it. After that, the member's own published state
// is at least as new as anything that was acknowledged before the read began.
//
// # Concurrency
//
// A Gate may be used from any number of goroutines.
package readgate

import (
	"context"
	"errors"
	"time"

	"github.com/keelson-io/keelson/server/errdefs"
)

// Gate is described in the package comment.
type Gate struct {
	// ReadIndex returns an index committed at or after the call.
	ReadIndex func(ctx context.Context) (uint64, error)
	// Applied is the index up to which the member has applied and published.
	Applied func() uint64
	// WaitApplied returns when the member has applied and published up to an index.
	WaitApplied func(ctx context.Context, index uint64) error
	// Timeout bounds a wait in which the caller's context does not end.
	Timeout time.Duration
}

// Wait returns nil when a read that began before the call may look at the published state. Errors: ErrTimeout,
// ErrLeaderChanged, ErrStopped of consensus; the error of ctx.
func (g *Gate) Wait(ctx context.Context) error {
	index, err := g.ReadIndex(ctx)
	if err != nil || g.Applied() >= index {
		return err
	}
	wctx, cancel := ctx, func() {}
	if _, ok := ctx.Deadline(); !ok {
		wctx, cancel = context.WithTimeout(ctx, g.Timeout)
	}
	defer cancel()
	err = g.WaitApplied(wctx, index)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return errdefs.ErrTimeout
	}
	return err
}
