package upstream

import (
	"context"
	"time"

	"github.com/keelson-io/keelson/internal/clock"
)

// retryDelay is the pause before something that has ended is begun again.
const retryDelay = time.Second

// Again calls f, again and again, until ctx ends; failed is told of errors.
func Again(ctx context.Context, clk clock.Clock, f func(context.Context) error, failed func(error)) {
	for ctx.Err() == nil {
		if err := f(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		t := clk.NewTimer(retryDelay)
		select {
		case <-ctx.Done():
		case <-t.C():
		}
		t.Stop()
	}
}
