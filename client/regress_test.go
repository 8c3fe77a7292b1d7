package client_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestEtcd15274ResumeAfterProgress has the stream of a watch break after a progress response at the revision of its last event.
// etcd's client resumed at that revision and not behind it, and the event came twice. See docs/contributing/regressions.md.
func TestEtcd15274ResumeAfterProgress(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	w := c.Watch(ctx, "a")
	r := reader{w: w}
	for range 5 {
		rev := f.Store.Put("a", "x")
		require.Equal(t, rev, r.next(t).Kv.ModRevision)
		for range 2 {
			w.RequestProgress()
			resp, err := w.Next(ctx)
			require.NoError(t, err)
			require.True(t, resp.IsProgress())
			require.Equal(t, rev, resp.Header.Revision)
			f.Members[0].BreakStreams(status.Error(codes.Unavailable, "broken"))
		}
	}
}
