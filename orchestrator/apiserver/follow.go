package apiserver

import (
	"context"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// mirror is what follows the objects of some kinds.
type mirror interface {
	Set(objects ...kinds.Object)
	Remove(objects ...kinds.Object)
}

// follower keeps a mirror up with the objects of one kind.
type follower struct {
	objects *objectstore.Collection
	mirror  mirror
	known   map[string]kinds.Object // by key
	synced  func()                  // called when the mirror has all objects for the first time
	clock   clock.Clock
	logger  *zap.Logger
}

// retryAfter is how long a follower waits before it begins anew.
const retryAfter = time.Second

// run follows until the context ends. A stream that fails is begun anew, and what went meanwhile is taken out.
func (f *follower) run(ctx context.Context) {
	f.known = map[string]kinds.Object{}
	for ctx.Err() == nil {
		if err := f.stream(ctx); ctx.Err() == nil {
			f.logger.Warn("objects that the API server follows could not be read", zap.Error(err))
		}
		t := f.clock.NewTimer(retryAfter)
		select {
		case <-ctx.Done():
		case <-t.C():
		}
		t.Stop()
	}
}

func (f *follower) stream(ctx context.Context) error {
	begin := true
	s, err := f.objects.Watch(ctx, objectstore.WatchQuery{SendInitialEvents: &begin, Match: "NotOlderThan", Bookmarks: true})
	if err != nil {
		return err
	}
	defer s.Close()
	seen := map[string]bool{}
	for {
		events, err := s.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			switch {
			case e.InitialEnd:
				f.forget(seen)
				seen = nil
				f.synced()
			case e.Type == watch.Bookmark:
			case e.Type == watch.Deleted:
				delete(f.known, e.Item.Key)
				f.mirror.Remove(e.Item.Object)
			default:
				if seen != nil {
					seen[e.Item.Key] = true
				}
				f.known[e.Item.Key] = e.Item.Object
				f.mirror.Set(e.Item.Object)
			}
		}
	}
}

// forget takes out what is not there any more.
func (f *follower) forget(seen map[string]bool) {
	for key, o := range f.known {
		if !seen[key] {
			delete(f.known, key)
			f.mirror.Remove(o)
		}
	}
}
