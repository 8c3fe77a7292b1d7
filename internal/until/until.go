// Package until makes contexts that end with something else than time.
package until

import "context"

// Closed is a context that also ends when a channel is closed. cancel must be called.
func Closed(parent context.Context, ch <-chan struct{}) (ctx context.Context, cancel context.CancelFunc) {
	ctx, cancel = context.WithCancel(parent)
	go func() {
		select {
		case <-ch:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
